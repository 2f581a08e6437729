//! Telling gaps: a walk over the connections, a few at a time, because members move while rooms live on.

use std::collections::HashSet;

use super::Rooms;
use crate::connection::Handle;
use crate::model::{GapReason, RoomName};
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::turn::Turn;
use crate::shard::writer::Writer;

/// One gap on its way to all connections that it concerns.
pub(super) struct Walk {
    /// The rooms concerned; `None` is all of a client's rooms, told once.
    rooms: Option<HashSet<RoomName>>,
    reason: GapReason,
    /// The connection that is next.
    next: u32,
}

impl Rooms {
    /// Begins to tell a gap of some rooms, or of all; before what comes after it is delivered.
    pub(in crate::shard) fn begin_gap(&mut self, rooms: Option<Vec<RoomName>>, reason: GapReason) {
        self.gaps.push_back(Walk { rooms: rooms.map(HashSet::from_iter), reason, next: 0 });
    }

    /// Whether a gap is still to be told.
    pub(in crate::shard) fn is_telling_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Looks at up to `budget` connections for the oldest gap.
    pub(in crate::shard) fn tell_gaps<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        budget: usize,
    ) {
        let Some(mut walk) = self.gaps.pop_front() else { return };
        let end = clients.end().min(walk.next.saturating_add(budget as u32));
        for index in walk.next..end {
            if let Some(handle) = clients.handle_at(index) {
                walk.tell(turn, writer, clients, handle);
            }
        }
        walk.next = end;
        if end < clients.end() {
            self.gaps.push_front(walk);
        }
    }
}

impl Walk {
    fn tell<D: Driver>(&self, turn: &mut Turn, writer: &mut Writer<D>, clients: &mut Clients, handle: Handle) {
        let Some(entry) = clients.open(handle) else { return };
        let joined = entry.rooms.as_slice().iter().map(|membership| membership.room);
        let concerned: Vec<u32> = joined.filter(|room| self.concerns(turn, *room)).collect();
        match &self.rooms {
            None if concerned.is_empty() => {}
            None => writer.send_gap(turn, clients, handle, None, self.reason),
            Some(_) => {
                for room in concerned {
                    writer.send_gap(turn, clients, handle, Some(room), self.reason);
                }
            }
        }
    }

    fn concerns(&self, turn: &Turn, room: u32) -> bool {
        let name = turn.names.name(room);
        name.is_some_and(|name| self.rooms.as_ref().is_none_or(|rooms| rooms.contains(name)))
    }
}
