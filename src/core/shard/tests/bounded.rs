//! Work that grows with the number of connections is done a part a turn: counted in calls of `fan_out`, each with its budget.

use super::rooms::{join, sent};
use super::*;
use crate::model::GapReason;
use crate::relay::ToShard;

/// Sends or looks that one call may take.
const BUDGET: usize = 10;

/// Calls of the fan-out until nothing is left to do.
fn calls(shard: &mut Shard<TestDriver>) -> usize {
    let mut calls = 0;
    while shard.is_fanning_out() {
        shard.fan_out(BUDGET);
        shard.submit();
        calls += 1;
        assert!(calls < 10_000, "it never ends");
    }
    calls
}

#[test]
fn a_gap_of_named_rooms_looks_at_their_members_only() {
    // A backend that sent oversized messages into a room of one client had the shard look at each of its connections for every
    // such message, and nothing was delivered meanwhile: with a million connections a dozen a second were all that it did.
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = 1_000);
    let handles = crowd(&mut shard, 300);
    for (handle, room) in [(handles[7], "one"), (handles[200], "one"), (handles[200], "other"), (handles[250], "third")]
    {
        join(&mut shard, handle, room);
    }
    let names = ["one", "other", "one", "absent"].map(|room| room.into()).to_vec();
    shard.handle_relay(ToShard::Gap(Some(names), GapReason::TooLarge));
    assert!(!shard.takes_deliveries(), "what comes after the loss waits for the notice");
    let calls = calls(&mut shard);
    assert!(calls <= 1, "{calls} calls with a budget of {BUDGET} looks, for three rooms with three memberships");
    assert!(shard.takes_deliveries());
    let told = sent(&shard);
    let told = |room: &str| told.matches(&format!(r#""type":"gap","roomId":"{room}""#)).count();
    assert_eq!(["one", "other", "third", "absent"].map(told), [2, 1, 0, 0], "each member once for each of its rooms");
}

#[test]
fn a_gap_of_a_room_is_told_to_each_member_once_although_members_leave_meanwhile() {
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = 1_000);
    let handles = crowd(&mut shard, 40);
    handles.iter().for_each(|handle| join(&mut shard, *handle, "lobby"));
    shard.handle_relay(ToShard::Gap(Some(vec!["lobby".into()]), GapReason::TooLarge));
    shard.fan_out(BUDGET);
    shard.submit();
    // Another member takes the place of each that leaves.
    for gone in [0, 1, 38, 39] {
        shard.leave(handles[gone], "lobby");
    }
    calls(&mut shard);
    let told = sent(&shard).matches(r#""type":"gap""#).count();
    assert_eq!(told, 38, "of 40 members two left before they were told");
}

#[test]
fn a_gap_of_all_rooms_is_told_once_to_each_connection_that_is_in_one() {
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = 1_000);
    let handles = crowd(&mut shard, 50);
    for (handle, room) in [(handles[3], "one"), (handles[3], "other"), (handles[40], "one")] {
        join(&mut shard, handle, room);
    }
    shard.handle_relay(ToShard::Gap(None, GapReason::Broker));
    let calls = calls(&mut shard);
    assert!((5..=6).contains(&calls), "{calls}: a budget of looks each, for 50 connections");
    assert_eq!(sent(&shard).matches(r#""type":"gap","reason":"broker""#).count(), 2);
}
