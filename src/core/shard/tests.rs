//! What a shard owes a driver that tells edges once and sends later, on a driver that plays its part with one socket.

mod slow;

use std::rc::Rc;

use super::inbound::{EXCESS_READ_BYTES, READ_BYTES};
use super::*;
use crate::auth::Who;
use crate::close::{CloseReason, Refusal};
use crate::connection::{Chunk, Flags, Handle, State, TICKS_PER_SECOND, Tag, ticks};
use crate::counters::{Cell, DropReason};
use crate::shard::driver::{Fd, Ready};
use crate::shard::settings::{Options, RoomRule, SlowPolicy};
use crate::shard::test_driver::{Deed, REQUEST, TestDriver, turn};
use crate::ws::frame;

mod answers;
mod bounded;
mod deadlines;
mod rates;
mod review;
pub(super) mod rooms;
mod tokens;
mod users;

const FD: Fd = 7;

/// A shard with one open connection that was welcomed and has said nothing yet.
fn stage() -> (Shard<TestDriver>, Handle) {
    stage_with_rate(0)
}

/// The same with a message rate.
fn stage_with_rate(message_rate: u16) -> (Shard<TestDriver>, Handle) {
    stage_with(|options, _| options.message_rate = message_rate)
}

pub(super) fn stage_with(configure: impl FnOnce(&mut Options, &mut Budgets)) -> (Shard<TestDriver>, Handle) {
    stage_from(1, configure)
}

/// The same with a seed of one's own.
fn stage_from(seed: u64, configure: impl FnOnce(&mut Options, &mut Budgets)) -> (Shard<TestDriver>, Handle) {
    let Turn { settings, counters, .. } = turn(seed, configure);
    let mut shard = Shard::new(TestDriver::new(REQUEST), settings, counters, seed);
    shard.handle_accepted(FD, Arrival::default());
    let handle = shard.clients.handle_at(0).unwrap();
    ready(&mut shard, handle, false);
    turns(&mut shard);
    assert!(shard.clients.is_open(handle), "{:?}", shard.writer.driver().deeds);
    shard.writer.driver().deeds.clear();
    (shard, handle)
}

fn ready(shard: &mut Shard<TestDriver>, handle: Handle, hangup: bool) {
    shard.writer.driver().events.push(Event::Ready(Ready { handle, readable: true, writable: true, hangup }));
}

/// Turns of the loop until there is nothing that no event announces.
pub(super) fn turns(shard: &mut Shard<TestDriver>) {
    loop {
        shard.reap();
        shard.serve_ready(10);
        shard.fan_out(10);
        shard.submit();
        if !shard.has_work() && shard.writer.driver().may_sleep() {
            return;
        }
    }
}

fn pings(total_bytes: usize) -> Vec<u8> {
    let mut one = Vec::new();
    frame::write_masked(&mut one, frame::TEXT, [1, 2, 3, 4], br#"{"type":"ping"}"#);
    one.repeat(total_bytes / one.len() + 1)
}

fn chunk(bytes: &[u8]) -> Chunk {
    Chunk::whole(Rc::from(bytes), Tag::Control, 1)
}

#[test]
fn what_filled_the_buffer_is_read_on_from_although_no_event_tells_the_rest() {
    let (mut shard, handle) = stage();
    shard.writer.driver().incoming.extend(pings(3 * READ_BYTES));
    ready(&mut shard, handle, false);
    turns(&mut shard);
    assert_eq!(shard.writer.driver().incoming.len(), 0, "the edge was told once, and these octets wait for ever");
    assert!(shard.clients.is_open(handle));
}

/// Others beside the first, up to so many open connections.
pub(super) fn crowd(shard: &mut Shard<TestDriver>, size: u32) -> Vec<Handle> {
    for index in 1..size {
        shard.writer.driver().incoming.extend(REQUEST.bytes());
        shard.handle_accepted(FD + index as Fd, Arrival::default());
        let handle = shard.clients.handle_at(index).unwrap();
        ready(shard, handle, false);
        turns(shard);
    }
    shard.writer.driver().deeds.clear();
    (0..size).map(|index| shard.clients.handle_at(index).unwrap()).collect()
}

#[test]
fn connections_that_are_read_together_are_each_answered_with_their_own_pong() {
    let (mut shard, _) = stage();
    let handles = crowd(&mut shard, 10);
    for (digit, handle) in (b'0'..=b'9').zip(handles) {
        let mut ping = Vec::new();
        frame::write_masked(&mut ping, frame::PING, [1, 2, 3, 4], &[digit; 5]);
        shard.writer.driver().piece = ping.len();
        shard.writer.driver().incoming.extend(ping);
        ready(&mut shard, handle, false);
    }
    turns(&mut shard);
    let pongs: Vec<_> = (b'0'..=b'9').map(|digit| Deed::Sent([&[0x8a, 5], &[digit; 5][..]].concat())).collect();
    assert_eq!(shard.writer.driver().deeds, pongs);
}

/// Each kind of what a client may send too much of, as octets of more than `total_bytes`.
fn floods(total_bytes: usize) -> [(&'static str, Vec<u8>); 3] {
    let [mut ping, mut pong] = [Vec::new(), Vec::new()];
    frame::write_masked(&mut ping, frame::PING, [1, 2, 3, 4], b"");
    frame::write_masked(&mut pong, frame::PONG, [1, 2, 3, 4], b"");
    let times = total_bytes / ping.len() + 1;
    [("messages", pings(total_bytes)), ("pings", ping.repeat(times)), ("pongs", pong.repeat(times))]
}

#[test]
fn a_connection_over_its_message_rate_is_read_once_a_tick() {
    for (flood, octets) in floods(READ_BYTES + 3 * EXCESS_READ_BYTES) {
        let (mut shard, handle) = stage_with_rate(10);
        let total = octets.len();
        shard.writer.driver().incoming.extend(octets);
        ready(&mut shard, handle, false);
        turns(&mut shard);
        for ticks in 0..=3 {
            let read = READ_BYTES + ticks * EXCESS_READ_BYTES;
            assert_eq!(shard.writer.driver().incoming.len(), total - read, "{flood}");
            // What came in meanwhile is announced, and changes nothing.
            ready(&mut shard, handle, false);
            turns(&mut shard);
            assert_eq!(shard.writer.driver().incoming.len(), total - read, "{flood}");
            shard.writer.driver().events.push(Event::Ticked(1));
            turns(&mut shard);
        }
        assert_eq!(shard.writer.driver().incoming.len(), 0, "{flood}: what waited for a tick was lost");
        assert!(shard.clients.is_open(handle), "{flood}");
    }
}

#[test]
fn a_connection_that_was_over_its_rate_and_is_read_to_the_end_is_read_as_any_other() {
    let (mut shard, handle) = stage_with_rate(10);
    let flags = |shard: &mut Shard<TestDriver>| shard.clients.find(handle).unwrap().flags;
    shard.writer.driver().incoming.extend(pings(EXCESS_READ_BYTES));
    ready(&mut shard, handle, false);
    turns(&mut shard);
    assert!(flags(&mut shard).has(Flags::EXCESS));
    for _ in 0..TICKS_PER_SECOND {
        shard.writer.driver().events.push(Event::Ticked(1));
        turns(&mut shard);
    }
    shard.writer.driver().incoming.extend(pings(1));
    ready(&mut shard, handle, false);
    turns(&mut shard);
    assert!(!flags(&mut shard).has(Flags::EXCESS));
}

#[test]
fn of_pings_over_the_rate_the_last_one_of_a_read_is_answered() {
    let (mut shard, handle) = stage_with_rate(10);
    let burst = shard.turn.settings.message_burst as usize;
    let mut said = Vec::new();
    for number in 0..burst + 5 {
        frame::write_masked(&mut said, frame::PING, [1, 2, 3, 4], &[number as u8]);
    }
    shard.writer.driver().incoming.extend(said);
    ready(&mut shard, handle, false);
    turns(&mut shard);
    let Some(Deed::Sent(octets)) = shard.writer.driver().deeds.first() else {
        panic!("{:?}", shard.writer.driver().deeds)
    };
    assert_eq!(octets.len(), (burst + 1) * 3, "each within the burst, and one more");
    assert_eq!(octets.last(), Some(&((burst + 4) as u8)));
}

#[test]
fn the_end_of_a_connection_that_is_held_back_is_found_with_the_next_tick() {
    let (mut shard, handle) = stage_with_rate(10);
    shard.writer.driver().incoming.extend(pings(READ_BYTES));
    shard.writer.driver().peer_ended = true;
    ready(&mut shard, handle, true);
    turns(&mut shard);
    for _ in 0..3 {
        shard.writer.driver().events.push(Event::Ticked(1));
        turns(&mut shard);
    }
    assert_eq!(shard.writer.driver().deeds.last(), Some(&Deed::Closed), "the end was never told again");
    assert_eq!(shard.sockets(), 0);
}

#[test]
fn data_and_fin_of_one_event_are_both_found_although_the_read_was_short() {
    let (mut shard, handle) = stage();
    shard.writer.driver().incoming.extend(pings(1));
    shard.writer.driver().peer_ended = true;
    ready(&mut shard, handle, true);
    turns(&mut shard);
    assert_eq!(shard.writer.driver().deeds.last(), Some(&Deed::Closed), "the end was never told again");
    assert_eq!(shard.sockets(), 0);
}

#[test]
fn a_short_send_that_is_told_after_its_connection_ended_leaves_nothing_behind() {
    // The outbox that it began on the released entry stayed on the gauge for ever.
    let (mut shard, handle) = stage();
    shard.writer.driver().room = 2;
    shard.writer.deliver(&mut shard.turn, &mut shard.clients, handle, &chunk(b"frame"));
    shard.clients.gone(&mut shard.turn, handle, CloseReason::Reset);
    shard.settle();
    shard.submit();
    assert_eq!(shard.turn.counters.outbox_bytes.value(), 0);
    turns(&mut shard);
    assert_eq!(shard.sockets(), 0);
}

#[test]
fn an_ending_keeps_the_connection_in_the_slab_until_it_is_settled_and_the_first_reason_counts() {
    let (mut shard, handle) = stage();
    shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Operator);
    shard.clients.gone(&mut shard.turn, handle, CloseReason::Reset);
    shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Drain);
    assert_eq!(shard.clients.find(handle).unwrap().state, State::Ending);
    assert_eq!((shard.turn.counters.connections.value(), shard.writer.driver().deeds.len()), (1, 0));
    shard.settle();
    turns(&mut shard);
    let [Deed::Sent(frame), Deed::Closed] = &shard.writer.driver().deeds[..] else {
        panic!("{:?}", shard.writer.driver().deeds)
    };
    assert!(frame.ends_with(CloseReason::Operator.text().as_bytes()), "{frame:?}");
    let closed: Vec<u64> = shard.turn.counters.closed.iter().map(Cell::value).collect();
    assert_eq!((closed[CloseReason::Operator as usize], closed.iter().sum::<u64>()), (1, 1));
    assert_eq!((shard.sockets(), shard.turn.counters.connections.value()), (0, 0));
}

#[test]
fn events_that_a_driver_tells_in_the_middle_of_an_event_wait_for_its_end() {
    // A batch that had to be done before a send handled everything that the driver told, and freed connections under its caller.
    let (mut shard, handle) = stage();
    shard.writer.deliver(&mut shard.turn, &mut shard.clients, handle, &chunk(b"frame"));
    let event = Ready { handle, readable: true, writable: false, hangup: false };
    shard.writer.driver().told_by_submit.push(Event::Ready(event));
    shard.writer.transmit(&mut shard.turn, &mut shard.clients, handle, b"answer");
    assert_eq!(shard.clients.ready_len(), 0);
    assert_eq!(shard.writer.driver().deeds, [Deed::Sent(b"frame".to_vec()), Deed::Sent(b"answer".to_vec())]);
    shard.submit();
    assert_eq!(shard.clients.ready_len(), 1);
}

#[test]
fn a_client_that_leaves_while_its_request_is_refused_is_counted_once() {
    let (mut shard, _) = stage();
    shard.handle_accepted(FD + 1, Arrival::default());
    let handle = shard.clients.handle_at(1).unwrap();
    shard.clients.refuse(&mut shard.turn, handle, Refusal::NotFound);
    shard.clients.gone(&mut shard.turn, handle, CloseReason::Eof);
    shard.settle();
    turns(&mut shard);
    let refused: Vec<u64> = shard.turn.counters.refused.iter().map(Cell::value).collect();
    assert_eq!((refused[Refusal::NotFound as usize], refused.iter().sum::<u64>()), (1, 1));
    assert_eq!((shard.admission.handshakes(), shard.sockets()), (0, 1));
}

#[test]
fn octets_count_as_sent_once_they_are() {
    // The counter fell when a queued send turned out short, which Prometheus takes for a restart.
    let (mut shard, handle) = stage();
    let before = shard.turn.counters.bytes_out.value();
    shard.writer.driver().room = 2;
    shard.writer.deliver(&mut shard.turn, &mut shard.clients, handle, &chunk(b"frame"));
    assert_eq!(shard.turn.counters.bytes_out.value(), before);
    shard.submit();
    assert_eq!(shard.turn.counters.bytes_out.value(), before + 2);
}

#[test]
fn a_fin_waits_for_what_a_queued_frame_leaves_unsent() {
    // The FIN must not go out behind the first part of the frame, and the rest of it after the FIN, into a broken pipe.
    let (mut shard, handle) = stage();
    shard.writer.driver().room = 2;
    shard.writer.deliver(&mut shard.turn, &mut shard.clients, handle, &chunk(b"frame"));
    shard.clients.closed_by_peer(&mut shard.turn, handle, None);
    shard.settle();
    turns(&mut shard);
    assert_eq!(shard.writer.driver().deeds, [Deed::Sent(b"fr".to_vec())]);
    assert!(shard.clients.find(handle).unwrap().flags.has(Flags::FIN_AFTER_OUTBOX));
    shard.writer.driver().room = usize::MAX;
    ready(&mut shard, handle, false);
    turns(&mut shard);
    assert_eq!(shard.writer.driver().deeds[1..], [Deed::Sent(b"ame\x88\0".to_vec()), Deed::Fin]);
    assert_eq!(shard.clients.find(handle).unwrap().state, State::Lingering);
}

#[test]
fn nothing_is_delivered_after_a_close_frame() {
    let (mut shard, handle) = stage();
    shard.writer.close(&mut shard.turn, &mut shard.clients, handle, CloseReason::Drain);
    shard.settle();
    shard.writer.driver().deeds.clear();
    shard.writer.deliver(&mut shard.turn, &mut shard.clients, handle, &chunk(b"frame"));
    turns(&mut shard);
    assert_eq!(shard.writer.driver().deeds, []);
}

#[test]
fn an_answer_does_not_overtake_a_frame_that_is_queued() {
    let (mut shard, handle) = stage();
    shard.writer.deliver(&mut shard.turn, &mut shard.clients, handle, &chunk(b"frame"));
    shard.writer.transmit(&mut shard.turn, &mut shard.clients, handle, b"answer");
    assert_eq!(shard.writer.driver().deeds, [Deed::Sent(b"frame".to_vec()), Deed::Sent(b"answer".to_vec())]);
}

#[test]
fn the_first_pings_of_a_crowd_that_came_at_once_are_spread_over_half_the_interval() {
    const PING: &[u8] = &[0x89, 0];
    let interval = ticks(Options::default().ping_interval);
    let mut quarters = [0; 4];
    for seed in 1..=200u64 {
        let (mut shard, _) = stage_from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), |_, _| {});
        let pinged = (0..interval + TICKS_PER_SECOND).find(|_| {
            shard.writer.driver().events.push(Event::Ticked(1));
            turns(&mut shard);
            shard.writer.driver().deeds.contains(&Deed::Sent(PING.to_vec()))
        });
        let tick = pinged.expect("a silent client is pinged within the interval and a round of the sweep");
        quarters[(4 * tick / interval).min(3) as usize] += 1;
    }
    assert_eq!(quarters[..2], [0, 0], "a client that has just come is left alone");
    assert!(quarters[2..].iter().all(|pinged| (70..130).contains(pinged)), "{quarters:?}");
}

#[test]
fn a_crowd_that_is_due_at_once_is_pinged_a_few_in_a_turn() {
    const CROWD: u32 = 100;
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = u64::from(CROWD));
    // A client that talks is silent from then on.
    for handle in crowd(&mut shard, CROWD) {
        shard.writer.driver().incoming.extend(pings(0));
        ready(&mut shard, handle, false);
        turns(&mut shard);
    }
    shard.writer.driver().deeds.clear();
    let mut in_a_turn = Vec::new();
    while in_a_turn.iter().sum::<usize>() < CROWD as usize {
        if !shard.has_work() {
            assert!(in_a_turn.is_empty(), "no ping waits for another tick");
            shard.writer.driver().events.push(Event::Ticked(1));
        }
        shard.reap();
        let deeds = std::mem::take(&mut shard.writer.driver().deeds);
        assert!(deeds.iter().all(|deed| *deed == Deed::Sent(vec![0x89, 0])), "{deeds:?}");
        in_a_turn.extend((!deeds.is_empty()).then_some(deeds.len()));
    }
    assert_eq!(in_a_turn, [32, 32, 32, 4], "a message that comes meanwhile waits for so many");
}

#[test]
fn a_sweep_that_is_late_looks_at_more_in_a_turn() {
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = 100);
    crowd(&mut shard, 100);
    // As many at once as make every ping due, and the round late.
    let ticks = ticks(Options::default().ping_interval) + TICKS_PER_SECOND;
    shard.writer.driver().events.extend((0..ticks).map(|_| Event::Ticked(1)));
    shard.reap();
    assert_eq!(shard.writer.driver().deeds.len(), 100);
    assert!(!shard.has_work());
}

#[test]
fn a_connection_over_the_rate_is_counted_as_that_and_makes_no_node_look_full() {
    // It was decided again when the request came, and the refused connection itself made the node look full.
    let (mut shard, _) = stage_with(|options, budgets| {
        options.connection_rate = 1;
        budgets.connections = 2;
    });
    shard.handle_accepted(FD + 1, Arrival::default());
    let refused = shard.clients.handle_at(1).unwrap();
    shard.writer.driver().incoming.extend(REQUEST.bytes());
    ready(&mut shard, refused, false);
    turns(&mut shard);
    let counted = |refusal: Refusal| shard.turn.counters.refused[refusal as usize].value();
    assert_eq!((counted(Refusal::ConnectionRate), counted(Refusal::Capacity)), (1, 0));
}

#[test]
fn the_oldest_unfinished_handshake_gives_way_to_a_new_one_and_open_connections_stay() {
    let (mut shard, open) = stage_with(|options, _| options.limits.handshakes_per_shard = 1);
    shard.handle_accepted(FD + 1, Arrival::default());
    let oldest = shard.clients.handle_at(1).unwrap();
    shard.handle_accepted(FD + 2, Arrival::default());
    turns(&mut shard);
    let counted = |refusal: Refusal| shard.turn.counters.refused[refusal as usize].value();
    assert_eq!((counted(Refusal::Displaced), counted(Refusal::Capacity)), (1, 0));
    assert!(shard.clients.find(oldest).is_none() && shard.clients.is_open(open));
    assert_eq!(shard.admission.handshakes(), 1);
}

#[test]
fn a_refused_socket_that_its_peer_does_not_close_gives_way_too() {
    // Each held a descriptor and a slot for five seconds, and enough of them filled the table: even /health was answered 503.
    let (mut shard, _) = stage_with(|options, _| options.limits.handshakes_per_shard = 4);
    for number in 1..=50 {
        shard.handle_accepted(FD + 1, Arrival::default());
        let handle = (0..shard.clients.end()).rev().filter_map(|index| shard.clients.handle_at(index));
        let newest = handle.max_by_key(|handle| handle.generation).unwrap();
        shard.writer.driver().incoming.extend(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
        ready(&mut shard, newest, false);
        turns(&mut shard);
        assert!(shard.sockets() <= 1 + 5, "{} sockets after {number} requests", shard.sockets());
    }
    assert_eq!(shard.turn.counters.refused[Refusal::NotFound as usize].value(), 50);
}

#[test]
fn a_peer_that_sends_malformed_requests_without_a_pause_is_dropped_and_other_peers_and_probes_are_served() {
    // After a mistake the whole shard stopped accepting for up to 250 ms: six mistaken requests a second made all others wait.
    let (mut shard, _) = stage_with(|options, _| {
        options.connection_rate = 0;
        options.limits.mistakes_per_address = 5;
    });
    let ask = |shard: &mut Shard<TestDriver>, address: [u8; 4], request: &[u8]| {
        let before = shard.sockets();
        shard.handle_accepted(FD + 1, Arrival { address: Some(address.into()), queued_us: 0 });
        let is_heard = shard.sockets() > before;
        let newest = (0..shard.clients.end()).filter_map(|index| shard.clients.handle_at(index));
        let newest = newest.max_by_key(|handle| handle.generation).unwrap();
        if is_heard {
            shard.writer.driver().incoming.extend(request);
            ready(shard, newest, false);
            turns(shard);
            shard.clients.gone(&mut shard.turn, newest, CloseReason::Reset);
            shard.settle();
            turns(shard);
        }
        is_heard
    };
    let (loud, quiet) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    for path in ["nowhere", "ws", "raw/a..b"] {
        let probe = format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!((0..20).all(|_| ask(&mut shard, loud, probe.as_bytes())), "a wrong path costs nothing: {path}");
    }
    let heard = (0..100).filter(|_| ask(&mut shard, loud, &[0xff; 512])).count();
    assert_eq!(heard, 10, "two seconds of its rate");
    assert!(!ask(&mut shard, loud, REQUEST.as_bytes()) && ask(&mut shard, quiet, REQUEST.as_bytes()));
    let refused = |refusal: Refusal| shard.turn.counters.refused[refusal as usize].value();
    assert_eq!((refused(Refusal::BadRequest), refused(Refusal::Dropped)), (10, 91));
    shard.writer.driver().events.extend((0..2).map(|_| Event::Ticked(1)));
    shard.reap();
    assert!(ask(&mut shard, loud, REQUEST.as_bytes()), "it is heard again when its rate allows");
}

#[test]
fn what_a_policy_forbids_a_raw_client_to_publish_is_counted() {
    let (mut shard, handle) = stage_with(|options, _| {
        options.rooms =
            vec![RoomRule { pattern: "*".into(), join: None, publish: Some(Who::None), slow: SlowPolicy::Close }];
    });
    shard.join(handle, "dash", None);
    shard.clients.find(handle).unwrap().form.dialect = crate::dialect::DialectId::Raw;
    shard.handle_message(handle, crate::dialect::Payload::Text("from a client"));
    assert_eq!(shard.turn.counters.dropped[DropReason::Forbidden as usize].value(), 1);
    assert_eq!(shard.upstream.waiting(), (0, 0));
}
