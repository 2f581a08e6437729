//! What a slow reader is told, what it may lose, and that the account of what it holds closes.

use super::*;
use crate::connection::PIECE_BYTES;
use crate::model::{Kind, Publication};
use crate::relay::{JoinError, ToShard};
use crate::shard::settings::{RoomRule, SlowPolicy};

/// Chunks of the outbox's cap that fill it.
const FILLS: usize = 4;
const CAP: usize = 4_000;

/// A shard with one member of the rooms `old.*`, of which the oldest messages may be dropped; its socket takes nothing.
fn stalled(rooms: &[&str], configure: impl FnOnce(&mut Options, &mut Budgets)) -> (Shard<TestDriver>, Handle) {
    let (mut shard, handle) = stage_with(|options, budgets| {
        options.limits.outbox_bytes = CAP;
        let pattern = String::from("old.*");
        options.rooms = vec![RoomRule { pattern, join: None, publish: None, slow: SlowPolicy::DropOldest }];
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

/// A message to every member of the room, which counts a quarter of the cap or a little less.
fn publish(shard: &mut Shard<TestDriver>, room: &str) {
    publish_sized(shard, room, CAP / FILLS - 150 - PIECE_BYTES);
}

fn publish_sized(shard: &mut Shard<TestDriver>, room: &str, length: usize) {
    let publication =
        Publication::of_backend(room.into(), Kind::Json, bytes::Bytes::from(format!("\"{}\"", "x".repeat(length))), 0);
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
    let left = CAP - shard.clients.find(handle).unwrap().outbox_bytes() - PIECE_BYTES;
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
    // A little more than a quarter of the cap: two of the oldest are dropped, which leaves room for the other room's first.
    (0..=FILLS).for_each(|_| publish_sized(&mut shard, "old.1", CAP / FILLS - 250));
    shard.leave(handle, "old.1");
    join(&mut shard, handle, "old.2");
    (0..=3 * FILLS).for_each(|_| publish_sized(&mut shard, "old.2", 1));
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
    let counted = shard.clients.find(handle).unwrap().outbox_bytes();
    assert_eq!(shard.turn.counters.outbox_unread_bytes.value(), (counted - FILLS * PIECE_BYTES) as u64);
    shard.clients.gone(&mut shard.turn, handle, CloseReason::Reset);
    shard.settle();
    let counters = &shard.turn.counters;
    assert_eq!((counters.outbox_bytes.value(), counters.outbox_unread_bytes.value()), (0, 0));
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
fn a_member_that_publishes_without_echo_is_not_closed_over_what_it_has_read_most_of() {
    // Its own messages cut a batch into ranges of one buffer. Each range was charged with the whole buffer: a member of a room of
    // cursors whose socket was full for a moment was closed as a slow reader with 23 KB unread of the 256 KiB that it may leave.
    let (mut shard, handle) = stage();
    join(&mut shard, handle, "cursors");
    shard.writer.driver().room = 0;
    let id = shard.turn.id(handle);
    for number in 0..140 {
        let from = number % 10 == 0;
        let payload = bytes::Bytes::from(format!("\"{number} {:60}\"", ""));
        let publication = Publication {
            from: from.then_some(id),
            echo: !from,
            ..Publication::of_backend("cursors".into(), Kind::Json, payload, 0)
        };
        shard.handle_relay(ToShard::Deliver(Arc::new(publication)));
    }
    turns(&mut shard);
    assert!(shard.clients.is_open(handle), "{:?}", shard.clients.find(handle).unwrap().reason);
    shard.writer.driver().deeds.clear();
    let heard = catch_up(&mut shard, handle);
    let got = (0..140).filter(|number| heard.contains(&format!("\"content\":\"{number} ")));
    assert!(got.eq((0..140).filter(|number| number % 10 != 0)), "{heard}");
    assert_eq!(shard.turn.counters.outbox_bytes.value(), 0);
}

#[test]
fn a_broadcast_that_many_sockets_do_not_take_at_once_costs_the_nodes_budget_its_memory_once() {
    // Each reader's outbox was charged with the whole buffer that all of them share: of 50 members whose sockets were full for a
    // moment, 33 were closed over 60 kB of memory, with a budget of 1 MiB.
    let budget = Budgets { connections: 50, outbox_bytes: 1 << 20, unfinished_bytes: 1 << 20 };
    let (mut shard, _) = stage_with(|_, budgets| *budgets = budget);
    let handles = crowd(&mut shard, 50);
    handles.iter().for_each(|handle| join(&mut shard, *handle, "news"));
    shard.writer.driver().room = 0;
    publish_sized(&mut shard, "news", 60_000);
    assert!(handles.iter().all(|handle| shard.clients.is_open(*handle)));
    let held = shard.turn.counters.outbox_bytes.value();
    assert!((60_000..100_000).contains(&held), "{held} bytes of memory");
    shard.writer.driver().room = usize::MAX;
    handles.iter().for_each(|handle| ready(&mut shard, *handle, false));
    turns(&mut shard);
    assert_eq!(shard.turn.counters.outbox_bytes.value(), 0);
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
