//! From a readable socket to what the client meant.

use std::ops::Range;

use super::{READ_BYTES, Shard};
use crate::close::CloseReason;
use crate::conn::{Flags, State, Token};
use crate::counters::MessageType;
use crate::dialect::{DialectId, Payload};
use crate::proto::frame;
use crate::proto::message::{self, Event, Rules};
use crate::shard::driver::{Driver, ErrorKind, Ready};

/// When a connection is read again.
enum Next {
    /// When the driver says that more has come.
    Event,
    /// In the shard's next turn: more may be there, and no event will say so.
    Turn,
    /// With the next tick.
    Tick,
}

/// Connections that are read before the first of them is heard.
const READ_AHEAD: usize = 16;
/// Octets read at once from a connection in excess. What is in them is mostly dropped, and everybody else waits for that.
pub(super) const EXCESS_READ_BYTES: usize = 8 * 1024;
/// Pongs in one read that are taken for answers to our pings.
const PONGS: u32 = 16;

/// What one read brought.
pub(super) struct Received {
    token: Token,
    /// Where it lies in the scratch buffer.
    octets: Range<usize>,
    /// There may be more, and no event will say so.
    more: bool,
    was_excess: bool,
}

impl<D: Driver> Shard<D> {
    pub(super) fn handle_ready(&mut self, ready: Ready) {
        let Some(entry) = self.connections.find(ready.token) else { return };
        if entry.state == State::Released {
            return;
        }
        if ready.hangup {
            entry.flags.set(Flags::HANGUP);
        }
        if ready.readable && !entry.flags.has(Flags::READY) {
            entry.flags.set(Flags::READY);
            self.ready.push_back(ready.token);
        }
        if ready.writable && entry.outbox.is_some() {
            self.flush_outbox(ready.token);
        }
    }

    /// Reads once from each of up to `budget` ready connections. Whoever sends more than it may is read again with the next
    /// tick, so that TCP slows it down and nobody else waits for what it says.
    ///
    /// A few are read before the first of them is heard: the kernel's code for reading, ours and the kernel's for sending do not
    /// fit the processor's first cache together, and taking turns each would push the others out.
    pub fn serve_ready(&mut self, budget: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut received = std::mem::take(&mut self.received);
        let mut left = budget.min(self.ready.len());
        while left > 0 {
            let mut used = 0;
            for _ in 0..left.min(READ_AHEAD) {
                left -= 1;
                let Some(token) = self.ready.pop_front() else { break };
                received.extend(self.receive(token, &mut scratch, &mut used));
                if used > scratch.len() - READ_BYTES {
                    break;
                }
            }
            self.settle();
            for read in received.drain(..) {
                let (token, next) = (read.token, self.handle_read(read, &mut scratch));
                self.settle();
                if !matches!(next, Next::Event) {
                    self.read_again(token, &next);
                }
            }
        }
        self.scratch = scratch;
        self.received = received;
    }

    fn read_again(&mut self, token: Token, next: &Next) {
        let Some(entry) = self.connections.find(token).filter(|entry| !entry.flags.has(Flags::READY)) else { return };
        entry.flags.set(Flags::READY);
        match next {
            Next::Tick => self.held_back.push(token),
            Next::Turn | Next::Event => self.ready.push_back(token),
        }
    }

    /// Reads once into what is left of `scratch`, from `used` on, which it moves. What comes to no octets is handled here.
    fn receive(&mut self, token: Token, scratch: &mut [u8], used: &mut usize) -> Option<Received> {
        let entry = self.connections.find(token).filter(|entry| entry.state != State::Released)?;
        // Before the read: an event that comes while it is handled is one more.
        entry.flags.clear(Flags::READY);
        let was_excess = entry.flags.has(Flags::EXCESS);
        let size = if was_excess { EXCESS_READ_BYTES } else { READ_BYTES };
        let start = *used;
        match self.driver.recv(entry.fd, &mut scratch[start..start + size]) {
            Ok(0) => self.handle_eof(token),
            Ok(length) => {
                self.counters.bytes_in.add(length as u64);
                entry.hear(self.clock.tick);
                let more = length == size || entry.flags.has(Flags::HANGUP);
                *used = start + length;
                return Some(Received { token, octets: start..start + length, more, was_excess });
            }
            Err(ErrorKind::WouldBlock) => {}
            Err(ErrorKind::NoMemory) => self.handle_no_memory(token),
            Err(ErrorKind::Broken) => self.gone(token, CloseReason::Reset),
        }
        None
    }

    /// Acts on what was read; tells when to read again. Meanwhile the connection may have ended.
    fn handle_read(&mut self, read: Received, scratch: &mut [u8]) -> Next {
        let Received { token, octets, more, was_excess } = read;
        let Some(entry) = self.connections.find(token) else { return Next::Event };
        let octets = &mut scratch[octets];
        let excess = match entry.state {
            State::Handshaking => {
                self.handle_head(token, octets);
                false
            }
            State::Open | State::Closing if entry.flags.has(Flags::UPGRADED) => self.handle_frames(token, octets),
            State::Open | State::Ending | State::Closing | State::Lingering | State::Released => false,
        };
        if excess != was_excess {
            self.note_excess(token, excess || more);
        }
        match (excess, more) {
            (true, _) => Next::Tick,
            (false, true) => Next::Turn,
            (false, false) => Next::Event,
        }
    }

    /// Whoever sends more than it may is in excess until all that it sent is read.
    fn note_excess(&mut self, token: Token, in_excess: bool) {
        let Some(entry) = self.connections.find(token) else { return };
        entry.flags.clear(Flags::EXCESS);
        if in_excess {
            entry.flags.set(Flags::EXCESS);
        }
    }

    /// The host had no memory to read. The socket itself is usable, so that the client can be told.
    #[cold]
    fn handle_no_memory(&mut self, token: Token) {
        if self.is_open(token) {
            self.close(token, CloseReason::Internal);
        } else {
            self.gone(token, CloseReason::Reset);
        }
    }

    /// The client's FIN: after a close frame it is the end, before one it is an abrupt one.
    fn handle_eof(&mut self, token: Token) {
        self.gone(token, CloseReason::Eof);
    }

    /// Handles what was read; true where it was more than its sender may send.
    fn handle_frames(&mut self, token: Token, bytes: &mut [u8]) -> bool {
        // The decoder's state leaves the entry while the shard acts on what it says.
        let mut partial = self.take_partial(token);
        let was_partial = partial.is_some();
        let Some(entry) = self.connections.find(token) else { return false };
        let rules = Rules { deflate: entry.form.deflate, ..self.settings.rules };
        let mut position = 0;
        let (mut offence, mut messages, mut pongs) = (None, 0, 0);
        self.excess = false;
        loop {
            match message::decode(&mut partial, bytes, &mut position, &rules) {
                Ok(Some(event)) => {
                    messages += u32::from(matches!(event, Event::Text(_) | Event::Binary(_)));
                    pongs += u32::from(matches!(event, Event::Pong(_)));
                    if !self.handle_event(token, event) {
                        break;
                    }
                }
                Ok(None) => break,
                Err(reason) => {
                    offence = Some(reason);
                    break;
                }
            }
        }
        self.handled += messages;
        // Of pings over the rate the last one of a read is answered (RFC 6455 §5.5.2).
        if let Some(payload) = self.owed_pong.take().filter(|_| self.is_open(token)) {
            self.pong(&payload);
        }
        self.flush_reply(token);
        self.note_unfinished(token, partial, was_partial && messages == 0);
        if let Some(reason) = offence {
            self.close(token, reason);
        }
        self.excess || pongs > PONGS
    }

    /// Keeps what is unfinished, and gives it its deadline if it is new. A connection that is being closed has its own.
    fn note_unfinished(&mut self, token: Token, partial: Option<Box<message::Partial>>, same: bool) {
        let deadline = self.clock.tick + self.settings.message_deadline;
        let Some(entry) = self.connections.find(token) else { return };
        match (entry.state, &partial) {
            (State::Open, None) => entry.deadline = 0,
            (State::Open, Some(_)) if !same => entry.deadline = deadline,
            _ => {}
        }
        if let Some(partial) = partial.filter(|_| matches!(entry.state, State::Open | State::Ending | State::Closing)) {
            self.keep_partial(token, partial);
        }
    }

    /// Acts on one event; false where nothing more may be decoded.
    fn handle_event(&mut self, token: Token, event: Event<'_>) -> bool {
        match event {
            Event::Close(status) => {
                self.flush_reply(token);
                self.handle_close(token, status.map(|(code, _)| code));
                return false;
            }
            // After our own close frame only the peer's matters (RFC 6455 §5.5.1).
            _ if !self.is_open(token) => {}
            Event::Ping(payload) => {
                self.counters.messages_in[MessageType::Ping as usize].add(1);
                if self.take_token(token) {
                    self.pong(payload);
                } else {
                    self.owed_pong = Some(payload.to_vec());
                }
            }
            Event::Pong(_) => {}
            Event::Text(text) => self.handle_message(token, Payload::Text(text)),
            Event::Binary(payload) => self.handle_message(token, Payload::Binary(payload)),
        }
        self.cork(token);
        true
    }

    fn pong(&mut self, payload: &[u8]) {
        frame::write_frame(&mut self.reply, frame::PONG, payload);
        self.count_out(MessageType::Ping, 1);
    }

    /// What one read brought is answered with one send, up to a size that still fits a socket's buffer.
    fn cork(&mut self, token: Token) {
        const CORK_BYTES: usize = 16 * 1024;
        if self.reply.len() >= CORK_BYTES {
            self.flush_reply(token);
        }
    }

    pub(super) fn dialect(&mut self, token: Token) -> Option<DialectId> {
        self.connections.find(token).map(|entry| entry.form.dialect)
    }

    /// Takes a token of the connection's message rate; pings and messages are paid from the same purse.
    pub(super) fn take_token(&mut self, token: Token) -> bool {
        let (rate, burst, now) = (self.settings.options.message_rate, self.settings.message_burst, self.clock.tick);
        let taken = self.connections.find(token).is_some_and(|entry| entry.take_token(now, rate, burst));
        self.excess |= !taken;
        taken
    }
}
