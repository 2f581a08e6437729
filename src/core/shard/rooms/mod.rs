//! The shard's rooms: joining and leaving, what the relay says about them, and publishing into them.
//!
//! A room exists here from the first join until its last member has left. Until the relay confirms it, members wait
//! ([`WAITING`]): the member is added in the order of the mailbox, and `joined` is told before the room's next pass, so that what is
//! published after `joined` comes after it.

mod answers;
mod fanout;
mod gaps;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::clients::Clients;
use super::driver::Driver;
use super::settings::Policy;
use super::turn::Turn;
use super::upstream::{PendingRequest, Request, TOO_LARGE, Upstream};
use super::writer::Writer;
use crate::auth::{Action, Denied, Who};
use crate::close::CloseReason;
use crate::connection::{Handle, Membership, WAITING};
use crate::counters::DropReason;
use crate::dialect::{ErrorCode, Notice};
use crate::model::{Kind, Publication, RoomName};
use crate::room::Room;
#[cfg(test)]
pub(super) use answers::AT_ONCE;
use answers::Answers;
use gaps::Walk;

/// A room, and whether the relay has confirmed it.
struct Subscription {
    room: Room,
    policy: Policy,
    /// Joins that wait for the confirmation; `None` once it came.
    waiters: Option<Vec<PendingRequest>>,
    /// It is confirmed, and not all connections that waited are told so: it begins no pass, and does not end. Which confirmation
    /// it was.
    answering: Option<u32>,
}

/// A publication that a client asks for.
pub(super) struct Publish<'a> {
    pub(super) room: &'a str,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    pub(super) echo: bool,
    /// The client waits for an acknowledgement.
    pub(super) ack: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Rooms {
    /// By the numbers of [`super::names::Names`].
    subscriptions: Slab<Subscription>,
    /// Rooms with a pass under way or due.
    passes: VecDeque<u32>,
    /// Bytes of the publications in those rooms.
    pending_bytes: usize,
    /// When what was just sent to all its members was published.
    delivered_unix_ns: Vec<u64>,
    gaps: VecDeque<Walk>,
    /// What the relay said about rooms, and which connections are still to be told.
    answers: VecDeque<Answers>,
    /// Confirmations so far, modulo 2³²: each names its answers.
    confirmations: u32,
    /// Answers of this turn that went out with the relay's items.
    answered: usize,
}

impl Rooms {
    /// Makes a connection a member. Idempotent; the room's name is valid.
    pub(super) fn join<D: Driver>(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        name: &str,
        request: Request<'_>,
    ) {
        let Request { handle, reference } = request;
        let limit = turn.settings.options.limits.rooms_per_connection;
        let known = turn.names.number(name);
        let Some(entry) = clients.find(handle) else { return };
        let membership = known.and_then(|room| entry.rooms.find(room));
        if membership.is_none() && entry.rooms.len() >= limit {
            let (code, message) = (ErrorCode::RoomLimit, "you are in too many rooms; leave one first");
            let refused = Notice::Refused { code, message, room: Some(name), reference };
            return writer.reply_to(turn, clients, handle, &refused);
        }
        if membership.is_none()
            && let Err(denied) = self.may_join(turn, clients, handle, known, name)
        {
            turn.counters.dropped[DropReason::Forbidden as usize].add(1);
            let message = denied.message(Action::Join, name);
            let refused = Notice::Refused { code: code_of(denied), message: &message, room: Some(name), reference };
            let Some(dialect) = clients.dialect(handle) else { return };
            if !writer.reply(turn, dialect, &refused) {
                clients.say_at_the_end(handle, &message);
                writer.close(turn, clients, handle, CloseReason::Forbidden);
            }
            return;
        }
        let room = known.unwrap_or_else(|| self.subscribe(turn, upstream, name));
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        let position = match &mut subscription.waiters {
            Some(waiters) => {
                waiters.push(request.pending());
                WAITING
            }
            None if membership.is_none() => subscription.room.join(handle.index),
            None => 0,
        };
        if let (None, Some(entry)) = (membership, clients.find(handle)) {
            entry.rooms.insert(Membership { room, position });
        }
        if subscription.waiters.is_none() {
            writer.reply_to(turn, clients, handle, &Notice::Joined { room: name, reference });
        }
    }

    /// Whether a connection may become a member of a room.
    #[inline]
    fn may_join(
        &self,
        turn: &Turn,
        clients: &Clients,
        handle: Handle,
        known: Option<u32>,
        name: &str,
    ) -> Result<(), Denied> {
        let known = known.and_then(|room| self.subscriptions.get(room as usize));
        let who = known.map_or_else(|| turn.settings.policy(name), |subscription| subscription.policy).join;
        if who == Who::Any { Ok(()) } else { clients.permits(turn, handle, who, false, Action::Join, name) }
    }

    /// The policy of a room that has one here.
    pub(super) fn policy(&self, room: u32) -> Policy {
        self.subscriptions.get(room as usize).map(|subscription| subscription.policy).unwrap_or_default()
    }

    /// Gives the room of this number, if there is one, the rule that the settings have for it now.
    pub(super) fn renew_policy(&mut self, turn: &Turn, room: u32) {
        if let (Some(subscription), Some(name)) = (self.subscriptions.get_mut(room as usize), turn.names.name(room)) {
            subscription.policy = turn.settings.policy(name);
        }
    }

    fn subscribe(&mut self, turn: &mut Turn, upstream: &mut Upstream, name: &str) -> u32 {
        let name = RoomName::from(name);
        let policy = turn.settings.policy(&name);
        let number = turn.names.insert(name.clone());
        let (room, waiters) = (Room::default(), Some(Vec::new()));
        let same = self.subscriptions.insert(Subscription { room, policy, waiters, answering: None });
        debug_assert_eq!(number as usize, same, "both slabs give and free the same numbers");
        turn.counters.rooms.set(self.subscriptions.len() as u64);
        upstream.subscribe(name);
        number
    }

    /// Removes a room: its name, and what was kept of it.
    fn remove(&mut self, turn: &mut Turn, room: u32) -> Option<(RoomName, Subscription)> {
        let name = turn.names.remove(room)?;
        let subscription = self.subscriptions.try_remove(room as usize)?;
        self.pending_bytes -= subscription.room.pending_bytes();
        turn.counters.rooms.set(self.subscriptions.len() as u64);
        Some((name, subscription))
    }

    /// Ends a membership; idempotent.
    pub(super) fn leave(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        clients: &mut Clients,
        handle: Handle,
        name: &str,
    ) {
        let Some(room) = turn.names.number(name) else { return };
        let Some(entry) = clients.find(handle) else { return };
        let Some(membership) = entry.rooms.remove(room) else { return };
        if let Some(outbox) = &mut entry.outbox {
            outbox.forget_room(room);
        }
        self.end_membership(turn, upstream, clients, membership);
    }

    /// Ends all memberships of a connection.
    pub(super) fn leave_all(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        clients: &mut Clients,
        handle: Handle,
    ) {
        let Some(entry) = clients.find(handle) else { return };
        for membership in std::mem::take(&mut entry.rooms).as_slice() {
            self.end_membership(turn, upstream, clients, *membership);
        }
    }

    fn end_membership(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        clients: &mut Clients,
        membership: Membership,
    ) {
        let Membership { room, position } = membership;
        if position == WAITING {
            // The confirmation finds no join that waits any more, and ends the subscription.
            return;
        }
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        let moved = subscription.room.leave(position);
        if let Some(entry) = moved.and_then(|moved| clients.at(moved)) {
            entry.rooms.set_position(room, position);
        }
        self.unsubscribe_if_empty(turn, upstream, room);
    }

    fn unsubscribe_if_empty(&mut self, turn: &mut Turn, upstream: &mut Upstream, room: u32) {
        let is_over =
            |known: &Subscription| known.waiters.is_none() && known.answering.is_none() && known.room.is_empty();
        if !self.subscriptions.get(room as usize).is_some_and(is_over) {
            return;
        }
        if let Some((name, _)) = self.remove(turn, room) {
            upstream.unsubscribe(name);
        }
    }

    /// The room that a connection's path names: the first that it joined.
    pub(super) fn own_room(turn: &Turn, clients: &mut Clients, handle: Handle) -> Option<RoomName> {
        let membership = clients.find(handle)?.rooms.as_slice().first().copied()?;
        turn.names.name(membership.room).cloned()
    }

    /// Publishes for a client, if the room's policy lets it.
    ///
    /// # Errors
    /// What the client is told instead.
    #[inline]
    pub(super) fn publish(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        clients: &mut Clients,
        publish: &Publish<'_>,
        request: Request<'_>,
    ) -> Result<(), (ErrorCode, Cow<'static, str>)> {
        let known = turn.names.number(publish.room);
        let subscription = known.and_then(|room| self.subscriptions.get(room as usize));
        let policy = subscription.map_or_else(|| turn.settings.policy(publish.room), |known| known.policy);
        if policy.publish != Who::Any {
            may_publish(turn, clients, request.handle, known, policy.publish, publish.room)?;
        }
        if turn.settings.state.message_bytes().is_some_and(|most| publish.payload.len() > most) {
            turn.counters.dropped[DropReason::TooLarge as usize].add(1);
            return Err((ErrorCode::MessageTooLarge, TOO_LARGE.into()));
        }
        if upstream.is_full(publish.payload.len()) {
            turn.counters.dropped[DropReason::Unavailable as usize].add(1);
            return Err((ErrorCode::Unavailable, "the node cannot take more messages just now; try again".into()));
        }
        let name = known.and_then(|room| turn.names.name(room));
        let publication = Publication {
            room: name.cloned().unwrap_or_else(|| RoomName::from(publish.room)),
            kind: publish.kind,
            payload: bytes::Bytes::copy_from_slice(publish.payload),
            from: Some(turn.id(request.handle)),
            user: clients.session(request.handle).and_then(|session| session.user.clone()),
            echo: publish.echo,
            except: None,
            time_unix_ns: turn.clock.unix_ns,
        };
        let unconfirmed = known.filter(|_| subscription.is_some_and(|known| known.waiters.is_some()));
        // What has a `ref` is followed without `ack` too: its loss is told with that `ref`.
        let is_followed = publish.ack || request.reference.is_some();
        let ack = is_followed.then(|| upstream.follow(request, publish.ack));
        upstream.publish(publication, unconfirmed, ack);
        Ok(())
    }

    /// Queues a publication for the room's next pass.
    pub(super) fn deliver(&mut self, turn: &Turn, publication: Arc<Publication>) {
        let Some(room) = turn.names.number(&publication.room) else { return };
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        if subscription.room.is_empty() {
            return;
        }
        let before = subscription.room.pending_bytes();
        if subscription.room.publish(publication) && subscription.answering.is_none() {
            self.passes.push_back(room);
        }
        self.pending_bytes += subscription.room.pending_bytes() - before;
    }

    /// One past the highest number that a room may have.
    pub(super) fn end(&self) -> u32 {
        self.subscriptions.capacity() as u32
    }

    /// The room of this number, to look at, with its name.
    pub(super) fn at<'a>(&'a self, turn: &'a Turn, number: u32) -> Option<(&'a RoomName, &'a Room)> {
        let subscription = self.subscriptions.get(number as usize)?;
        Some((turn.names.name(number)?, &subscription.room))
    }
}

/// Whether a connection may publish into a room that is not open to any.
#[cold]
#[inline(never)]
fn may_publish(
    turn: &Turn,
    clients: &mut Clients,
    handle: Handle,
    known: Option<u32>,
    who: Who,
    room: &str,
) -> Result<(), (ErrorCode, Cow<'static, str>)> {
    let entry = clients.find(handle);
    let is_member = known.is_some_and(|room| entry.is_some_and(|entry| entry.rooms.find(room).is_some()));
    clients.permits(turn, handle, who, is_member, Action::Publish, room).map_err(|denied| {
        turn.counters.dropped[DropReason::Forbidden as usize].add(1);
        (code_of(denied), denied.message(Action::Publish, room).into())
    })
}

/// The error code of an action that is not permitted.
const fn code_of(denied: Denied) -> ErrorCode {
    match denied {
        Denied::NotMember => ErrorCode::NotJoined,
        Denied::NoToken | Denied::NoGrant | Denied::BackendsOnly => ErrorCode::Forbidden,
    }
}
