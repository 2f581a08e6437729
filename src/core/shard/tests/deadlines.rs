//! How long what a client has begun may stay unfinished, in ticks.

use super::*;

/// Pings, one in each tick, each cut: a read brings the rest of one and the beginning of the next. Says how many ticks the connection
/// was open, at most `ticks`.
fn open_beside_cut_pings(shard: &mut Shard<TestDriver>, handle: Handle, begun: &[u8], ticks: u32) -> u32 {
    const CUT: usize = 3;
    let mut ping = Vec::new();
    frame::write_masked(&mut ping, frame::PING, [1, 2, 3, 4], b"alive");
    let [first, rest] = [&ping[..CUT], &ping[CUT..]];
    shard.writer.driver().incoming.extend([begun, first].concat());
    for tick in 0..ticks {
        ready(shard, handle, false);
        turns(shard);
        shard.writer.driver().events.push(Event::Ticked(1));
        turns(shard);
        if !shard.clients.is_open(handle) {
            return tick;
        }
        shard.writer.driver().incoming.extend([rest, first].concat());
    }
    ticks
}

#[test]
fn pings_that_every_read_cuts_keep_their_connection_open() {
    // A client behind a TLS proxy was closed after ten seconds although it was well: the proxy's records cut each of its pings, so
    // that something was unfinished after every read, and the deadline was that of the first.
    let (mut shard, handle) = stage_with_rate(0);
    let deadline = shard.turn.settings.message_deadline;
    assert_eq!(open_beside_cut_pings(&mut shard, handle, b"", 3 * deadline), 3 * deadline);
}

#[test]
fn pings_between_its_frames_give_an_unfinished_message_no_more_time() {
    let (mut shard, handle) = stage_with_rate(0);
    let deadline = shard.turn.settings.message_deadline;
    let mut begun = Vec::new();
    frame::write_masked(&mut begun, frame::TEXT, [1, 2, 3, 4], b"begun");
    begun[0] &= 0x7f;
    let open = open_beside_cut_pings(&mut shard, handle, &begun, 3 * deadline);
    assert!((deadline / 2..2 * deadline).contains(&open), "open for {open} ticks of {deadline}");
    assert_eq!(shard.clients.find(handle).unwrap().reason, Some(CloseReason::MessageTimeout));
}
