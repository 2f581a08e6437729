//! What clients ask for, and what they are answered.

use super::Shard;
use super::rooms::{Publish, Rooms};
use super::upstream::Request;
use crate::auth::Reason;
use crate::close::CloseReason;
use crate::connection::{Flags, Handle};
use crate::counters::{DropReason, MessageType};
use crate::dialect::{
    DialectId, ErrorCode, Form, Intent, InvalidRoom, ListedRoom, Notice, OverRate, Payload, RequestedRoom,
};
use crate::limits::CREDIT_BYTES;
use crate::shard::driver::Driver;

impl<D: Driver> Shard<D> {
    /// One message of an open connection. It takes one credit of the message rate for each 4 KiB or part of them, however many requests
    /// it holds.
    pub(super) fn handle_message(&mut self, handle: Handle, message: Payload<'_>) {
        let bytes = message.bytes().len();
        let paid = if bytes > CREDIT_BYTES { self.take_credits_for(handle, bytes) } else { self.take_credit(handle) };
        self.handle_counted(handle, message, paid);
    }

    /// One message that its credits are `paid` for, or not.
    #[inline]
    pub(super) fn handle_counted(&mut self, handle: Handle, message: Payload<'_>, paid: bool) {
        let Some((form, awaits_token)) = self.clients.form_and_wait(handle) else { return };
        if !paid {
            return self.handle_excess(handle, form.dialect, message);
        }
        if awaits_token {
            return self.handle_before_token(handle, form.dialect, message);
        }
        let mut rest = Some(message);
        while let Some(intent) = form.dialect.next(&mut rest) {
            self.handle_intent(handle, form, intent);
            if rest.is_none() || !self.clients.is_open(handle) {
                return;
            }
        }
    }

    #[inline]
    fn handle_intent(&mut self, handle: Handle, form: Form, intent: Intent<'_>) {
        let dialect = form.dialect;
        match intent {
            Intent::Join { room, reference } => {
                self.turn.count_in(MessageType::Join);
                self.join(handle, &room, reference);
            }
            Intent::JoinAll { rooms, reference } => {
                self.turn.count_in(MessageType::Join);
                self.join_all(handle, dialect, rooms.rooms(), reference);
            }
            Intent::Leave { room, reference } => {
                self.turn.count_in(MessageType::Leave);
                self.leave(handle, &room);
                self.writer.reply(&self.turn, dialect, &Notice::Left { room: &room, reason: None, reference });
            }
            Intent::Authenticate { token, reference } => {
                self.turn.count_in(MessageType::Auth);
                self.authenticate(handle, dialect, &token, reference);
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
                    self.refuse_publication(handle, dialect, code, &message, reference);
                }
            }
            Intent::Echo(message) => {
                self.turn.count_in(MessageType::Message);
                self.writer.reply_message(message, form.deflate);
            }
            Intent::Invalid { code, message, reference } => {
                self.turn.count_in(MessageType::Error);
                let refused = Notice::Refused { code, message: &message, room: None, reference };
                self.writer.reply(&self.turn, dialect, &refused);
            }
            Intent::Unsupported => {
                self.writer.flush(&mut self.turn, &mut self.clients, handle);
                self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::Unsupported);
            }
        }
    }

    /// A message of a connection that is to send its token first.
    #[cold]
    #[inline(never)]
    fn handle_before_token(&mut self, handle: Handle, dialect: DialectId, message: Payload<'_>) {
        let mut rest = Some(message);
        match dialect.next(&mut rest) {
            Some(Intent::Authenticate { token, reference }) => {
                self.turn.count_in(MessageType::Auth);
                self.authenticate(handle, dialect, &token, reference);
            }
            other => {
                self.turn.count_in(MessageType::Error);
                let reference = other.and_then(|intent| intent.reference());
                let message = "a token is required first; send {\"type\":\"auth\",\"token\":\"...\"}";
                let refused = Notice::Unauthorized { reason: Reason::Missing, message, room: None, reference };
                self.writer.reply(&self.turn, dialect, &refused);
            }
        }
    }

    /// Tells a client that its publication is not taken. A dialect without words for errors closes over one that is too large, as it
    /// does over the node's own limit.
    #[cold]
    #[inline(never)]
    fn refuse_publication(
        &mut self,
        handle: Handle,
        dialect: DialectId,
        code: ErrorCode,
        message: &str,
        reference: Option<&str>,
    ) {
        let refused = Notice::Refused { code, message, room: None, reference };
        if !self.writer.reply(&self.turn, dialect, &refused) && code == ErrorCode::MessageTooLarge {
            self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::TooBig);
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

    /// Makes a connection a member of several rooms, for one credit. Each is answered on its own. A room that the connection is in,
    /// or waits for, costs another credit: one message must not have the same joins answered, or kept waiting, again and again. So does a
    /// room's own token, whose signature is the dearest work that a message can ask for.
    #[cold]
    #[inline(never)]
    fn join_all(&mut self, handle: Handle, dialect: DialectId, rooms: Vec<ListedRoom<'_>>, reference: Option<&str>) {
        let most = self.turn.settings.options.limits.rooms_per_connection;
        if rooms.len() > most {
            let (code, message) = (
                ErrorCode::RoomLimit,
                format!("`rooms` lists more than the {most} rooms that a connection may be in; leave some out"),
            );
            self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message: &message, room: None, reference });
            return;
        }
        for room in rooms {
            if !self.clients.is_open(handle) {
                return;
            }
            match room {
                Ok(RequestedRoom { room, token })
                    if token.is_none() && !self.is_in(handle, &room) || self.take_credit(handle) =>
                {
                    let taken =
                        token.is_none_or(|token| self.take_room_token(handle, dialect, &room, &token, reference));
                    if taken {
                        self.join(handle, &room, reference);
                    }
                }
                Ok(RequestedRoom { room, token }) => {
                    self.turn.counters.dropped[DropReason::RateLimited as usize].add(1);
                    let message = match token {
                        Some(_) => "too many tokens; each costs a message of the rate: send the others later",
                        None => "you asked for this room before; ask for it once",
                    };
                    let code = ErrorCode::RateLimited;
                    let refused = Notice::Refused { code, message, room: Some(&room), reference };
                    self.writer.reply(&self.turn, dialect, &refused);
                }
                Err(InvalidRoom { code, message, room }) => {
                    let refused = Notice::Refused { code, message: &message, room: room.as_deref(), reference };
                    self.writer.reply(&self.turn, dialect, &refused);
                }
            }
            self.cork(handle);
        }
    }

    /// Whether a connection is a member of a room, or waits to be one.
    fn is_in(&mut self, handle: Handle, room: &str) -> bool {
        let number = self.turn.names.number(room);
        let entry = self.clients.find(handle);
        number.zip(entry).is_some_and(|(number, entry)| entry.rooms.find(number).is_some())
    }

    /// Over the message rate: nothing that the message asks for is done. What asks with a reference is answered by that reference,
    /// because its client waits for the answer.
    #[cold]
    #[inline(never)]
    fn handle_excess(&mut self, handle: Handle, dialect: DialectId, message: Payload<'_>) {
        self.turn.counters.dropped[DropReason::RateLimited as usize].add(1);
        match dialect.over_rate() {
            OverRate::Tell => {
                let reference = dialect.next(&mut Some(message)).and_then(|intent| intent.reference());
                self.tell_excess(handle, dialect, reference);
            }
            OverRate::Close => {
                let Some(entry) = self.clients.find(handle) else { return };
                if entry.flags.has(Flags::RATE_BEFORE) {
                    self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::RateLimited);
                } else {
                    entry.flags.set(Flags::RATE_TOLD);
                }
            }
            OverRate::Drop => {}
        }
    }

    fn tell_excess(&mut self, handle: Handle, dialect: DialectId, reference: Option<&str>) {
        let Some(entry) = self.clients.find(handle) else { return };
        let (code, mut message) =
            (ErrorCode::RateLimited, "too many messages; this one was dropped: send fewer a second, or smaller ones");
        if reference.is_none() {
            if entry.flags.has(Flags::RATE_TOLD) {
                return;
            }
            entry.flags.set(Flags::RATE_TOLD);
            message = "too many messages; this and more were dropped: send fewer a second, or smaller ones";
        }
        self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message, room: None, reference });
    }
}
