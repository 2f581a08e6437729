//! permessage-deflate (RFC 7692), end to end: what is agreed on, what is shared, and what a hostile stream gets.

use std::io::Write;
use std::net::TcpStream;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::bad_frames::{close_code, masked, read_frame};
use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway, Setup};
use crate::support::http;

crate::on_both_drivers! {
    compression_is_off_unless_both_sides_want_it
    what_is_compressed_comes_in_and_goes_out_compressed
    members_share_what_is_compressed_once_and_others_get_it_plain
    compressed_frames_may_be_cut_at_every_octet
    a_final_block_ends_a_message
    every_bad_compressed_message_gets_its_close_code_and_its_label
    a_thousand_bombs_leave_no_memory_behind
}

pub(crate) const OFFER: &str = "permessage-deflate; client_max_window_bits";
/// FIN, RSV1, text; and the same for the first of several fragments.
pub(crate) const COMPRESSED: u8 = 0xc1;
const COMPRESSED_FIRST: u8 = 0x41;

fn compressing(driver: Driver) -> Setup {
    Gateway::on(driver).config("compression = true").args(&["--message-rate", "0"])
}

/// Upgrades with an offer; what was agreed on.
pub(crate) fn open(gateway: &Gateway, path: &str, offer: &str) -> (TcpStream, Option<String>) {
    let mut stream = http::connect(gateway.port);
    let offer = format!("Sec-WebSocket-Extensions: {offer}");
    stream.write_all(http::upgrade(path, &[&offer]).as_bytes()).unwrap();
    let answer = http::read_answer(&mut stream).unwrap();
    assert_eq!(answer.status, 101, "{offer}");
    (stream, answer.header("sec-websocket-extensions").map(str::to_owned))
}

/// The payload of a compressed message (§7.2.1).
pub(crate) fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 1024);
    Compress::new(Compression::best(), false).compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    out.strip_suffix(&[0, 0, 0xff, 0xff]).expect("a sync flush ends so").to_vec()
}

/// What a compressed message says, with a window of 2^`bits` bytes at most.
fn inflated(payload: &[u8], bits: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 * 1024);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new_with_window_bits(false, bits).decompress_vec(&input, &mut out, FlushDecompress::Sync).unwrap();
    out
}

fn text() -> String {
    "the tide is high, but I'm holding on. ".repeat(40)
}

fn compression_is_off_unless_both_sides_want_it(driver: Driver) {
    let off = Gateway::start(driver, &[]);
    assert_eq!(open(&off, "/raw/lobby", OFFER).1, None);
    let on = compressing(driver).start();
    let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let narrow = format!("{both}; server_max_window_bits=9");
    let thousand = "permessage-deflate; server_max_window_bits=7,".repeat(150) + "permessage-deflate";
    for (offer, agreed) in [
        ("permessage-deflate", Some(both)),
        (OFFER, Some(both)),
        ("permessage-deflate; server_max_window_bits=10", Some(&*narrow)),
        ("permessage-deflate; server_max_window_bits=\"9\"", Some(&*narrow)),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; unknown=1", None),
        ("x-webkit-deflate-frame", None),
        (&*thousand, Some(both)),
    ] {
        assert_eq!(open(&on, "/raw/lobby", offer).1.as_deref(), agreed, "{offer}");
    }
    let mut stream = http::connect(on.port);
    let nonsense = ["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"\""];
    stream.write_all(http::upgrade("/", &nonsense).as_bytes()).unwrap();
    assert_eq!(http::read_answer(&mut stream).unwrap().status, 400);
    // Who offers nothing may not use it.
    let mut plain = http::connect(on.port);
    crate::bad_frames::open(&mut plain, "/raw/lobby");
    plain.write_all(&masked(COMPRESSED, &deflated(b"not agreed on"))).unwrap();
    assert_eq!(close_code(&mut plain), Some(1002));
}

fn what_is_compressed_comes_in_and_goes_out_compressed(driver: Driver) {
    let gateway = compressing(driver).start();
    for (offer, bits) in [("permessage-deflate", 15), ("permessage-deflate; server_max_window_bits=9", 9)] {
        let mut stream = open(&gateway, "/raw/lobby", offer).0;
        // Nothing is remembered from one message to the next.
        for round in 0..3 {
            let said = format!("{round}: {}", text());
            stream.write_all(&masked(COMPRESSED, &deflated(said.as_bytes()))).unwrap();
            let (first, payload) = read_frame(&mut stream).unwrap();
            assert_eq!(first, COMPRESSED);
            assert!(payload.len() < said.len() / 4, "{} bytes of {}", payload.len(), said.len());
            assert_eq!(inflated(&payload, bits), said.as_bytes());
        }
        // What is too short to gain anything is sent as it is.
        stream.write_all(&masked(COMPRESSED, &deflated(b"short"))).unwrap();
        assert_eq!(read_frame(&mut stream), Some((0x81, b"short".to_vec())));
    }
}

fn members_share_what_is_compressed_once_and_others_get_it_plain(driver: Driver) {
    let gateway = Gateway::on(driver).config("compression = true").args(&["--shards", "1"]).start();
    let mut plain = Client::raw(gateway.port, "/raw/lobby");
    let mut native = Client::connect(gateway.port);
    native.join("lobby");
    let mut wide: Vec<TcpStream> = (0..10).map(|_| open(&gateway, "/raw/lobby", OFFER).0).collect();
    let mut narrow = open(&gateway, "/raw/lobby", "permessage-deflate; server_max_window_bits=9").0;
    plain.say_text("all in");
    for stream in wide.iter_mut().chain([&mut narrow]) {
        assert_eq!(read_frame(stream), Some((0x81, b"all in".to_vec())));
    }
    plain.say_text(&text());
    let frames: Vec<_> = wide.iter_mut().map(|stream| read_frame(stream).unwrap()).collect();
    assert!(frames.windows(2).all(|pair| pair[0] == pair[1]), "one and the same frame");
    assert_eq!(frames[0].0, COMPRESSED);
    assert_eq!(inflated(&frames[0].1, 15), text().as_bytes());
    let (first, payload) = read_frame(&mut narrow).unwrap();
    assert_eq!((first, inflated(&payload, 9)), (COMPRESSED, text().into_bytes()));
    assert_eq!([plain.text(), plain.text()], ["all in", &text()]);
    assert_eq!([native.content("lobby"), native.content("lobby")], ["all in", &*text()]);
}

fn compressed_frames_may_be_cut_at_every_octet(driver: Driver) {
    let gateway = compressing(driver).args(&["--connection-rate", "0"]).start();
    let payload = deflated("é".repeat(100).as_bytes());
    let (front, back) = payload.split_at(payload.len() / 2);
    let octets = [masked(COMPRESSED_FIRST, front), masked(0x89, b"p"), masked(0x80, back)].concat();
    let mut streams: Vec<_> =
        (1..octets.len()).map(|cut| (cut, open(&gateway, &format!("/raw/room{cut}"), OFFER).0)).collect();
    for (cut, stream) in &mut streams {
        stream.write_all(&octets[..*cut]).unwrap();
    }
    for (cut, stream) in &mut streams {
        stream.write_all(&octets[*cut..]).unwrap();
        let mut frames = [read_frame(stream).unwrap(), read_frame(stream).unwrap()];
        frames.sort();
        assert_eq!(frames[0], (0x8a, b"p".to_vec()), "cut at {cut}");
        assert_eq!(inflated(&frames[1].1, 15), "é".repeat(100).as_bytes(), "cut at {cut}");
    }
}

fn a_final_block_ends_a_message(driver: Driver) {
    let gateway = compressing(driver).start();
    let mut stream = open(&gateway, "/raw/lobby", OFFER).0;
    // RFC 7692 §7.2.3.4, with and without the octet that makes room for the tail.
    for payload in [&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00][..], &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]]
    {
        stream.write_all(&masked(COMPRESSED, payload)).unwrap();
        assert_eq!(read_frame(&mut stream), Some((0x81, b"Hello".to_vec())));
    }
}

fn bad_messages() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let bomb = deflated(&vec![b' '; 10 << 20]);
    let whole = deflated(text().as_bytes());
    let (front, back) = bomb.split_at(bomb.len() / 2);
    vec![
        ("bomb", masked(COMPRESSED, &bomb), 1009, "too-big"),
        ("bomb in fragments", [masked(COMPRESSED_FIRST, front), masked(0x80, back)].concat(), 1009, "too-big"),
        ("one octet over the limit", masked(COMPRESSED, &deflated(&vec![b' '; 64 * 1024 + 1])), 1009, "too-big"),
        ("truncated", masked(COMPRESSED, &whole[..whole.len() / 2]), 1007, "invalid-payload"),
        ("reserved block type", masked(COMPRESSED, &[0x07]), 1007, "invalid-payload"),
        ("distance too far back", masked(COMPRESSED, &[0x4a, 0x04, 0x11, 0x00, 0x00]), 1007, "invalid-payload"),
        (
            "stored block, lengths differ",
            masked(COMPRESSED, &[0x00, 0x05, 0x00, 0x05, 0x00, 1]),
            1007,
            "invalid-payload",
        ),
        ("32,000 empty final blocks", masked(COMPRESSED, &[3, 0].repeat(32_000)), 1007, "invalid-payload"),
        ("inflates to no UTF-8", masked(COMPRESSED, &deflated(b"\xff\xfe")), 1007, "invalid-payload"),
        ("RSV1 on a continuation", [masked(COMPRESSED_FIRST, front), masked(0xc0, back)].concat(), 1002, "protocol"),
        (
            "RSV1 on the second fragment of plain text",
            [masked(0x01, b"a"), masked(0xc0, b"b")].concat(),
            1002,
            "protocol",
        ),
        ("RSV1 on a ping", masked(0xc9, b""), 1002, "protocol"),
        ("RSV1 on a close", masked(0xc8, &[3, 232]), 1002, "protocol"),
        ("RSV2 beside RSV1", masked(0xe1, b"a"), 1002, "protocol"),
        ("sent larger than it may be", masked(COMPRESSED, &vec![0; 70_000]), 1009, "too-big"),
    ]
}

fn every_bad_compressed_message_gets_its_close_code_and_its_label(driver: Driver) {
    let mut gateway = compressing(driver).start();
    let mut expected = std::collections::BTreeMap::new();
    for (name, octets, code, label) in bad_messages() {
        let mut stream = open(&gateway, "/raw/lobby", OFFER).0;
        let _ = stream.write_all(&octets);
        assert_eq!(close_code(&mut stream), Some(code), "{name}");
        *expected.entry(label).or_insert(0.0) += 1.0;
    }
    for (label, count) in expected {
        gateway.wait_for(&format!("ws_closes_total{{reason=\"{label}\"}}"), count);
    }
    // Of exactly the limit is a message.
    let mut stream = open(&gateway, "/raw/lobby", OFFER).0;
    stream.write_all(&masked(COMPRESSED, &deflated(&vec![b' '; 64 * 1024]))).unwrap();
    let (first, payload) = read_frame(&mut stream).unwrap();
    assert_eq!((first, inflated(&payload, 15).len()), (COMPRESSED, 64 * 1024));
    println!("bad inputs: {} compressed messages", bad_messages().len());
}

fn a_thousand_bombs_leave_no_memory_behind(driver: Driver) {
    let mut gateway = compressing(driver).args(&["--connection-rate", "0"]).start();
    let bomb = masked(COMPRESSED, &deflated(&vec![b' '; 10 << 20]));
    let burst = |count: usize| {
        let mut streams: Vec<TcpStream> = (0..count).map(|_| open(&gateway, "/raw/lobby", OFFER).0).collect();
        streams.iter_mut().for_each(|stream| drop(stream.write_all(&bomb)));
        streams.iter_mut().for_each(|stream| assert_eq!(close_code(stream), Some(1009)));
    };
    burst(50);
    let before = gateway.memory_bytes();
    (0..20).for_each(|_| burst(50));
    gateway.wait_for("ws_sockets", 0.0);
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "a thousand bombs left {grown} bytes");
}
