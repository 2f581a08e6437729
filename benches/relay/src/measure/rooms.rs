//! What a subscribed room costs: the relay's memory, and the time until all are confirmed.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tidegate::gateway::broker::Port;
use tidegate_core::limits;
use tidegate_core::relay::{ToRelay, ToShard};

use super::cpu::{anonymous_bytes, pin};
use super::feed::Feed;
use super::relays::Kind;
use super::{OTHER_CORE, RELAY_CORE, ROOM_PREFIX};

/// Rooms that are asked for and not answered, as a shard keeps them.
const OPEN: usize = limits::JOINS_OPEN;
/// A relay that confirms no room for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Rooms {
    /// Memory that the rooms added, in bytes a room.
    pub bytes: f64,
    /// From the first request to the last confirmation.
    pub seconds: f64,
}

/// Joins `count` rooms.
///
/// # Errors
/// A room was refused, or the relay has ended.
pub fn measure(kind: Kind, count: usize, server: Option<SocketAddr>) -> io::Result<Rooms> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    pin(RELAY_CORE);
    let mut port = kind.start(server.map_or_else(|| listener.local_addr(), Ok)?)?;
    pin(OTHER_CORE);
    let mut feed = if server.is_some() || kind == Kind::Alone { None } else { Some(Feed::accept(&listener, false)?) };
    join(&mut port, feed.as_mut(), "first.", 1)?;
    let (before, begin) = (anonymous_bytes()?, Instant::now());
    join(&mut port, feed.as_mut(), "user.", count)?;
    let seconds = begin.elapsed().as_secs_f64();
    let bytes = anonymous_bytes()?.saturating_sub(before) as f64 / count as f64;
    // The connection stays open to the end of the process, which a relay without its connection would end.
    std::mem::forget(feed);
    Ok(Rooms { bytes, seconds })
}

fn join(port: &mut Port, mut feed: Option<&mut Feed>, prefix: &str, count: usize) -> io::Result<()> {
    let (mut asked, mut joined, mut last) = (0, 0, Instant::now());
    while joined < count {
        let mut idle = true;
        while asked < count && asked - joined < OPEN {
            let request = ToRelay::Subscribe(format!("{prefix}{asked:07}").as_str().into());
            if port.ask(request).is_err() {
                break;
            }
            asked += 1;
            idle = false;
        }
        port.flush(Instant::now());
        if let Some(feed) = &mut feed {
            idle &= !feed.serve()?;
        }
        while let Some(item) = port.from_relay.pop() {
            match item {
                ToShard::Joined(_) => joined += 1,
                // The first connection is one, to a relay that had none.
                ToShard::Gap(..) => {}
                other => return Err(io::Error::other(format!("not joined: {other:?}"))),
            }
            (idle, last) = (false, Instant::now());
        }
        if idle {
            std::thread::sleep(Duration::from_micros(20));
            if last.elapsed() > STUCK {
                return Err(io::Error::other(format!("{joined} of {count} rooms were joined")));
            }
        }
    }
    Ok(())
}

/// Seconds that a bare client needs: it sends the same `SUB`s and a `PING`, and waits for the `PONG`.
///
/// # Errors
/// The connection has ended.
pub fn bare(count: usize, server: Option<SocketAddr>) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = server.map_or_else(|| listener.local_addr(), Ok)?;
    let client = std::thread::spawn(move || bare_client(address, count));
    if server.is_none() {
        pin(OTHER_CORE);
        let mut feed = Feed::accept(&listener, false)?;
        while !client.is_finished() && !feed.serve().is_ok_and(|came| !came && client.is_finished()) {}
    }
    client.join().map_err(|_| io::Error::other("it panicked"))?
}

fn bare_client(server: SocketAddr, count: usize) -> io::Result<f64> {
    pin(RELAY_CORE);
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(b"CONNECT {\"verbose\":false,\"protocol\":1,\"lang\":\"bench\",\"version\":\"0\"}\r\n")?;
    let begin = Instant::now();
    let mut out = Vec::new();
    for number in 0..count {
        out.extend_from_slice(format!("SUB {ROOM_PREFIX}user.{number:07} {number}\r\n").as_bytes());
        if out.len() > 64 * 1024 {
            stream.write_all(&out)?;
            out.clear();
        }
    }
    out.extend_from_slice(b"PING\r\n");
    stream.write_all(&out)?;
    let (mut read, mut seen) = ([0; 64 * 1024], Vec::new());
    while memchr::memmem::find(&seen, b"PONG\r\n").is_none() {
        let bytes = stream.read(&mut read)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(&read[..bytes]);
    }
    Ok(begin.elapsed().as_secs_f64())
}
