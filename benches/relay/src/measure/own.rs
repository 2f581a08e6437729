//! The relay's broker on the codec of this crate, as far as the figures need it: one connection, no reconnecting, no TLS.
//!
//! A room's subscription id is the place of its entry in the interest table, so a message is found without a look-up and a room has
//! no queue: what is read goes into the mailbox at once. Reading stops where the mailbox is full only in that the relay drops, as it
//! does today.
//!
//! The fence is `PING`: the server answers it after everything before it (`benches/nats-order.py`). So a turn ends with one `PING` for
//! all its subscriptions; its `PONG` confirms those that no error named.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidegate_core::model::{GapReason, Kind, Publication, RoomName};
use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::Outgoing;
use tidegate_core::relay::{Broker, NodeTarget, NotTaken, PublishError, Sink};
use tokio::net::TcpStream;

use relay::codec::buffer::{READ_BYTES, ReadBuffer};
use relay::codec::encoder;
use relay::codec::envelope::Envelope;
use relay::codec::error::ServerError;
use relay::codec::login::{self, Credentials, Info};
use relay::codec::parser::{Message, Parser, ServerOp, Step};

use super::ROOM_PREFIX;

/// Reads in one turn: then the ports' requests have theirs.
const READS_PER_TURN: usize = 16;
/// Bytes that wait for the socket before no more subscriptions are written.
const WRITE_BYTES: usize = 1 << 20;
const MESSAGE_BYTES: usize = 1 << 20;

/// See the module.
pub struct Own {
    stream: TcpStream,
    parser: Parser,
    buffer: ReadBuffer,
    missing: usize,
    unsent: Vec<u8>,
    /// The key of each subscription id.
    keys: Vec<Option<RoomKey>>,
    subscribes: VecDeque<(RoomKey, RoomName)>,
    /// What each `PING` without an answer confirms.
    fences: VecDeque<Vec<RoomKey>>,
    collecting: Vec<RoomKey>,
}

impl Own {
    /// Connects and logs in, which waits. It runs inside the relay's runtime.
    pub fn new(server: SocketAddr) -> io::Result<Self> {
        let mut stream = std::net::TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let (mut parser, mut buffer) = (Parser::new(MESSAGE_BYTES), ReadBuffer::default());
        let mut unsent = Vec::new();
        loop {
            let read = stream.read(buffer.space(1))?;
            buffer.filled(read);
            match parser.step(buffer.unread()).map_err(io::Error::other)? {
                Step::Op(ServerOp::Info(json), consumed) => {
                    let info = Info::parse(json).map_err(io::Error::other)?;
                    login::connect(&mut unsent, "relay bench", &Credentials::None, &info, false)
                        .map_err(io::Error::other)?;
                    buffer.consume(consumed);
                    break;
                }
                Step::More(_) if read > 0 => {}
                other => return Err(io::Error::other(format!("no INFO but {other:?}"))),
            }
        }
        stream.write_all(&unsent)?;
        unsent.clear();
        stream.set_nonblocking(true)?;
        let (stream, keys) = (TcpStream::from_std(stream)?, Vec::new());
        let (subscribes, fences, collecting) = (VecDeque::new(), VecDeque::new(), Vec::new());
        Ok(Self { stream, parser, buffer, missing: 1, unsent, keys, subscribes, fences, collecting })
    }

    /// Reads and hands over what came. Says whether more may be there.
    fn read<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) -> io::Result<bool> {
        for _ in 0..READS_PER_TURN {
            if self.stream.poll_read_ready(cx)?.is_pending() {
                return Ok(false);
            }
            match self.stream.try_read(self.buffer.space(self.missing)) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.buffer.filled(read),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            self.parse(now, sink).map_err(io::Error::other)?;
        }
        Ok(true)
    }

    fn parse<S: Sink>(&mut self, now: Instant, sink: &mut S) -> Result<(), relay::codec::error::ProtocolError> {
        loop {
            let consumed = match self.parser.step(self.buffer.unread())? {
                Step::More(missing) => {
                    self.missing = missing;
                    return Ok(());
                }
                Step::Skip(skipped) => skipped,
                Step::Op(ServerOp::Message(message), consumed) => {
                    if let Some(publication) = publication(&self.keys, &message, sink) {
                        sink.message(publication.0, publication.1);
                    }
                    consumed
                }
                Step::Op(ServerOp::Pong, consumed) => {
                    let confirmed = self.fences.pop_front().unwrap_or_default();
                    confirmed.into_iter().for_each(|key| sink.confirmed(key, now));
                    consumed
                }
                Step::Op(ServerOp::Ping, consumed) => {
                    encoder::pong(&mut self.unsent);
                    consumed
                }
                Step::Op(ServerOp::Error(ServerError::SubscribeViolation(subject)), consumed) => {
                    let room = subject.strip_prefix(ROOM_PREFIX);
                    if let Some(key) = room.and_then(|room| sink.interest().key(room)) {
                        sink.refused(key);
                    }
                    consumed
                }
                Step::Op(ServerOp::Oversized { sid, .. }, consumed) => {
                    let key = key(&self.keys, sid);
                    key.into_iter().for_each(|key| sink.lost(Some(key), GapReason::TooLarge, 1));
                    consumed
                }
                Step::Op(ServerOp::Info(_) | ServerOp::Ok | ServerOp::Error(_), consumed) => consumed,
            };
            self.buffer.consume(consumed);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.unsent.is_empty() && self.stream.poll_write_ready(cx)?.is_ready() {
            match self.stream.try_write(&self.unsent) {
                Ok(written) if written == self.unsent.len() => self.unsent.clear(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the relay delivers. The payload is copied out of the buffer: what waits in a mailbox then keeps its own bytes allocated and no
/// others. A message without a header is not looked at; the product would settle its kind where the first member needs it.
#[inline]
fn publication<S: Sink>(keys: &[Option<RoomKey>], message: &Message<'_>, sink: &S) -> Option<(RoomKey, Publication)> {
    let key = key(keys, message.sid)?;
    let room = sink.interest().room(key)?;
    // Before the server has read an `UNSUB`, the earlier room's messages come with the id that another has by now.
    if message.subject.strip_prefix(ROOM_PREFIX.as_bytes())? != room.as_bytes() {
        return None;
    }
    let room = room.clone();
    let envelope = Envelope::read(message.headers.block());
    let time_unix_ns = envelope.time_unix_ns.unwrap_or_else(now_unix_ns);
    let (kind, from, echo) = (envelope.kind.unwrap_or(Kind::Binary), envelope.from, envelope.echo);
    let payload = Bytes::copy_from_slice(message.payload);
    Some((key, Publication { from, echo, ..Publication::of_backend(room, kind, payload, time_unix_ns) }))
}

#[inline]
fn key(keys: &[Option<RoomKey>], sid: u64) -> Option<RoomKey> {
    keys.get(usize::try_from(sid).ok()?).copied().flatten()
}

fn now_unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The place of a room's entry in the interest table, which is its subscription id. The table keeps it to itself today, and says it to
/// a hasher: it is the first number of the key.
fn slot(key: RoomKey) -> usize {
    struct First(Option<usize>);
    impl Hasher for First {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, _: &[u8]) {}
        fn write_usize(&mut self, slot: usize) {
            self.0.get_or_insert(slot);
        }
    }
    let mut first = First(None);
    key.hash(&mut first);
    first.0.unwrap_or_default()
}

impl Broker for Own {
    const NAME: &'static str = "own";
    const NEEDS_RUNTIME: bool = true;

    fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) {
        match self.read(cx, now, sink) {
            Ok(true) => cx.waker().wake_by_ref(),
            Ok(false) => {}
            Err(error) => {
                eprintln!("relay: the connection has ended: {error}");
                std::process::exit(1);
            }
        }
    }

    fn subscribe<S: Sink>(&mut self, key: RoomKey, room: &RoomName, _: Instant, _: &mut S) {
        self.subscribes.push_back((key, room.clone()));
    }

    fn unsubscribe(&mut self, key: RoomKey) {
        let slot = slot(key);
        if self.keys.get(slot).is_some_and(|known| *known == Some(key)) {
            self.keys[slot] = None;
            encoder::unsubscribe(&mut self.unsent, slot as u64);
        }
    }

    fn publish<S: Sink>(&mut self, _: &mut Context<'_>, item: Outgoing, _: Instant, _: &mut S) -> Result<(), NotTaken> {
        let mut headers = Vec::with_capacity(256);
        Envelope::of(&item.publication).write(&mut headers);
        let (subject, payload) = ([ROOM_PREFIX, &item.publication.room], &item.publication.payload);
        encoder::publish(&mut self.unsent, subject, None, &headers, payload)
            .map_err(|_| NotTaken::Refused(item.publisher(), PublishError::Unavailable))
    }

    fn send_to_nodes<S: Sink>(&mut self, _: NodeTarget, _: Bytes, _: &mut S) {}

    fn flush<S: Sink>(&mut self, cx: &mut Context<'_>, _: Instant, sink: &mut S) {
        while self.unsent.len() < WRITE_BYTES {
            let Some((key, room)) = self.subscribes.pop_front() else { break };
            let slot = slot(key);
            if encoder::subscribe(&mut self.unsent, [ROOM_PREFIX, &room], slot as u64).is_err() {
                sink.refused(key);
                continue;
            }
            if self.keys.len() <= slot {
                self.keys.resize(slot + 1, None);
            }
            self.keys[slot] = Some(key);
            self.collecting.push(key);
        }
        if !self.collecting.is_empty() {
            encoder::ping(&mut self.unsent);
            self.fences.push_back(std::mem::take(&mut self.collecting));
        }
        if let Err(error) = self.write(cx) {
            eprintln!("relay: cannot write: {error}");
            std::process::exit(1);
        }
        self.unsent.shrink_to(2 * READ_BYTES);
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
        Poll::Ready(())
    }
}
