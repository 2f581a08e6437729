//! A whole node in one thread: real shards over simulated sockets and a simulated bus, thousands of random actions from a
//! seed, and an oracle that knows what every client must have seen.
//!
//! The same shards run in the gateway; only the wire, the clock and the broker are played. A failure prints its seed:
//! `TIDEGATE_SIM_SEED=42 cargo test --test simulator` plays it again. `TIDEGATE_SIM_SEEDS=1000` plays that many.

#![expect(unreachable_pub, reason = "a program of its own: pub is between its modules")]
#![expect(clippy::print_stdout, reason = "the first line of a report counts the losses")]

mod bus;
mod client;
mod oracle;
mod socket;
mod world;

use world::{Plan, World};

const SEEDS: u64 = 12;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("TIDEGATE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("TIDEGATE_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

fn play(name: &str, plan: impl Fn(u64) -> Plan) {
    let (mut delivered, mut told) = (0, 0);
    for seed in seeds() {
        let plan = plan(seed);
        let outcome = std::panic::catch_unwind(|| World::new(seed, plan).play());
        let Ok(seen) = outcome else { panic!("{name}: seed {seed} fails; TIDEGATE_SIM_SEED={seed} plays it again") };
        delivered += seen.delivered;
        told += seen.told_gaps;
    }
    println!("{name}: told losses {told}, untold losses 0, deliveries {delivered}");
    assert!(delivered > 0, "{name}: nothing was delivered, so nothing was shown");
}

#[test]
fn everybody_gets_everything_once_and_in_order_whatever_the_cuts_and_the_churn() {
    play("churn", |_| Plan { clients: 60, rooms: 5, steps: 3_000, ..Plan::default() });
}

#[test]
fn slow_readers_are_closed_or_told_and_nobody_else_notices() {
    let seen = |seed| Plan {
        clients: 40,
        rooms: 3,
        steps: 3_000,
        slow_percent: 30,
        drop_oldest: seed % 2 == 0,
        ..Plan::default()
    };
    play("slow readers", seen);
}

#[test]
fn over_the_budget_of_all_outboxes_the_largest_is_closed_and_hears_nothing_after_that() {
    let seen = |seed| Plan {
        clients: 40,
        rooms: 3,
        steps: 3_000,
        slow_percent: 40,
        drop_oldest: seed % 2 == 0,
        outbox_budget: 6 * 1024,
        ..Plan::default()
    };
    play("outbox budget", seen);
}

#[test]
fn an_overflowing_mailbox_is_told_as_a_gap() {
    play("mailbox", |_| Plan { clients: 40, rooms: 3, steps: 3_000, mailbox_items: 4, ..Plan::default() });
}

#[test]
fn a_broker_that_refuses_joins_is_told_and_the_room_can_be_joined_again() {
    play("refusals", |_| Plan { clients: 40, rooms: 4, steps: 3_000, refuse_percent: 20, ..Plan::default() });
}

#[test]
fn thousands_of_clients_in_one_room_get_a_broadcast_in_passes_while_they_come_and_go() {
    play("thousands", |_| Plan { clients: 2_000, rooms: 1, steps: 600, ..Plan::default() });
}

#[test]
fn a_drain_sends_everybody_away_and_leaves_nothing_behind() {
    play("drain", |_| Plan { clients: 50, rooms: 4, steps: 2_000, drain: true, ..Plan::default() });
}
