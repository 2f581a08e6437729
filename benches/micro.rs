//! Micro benchmarks of the pieces that every message goes through: `cargo bench --bench micro [FILTER]`.
//!
//! They find out which piece changed; what the whole costs, the kernel included, is `scripts/bench.sh`'s to say, and
//! whether a path grew without anybody's noticing, `scripts/instructions.sh`'s.

mod harness;

use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// Octets of payloads: a chat message, a large one, a whole read.
const SIZES: [usize; 3] = [128, 1_024, 16 * 1_024];

mod codec {
    use super::*;
    use crate::harness::masked;
    use tidegate_core::ws::frame::{self, Header, TEXT};
    use tidegate_core::ws::message::{self, Rules};

    const RULES: Rules = Rules { message_bytes: 64 * 1024, deflate: None };

    #[divan::bench(args = SIZES)]
    fn parse_header(bencher: Bencher, octets: usize) {
        let frame = masked(TEXT, &vec![b'x'; octets]);
        bencher.bench(|| Header::parse(black_box(&frame), false));
    }

    /// Header, mask and UTF-8 of one text message that came whole.
    #[divan::bench(args = SIZES)]
    fn decode_text(bencher: Bencher, octets: usize) {
        let frame = masked(TEXT, &vec![b'x'; octets]);
        bencher.counter(BytesCount::new(octets)).with_inputs(|| frame.clone()).bench_local_refs(|bytes| {
            let (mut partial, mut position) = (None, 0);
            message::decode(&mut partial, bytes, &mut position, &RULES).is_ok_and(|event| event.is_some())
        });
    }

    /// Sixteen messages that came with one read.
    #[divan::bench]
    fn decode_sixteen(bencher: Bencher) {
        let frames = masked(TEXT, &[b'x'; 128]).repeat(16);
        bencher.counter(ItemsCount::new(16_u32)).with_inputs(|| frames.clone()).bench_local_refs(|bytes| {
            let (mut partial, mut position, mut events) = (None, 0, 0);
            while let Ok(Some(_)) = message::decode(&mut partial, bytes, &mut position, &RULES) {
                events += 1;
            }
            assert_eq!(events, 16);
        });
    }

    #[divan::bench(args = SIZES)]
    fn write_frame(bencher: Bencher, octets: usize) {
        let payload = vec![b'x'; octets];
        let mut out = Vec::with_capacity(octets + frame::HEADER_BYTES);
        bencher.counter(BytesCount::new(octets)).bench_local(|| {
            out.clear();
            frame::write_frame(&mut out, TEXT, black_box(&payload));
        });
    }
}

#[divan::bench(args = SIZES)]
fn mask(bencher: Bencher, octets: usize) {
    let mut payload = vec![b'x'; octets];
    bencher.counter(BytesCount::new(octets)).bench_local(|| {
        tidegate_core::ws::mask::unmask(black_box(&mut payload), [1, 2, 3, 4], 1);
    });
}

mod utf8 {
    use super::*;
    use tidegate_core::ws::utf8::Validator;

    fn validate(bencher: Bencher, text: &str, octets: usize) {
        let text = text.repeat(octets / text.len());
        bencher.counter(BytesCount::new(text.len())).bench(|| Validator::default().push(black_box(text.as_bytes())));
    }

    #[divan::bench(args = SIZES)]
    fn ascii(bencher: Bencher, octets: usize) {
        validate(bencher, "The tide waits. ", octets);
    }

    #[divan::bench(args = SIZES)]
    fn mixed(bencher: Bencher, octets: usize) {
        validate(bencher, "Übermäßig 潮汐 🌊 ", octets);
    }
}

mod fan_out {
    use super::*;
    use crate::harness::{Harness, masked, publication};
    use tidegate_core::ws::frame::TEXT;

    /// One publication to every member of a room: the loop of the shard without the kernel's part.
    fn deliver(bencher: Bencher, members: usize, path: &str, join: &[u8]) {
        let mut harness = Harness::new();
        harness.connect(members, path, join);
        let publication = publication("room.1", 128);
        bencher.counter(ItemsCount::new(members)).bench_local(|| {
            harness.deliver(&publication);
            harness.turn();
        });
    }

    #[divan::bench(args = [10, 1_000, 10_000])]
    fn native(bencher: Bencher, members: usize) {
        deliver(bencher, members, "/", &masked(TEXT, br#"{"type":"join","roomId":"room.1"}"#));
    }

    #[divan::bench(args = [10, 1_000, 10_000])]
    fn raw(bencher: Bencher, members: usize) {
        deliver(bencher, members, "/raw/room.1", b"");
    }
}

mod slab {
    use super::*;
    use tidegate_core::connection::{Connections, Entry, Handle};

    fn filled(count: u32) -> (Connections, Vec<Handle>) {
        let mut connections = Connections::with_capacity(count as usize + 1);
        let handles = (0..count).map(|fd| connections.insert(|generation| entry(fd as i32, generation))).collect();
        (connections, handles)
    }

    fn entry(fd: i32, generation: u32) -> Entry {
        Entry::new(fd, generation, 1, 0)
    }

    /// One connection comes and goes among so many others.
    #[divan::bench(args = [1_000, 100_000])]
    fn insert_and_remove(bencher: Bencher, others: u32) {
        let (mut connections, _) = filled(others);
        bencher.bench_local(|| {
            let handle = connections.insert(|generation| entry(7, generation));
            connections.remove(black_box(handle)).is_some()
        });
    }

    /// Lookups by handle in an order that no prefetcher guesses.
    #[divan::bench(args = [1_000, 100_000])]
    fn find(bencher: Bencher, count: u32) {
        let (mut connections, handles) = filled(count);
        let mut at = 0_u32;
        bencher.bench_local(|| {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            connections.find(handles[(at % count) as usize]).map(|entry| entry.fd)
        });
    }
}

mod sweep {
    use super::*;
    use crate::harness::Harness;
    use std::time::Duration;
    use tidegate_core::connection::{Connections, Entry, Heartbeat, due};

    /// A look at every connection, none of which has anything due.
    #[divan::bench(args = [1_000, 100_000])]
    fn nothing_due(bencher: Bencher, count: u32) {
        let mut connections = Connections::with_capacity(count as usize);
        for fd in 0..count {
            connections.insert(|generation| Entry::new(fd as i32, generation, 1, 0));
        }
        let heartbeat = Heartbeat::new(Duration::from_secs(25), Duration::from_secs(10));
        bencher.counter(ItemsCount::new(count)).bench_local(|| {
            for index in 0..count {
                if let Some(entry) = connections.at(index) {
                    black_box(due(entry, 2, heartbeat, 100));
                }
            }
        });
    }

    /// A tenth of a second of 10,000 idle clients: a slice of the slab, 40 pings, 40 pongs.
    #[divan::bench]
    fn tick_with_heartbeats(bencher: Bencher) {
        let mut harness = Harness::new();
        harness.connect(10_000, "/", b"");
        let pong = crate::harness::masked(tidegate_core::ws::frame::PONG, b"");
        bencher.bench_local(|| {
            harness.tick();
            harness.answer_pings(&pong);
            harness.turn();
        });
    }
}

mod json {
    use super::*;
    use crate::harness::{content, message};
    use tidegate_core::dialect::native::{self, Content};

    #[divan::bench(args = SIZES)]
    fn parse_message(bencher: Bencher, octets: usize) {
        let text = message("room.1", octets);
        bencher.counter(BytesCount::new(text.len())).bench(|| native::parse(black_box(&text)).is_ok());
    }

    #[divan::bench]
    fn parse_join(bencher: Bencher) {
        bencher.bench(|| native::parse(black_box(r#"{"type":"join","roomId":"room.1","ref":7}"#)).is_ok());
    }

    #[divan::bench(args = SIZES)]
    fn write_message(bencher: Bencher, octets: usize) {
        let content = content(octets);
        let mut out = Vec::with_capacity(octets + 256);
        bencher.counter(BytesCount::new(octets)).bench_local(|| {
            out.clear();
            native::message(
                &mut out,
                "room.1",
                native::Sender::default(),
                Content::Json(black_box(content.as_bytes())),
                1_700_000_000_000,
            );
        });
    }
}
