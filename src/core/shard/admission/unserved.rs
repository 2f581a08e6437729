//! The sockets of a shard that are not upgraded: unfinished handshakes, and answered requests whose peer has not closed yet. In the
//! order in which they were accepted, because the oldest gives way to a new one where there are too many.
//!
//! Entries are removed lazily, so that leaving is O(1). Whether a socket is still unserved its entry in the table says.

use std::collections::{HashMap, VecDeque};

use super::peers::Peer;
use crate::connection::{Flags, Handle, State};
use crate::shard::clients::Clients;

/// The queue may be so many times as long as there may be unserved sockets: the others in it are upgraded or gone, and wait
/// behind an old one.
const QUEUE_FACTOR: usize = 16;
/// The counts of peers are taken anew after a share of a peer's bound: they are that much too high at most.
const RECOUNT_SHARE: u32 = 16;

struct Socket {
    handle: Handle,
    peer: Peer,
    /// Monotonic µs modulo 2³².
    accepted_us: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Unserved {
    queue: VecDeque<Socket>,
    /// The place of the queue's front, modulo 2³².
    first: u32,
    /// Unfinished handshakes by peer, as of the last count and with those that came since. Only while there are many.
    counts: HashMap<Peer, u32>,
    /// Sockets until the next count.
    until_recount: u32,
}

impl Unserved {
    /// The place of the next socket that is added. It is found there as long as its handshake is unfinished.
    pub(super) fn next_place(&self) -> u32 {
        self.first.wrapping_add(self.queue.len() as u32)
    }

    /// Adds a socket.
    pub(super) fn push(&mut self, handle: Handle, peer: Peer, accepted_us: u32) {
        self.queue.push_back(Socket { handle, peer, accepted_us });
    }

    /// The peer at a place, and when it was accepted, in monotonic µs modulo 2³².
    pub(super) fn at(&self, place: u32) -> Option<(Peer, u32)> {
        let socket = self.queue.get(place.wrapping_sub(self.first) as usize)?;
        Some((socket.peer, socket.accepted_us))
    }

    /// The oldest one, where it has to give way: there are `limit` or more, or too many gone ones wait behind it.
    pub(super) fn excess(&mut self, clients: &Clients, count: usize, limit: usize) -> Option<Handle> {
        while self.queue.front().is_some_and(|socket| !is_unserved(clients, socket.handle)) {
            self.queue.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        let is_excess = count >= limit || self.queue.len() >= limit.saturating_mul(QUEUE_FACTOR);
        self.queue.front().filter(|_| is_excess).map(|socket| socket.handle)
    }

    /// Counts one more unfinished handshake of a peer; the peer's oldest one where that is more than `bound`. It costs a walk over
    /// the queue now and then: to be called only while all unfinished handshakes together are more than the bound.
    pub(super) fn excess_of(&mut self, clients: &Clients, peer: Peer, bound: u32) -> Option<Handle> {
        if peer == Peer::UNKNOWN {
            return None;
        }
        if self.until_recount == 0 {
            self.recount(clients);
            self.until_recount = 1 + bound / RECOUNT_SHARE;
        } else {
            *self.counts.entry(peer).or_default() += 1;
        }
        self.until_recount -= 1;
        let count = self.counts.get_mut(&peer).filter(|count| **count > bound)?;
        *count -= 1;
        let mut unfinished = self.queue.iter().filter(|socket| is_unfinished(clients, socket.handle));
        unfinished.find(|socket| peer_of(clients, socket) == peer).map(|socket| socket.handle)
    }

    fn recount(&mut self, clients: &Clients) {
        self.counts.clear();
        for socket in self.queue.iter().filter(|socket| is_unfinished(clients, socket.handle)) {
            *self.counts.entry(peer_of(clients, socket)).or_default() += 1;
        }
    }
}

/// The client that a PROXY header told, else the socket's peer.
fn peer_of(clients: &Clients, socket: &Socket) -> Peer {
    clients.forwarded(socket.handle.index).map_or(socket.peer, Peer::of)
}

fn is_unserved(clients: &Clients, handle: Handle) -> bool {
    let entry = clients.peek(handle.index).filter(|entry| entry.generation == handle.generation);
    entry.is_some_and(|entry| !entry.flags.has(Flags::UPGRADED) && entry.state != State::Released)
}

fn is_unfinished(clients: &Clients, handle: Handle) -> bool {
    let entry = clients.peek(handle.index).filter(|entry| entry.generation == handle.generation);
    entry.is_some_and(|entry| entry.state == State::Handshaking)
}
