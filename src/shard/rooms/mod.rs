//! The shard's rooms: who joins, who leaves, and what the relay says about them.
//!
//! A room exists here from the first join until its last member has left. Until the relay confirms it, members wait
//! ([`WAITING`]): `joined` is told, and the member added, in the order of the mailbox, so that what is published after
//! `joined` comes after it.

use std::sync::Arc;

mod fanout;
mod gaps;

use super::Shard;
use super::upstream::{PendingRequest, Request};
use crate::close::CloseReason;
use crate::conn::{Membership, Token, WAITING};
use crate::dialect::{ErrorCode, Notice};
use crate::model::{GapReason, Publication, RoomName};
use crate::relay::{JoinError, ToShard};
use crate::room::Room;
use crate::shard::driver::Driver;
use crate::shard::settings::Policy;
pub(super) use gaps::Walk;

/// A room, and whether the relay has confirmed it.
pub(super) struct Subscription {
    pub(super) room: Room,
    pub(super) policy: Policy,
    /// Who waits for the confirmation; `None` once it came.
    pub(super) waiters: Option<Vec<PendingRequest>>,
}

impl<D: Driver> Shard<D> {
    /// Handles one item of the relay's mailbox.
    pub fn handle_relay(&mut self, item: ToShard) {
        match item {
            ToShard::Deliver(publication) => self.handle_publication(publication),
            ToShard::Joined(room) => self.handle_joined(&room),
            ToShard::Refused(room, error) => self.handle_refused(&room, error),
            ToShard::Revoked(room) => self.handle_revoked(&room),
            ToShard::Gap(rooms, reason) => self.gaps.push_back(gaps::Walk::new(rooms, reason)),
            ToShard::Acked(ack, level) => {
                self.upstream.acknowledge(&mut self.turn, &mut self.writer, &mut self.clients, ack, Some(level))
            }
            ToShard::Failed(ack) => {
                self.upstream.acknowledge(&mut self.turn, &mut self.writer, &mut self.clients, ack, None)
            }
        }
        self.settle();
    }

    /// Makes a connection a member. Idempotent; the room's name is valid.
    pub(super) fn join(&mut self, token: Token, name: &str, reference: Option<&str>) {
        let limit = self.turn.settings.options.limits.rooms_per_connection;
        let known = self.turn.names.number(name);
        let Some(entry) = self.clients.find(token) else { return };
        let membership = known.and_then(|room| entry.rooms.find(room));
        if membership.is_none() && entry.rooms.len() >= limit {
            let message = "you are in too many rooms; leave one first";
            return self.refuse_request(token, ErrorCode::RoomLimit, message, reference);
        }
        let room = known.unwrap_or_else(|| self.subscribe(name));
        let waiter = Request { token, reference }.pending();
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        match (&mut subscription.waiters, membership) {
            (Some(waiters), before) => {
                waiters.push(waiter);
                if before.is_none() {
                    self.add_membership(token, Membership { room, position: WAITING });
                }
            }
            (None, Some(_)) => self.reply_joined(token, name, reference),
            (None, None) => {
                let position = subscription.room.join(token.index);
                self.add_membership(token, Membership { room, position });
                self.reply_joined(token, name, reference);
            }
        }
    }

    fn subscribe(&mut self, name: &str) -> u32 {
        let name = RoomName::from(name);
        let policy = self.turn.settings.policy(&name);
        let subscription = Subscription { room: Room::default(), policy, waiters: Some(Vec::new()) };
        let index = self.turn.names.insert(name.clone());
        let same = self.subscriptions.insert(subscription);
        debug_assert_eq!(index as usize, same, "both slabs give and free the same numbers");
        self.turn.counters.rooms.set(self.subscriptions.len() as u64);
        self.upstream.subscribe(name);
        index
    }

    fn unsubscribe(&mut self, index: u32) {
        if let Some((name, _)) = self.forget(index) {
            self.upstream.unsubscribe(name);
        }
    }

    fn forget(&mut self, index: u32) -> Option<(RoomName, Subscription)> {
        let name = self.turn.names.remove(index)?;
        let subscription = self.subscriptions.try_remove(index as usize)?;
        self.fanout_bytes -= subscription.room.pending_bytes();
        self.turn.counters.rooms.set(self.subscriptions.len() as u64);
        Some((name, subscription))
    }

    fn add_membership(&mut self, token: Token, membership: Membership) {
        if let Some(entry) = self.clients.find(token) {
            entry.rooms.insert(membership);
        }
    }

    fn reply_joined(&mut self, token: Token, room: &str, reference: Option<&str>) {
        if let Some(dialect) = self.clients.dialect(token) {
            self.writer.reply(&self.turn, dialect, &Notice::Joined { room, reference });
        }
    }

    /// Ends a membership; idempotent.
    pub(super) fn leave(&mut self, token: Token, name: &str) {
        let Some(room) = self.turn.names.number(name) else { return };
        let Some(entry) = self.clients.find(token) else { return };
        let Some(membership) = entry.rooms.remove(room) else { return };
        if let Some(outbox) = &mut entry.outbox {
            outbox.forget_room(room);
        }
        self.end_membership(membership);
    }

    /// Ends all memberships of a connection.
    pub(super) fn leave_all(&mut self, token: Token) {
        let Some(entry) = self.clients.find(token) else { return };
        for membership in std::mem::take(&mut entry.rooms).as_slice() {
            self.end_membership(*membership);
        }
    }

    fn end_membership(&mut self, membership: Membership) {
        let Some(subscription) = self.subscriptions.get_mut(membership.room as usize) else { return };
        if membership.position == WAITING {
            // The confirmation finds nobody waiting any more and ends the subscription.
            return;
        }
        if let Some(moved) = subscription.room.leave(membership.position) {
            self.note_position(moved, membership.room, membership.position);
        }
        self.unsubscribe_if_empty(membership.room);
    }

    fn note_position(&mut self, connection: u32, room: u32, position: u32) {
        if let Some(entry) = self.clients.at(connection) {
            entry.rooms.set_position(room, position);
        }
    }

    fn unsubscribe_if_empty(&mut self, index: u32) {
        let empty = self.subscriptions.get(index as usize).is_some_and(|s| s.waiters.is_none() && s.room.is_empty());
        if empty {
            self.unsubscribe(index);
        }
    }

    fn handle_joined(&mut self, name: &RoomName) {
        let Some(index) = self.turn.names.number(name) else { return };
        let Some(subscription) = self.subscriptions.get_mut(index as usize) else { return };
        let Some(waiters) = subscription.waiters.take() else { return };
        // All are members before the first is answered: a connection that ends over its answer must not end the room of those
        // behind it.
        for waiter in &waiters {
            let Some(entry) = self.clients.find(waiter.token) else { continue };
            if entry.rooms.find(index).is_some_and(|membership| membership.position == WAITING) {
                entry.rooms.set_position(index, subscription.room.join(waiter.token.index));
            }
        }
        self.upstream.release_held(index);
        self.unsubscribe_if_empty(index);
        for waiter in waiters {
            let reference = waiter.reference.as_deref();
            let open = self.clients.open(waiter.token);
            let Some(entry) = open else { continue };
            if entry.rooms.find(index).is_some() {
                self.reply_joined(waiter.token, name, reference);
            } else if reference.is_some() {
                // It has left again and was told so; what it asked with a `ref` is answered all the same.
                let message = "you left the room before it was confirmed; join it again to be in it";
                self.refuse_request(waiter.token, ErrorCode::NotJoined, message, reference);
            }
            self.writer.flush(&mut self.turn, &mut self.clients, waiter.token);
        }
    }

    /// The room is not to be had: whoever waits is told, and it is forgotten.
    fn handle_refused(&mut self, name: &RoomName, error: JoinError) {
        let (code, message) = match error {
            JoinError::Unconfirmed => {
                (ErrorCode::Unavailable, "the broker did not confirm the subscription in time; join again")
            }
            JoinError::TooManyRooms => {
                (ErrorCode::RoomLimit, "the node has as many rooms as it may have; try again later, or join another")
            }
        };
        let Some(index) = self.turn.names.number(name) else { return };
        self.upstream.release_held(index);
        let Some((_, subscription)) = self.forget(index) else { return };
        for waiter in subscription.waiters.unwrap_or_default() {
            let open = self.clients.open(waiter.token);
            let Some(entry) = open else { continue };
            if entry.rooms.remove(index).is_none() && waiter.reference.is_none() {
                continue;
            }
            let dialect = entry.form.dialect;
            if self.writer.reply(
                &self.turn,
                dialect,
                &Notice::Refused { code, message, reference: waiter.reference.as_deref() },
            ) {
                self.writer.flush(&mut self.turn, &mut self.clients, waiter.token);
            } else {
                self.writer.close(&mut self.turn, &mut self.clients, waiter.token, CloseReason::Gap);
            }
        }
    }

    /// The broker took the room back: whoever is in it is told the loss, and that it is over.
    fn handle_revoked(&mut self, name: &RoomName) {
        let Some(index) = self.turn.names.number(name) else { return };
        let confirmed = self.subscriptions.get(index as usize).filter(|subscription| subscription.waiters.is_none());
        let Some(subscription) = confirmed else { return };
        let members: Vec<u32> = subscription.room.members().collect();
        for member in members {
            let Some(token) = self.clients.token_at(member) else { continue };
            let Some(dialect) = self.clients.dialect(token) else { continue };
            let message = format!("the broker no longer lets this node have room {name}; join it again");
            let notice = Notice::Refused { code: ErrorCode::Unavailable, message: &message, reference: None };
            if !self.writer.has_words(dialect, &notice) {
                self.writer.close(&mut self.turn, &mut self.clients, token, CloseReason::Gap);
                continue;
            }
            self.writer.send_gap(&mut self.turn, &mut self.clients, token, Some(index), GapReason::Broker);
            self.leave(token, name);
            if self.clients.is_open(token) {
                self.writer.reply(&self.turn, dialect, &notice);
                self.writer.flush(&mut self.turn, &mut self.clients, token);
            }
        }
    }

    fn handle_publication(&mut self, publication: Arc<Publication>) {
        let Some(index) = self.turn.names.number(&publication.room) else { return };
        let Some(subscription) = self.subscriptions.get_mut(index as usize) else { return };
        if subscription.room.is_empty() {
            return;
        }
        let before = subscription.room.pending_bytes();
        if subscription.room.publish(publication) {
            self.fanout.push_back(index);
        }
        self.fanout_bytes += subscription.room.pending_bytes() - before;
    }

    /// After a pass: whoever moved learns where it is now.
    pub(super) fn close_holes(&mut self, index: u32) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(index as usize) else { return false };
        let before = subscription.room.pending_bytes();
        let clients = &mut self.clients;
        let (_, more) = subscription.room.finish(|member, position| {
            if let Some(entry) = clients.at(member) {
                entry.rooms.set_position(index, position);
            }
        });
        self.fanout_bytes -= before - subscription.room.pending_bytes();
        more
    }
}
