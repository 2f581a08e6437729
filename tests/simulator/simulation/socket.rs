//! Simulated sockets: octets cut at random, buffers that fill, peers that do not read, sends that are queued and fall short.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;

use tidegate::conn::{Chunk, Token};
use tidegate::shard::driver::{Driver, ErrorKind, Event, Queued, Ready};

/// Random numbers: choices that were made beforehand, for as long as they last, then those of a seed.
#[derive(Clone)]
pub struct Dice {
    choices: VecDeque<u8>,
    state: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self::choosing(Vec::new(), seed)
    }

    /// What a fuzzer makes: where one choice changes, those after it stay.
    pub fn choosing(choices: Vec<u8>, seed: u64) -> Self {
        Self { choices: choices.into(), state: seed }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        if let Some(choice) = self.choices.pop_front() {
            let more = if bound > 256 { self.choices.pop_front().unwrap_or(0) } else { 0 };
            return (usize::from(choice) | usize::from(more) << 8) % bound.max(1);
        }
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = ((self.state >> 18) ^ self.state) >> 27;
        (x % bound.max(1) as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One connection, seen from both ends.
#[derive(Default)]
pub struct Socket {
    /// From the client, not yet read by the shard.
    pub to_server: VecDeque<u8>,
    /// From the shard, not yet read by the client.
    pub to_client: VecDeque<u8>,
    /// Octets that `to_client` takes.
    pub capacity: usize,
    /// The client sent its FIN.
    pub client_fin: bool,
    /// The client is gone: everything fails.
    pub client_reset: bool,
    /// The shard sent its FIN, or closed.
    pub server_fin: bool,
    token: Option<Token>,
    blocked: bool,
    released: bool,
}

impl Socket {
    /// A fresh connection whose client lets `capacity` octets wait unread.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }
}

/// All sockets of a shard.
pub struct Net {
    pub sockets: HashMap<RawFd, Socket>,
    pub dice: Dice,
    events: VecDeque<Event>,
    queued: Vec<(RawFd, Token, Chunk)>,
    /// Sockets whose FIN goes out after what is queued.
    finished: Vec<RawFd>,
    /// Sends are queued as the io_uring wire does, instead of done at once as epoll's.
    deferred: bool,
    batch: u32,
}

impl Net {
    pub fn new(dice: Dice, deferred: bool) -> Self {
        Self {
            sockets: HashMap::new(),
            dice,
            events: VecDeque::new(),
            queued: Vec::new(),
            finished: Vec::new(),
            deferred,
            batch: 1,
        }
    }

    pub fn tick(&mut self) {
        self.events.push_back(Event::Ticked(1));
    }

    /// Octets or a FIN came in: the edge is told once, data and FIN perhaps together.
    pub fn announce(&mut self, fd: RawFd, writable: bool) {
        let Some(socket) = self.sockets.get(&fd) else { return };
        let Some(token) = socket.token.filter(|_| !socket.released) else { return };
        let hangup = socket.client_fin || socket.client_reset;
        self.events.push_back(Event::Ready(Ready { token, readable: true, writable, hangup }));
    }

    /// Whether the client has something to read, or the end.
    pub fn has_news(&self, fd: RawFd) -> bool {
        self.sockets.get(&fd).is_some_and(|socket| socket.server_fin || !socket.to_client.is_empty())
    }

    /// The client reads; a shard that was refused room is told.
    pub fn client_reads(&mut self, fd: RawFd, most: usize) -> Vec<u8> {
        let Some(socket) = self.sockets.get_mut(&fd) else { return Vec::new() };
        let taken = most.min(socket.to_client.len());
        let octets = socket.to_client.drain(..taken).collect();
        if taken > 0 && std::mem::take(&mut socket.blocked) {
            self.announce(fd, true);
        }
        octets
    }

    fn send_some(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let Some(socket) = self.sockets.get_mut(&fd) else { panic!("a send to a socket that was closed") };
        assert!(!socket.server_fin, "a send after the FIN");
        if socket.client_reset {
            return Err(ErrorKind::Broken);
        }
        let room = socket.capacity.saturating_sub(socket.to_client.len()).min(bytes.len());
        socket.to_client.extend(&bytes[..room]);
        socket.blocked = room < bytes.len();
        if room == 0 && !bytes.is_empty() { Err(ErrorKind::WouldBlock) } else { Ok(room) }
    }

    fn finish(&mut self, fd: RawFd) {
        if let Some(socket) = self.sockets.get_mut(&fd) {
            socket.server_fin = true;
        }
    }

    fn finish_after_queued(&mut self, fd: RawFd) {
        if self.queued.is_empty() { self.finish(fd) } else { self.finished.push(fd) }
    }
}

/// The shard's end of a [`Net`].
pub struct SimWire(pub Rc<RefCell<Net>>);

impl Driver for SimWire {
    fn arm(&mut self, fd: RawFd, token: Token) -> Result<(), ErrorKind> {
        let mut net = self.0.borrow_mut();
        if let Some(socket) = net.sockets.get_mut(&fd) {
            socket.token = Some(token);
        }
        net.announce(fd, true);
        Ok(())
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        events.extend(self.0.borrow_mut().events.drain(..));
    }

    fn recv(&mut self, fd: RawFd, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let mut net = self.0.borrow_mut();
        let cut = net.dice.below(300) + 1;
        let socket = net.sockets.get_mut(&fd).expect("a read from a socket that was closed");
        if socket.client_reset {
            return Err(ErrorKind::Broken);
        }
        if socket.to_server.is_empty() {
            return if socket.client_fin { Ok(0) } else { Err(ErrorKind::WouldBlock) };
        }
        let length = socket.to_server.len().min(buffer.len()).min(cut);
        for (place, octet) in buffer.iter_mut().zip(socket.to_server.drain(..length)) {
            *place = octet;
        }
        if !socket.to_server.is_empty() && !socket.client_fin {
            // The rest arrives later: a short read is the end of what was there. After a FIN nothing comes that could be told.
            net.announce(fd, false);
        }
        Ok(length)
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut net = self.0.borrow_mut();
        assert!(!net.queued.iter().any(|(queued, ..)| *queued == fd), "a send overtakes a queued one");
        net.send_some(fd, bytes)
    }

    fn queue(&mut self, fd: RawFd, token: Token, chunk: &Chunk) -> Queued {
        let mut net = self.0.borrow_mut();
        if !net.deferred {
            return Queued::Now(net.send_some(fd, chunk.bytes()));
        }
        assert!(!net.queued.iter().any(|(queued, ..)| *queued == fd), "two sends of one connection in a batch");
        net.queued.push((fd, token, chunk.clone()));
        Queued::Later
    }

    fn batch(&self) -> u32 {
        let net = self.0.borrow();
        if net.deferred { net.batch } else { 0 }
    }

    fn submit(&mut self, events: &mut Vec<Event>) {
        let mut net = self.0.borrow_mut();
        net.batch += 1;
        for (fd, token, chunk) in std::mem::take(&mut net.queued) {
            let result = net.send_some(fd, chunk.bytes());
            if !matches!(result, Ok(sent) if sent == chunk.bytes().len()) {
                events.push(Event::Unsent { token, chunk, result });
            }
        }
        for fd in std::mem::take(&mut net.finished) {
            net.finish(fd);
        }
    }

    fn finish(&mut self, fd: RawFd) {
        self.0.borrow_mut().finish_after_queued(fd);
    }

    fn release(&mut self, fd: RawFd, token: Token, events: &mut Vec<Event>) {
        let mut net = self.0.borrow_mut();
        net.finish_after_queued(fd);
        let deferred = net.deferred;
        let socket = net.sockets.get_mut(&fd).expect("released twice");
        assert!(!socket.released, "released twice");
        socket.released = true;
        if deferred {
            net.events.push_back(Event::Released(token));
        } else {
            events.push(Event::Released(token));
        }
    }

    fn reset(&mut self, _: RawFd) {}

    fn discard(&mut self, fd: RawFd) {
        self.finish(fd);
    }

    fn peer(&self, _: RawFd) -> Option<SocketAddr> {
        None
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn may_sleep(&mut self) -> bool {
        self.0.borrow().events.is_empty()
    }

    fn failure(&mut self) -> Option<io::Error> {
        None
    }
}
