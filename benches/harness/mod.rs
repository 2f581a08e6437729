//! A shard on a wire that costs nothing: what the micro benchmarks and the instruction counts run. Sockets are numbers,
//! every read brings the octets that were laid out for it, every send takes all.
//!
//! The shard is the gateway's own, whole: only the kernel is missing.

// Each target compiles a copy of its own and uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_core::connection::{Chunk, Handle};
use tidegate_core::counters::{RelayCounters, ShardCounters};
use tidegate_core::dialect::DialectId;
use tidegate_core::model::{Kind, Publication, RoomName};
use tidegate_core::readiness::NodeState;
use tidegate_core::relay::{ToRelay, ToShard};
use tidegate_core::shard::driver::{Driver, ErrorKind, Event, Queued, Ready};
use tidegate_core::shard::{Arrival, Budgets, Options, Route, Settings, Shard};
use tidegate_core::ws::frame::{self, OpCode};

/// Connections that a harness has room for.
const CAPACITY: u64 = 100_000;
/// More than any turn of a harness has to do.
const BUDGET: usize = 1 << 20;
/// The first client's descriptor: none of this process has such a number.
const FIRST_FD: RawFd = 1_000_000;
/// A ping without payload.
const PING: &[u8] = &[0x89, 0];

/// What the wire is told and what it saw.
#[derive(Default)]
struct Net {
    /// What every read brings until it is changed.
    inbound: Vec<u8>,
    /// Reads that still bring it; the next one finds nothing.
    reads: usize,
    events: Vec<Event>,
    handles: Vec<Handle>,
    /// Clients that were pinged and have not answered.
    pinged: Vec<usize>,
    sends: u64,
}

/// The shard's end of a [`Net`].
struct FreeWire(Rc<RefCell<Net>>);

impl FreeWire {
    fn sent(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut net = self.0.borrow_mut();
        net.sends += 1;
        if bytes == PING {
            net.pinged.push((fd - FIRST_FD) as usize);
        }
        Ok(bytes.len())
    }
}

impl Driver for FreeWire {
    fn arm(&mut self, _: RawFd, handle: Handle) -> Result<(), ErrorKind> {
        self.0.borrow_mut().handles.push(handle);
        Ok(())
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.0.borrow_mut().events);
    }

    fn recv(&mut self, _: RawFd, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let mut net = self.0.borrow_mut();
        if net.reads == 0 {
            return Err(ErrorKind::WouldBlock);
        }
        net.reads -= 1;
        buffer[..net.inbound.len()].copy_from_slice(&net.inbound);
        Ok(net.inbound.len())
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.sent(fd, bytes)
    }

    fn queue(&mut self, fd: RawFd, _: Handle, chunk: &Chunk) -> Queued {
        Queued::Now(self.sent(fd, chunk.bytes()))
    }

    fn batch(&self) -> u32 {
        0
    }

    fn submit(&mut self, _: &mut Vec<Event>) {}

    fn finish(&mut self, _: RawFd) {}

    fn release(&mut self, _: RawFd, handle: Handle, events: &mut Vec<Event>) {
        events.push(Event::Released(handle));
    }

    fn reset(&mut self, _: RawFd) {}

    fn discard(&mut self, _: RawFd) {}

    fn peer(&self, _: RawFd) -> Option<SocketAddr> {
        None
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn may_sleep(&mut self) -> bool {
        true
    }

    fn failure(&mut self) -> Option<io::Error> {
        None
    }
}

/// A shard and its sockets.
pub struct Harness {
    shard: Shard<FreeWire>,
    net: Rc<RefCell<Net>>,
    time_ns: u64,
}

impl Harness {
    /// One without connections; `/echo` sends back, rates are off.
    pub fn new() -> Self {
        let echo = Route { path: String::from("/echo"), dialect: DialectId::Echo, room: None, subprotocol: None };
        let mut options = Options { connection_rate: 0, routes: vec![echo], ..Options::default() };
        options.message_rate = 0;
        let counters: Arc<ShardCounters> = Arc::default();
        let state = NodeState::new(Arc::new(RelayCounters::default()), false);
        let all = vec![counters.clone()];
        let budgets = Budgets { connections: CAPACITY, outbox_bytes: 1 << 30, unfinished_bytes: 1 << 30 };
        let settings = Settings::new(Arc::new(options), 7, 0, budgets, all, state);
        let net = Rc::new(RefCell::new(Net::default()));
        let shard = Shard::new(FreeWire(net.clone()), Arc::new(settings), counters, 1);
        Self { shard, net, time_ns: 0 }
    }

    /// Connects so many clients to `path` and lets them say `then`, if that is something.
    pub fn connect(&mut self, clients: usize, path: &str, then: &[u8]) {
        let first = self.clients();
        for number in first..first + clients {
            let arrival = Arrival { address: Some(Ipv4Addr::LOCALHOST.into()), queued_us: 0 };
            self.shard.handle_accepted(FIRST_FD + number as RawFd, arrival);
            self.say(number, request(path).as_bytes());
            if !then.is_empty() {
                self.say(number, then);
            }
            self.turn();
            self.confirm();
        }
    }

    fn clients(&self) -> usize {
        self.net.borrow().handles.len()
    }

    /// Lets a client's octets arrive and be read.
    pub fn say(&mut self, client: usize, octets: &[u8]) {
        {
            let mut net = self.net.borrow_mut();
            let handle = net.handles[client];
            net.inbound.clear();
            net.inbound.extend_from_slice(octets);
            net.reads = 1;
            net.events.push(readable(handle));
        }
        self.shard.reap();
        self.shard.serve_ready(BUDGET);
    }

    /// Lets the same octets arrive on every connection; the next [`Self::turn`] reads them.
    pub fn all_say(&mut self, octets: &[u8]) {
        let net = &mut *self.net.borrow_mut();
        net.inbound.clear();
        net.inbound.extend_from_slice(octets);
        net.reads = net.handles.len();
        net.events.extend(net.handles.iter().map(|handle| readable(*handle)));
    }

    /// Lets `pong` arrive from everybody who was pinged; the next [`Self::turn`] reads it. Returns how many that were.
    pub fn answer_pings(&mut self, pong: &[u8]) -> u64 {
        let net = &mut *self.net.borrow_mut();
        net.inbound.clear();
        net.inbound.extend_from_slice(pong);
        net.reads = net.pinged.len();
        net.events.extend(net.pinged.drain(..).map(|client| readable(net.handles[client])));
        net.reads as u64
    }

    /// One turn of the shard's loop, without the relay.
    pub fn turn(&mut self) {
        self.time_ns += 1_000_000;
        self.shard.set_time(self.time_ns, self.time_ns);
        self.shard.reap();
        self.shard.serve_ready(BUDGET);
        self.shard.fan_out(BUDGET);
        self.shard.submit();
        self.shard.note_delivered(self.time_ns);
    }

    /// A tenth of a second goes by.
    pub fn tick(&mut self) {
        self.net.borrow_mut().events.push(Event::Ticked(1));
        self.turn();
    }

    /// Takes what the shard has for the relay; confirms subscriptions; returns how many publications were among it.
    pub fn confirm(&mut self) -> u64 {
        let mut publications = 0;
        while let Some(item) = self.shard.poll_relay() {
            match item {
                ToRelay::Subscribe(room) => self.shard.handle_relay(ToShard::Joined(room)),
                ToRelay::Publish(..) => publications += 1,
                ToRelay::Unsubscribe(_) | ToRelay::ToNodes(..) => {}
            }
        }
        publications
    }

    /// A publication comes from the relay; the next [`Self::turn`] delivers it.
    pub fn deliver(&mut self, publication: &Arc<Publication>) {
        self.shard.handle_relay(ToShard::Deliver(publication.clone()));
    }

    /// Sends so far.
    pub fn sends(&self) -> u64 {
        self.net.borrow().sends
    }
}

fn readable(handle: Handle) -> Event {
    Event::Ready(Ready { handle, readable: true, writable: false, hangup: false })
}

fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A client's frame.
pub fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_masked(&mut out, opcode, [0x37, 0xfa, 0x21, 0x3d], payload);
    out
}

/// JSON text of `octets` octets that stands for what applications say.
pub fn content(octets: usize) -> String {
    let mut text = String::from(r#"{"user":"ada","text":""#);
    while text.len() < octets - 2 {
        text.push((b'a' + (text.len() % 26) as u8) as char);
    }
    text.push_str("\"}");
    text
}

/// A native client's message into `room`, `octets` octets of content.
pub fn message(room: &str, octets: usize) -> String {
    format!(r#"{{"type":"message","roomId":"{room}","content":{}}}"#, content(octets))
}

/// A publication of a backend.
pub fn publication(room: &str, octets: usize) -> Arc<Publication> {
    Arc::new(Publication::of_backend(RoomName::from(room), Kind::Json, content(octets).into(), 1))
}
