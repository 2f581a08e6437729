//! Looks: what the admin port asks about all rooms or connections of the shard, answered over several turns.
//!
//! A turn looks at [`ENTRIES`] of them at most, all looks together, so that a query delays no client however many connections the
//! shard has. The answer is no snapshot: a connection or room that comes or goes meanwhile is counted in or out, depending on
//! whether the look had come by; none is counted twice.

mod largest;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::Shard;
use super::command::{ConnectionInfo, Reply, RoomInfo};
use crate::connection::{Entry, Handle, State};
use crate::model::RoomName;
use crate::shard::driver::Driver;
use largest::Largest;

/// Slots of the tables that a turn looks at: some 40 µs of work.
const ENTRIES: usize = 8192;
/// Slots that a connection's description counts as: it asks the driver for the peer's address and writes texts, some 2 µs.
const DESCRIPTION: usize = 64;
/// Looks that may wait. One more is dropped, and with it its reply: those who asked first have waited for longest.
const WAITING_LOOKS: usize = 64;

/// The looks that are not answered yet, the oldest first.
#[derive(Default)]
pub(super) struct Looks(VecDeque<Look>);

impl Looks {
    /// Begins a look.
    pub(super) fn begin(&mut self, look: Look) {
        if self.0.len() < WAITING_LOOKS {
            self.0.push_back(look);
        }
    }

    /// Whether none is under way.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One look under way.
pub(super) enum Look {
    Rooms(RoomsLook),
    Connections(ConnectionsLook),
}

/// A look at all rooms.
pub(super) struct RoomsLook {
    /// The number of the next room.
    next: u32,
    /// By publications, then members, then the lower number.
    busiest: Largest<(u64, usize, Reverse<u32>, RoomName)>,
    reply: Reply<Vec<RoomInfo>>,
}

/// A look at all connections.
pub(super) struct ConnectionsLook {
    by_outbox: bool,
    /// The slot of the next connection.
    next: u32,
    /// By bytes of the outbox where that is asked, then the lower slot; with the generation.
    found: Largest<(usize, Reverse<u32>, u32)>,
    /// Once all slots were looked at: which ones are still to be described.
    listed: Option<std::vec::IntoIter<Handle>>,
    described: Vec<ConnectionInfo>,
    reply: Reply<Vec<ConnectionInfo>>,
}

impl Look {
    /// For the `limit` busiest rooms.
    pub(super) fn at_rooms(limit: usize, reply: Reply<Vec<RoomInfo>>) -> Self {
        Self::Rooms(RoomsLook { next: 0, busiest: Largest::new(limit), reply })
    }

    /// For `limit` connections, the first ones or those with the largest outboxes.
    pub(super) fn at_connections(by_outbox: bool, limit: usize, reply: Reply<Vec<ConnectionInfo>>) -> Self {
        let (found, described) = (Largest::new(limit), Vec::new());
        Self::Connections(ConnectionsLook { by_outbox, next: 0, found, listed: None, described, reply })
    }
}

impl<D: Driver> Shard<D> {
    /// Takes the looks on by a turn's share, and answers those that are through.
    #[inline]
    pub(super) fn look_on(&mut self) {
        if !self.looks.is_empty() {
            self.look_at_most(ENTRIES);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_most(&mut self, most: usize) {
        let mut left = most;
        while left > 0 {
            let Some(mut look) = self.looks.0.pop_front() else { return };
            let is_through = match &mut look {
                Look::Rooms(look) => self.look_at_rooms(look, &mut left),
                Look::Connections(look) => self.look_at_connections(look, &mut left),
            };
            if !is_through {
                return self.looks.0.push_front(look);
            }
            match look {
                Look::Rooms(look) => look.answer(),
                Look::Connections(look) => (look.reply)(look.described),
            }
        }
    }

    /// Whether all rooms were looked at.
    fn look_at_rooms(&self, look: &mut RoomsLook, left: &mut usize) -> bool {
        let end = self.rooms.end();
        while look.next < end && *left > 0 {
            *left -= 1;
            if let Some((name, room)) = self.rooms.at(&self.turn, look.next) {
                look.busiest.offer((room.publications(), room.len(), Reverse(look.next), name.clone()));
            }
            look.next += 1;
        }
        look.next >= end
    }

    /// Whether all connections were looked at, and those that are listed described.
    fn look_at_connections(&self, look: &mut ConnectionsLook, left: &mut usize) -> bool {
        let end = self.clients.end();
        while look.next < end && *left > 0 && (look.by_outbox || !look.found.is_full()) {
            *left -= 1;
            if let Some(entry) = self.clients.peek(look.next).filter(|entry| entry.state != State::Released) {
                let weight = if look.by_outbox { entry.outbox_bytes() } else { 0 };
                look.found.offer((weight, Reverse(look.next), entry.generation));
            }
            look.next += 1;
        }
        if look.next < end && (look.by_outbox || !look.found.is_full()) {
            return false;
        }
        let listed = look.listed.get_or_insert_with(|| {
            let handle = |(_, Reverse(index), generation)| Handle { index, generation };
            look.found.take().map(handle).collect::<Vec<_>>().into_iter()
        });
        while *left > 0 {
            let Some(handle) = listed.next() else { return true };
            *left = left.saturating_sub(DESCRIPTION);
            let entry = self.clients.peek(handle.index).filter(|entry| entry.generation == handle.generation);
            look.described.extend(entry.map(|entry| self.describe(handle, entry)));
        }
        listed.as_slice().is_empty()
    }

    fn describe(&self, handle: Handle, entry: &Entry) -> ConnectionInfo {
        let told = self.clients.forwarded(handle.index).map(|address| address.to_string());
        let peer = told.or_else(|| self.writer.driver_ref().peer(entry.fd).map(|peer| peer.to_string()));
        ConnectionInfo {
            id: self.turn.id(handle).to_string(),
            state: match entry.state {
                State::Handshaking => "handshake",
                State::Open => "open",
                State::Ending | State::Closing | State::Lingering | State::Released => "closing",
            },
            dialect: entry.form.dialect.name(),
            rooms: entry.rooms.len(),
            outbox_bytes: entry.outbox_bytes(),
            peer: peer.unwrap_or_default(),
        }
    }
}

impl RoomsLook {
    fn answer(mut self) {
        let info = |(publications, members, _, name): (u64, usize, _, RoomName)| RoomInfo {
            room: name.to_string(),
            members,
            publications,
        };
        let rooms = self.busiest.take().map(info).collect();
        (self.reply)(rooms);
    }
}
