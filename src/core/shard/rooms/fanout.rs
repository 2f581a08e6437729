//! The fan-out: passes over rooms' members, a few sends at a time, rooms taking turns.

use std::sync::Arc;

use super::Rooms;
use crate::connection::{Chunk, Handle, Tag};
use crate::model::Publication;
use crate::room::{Encoded, Step};
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::settings::SlowPolicy;
use crate::shard::turn::Turn;
use crate::shard::writer::Writer;

/// Sends in a row for one room before the next room's turn.
const TURN: usize = 32;
/// Positions that are looked at for holes in the place of one send: it takes as long where each of them is a hole.
const HOLES: usize = 32;
/// How many members ahead an entry is fetched into the cache.
const AHEAD: usize = 4;

impl Rooms {
    /// Whether a room has more to send.
    pub(in crate::shard) fn is_passing(&self) -> bool {
        !self.passes.is_empty()
    }

    /// Whether deliveries may be taken from the mailbox: not before all gaps are told, and not more than the rooms may hold.
    pub(in crate::shard) fn takes_deliveries(&self, turn: &Turn) -> bool {
        self.gaps.is_empty() && self.pending_bytes < turn.settings.fanout_bytes
    }

    /// Takes the next room's pass on, up to `most` members and a turn; `None` where no room has anything to send. Returns how much
    /// of `most` it took.
    pub(in crate::shard) fn go_on<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        most: usize,
    ) -> Option<usize> {
        let room = self.passes.pop_front()?;
        let most = TURN.min(most);
        for sent in 0..most {
            // A room that has ended may be in the list still, and its number be that of one that waits for its `joined`s.
            let ready =
                self.subscriptions.get_mut(room as usize).filter(|subscription| subscription.answering.is_none());
            let Some(subscription) = ready else { return Some(sent.max(1)) };
            match subscription.room.step() {
                Step::Member(member) => {
                    if let Some(ahead) = subscription.room.ahead(AHEAD) {
                        clients.prefetch(ahead);
                    }
                    self.send_batch(turn, writer, clients, room, member);
                }
                Step::Over => {
                    if self.end_pass(clients, room) {
                        self.passes.push_back(room);
                    }
                    return Some(sent.max(1));
                }
                Step::Holes => {
                    self.close_holes(clients, room);
                }
                Step::Idle => return Some(sent.max(1)),
            }
        }
        self.passes.push_back(room);
        Some(most)
    }

    /// Sends the pass's batch to one member.
    #[inline]
    fn send_batch<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        room: u32,
        member: u32,
    ) {
        let Some(entry) = clients.at(member) else { return };
        let handle = Handle { index: member, generation: entry.generation };
        let form = entry.form;
        let id = turn.id(handle);
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        let tag = Tag::Room { room, may_drop: subscription.policy.slow == SlowPolicy::DropOldest };
        let Some(batch) = subscription.room.batch() else { return };
        let encoded = batch.encoded(form, |publications| writer.encode(form, publications)).clone();
        if encoded.messages == 0 {
            return;
        }
        if batch.is_selective() {
            let user = clients.session(handle).and_then(|session| session.user.as_deref());
            let is_wanted = |publication: &Arc<Publication>| publication.is_for(id, user);
            if !batch.publications().iter().all(is_wanted) {
                let wanted: Vec<bool> = batch.publications().iter().map(is_wanted).collect();
                return send_wanted(turn, writer, clients, handle, tag, &encoded, &wanted);
            }
        }
        let chunk = Chunk::whole(encoded.buffer, tag, encoded.messages);
        writer.deliver(turn, clients, handle, &chunk);
    }

    /// Ends a pass that is over: remembers when its batch was published, and closes some holes. Whether the room has more to do.
    fn end_pass(&mut self, clients: &mut Clients, room: u32) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return false };
        let before = subscription.room.pending_bytes();
        let (batch, more) = subscription.room.finish();
        self.pending_bytes -= before - subscription.room.pending_bytes();
        let publications = batch.iter().flat_map(|batch| batch.publications());
        self.delivered_unix_ns.extend(publications.map(|publication| publication.time_unix_ns));
        !self.close_holes(clients, room) || more
    }

    /// Closes some of the holes that members left during a pass, and tells members that moved where they are now. Whether none is
    /// left.
    fn close_holes(&mut self, clients: &mut Clients, room: u32) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return true };
        subscription.room.close_holes(HOLES, |member, position| {
            if let Some(entry) = clients.at(member) {
                entry.rooms.set_position(room, position);
            }
        })
    }

    /// Whether passes are over that [`Rooms::note_delivered`] has not counted.
    pub(in crate::shard) fn has_delivered(&self) -> bool {
        !self.delivered_unix_ns.is_empty()
    }

    /// Counts how long each publication took to its last member, at `unix_ns`. Publishers' clocks are their own: what is more than
    /// an hour old by them says nothing and is left out.
    pub(in crate::shard) fn note_delivered(&mut self, turn: &Turn, unix_ns: u64) {
        const HOUR_NS: u64 = 3_600_000_000_000;
        for published_ns in self.delivered_unix_ns.drain(..) {
            let took_ns = unix_ns.saturating_sub(published_ns);
            if took_ns <= HOUR_NS {
                turn.counters.publish_delivery.record(took_ns, 1);
            }
        }
    }
}

/// Sends what is left of a batch when the publications are taken out that leave the member out.
#[cold]
fn send_wanted<D: Driver>(
    turn: &mut Turn,
    writer: &mut Writer<D>,
    clients: &mut Clients,
    handle: Handle,
    tag: Tag,
    encoded: &Encoded,
    wanted: &[bool],
) {
    for (range, messages) in encoded.ranges(|i| wanted[i]) {
        let whole = Chunk::whole(encoded.buffer.clone(), tag, messages);
        let chunk = Chunk { start: range.start, end: range.end, ..whole };
        writer.deliver(turn, clients, handle, &chunk);
    }
}
