//! Bad frames, end to end: octets, expected close code, expected metric label (G12); and good ones however they are cut.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::slow::narrow;
use crate::support::client::{Client, Said};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    every_bad_frame_gets_its_close_code_and_its_label
    a_close_is_answered_with_its_code
    what_comes_after_a_close_is_ignored
    a_message_of_exactly_the_limit_passes_and_one_octet_more_does_not
    frames_may_be_cut_at_every_octet
    pings_are_answered_inside_a_fragmented_message
    a_message_that_is_never_finished_is_closed_with_1008
    an_announced_length_reserves_no_memory
    thousands_of_one_octet_fragments_are_one_message
    a_flood_of_empty_fragments_is_cut_off
    a_ping_flood_that_is_never_read_costs_nothing
    a_client_that_shuts_its_side_without_a_close_frame_is_gone
    a_client_that_never_answers_a_close_is_given_up
}

/// Upgrades a bare socket.
pub(crate) fn open(stream: &mut TcpStream, path: &str) {
    stream.write_all(http::upgrade(path, &[]).as_bytes()).unwrap();
    assert_eq!(http::read_answer(stream).unwrap().status, 101);
}

/// A masked frame; the first octet as given.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        medium @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().enumerate().map(|(n, octet)| octet ^ mask[n % 4]));
    frame
}

/// One frame of the gateway: first octet and payload. `None` at the end of the stream.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    assert_eq!(head[1] & 0x80, 0, "a server does not mask");
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            usize::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length).ok()?;
            u64::from_be_bytes(length) as usize
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some((head[0], payload))
}

/// Frames until the close frame: its code; `None` where the stream ends without one.
pub(crate) fn close_code(stream: &mut TcpStream) -> Option<u16> {
    loop {
        let (first, payload) = read_frame(stream)?;
        if first == 0x88 {
            return Some(payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])));
        }
    }
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(0x88, &[&code.to_be_bytes(), reason].concat())
}

pub(crate) fn bad_frames() -> Vec<(String, Vec<u8>, u16, &'static str)> {
    let mut table: Vec<(String, Vec<u8>, u16, &'static str)> = Vec::new();
    let mut row = |name: &str, octets: Vec<u8>, code, label| table.push((name.to_owned(), octets, code, label));
    row("unmasked", vec![0x81, 0x01, b'a'], 1002, "protocol");
    for bit in [0x40, 0x20, 0x10] {
        row(&format!("RSV {bit:#x}"), masked(0x81 | bit, b"a"), 1002, "protocol");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        row(&format!("opcode {opcode}"), masked(0x80 | opcode, b"a"), 1002, "protocol");
    }
    row("long ping", masked(0x89, &[b'a'; 126]), 1002, "protocol");
    row("fragmented ping", masked(0x09, b"a"), 1002, "protocol");
    row("fragmented close", masked(0x08, &[3, 232]), 1002, "protocol");
    row("continuation of nothing", masked(0x80, b"a"), 1002, "protocol");
    row("text inside a message", [masked(0x01, b"a"), masked(0x81, b"b")].concat(), 1002, "protocol");
    row("non-minimal 16 bits", vec![0x81, 0x80 | 126, 0, 5, 0, 0, 0, 0], 1002, "protocol");
    row("non-minimal 64 bits", vec![0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0], 1002, "protocol");
    row("length with the top bit", vec![0x81, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0], 1002, "protocol");
    row("length 2^63-1", [&[0x82, 0x80 | 127, 0x7f][..], &[0xff; 7], &[0; 4]].concat(), 1009, "too-big");
    row("fragments over the limit", [masked(0x02, &[0; 40_000]), masked(0x80, &[0; 40_000])].concat(), 1009, "too-big");
    row("close of one octet", masked(0x88, &[3]), 1002, "protocol");
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        row(&format!("close {code}"), close(code, b""), 1002, "protocol");
    }
    row("close, reason not UTF-8", close(1000, b"\xff"), 1007, "invalid-payload");
    row("text not UTF-8", masked(0x81, b"a\xffb"), 1007, "invalid-payload");
    row("surrogate", masked(0x81, b"\xed\xa0\x80"), 1007, "invalid-payload");
    row("overlong", masked(0x81, b"\xc0\xaf"), 1007, "invalid-payload");
    row("text ends in a character", masked(0x81, b"\xe2\x82"), 1007, "invalid-payload");
    row(
        "UTF-8 wrong across fragments",
        [masked(0x01, b"\xe2\x82"), masked(0x80, b"\x28")].concat(),
        1007,
        "invalid-payload",
    );
    row(
        "UTF-8 wrong in an unfinished frame",
        masked(0x81, b"ok\xffxxxxxxxxxx")[..10].to_vec(),
        1007,
        "invalid-payload",
    );
    table
}

fn every_bad_frame_gets_its_close_code_and_its_label(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut expected = std::collections::BTreeMap::new();
    for (name, octets, code, label) in bad_frames() {
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/raw/lobby");
        stream.write_all(&octets).unwrap();
        assert_eq!(close_code(&mut stream), Some(code), "{name}");
        let _ = stream.write_all(&close(code, b""));
        assert_eq!(read_frame(&mut stream), None, "{name}: nothing comes after the close frame");
        *expected.entry(label).or_insert(0.0) += 1.0;
    }
    for (label, count) in expected {
        gateway.wait_for(&format!("ws_closes_total{{reason=\"{label}\"}}"), count);
    }
    gateway.wait_for("ws_sockets", 0.0);
    Client::connect(gateway.port).join("lobby");
    println!("bad inputs: {} frames", bad_frames().len());
}

fn a_close_is_answered_with_its_code(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999] {
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/raw/lobby");
        stream.write_all(&close(code, "tschüss".as_bytes())).unwrap();
        assert_eq!(close_code(&mut stream), Some(code));
        assert_eq!(read_frame(&mut stream), None, "the server closes first (RFC 6455 §7.1.1)");
    }
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    stream.write_all(&masked(0x88, b"")).unwrap();
    assert_eq!(close_code(&mut stream), Some(1005));
    drop(stream);
    gateway.wait_for("ws_closes_total{reason=\"client\"}", 14.0);
}

fn what_comes_after_a_close_is_ignored(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut listener = Client::connect(gateway.port);
    listener.join("lobby");
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    let octets = [masked(0x81, b"before"), close(1000, b""), masked(0x81, b"after"), close(1001, b"")].concat();
    stream.write_all(&octets).unwrap();
    assert_eq!(close_code(&mut stream), Some(1000));
    assert_eq!(read_frame(&mut stream), None);
    assert_eq!(listener.content("lobby"), "before");
    assert_eq!(gateway.publish("lobby", "\"marker\""), 202);
    assert_eq!(listener.content("lobby"), "marker");
}

fn a_message_of_exactly_the_limit_passes_and_one_octet_more_does_not(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::raw(gateway.port, "/raw/lobby");
    client.say_binary(b"am I in?");
    assert_eq!(client.next(), Said::Binary(b"am I in?".to_vec()));
    let largest = vec![7; 64 * 1024];
    client.say_binary(&largest);
    assert_eq!(client.next(), Said::Binary(largest.clone()));
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/other");
    stream.write_all(&masked(0x82, &[&largest[..], &[7]].concat())[..20]).unwrap();
    assert_eq!(close_code(&mut stream), Some(1009), "its header is enough");
}

fn frames_may_be_cut_at_every_octet(driver: Driver) {
    let gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let octets = [
        masked(0x01, "é".as_bytes().split_at(1).0),
        masked(0x89, b"p"),
        masked(0x80, "é".as_bytes().split_at(1).1),
        masked(0x82, &[1; 130]),
    ]
    .concat();
    let read = |stream: &mut TcpStream| {
        let mut frames = [0; 3].map(|_| read_frame(stream).unwrap());
        // The pong does not pass through the relay.
        frames.sort();
        frames
    };
    let expected = [(0x81, "é".as_bytes().to_vec()), (0x82, vec![1; 130]), (0x8a, b"p".to_vec())];
    let mut streams: Vec<(usize, TcpStream)> =
        (1..octets.len()).map(|cut| (cut, http::connect(gateway.port))).collect();
    for (cut, stream) in &mut streams {
        open(stream, &format!("/raw/room{cut}"));
        stream.write_all(&octets[..*cut]).unwrap();
    }
    for (cut, stream) in &mut streams {
        stream.write_all(&octets[*cut..]).unwrap();
        assert_eq!(read(stream), expected, "cut at {cut}");
    }
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/slow");
    octets.iter().for_each(|octet| stream.write_all(&[*octet]).unwrap());
    assert_eq!(read(&mut stream), expected, "one octet at a time");
}

fn pings_are_answered_inside_a_fragmented_message(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    stream.write_all(&[masked(0x01, b"first "), masked(0x89, b"ping")].concat()).unwrap();
    assert_eq!(read_frame(&mut stream), Some((0x8a, b"ping".to_vec())));
    stream.write_all(&masked(0x80, b"second")).unwrap();
    assert_eq!(read_frame(&mut stream), Some((0x81, b"first second".to_vec())));
}

fn a_message_that_is_never_finished_is_closed_with_1008(driver: Driver) {
    let mut gateway =
        Gateway::on(driver).config("[limits]\nmessage_deadline = \"1s\"\nclose_deadline = \"1s\"").start();
    // In the middle of a frame, between two fragments, and with a little more now and then.
    let mut in_a_frame = http::connect(gateway.port);
    open(&mut in_a_frame, "/raw/lobby");
    in_a_frame.write_all(&masked(0x81, b"never finished")[..9]).unwrap();
    let mut between = http::connect(gateway.port);
    open(&mut between, "/raw/lobby");
    between.write_all(&masked(0x01, b"never finished")).unwrap();
    let mut trickle = http::connect(gateway.port);
    open(&mut trickle, "/raw/lobby");
    let mut writer = trickle.try_clone().unwrap();
    let trickling = std::thread::spawn(move || {
        let octets = masked(0x82, &[0; 4000]);
        for octet in octets {
            if writer.write_all(&[octet]).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    for stream in [&mut in_a_frame, &mut between, &mut trickle] {
        assert_eq!(close_code(stream), Some(1008));
    }
    gateway.wait_for("ws_closes_total{reason=\"message-timeout\"}", 3.0);
    // The gateway may have given it up before.
    let _ = trickle.shutdown(std::net::Shutdown::Both);
    trickling.join().unwrap();
}

fn an_announced_length_reserves_no_memory(driver: Driver) {
    const EACH: u64 = 1_024;
    let mut gateway = Gateway::start(driver, &[]);
    let before = gateway.memory_bytes();
    let header = &masked(0x82, &[0; 60_000])[..8];
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..400 {
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/raw/lobby");
        streams.push(stream);
    }
    let inbound = "ws_bytes_total{direction=\"inbound\"}";
    let heads = gateway.metrics().value(inbound);
    for octets in [header, &[0; 16]] {
        streams.iter_mut().for_each(|stream| stream.write_all(octets).unwrap());
    }
    gateway.wait_for_at_least(inbound, heads + 400.0 * 24.0);
    // What is reserved and not touched shows in the gauge only.
    let held = |gateway: &Gateway| gateway.metrics().value("ws_unfinished_bytes");
    assert!(held(&gateway) >= 400.0 * 16.0, "what came is held");
    assert!(held(&gateway) <= (400 * EACH) as f64, "{} bytes are reserved", held(&gateway));
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 12 << 20, "400 announcements of 60 kB took {grown} bytes");
}

fn thousands_of_one_octet_fragments_are_one_message(driver: Driver) {
    let gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    let mut octets = masked(0x02, b"x");
    (0..5_000).for_each(|_| octets.extend(masked(0x00, b"x")));
    octets.extend(masked(0x80, b""));
    stream.write_all(&octets).unwrap();
    assert_eq!(read_frame(&mut stream), Some((0x82, vec![b'x'; 5_001])));
}

fn a_flood_of_empty_fragments_is_cut_off(driver: Driver) {
    let mut gateway = Gateway::on(driver).config("[limits]\nclose_deadline = \"1s\"").start();
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    stream.write_all(&masked(0x01, b"")).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let flooding = std::thread::spawn(move || {
        let empty = masked(0x00, b"").repeat(500);
        while writer.write_all(&empty).is_ok() {}
    });
    assert_eq!(close_code(&mut stream), Some(1008));
    gateway.wait_for("ws_sockets", 0.0);
    flooding.join().unwrap();
    assert_eq!(gateway.metrics().value("ws_closes_total{reason=\"flood\"}"), 1.0);
}

fn a_ping_flood_that_is_never_read_costs_nothing(driver: Driver) {
    // What may be on its way to a reader that stopped: an outbox, what the kernel takes beside it, and the narrow window.
    const PONGS_BYTES: f64 = 1024.0 * 1024.0;
    let config = "[limits]\nwrite_stall = \"2s\"\nclose_deadline = \"1s\"";
    let mut gateway = Gateway::on(driver).args(&["--message-rate", "2000"]).config(config).start();
    let before = gateway.memory_bytes();
    let mut stream = narrow(gateway.port);
    open(&mut stream, "/raw/lobby");
    let pings = masked(0x89, &[b'p'; 100]).repeat(200);
    let flooding = std::thread::spawn(move || while stream.write_all(&pings).is_ok() {});
    gateway.wait_for_at_least("ws_messages_total{direction=\"inbound\",type=\"ping\"}", 100.0);
    Client::connect(gateway.port).join("lobby");
    // The answers fill the outbox or stall in it, as they do to any reader that stopped, and the flooder is closed and reset.
    gateway.wait("the flooder is closed", |gateway| {
        let closed = |reason| gateway.metrics().value(&format!("ws_closes_total{{reason=\"{reason}\"}}"));
        closed("slow-reader") + closed("write-stall") == 1.0
    });
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "a ping flood took {grown} bytes");
    flooding.join().unwrap();
    gateway.wait_for("ws_sockets", 0.0);
    let pongs = gateway.metrics().value("ws_messages_total{direction=\"outbound\",type=\"ping\"}");
    assert!(pongs * 102.0 < PONGS_BYTES, "{pongs} pongs were written to a reader that stopped");
}

fn a_client_that_shuts_its_side_without_a_close_frame_is_gone(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    // Data and FIN in one event: neither may be lost.
    let mut listener = Client::connect(gateway.port);
    listener.join("lobby");
    stream.write_all(&masked(0x81, b"last words")).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(listener.content("lobby"), "last words");
    // It may hear itself first; then the gateway closes too.
    while read_frame(&mut stream).is_some() {}
    gateway.wait_for("ws_closes_total{reason=\"eof\"}", 1.0);
}

fn a_client_that_never_answers_a_close_is_given_up(driver: Driver) {
    let mut gateway = Gateway::on(driver).config("[limits]\nclose_deadline = \"1s\"").start();
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/");
    stream.write_all(&masked(0x82, b"binary")).unwrap();
    assert_eq!(close_code(&mut stream), Some(1003));
    gateway.wait_for("ws_sockets", 0.0);
    assert_eq!(gateway.metrics().value("ws_closes_total{reason=\"unsupported\"}"), 1.0);
}
