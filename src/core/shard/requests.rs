//! What clients ask for, and what they are answered.

use super::Shard;
use super::rooms::{Publish, Rooms};
use super::upstream::Request;
use crate::close::CloseReason;
use crate::connection::{Flags, Handle};
use crate::counters::{DropReason, MessageType};
use crate::dialect::{DialectId, ErrorCode, Intent, Notice, OverRate, Payload};
use crate::shard::driver::Driver;

impl<D: Driver> Shard<D> {
    /// One message of an open connection. It takes one credit of the message rate, however many requests it holds.
    pub(super) fn handle_message(&mut self, handle: Handle, message: Payload<'_>) {
        let Some(dialect) = self.clients.dialect(handle) else { return };
        if !self.take_credit(handle) {
            return self.handle_excess(handle, dialect);
        }
        let mut rest = Some(message);
        while let Some(intent) = dialect.next(&mut rest) {
            self.handle_intent(handle, dialect, intent);
            if rest.is_none() || !self.clients.is_open(handle) {
                return;
            }
        }
    }

    #[inline]
    fn handle_intent(&mut self, handle: Handle, dialect: DialectId, intent: Intent<'_>) {
        match intent {
            Intent::Join { room, reference } => {
                self.turn.count_in(MessageType::Join);
                self.join(handle, &room, reference);
            }
            Intent::Leave { room, reference } => {
                self.turn.count_in(MessageType::Leave);
                self.leave(handle, &room);
                self.writer.reply(&self.turn, dialect, &Notice::Left { room: &room, reference });
            }
            Intent::Ping { reference } => {
                self.turn.count_in(MessageType::Ping);
                self.writer.reply(&self.turn, dialect, &Notice::Pong { reference });
            }
            Intent::Publish { room, kind, payload, echo, ack, reference } => {
                self.turn.count_in(MessageType::Message);
                let own = if room.is_none() { Rooms::own_room(&self.turn, &mut self.clients, handle) } else { None };
                let Some(room) = room.as_deref().or(own.as_deref()) else { return };
                let publish = Publish { room, kind, payload, echo, ack };
                let Self { turn, rooms, upstream, clients, .. } = self;
                if let Err((code, message)) =
                    rooms.publish(turn, upstream, clients, &publish, Request { handle, reference })
                {
                    self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message, reference });
                }
            }
            Intent::Echo(message) => self.echo(handle, message),
            Intent::Invalid { code, message, reference } => {
                self.turn.count_in(MessageType::Error);
                self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message: &message, reference });
            }
            Intent::Unsupported => {
                self.writer.flush(&mut self.turn, &mut self.clients, handle);
                self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::Unsupported);
            }
        }
    }

    /// Makes a connection a member of a room.
    pub(super) fn join(&mut self, handle: Handle, room: &str, reference: Option<&str>) {
        let Self { turn, rooms, upstream, writer, clients, .. } = self;
        rooms.join(turn, upstream, writer, clients, room, Request { handle, reference });
    }

    /// Ends a connection's membership.
    pub(super) fn leave(&mut self, handle: Handle, room: &str) {
        let Self { turn, rooms, upstream, clients, .. } = self;
        rooms.leave(turn, upstream, clients, handle, room);
    }

    fn echo(&mut self, handle: Handle, message: Payload<'_>) {
        let Some(deflate) = self.clients.find(handle).map(|entry| entry.form.deflate) else { return };
        self.turn.count_in(MessageType::Message);
        self.writer.reply_message(message, deflate);
    }

    /// Over the message rate.
    #[cold]
    fn handle_excess(&mut self, handle: Handle, dialect: DialectId) {
        self.turn.counters.dropped[DropReason::RateLimited as usize].add(1);
        let Some(entry) = self.clients.find(handle) else { return };
        match dialect.over_rate() {
            OverRate::Tell if !entry.flags.has(Flags::RATE_TOLD) => {
                entry.flags.set(Flags::RATE_TOLD);
                let message = "too many messages; this and more were dropped: send fewer a second";
                self.writer.reply(
                    &self.turn,
                    dialect,
                    &Notice::Refused { code: ErrorCode::RateLimited, message, reference: None },
                );
            }
            OverRate::Close if entry.flags.has(Flags::RATE_BEFORE) => {
                self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::RateLimited)
            }
            OverRate::Close => entry.flags.set(Flags::RATE_TOLD),
            OverRate::Tell | OverRate::Drop => {}
        }
    }
}
