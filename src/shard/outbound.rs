//! From the shard to a client: what is answered, delivered, or waits.
//!
//! Everything to one connection goes through here, so that octets keep their order: what finds an outbox waits behind it,
//! and what finds a send queued in the driver's batch has that batch done first.

use std::rc::Rc;

use super::Shard;
use crate::close::CloseReason;
use crate::conn::{Chunk, Dropped, Flags, Overflow, State, Tag, Token};
use crate::counters::{DropReason, MessageType};
use crate::model::GapReason;
use crate::shard::driver::{Driver, ErrorKind, Event, Queued};
use crate::shard::settings::SlowPolicy;

impl<D: Driver> Shard<D> {
    /// Sends what `reply` holds, which is left empty.
    pub(super) fn flush_reply(&mut self, token: Token) {
        self.flush_with(token, Self::send);
    }

    /// The same for a connection on its way out: its close frame and what goes before it.
    pub(super) fn flush_last_words(&mut self, token: Token) {
        self.flush_with(token, Self::transmit);
    }

    fn flush_with(&mut self, token: Token, send: impl FnOnce(&mut Self, Token, &[u8])) {
        if self.reply.is_empty() {
            return;
        }
        let reply = std::mem::take(&mut self.reply);
        send(self, token, &reply);
        self.reply = reply;
        self.reply.clear();
    }

    /// Sends octets of our own making, such as answers and pongs, to an open connection: nothing follows a close frame
    /// (RFC 6455 §5.5.1).
    pub(super) fn send(&mut self, token: Token, bytes: &[u8]) {
        self.send_where(token, bytes, |state| state == State::Open);
    }

    /// Sends octets of our own making in whatever state. They are never dropped.
    pub(super) fn transmit(&mut self, token: Token, bytes: &[u8]) {
        self.send_where(token, bytes, |state| state != State::Released);
    }

    fn send_where(&mut self, token: Token, bytes: &[u8], may: impl Fn(State) -> bool) {
        let Some(entry) = self.clients.find(token).filter(|entry| may(entry.state)) else { return };
        if entry.batch != 0 && entry.batch == self.driver.batch() {
            self.submit_batch();
            return self.send_where(token, bytes, may);
        }
        if entry.outbox.is_some() {
            return self.put(token, Chunk::whole(Rc::from(bytes), Tag::Control, 0));
        }
        let result = self.driver.send(entry.fd, bytes);
        let chunk = || Chunk::whole(Rc::from(bytes), Tag::Control, 0);
        self.handle_sent(token, bytes.len(), result, chunk);
    }

    /// Delivers a chunk that others get too, unless the connection was closed meanwhile.
    pub(super) fn deliver(&mut self, token: Token, chunk: &Chunk) {
        let Some(entry) = self.clients.open(token) else { return };
        if entry.outbox.is_some() {
            return self.put(token, chunk.clone());
        }
        let batch = self.driver.batch();
        if batch != 0 && entry.batch == batch {
            self.submit_batch();
            return self.deliver(token, chunk);
        }
        entry.batch = batch;
        let length = chunk.bytes().len();
        match self.driver.queue(entry.fd, token, chunk) {
            Queued::Later => self.queued_bytes += length as i64,
            Queued::Now(result) => self.handle_sent(token, length, result, || chunk.clone()),
        }
    }

    /// Has the driver do what it has queued, and handles what failed of it. What else it tells waits: this may be called in the
    /// middle of an event.
    pub(super) fn submit_batch(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.driver.submit(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Unsent { token, chunk, result } => self.handle_unsent(token, chunk, result),
                Event::Ready(_) | Event::Released(_) | Event::Rung | Event::Ticked(_) => self.later.push(event),
            }
        }
        self.events = events;
    }

    /// A send that the driver had queued was short or failed.
    pub(super) fn handle_unsent(&mut self, token: Token, chunk: Chunk, result: Result<usize, ErrorKind>) {
        let length = chunk.bytes().len();
        self.queued_bytes -= length as i64;
        self.handle_sent(token, length, result, || chunk.clone());
    }

    fn handle_sent(
        &mut self,
        token: Token,
        length: usize,
        result: Result<usize, ErrorKind>,
        chunk: impl Fn() -> Chunk,
    ) {
        let sent = match result {
            Ok(sent) => sent,
            Err(ErrorKind::WouldBlock) => 0,
            Err(ErrorKind::NoMemory | ErrorKind::Broken) => {
                return self.clients.gone(&mut self.turn, token, CloseReason::Reset);
            }
        };
        self.turn.counters.bytes_out.add(sent as u64);
        if sent == length {
            return;
        }
        let now = self.turn.clock.tick;
        let alive = self.clients.alive(token);
        let Some(entry) = alive else { return };
        let outbox = entry.outbox.get_or_insert_default();
        outbox.begin(chunk(), sent, now);
        self.turn.counters.outbox_bytes.add(outbox.pinned_bytes() as u64);
        self.clients.note_holder(token);
    }

    /// Queues a chunk in an outbox that exists. Over the cap, what the rooms' policies allow to drop makes room; a reader that
    /// is too slow even so is closed. Last words may go over the cap: there are none after them.
    fn put(&mut self, token: Token, chunk: Chunk) {
        let (now, cap) = (self.turn.clock.tick, self.turn.settings.options.limits.outbox_bytes);
        let Some(entry) = self.clients.find(token) else { return };
        let cap = if entry.state == State::Open { cap } else { usize::MAX };
        let Some(outbox) = &mut entry.outbox else { return };
        let size = chunk.buffer.len() as u64;
        if outbox.push(chunk.clone(), cap, now).is_ok() {
            self.turn.counters.outbox_bytes.add(size);
        } else if self.make_room(token, &chunk).is_err() {
            self.close(token, CloseReason::SlowReader);
        }
    }

    /// Drops the oldest chunks of rooms whose policy allows it until `chunk` fits, and tells the gap in front of it.
    fn make_room(&mut self, token: Token, chunk: &Chunk) -> Result<(), Overflow> {
        let (now, cap) = (self.turn.clock.tick, self.turn.settings.options.limits.outbox_bytes);
        let droppable: Vec<u32> = {
            let Some(entry) = self.clients.find(token) else { return Ok(()) };
            let rooms: Vec<u32> = entry.rooms.as_slice().iter().map(|membership| membership.room).collect();
            rooms.into_iter().filter(|room| self.drops_oldest(*room)).collect()
        };
        loop {
            let open = self.clients.open(token);
            let Some(outbox) = open.and_then(|entry| entry.outbox.as_mut()) else {
                return Ok(());
            };
            if outbox.push(chunk.clone(), cap, now).is_ok() {
                self.turn.counters.outbox_bytes.add(chunk.buffer.len() as u64);
                return Ok(());
            }
            let Some(dropped) = outbox.drop_oldest(|room| droppable.contains(&room)) else {
                return Err(Overflow);
            };
            self.turn.counters.outbox_bytes.sub(dropped.bytes as u64);
            self.turn.counters.dropped[DropReason::Outbox as usize].add(u64::from(dropped.messages));
            self.tell_dropped(token, dropped);
        }
    }

    /// Puts a notice in the place of what was dropped, unless an earlier one of the room waits still.
    fn tell_dropped(&mut self, token: Token, dropped: Dropped) {
        let now = self.turn.clock.tick;
        let Some(frame) = self.gap_frame(token, Some(dropped.room), GapReason::Outbox) else {
            // The raw dialect has no notice: it is closed where that is configured, else its loss is only counted.
            if self.turn.settings.options.close_on_gap {
                self.close(token, CloseReason::Gap);
            }
            return;
        };
        let Some(outbox) = self.clients.find(token).and_then(|entry| entry.outbox.as_mut()) else {
            return;
        };
        if !outbox.tells_gap(dropped.room) {
            outbox.tell_gap(dropped.at, Chunk::whole(Rc::from(&frame[..]), Tag::Gap(dropped.room), 1), now);
            self.turn.counters.outbox_bytes.add(frame.len() as u64);
            self.turn.counters.gaps[GapReason::Outbox as usize].add(1);
            self.turn.count_out(MessageType::Gap, 1);
        }
    }

    /// Sends what waits in an outbox until it is empty or would block.
    pub(super) fn flush_outbox(&mut self, token: Token) {
        loop {
            let Some(entry) = self.clients.find(token) else { return };
            let Some(outbox) = &mut entry.outbox else { return };
            let before = outbox.pinned_bytes() as u64;
            let Some(chunk) = outbox.front() else {
                return self.outbox_is_empty(token);
            };
            match self.driver.send(entry.fd, chunk.bytes()) {
                Ok(sent) => {
                    outbox.advance(sent);
                    self.turn.counters.bytes_out.add(sent as u64);
                    self.turn.counters.outbox_bytes.sub(before - outbox.pinned_bytes() as u64);
                }
                Err(ErrorKind::WouldBlock) => return,
                Err(ErrorKind::NoMemory | ErrorKind::Broken) => {
                    return self.clients.gone(&mut self.turn, token, CloseReason::Reset);
                }
            }
        }
    }

    fn outbox_is_empty(&mut self, token: Token) {
        let Some(entry) = self.clients.find(token) else { return };
        entry.outbox = None;
        if entry.flags.has(Flags::FIN_AFTER_OUTBOX) {
            self.finish(token);
        }
    }

    /// Drops what an outbox holds and has not begun, or all of it.
    pub(super) fn shrink_outbox(&mut self, token: Token, keep_begun: bool) {
        let Some(entry) = self.clients.find(token) else { return };
        let before = entry.outbox_bytes() as u64;
        if let Some(outbox) = entry.outbox.as_mut().filter(|_| keep_begun) {
            outbox.clear_unbegun();
        }
        if !keep_begun || entry.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            entry.outbox = None;
        }
        let after = entry.outbox_bytes() as u64;
        self.turn.counters.outbox_bytes.sub(before - after);
    }

    fn drops_oldest(&self, room: u32) -> bool {
        self.subscriptions.get(room as usize).is_some_and(|s| s.policy.slow == SlowPolicy::DropOldest)
    }
}
