//! What a message costs of its connection's message rate: a credit for each 4 KiB or part of them.

use super::rooms::{say, sent};
use super::*;
use crate::limits::{CREDIT_BYTES, MESSAGE_BURST_SECONDS};
use crate::ws::deflate::{Deflate, compress_once};

/// A frame of the client, with RSV1 where its payload is compressed.
fn said(payload: &[u8], is_compressed: bool) -> Vec<u8> {
    let mut octets = Vec::new();
    frame::write_masked(&mut octets, frame::TEXT, [1, 2, 3, 4], payload);
    octets[0] |= if is_compressed { 0x40 } else { 0 };
    octets
}

fn hear(shard: &mut Shard<TestDriver>, handle: Handle, octets: Vec<u8>) {
    shard.writer.driver().incoming.extend(octets);
    ready(shard, handle, false);
    turns(shard);
}

fn credits(shard: &mut Shard<TestDriver>, handle: Handle) -> u16 {
    shard.clients.find(handle).unwrap().credits
}

/// A publication of `bytes` bytes in all.
fn text(bytes: usize) -> String {
    let (front, back) = (r#"{"type":"message","roomId":"lobby","content":""#, r#"","ref":1}"#);
    format!("{front}{}{back}", "x".repeat(bytes - front.len() - back.len()))
}

/// What a message takes of a full bucket.
fn price(payload: &[u8], is_compressed: bool) -> u16 {
    let (mut shard, handle) = stage_with_rate(100);
    shard.clients.find(handle).unwrap().form.deflate = Some(Deflate::Full);
    let before = credits(&mut shard, handle);
    hear(&mut shard, handle, said(payload, is_compressed));
    assert!(shard.clients.is_open(handle), "{:?}", shard.writer.driver().deeds);
    before - credits(&mut shard, handle)
}

#[test]
fn a_message_costs_a_credit_of_the_message_rate_for_each_4_kib_or_part_of_them() {
    // A client sent its hundred messages a second, each of 64 KiB: they cost the shard a hundred times the work of the small ones
    // that the rate was made for, and two such clients held it.
    for (bytes, expected) in [(100, 1), (4096, 1), (4097, 2), (8192, 2), (8193, 3), (65_536, 16)] {
        assert_eq!(price(text(bytes).as_bytes(), false), expected, "{bytes} bytes");
    }
}

#[test]
fn a_compressed_message_costs_credits_for_what_comes_out_and_four_times_for_what_was_sent_beyond_that() {
    // A client sent 4 KiB of blocks that say nothing, a hundred times a second: each credit paid for ten times the work of text.
    for (bytes, expected) in [(100, 1), (4096, 1), (4097, 2), (65_536, 16)] {
        let compressed = compress_once(text(bytes).as_bytes(), Deflate::Full);
        assert!(compressed.len() < 4096);
        assert_eq!(price(&compressed, true), expected, "{bytes} bytes");
    }
    for (sent_bytes, expected) in [(1_000, 1), (1_100, 1), (1_849, 1), (1_854, 2), (8_000, 8)] {
        // Stored blocks follow, the last of them cut as at the end of a message, all empty: what was sent for nothing.
        let mut padded = compress_once(text(1_100).as_bytes(), Deflate::Full);
        while padded.len() + 5 <= sent_bytes {
            padded.extend([0, 0, 0xff, 0xff, 0]);
        }
        assert_eq!(price(&padded, true), expected, "{} bytes sent", padded.len());
    }
    assert_eq!(price(&[0], true), 1, "an empty message");
}

#[test]
fn over_the_rate_a_large_message_is_refused_and_a_small_one_still_passes() {
    let (mut shard, handle) = stage_with_rate(5);
    say(&mut shard, handle, &text(4096 * 7));
    assert_eq!((credits(&mut shard, handle), sent(&shard)), (3, String::new()));
    say(&mut shard, handle, &text(4096 * 4));
    assert!(sent(&shard).contains(r#""code":"rate-limited""#) && sent(&shard).contains(r#""ref":1"#));
    assert_eq!(credits(&mut shard, handle), 3, "what is refused costs nothing");
    shard.writer.driver().deeds.clear();
    shard.writer.driver().events.push(Event::Ticked(1));
    say(&mut shard, handle, &text(4096 * 3));
    assert_eq!(sent(&shard), "");
    let dropped = &shard.turn.counters.dropped[DropReason::RateLimited as usize];
    assert_eq!(dropped.value(), 1);
}

#[test]
fn a_message_that_needs_more_credits_than_the_burst_holds_takes_a_full_bucket() {
    // Else no message of more than 4 KiB for each credit of the burst would ever pass.
    let (mut shard, handle) = stage_with_rate(1);
    assert_eq!(credits(&mut shard, handle), MESSAGE_BURST_SECONDS);
    let large = text(4 * CREDIT_BYTES * usize::from(MESSAGE_BURST_SECONDS));
    say(&mut shard, handle, &large);
    assert_eq!((credits(&mut shard, handle), sent(&shard)), (0, String::new()));
    for (seconds, passes) in [(0, false), (1, false), (1, true)] {
        for _ in 0..seconds * TICKS_PER_SECOND {
            shard.writer.driver().events.push(Event::Ticked(1));
            turns(&mut shard);
        }
        shard.writer.driver().deeds.clear();
        say(&mut shard, handle, &large);
        assert_eq!(sent(&shard).is_empty(), passes, "{seconds}: {}", sent(&shard));
    }
}

#[test]
fn a_message_rate_of_0_is_no_limit_for_large_messages_either() {
    let (mut shard, handle) = stage();
    (0..50).for_each(|_| say(&mut shard, handle, &text(60_000)));
    assert_eq!(sent(&shard), "");
}
