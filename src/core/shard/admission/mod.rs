//! Admission: the node's capacity, the rate of new connections, bounds for each address and on unfinished handshakes, and the drain.
//!
//! A connection over a limit is accepted and answered with 503 or 429 after its request is read, so that health checks are answered
//! on a full node; without reading it where the table is full, or where the host has no descriptors left. Where there are too
//! many sockets that are not upgraded, the oldest gives way to the new one. A peer that makes mistake after mistake is dropped
//! right after accept: no defence makes other peers wait.
//!
//! The leftmost of the shard's parts. A granted upgrade is a value ([`Upgraded`]): the shard welcomes the client and lets it join.

mod entrance;
mod handshake;
mod peers;
#[cfg(test)]
mod tests;
mod unserved;

use std::collections::HashMap;

use super::clients::{Clients, Leaving};
use super::driver::{Driver, Fd};
use super::settings::Options;
use super::turn::Turn;
use super::writer::Writer;
use crate::close::{CloseReason, Refusal};
use crate::connection::{Entry, Flags, Handle, State, Tick, gained};
use crate::http;
pub(super) use entrance::{Entrance, verified, verified_for_room};
use handshake::Head;
pub use peers::{Arrival, PerAddress};
use peers::{Mistakes, Peer};
use unserved::Unserved;

/// Share of the unfinished handshakes of a shard that one address may have: a part in so many.
const ADDRESS_SHARE: usize = 4;

/// Refused pages that are kept until the log takes them.
const REFUSED_PAGES: usize = 16;

/// A page that may not connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedPage {
    /// Its Origin, as sent.
    pub origin: String,
    /// The Host that it asked, as sent.
    pub host: String,
    /// Why.
    pub refusal: Refusal,
}

/// A drain under way.
#[derive(Clone, Copy)]
struct Drain {
    start: Tick,
    /// Ticks.
    window: u32,
}

/// See the module.
pub(super) struct Admission {
    rate: Bucket,
    /// Requests that come in pieces, by slab index.
    heads: HashMap<u32, Head>,
    /// Connections whose request is neither granted nor answered.
    handshakes: usize,
    /// Sockets that are not upgraded, the oldest first.
    unserved: Unserved,
    mistakes: Mistakes,
    /// Peers of the upgraded connections, by slab index; only where connections are counted by address.
    counted: HashMap<u32, Peer>,
    /// For the log.
    refused_pages: Vec<RefusedPage>,
    /// New upgrades are refused: the node drains or stops.
    refusing: bool,
    drain: Option<Drain>,
}

impl Admission {
    /// For a shard with these settings.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            rate: Bucket::new(options.connection_rate),
            heads: HashMap::new(),
            handshakes: 0,
            unserved: Unserved::default(),
            mistakes: Mistakes::new(options.limits.mistakes_per_address),
            counted: HashMap::new(),
            refused_pages: Vec::new(),
            refusing: false,
            drain: None,
        }
    }

    /// Goes on with other options: the rates are new ones, and what was counted so far stays.
    pub(super) fn handle_options(&mut self, options: &Options) {
        self.rate.change(options.connection_rate);
        self.mistakes.change_rate(options.limits.mistakes_per_address);
    }

    /// Takes a page that was refused, for the log.
    pub(super) fn poll_refused_page(&mut self) -> Option<RefusedPage> {
        self.refused_pages.pop()
    }

    /// Refuses new upgrades from now on.
    pub(super) fn refuse_upgrades(&mut self) {
        self.refusing = true;
    }

    /// The same, and has the connections leave evenly within a window of so many ticks.
    pub(super) fn begin_drain(&mut self, turn: &Turn, window: u32) {
        self.refusing = true;
        self.drain = Some(Drain { start: turn.clock.tick, window });
    }

    /// Takes a drain back: upgrades are granted again, and the connections that are left stay.
    pub(super) fn end_drain(&mut self) {
        self.refusing = false;
        self.drain = None;
    }

    /// Which connections are to leave, if any are.
    pub(super) fn leaving(&self, turn: &Turn) -> Option<Leaving> {
        let (drain, max_age) = (self.drain.map(|drain| (drain.start, drain.window)), turn.settings.max_age);
        (drain.is_some() || max_age != 0).then_some(Leaving { drain, max_age })
    }

    /// Takes in a socket that was just accepted; it is non-blocking. The shard owns its number from here on.
    pub(super) fn accept<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        fd: Fd,
        arrival: Arrival,
    ) {
        turn.counters.accepted.add(1);
        let (now, settings) = (turn.clock.tick, &turn.settings);
        // Many clients share the address of a proxy.
        let by_proxy = arrival.address.is_some_and(|address| settings.trusts(address));
        let peer = arrival.address.filter(|_| !by_proxy).map_or(Peer::UNKNOWN, Peer::of);
        if self.mistakes.is_over(peer, now) {
            return drop_unread(turn, writer, fd);
        }
        let is_over_rate = !self.refusing && !self.rate.take(now);
        if clients.len() >= settings.slots {
            return self.refuse_unread(turn, writer, fd, Refusal::Capacity);
        }
        let place = self.unserved.next_place();
        let handle = clients.insert(turn, |generation| {
            let mut entry = Entry::new(fd, generation, now, now + settings.handshake_deadline);
            entry.credits = settings.message_burst;
            entry.batch = place;
            if is_over_rate {
                entry.flags.set(Flags::REFUSED);
            }
            if by_proxy && settings.options.proxy_protocol {
                entry.flags.set(Flags::PROXIED);
            }
            entry
        });
        self.handshakes += 1;
        self.unserved.push(handle, peer, turn.clock.mono_us().wrapping_sub(arrival.queued_us));
        if writer.driver().arm(fd, handle).is_err() {
            clients.refuse(turn, handle, Refusal::Capacity);
        }
        self.bound_unserved(turn, clients);
        self.bound_handshakes_of(turn, clients, peer);
    }

    /// Has the oldest socket that is not upgraded give way where there are too many.
    fn bound_unserved(&mut self, turn: &mut Turn, clients: &mut Clients) {
        let limit = turn.settings.options.limits.handshakes_per_shard;
        // What is not counted as a connection is not upgraded.
        let count = clients.len().saturating_sub(turn.counters.connections.value() as usize + 1);
        let Some(oldest) = self.unserved.excess(clients, count, limit) else { return };
        match clients.find(oldest).map(|entry| entry.state) {
            Some(State::Handshaking) => clients.refuse(turn, oldest, Refusal::Displaced),
            // It was answered, and has not closed.
            _ => clients.gone(turn, oldest, CloseReason::Reset),
        }
    }

    /// Has the oldest unfinished handshake of a peer give way where the peer has too many.
    fn bound_handshakes_of(&mut self, turn: &mut Turn, clients: &mut Clients, peer: Peer) {
        let bound = (turn.settings.options.limits.handshakes_per_shard / ADDRESS_SHARE).max(1);
        if self.handshakes > bound
            && let Some(oldest) = self.unserved.excess_of(clients, peer, bound as u32)
        {
            clients.refuse(turn, oldest, Refusal::Displaced);
        }
    }

    /// The peer of an unfinished handshake: the client that a PROXY header told, else the socket's; and when it was accepted, in
    /// monotonic µs modulo 2³².
    fn peer(&self, clients: &Clients, handle: Handle) -> (Peer, u32) {
        let place = clients.peek(handle.index).and_then(|entry| self.unserved.at(entry.batch));
        let (peer, accepted_us) = place.unwrap_or((Peer::UNKNOWN, 0));
        (clients.forwarded(handle.index).map_or(peer, Peer::of), accepted_us)
    }

    /// Takes an upgraded connection out of its address's count.
    pub(super) fn leave_address(&mut self, turn: &Turn, handle: Handle) {
        if let Some(peer) = self.counted.remove(&handle.index) {
            turn.settings.options.per_address.give_back(peer);
        }
    }

    /// Connections whose request is neither granted nor answered.
    #[cfg(test)]
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Takes in a socket that was just accepted only to refuse it.
    pub(super) fn turn_away<D: Driver>(&mut self, turn: &mut Turn, writer: &mut Writer<D>, fd: Fd) {
        turn.counters.accepted.add(1);
        self.refuse_unread(turn, writer, fd, Refusal::Capacity);
    }

    /// Answers at once, for want of room to wait for the request.
    fn refuse_unread<D: Driver>(&mut self, turn: &mut Turn, writer: &mut Writer<D>, fd: Fd, refusal: Refusal) {
        let refusal = if self.refusing { Refusal::Draining } else { refusal };
        // What is read is not reset: a socket that is closed over unread octets resets the answer too.
        let _ = writer.driver().recv(fd, &mut [0; UNREAD_BYTES]);
        let mut answer = Vec::with_capacity(256);
        http::refuse(&mut answer, refusal, Some(retry_after_s(turn)));
        let _ = writer.driver().send(fd, &answer);
        writer.driver().finish(fd);
        writer.driver().discard(fd);
        turn.counters.refused[refusal as usize].add(1);
    }

    /// Answers a request without upgrading it, then finishes.
    pub(super) fn answer_refusal<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        refusal: Refusal,
    ) {
        if refusal.is_mistake() {
            self.mistakes.note(self.peer(clients, handle).0, turn.clock.tick);
        }
        let retry_after_s = matches!(refusal.status(), 429 | 503).then(|| retry_after_s(turn));
        let mut answer = Vec::with_capacity(512);
        http::refuse(&mut answer, refusal, retry_after_s);
        turn.counters.refused[refusal as usize].add(1);
        self.answer_and_finish(turn, writer, clients, handle, answer);
        if refusal == Refusal::Displaced {
            // It gives way at once, not when its peer has closed too.
            clients.gone(turn, handle, CloseReason::Reset);
        }
    }

    /// Sends the last octets of a connection that was never upgraded.
    fn answer_and_finish<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        mut answer: Vec<u8>,
    ) {
        self.leave_handshake(handle);
        if clients.find(handle).is_some_and(|entry| entry.flags.has(Flags::HEAD)) {
            http::without_body(&mut answer);
        }
        if clients.begin_answer(turn, handle) {
            writer.transmit(turn, clients, handle, &answer);
            writer.finish_after_outbox(clients, handle);
        }
    }

    /// Takes a connection out of the handshakes' accounts.
    pub(super) fn leave_handshake(&mut self, handle: Handle) {
        self.handshakes -= 1;
        self.take_head(handle);
    }
}

/// Octets that are read of a request that is refused at once.
const UNREAD_BYTES: usize = 32 * 1024;

/// Seconds after which a refused client may try again: jittered, so that a crowd does not come back at once.
fn retry_after_s(turn: &mut Turn) -> u32 {
    1 + turn.random.below(5)
}

/// Closes a socket with a reset, unread and unanswered.
fn drop_unread<D: Driver>(turn: &Turn, writer: &mut Writer<D>, fd: Fd) {
    writer.driver().reset(fd);
    writer.driver().discard(fd);
    turn.counters.refused[Refusal::Dropped as usize].add(1);
}

/// New connections: a token bucket of one second's burst.
struct Bucket {
    rate: u32,
    credits: u32,
    tick: Tick,
}

impl Bucket {
    /// `rate` a second; 0 is no limit.
    fn new(rate: u32) -> Self {
        Self { rate, credits: rate, tick: 0 }
    }

    /// Goes on with another rate. A burst of it begins where there was no limit.
    fn change(&mut self, rate: u32) {
        self.credits = if self.rate == 0 { rate } else { self.credits.min(rate) };
        self.rate = rate;
    }

    fn take(&mut self, now: Tick) -> bool {
        if self.rate == 0 {
            return true;
        }
        let gained = gained(self.tick, now, self.rate);
        self.credits = (u64::from(self.credits) + gained).min(u64::from(self.rate)) as u32;
        self.tick = now;
        let taken = self.credits > 0;
        self.credits -= u32::from(taken);
        taken
    }
}
