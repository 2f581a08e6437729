//! From a readable socket to what the client meant.

use std::ops::Range;

use super::{Shard, identity};
use crate::close::CloseReason;
use crate::connection::{Flags, Handle, State};
use crate::counters::MessageType;
use crate::dialect::{ClientLimits, Notice, Payload};
use crate::limits::WASTED_BYTE_COST;
use crate::shard::driver::{Driver, ErrorKind, Ready};
use crate::ws::message::{self, Event, Rules};

/// When a connection is read again.
enum Next {
    /// When the driver says that more has come.
    Event,
    /// In the shard's next turn: more may be there, and no event will say so.
    Turn,
    /// With the next tick.
    Tick,
}

/// Octets read at once from one connection. They may be 2,000 messages, which all other connections wait for.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// Connections that are read before the first of them is heard.
const READ_AHEAD: usize = 16;
/// Octets read at once from a connection in excess. What is in them is mostly dropped, and all other connections wait for that.
pub(super) const EXCESS_READ_BYTES: usize = 8 * 1024;
/// Pongs in one read that are taken for answers to our pings.
const PONGS: u32 = 16;

/// What is kept while a turn's reads are handled.
pub(super) struct Reading {
    /// Where reads lie one after another; twice [`READ_BYTES`], so that the last of them has room whole.
    scratch: Box<[u8]>,
    /// Where in `scratch` lies what was read and is not handled yet.
    received: Vec<Received>,
    /// Messages handled in this turn.
    pub(super) handled: u32,
    /// What is being handled is more than its client may send.
    excess: bool,
    /// The last ping of the read that is being handled that no credit paid for.
    owed_pong: Option<Vec<u8>>,
}

impl Default for Reading {
    fn default() -> Self {
        let scratch = vec![0; 2 * READ_BYTES].into_boxed_slice();
        Self { scratch, received: Vec::new(), handled: 0, excess: false, owed_pong: None }
    }
}

/// What one read brought.
struct Received {
    handle: Handle,
    /// Where it lies in the scratch buffer.
    octets: Range<usize>,
    /// There may be more, and no event will say so.
    more: bool,
    was_excess: bool,
}

impl<D: Driver> Shard<D> {
    pub(super) fn handle_ready(&mut self, ready: Ready) {
        if self.clients.note_ready(ready) {
            self.clients.write_on(ready.handle);
        }
    }

    /// Reads once from each of up to `budget` ready connections. A connection over its rate is read again with the next
    /// tick, so that TCP slows it down and no other waits for what it sends.
    ///
    /// A few are read before the first of them is heard: the kernel's code for reading, ours and the kernel's for sending do not
    /// fit the processor's first cache together, and taking turns each would push the others out.
    pub fn serve_ready(&mut self, budget: usize) {
        let mut scratch = std::mem::take(&mut self.reading.scratch);
        let mut received = std::mem::take(&mut self.reading.received);
        let mut left = budget.min(self.clients.ready_len());
        while left > 0 {
            let mut used = 0;
            for _ in 0..left.min(READ_AHEAD) {
                left -= 1;
                let Some(handle) = self.clients.next_ready() else { break };
                received.extend(self.receive(handle, &mut scratch, &mut used));
                if used > scratch.len() - READ_BYTES {
                    break;
                }
            }
            self.settle();
            for read in received.drain(..) {
                let (handle, next) = (read.handle, self.handle_read(read, &mut scratch));
                self.settle();
                match next {
                    Next::Event => {}
                    Next::Turn => self.clients.read_again(handle),
                    Next::Tick => self.clients.read_with_next_tick(handle),
                }
            }
        }
        self.reading.scratch = scratch;
        self.reading.received = received;
    }

    /// Reads once into what is left of `scratch`, from `used` on, which it moves. What comes to no octets is handled here.
    fn receive(&mut self, handle: Handle, scratch: &mut [u8], used: &mut usize) -> Option<Received> {
        let entry = self.clients.alive(handle)?;
        // Before the read: an event that comes while it is handled is one more.
        entry.flags.clear(Flags::READY);
        let was_excess = entry.flags.has(Flags::EXCESS);
        let size = if was_excess { EXCESS_READ_BYTES } else { READ_BYTES };
        let start = *used;
        match self.writer.driver().recv(entry.fd, &mut scratch[start..start + size]) {
            Ok(0) => self.handle_eof(handle),
            Ok(length) => {
                self.turn.counters.bytes_in.add(length as u64);
                entry.hear(self.turn.clock.tick);
                let more = length == size || entry.flags.has(Flags::HANGUP);
                *used = start + length;
                return Some(Received { handle, octets: start..start + length, more, was_excess });
            }
            Err(ErrorKind::WouldBlock) => {}
            Err(ErrorKind::NoMemory) => self.handle_no_memory(handle),
            Err(ErrorKind::Broken) => self.clients.gone(&mut self.turn, handle, CloseReason::Reset),
        }
        None
    }

    /// Acts on what was read; tells when to read again. Meanwhile the connection may have ended.
    fn handle_read(&mut self, read: Received, scratch: &mut [u8]) -> Next {
        let Received { handle, octets, more, was_excess } = read;
        let Some(entry) = self.clients.find(handle) else { return Next::Event };
        let octets = &mut scratch[octets];
        let excess = match entry.state {
            State::Handshaking => {
                self.handle_head(handle, octets);
                false
            }
            State::Open | State::Closing if entry.flags.has(Flags::UPGRADED) => self.handle_frames(handle, octets),
            State::Open | State::Ending | State::Closing | State::Lingering | State::Released => false,
        };
        if excess != was_excess {
            self.note_excess(handle, excess || more);
        }
        match (excess, more) {
            (true, _) => Next::Tick,
            (false, true) => Next::Turn,
            (false, false) => Next::Event,
        }
    }

    /// Octets before the upgrade. Where they grant it, the welcome goes out with the answer in one send.
    fn handle_head(&mut self, handle: Handle, octets: &[u8]) {
        let Self { turn, admission, writer, clients, .. } = self;
        let Some(upgraded) = admission.handle_head(turn, writer, clients, handle, octets) else { return };
        let (id, settings) = (turn.id(handle), turn.settings.clone());
        if !self.enter(handle, upgraded.dialect, upgraded.entrance) {
            return;
        }
        let options = &settings.options;
        let (ping_ms, pong_ms) = (options.ping_interval.as_millis() as u64, options.pong_timeout.as_millis() as u64);
        let limits = ClientLimits {
            message_bytes: settings.state.message_bytes().unwrap_or(options.limits.message_bytes) as u64,
            message_rate: options.message_rate.into(),
            rooms: options.limits.rooms_per_connection as u64,
        };
        let Self { turn, writer, clients, .. } = self;
        let identity = identity::identity(clients.session(handle), turn.clock.tick);
        let welcome = Notice::Welcome { id, node: &options.node_name, ping_ms, pong_ms, limits, identity };
        writer.reply(turn, upgraded.dialect, &welcome);
        writer.flush(turn, clients, handle);
        if let Some(room) = &upgraded.room {
            self.join(handle, room, None);
        }
    }

    /// A connection that sends more than it may is in excess until all that it sent is read.
    fn note_excess(&mut self, handle: Handle, in_excess: bool) {
        let Some(entry) = self.clients.find(handle) else { return };
        entry.flags.clear(Flags::EXCESS);
        if in_excess {
            entry.flags.set(Flags::EXCESS);
        }
    }

    /// The host had no memory to read. The socket itself is usable, so that the client can be told.
    #[cold]
    fn handle_no_memory(&mut self, handle: Handle) {
        if self.clients.is_open(handle) {
            self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::Internal);
        } else {
            self.clients.gone(&mut self.turn, handle, CloseReason::Reset);
        }
    }

    /// The client's FIN: after a close frame it is the end, before one it is an abrupt one.
    fn handle_eof(&mut self, handle: Handle) {
        self.clients.gone(&mut self.turn, handle, CloseReason::Eof);
    }

    /// Handles what was read; true where it was more than its sender may send.
    fn handle_frames(&mut self, handle: Handle, bytes: &mut [u8]) -> bool {
        // The decoder's state leaves the entry while the shard acts on what it says.
        let mut partial = self.clients.take_partial(&self.turn, handle);
        let was_partial = partial.is_some();
        // Control frames may come between those of a message (RFC 6455 §5.4), and finish nothing of it.
        let is_message_open = partial.as_ref().is_some_and(|partial| partial.is_message_open());
        let Some(entry) = self.clients.find(handle) else { return false };
        let rules = Rules { deflate: entry.form.deflate, ..self.turn.settings.rules };
        let mut position = 0;
        let (mut offence, mut messages, mut pongs, mut finished) = (None, 0, 0, false);
        self.reading.excess = false;
        loop {
            match message::decode(&mut partial, bytes, &mut position, &rules) {
                Ok(Some(event)) => {
                    messages += u32::from(!event.is_control());
                    pongs += u32::from(matches!(event, Event::Pong(_)));
                    finished |= !is_message_open || !event.is_control();
                    // The usual read brings whole messages: nothing is left to ask the decoder for.
                    if !self.handle_event(handle, event) || (position == bytes.len() && partial.is_none()) {
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
        self.reading.handled += messages;
        // Of pings over the rate the last one of a read is answered (RFC 6455 §5.5.2).
        if let Some(payload) = self.reading.owed_pong.take().filter(|_| self.clients.is_open(handle)) {
            self.pong(&payload);
        }
        self.writer.flush(&mut self.turn, &mut self.clients, handle);
        self.note_unfinished(handle, partial, was_partial && !finished);
        if let Some(reason) = offence {
            self.writer.close(&mut self.turn, &mut self.clients, handle, reason);
        }
        self.reading.excess || pongs > PONGS
    }

    /// Keeps what is unfinished, and gives it its deadline if it is new. A connection that is being closed has its own.
    fn note_unfinished(&mut self, handle: Handle, partial: Option<Box<message::Partial>>, same: bool) {
        let deadline = self.turn.clock.tick + self.turn.settings.message_deadline;
        let Some(entry) = self.clients.find(handle) else { return };
        match (entry.state, &partial) {
            (State::Open, None) => entry.deadline = 0,
            (State::Open, Some(_)) if !same => entry.deadline = deadline,
            _ => {}
        }
        if let Some(partial) = partial.filter(|_| matches!(entry.state, State::Open | State::Ending | State::Closing)) {
            self.clients.keep_partial(&self.turn, handle, partial);
        }
    }

    /// Acts on one event; false where nothing more may be decoded.
    fn handle_event(&mut self, handle: Handle, event: Event<'_>) -> bool {
        match event {
            Event::Close(status) => {
                self.writer.flush(&mut self.turn, &mut self.clients, handle);
                self.clients.closed_by_peer(&mut self.turn, handle, status.map(|(code, _)| code));
                return false;
            }
            // After our own close frame only the peer's matters (RFC 6455 §5.5.1).
            _ if !self.clients.is_open(handle) => {}
            Event::Ping(payload) => {
                self.turn.counters.messages_in[MessageType::Ping as usize].add(1);
                if self.take_credit(handle) {
                    self.pong(payload);
                } else {
                    self.reading.owed_pong = Some(payload.to_vec());
                }
            }
            Event::Pong(_) => {}
            Event::Text(text) => self.handle_message(handle, Payload::Text(text)),
            Event::Binary(payload) => self.handle_message(handle, Payload::Binary(payload)),
            Event::InflatedText(text, sent) => self.handle_inflated(handle, Payload::Text(text), sent),
            Event::InflatedBinary(payload, sent) => self.handle_inflated(handle, Payload::Binary(payload), sent),
        }
        self.cork(handle);
        true
    }

    /// A message that came compressed. Its price is that of what came out, and more where more was sent than that: its sender decides how
    /// much work each of them is.
    #[inline(never)]
    fn handle_inflated(&mut self, handle: Handle, message: Payload<'_>, sent_bytes: usize) {
        let bytes = message.bytes().len();
        let wasted_bytes = sent_bytes.saturating_sub(bytes);
        let paid = self.take_credits_for(handle, bytes.saturating_add(wasted_bytes.saturating_mul(WASTED_BYTE_COST)));
        self.handle_counted(handle, message, paid);
    }

    fn pong(&mut self, payload: &[u8]) {
        self.writer.reply_pong(&self.turn, payload);
    }

    /// What one read brought is answered with one send, up to a size that still fits a socket's buffer.
    pub(super) fn cork(&mut self, handle: Handle) {
        const CORK_BYTES: usize = 16 * 1024;
        if self.writer.reply_len() >= CORK_BYTES {
            self.writer.flush(&mut self.turn, &mut self.clients, handle);
        }
    }

    /// Takes one credit of the connection's message rate; without one it is in excess.
    pub(super) fn take_credit(&mut self, handle: Handle) -> bool {
        let taken = self.clients.take_credit(&self.turn, handle);
        self.reading.excess |= !taken;
        taken
    }

    /// Takes what a message of `bytes` over [`CREDIT_BYTES`](crate::limits::CREDIT_BYTES) costs.
    #[cold]
    #[inline(never)]
    pub(super) fn take_credits_for(&mut self, handle: Handle, bytes: usize) -> bool {
        let taken = self.clients.take_credits_for(&self.turn, handle, bytes);
        self.reading.excess |= !taken;
        taken
    }
}
