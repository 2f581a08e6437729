//! Rooms whose members come and go while the relay answers.

use bytes::Bytes;

use super::*;
use crate::counters::{DropReason, MessageType};
use crate::model::{Kind, Publication, RoomName};
use crate::relay::ToShard;
use crate::shard::settings::{RoomRule, SlowPolicy};

/// Opens another connection beside the first.
fn another(shard: &mut Shard<TestDriver>, fd: Fd) -> Handle {
    shard.writer.driver().incoming.extend(REQUEST.bytes());
    shard.handle_accepted(fd, Arrival::default());
    let handle = shard.clients.handle_at(1).unwrap();
    ready(shard, handle, false);
    turns(shard);
    assert!(shard.clients.is_open(handle));
    shard.writer.driver().deeds.clear();
    handle
}

pub(in crate::shard) fn say(shard: &mut Shard<TestDriver>, handle: Handle, text: &str) {
    let mut octets = Vec::new();
    frame::write_masked(&mut octets, frame::TEXT, [1, 2, 3, 4], text.as_bytes());
    shard.writer.driver().incoming.extend(octets);
    ready(shard, handle, false);
    turns(shard);
}

pub(in crate::shard) fn publication(room: &str, payload: &'static str) -> ToShard {
    ToShard::Deliver(Arc::new(Publication::of_backend(
        room.into(),
        Kind::Json,
        Bytes::from_static(payload.as_bytes()),
        0,
    )))
}

pub(in crate::shard) fn sent(shard: &Shard<TestDriver>) -> String {
    let octets = |deed: &Deed| match deed {
        Deed::Sent(octets) => String::from_utf8_lossy(octets).into_owned(),
        Deed::Fin | Deed::Closed => String::new(),
    };
    shard.writer.driver_ref().deeds.iter().map(octets).collect()
}

#[test]
fn a_connection_that_is_told_joined_is_a_member_although_the_one_before_it_in_the_queue_is_gone() {
    // The room ended with the first, whose `joined` could not be sent, and the second was told `joined` of a room that was not
    // there: it heard nothing, and what was said into the room was never published.
    let (mut shard, first) = stage();
    let second = another(&mut shard, FD + 1);
    for handle in [first, second] {
        say(&mut shard, handle, r#"{"type":"join","roomId":"lobby"}"#);
    }
    say(&mut shard, second, r#"{"type":"message","roomId":"lobby","content":"hello"}"#);
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(room)) if *room == *"lobby"));
    assert!(shard.poll_relay().is_none(), "what is said waits for the confirmation");
    shard.writer.driver().broken = Some(FD);
    shard.handle_relay(ToShard::Joined("lobby".into()));
    turns(&mut shard);
    assert!(sent(&shard).contains(r#""joined""#), "{:?}", sent(&shard));
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Publish(..))), "what was said is lost");
    assert!(shard.poll_relay().is_none(), "a room with a member was unsubscribed");
    assert_eq!(shard.upstream.waiting(), (0, 0));
    shard.handle_relay(publication("lobby", r#""anybody there?""#));
    turns(&mut shard);
    assert!(sent(&shard).contains("anybody there?"), "{:?}", sent(&shard));
}

/// The connection joins a room, which is confirmed at once.
pub(in crate::shard) fn join(shard: &mut Shard<TestDriver>, handle: Handle, room: &str) {
    say(shard, handle, &format!(r#"{{"type":"join","roomId":"{room}"}}"#));
    shard.handle_relay(ToShard::Joined(room.into()));
    turns(shard);
    shard.writer.driver().deeds.clear();
}

#[test]
fn a_publication_has_taken_what_the_clock_says_when_its_last_member_was_sent_to_and_no_time_of_a_wrong_clock() {
    let (mut shard, handle) = stage();
    join(&mut shard, handle, "lobby");
    // A backend that puts seconds where nanoseconds belong made the sum of all delays overflow.
    for time_unix_ns in [1_000_000, 1] {
        let ToShard::Deliver(publication) = publication("lobby", "1") else { return };
        let publication = Publication { time_unix_ns: time_unix_ns * 1_000_000_000, ..(*publication).clone() };
        shard.handle_relay(ToShard::Deliver(Arc::new(publication)));
    }
    shard.set_time(0, 1_000_000_000_000_000);
    turns(&mut shard);
    assert!(shard.has_delivered());
    shard.note_delivered(1_000_002_000_000_000);
    assert_eq!(shard.turn.counters.publish_delivery.sum_ns.value(), 2_000_000_000);
    assert!(!shard.has_delivered());
}

#[test]
fn every_message_that_an_outbox_drops_is_counted_where_some_of_a_batch_were_the_readers_own() {
    let (mut shard, handle) = stage_with(|options, _| {
        let (pattern, join, publish) = (String::from("lobby"), None, None);
        options.rooms = vec![RoomRule { pattern, join, publish, slow: SlowPolicy::DropOldest }];
    });
    join(&mut shard, handle, "lobby");
    shard.writer.driver().room = 0;
    let own = Some(shard.turn.id(handle));
    let mut published = 0;
    while shard.turn.counters.dropped[DropReason::Outbox as usize].value() == 0 {
        for from in [None, own, None, None] {
            let payload = Bytes::from(format!("{:?}", "x".repeat(5_000)));
            let (room, kind, echo) = ("lobby".into(), Kind::Json, from.is_none());
            let one = Publication { from, echo, ..Publication::of_backend(room, kind, payload, 0) };
            shard.handle_relay(ToShard::Deliver(Arc::new(one)));
            published += u64::from(from.is_none());
        }
        turns(&mut shard);
        assert!(published < 1_000, "the outbox never overflows");
    }
    // The oldest that is not begun is what is left of a batch, two messages in one chunk, or a single one.
    shard.writer.driver().room = usize::MAX;
    ready(&mut shard, handle, false);
    turns(&mut shard);
    let received = sent(&shard).matches(r#""type":"message""#).count() as u64;
    assert_eq!(received + shard.turn.counters.dropped[DropReason::Outbox as usize].value(), published);
}

#[test]
fn members_of_a_room_that_the_broker_revokes_are_told_and_are_members_no_more() {
    // Members stayed in silence, and a client that came later was told joined at once.
    let (mut shard, handle) = stage();
    join(&mut shard, handle, "lobby");
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(_))));
    shard.handle_relay(ToShard::Revoked("lobby".into()));
    let told = sent(&shard);
    let gap = told.find(r#""type":"gap","roomId":"lobby","reason":"broker""#);
    let error = told.find(r#""code":"unavailable""#);
    assert!(gap.is_some() && gap < error, "{told}");
    assert!(shard.clients.find(handle).unwrap().rooms.as_slice().is_empty());
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Unsubscribe(_))), "the relay knows already, and does not mind");

    shard.writer.driver().deeds.clear();
    say(&mut shard, handle, r#"{"type":"join","roomId":"lobby"}"#);
    shard.handle_relay(ToShard::Revoked("lobby".into()));
    assert_eq!(sent(&shard), "", "a client that asks anew waits for an answer of its own");
    shard.handle_relay(ToShard::Joined("lobby".into()));
    assert!(sent(&shard).contains(r#""joined""#));
}

#[test]
fn every_join_with_a_ref_is_answered_also_where_its_client_left_before_the_broker_confirmed_the_room() {
    // A client that waits for the answer to its own `ref` waited for ever: `left` came, and nothing for the join.
    let (mut shard, handle) = stage();
    say(&mut shard, handle, r#"{"type":"join","roomId":"lobby","ref":1}"#);
    say(&mut shard, handle, r#"{"type":"join","roomId":"lobby"}"#);
    say(&mut shard, handle, r#"{"type":"leave","roomId":"lobby","ref":2}"#);
    assert!(sent(&shard).contains(r#"{"type":"left","roomId":"lobby","ref":2}"#), "{:?}", sent(&shard));
    shard.writer.driver().deeds.clear();
    shard.handle_relay(ToShard::Joined("lobby".into()));
    turns(&mut shard);
    let told = sent(&shard);
    assert!(told.contains(r#""code":"not-joined""#) && told.contains(r#""ref":1}"#), "{told:?}");
    assert_eq!(told.matches(r#""type":"#).count(), 1, "without a ref `left` says it all: {told:?}");
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(_))));
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Unsubscribe(_))), "it has no member");

    // A client that came back is in the room: each of its joins is one.
    shard.writer.driver().deeds.clear();
    say(&mut shard, handle, r#"{"type":"join","roomId":"lobby","ref":3}"#);
    say(&mut shard, handle, r#"{"type":"leave","roomId":"lobby"}"#);
    say(&mut shard, handle, r#"{"type":"join","roomId":"lobby","ref":4}"#);
    shard.writer.driver().deeds.clear();
    shard.handle_relay(ToShard::Joined("lobby".into()));
    turns(&mut shard);
    for reference in [3, 4] {
        let joined = format!(r#"{{"type":"joined","roomId":"lobby","ref":{reference}}}"#);
        assert!(sent(&shard).contains(&joined), "{:?}", sent(&shard));
    }
}

#[test]
fn a_publication_that_a_dialect_has_no_words_for_is_not_sent_and_not_counted() {
    for dialect in crate::dialect::DialectId::ALL {
        let (mut shard, handle) = stage();
        join(&mut shard, handle, "lobby");
        shard.clients.find(handle).unwrap().form.dialect = *dialect;
        for (kind, echo) in [(Kind::Json, true), (Kind::Binary, true), (Kind::Binary, false)] {
            let (room, payload) = (RoomName::from("lobby"), Bytes::from_static(b"1"));
            let publication = Publication { echo, ..Publication::of_backend(room, kind, payload, 0) };
            let (said, _) = dialect.publication(&publication, &mut Vec::new());
            let before = shard.turn.counters.messages_out[MessageType::Message as usize].value();
            shard.handle_relay(ToShard::Deliver(Arc::new(publication)));
            turns(&mut shard);
            let messages = u64::from(said != crate::dialect::Said::Nothing);
            let counted = shard.turn.counters.messages_out[MessageType::Message as usize].value() - before;
            let sent = std::mem::take(&mut shard.writer.driver().deeds).len() as u64;
            assert_eq!((counted, sent), (messages, messages), "{}: {kind:?}", dialect.name());
        }
    }
}
