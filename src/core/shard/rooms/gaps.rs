//! Telling gaps: a walk over the connections that a loss concerns, a few at a time, because members move while rooms live on.
//!
//! A gap of named rooms looks at their members alone: the other connections of the shard cost it nothing. A gap of all rooms looks
//! at every connection.

use std::collections::VecDeque;

use super::Rooms;
use crate::connection::WAITING;
use crate::model::{GapReason, RoomName};
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::turn::Turn;
use crate::shard::writer::Writer;

/// One gap on its way to all connections that it concerns.
pub(super) struct Walk {
    reason: GapReason,
    concerned: Concerned,
}

/// Which connections a gap concerns, and how far the walk is.
enum Concerned {
    /// Every connection that is in a room: told once, whatever its rooms. The index of the next one.
    All(u32),
    /// The members of these rooms: told once for each of them.
    Members {
        /// Rooms that are still to be begun.
        rooms: VecDeque<RoomName>,
        /// The room under way, and its members that are still to be told, by slab index. They are copied when it is begun, or one
        /// that takes the place of another that leaves would be told twice or never: in one go, 0.2 to 0.3 ms for 100,000 members.
        current: Option<(RoomName, Vec<u32>)>,
    },
}

impl Rooms {
    /// Begins to tell a gap of some rooms, or of all; before what comes after it is delivered.
    pub(in crate::shard) fn begin_gap(&mut self, rooms: Option<Vec<RoomName>>, reason: GapReason) {
        let concerned = match rooms {
            None => Concerned::All(0),
            // In the order of their names: that of the relay's tables is another one in each run.
            Some(mut rooms) => {
                rooms.sort_unstable();
                rooms.dedup();
                Concerned::Members { rooms: rooms.into(), current: None }
            }
        };
        self.gaps.push_back(Walk { reason, concerned });
    }

    /// Whether a gap is still to be told.
    pub(in crate::shard) fn is_telling_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Takes the oldest gap on by up to `budget` looks: at a connection, or at a room.
    pub(in crate::shard) fn tell_gaps<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        budget: usize,
    ) {
        let Some(mut walk) = self.gaps.pop_front() else { return };
        for _ in 0..budget {
            if !self.go_on_telling(&mut walk, turn, writer, clients) {
                return;
            }
        }
        self.gaps.push_front(walk);
    }

    /// One look; false where none was left to make.
    fn go_on_telling<D: Driver>(
        &self,
        walk: &mut Walk,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
    ) -> bool {
        match &mut walk.concerned {
            Concerned::All(next) => {
                if *next >= clients.end() {
                    return false;
                }
                tell_all(turn, writer, clients, *next, walk.reason);
                *next += 1;
            }
            Concerned::Members { rooms, current } => {
                if let Some((room, member)) = current.as_mut().and_then(|(room, left)| Some((&*room, left.pop()?))) {
                    tell_member(turn, writer, clients, member, room, walk.reason);
                    return true;
                }
                let Some(room) = rooms.pop_front() else { return false };
                let number = turn.names.number(&room);
                let subscription = number.and_then(|number| self.subscriptions.get(number as usize));
                *current = subscription.map(|subscription| (room, subscription.room.members().collect()));
            }
        }
        true
    }
}

/// Tells the connection at `index` that all of its rooms may miss messages, if it is in one.
fn tell_all<D: Driver>(turn: &mut Turn, writer: &mut Writer<D>, clients: &mut Clients, index: u32, reason: GapReason) {
    let Some(handle) = clients.handle_at(index) else { return };
    let Some(entry) = clients.open(handle) else { return };
    if !entry.rooms.is_empty() {
        writer.send_gap(turn, clients, handle, None, reason);
    }
}

/// Tells the connection at `index` the gap of one room, if it is still a member.
fn tell_member<D: Driver>(
    turn: &mut Turn,
    writer: &mut Writer<D>,
    clients: &mut Clients,
    index: u32,
    room: &RoomName,
    reason: GapReason,
) {
    // The room may have ended since the walk began, and its number be another's.
    let Some(number) = turn.names.number(room) else { return };
    let Some(handle) = clients.handle_at(index) else { return };
    let Some(entry) = clients.open(handle) else { return };
    if entry.rooms.find(number).is_some_and(|membership| membership.position != WAITING) {
        writer.send_gap(turn, clients, handle, Some(room), reason);
    }
}
