//! Telling gaps: a walk over the slab, a few entries at a time, because members move while rooms live on.

use std::collections::HashSet;

use super::{Shard, encode};
use crate::close::CloseReason;
use crate::conn::Token;
use crate::counters::MessageType;
use crate::dialect::Notice;
use crate::limits::RESYNC_AFTER;
use crate::model::{GapReason, RoomName};
use crate::proto::frame;
use crate::shard::driver::Driver;

/// One gap on its way to everybody whom it concerns.
pub(super) struct Walk {
    /// The rooms concerned; `None` is all of a client's rooms, told once.
    rooms: Option<HashSet<RoomName>>,
    reason: GapReason,
    next: u32,
}

impl Walk {
    pub(super) fn new(rooms: Option<Vec<RoomName>>, reason: GapReason) -> Self {
        Self { rooms: rooms.map(HashSet::from_iter), reason, next: 0 }
    }
}

impl<D: Driver> Shard<D> {
    /// Looks at up to `budget` entries for the oldest gap.
    pub(super) fn tell_gaps(&mut self, budget: usize) {
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
            self.send_gap(token, None, walk.reason);
        } else {
            concerned.iter().for_each(|room| self.send_gap(token, Some(*room), walk.reason));
        }
    }

    pub(super) fn send_gap(&mut self, token: Token, room: Option<u32>, reason: GapReason) {
        // The notice before may have ended it.
        if !self.clients.is_open(token) {
            return;
        }
        let Some(frame) = self.gap_frame(token, room, reason) else {
            // The dialect has no words for a gap.
            if self.turn.settings.options.close_on_gap {
                self.close(token, CloseReason::Gap);
            }
            return;
        };
        self.turn.counters.gaps[reason as usize].add(1);
        self.turn.count_out(MessageType::Gap, 1);
        self.send(token, &frame);
    }

    /// The notice for one client; its moment of coming back is its own.
    pub(super) fn gap_frame(&mut self, token: Token, room: Option<u32>, reason: GapReason) -> Option<Vec<u8>> {
        let dialect = self.clients.find(token)?.form.dialect;
        let resync_ms = u64::from(self.turn.random.below(RESYNC_AFTER.as_millis() as u32));
        let name = match room {
            Some(room) => Some(self.turn.names.name(room)?.clone()),
            None => None,
        };
        let notice = Notice::Gap { room: name.as_deref(), reason, resync_ms };
        let (said, payload) = self.encoding.notice(dialect, &notice);
        let mut gap = Vec::with_capacity(payload.len() + 4);
        frame::write_frame(&mut gap, encode::opcode(said)?, payload);
        Some(gap)
    }
}
