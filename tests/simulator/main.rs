//! A whole node in one thread: real shards, the real relay and its mailboxes over simulated sockets, thousands of random actions
//! from a seed, and an oracle that knows what every shard and every client must have seen.
//!
//! The same parts run in the gateway; only the driver, the clock, the threads and the broker are simulated. `simulation` has the
//! map; `README.md` lists the mutations of the gateway that the stories must find. A failure prints its seed:
//! `TIDEGATE_SIM_SEED=42 cargo test --test simulator` plays it again. `TIDEGATE_SIM_SEEDS=1000` plays that many.

#![expect(unreachable_pub, reason = "a program of its own: pub is between its modules")]
#![expect(clippy::print_stdout, reason = "the first line of a report counts the losses")]

mod simulation;

use simulation::{Faults, Plan, Seen, World};
use tidegate_core::close::CloseReason;

const SEEDS: u64 = 12;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("TIDEGATE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("TIDEGATE_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

/// Plays a story from every seed. Which closes, gaps and refusals a story may show follows from its plan; `showed` says that
/// what the story is about did happen.
fn play(name: &str, plan: impl Fn(u64) -> Plan, showed: impl Fn(&Seen) -> bool) {
    let mut sum = Seen::default();
    for seed in seeds() {
        let plan = plan(seed);
        let outcome = std::panic::catch_unwind(|| World::new(seed, plan).play());
        let Ok(seen) = outcome else { panic!("{name}: seed {seed} fails; TIDEGATE_SIM_SEED={seed} plays it again") };
        add(&mut sum, &seen);
    }
    let (told, delivered) = (sum.told_gaps, sum.delivered);
    println!("{name}: told losses {told}, untold losses 0, deliveries {delivered}");
    println!("{sum:?}");
    let enough = seeds().count() >= SEEDS as usize;
    assert!(!enough || delivered > 0 && showed(&sum), "{name}: what it is about did not happen: {sum:?}");
}

/// Adds up what several worlds showed.
fn add(sum: &mut Seen, other: &Seen) {
    sum.delivered += other.delivered;
    sum.inflated += other.inflated;
    sum.told_gaps += other.told_gaps;
    sum.holes += other.holes;
    sum.acked += other.acked;
    sum.given_up += other.given_up;
    sum.errors += other.errors;
    sum.rate_limited += other.rate_limited;
    sum.revoked += other.revoked;
    sum.contended += other.contended;
    for (sum, closes) in sum.closes.iter_mut().zip(other.closes) {
        *sum += closes;
    }
}

#[test]
fn every_member_gets_every_message_once_and_in_order_whatever_the_cuts_and_the_churn() {
    let plan = |_| Plan { clients: 60, rooms: 5, ..Plan::default() };
    play("churn", plan, |seen| seen.acked > 0 && seen.contended > 0 && seen.told_gaps == 0);
}

#[test]
fn slow_readers_are_closed_or_told_and_no_other_client_notices() {
    let plan = |seed: u64| Plan {
        slow_percent: 30,
        drop_oldest: seed.is_multiple_of(2),
        raw_close_on_gap: seed % 4 < 2,
        ..Plan::default()
    };
    play("slow readers", plan, |seen| seen.told_gaps > 0 && seen.holes > 0 && seen.closed(CloseReason::SlowReader) > 0);
}

#[test]
fn over_the_budget_of_all_outboxes_the_largest_is_closed_and_hears_nothing_after_that() {
    let plan = |seed: u64| Plan {
        slow_percent: 40,
        drop_oldest: seed.is_multiple_of(2),
        raw_close_on_gap: seed % 4 < 2,
        outbox_budget: 6 * 1024,
        ..Plan::default()
    };
    play("outbox budget", plan, |seen| seen.closed(CloseReason::SlowReader) > 0);
}

#[test]
fn outboxes_of_many_small_frames_lose_nothing_and_close_no_client_that_reads() {
    let plan = |_| Plan {
        burst: 4,
        padding: 8,
        raw_percent: 70,
        socket_bytes: 1_000,
        raw_socket_bytes: 30,
        outbox_bytes: 256 * 1024,
        ..Plan::default()
    };
    play("small frames", plan, |seen| seen.told_gaps == 0);
}

#[test]
fn slow_readers_of_small_frames_are_closed_or_told() {
    let plan = |seed: u64| Plan {
        burst: 4,
        padding: 8,
        raw_percent: 70,
        slow_percent: 40,
        slow_socket_bytes: 10,
        drop_oldest: seed.is_multiple_of(2),
        raw_close_on_gap: seed % 4 < 2,
        outbox_bytes: 1_024,
        ..Plan::default()
    };
    play("slow readers of small frames", plan, |seen| seen.holes > 0 && seen.closed(CloseReason::SlowReader) > 0);
}

#[test]
fn compressed_messages_inflate_within_the_window_that_was_negotiated() {
    // An unoptimised compressor takes half a millisecond to forget its window: few messages.
    let plan = |_| Plan { clients: 20, steps: 200, deflate_percent: 60, padding: 1_400, ..Plan::default() };
    play("compression", plan, |seen| seen.inflated > 0 && seen.told_gaps == 0);
}

#[test]
fn an_overflowing_mailbox_is_told_as_a_gap() {
    let plan = |seed: u64| Plan {
        burst: 4,
        mailbox_items: 4,
        contention_percent: 30,
        raw_close_on_gap: seed.is_multiple_of(2),
        ..Plan::default()
    };
    play("mailbox", plan, |seen| seen.told_gaps > 0 && seen.holes > 0 && seen.closed(CloseReason::Gap) > 0);
}

#[test]
fn a_broker_that_refuses_joins_is_told_and_the_room_can_be_joined_again() {
    let broker = Some(Faults { refuse: 20, ..Faults::default() });
    let plan = |_| Plan { rooms: 4, broker, ..Plan::default() };
    play("refusals", plan, |seen| seen.errors > 0 && seen.told_gaps == 0);
}

#[test]
fn a_broker_that_confirms_late_loses_nothing() {
    let plan = |_| Plan { rooms: 4, broker: Some(Faults::default()), ..Plan::default() };
    play("late confirmations", plan, |seen| seen.acked > 0 && seen.told_gaps == 0);
}

#[test]
fn a_broker_that_loses_revokes_and_does_not_acknowledge_is_told_to_each_member_and_publisher() {
    let broker = Some(Faults { refuse: 5, fail: 10, lose: 20, revoke: 5 });
    let plan = |seed: u64| Plan { rooms: 4, broker, raw_close_on_gap: seed.is_multiple_of(2), ..Plan::default() };
    let showed = |seen: &Seen| {
        let lost = seen.told_gaps > 0 && seen.holes > 0 && seen.revoked > 0 && seen.given_up > 0;
        lost && seen.acked > 0 && seen.closed(CloseReason::Gap) > 0
    };
    play("broker faults", plan, showed);
}

#[test]
fn every_request_over_the_message_rate_is_answered_by_its_ref() {
    let plan =
        |_| Plan { clients: 10, rooms: 6, raw_percent: 0, burst: 2, steps: 600, message_rate: 20, ..Plan::default() };
    play("message rate", plan, |seen| seen.rate_limited > 0 && seen.acked > 0 && seen.told_gaps == 0);
}

#[test]
fn thousands_of_clients_in_one_room_get_a_broadcast_in_passes_while_they_come_and_go() {
    let plan = |_| Plan { clients: 2_000, rooms: 1, steps: 500, ..Plan::default() };
    play("thousands", plan, |seen| seen.told_gaps == 0);
}

#[test]
fn a_drain_closes_every_connection_and_leaves_nothing_behind() {
    let plan = |_| Plan { clients: 50, rooms: 4, steps: 800, drain: true, ..Plan::default() };
    play("drain", plan, |seen| seen.closed(CloseReason::Drain) > 0 && seen.told_gaps == 0);
}

#[test]
fn a_seed_plays_the_same_world_each_time() {
    let broker = Some(Faults { refuse: 5, fail: 10, lose: 20, revoke: 5 });
    for broker in [None, broker] {
        let plan =
            Plan { slow_percent: 20, deflate_percent: 20, mailbox_items: 4, steps: 400, broker, ..Plan::default() };
        let [one, other] = [(); 2].map(|()| World::new(7, plan.clone()).play().digest);
        assert_eq!(one, other);
    }
}
