//! Work that grows with the number of connections is done a part a turn: counted in calls of `fan_out`, each with its budget.

use super::rooms::{join, publication, say, sent};
use super::*;
use crate::model::GapReason;
use crate::relay::{JoinError, ToShard};
use crate::shard::budget::ENDS;
use crate::shard::rooms::AT_ONCE;

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

/// Connections more than are answered at once.
const OVER: usize = 100;

/// A shard with a crowd that waits for the confirmation of `lobby`, and a member of `hall` that does not.
fn crowd_that_waits() -> (Shard<TestDriver>, Vec<Handle>) {
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = 1_000);
    let mut handles = crowd(&mut shard, (AT_ONCE + OVER + 1) as u32);
    let bystander = handles.pop().unwrap();
    join(&mut shard, bystander, "hall");
    handles.iter().for_each(|handle| say(&mut shard, *handle, r#"{"type":"join","roomId":"lobby"}"#));
    shard.writer.driver().deeds.clear();
    shard.reap();
    (shard, handles)
}

/// Answers of this type that were sent, and are taken away.
fn told(shard: &mut Shard<TestDriver>, kind: &str) -> usize {
    let told = sent(shard).matches(&format!(r#""type":"{kind}""#)).count();
    shard.writer.driver().deeds.clear();
    told
}

/// Calls of the fan-out until all of a crowd have their answers; in each of them a publication into `hall` comes in, and is
/// delivered. How many got one of this type.
fn told_beside_deliveries(shard: &mut Shard<TestDriver>, kind: &str) -> usize {
    let mut sum = told(shard, kind);
    assert!(sum <= AT_ONCE, "{sum} answers go out with one item of the relay's");
    while shard.rooms.is_answering() {
        shard.handle_relay(publication("hall", "1"));
        shard.fan_out(BUDGET);
        shard.submit();
        assert!(sent(shard).contains(r#""type":"message","roomId":"hall""#), "the bystander waits for the crowd");
        let now = told(shard, kind);
        assert!((1..=BUDGET).contains(&now), "{now} answers in a call with a budget of {BUDGET}");
        sum += now;
    }
    sum
}

#[test]
fn a_crowd_that_waited_for_a_room_is_told_joined_a_few_in_a_turn_and_other_rooms_are_delivered_meanwhile() {
    // A hundred thousand clients that came back after a broker's failure waited for one room: when it was confirmed, each of them
    // was answered before anything else of the shard was done, for half a second.
    let (mut shard, handles) = crowd_that_waits();
    shard.handle_relay(ToShard::Joined("lobby".into()));
    assert_eq!(told_beside_deliveries(&mut shard, "joined"), handles.len());
}

#[test]
fn what_is_published_into_a_room_after_its_confirmation_comes_after_each_members_joined() {
    let (mut shard, handles) = crowd_that_waits();
    shard.handle_relay(ToShard::Joined("lobby".into()));
    shard.handle_relay(publication("lobby", "1"));
    shard.handle_relay(ToShard::Gap(Some(vec!["lobby".into()]), GapReason::TooLarge));
    // One that leaves again gets neither, and one that joins meanwhile is answered as any other.
    let [gone, new] = [handles[AT_ONCE + 1], shard.clients.handle_at(handles.len() as u32).unwrap()];
    shard.leave(gone, "lobby");
    let mut join = Vec::new();
    frame::write_masked(&mut join, frame::TEXT, [1, 2, 3, 4], br#"{"type":"join","roomId":"lobby"}"#);
    shard.writer.driver().incoming.extend(join);
    ready(&mut shard, new, false);
    shard.reap();
    shard.serve_ready(1);
    calls(&mut shard);
    let order: Vec<&str> = [r#""type":"joined""#, r#""type":"message""#, r#""type":"gap""#].into();
    let text = sent(&shard);
    let places = |kind: &str| text.match_indices(kind).map(|(at, _)| at).collect::<Vec<_>>();
    let [joined, messages, gaps] = order.iter().map(|kind| places(kind)).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((joined.len(), messages.len(), gaps.len()), (handles.len(), handles.len(), handles.len()));
    assert!(joined.last() < messages.first() && messages.last() < gaps.first());
}

#[test]
fn a_crowd_whose_room_is_refused_is_told_so_a_few_in_a_turn_and_may_ask_again_at_once() {
    let (mut shard, handles) = crowd_that_waits();
    shard.handle_relay(ToShard::Refused("lobby".into(), JoinError::Unconfirmed));
    // The last one has not been told, and asks again: it is told joined in the end, and not that it is in no room.
    let last = handles[handles.len() - 1];
    assert!(shard.clients.find(last).unwrap().rooms.is_empty(), "the room's number may be another's now");
    shard.join(last, "lobby", None);
    assert_eq!(told_beside_deliveries(&mut shard, "error"), handles.len() - 1);
    shard.reap();
    shard.handle_relay(ToShard::Joined("lobby".into()));
    assert_eq!(told(&mut shard, "joined"), 1);
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(_))));
}

#[test]
fn a_crowd_whose_room_is_revoked_is_told_so_a_few_in_a_turn_and_gets_no_message_of_it_any_more() {
    let (mut shard, handles) = crowd_that_waits();
    shard.handle_relay(ToShard::Joined("lobby".into()));
    calls(&mut shard);
    shard.writer.driver().deeds.clear();
    shard.handle_relay(publication("lobby", "1"));
    shard.reap();
    shard.handle_relay(ToShard::Revoked("lobby".into()));
    assert!(handles.iter().all(|handle| shard.clients.find(*handle).unwrap().rooms.is_empty()));
    let last = handles[handles.len() - 1];
    shard.join(last, "lobby", None);
    let before = shard.turn.counters.gaps[GapReason::Broker as usize].value();
    assert_eq!(told_beside_deliveries(&mut shard, "error"), handles.len() - 1);
    let gaps = shard.turn.counters.gaps[GapReason::Broker as usize].value() - before;
    assert_eq!(gaps as usize, OVER, "each of those that were told after that learns of the loss");
    assert!(!sent(&shard).contains(r#""type":"message""#));
}

#[test]
fn a_room_that_is_revoked_or_left_while_its_crowd_is_told_joined_ends_once() {
    for is_revoked in [true, false] {
        let (mut shard, handles) = crowd_that_waits();
        let last = handles[handles.len() - 1];
        say(&mut shard, last, r#"{"type":"join","roomId":"lobby","ref":7}"#);
        while shard.poll_relay().is_some() {}
        shard.reap();
        shard.handle_relay(ToShard::Joined("lobby".into()));
        if is_revoked {
            shard.handle_relay(ToShard::Revoked("lobby".into()));
        } else {
            handles.iter().for_each(|handle| shard.leave(*handle, "lobby"));
            assert!(shard.poll_relay().is_none(), "its answers are under way");
        }
        // Its number is given again, to a room that is not confirmed.
        shard.join(last, "other", None);
        calls(&mut shard);
        let answer = r#""code":"not-joined","message":"you left the room before it was confirmed, or lost it"#;
        assert_eq!(sent(&shard).matches(answer).count(), 1, "the join with a ref is answered all the same");
        let asked: Vec<_> = std::iter::from_fn(|| shard.poll_relay()).collect();
        let ended =
            asked.iter().filter(|item| matches!(item, ToRelay::Unsubscribe(room) if **room == *"lobby")).count();
        assert_eq!((ended, asked.len()), (1, 2), "{asked:?}");
        assert!(shard.turn.names.number("lobby").is_none() && shard.turn.names.number("other").is_some());
    }
}

#[test]
fn after_a_crowd_left_during_a_pass_the_members_that_stay_get_what_follows_once_and_the_room_goes_to_sleep() {
    const CROWD: usize = 400;
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = 1_000);
    let handles = crowd(&mut shard, CROWD as u32);
    handles.iter().for_each(|handle| say(&mut shard, *handle, r#"{"type":"join","roomId":"lobby"}"#));
    shard.handle_relay(ToShard::Joined("lobby".into()));
    calls(&mut shard);
    shard.writer.driver().deeds.clear();
    shard.handle_relay(publication("lobby", "1"));
    shard.fan_out(BUDGET);
    handles.iter().step_by(2).for_each(|handle| shard.leave(*handle, "lobby"));
    let calls_of_pass = calls(&mut shard);
    assert_eq!(sent(&shard).matches(r#""type":"message""#).count(), CROWD / 2 + BUDGET / 2);
    let sends = CROWD / 2 / BUDGET;
    assert!(
        (sends + 1..=sends + 3).contains(&calls_of_pass),
        "{calls_of_pass} calls: {CROWD} positions are some sends"
    );
    shard.writer.driver().deeds.clear();
    shard.handle_relay(publication("lobby", "2"));
    calls(&mut shard);
    assert_eq!(sent(&shard).matches(r#""type":"message""#).count(), CROWD / 2);
    handles.iter().skip(1).step_by(2).for_each(|handle| shard.leave(*handle, "lobby"));
    assert!(shard.turn.names.number("lobby").is_none(), "each of them was where its entry said");
}

#[test]
fn a_crowd_of_slow_readers_over_the_nodes_budget_is_ended_a_few_in_a_turn_and_the_next_turn_goes_on() {
    // A hundred thousand clients behind a network that failed held more than the budget: all that had to go were closed in one turn,
    // at 10 us each, and every client that read waited for a second.
    const CROWD: usize = 4 * ENDS;
    let (mut shard, _) = stage_with(|_, budgets| (budgets.connections, budgets.outbox_bytes) = (2_000, 1));
    let handles = crowd(&mut shard, CROWD as u32);
    handles.iter().for_each(|handle| say(&mut shard, *handle, r#"{"type":"join","roomId":"lobby"}"#));
    shard.handle_relay(ToShard::Joined("lobby".into()));
    calls(&mut shard);
    shard.writer.driver().room = 0;
    shard.handle_relay(publication("lobby", "1"));
    let open = |shard: &mut Shard<TestDriver>| handles.iter().filter(|handle| shard.clients.is_open(**handle)).count();
    shard.fan_out(2 * CROWD);
    shard.submit();
    let (mut left, mut calls) = (CROWD, 0);
    loop {
        shard.reap();
        shard.fan_out(2 * CROWD);
        shard.submit();
        let ended = left - open(&mut shard);
        assert!(ended <= ENDS, "{ended} connections are ended in one call");
        left -= ended;
        calls += 1;
        assert!(calls < 100, "it ends");
        if !shard.has_work() {
            break;
        }
    }
    assert_eq!((left, shard.turn.counters.outbox_bytes.value()), (0, 0), "the node is within its budget");
}
