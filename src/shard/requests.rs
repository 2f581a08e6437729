//! What clients ask for, and what they are answered.

use super::{AwaitedAck, Shard};
use crate::close::CloseReason;
use crate::config::PublishPolicy;
use crate::conn::{Flags, Token};
use crate::counters::{DropReason, MessageType};
use crate::dialect::native::{self, ErrorCode, Request};
use crate::limits::{PUBLISH_QUEUE_BYTES, PUBLISH_QUEUE_MESSAGES};
use crate::model::{AckLevel, Kind, Publication, RoomName};
use crate::proto::frame;
use crate::relay::{AckToken, ToRelay};
use crate::wire::Wire;

/// A publication that a client asks for.
struct Publish<'a> {
    room: &'a str,
    kind: Kind,
    payload: &'a [u8],
    echo: bool,
}

impl<W: Wire> Shard<W> {
    /// One text message in the native dialect.
    pub(super) fn handle_request(&mut self, token: Token, text: &str) {
        if !self.take_token(token) {
            return self.tell_rate_limited(token);
        }
        let request = match native::parse(text) {
            Ok(request) => request,
            Err(refused) => {
                self.count_in(MessageType::Error);
                return self.reply_error(refused.code, &refused.message, refused.reference);
            }
        };
        match request {
            Request::Join { room, reference } => {
                self.count_in(MessageType::Join);
                self.join(token, &room, reference);
            }
            Request::Leave { room, reference } => {
                self.count_in(MessageType::Leave);
                self.leave(token, &room);
                self.reply_json(MessageType::Leave, |out| native::left(out, &room, reference));
            }
            Request::Ping { reference } => {
                self.count_in(MessageType::Ping);
                self.reply_json(MessageType::Ping, |out| native::pong(out, reference));
            }
            Request::Message { room, content, echo, ack, reference } => {
                self.count_in(MessageType::Message);
                let publish = Publish { room: &room, kind: Kind::Json, payload: content.as_bytes(), echo };
                let awaited = ack.then(|| AwaitedAck { token, reference: reference.map(Box::from) });
                if let Err((code, message)) = self.publish(token, &publish, awaited) {
                    self.reply_error(code, message, reference);
                }
            }
        }
    }

    /// One message in the raw dialect, to the room that the connection is in.
    pub(super) fn publish_raw(&mut self, token: Token, kind: Kind, payload: &[u8]) {
        self.count_in(MessageType::Message);
        if !self.take_token(token) {
            return self.refuse_raw_rate(token);
        }
        let membership = self.connections.find(token).and_then(|entry| entry.rooms.as_slice().first().copied());
        let Some(room) =
            membership.and_then(|m| self.subscriptions.get(m.room as usize)).map(|s| s.room.name().clone())
        else {
            return;
        };
        // The raw dialect has no way to tell an error: what is not published was counted as dropped.
        let _ = self.publish(token, &Publish { room: &room, kind, payload, echo: true }, None);
    }

    fn publish(
        &mut self,
        token: Token,
        publish: &Publish<'_>,
        awaited: Option<AwaitedAck>,
    ) -> Result<(), (ErrorCode, &'static str)> {
        let known = self.by_name.get_key_value(publish.room).map(|(name, index)| (name.clone(), *index));
        if let Err(refused) = self.may_publish(token, publish.room, known.as_ref().map(|(_, index)| *index)) {
            self.counters.dropped[DropReason::Forbidden as usize].add(1);
            return Err(refused);
        }
        let full = self.to_relay.len() + self.held >= PUBLISH_QUEUE_MESSAGES
            || self.to_relay_bytes + publish.payload.len() > PUBLISH_QUEUE_BYTES
            || self.acks.len() >= PUBLISH_QUEUE_MESSAGES;
        if full {
            self.counters.dropped[DropReason::Unavailable as usize].add(1);
            return Err((ErrorCode::Unavailable, "the node cannot take more messages just now; try again"));
        }
        let index = known.as_ref().map(|(_, index)| *index as usize);
        let publication = Publication {
            room: known.map_or_else(|| RoomName::from(publish.room), |(name, _)| name),
            kind: publish.kind,
            payload: bytes::Bytes::copy_from_slice(publish.payload),
            from: Some(self.id(token)),
            echo: publish.echo,
            time_unix_ns: self.clock.unix_ns,
        };
        self.to_relay_bytes += publication.payload.len();
        let ack = awaited.map(|awaited| self.acks.insert(awaited) as AckToken);
        let publish = ToRelay::Publish(publication, ack);
        match index.and_then(|index| self.subscriptions.get_mut(index)) {
            Some(subscription) if subscription.waiters.is_some() => {
                subscription.held.push(publish);
                self.held += 1;
            }
            _ => self.to_relay.push_back(publish),
        }
        Ok(())
    }

    fn may_publish(&mut self, token: Token, room: &str, known: Option<u32>) -> Result<(), (ErrorCode, &'static str)> {
        let policy = known
            .and_then(|index| self.subscriptions.get(index as usize))
            .map_or_else(|| self.settings.policy(room), |subscription| subscription.policy);
        match policy.publish {
            PublishPolicy::Any => Ok(()),
            PublishPolicy::Members => {
                let entry = self.connections.find(token);
                let member = known.is_some_and(|index| entry.is_some_and(|entry| entry.rooms.find(index).is_some()));
                member.then_some(()).ok_or((ErrorCode::NotJoined, "join the room before you publish into it"))
            }
            PublishPolicy::None => Err((ErrorCode::Forbidden, "only backends publish into this room")),
        }
    }

    /// The relay took a publish, or did not.
    pub(super) fn handle_ack(&mut self, ack: AckToken, level: Option<AckLevel>) {
        let Some(awaited) = self.acks.try_remove(ack as usize) else { return };
        if !self.is_open(awaited.token) {
            return;
        }
        let reference = awaited.reference.as_deref();
        match level {
            Some(level) => {
                let name = match level {
                    AckLevel::Node => "node",
                    AckLevel::Broker => "broker",
                };
                self.reply_json(MessageType::Ack, |out| native::ack(out, reference, name));
            }
            None => self.reply_error(ErrorCode::Unavailable, "the broker did not confirm the message", reference),
        }
        self.flush_reply(awaited.token);
    }

    /// Over the message rate: told once a second.
    fn tell_rate_limited(&mut self, token: Token) {
        self.counters.dropped[DropReason::RateLimited as usize].add(1);
        let Some(entry) = self.connections.find(token) else { return };
        if !entry.flags.has(Flags::RATE_TOLD) {
            entry.flags.set(Flags::RATE_TOLD);
            let message = "too many messages; this and more were dropped: send fewer a second";
            self.reply_error(ErrorCode::RateLimited, message, None);
        }
    }

    /// Over the message rate, where nothing can be told: a second offence in the next second ends it.
    fn refuse_raw_rate(&mut self, token: Token) {
        self.counters.dropped[DropReason::RateLimited as usize].add(1);
        let Some(entry) = self.connections.find(token) else { return };
        if entry.flags.has(Flags::RATE_BEFORE) {
            self.close(token, CloseReason::RateLimited);
        } else {
            entry.flags.set(Flags::RATE_TOLD);
        }
    }

    /// Appends a native message to the reply.
    pub(super) fn reply_json(&mut self, kind: MessageType, write: impl FnOnce(&mut Vec<u8>)) {
        let payload = self.encoding.payload(write);
        frame::write_frame(&mut self.reply, frame::TEXT, payload);
        self.count_out(kind, 1);
    }

    pub(super) fn reply_error(&mut self, code: ErrorCode, message: &str, reference: Option<&str>) {
        self.reply_json(MessageType::Error, |out| native::error(out, code, message, reference));
    }

    fn count_in(&self, kind: MessageType) {
        self.counters.messages_in[kind as usize].add(1);
    }
}
