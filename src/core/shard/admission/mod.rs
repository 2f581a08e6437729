//! Admission: the node's capacity, the rate of new connections, the cap on unfinished handshakes, and the drain.
//!
//! A connection over a limit is accepted and answered with 503 after its request is read; without reading it above the handshake
//! cap, where the table is full, or where the host has no descriptors left.
//!
//! The leftmost of the shard's parts. A granted upgrade is a value ([`Upgraded`]): the shard welcomes the client and lets it join.

mod handshake;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::clients::{Clients, Leaving};
use super::driver::{Driver, Fd};
use super::turn::Turn;
use super::writer::Writer;
use crate::close::{Fault, Refusal};
use crate::connection::{Entry, Flags, Handle, Tick, gained};
use crate::http;
use handshake::Head;

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
    /// Requests that were refused because they are invalid.
    invalid_requests: u64,
    /// New upgrades are refused: the node drains or stops.
    refusing: bool,
    drain: Option<Drain>,
}

impl Admission {
    /// `rate` new connections a second; 0 is no limit.
    pub(super) fn new(rate: u32) -> Self {
        let rate = Bucket::new(rate);
        Self { rate, heads: HashMap::new(), handshakes: 0, invalid_requests: 0, refusing: false, drain: None }
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

    /// Requests that were refused because they are invalid. Each takes as much time as dozens of messages, and the connected
    /// clients wait for it.
    pub(super) fn invalid_requests(&self) -> u64 {
        self.invalid_requests
    }

    /// Takes in a socket that was just accepted; it is non-blocking. The shard owns its number from here on.
    pub(super) fn accept<D: Driver>(&mut self, turn: &mut Turn, writer: &mut Writer<D>, clients: &mut Clients, fd: Fd) {
        turn.counters.accepted.add(1);
        let refusal = self.refusal(turn);
        if self.handshakes >= turn.settings.options.limits.handshakes_per_shard {
            return self.refuse_unread(turn, writer, fd, Refusal::ConnectionRate);
        }
        if clients.len() >= turn.settings.slots {
            return self.refuse_unread(turn, writer, fd, Refusal::Capacity);
        }
        let (now, settings) = (turn.clock.tick, &turn.settings);
        let proxied = settings.options.proxy_protocol
            && writer.driver_ref().peer(fd).is_some_and(|peer| settings.trusts(peer.ip()));
        let handle = clients.insert(turn, |generation| {
            let mut entry = Entry::new(fd, generation, now, now + settings.handshake_deadline);
            entry.credits = settings.message_burst;
            entry.batch = turn.clock.mono_us();
            if let Some(refusal) = refusal {
                entry.flags.set(Flags::REFUSED);
                if refusal == Refusal::Capacity {
                    entry.flags.set(Flags::FULL);
                }
            }
            if proxied {
                entry.flags.set(Flags::PROXIED);
            }
            entry
        });
        self.handshakes += 1;
        if writer.driver().arm(fd, handle).is_err() {
            clients.refuse(turn, handle, Refusal::Capacity);
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

    /// Why a new connection would be refused now, whatever it asks for.
    fn refusal(&mut self, turn: &Turn) -> Option<Refusal> {
        if self.refusing {
            return Some(Refusal::Draining);
        }
        let open: u64 = turn.settings.node_counters.iter().map(|shard| shard.sockets.value()).sum();
        if open >= turn.settings.budgets.connections.min(turn.settings.state.capacity()) {
            return Some(Refusal::Capacity);
        }
        (!self.rate.take(turn.clock.tick)).then_some(Refusal::ConnectionRate)
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
        if refusal.fault() == Fault::Peer {
            self.invalid_requests += 1;
        }
        let retry_after_s = (refusal.status() == 503).then(|| retry_after_s(turn));
        let mut answer = Vec::with_capacity(512);
        http::refuse(&mut answer, refusal, retry_after_s);
        turn.counters.refused[refusal as usize].add(1);
        self.answer_and_finish(turn, writer, clients, handle, &answer);
    }

    /// Sends the last octets of a connection that was never upgraded.
    fn answer_and_finish<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        answer: &[u8],
    ) {
        self.leave_handshake(handle);
        if clients.begin_answer(turn, handle) {
            writer.transmit(turn, clients, handle, answer);
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
