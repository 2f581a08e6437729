//! The connections of a shard: their table, which of them are to be read, which hold memory, and when each is looked at next.
//!
//! The rightmost of the shard's parts: it knows no socket call, no room and no other part. An end that is decided here is a mark
//! on the entry and an [`Ending`]; `settle` carries it out.

mod holders;
mod room_tokens;
mod sessions;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::driver::Ready;
use super::teardown::Ending;
use super::turn::Turn;
use crate::auth::{self, Action, Denied, Rights, Verified, Who};
use crate::close::{CloseReason, Refusal};
use crate::connection::{Connections, Entry, Flags, Handle, Slices, State};
use crate::dialect::{DialectId, Form};
use crate::limits;
use crate::ws::message::Partial;
pub(super) use holders::Held;
use holders::Holders;
use room_tokens::RoomTokens;
use sessions::Sessions;
pub(super) use sessions::{Session, Stage};
pub(super) use sweep::{Finding, Leaving};

/// See the module.
pub(super) struct Clients {
    table: Connections,
    /// Client addresses that a trusted proxy told, by slab index.
    forwarded: HashMap<u32, IpAddr>,
    /// What close frames are to say, by slab index.
    last_words: HashMap<u32, Box<str>>,
    /// Connections that have something to read.
    ready: VecDeque<Handle>,
    /// Connections over their message rate: ready again with the next tick.
    held_back: Vec<Handle>,
    /// Connections whose sockets take more of their outboxes.
    writing: VecDeque<Handle>,
    holders: Holders,
    sessions: Sessions,
    room_tokens: RoomTokens,
    slices: Slices,
    /// Bytes of the largest outbox of this round of the sweep.
    largest_outbox: u64,
}

impl Clients {
    /// Room for `slots` connections.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            table: Connections::with_capacity(slots),
            forwarded: HashMap::new(),
            last_words: HashMap::new(),
            ready: VecDeque::new(),
            held_back: Vec::new(),
            writing: VecDeque::new(),
            holders: Holders::default(),
            sessions: Sessions::default(),
            room_tokens: RoomTokens::default(),
            slices: Slices::new(limits::SWEEP_SLICES),
            largest_outbox: 0,
        }
    }

    /// Adds a connection; `make` gets its generation.
    pub(super) fn insert(&mut self, turn: &Turn, make: impl FnOnce(u32) -> Entry) -> Handle {
        let handle = self.table.insert(make);
        turn.counters.sockets.set(self.table.len() as u64);
        handle
    }

    /// Frees the slot of a connection that the driver has released.
    pub(super) fn remove(&mut self, turn: &Turn, handle: Handle) {
        self.table.remove(handle);
        turn.counters.sockets.set(self.table.len() as u64);
    }

    /// The connection of this name, in whatever state.
    #[inline]
    pub(super) fn find(&mut self, handle: Handle) -> Option<&mut Entry> {
        self.table.find(handle)
    }

    /// The same, if its end is neither decided nor under way.
    #[inline]
    pub(super) fn open(&mut self, handle: Handle) -> Option<&mut Entry> {
        self.table.find(handle).filter(|entry| entry.state == State::Open)
    }

    /// The same, unless its socket was given back.
    #[inline]
    pub(super) fn alive(&mut self, handle: Handle) -> Option<&mut Entry> {
        self.table.find(handle).filter(|entry| entry.state != State::Released)
    }

    /// Whether messages may still be sent to this connection.
    #[inline]
    pub(super) fn is_open(&mut self, handle: Handle) -> bool {
        self.open(handle).is_some()
    }

    /// The form of a connection's messages.
    #[inline]
    pub(super) fn form(&mut self, handle: Handle) -> Option<Form> {
        self.table.find(handle).map(|entry| entry.form)
    }

    /// The same, and whether the connection is to send its token before anything else.
    #[inline]
    pub(super) fn form_and_wait(&mut self, handle: Handle) -> Option<(Form, bool)> {
        self.table.find(handle).map(|entry| (entry.form, entry.flags.has(Flags::AWAITS_TOKEN)))
    }

    /// The dialect of a connection.
    #[inline]
    pub(super) fn dialect(&mut self, handle: Handle) -> Option<DialectId> {
        self.form(handle).map(|form| form.dialect)
    }

    /// The connection at an index that the caller knows to be taken: a member of a room.
    #[inline]
    pub(super) fn at(&mut self, index: u32) -> Option<&mut Entry> {
        self.table.at(index)
    }

    /// The name of the connection at an index.
    pub(super) fn handle_at(&self, index: u32) -> Option<Handle> {
        self.table.handle_at(index)
    }

    /// The connection at an index, to look at.
    pub(super) fn peek(&self, index: u32) -> Option<&Entry> {
        self.table.peek(index)
    }

    /// Asks the processor for an entry that will be needed soon.
    #[inline]
    pub(super) fn prefetch(&self, index: u32) {
        self.table.prefetch(index);
    }

    /// Connections in the table, in whatever state.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// One past the highest index that was ever taken.
    pub(super) fn end(&self) -> u32 {
        self.table.end()
    }

    /// The address that a trusted proxy told of the client at an index.
    pub(super) fn forwarded(&self, index: u32) -> Option<IpAddr> {
        self.forwarded.get(&index).copied()
    }

    /// Notes the address that a trusted proxy told of a client.
    pub(super) fn note_forwarded(&mut self, handle: Handle, address: IpAddr) {
        self.forwarded.insert(handle.index, address);
    }

    // Sessions.

    /// What a connection's token said; `None` for a guest.
    pub(super) fn session(&self, handle: Handle) -> Option<&Session> {
        self.sessions.get(handle.index)
    }

    /// Gives a connection its session. One that awaits its token may do nothing else before.
    pub(super) fn begin_session(&mut self, handle: Handle, session: Session) {
        let Some(entry) = self.table.find(handle) else { return };
        entry.flags.clear(Flags::AWAITS_TOKEN);
        if session.stage == Stage::Awaited {
            entry.flags.set(Flags::AWAITS_TOKEN);
        }
        self.sessions.set(handle.index, session);
    }

    /// Makes a guest of a connection: the node asks for no token any more.
    pub(super) fn end_session(&mut self, handle: Handle) {
        if let Some(entry) = self.table.find(handle) {
            entry.flags.clear(Flags::AWAITS_TOKEN);
        }
        self.sessions.remove(handle.index);
        self.room_tokens.remove(handle.index);
    }

    /// Forgets what is kept of a connection beside its entry.
    pub(super) fn forget(&mut self, handle: Handle) {
        self.forwarded.remove(&handle.index);
        self.sessions.remove(handle.index);
        self.room_tokens.remove(handle.index);
        self.last_words.remove(&handle.index);
    }

    /// Takes a connection whose session is to be looked at now, and the stage that it was in.
    pub(super) fn next_session_due(&mut self, turn: &Turn) -> Option<(Handle, Stage)> {
        let (index, stage) = self.sessions.next_due(turn.clock.tick)?;
        Some((self.table.handle_at(index)?, stage))
    }

    /// Whether a session, or what a room's own token added to one, is to be looked at.
    pub(super) fn is_session_due(&self, turn: &Turn) -> bool {
        self.sessions.is_due(turn.clock.tick) || self.room_tokens.is_due(turn.clock.tick)
    }

    /// Has what a connection may do end within a minute, as far as it came with keys that are gone; its client is told before.
    pub(super) fn withdraw(&mut self, turn: &mut Turn, handle: Handle, is_gone: impl Fn(u32) -> bool) {
        let (now, share) = (turn.clock.tick, turn.random.below(u32::MAX));
        self.sessions.withdraw(handle.index, now, share, &is_gone);
        self.room_tokens.withdraw(handle.index, now + sessions::WITHDRAWN_TICKS, is_gone);
    }

    /// Adds what a room's own token opens, until it ends; false where the connection has as many of them as it may have.
    pub(super) fn add_rights(&mut self, turn: &Turn, handle: Handle, verified: &Verified) -> bool {
        let ends = sessions::end_of(verified, turn.clock.tick);
        self.room_tokens.add(handle.index, verified.rights.clone(), ends, verified.key)
    }

    /// Takes a connection from which the rights of a room's own token were taken, because that has ended.
    pub(super) fn next_room_token_due(&mut self, turn: &Turn) -> Option<Handle> {
        let index = self.room_tokens.end_next(turn.clock.tick)?;
        self.table.handle_at(index)
    }

    /// Whether a connection may do something in a room under its rule.
    pub(super) fn permits(
        &self,
        turn: &Turn,
        handle: Handle,
        who: Who,
        is_member: bool,
        action: Action,
        room: &str,
    ) -> Result<(), Denied> {
        let added = self.room_tokens.rights(handle.index);
        let Some(session) = self.session(handle).filter(|session| session.stage != Stage::Awaited) else {
            // A room's own token opens to a guest what it names, and makes no user of it.
            let guest = auth::Session { user: None, rights: &Rights::none(), added };
            let session = (who == Who::Token && !added.is_empty()).then_some(&guest);
            return auth::permits(who, &[], session, is_member, action, room);
        };
        let session = auth::Session { user: session.user.as_deref(), rights: &session.rights, added };
        let grants = turn.settings.options.auth.as_ref().map_or(&[][..], |options| &options.grants);
        auth::permits(who, grants, Some(&session), is_member, action, room)
    }

    /// What the close frame of a connection is to say in place of its reason's usual text.
    pub(super) fn say_at_the_end(&mut self, handle: Handle, text: &str) {
        self.last_words.insert(handle.index, text.into());
    }

    /// Takes that text.
    pub(super) fn take_last_words(&mut self, handle: Handle) -> Option<Box<str>> {
        self.last_words.remove(&handle.index)
    }

    // Reading.

    /// Notes that a socket is ready; whether what waits in its outbox may be sent now.
    #[inline]
    pub(super) fn note_ready(&mut self, ready: Ready) -> bool {
        let Some(entry) = self.table.find(ready.handle).filter(|entry| entry.state != State::Released) else {
            return false;
        };
        if ready.hangup {
            entry.flags.set(Flags::HANGUP);
        }
        if ready.readable && !entry.flags.has(Flags::READY) {
            entry.flags.set(Flags::READY);
            self.ready.push_back(ready.handle);
        }
        ready.writable && entry.outbox.is_some()
    }

    /// Takes the connection that has waited longest to be read.
    #[inline]
    pub(super) fn next_ready(&mut self) -> Option<Handle> {
        self.ready.pop_front()
    }

    /// Connections that wait to be read.
    #[inline]
    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Has a connection read again in the next turn: more may be there, and no event will say so.
    pub(super) fn read_again(&mut self, handle: Handle) {
        if self.mark_ready(handle) {
            self.ready.push_back(handle);
        }
    }

    /// Has a connection read again with the next tick.
    pub(super) fn read_with_next_tick(&mut self, handle: Handle) {
        if self.mark_ready(handle) {
            self.held_back.push(handle);
        }
    }

    fn mark_ready(&mut self, handle: Handle) -> bool {
        let Some(entry) = self.table.find(handle).filter(|entry| !entry.flags.has(Flags::READY)) else { return false };
        entry.flags.set(Flags::READY);
        true
    }

    // Writing.

    /// Has what waits in a connection's outbox sent on, now or in the next turn.
    pub(super) fn write_on(&mut self, handle: Handle) {
        let Some(entry) = self.table.find(handle).filter(|entry| !entry.flags.has(Flags::WRITING)) else { return };
        entry.flags.set(Flags::WRITING);
        self.writing.push_back(handle);
    }

    /// Takes the connection that has waited longest to be sent what is in its outbox.
    pub(super) fn next_writing(&mut self) -> Option<Handle> {
        let handle = self.writing.pop_front()?;
        if let Some(entry) = self.table.find(handle) {
            entry.flags.clear(Flags::WRITING);
        }
        Some(handle)
    }

    /// Connections that wait to be sent what is in their outboxes.
    #[inline]
    pub(super) fn writing_len(&self) -> usize {
        self.writing.len()
    }

    /// Takes one credit of a connection's message rate; messages and pings are paid from the same rate.
    #[inline]
    pub(super) fn take_credit(&mut self, turn: &Turn, handle: Handle) -> bool {
        let (rate, burst) = (turn.settings.options.message_rate, turn.settings.message_burst);
        self.table.find(handle).is_some_and(|entry| entry.take_credit(turn.clock.tick, rate, burst))
    }

    /// Takes what a message of `bytes` costs of the same rate, all or nothing.
    pub(super) fn take_credits_for(&mut self, turn: &Turn, handle: Handle, bytes: usize) -> bool {
        let (rate, burst) = (turn.settings.options.message_rate, turn.settings.message_burst);
        let count = bytes.div_ceil(limits::CREDIT_BYTES).max(1);
        self.table.find(handle).is_some_and(|entry| entry.take_credits(turn.clock.tick, rate, burst, count))
    }

    /// Takes a connection's unfinished message out of its entry and of the accounts.
    #[inline]
    pub(super) fn take_partial(&mut self, turn: &Turn, handle: Handle) -> Option<Box<Partial>> {
        let partial = self.table.find(handle)?.partial.take()?;
        turn.counters.unfinished_bytes.sub(partial.pinned_bytes() as u64);
        Some(partial)
    }

    /// Keeps a connection's unfinished message.
    pub(super) fn keep_partial(&mut self, turn: &Turn, handle: Handle, partial: Box<Partial>) {
        let Some(entry) = self.table.find(handle) else { return };
        turn.counters.unfinished_bytes.add(partial.pinned_bytes() as u64);
        entry.partial = Some(partial);
        self.holders.note(handle, entry);
    }

    /// Notes that a connection holds memory from now on: its outbox.
    #[inline]
    pub(super) fn note_holder(&mut self, handle: Handle) {
        if let Some(entry) = self.table.find(handle) {
            self.holders.note(handle, entry);
        }
    }

    /// The connections that hold the most memory of this kind, the largest first, and whether all were looked at for them: of
    /// more than `holders::LOOKS` each call looks at a part.
    pub(super) fn largest_holders(&mut self, held: Held) -> (Vec<Handle>, bool) {
        self.holders.largest(&mut self.table, held)
    }

    // States.

    /// Opens a connection whose upgrade was granted, with its form. It was accepted at `accepted_us`, in monotonic µs modulo 2³².
    pub(super) fn begin_open(&mut self, turn: &mut Turn, handle: Handle, form: Form, accepted_us: u32) {
        let Some(entry) = self.table.find(handle) else { return };
        entry.state = State::Open;
        entry.form = form;
        entry.flags.set(Flags::UPGRADED);
        entry.deadline = 0;
        entry.batch = 0;
        let waited_us = turn.clock.mono_us().wrapping_sub(accepted_us);
        // The first ping comes at a random moment of the interval's second half: those of a silent crowd are spread, and a client
        // that has just come has time.
        let silent = turn.random.below(u32::from(turn.settings.heartbeat.ping / 2)) as u16;
        entry.heard = entry.heard.wrapping_sub(silent);
        turn.counters.upgraded.add(1);
        turn.counters.connections.add(1);
        turn.counters.handshake_duration.record(u64::from(waited_us) * 1_000, 1);
    }

    /// Closes a connection that is answered without an upgrade; whether it is there.
    pub(super) fn begin_answer(&mut self, turn: &Turn, handle: Handle) -> bool {
        let Some(entry) = self.table.find(handle) else { return false };
        entry.state = State::Closing;
        entry.batch = 0;
        entry.deadline = turn.clock.tick + turn.settings.close_deadline;
        true
    }

    /// Marks an open connection to be closed from our side. What was answered to it so far must have been
    /// flushed: nothing more is sent to it.
    pub(super) fn close(&mut self, turn: &mut Turn, handle: Handle, reason: CloseReason) {
        let Some(entry) = self.open(handle) else { return };
        entry.state = State::Ending;
        entry.reason = Some(reason);
        turn.endings.push_back(Ending::Close(handle, reason));
    }

    /// Marks a connection whose socket is of no more use. `reason` counts only where none was noted before.
    pub(super) fn gone(&mut self, turn: &mut Turn, handle: Handle, reason: CloseReason) {
        let Some(entry) = self.alive(handle) else { return };
        let before = std::mem::replace(&mut entry.state, State::Ending);
        turn.endings.push_back(Ending::Gone(handle, reason, before));
    }

    /// Marks a connection whose request is answered without an upgrade.
    pub(super) fn refuse(&mut self, turn: &mut Turn, handle: Handle, refusal: Refusal) {
        let Some(entry) = self.find(handle).filter(|entry| entry.state == State::Handshaking) else { return };
        entry.state = State::Ending;
        turn.endings.push_back(Ending::Refuse(handle, refusal));
    }

    /// Marks a connection whose peer sent a close frame with this code. After it nothing of the connection matters.
    pub(super) fn closed_by_peer(&mut self, turn: &mut Turn, handle: Handle, code: Option<u16>) {
        let Some(entry) = self.find(handle) else { return };
        match entry.state {
            State::Open => {
                entry.state = State::Ending;
                entry.reason = Some(CloseReason::ClosedByPeer);
            }
            State::Ending | State::Closing => {}
            State::Handshaking | State::Lingering | State::Released => return,
        }
        turn.endings.push_back(Ending::ClosedByPeer(handle, code));
    }

    /// From [`State::Ending`] to [`State::Closing`]; the connection's dialect. `None` where it closes already, or is gone.
    pub(super) fn begin_closing(&mut self, turn: &Turn, handle: Handle) -> Option<DialectId> {
        let entry = self.find(handle).filter(|entry| entry.state == State::Ending)?;
        entry.state = State::Closing;
        entry.deadline = turn.clock.tick + turn.settings.close_deadline;
        Some(entry.form.dialect)
    }
}
