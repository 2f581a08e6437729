//! Simulated sockets: octets cut at random, buffers that fill, peers that do not read, sends that are queued and fall short.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;

use tidegate_core::connection::{Chunk, Handle};
use tidegate_core::shard::driver::{Driver, ErrorKind, Event, Queued, Ready};

use super::dice::Dice;

/// A queue of octets.
#[derive(Default)]
pub struct Octets {
    octets: Vec<u8>,
    taken: usize,
}

impl Octets {
    pub fn len(&self) -> usize {
        self.octets.len() - self.taken
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn extend(&mut self, octets: &[u8]) {
        if self.is_empty() {
            self.octets.clear();
            self.taken = 0;
        }
        self.octets.extend_from_slice(octets);
    }

    /// Takes the oldest, up to `most`.
    fn take(&mut self, most: usize) -> &[u8] {
        let start = self.taken;
        self.taken += most.min(self.len());
        &self.octets[start..self.taken]
    }
}

/// One connection, seen from both ends.
#[derive(Default)]
pub struct Socket {
    /// From the client, not yet read by the shard.
    pub to_server: Octets,
    /// From the shard, not yet read by the client.
    pub to_client: Octets,
    /// Octets that `to_client` takes.
    pub capacity: usize,
    /// The client sent its FIN.
    pub client_fin: bool,
    /// The client is gone: everything fails.
    pub client_reset: bool,
    /// The shard sent its FIN, or closed.
    pub server_fin: bool,
    handle: Option<Handle>,
    blocked: bool,
    released: bool,
    /// On the list of those with something for the client to read.
    has_news: bool,
}

impl Socket {
    /// A fresh connection whose client lets `capacity` octets wait unread.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }
}

/// All sockets of a shard.
pub struct Net {
    /// By number; the numbers of the other shards' sockets are vacant.
    sockets: Vec<Option<Socket>>,
    dice: Dice,
    /// Sockets with something for the client to read, or the end.
    news: Vec<RawFd>,
    events: VecDeque<Event>,
    queued: Vec<(RawFd, Handle, Chunk)>,
    /// Sockets whose FIN goes out after what is queued.
    finished: Vec<RawFd>,
    /// Sends are queued as the io_uring wire does, instead of done at once as epoll's.
    deferred: bool,
    batch: u32,
}

impl Net {
    pub fn new(dice: Dice, deferred: bool) -> Self {
        Self {
            sockets: Vec::new(),
            dice,
            news: Vec::new(),
            events: VecDeque::new(),
            queued: Vec::new(),
            finished: Vec::new(),
            deferred,
            batch: 1,
        }
    }

    pub fn insert(&mut self, fd: RawFd, socket: Socket) {
        self.sockets.resize_with(self.sockets.len().max(fd as usize + 1), || None);
        self.sockets[fd as usize] = Some(socket);
    }

    pub fn get(&self, fd: RawFd) -> Option<&Socket> {
        self.sockets.get(fd as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, fd: RawFd) -> Option<&mut Socket> {
        self.sockets.get_mut(fd as usize)?.as_mut()
    }

    pub fn tick(&mut self) {
        self.events.push_back(Event::Ticked(1));
    }

    /// Octets or a FIN came in: the edge is told once, data and FIN perhaps together.
    pub fn announce(&mut self, fd: RawFd, writable: bool) {
        let Some(socket) = self.get(fd) else { return };
        let Some(handle) = socket.handle.filter(|_| !socket.released) else { return };
        let hangup = socket.client_fin || socket.client_reset;
        self.events.push_back(Event::Ready(Ready { handle, readable: true, writable, hangup }));
    }

    /// Takes the list of the sockets whose clients have something to read, or the end. Those that are not read empty have to
    /// be put back with [`Net::note_news`].
    pub fn take_news(&mut self) -> Vec<RawFd> {
        let news = std::mem::take(&mut self.news);
        for fd in &news {
            if let Some(socket) = self.get_mut(*fd) {
                socket.has_news = false;
            }
        }
        news
    }

    /// Puts a socket on the list of those that have something to read.
    pub fn note_news(&mut self, fd: RawFd) {
        let Some(socket) = self.get_mut(fd) else { return };
        if !std::mem::replace(&mut socket.has_news, true) {
            self.news.push(fd);
        }
    }

    /// The client reads; a shard whose send did not fit is told that there is room.
    pub fn client_reads(&mut self, fd: RawFd, most: usize, octets: &mut Vec<u8>) {
        let Some(socket) = self.get_mut(fd) else { return };
        let taken = socket.to_client.take(most);
        octets.extend_from_slice(taken);
        if !taken.is_empty() && std::mem::take(&mut socket.blocked) {
            self.announce(fd, true);
        }
    }

    fn send_some(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let Some(socket) = self.get_mut(fd) else { panic!("a send to a socket that was closed") };
        assert!(!socket.server_fin, "a send after the FIN");
        if socket.client_reset {
            return Err(ErrorKind::Broken);
        }
        let room = socket.capacity.saturating_sub(socket.to_client.len()).min(bytes.len());
        socket.to_client.extend(&bytes[..room]);
        socket.blocked = room < bytes.len();
        self.note_news(fd);
        if room == 0 && !bytes.is_empty() { Err(ErrorKind::WouldBlock) } else { Ok(room) }
    }

    fn finish(&mut self, fd: RawFd) {
        if let Some(socket) = self.get_mut(fd) {
            socket.server_fin = true;
            self.note_news(fd);
        }
    }

    fn finish_after_queued(&mut self, fd: RawFd) {
        if self.queued.is_empty() { self.finish(fd) } else { self.finished.push(fd) }
    }
}

/// The shard's end of a [`Net`].
pub struct SimWire(pub Rc<RefCell<Net>>);

impl Driver for SimWire {
    fn arm(&mut self, fd: RawFd, handle: Handle) -> Result<(), ErrorKind> {
        let mut net = self.0.borrow_mut();
        if let Some(socket) = net.get_mut(fd) {
            socket.handle = Some(handle);
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
        let socket = net.get_mut(fd).expect("a read from a socket that was closed");
        if socket.client_reset {
            return Err(ErrorKind::Broken);
        }
        if socket.to_server.is_empty() {
            return if socket.client_fin { Ok(0) } else { Err(ErrorKind::WouldBlock) };
        }
        let taken = socket.to_server.take(buffer.len().min(cut));
        let length = taken.len();
        buffer[..length].copy_from_slice(taken);
        if !socket.to_server.is_empty() && !socket.client_fin {
            // The rest arrives later: a short read is the end of what was there. After a FIN nothing comes that could be told.
            net.announce(fd, false);
        }
        Ok(length)
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut net = self.0.borrow_mut();
        assert!(!net.queued.iter().any(|(queued, ..)| *queued == fd), "a send overtakes a queued one");
        assert!(net.get(fd).is_some_and(|socket| !socket.released), "a send to a released socket");
        net.send_some(fd, bytes)
    }

    fn queue(&mut self, fd: RawFd, handle: Handle, chunk: &Chunk) -> Queued {
        let mut net = self.0.borrow_mut();
        if !net.deferred {
            return Queued::Now(net.send_some(fd, chunk.bytes()));
        }
        assert!(!net.queued.iter().any(|(queued, ..)| *queued == fd), "two sends of one connection in a batch");
        net.queued.push((fd, handle, chunk.clone()));
        Queued::Later
    }

    fn batch(&self) -> u32 {
        let net = self.0.borrow();
        if net.deferred { net.batch } else { 0 }
    }

    fn submit(&mut self, events: &mut Vec<Event>) {
        let mut net = self.0.borrow_mut();
        net.batch += 1;
        for (fd, handle, chunk) in std::mem::take(&mut net.queued) {
            let result = net.send_some(fd, chunk.bytes());
            if !matches!(result, Ok(sent) if sent == chunk.bytes().len()) {
                events.push(Event::Unsent { handle, chunk, result });
            }
        }
        for fd in std::mem::take(&mut net.finished) {
            net.finish(fd);
        }
    }

    fn finish(&mut self, fd: RawFd) {
        self.0.borrow_mut().finish_after_queued(fd);
    }

    fn release(&mut self, fd: RawFd, handle: Handle, events: &mut Vec<Event>) {
        let mut net = self.0.borrow_mut();
        net.finish_after_queued(fd);
        let deferred = net.deferred;
        let socket = net.get_mut(fd).expect("released twice");
        assert!(!socket.released, "released twice");
        socket.released = true;
        if deferred {
            net.events.push_back(Event::Released(handle));
        } else {
            events.push(Event::Released(handle));
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
