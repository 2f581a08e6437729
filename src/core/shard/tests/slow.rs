//! What a slow reader is told, what it may lose, and that the account of what it holds closes.

use super::*;
use crate::model::{Kind, Publication};
use crate::relay::{JoinError, ToShard};
use crate::shard::settings::{PublishPolicy, RoomRule, SlowPolicy};

/// Chunks of the outbox's cap that fill it.
const FILLS: usize = 4;
const CAP: usize = 4_000;

/// A shard with one member of the rooms `old.*`, of which the oldest messages may be dropped; its socket takes nothing.
fn stalled(rooms: &[&str], configure: impl FnOnce(&mut Options, &mut Budgets)) -> (Shard<TestDriver>, Handle) {
    let (mut shard, handle) = stage_with(|options, budgets| {
        options.limits.outbox_bytes = CAP;
        let pattern = String::from("old.*");
        options.rooms = vec![RoomRule { pattern, publish: PublishPolicy::Any, slow: SlowPolicy::DropOldest }];
        configure(options, budgets);
    });
    rooms.iter().for_each(|room| join(&mut shard, handle, room));
    shard.writer.driver().deeds.clear();
    shard.writer.driver().room = 0;
    (shard, handle)
}

fn join(shard: &mut Shard<TestDriver>, handle: Handle, room: &str) {
    shard.join(handle, room, None);
    shard.handle_relay(ToShard::Joined(room.into()));
    turns(shard);
}

/// A message to every member of the room, a quarter of the cap when encoded or a little less.
fn publish(shard: &mut Shard<TestDriver>, room: &str) {
    publish_sized(shard, room, CAP / FILLS - 150);
}

fn publish_sized(shard: &mut Shard<TestDriver>, room: &str, length: usize) {
    let publication = Publication {
        room: room.into(),
        kind: Kind::Json,
        payload: bytes::Bytes::from(format!("\"{}\"", "x".repeat(length))),
        from: None,
        echo: true,
        time_unix_ns: 0,
    };
    shard.handle_relay(ToShard::Deliver(Arc::new(publication)));
    turns(shard);
}

/// What the client reads once it does.
fn catch_up(shard: &mut Shard<TestDriver>, handle: Handle) -> String {
    shard.writer.driver().room = usize::MAX;
    ready(shard, handle, false);
    turns(shard);
    let sent = shard.writer.driver().deeds.iter().filter_map(|deed| match deed {
        Deed::Sent(octets) => Some(octets.as_slice()),
        Deed::Fin | Deed::Closed => None,
    });
    String::from_utf8_lossy(&sent.collect::<Vec<_>>().concat()).into_owned()
}

#[test]
fn an_answer_makes_room_where_the_oldest_may_be_dropped() {
    let (mut shard, handle) = stalled(&["old.1"], |_, _| {});
    (0..FILLS).for_each(|_| publish(&mut shard, "old.1"));
    shard.writer.transmit(&mut shard.turn, &mut shard.clients, handle, &[b'a'; CAP / FILLS]);
    assert!(shard.clients.is_open(handle), "what may be dropped goes first");
    let heard = catch_up(&mut shard, handle);
    assert!(heard.contains("aaa") && heard.contains("gap"), "{heard}");
    assert_eq!(shard.turn.counters.outbox_bytes.value(), 0);
}

#[test]
fn a_client_closed_by_a_drain_is_told_although_its_outbox_is_full() {
    let (mut shard, handle) = stalled(&["kept"], |_, _| {});
    (0..FILLS).for_each(|_| publish(&mut shard, "kept"));
    let left = CAP - shard.clients.find(handle).unwrap().outbox_bytes();
    shard.writer.transmit(&mut shard.turn, &mut shard.clients, handle, &vec![b'a'; left]);
    shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Drain);
    shard.settle();
    let heard = catch_up(&mut shard, handle);
    assert!(heard.contains("server-shutdown") && heard.contains("the node restarts"), "{heard}");
    assert_eq!(shard.turn.counters.outbox_bytes.value(), 0);
}

#[test]
fn a_loss_is_told_of_its_own_room_although_the_one_before_had_its_number() {
    let (mut shard, handle) = stalled(&["old.1"], |_, _| {});
    (0..=FILLS).for_each(|_| publish(&mut shard, "old.1"));
    shard.leave(handle, "old.1");
    join(&mut shard, handle, "old.2");
    (0..=FILLS).for_each(|_| publish_sized(&mut shard, "old.2", 1));
    let heard = catch_up(&mut shard, handle);
    for room in ["old.1", "old.2"] {
        assert!(heard.contains(&format!("\"type\":\"gap\",\"roomId\":\"{room}\"")), "{room}: {heard}");
    }
}

#[test]
fn the_account_of_outboxes_closes_where_a_loss_closes_its_reader() {
    let (mut shard, handle) = stalled(&["old.1"], |options, _| options.close_on_gap = true);
    shard.clients.find(handle).unwrap().form.dialect = crate::dialect::DialectId::Raw;
    (0..=FILLS).for_each(|_| publish(&mut shard, "old.1"));
    assert!(!shard.clients.is_open(handle));
    let held = shard.clients.find(handle).unwrap().outbox_bytes() as u64;
    assert_eq!(shard.turn.counters.outbox_bytes.value(), held);
}

#[test]
fn nothing_follows_the_close_frame_not_even_that_a_room_was_refused() {
    let (mut shard, handle) = stage();
    shard.join(handle, "lobby", Some("1"));
    shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Drain);
    shard.settle();
    shard.handle_relay(ToShard::Refused("lobby".into(), JoinError::Unconfirmed));
    turns(&mut shard);
    let [Deed::Sent(octets)] = shard.writer.driver().deeds.as_slice() else {
        panic!("{:?}", shard.writer.driver().deeds)
    };
    assert!(octets.ends_with(CloseReason::Drain.text().as_bytes()), "{octets:?}");
}

#[test]
fn over_the_nodes_budget_the_largest_goes_even_if_it_is_being_closed() {
    let (mut shard, handle) = stalled(&["kept"], |_, budgets| budgets.outbox_bytes = CAP as u64);
    publish(&mut shard, "kept");
    shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Drain);
    shard.settle();
    turns(&mut shard);
    assert_eq!(shard.sockets(), 1, "within the budget it may still read");
    shard.turn.settings = Arc::new(Settings::new(
        shard.turn.settings.options.clone(),
        1,
        0,
        Budgets { outbox_bytes: 10, ..shard.turn.settings.budgets },
        shard.turn.settings.node_counters.clone(),
        shard.turn.settings.state.clone(),
    ));
    turns(&mut shard);
    assert_eq!((shard.sockets(), shard.turn.counters.outbox_bytes.value()), (0, 0));
}

#[test]
fn the_peers_close_frame_is_found_behind_a_message_of_which_a_part_came_in_the_read_that_closed_it() {
    let (mut shard, handle) = stage_with_rate(1);
    let entry = shard.clients.find(handle).unwrap();
    entry.form.dialect = crate::dialect::DialectId::Raw;
    entry.flags.set(Flags::RATE_BEFORE);
    entry.credits = 0;
    let mut said = Vec::new();
    frame::write_masked(&mut said, frame::TEXT, [1, 2, 3, 4], b"over the rate");
    let over = said.len();
    frame::write_masked(&mut said, frame::TEXT, [1, 2, 3, 4], &[b'x'; 3_000]);
    frame::write_masked(&mut said, frame::CLOSE, [1, 2, 3, 4], &1008_u16.to_be_bytes());
    let rest = said.split_off(over + 1_000);
    for (octets, expected) in [(said, State::Closing), (rest, State::Lingering)] {
        shard.writer.driver().incoming.extend(octets);
        ready(&mut shard, handle, false);
        turns(&mut shard);
        (0..20).for_each(|_| shard.writer.driver().events.push(Event::Ticked(1)));
        turns(&mut shard);
        assert_eq!(shard.clients.find(handle).unwrap().state, expected);
    }
    assert_eq!(shard.turn.counters.unfinished_bytes.value(), 0);
}

#[test]
fn the_peers_close_frame_is_found_behind_the_rest_of_a_message_that_our_own_came_into() {
    let (mut shard, handle) = stage();
    let mut said = Vec::new();
    frame::write_masked(&mut said, frame::TEXT, [1, 2, 3, 4], &[b'x'; 3_000]);
    frame::write_masked(&mut said, frame::CLOSE, [1, 2, 3, 4], &1012_u16.to_be_bytes());
    let rest = said.split_off(1_000);
    for (octets, expected) in [(said, State::Closing), (rest, State::Lingering)] {
        shard.writer.driver().incoming.extend(octets);
        ready(&mut shard, handle, false);
        turns(&mut shard);
        shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Drain);
        shard.settle();
        assert_eq!(shard.clients.find(handle).unwrap().state, expected);
    }
    assert_eq!(shard.turn.counters.unfinished_bytes.value(), 0);
}
