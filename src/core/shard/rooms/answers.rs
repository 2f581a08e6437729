//! What the relay says about a room: that it is confirmed, refused or revoked. Memberships change at once; the connections that
//! are told so, which may be a crowd, get their answers a share in each turn.
//!
//! Memberships change in one go, because a room must never be half confirmed: that is one write to each connection's entry, without
//! an allocation or a system call. For 100,000 connections a confirmation takes 1.7 ms and a revocation 3.3 ms. An answer is
//! encoded and sent, which takes 5 µs: [`AT_ONCE`] in a turn go out with the relay's item, the others with the fan-out, rooms taking
//! turns. A confirmed room begins no pass before all connections that waited are told `joined`, so that what was published after it
//! comes after it.

use super::{Rooms, Subscription};
use crate::close::CloseReason;
use crate::connection::{Handle, WAITING};
use crate::dialect::{ErrorCode, Notice};
use crate::model::{GapReason, RoomName};
use crate::relay::JoinError;
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::turn::Turn;
use crate::shard::upstream::{PendingRequest, Upstream};
use crate::shard::writer::Writer;

/// Answers of a turn that go out with the relay's items: a client that joins alone is answered in the turn of its confirmation.
pub(in crate::shard) const AT_ONCE: usize = 256;
/// Answers in a row for one room before the next room's turn.
const TURN: usize = 32;
/// How many connections ahead an entry is fetched into the cache.
const AHEAD: usize = 8;

/// The connections that are still to be told what the relay said about one room.
pub(super) struct Answers {
    name: RoomName,
    verdict: Verdict,
}

enum Verdict {
    /// The room of this number is confirmed, as long as its subscription still has these answers under way: it may be revoked
    /// meanwhile, and its number be another room's.
    Joined { room: u32, answering: u32, waiters: std::vec::IntoIter<PendingRequest> },
    /// It is refused, and is not a room of this shard any more.
    Refused { error: JoinError, waiters: std::vec::IntoIter<PendingRequest> },
    /// It is revoked, and its members are members no more.
    Revoked { members: std::vec::IntoIter<Handle> },
}

impl Verdict {
    fn is_told(&self) -> bool {
        match self {
            Self::Joined { waiters, .. } | Self::Refused { waiters, .. } => waiters.as_slice().is_empty(),
            Self::Revoked { members } => members.as_slice().is_empty(),
        }
    }
}

impl Rooms {
    /// Begins a turn of the loop: as many answers as in the one before may go out at once.
    #[inline]
    pub(in crate::shard) fn begin_turn(&mut self) {
        self.answered = 0;
    }

    /// Whether connections are still to be told what the relay said.
    #[inline]
    pub(in crate::shard) fn is_answering(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The relay has confirmed a room: the connections that waited are members, and are told so.
    pub(in crate::shard) fn confirmed<D: Driver>(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        name: &RoomName,
    ) {
        let Some(room) = turn.names.number(name) else { return };
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        let Some(waiters) = subscription.waiters.take() else { return };
        for (at, waiter) in waiters.iter().enumerate() {
            if let Some(ahead) = waiters.get(at + AHEAD) {
                clients.prefetch(ahead.handle.index);
            }
            let Some(entry) = clients.find(waiter.handle) else { continue };
            if entry.rooms.find(room).is_some_and(|membership| membership.position == WAITING) {
                entry.rooms.set_position(room, subscription.room.join(waiter.handle.index));
            }
        }
        self.confirmations = self.confirmations.wrapping_add(1);
        let answering = self.confirmations;
        subscription.answering = Some(answering);
        upstream.release_held(room);
        let verdict = Verdict::Joined { room, answering, waiters: waiters.into_iter() };
        self.answer(turn, upstream, writer, clients, Answers { name: name.clone(), verdict });
    }

    /// The relay has refused a room: the connections that waited are told, and the room is removed.
    pub(in crate::shard) fn refused<D: Driver>(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        name: &RoomName,
        error: JoinError,
    ) {
        let Some(room) = turn.names.number(name) else { return };
        upstream.release_held(room);
        let Some((name, subscription)) = self.remove(turn, room) else { return };
        let mut waiters = subscription.waiters.unwrap_or_default();
        // One that has left again and asked without a `ref` was told so.
        waiters.retain(|waiter| {
            let waited = clients.find(waiter.handle).and_then(|entry| entry.rooms.remove(room));
            waited.is_some() || waiter.reference.is_some()
        });
        let verdict = Verdict::Refused { error, waiters: waiters.into_iter() };
        self.answer(turn, upstream, writer, clients, Answers { name, verdict });
    }

    /// The broker has revoked a room: its members are members no more, and are told that and the loss.
    pub(in crate::shard) fn revoked<D: Driver>(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        name: &RoomName,
    ) {
        let Some(room) = turn.names.number(name) else { return };
        let is_confirmed = |subscription: &&Subscription| subscription.waiters.is_none();
        if self.subscriptions.get(room as usize).filter(is_confirmed).is_none() {
            return;
        }
        let Some((name, subscription)) = self.remove(turn, room) else { return };
        upstream.unsubscribe(name.clone());
        let members: Vec<Handle> = subscription.room.members().filter_map(|member| clients.handle_at(member)).collect();
        for (at, member) in members.iter().enumerate() {
            if let Some(ahead) = members.get(at + AHEAD) {
                clients.prefetch(ahead.index);
            }
            let Some(entry) = clients.find(*member) else { continue };
            entry.rooms.remove(room);
            if let Some(outbox) = &mut entry.outbox {
                outbox.forget_room(room);
            }
        }
        let verdict = Verdict::Revoked { members: members.into_iter() };
        self.answer(turn, upstream, writer, clients, Answers { name, verdict });
    }

    /// The room whose members these answers tell `joined`, if it is still theirs.
    fn room_of(&self, answers: &Answers) -> Option<u32> {
        let Verdict::Joined { room, answering, .. } = answers.verdict else { return None };
        let subscription = self.subscriptions.get(room as usize)?;
        (subscription.answering == Some(answering)).then_some(room)
    }

    /// Tells as many connections as may be told at once; the others are told with the fan-out.
    fn answer<D: Driver>(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        mut answers: Answers,
    ) {
        let at_once = AT_ONCE.saturating_sub(self.answered);
        let room = self.room_of(&answers);
        self.answered += tell_next(turn, writer, clients, &mut answers, room, at_once);
        self.keep_or_end(turn, upstream, answers);
    }

    /// Tells up to `most` connections that wait for it, rooms taking turns; returns how many.
    pub(in crate::shard) fn answer_on<D: Driver>(
        &mut self,
        turn: &mut Turn,
        upstream: &mut Upstream,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        most: usize,
    ) -> usize {
        let mut told = 0;
        while told < most {
            let Some(mut answers) = self.answers.pop_front() else { break };
            let room = self.room_of(&answers);
            told += tell_next(turn, writer, clients, &mut answers, room, TURN.min(most - told)).max(1);
            self.keep_or_end(turn, upstream, answers);
        }
        told
    }

    fn keep_or_end(&mut self, turn: &mut Turn, upstream: &mut Upstream, answers: Answers) {
        if !answers.verdict.is_told() {
            self.answers.push_back(answers);
        } else if let Some(room) = self.room_of(&answers) {
            self.end_answering(turn, upstream, room);
        }
    }

    /// All connections that waited for a room are told `joined`: what was published into it meanwhile goes out, or, where all have left,
    /// the room ends.
    fn end_answering(&mut self, turn: &mut Turn, upstream: &mut Upstream, room: u32) {
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        subscription.answering = None;
        if subscription.room.is_due() {
            self.passes.push_back(room);
        }
        self.unsubscribe_if_empty(turn, upstream, room);
    }
}

/// Tells up to `most` of the connections; returns how many. The room is that of [`Rooms::room_of`].
fn tell_next<D: Driver>(
    turn: &mut Turn,
    writer: &mut Writer<D>,
    clients: &mut Clients,
    answers: &mut Answers,
    room: Option<u32>,
    most: usize,
) -> usize {
    let Answers { name, verdict } = answers;
    for told in 0..most {
        match verdict {
            Verdict::Joined { waiters, .. } => {
                let Some(waiter) = waiters.next() else { return told };
                tell_joined(turn, writer, clients, name, room, &waiter);
            }
            Verdict::Refused { error, waiters } => {
                let Some(waiter) = waiters.next() else { return told };
                tell_refused(turn, writer, clients, name, *error, &waiter);
            }
            Verdict::Revoked { members } => {
                let Some(member) = members.next() else { return told };
                tell_revoked(turn, writer, clients, name, member);
            }
        }
    }
    most
}

fn tell_joined<D: Driver>(
    turn: &mut Turn,
    writer: &mut Writer<D>,
    clients: &mut Clients,
    name: &RoomName,
    room: Option<u32>,
    waiter: &PendingRequest,
) {
    let reference = waiter.reference.as_deref();
    let Some(entry) = clients.open(waiter.handle) else { return };
    if room.is_some_and(|room| entry.rooms.find(room).is_some()) {
        writer.reply_to(turn, clients, waiter.handle, &Notice::Joined { room: name, reference });
    } else if reference.is_some() {
        // It has left again and was told so, or lost the room; what it asked with a `ref` is answered all the same.
        let message = "you left the room before it was confirmed, or lost it; join it again to be in it";
        let notice = Notice::Refused { code: ErrorCode::NotJoined, message, room: Some(name), reference };
        writer.reply_to(turn, clients, waiter.handle, &notice);
    }
    writer.flush(turn, clients, waiter.handle);
}

fn tell_refused<D: Driver>(
    turn: &mut Turn,
    writer: &mut Writer<D>,
    clients: &mut Clients,
    name: &RoomName,
    error: JoinError,
    waiter: &PendingRequest,
) {
    let (code, message) = match error {
        JoinError::Unconfirmed => {
            (ErrorCode::Unavailable, "the broker did not confirm the subscription in time; join again")
        }
        JoinError::TooManyRooms => {
            (ErrorCode::RoomLimit, "the node has as many rooms as it may have; try again later, or join another")
        }
    };
    let reference = waiter.reference.as_deref();
    if reference.is_none() && is_back(turn, clients, waiter.handle, name) {
        return;
    }
    let Some(dialect) = clients.open(waiter.handle).map(|entry| entry.form.dialect) else { return };
    let notice = Notice::Refused { code, message, room: Some(name), reference };
    if writer.reply(turn, dialect, &notice) {
        writer.flush(turn, clients, waiter.handle);
    } else {
        writer.close(turn, clients, waiter.handle, CloseReason::Gap);
    }
}

fn tell_revoked<D: Driver>(
    turn: &mut Turn,
    writer: &mut Writer<D>,
    clients: &mut Clients,
    name: &RoomName,
    handle: Handle,
) {
    let Some(dialect) = clients.open(handle).map(|entry| entry.form.dialect) else { return };
    let message = format!("the broker no longer lets this node have room {name}; join it again");
    let (code, room) = (ErrorCode::Unavailable, Some(&**name));
    let notice = Notice::Refused { code, message: &message, room, reference: None };
    if !writer.has_words(dialect, &notice) {
        return writer.close(turn, clients, handle, CloseReason::Gap);
    }
    writer.send_gap(turn, clients, handle, Some(name), GapReason::Broker);
    if clients.is_open(handle) && !is_back(turn, clients, handle, name) {
        writer.reply(turn, dialect, &notice);
        writer.flush(turn, clients, handle);
    }
}

/// Whether a connection that lost a room has joined it again before it was told: an error without a `ref` would say that it is
/// not in the room that it is in.
fn is_back(turn: &Turn, clients: &mut Clients, handle: Handle, name: &RoomName) -> bool {
    let number = turn.names.number(name);
    let entry = clients.find(handle);
    number.zip(entry).is_some_and(|(number, entry)| entry.rooms.find(number).is_some())
}
