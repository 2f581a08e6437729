//! A whole node on the simulator: the input is the plan, and what the dice show.

use arbitrary::Arbitrary;

use super::with;
use crate::world::{Plan, World};

#[derive(Arbitrary)]
struct Story {
    seed: u64,
    clients: u8,
    rooms: u8,
    steps: u8,
    slow_percent: u8,
    drop_oldest: bool,
    mailbox_items: u16,
    refuse_percent: u8,
    drain: bool,
    choices: Vec<u8>,
}

/// Whatever happens, every client gets everything once and in order or is told, and nothing is left behind.
pub fn world(data: &[u8]) {
    with(data, |story: Story| {
        let plan = Plan {
            clients: 1 + usize::from(story.clients % 16),
            rooms: 1 + usize::from(story.rooms % 4),
            steps: 1 + usize::from(story.steps),
            slow_percent: usize::from(story.slow_percent % 101),
            drop_oldest: story.drop_oldest,
            mailbox_items: 1 + usize::from(story.mailbox_items),
            refuse_percent: usize::from(story.refuse_percent % 100),
            drain: story.drain,
            choices: story.choices,
            ..Plan::default()
        };
        let nothing_lost = plan.slow_percent == 0 && plan.mailbox_items > plan.steps;
        let seen = World::new(story.seed, plan).play();
        let (delivered, gaps) = (seen.delivered, seen.told_gaps);
        assert!(gaps == 0 || !nothing_lost, "{gaps} gaps beside {delivered} deliveries, and nothing could be lost");
    });
}
