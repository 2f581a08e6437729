//! One client that sends compressed messages, with the default limits: all that it may send is inflated, and what that takes of a core
//! is measured. Whether it takes too much is judged by scripts/reliability/bounds.py, as a share of a core.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bad_frames::{close_code, masked, read_frame};
use crate::deflate::{COMPRESSED, OFFER, deflated, open};
use crate::support::gateway::{Driver, Gateway};

crate::on_both_drivers! {
    compressed_messages_within_the_default_limits_are_served_and_empty_blocks_refused
    large_messages_are_over_the_message_rate_before_small_ones_plain_or_compressed
}

crate::long_on_both_drivers! {
    the_share_of_a_core_that_one_compressed_client_takes_is_measured
}

/// FIN and text.
const TEXT: u8 = 0x81;
/// Credits of the default message rate, a second.
const MESSAGE_RATE: u32 = 100;
/// Refused messages a second, a rate chosen as that of malformed requests from one address (`limits.mistakes_per_address`). Each costs its
/// client a connection, so the limits of connections hold for them and not the message rate; inflating is about half of what it takes.
const REFUSED_RATE: u32 = 50;
/// Bytes that one credit pays for.
const CREDIT_BYTES: usize = 4096;
const LARGEST_BYTES: usize = 64 * 1024;
/// A block that says nothing, but brings a table of codes of all lengths: of all octets the dearest to inflate.
const EMPTY_BLOCK: [u8; 21] = [
    0x04, 0xe0, 0x81, 0x96, 0x24, 0x49, 0x92, 0x24, 0x49, 0x22, 0xb1, 0xa8, 0x79, 0x64, 0xf5, 0xec, 0xdd, 0xff, 0x7f,
    0x2e, 0x3c,
];

/// How long each shape is sent.
struct Size {
    time: Duration,
    /// Messages at least, however long they take.
    least: u32,
}

const LONG: Size = Size { time: Duration::from_secs(4), least: 1 };
/// Enough to see that all that is measured works.
const SMOKE: Size = Size { time: Duration::ZERO, least: 3 };

enum Answer {
    /// The message comes back to its sender, as a member of the room: it is inflated, published and deflated again.
    Published,
    /// The connection is closed with 1007, and its client connects again, [`REFUSED_RATE`] times a second.
    Refused,
}

/// One compressed message, again and again.
struct Shape {
    what: &'static str,
    payload: Vec<u8>,
    /// What it inflates to, where it does.
    bytes: usize,
    answer: Answer,
}

fn shapes() -> Vec<Shape> {
    let shape = |what, payload, bytes, answer| Shape { what, payload, bytes, answer };
    let empty = |bytes: usize| [&EMPTY_BLOCK.repeat(bytes / EMPTY_BLOCK.len())[..], &[0]].concat();
    let eighth = LARGEST_BYTES / 8;
    let (front, back) = (stored(text(eighth).as_bytes()), empty(LARGEST_BYTES - eighth - 8));
    // Little is sent for the spaces: what was sent in all is no more than what comes out.
    let spaces = [&deflated(&[b' '; CREDIT_BYTES])[..], &[0, 0, 0xff, 0xff]].concat();
    let padded = [&spaces[..], &empty(CREDIT_BYTES - spaces.len() - 1)].concat();
    vec![
        shape("64 KiB of blocks with a table and nothing in them", empty(LARGEST_BYTES), 0, Answer::Refused),
        shape("4 KiB of blocks with a table and nothing in them", empty(CREDIT_BYTES - 1), 0, Answer::Published),
        shape("1 KiB of blocks with a table and nothing in them", empty(CREDIT_BYTES / 4), 0, Answer::Published),
        shape("4 KiB of spaces and as many bytes of blocks with a table", padded, CREDIT_BYTES, Answer::Published),
        shape("64 KiB of which an eighth comes out", [front, back].concat(), eighth, Answer::Published),
        shape("32,000 final blocks", [3, 0].repeat(32_000), 0, Answer::Refused),
        shape("2,000 final blocks", [3, 0].repeat(2_000), 0, Answer::Published),
        shape("64 kB of text", deflated(text(64_000).as_bytes()), 64_000, Answer::Published),
        shape("4 kB of text", deflated(text(4_000).as_bytes()), 4_000, Answer::Published),
    ]
}

/// What is published without a pause, as much as the gateway reads.
fn floods() -> [(&'static str, String); 2] {
    let most = LARGEST_BYTES - publication("").len();
    [
        ("messages that inflate from 0.1 to 64 KiB, over the rate", " ".repeat(most)),
        ("64 KiB of text, over the rate", text(most)),
    ]
}

impl Shape {
    /// From one message to the next, at all that its sender may send.
    fn apart(&self) -> Duration {
        let wasted = self.payload.len().saturating_sub(self.bytes);
        let credits = (self.bytes + 4 * wasted).div_ceil(CREDIT_BYTES).max(1) as u32;
        match self.answer {
            Answer::Published => Duration::from_secs(1) * credits / MESSAGE_RATE,
            Answer::Refused => Duration::from_secs(1) / REFUSED_RATE,
        }
    }
}

fn compressed_messages_within_the_default_limits_are_served_and_empty_blocks_refused(driver: Driver) {
    let mut gateway = start(driver);
    for shape in shapes() {
        send(&gateway, &shape, &SMOKE);
    }
    for (_, content) in floods() {
        flood(&gateway, &content, Duration::from_millis(300));
    }
    gateway.wait_for("ws_closes_total{reason=\"invalid-payload\"}", 6.0);
}

fn large_messages_are_over_the_message_rate_before_small_ones_plain_or_compressed(driver: Driver) {
    // A hundred messages a second were let in however large they were: of 64 kB of text, published and deflated again, they took a
    // fifth of a core for one client.
    let gateway = Gateway::on(driver).config("compression = true").args(&["--message-rate", "16"]).start();
    let frame_bytes = publication("").len();
    let [large, small] = [LARGEST_BYTES, CREDIT_BYTES].map(|bytes| publication(&" ".repeat(bytes - frame_bytes)));
    for (kind, large, small) in [
        ("plain", masked(TEXT, &large), masked(TEXT, &small)),
        ("compressed", masked(COMPRESSED, &deflated(&large)), masked(COMPRESSED, &deflated(&small))),
    ] {
        // The burst of 32 holds two of the large ones, and a second's rate one more.
        let [taken, refused] = taken_and_refused(&gateway, &large, 20);
        assert!(taken >= 2 && refused > 0, "{kind}: {taken} of 64 KiB taken, {refused} refused");
        assert_eq!(taken_and_refused(&gateway, &small, 32), [32, 0], "{kind}");
    }
}

/// What becomes of a publication that a new client sends several times at once.
fn taken_and_refused(gateway: &Gateway, frame: &[u8], times: usize) -> [usize; 2] {
    let mut stream = open(gateway, "/", OFFER).0;
    let hear = |stream: &mut TcpStream| String::from_utf8(read_frame(stream).unwrap().1).unwrap();
    assert!(hear(&mut stream).contains("welcome"));
    stream.write_all(&frame.repeat(times)).unwrap();
    let answers: Vec<String> = (0..times).map(|_| hear(&mut stream)).collect();
    let count = |what: &str| answers.iter().filter(|answer| answer.contains(what)).count();
    [count("\"type\":\"ack\""), count("\"code\":\"rate-limited\"")]
}

fn the_share_of_a_core_that_one_compressed_client_takes_is_measured(driver: Driver) {
    let gateway = start(driver);
    let measured = |what: &str, load: &dyn Fn()| {
        let (begun, before) = (Instant::now(), gateway.cpu_ticks());
        load();
        let (used_ms, took_ms) = (10 * (gateway.cpu_ticks() - before), begun.elapsed().as_millis());
        // The line that scripts/reliability/bounds.py reads.
        println!("share of a core: {what} | {} | {used_ms} | {took_ms}", driver.name());
    };
    for shape in shapes() {
        measured(shape.what, &|| send(&gateway, &shape, &LONG));
    }
    for (what, content) in floods() {
        measured(what, &|| flood(&gateway, &content, LONG.time));
    }
}

fn start(driver: Driver) -> Gateway {
    Gateway::on(driver).config("compression = true").args(&["--shards", "1"]).start()
}

/// Sends a message as often as the message rate allows.
fn send(gateway: &Gateway, shape: &Shape, size: &Size) {
    let frame = masked(COMPRESSED, &shape.payload);
    let apart = shape.apart();
    let connect = || open(gateway, "/raw/shape", OFFER).0;
    let (mut stream, begun) = (connect(), Instant::now());
    for number in 0.. {
        let due = apart * number;
        if number >= size.least && due >= size.time {
            return;
        }
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        match shape.answer {
            Answer::Published => {
                stream.write_all(&frame).unwrap();
                let (_, payload) = read_frame(&mut stream).unwrap_or_else(|| panic!("{}: closed", shape.what));
                assert!(payload.is_empty() == (shape.bytes == 0), "{}", shape.what);
            }
            Answer::Refused => {
                // The gateway may have closed before it read all.
                let _ = stream.write_all(&frame);
                assert_eq!(close_code(&mut stream), Some(1007), "{}", shape.what);
                stream = connect();
            }
        }
    }
}

/// Sends a publication as often as the gateway reads it, each with a `ref`, and reads all answers.
fn flood(gateway: &Gateway, content: &str, time: Duration) {
    let octets = masked(COMPRESSED, &deflated(&publication(content))).repeat(100);
    let mut stream = open(gateway, "/", OFFER).0;
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    let begun = Instant::now();
    let mut left = &octets[..];
    while begun.elapsed() < time {
        match stream.write(left) {
            Ok(written) => left = if written == left.len() { &octets } else { &left[written..] },
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = reading.join();
}

/// A request that is answered, whatever becomes of it.
fn publication(content: &str) -> Vec<u8> {
    let front = r#"{"type":"message","roomId":"lobby","echo":false,"ack":true,"ref":1,"content":""#;
    [front, content, "\"}"].concat().into_bytes()
}

/// A block as it is (RFC 1951 §3.2.4).
fn stored(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_le_bytes();
    [&[0, len[0], len[1], !len[0], !len[1]], payload].concat()
}

/// Words in no order, of so many bytes in all.
fn text(bytes: usize) -> String {
    let mut words = String::new();
    let mut dice = 1_u32;
    while words.len() < bytes {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = dice >> 16 & 0x3ff;
        words.push_str(&format!("{:x}", word * word * 7));
        words.push(if word.is_multiple_of(13) { '.' } else { ' ' });
    }
    words.truncate(bytes);
    words
}
