//! Backpressure: what a client could not be sent yet is queued within its outbox's cap, and sent on when the socket takes more.
//! Where the client reads too slowly even so, messages are dropped with a gap, or it is closed, as the room's policy says.
//!
//! Sending on takes turns: a visit to a connection sends [`VISIT_BYTES`] at most, in few sends, and counts against the turn's budget,
//! because a crowd of readers that come back together has everything that it missed waiting.

use super::Writer;
use crate::close::CloseReason;
use crate::connection::{Chunk, Dropped, Flags, Frames, Handle, Overflow, Sent, State};
use crate::counters::{DropReason, MessageType, ShardCounters};
use crate::model::GapReason;
use crate::shard::clients::Clients;
use crate::shard::driver::{Driver, ErrorKind};
use crate::shard::turn::{Clock, Turn};

/// Octets that a connection is sent out of its outbox before others have their turn.
pub(in crate::shard) const VISIT_BYTES: usize = 64 * 1024;
/// Octets of small pieces that one send takes together.
pub(in crate::shard) const GATHERED_BYTES: usize = 16 * 1024;
/// Octets of an outbox that count like one send of a fan-out.
const BYTES_PER_SEND: usize = 4 * 1024;

impl<D: Driver> Writer<D> {
    /// Keeps the rest of a chunk of which `sent` octets are out.
    pub(super) fn begin_outbox(
        &mut self,
        turn: &Turn,
        clients: &mut Clients,
        handle: Handle,
        chunk: &Chunk,
        sent: usize,
    ) {
        let Some(entry) = clients.alive(handle) else { return };
        let outbox = entry.outbox.get_or_insert_default();
        outbox.begin(chunk, sent, turn.clock.moment(), &mut self.account);
        self.show_account(turn);
        clients.note_holder(handle);
    }

    /// Queues frames in an outbox that exists. Over the cap, messages that may be dropped make room; a reader that is too slow
    /// even so is closed. Last words may go over the cap: there are none after them.
    pub(super) fn put(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, frames: Frames<'_>) {
        let Some(entry) = clients.find(handle) else { return };
        let is_open = entry.state == State::Open;
        let cap = if is_open { turn.settings.options.limits.outbox_bytes } else { usize::MAX };
        if self.push(turn, clients, handle, frames, cap).is_ok() {
            return;
        }
        // A reader that takes more is not closed over what it could have been sent already.
        if clients.find(handle).is_some_and(|entry| entry.flags.has(Flags::WRITING)) {
            self.visit(turn, clients, handle);
            let Some(entry) = clients.open(handle) else { return };
            entry.outbox.get_or_insert_default();
        }
        if self.make_room(turn, clients, handle, frames).is_err() {
            self.close(turn, clients, handle, CloseReason::SlowReader);
        }
    }

    fn push(
        &mut self,
        turn: &Turn,
        clients: &mut Clients,
        handle: Handle,
        frames: Frames<'_>,
        cap: usize,
    ) -> Result<(), Overflow> {
        let Some(outbox) = clients.find(handle).and_then(|entry| entry.outbox.as_mut()) else { return Ok(()) };
        outbox.push(frames, cap, turn.clock.moment(), &mut self.account)?;
        self.show_account(turn);
        Ok(())
    }

    /// Drops the oldest messages that may be dropped until `frames` fit, and tells the gap in front of them.
    fn make_room(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        frames: Frames<'_>,
    ) -> Result<(), Overflow> {
        let cap = turn.settings.options.limits.outbox_bytes;
        while clients.is_open(handle) {
            if self.push(turn, clients, handle, frames, cap).is_ok() {
                return Ok(());
            }
            let outbox = clients.find(handle).and_then(|entry| entry.outbox.as_mut()).ok_or(Overflow)?;
            let dropped = outbox.drop_oldest(&mut self.account).ok_or(Overflow)?;
            self.show_account(turn);
            turn.counters.dropped[DropReason::Outbox as usize].add(u64::from(dropped.messages));
            self.tell_dropped(turn, clients, handle, dropped);
        }
        Ok(())
    }

    /// Puts a notice in the place of what was dropped, unless an earlier one of the room waits still.
    fn tell_dropped(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, dropped: Dropped) {
        let room = turn.names.name(dropped.room).cloned();
        let frame = room.and_then(|room| self.gap_frame(turn, clients, handle, Some(&room), GapReason::Outbox));
        let Some(frame) = frame else {
            // The raw dialect has no notice: it is closed where that is configured, else its loss is only counted.
            if turn.settings.options.close_on_gap {
                self.close(turn, clients, handle, CloseReason::Gap);
            }
            return;
        };
        let Some(outbox) = clients.find(handle).and_then(|entry| entry.outbox.as_mut()) else { return };
        if !outbox.tells_gap(dropped.room) {
            outbox.tell_gap(dropped.at, &frame, dropped.room, turn.clock.moment(), &mut self.account);
            self.show_account(turn);
            turn.counters.gaps[GapReason::Outbox as usize].add(1);
            turn.count_out(MessageType::Gap, 1);
        }
    }

    /// Sends what waits in the outboxes of connections whose sockets take more, each visited once at most, up to `budget` sends of a
    /// fan-out; returns what it took of them.
    pub(in crate::shard) fn write_on(&mut self, turn: &mut Turn, clients: &mut Clients, budget: usize) -> usize {
        let mut used = 0;
        for _ in 0..clients.writing_len() {
            if used >= budget {
                break;
            }
            let Some(handle) = clients.next_writing() else { break };
            used += 1 + self.visit(turn, clients, handle) / BYTES_PER_SEND;
        }
        used
    }

    /// Sends up to [`VISIT_BYTES`] of an outbox, until it is empty or would block; what is left and not blocked has its next turn.
    /// Returns how many octets went out.
    fn visit(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle) -> usize {
        let (mut out, mut takes_more) = (0, true);
        while takes_more && out < VISIT_BYTES {
            let (sent, more) = self.send_next(turn, clients, handle, VISIT_BYTES - out);
            (out, takes_more) = (out + sent, more);
        }
        if takes_more {
            clients.write_on(handle);
        }
        self.show_account(turn);
        out
    }

    /// One send out of an outbox, of up to `most` octets: how many went out, and whether the socket may take more of it.
    fn send_next(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, most: usize) -> (usize, bool) {
        let Some(entry) = clients.alive(handle) else { return (0, false) };
        let Some(outbox) = &mut entry.outbox else { return (0, false) };
        let octets = outbox.next_bytes(most, GATHERED_BYTES, &mut self.gathered);
        let offered = octets.len();
        match self.driver.send(entry.fd, octets) {
            Ok(sent) => {
                let (clock, counters) = (turn.clock, &turn.counters);
                outbox.advance(sent, &mut self.account, |piece| count_sent(counters, clock, piece));
                counters.bytes_out.add(sent as u64);
                let is_empty = outbox.is_empty();
                if is_empty {
                    self.end_outbox(turn, clients, handle);
                }
                // A short send is the end of the socket's room as an error is: an event tells of more.
                (sent, sent == offered && !is_empty)
            }
            Err(ErrorKind::WouldBlock) => (0, false),
            Err(ErrorKind::NoMemory | ErrorKind::Broken) => {
                clients.gone(turn, handle, CloseReason::Reset);
                (0, false)
            }
        }
    }

    /// Nothing waits any more; our FIN goes out where it was waiting for that.
    fn end_outbox(&mut self, turn: &Turn, clients: &mut Clients, handle: Handle) {
        self.shrink_outbox(turn, clients, handle, false);
        if clients.find(handle).is_some_and(|entry| entry.flags.has(Flags::FIN_AFTER_OUTBOX)) {
            self.finish(clients, handle);
        }
    }

    /// Drops what an outbox holds and has not begun, or all of it.
    pub(in crate::shard) fn shrink_outbox(
        &mut self,
        turn: &Turn,
        clients: &mut Clients,
        handle: Handle,
        keep_begun: bool,
    ) {
        let Some(entry) = clients.find(handle) else { return };
        let Some(outbox) = &mut entry.outbox else { return };
        if keep_begun {
            outbox.clear_unbegun(&mut self.account);
        }
        if !keep_begun || outbox.is_empty() {
            outbox.end(&mut self.account);
            entry.outbox = None;
        }
        self.show_account(turn);
    }

    /// Shows what the outboxes take.
    #[inline]
    fn show_account(&self, turn: &Turn) {
        turn.counters.outbox_bytes.set(self.account.memory_bytes());
        turn.counters.outbox_unread_bytes.set(self.account.unread_bytes());
    }

    /// Our FIN follows what is queued; then what the peer still sends is discarded until its EOF.
    pub(in crate::shard) fn finish_after_outbox(&mut self, clients: &mut Clients, handle: Handle) {
        // The last words went by way of `transmit`, which had the driver's batch submitted first: the outbox says what is left.
        let Some(entry) = clients.find(handle) else { return };
        if entry.outbox.is_some() {
            entry.flags.set(Flags::FIN_AFTER_OUTBOX);
        } else {
            self.finish(clients, handle);
        }
    }

    fn finish(&mut self, clients: &mut Clients, handle: Handle) {
        let Some(entry) = clients.find(handle) else { return };
        if matches!(entry.state, State::Lingering | State::Released) {
            return;
        }
        entry.state = State::Lingering;
        self.driver.finish(entry.fd);
    }
}

/// Counts the messages of a piece that is out, and how long they waited.
fn count_sent(counters: &ShardCounters, clock: Clock, piece: Sent) {
    let messages = u64::from(piece.messages);
    if messages > 0 {
        counters.messages_out[MessageType::Message as usize].add(messages);
        let waited_ms = clock.moment().mono_ms.wrapping_sub(piece.since.mono_ms);
        counters.outbox_wait.record(u64::from(waited_ms) * 1_000_000, messages);
    }
}
