//! What clients ask for, and what they are answered.

use super::Shard;
use super::upstream::Request;
use crate::close::CloseReason;
use crate::conn::{Flags, Token};
use crate::counters::{DropReason, MessageType};
use crate::dialect::{DialectId, ErrorCode, Intent, Notice, OverRate, Payload};
use crate::model::{Kind, Publication, RoomName};
use crate::shard::driver::Driver;
use crate::shard::settings::PublishPolicy;

/// A publication that a client asks for.
struct Publish<'a> {
    room: &'a str,
    kind: Kind,
    payload: &'a [u8],
    echo: bool,
}

impl<D: Driver> Shard<D> {
    /// One message of an open connection. It takes one token of the message rate, however many requests it holds.
    pub(super) fn handle_message(&mut self, token: Token, message: Payload<'_>) {
        let Some(dialect) = self.clients.dialect(token) else { return };
        if !self.take_credit(token) {
            return self.handle_excess(token, dialect);
        }
        let mut rest = Some(message);
        while let Some(intent) = dialect.next(&mut rest) {
            self.handle_intent(token, dialect, intent);
            if rest.is_none() || !self.clients.is_open(token) {
                return;
            }
        }
    }

    #[inline]
    fn handle_intent(&mut self, token: Token, dialect: DialectId, intent: Intent<'_>) {
        match intent {
            Intent::Join { room, reference } => {
                self.turn.count_in(MessageType::Join);
                self.join(token, &room, reference);
            }
            Intent::Leave { room, reference } => {
                self.turn.count_in(MessageType::Leave);
                self.leave(token, &room);
                self.writer.reply(&self.turn, dialect, &Notice::Left { room: &room, reference });
            }
            Intent::Ping { reference } => {
                self.turn.count_in(MessageType::Ping);
                self.writer.reply(&self.turn, dialect, &Notice::Pong { reference });
            }
            Intent::Publish { room, kind, payload, echo, ack, reference } => {
                self.turn.count_in(MessageType::Message);
                let own;
                let room: &str = match &room {
                    Some(room) => room,
                    None => match self.own_room(token) {
                        Some(name) => {
                            own = name;
                            &own
                        }
                        None => return,
                    },
                };
                let publish = Publish { room, kind, payload, echo };
                let awaited = ack.then_some(reference);
                if let Err((code, message)) = self.publish(token, &publish, awaited) {
                    self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message, reference });
                }
            }
            Intent::Echo(message) => self.echo(token, message),
            Intent::Invalid { code, message, reference } => {
                self.turn.count_in(MessageType::Error);
                self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message: &message, reference });
            }
            Intent::Unsupported => {
                self.writer.flush(&mut self.turn, &mut self.clients, token);
                self.writer.close(&mut self.turn, &mut self.clients, token, CloseReason::Unsupported);
            }
        }
    }

    /// The room that the connection's path names.
    fn own_room(&mut self, token: Token) -> Option<RoomName> {
        let membership = self.clients.find(token)?.rooms.as_slice().first().copied()?;
        Some(self.turn.names.name(membership.room)?.clone())
    }

    fn echo(&mut self, token: Token, message: Payload<'_>) {
        let Some(deflate) = self.clients.find(token).map(|entry| entry.form.deflate) else { return };
        self.turn.count_in(MessageType::Message);
        self.writer.reply_message(&self.turn, message, deflate);
    }

    fn publish(
        &mut self,
        token: Token,
        publish: &Publish<'_>,
        awaited: Option<Option<&str>>,
    ) -> Result<(), (ErrorCode, &'static str)> {
        let known = self.turn.names.number(publish.room);
        if let Err(refused) = self.may_publish(token, publish.room, known) {
            self.turn.counters.dropped[DropReason::Forbidden as usize].add(1);
            return Err(refused);
        }
        if self.upstream.is_full(publish.payload.len()) {
            self.turn.counters.dropped[DropReason::Unavailable as usize].add(1);
            return Err((ErrorCode::Unavailable, "the node cannot take more messages just now; try again"));
        }
        let name = known.and_then(|index| self.turn.names.name(index));
        let publication = Publication {
            room: name.cloned().unwrap_or_else(|| RoomName::from(publish.room)),
            kind: publish.kind,
            payload: bytes::Bytes::copy_from_slice(publish.payload),
            from: Some(self.turn.id(token)),
            echo: publish.echo,
            time_unix_ns: self.turn.clock.unix_ns,
        };
        let awaited = awaited.map(|reference| Request { token, reference }.pending());
        let unconfirmed =
            known.filter(|room| self.subscriptions.get(*room as usize).is_some_and(|s| s.waiters.is_some()));
        self.upstream.publish(publication, unconfirmed, awaited);
        Ok(())
    }

    fn may_publish(&mut self, token: Token, room: &str, known: Option<u32>) -> Result<(), (ErrorCode, &'static str)> {
        let policy = known
            .and_then(|index| self.subscriptions.get(index as usize))
            .map_or_else(|| self.turn.settings.policy(room), |subscription| subscription.policy);
        match policy.publish {
            PublishPolicy::Any => Ok(()),
            PublishPolicy::Members => {
                let entry = self.clients.find(token);
                let member = known.is_some_and(|index| entry.is_some_and(|entry| entry.rooms.find(index).is_some()));
                member.then_some(()).ok_or((ErrorCode::NotJoined, "join the room before you publish into it"))
            }
            PublishPolicy::None => Err((ErrorCode::Forbidden, "only backends publish into this room")),
        }
    }

    /// Over the message rate.
    #[cold]
    fn handle_excess(&mut self, token: Token, dialect: DialectId) {
        self.turn.counters.dropped[DropReason::RateLimited as usize].add(1);
        let Some(entry) = self.clients.find(token) else { return };
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
                self.writer.close(&mut self.turn, &mut self.clients, token, CloseReason::RateLimited)
            }
            OverRate::Close => entry.flags.set(Flags::RATE_TOLD),
            OverRate::Tell | OverRate::Drop => {}
        }
    }

    /// Tells a client that its request is not granted.
    pub(super) fn refuse_request(&mut self, token: Token, code: ErrorCode, message: &str, reference: Option<&str>) {
        if let Some(dialect) = self.clients.dialect(token) {
            self.writer.reply(&self.turn, dialect, &Notice::Refused { code, message, reference });
        }
    }
}
