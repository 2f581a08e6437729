//! Backpressure: what a client could not be sent yet is queued within its outbox's cap, and sent on when the socket takes more.
//! Where the client reads too slowly even so, messages are dropped with a gap, or it is closed, as the room's policy says.

use std::rc::Rc;

use super::Writer;
use crate::close::CloseReason;
use crate::connection::{Chunk, Dropped, Flags, Handle, Overflow, State, Tag};
use crate::counters::{DropReason, MessageType};
use crate::model::GapReason;
use crate::shard::clients::Clients;
use crate::shard::driver::{Driver, ErrorKind};
use crate::shard::turn::Turn;

impl<D: Driver> Writer<D> {
    /// Keeps the rest of a chunk of which `sent` octets are out.
    pub(super) fn begin_outbox(
        &mut self,
        turn: &Turn,
        clients: &mut Clients,
        handle: Handle,
        chunk: Chunk,
        sent: usize,
    ) {
        let Some(entry) = clients.alive(handle) else { return };
        let outbox = entry.outbox.get_or_insert_default();
        outbox.begin(chunk, sent, turn.clock.tick);
        turn.counters.outbox_bytes.add(outbox.pinned_bytes() as u64);
        clients.note_holder(handle);
    }

    /// Queues a chunk in an outbox that exists. Over the cap, the chunks that may be dropped make room; a reader that is too slow
    /// even so is closed. Last words may go over the cap: there are none after them.
    pub(super) fn put(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, chunk: Chunk) {
        let (now, cap) = (turn.clock.tick, turn.settings.options.limits.outbox_bytes);
        let Some(entry) = clients.find(handle) else { return };
        let cap = if entry.state == State::Open { cap } else { usize::MAX };
        let Some(outbox) = &mut entry.outbox else { return };
        let size = chunk.buffer.len() as u64;
        if outbox.push(chunk.clone(), cap, now).is_ok() {
            turn.counters.outbox_bytes.add(size);
        } else if self.make_room(turn, clients, handle, &chunk).is_err() {
            self.close(turn, clients, handle, CloseReason::SlowReader);
        }
    }

    /// Drops the oldest chunks that may be dropped until `chunk` fits, and tells the gap in front of it.
    fn make_room(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        chunk: &Chunk,
    ) -> Result<(), Overflow> {
        let (now, cap) = (turn.clock.tick, turn.settings.options.limits.outbox_bytes);
        loop {
            let Some(outbox) = clients.open(handle).and_then(|entry| entry.outbox.as_mut()) else { return Ok(()) };
            if outbox.push(chunk.clone(), cap, now).is_ok() {
                turn.counters.outbox_bytes.add(chunk.buffer.len() as u64);
                return Ok(());
            }
            let dropped = outbox.drop_oldest().ok_or(Overflow)?;
            turn.counters.outbox_bytes.sub(dropped.bytes as u64);
            turn.counters.dropped[DropReason::Outbox as usize].add(u64::from(dropped.messages));
            self.tell_dropped(turn, clients, handle, dropped);
        }
    }

    /// Puts a notice in the place of what was dropped, unless an earlier one of the room waits still.
    fn tell_dropped(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, dropped: Dropped) {
        let Some(frame) = self.gap_frame(turn, clients, handle, Some(dropped.room), GapReason::Outbox) else {
            // The raw dialect has no notice: it is closed where that is configured, else its loss is only counted.
            if turn.settings.options.close_on_gap {
                self.close(turn, clients, handle, CloseReason::Gap);
            }
            return;
        };
        let Some(outbox) = clients.find(handle).and_then(|entry| entry.outbox.as_mut()) else { return };
        if !outbox.tells_gap(dropped.room) {
            let notice = Chunk::whole(Rc::from(&frame[..]), Tag::Gap(dropped.room), 1);
            outbox.tell_gap(dropped.at, notice, turn.clock.tick);
            turn.counters.outbox_bytes.add(frame.len() as u64);
            turn.counters.gaps[GapReason::Outbox as usize].add(1);
            turn.count_out(MessageType::Gap, 1);
        }
    }

    /// Sends what waits in an outbox until it is empty or would block.
    pub(in crate::shard) fn flush_outbox(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle) {
        loop {
            let Some(entry) = clients.find(handle) else { return };
            let Some(outbox) = &mut entry.outbox else { return };
            let before = outbox.pinned_bytes() as u64;
            let Some(chunk) = outbox.front() else {
                entry.outbox = None;
                if entry.flags.has(Flags::FIN_AFTER_OUTBOX) {
                    self.finish(clients, handle);
                }
                return;
            };
            match self.driver.send(entry.fd, chunk.bytes()) {
                Ok(sent) => {
                    outbox.advance(sent);
                    turn.counters.bytes_out.add(sent as u64);
                    turn.counters.outbox_bytes.sub(before - outbox.pinned_bytes() as u64);
                }
                Err(ErrorKind::WouldBlock) => return,
                Err(ErrorKind::NoMemory | ErrorKind::Broken) => return clients.gone(turn, handle, CloseReason::Reset),
            }
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
        let before = entry.outbox_bytes() as u64;
        if let Some(outbox) = entry.outbox.as_mut().filter(|_| keep_begun) {
            outbox.clear_unbegun();
        }
        if !keep_begun || entry.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            entry.outbox = None;
        }
        turn.counters.outbox_bytes.sub(before - entry.outbox_bytes() as u64);
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
