//! What a received message costs the relay's thread.
//!
//! One thread feeds the relay and takes the deliveries out of its mailbox; the relay's thread is the other. So many messages are under
//! way as the mailbox holds with room to spare: none is dropped.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::gateway::broker::Port;
use tidegate_core::limits;
use tidegate_core::model::{ConnectionId, Kind, Publication, valid_json};
use tidegate_core::relay::{ToRelay, ToShard};

use relay::codec::envelope::Envelope;
use relay::codec::parser::{Parser, ServerOp, Step};

use super::cpu::{Thread, pin};
use super::feed::Feed;
use super::relays;
use super::{OTHER_CORE, RELAY_CORE, ROOM_PREFIX};

/// Rooms that the messages go to, in turn.
const ROOMS: usize = 64;
/// Messages that are written together.
const BLOCK: usize = 256;
/// Messages under way, and their bytes, at most: half of what the mailbox holds.
const UNDER_WAY: usize = limits::MAILBOX_MESSAGES / 2;
const UNDER_WAY_BYTES: usize = limits::MAILBOX_BYTES / 4;
/// A relay that hands nothing over for so long has lost messages.
const STUCK: Duration = Duration::from_secs(20);

/// The subscription id of a subject.
type SidOf<'a> = &'a dyn Fn(&str) -> Vec<u8>;

/// A kind of message.
#[derive(Clone, Copy)]
pub struct Case {
    /// Bytes of the payload, which is JSON.
    pub bytes: usize,
    /// Whether it has the gateway's header.
    pub header: bool,
}

/// JSON of so many bytes: an array of small objects, as chats and cursors send them.
pub fn payload(bytes: usize) -> Vec<u8> {
    let object = br#"{"id":123456,"user":"alice","text":"hello, world","at":1796000000,"tags":["a","b"],"x":0.5}"#;
    let mut json = vec![b'['];
    while json.len() + object.len() + 2 < bytes {
        json.extend_from_slice(object);
        json.push(b',');
    }
    json.push(b'"');
    json.resize(bytes - 2, b'x');
    json.extend_from_slice(b"\"]");
    json
}

/// CPU of the relay's thread, in ns a message, over `count` of them. With a `server` they go through it.
///
/// # Errors
/// A message was lost, or the relay has ended.
pub fn measure(kind: relays::Kind, case: Case, count: usize, server: Option<SocketAddr>) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    pin(RELAY_CORE);
    let mut port = kind.start(server.map_or_else(|| listener.local_addr(), Ok)?)?;
    pin(OTHER_CORE);
    let mut feed = match server {
        Some(server) => Feed::publisher(server)?,
        None => Feed::accept(&listener, true)?,
    };
    join(&mut port, &mut feed)?;
    let messages = match server {
        Some(_) => block(case, None),
        None => block(case, Some(&|subject| feed.sid(subject).map(<[u8]>::to_vec).unwrap_or_default())),
    };
    let thread = Thread::named("relay")?;
    deliver(&mut port, &mut feed, &messages, case.bytes, count / 8)?;
    let before = thread.cpu_ns()?;
    let delivered = deliver(&mut port, &mut feed, &messages, case.bytes, count)?;
    let used = thread.cpu_ns()? - before;
    // The connection stays open to the end of the process, which a relay without its connection would end.
    std::mem::forget(feed);
    Ok(used as f64 / delivered as f64)
}

/// What it costs to find out that a payload is UTF-8 and JSON, in ns: what the relay does today, and the first member's shard would.
///
/// # Errors
/// The payload is no JSON.
pub fn validation(bytes: usize, count: usize) -> io::Result<f64> {
    let json = payload(bytes);
    alone(count, move || {
        let text = std::str::from_utf8(std::hint::black_box(&json));
        usize::from(text.is_ok_and(|text| valid_json(text).is_ok()))
    })
}

/// What the codec alone takes of a message, in ns: its line, its header and where its payload is, without a socket and without a copy.
///
/// # Errors
/// The codec does not read what the server writes.
pub fn parsing(case: Case, count: usize) -> io::Result<f64> {
    let stream = block(case, Some(&|_| b"1234567".to_vec()));
    let (mut parser, mut rest) = (Parser::new(stream.len()), 0);
    alone(count, move || {
        let Ok(Step::Op(ServerOp::Message(message), taken)) = parser.step(std::hint::black_box(&stream[rest..])) else {
            return 0;
        };
        rest = if rest + taken == stream.len() { 0 } else { rest + taken };
        let envelope = std::hint::black_box(Envelope::read(message.headers.block()));
        usize::from(envelope.kind.is_some() == case.header && message.payload.len() == case.bytes)
    })
}

/// CPU of a step in ns, over `count` of them on a thread of its own. A step says whether it was right, with 1.
fn alone(count: usize, mut step: impl FnMut() -> usize + Send + 'static) -> io::Result<f64> {
    let run = move || {
        pin(RELAY_CORE);
        let thread = Thread::named("alone")?;
        let before = thread.cpu_ns()?;
        let right: usize = (0..count).map(|_| step()).sum();
        let used = thread.cpu_ns()? - before;
        if right == count { Ok(used as f64 / count as f64) } else { Err(io::Error::other("a step went wrong")) }
    };
    let thread = std::thread::Builder::new().name("alone".into()).spawn(run)?;
    thread.join().map_err(|_| io::Error::other("it panicked"))?
}

fn room(number: usize) -> String {
    format!("user.{number:07}")
}

fn join(port: &mut Port, feed: &mut Feed) -> io::Result<()> {
    for number in 0..ROOMS {
        let request = ToRelay::Subscribe(room(number).as_str().into());
        port.ask(request).map_err(|_| io::Error::other("the relay takes no request"))?;
    }
    port.flush(Instant::now());
    let (mut joined, until) = (0, Instant::now() + STUCK);
    while joined < ROOMS {
        feed.serve()?;
        match port.from_relay.pop() {
            Some(ToShard::Joined(_)) => joined += 1,
            Some(other) => return Err(io::Error::other(format!("not joined: {other:?}"))),
            None if Instant::now() > until => return Err(io::Error::other("no room was joined in time")),
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    Ok(())
}

/// The messages that are written over and over: as a server sends them, with the subscription id that `sid` gives for a subject, or
/// without it as a client publishes them.
fn block(case: Case, sid: Option<SidOf<'_>>) -> Vec<u8> {
    let from = Some(ConnectionId { node: 0xdead_beef, shard: 1, index: 0x12345, generation: 99 });
    let payload = payload(case.bytes);
    let mut headers = Vec::new();
    if case.header {
        let (room, kind, time_unix_ns) = ("".into(), Kind::Json, 1_796_000_000_123_456_789);
        let publication = Publication { from, ..Publication::of_backend(room, kind, Bytes::new(), time_unix_ns) };
        Envelope::of(&publication).write(&mut headers);
    }
    let mut messages = Vec::new();
    for number in 0..BLOCK {
        let subject = format!("{ROOM_PREFIX}{}", room(number % ROOMS));
        let (word, sid) = match sid {
            Some(sid) => ("MSG", format!(" {}", String::from_utf8_lossy(&sid(&subject)))),
            None => ("PUB", String::new()),
        };
        let total = headers.len() + payload.len();
        let line = if case.header {
            format!("H{word} {subject}{sid} {} {total}\r\n", headers.len())
        } else {
            format!("{word} {subject}{sid} {total}\r\n")
        };
        messages.extend([line.as_bytes(), &headers, &payload, b"\r\n"].concat());
    }
    messages
}

/// Sends messages and takes their deliveries until `count` have come. Gives how many did.
fn deliver(port: &mut Port, feed: &mut Feed, messages: &[u8], bytes: usize, count: usize) -> io::Result<usize> {
    let under_way = UNDER_WAY.min(UNDER_WAY_BYTES / bytes);
    let (blocks, mut sent, mut delivered, mut last) = (count.div_ceil(BLOCK), 0, 0, Instant::now());
    while delivered < blocks * BLOCK {
        let mut idle = true;
        if sent < blocks && sent * BLOCK < delivered + under_way {
            sent += usize::from(feed.send(messages)?);
            idle = false;
        }
        while let Some(item) = port.from_relay.pop() {
            port.from_relay.release(item.pinned_bytes());
            match item {
                ToShard::Deliver(publication) if publication.payload.len() == bytes => delivered += 1,
                other => return Err(io::Error::other(format!("a message was lost: {other:?}"))),
            }
            idle = false;
        }
        if idle {
            feed.serve()?;
            std::thread::yield_now();
            if last.elapsed() > STUCK {
                return Err(io::Error::other(format!("{delivered} of {} messages came", sent * BLOCK)));
            }
        } else {
            last = Instant::now();
        }
    }
    Ok(delivered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_of_the_size_that_is_asked_for() {
        for bytes in [128, 4_096] {
            let json = payload(bytes);
            assert_eq!(json.len(), bytes);
            assert_eq!(valid_json(std::str::from_utf8(&json).unwrap()), Ok(()));
        }
    }
}
