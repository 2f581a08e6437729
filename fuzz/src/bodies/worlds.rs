//! A whole node on the simulator: the input is the plan, and what the dice show.

use arbitrary::Arbitrary;

use super::with;
use crate::simulation::{Faults, Plan, World};

#[derive(Arbitrary)]
struct Story {
    seed: u64,
    clients: u8,
    rooms: u8,
    steps: u8,
    slow_percent: u8,
    raw_percent: u8,
    deflate_percent: u8,
    small_frames: bool,
    drop_oldest: bool,
    raw_close_on_gap: bool,
    mailbox_items: u16,
    contention_percent: u8,
    broker: Option<[u8; 4]>,
    drain: bool,
    choices: Vec<u8>,
}

/// Whatever happens, every client gets everything once and in order or is told, and nothing is left behind.
pub fn world(data: &[u8]) {
    with(data, |story: Story| {
        let faults = |[refuse, fail, lose, revoke]: [u8; 4]| Faults {
            refuse: usize::from(refuse % 100),
            fail: usize::from(fail % 100),
            lose: usize::from(lose),
            revoke: usize::from(revoke),
        };
        let default = Plan::default();
        let plan = Plan {
            clients: 1 + usize::from(story.clients % 16),
            rooms: 1 + usize::from(story.rooms % 4),
            steps: 1 + usize::from(story.steps),
            slow_percent: usize::from(story.slow_percent % 101),
            raw_percent: usize::from(story.raw_percent % 101),
            deflate_percent: usize::from(story.deflate_percent % 101),
            padding: if story.small_frames { 8 } else { 1_400 },
            slow_socket_bytes: if story.small_frames { 10 } else { default.slow_socket_bytes },
            drop_oldest: story.drop_oldest,
            raw_close_on_gap: story.raw_close_on_gap,
            mailbox_items: 1 + usize::from(story.mailbox_items) % default.mailbox_items,
            contention_percent: usize::from(story.contention_percent % 101),
            broker: story.broker.map(faults),
            drain: story.drain,
            choices: story.choices,
            ..default
        };
        // The plan says what may be lost, told and closed; the world holds the node to it.
        World::new(story.seed, plan).play();
    });
}
