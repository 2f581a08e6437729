//! Telling gaps: a walk over the slab, a few entries at a time, because members move while rooms live on.

use std::collections::HashSet;

use crate::conn::Token;
use crate::model::{GapReason, RoomName};
use crate::shard::Shard;
use crate::shard::driver::Driver;

/// One gap on its way to everybody whom it concerns.
pub(in crate::shard) struct Walk {
    /// The rooms concerned; `None` is all of a client's rooms, told once.
    rooms: Option<HashSet<RoomName>>,
    reason: GapReason,
    next: u32,
}

impl Walk {
    pub(in crate::shard) fn new(rooms: Option<Vec<RoomName>>, reason: GapReason) -> Self {
        Self { rooms: rooms.map(HashSet::from_iter), reason, next: 0 }
    }
}

impl<D: Driver> Shard<D> {
    /// Looks at up to `budget` entries for the oldest gap.
    pub(in crate::shard) fn tell_gaps(&mut self, budget: usize) {
        let Some(mut walk) = self.gaps.pop_front() else { return };
        let end = self.clients.end().min(walk.next.saturating_add(budget as u32));
        for index in walk.next..end {
            let Some(token) = self.clients.token_at(index) else { continue };
            self.tell_gap(token, &walk);
        }
        walk.next = end;
        if end < self.clients.end() {
            self.gaps.push_front(walk);
        }
    }

    fn tell_gap(&mut self, token: Token, walk: &Walk) {
        let Some(entry) = self.clients.open(token) else { return };
        let joined: Vec<u32> = entry.rooms.as_slice().iter().map(|membership| membership.room).collect();
        let concerned = |room: &u32| match (&walk.rooms, self.turn.names.name(*room)) {
            (Some(rooms), Some(name)) => rooms.contains(name),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let concerned: Vec<u32> = joined.into_iter().filter(concerned).collect();
        if concerned.is_empty() {
            return;
        }
        if walk.rooms.is_none() {
            self.writer.send_gap(&mut self.turn, &mut self.clients, token, None, walk.reason);
        } else {
            concerned.iter().for_each(|room| {
                self.writer.send_gap(&mut self.turn, &mut self.clients, token, Some(*room), walk.reason)
            });
        }
    }
}
