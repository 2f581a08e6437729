//! What a request with a `ref` is owed: an answer with that `ref`, whatever becomes of it.

use super::rooms::{join, say, sent};
use super::*;
use crate::counters::RelayCounters;
use crate::model::AckLevel;
use crate::readiness::NodeState;
use crate::relay::{PublishError, ToShard};

/// The answers that the connection got since the last call, in order.
fn answers(shard: &mut Shard<TestDriver>) -> Vec<serde_json::Value> {
    let mut answers = Vec::new();
    let sent = sent(shard);
    // Frames are told apart by their JSON, which begins with a type; their headers are no UTF-8 or no brace.
    for (start, _) in sent.match_indices(r#"{"type":"#) {
        let mut values = serde_json::Deserializer::from_str(&sent[start..]).into_iter();
        answers.extend(values.next().map(|value| value.expect("an answer is JSON")));
    }
    shard.writer.driver().deeds.clear();
    answers
}

fn texts(messages: impl Iterator<Item = String>) -> Vec<u8> {
    let mut octets = Vec::new();
    messages.for_each(|text| frame::write_masked(&mut octets, frame::TEXT, [1, 2, 3, 4], text.as_bytes()));
    octets
}

#[test]
fn every_request_with_a_ref_over_the_message_rate_is_answered_rate_limited_with_that_ref() {
    // A page joined its 60 rooms again after a reconnect, at ten messages a second: 39 joins were dropped, one error without a
    // `ref` was sent for all of them, and the page waited for 39 answers for ever. So did publishers for their acknowledgements.
    let kinds = [
        r#""type":"join","roomId":"lobby""#,
        r#""type":"join","rooms":["lobby","hall"]"#,
        r#""type":"leave","roomId":"lobby""#,
        r#""type":"message","roomId":"lobby","content":1"#,
        r#""type":"message","roomId":"lobby","content":1,"ack":true"#,
        r#""type":"ping""#,
        r#""type":"dance""#,
    ];
    let (mut shard, handle) = stage_with_rate(10);
    let burst = shard.turn.settings.message_burst as usize;
    let total = burst + 2 * kinds.len();
    let request = |n: usize| format!("{{{},\"ref\":{n}}}", kinds[n % kinds.len()]);
    shard.writer.driver().incoming.extend(texts((0..burst).map(|_| r#"{"type":"ping"}"#.into())));
    shard.writer.driver().incoming.extend(texts((burst..total).map(request)));
    ready(&mut shard, handle, false);
    turns(&mut shard);
    let answers: Vec<_> = answers(&mut shard).split_off(burst);
    let told = answers.iter().map(|answer| (answer["code"].as_str(), answer["ref"].as_u64()));
    let expected = (burst..total).map(|n| (Some("rate-limited"), Some(n as u64)));
    assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let dropped = &shard.turn.counters.dropped[DropReason::RateLimited as usize];
    assert_eq!(dropped.value(), 2 * kinds.len() as u64);
    assert!(shard.poll_relay().is_none(), "what was dropped is neither joined nor published");
}

#[test]
fn messages_without_a_ref_over_the_rate_are_told_once_a_second_however_many_they_are() {
    let (mut shard, handle) = stage_with_rate(1);
    let said = texts((0..20).map(|_| r#"{"type":"message","roomId":"lobby","content":1}"#.into()));
    shard.writer.driver().incoming.extend(said);
    ready(&mut shard, handle, false);
    turns(&mut shard);
    let answers = answers(&mut shard);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((&answers[0]["code"], answers[0].get("ref")), (&"rate-limited".into(), None));
}

#[test]
fn one_message_joins_a_list_of_rooms_for_one_credit_and_each_is_answered_on_its_own() {
    let (mut shard, handle) = stage_with(|options, _| {
        options.message_rate = 1;
        options.limits.rooms_per_connection = 20;
    });
    let credits = |shard: &mut Shard<TestDriver>| shard.clients.find(handle).unwrap().credits;
    let before = credits(&mut shard);
    let rooms: Vec<String> = (0..18).map(|n| format!("\"room.{n}\"")).collect();
    let text = format!(r#"{{"type":"join","rooms":[{},"a b",{{"roomId":"last"}}],"ref":"r"}}"#, rooms.join(","));
    say(&mut shard, handle, &text);
    assert_eq!(credits(&mut shard), before - 1);
    let refused = answers(&mut shard);
    assert_eq!(refused.len(), 1, "{refused:?}");
    let told = (&refused[0]["code"], &refused[0]["roomId"], &refused[0]["ref"]);
    assert_eq!(told, (&"bad-room".into(), &"a b".into(), &"r".into()));
    for n in 0..18 {
        shard.handle_relay(ToShard::Joined(format!("room.{n}").into()));
    }
    shard.handle_relay(ToShard::Refused("last".into(), crate::relay::JoinError::Unconfirmed));
    turns(&mut shard);
    let answers = answers(&mut shard);
    for (n, answer) in answers[..18].iter().enumerate() {
        assert_eq!(answer, &serde_json::json!({"type": "joined", "roomId": format!("room.{n}"), "ref": "r"}));
    }
    let told = (&answers[18]["code"], &answers[18]["roomId"], &answers[18]["ref"]);
    assert_eq!((told, answers.len()), ((&"unavailable".into(), &"last".into(), &"r".into()), 19));
}

#[test]
fn a_list_of_rooms_is_bounded_by_the_room_limit_and_a_room_that_is_named_again_costs_a_message() {
    // One message of the rate must not make the node answer, or keep waiting, more than its client may have rooms.
    let (mut shard, handle) = stage_with(|options, _| {
        options.message_rate = 2;
        options.limits.rooms_per_connection = 6;
    });
    say(&mut shard, handle, r#"{"type":"join","rooms":["a","b","c","d","e","f","g"],"ref":1}"#);
    let refused = answers(&mut shard);
    assert_eq!((&refused[0]["code"], &refused[0]["ref"], refused.len()), (&"room-limit".into(), &1.into(), 1));
    assert!(shard.poll_relay().is_none(), "none of them is joined");

    // Of four credits the first message took one, this one takes one, and the two that are named again one each.
    say(&mut shard, handle, r#"{"type":"join","rooms":["a","a","b","a","a"],"ref":2}"#);
    let refused = answers(&mut shard);
    let told =
        refused.iter().map(|answer| (answer["code"].as_str(), answer["roomId"].as_str(), answer["ref"].as_u64()));
    assert_eq!(told.collect::<Vec<_>>(), [(Some("rate-limited"), Some("a"), Some(2))]);
    for room in ["a", "b"] {
        shard.handle_relay(ToShard::Joined(room.into()));
    }
    turns(&mut shard);
    assert_eq!(answers(&mut shard).len(), 4, "each join that was taken is answered");
}

#[test]
fn over_the_room_limit_each_room_of_a_list_is_refused_by_name() {
    let (mut shard, handle) = stage_with(|options, _| options.limits.rooms_per_connection = 2);
    join(&mut shard, handle, "old");
    answers(&mut shard);
    say(&mut shard, handle, r#"{"type":"join","rooms":["new","newer"],"ref":3}"#);
    let refused = answers(&mut shard);
    assert_eq!((refused.len(), &refused[0]["code"]), (1, &"room-limit".into()));
    assert_eq!((&refused[0]["roomId"], &refused[0]["ref"]), (&"newer".into(), &3.into()));
}

#[test]
fn a_lost_publication_with_a_ref_and_without_ack_is_told_unavailable_by_its_ref_and_a_taken_one_is_not_told() {
    // The broker was away; what a client published without `ack` was given up after five seconds, counted, and told to no one,
    // although it had a `ref` to be told by.
    let (mut shard, handle) = stage();
    for number in 1..=3 {
        say(&mut shard, handle, &format!(r#"{{"type":"message","roomId":"lobby","content":1,"ref":{number}}}"#));
    }
    let asked = std::iter::from_fn(|| shard.poll_relay()).filter_map(|item| match item {
        ToRelay::Publish(_, ack) => ack,
        ToRelay::Subscribe(_) | ToRelay::Unsubscribe(_) | ToRelay::ToNodes(..) => None,
    });
    let acks: Vec<_> = asked.collect();
    let [taken, lost, too_large] = acks[..] else { panic!("the outcome of each is asked for: {acks:?}") };
    shard.handle_relay(ToShard::Acked(taken, AckLevel::Broker));
    shard.handle_relay(ToShard::Failed(lost, PublishError::Unavailable));
    shard.handle_relay(ToShard::Failed(too_large, PublishError::TooLarge));
    turns(&mut shard);
    let told = answers(&mut shard);
    let told: Vec<_> = told.iter().map(|answer| (answer["code"].as_str(), answer["ref"].as_u64())).collect();
    assert_eq!(told, [(Some("unavailable"), Some(2)), (Some("message-too-large"), Some(3))]);
}

/// A shard beside a broker that takes at most so many bytes.
fn stage_with_broker_limit(bytes: u64) -> (Shard<TestDriver>, Handle) {
    let (mut shard, handle) = stage();
    let (settings, relay) = (&shard.turn.settings, Arc::new(RelayCounters::default()));
    relay.message_bytes.set(bytes);
    let (options, state) = (settings.options.clone(), NodeState::new(relay, false));
    let settings = Settings::new(options, 1, 0, settings.budgets, settings.node_counters.clone(), state);
    shard.turn.settings = Arc::new(settings);
    (shard, handle)
}

#[test]
fn a_message_over_what_the_broker_takes_is_answered_message_too_large_at_once_and_never_published() {
    // The broker took 8 KiB and the node 64: without `ack` a message of 9 KiB vanished, with one it was `unavailable` after five
    // seconds, and its client sent it again for ever.
    let (mut shard, handle) = stage_with_broker_limit(1_000);
    let message =
        |bytes: usize| format!(r#"{{"type":"message","roomId":"lobby","content":"{}"}}"#, "x".repeat(bytes - 2));
    say(&mut shard, handle, &message(1_000));
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Publish(..))));
    say(&mut shard, handle, &message(1_001));
    say(&mut shard, handle, &message(1_001).replace('}', r#","ack":true,"ref":7}"#));
    assert!(shard.poll_relay().is_none());
    let told = answers(&mut shard);
    let told: Vec<_> = told.iter().map(|answer| (answer["code"].as_str(), answer["ref"].as_u64())).collect();
    assert_eq!(told, [(Some("message-too-large"), None), (Some("message-too-large"), Some(7))]);
    assert_eq!(shard.turn.counters.dropped[DropReason::TooLarge as usize].value(), 2);

    // The next connection is welcomed with that limit.
    shard.writer.driver().incoming.extend(REQUEST.bytes());
    shard.handle_accepted(FD + 1, Arrival::default());
    let next = shard.clients.handle_at(1).unwrap();
    ready(&mut shard, next, false);
    turns(&mut shard);
    assert_eq!(answers(&mut shard)[0]["limits"]["messageBytes"], 1_000);
}

#[test]
fn a_raw_message_over_what_the_broker_takes_closes_its_client_with_1009_as_over_the_nodes_own_limit() {
    let (mut shard, handle) = stage_with_broker_limit(1_000);
    join(&mut shard, handle, "lobby");
    shard.clients.find(handle).unwrap().form.dialect = crate::dialect::DialectId::Raw;
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(_))));
    say(&mut shard, handle, &"x".repeat(1_000));
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Publish(..))) && shard.clients.is_open(handle));
    say(&mut shard, handle, &"x".repeat(1_001));
    assert!(shard.poll_relay().is_none_or(|item| matches!(item, ToRelay::Unsubscribe(_))));
    assert_eq!(shard.clients.find(handle).unwrap().reason, Some(CloseReason::TooBig));
}
