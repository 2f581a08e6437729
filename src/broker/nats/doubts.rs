//! Subscriptions that the broker may have refused without the relay's hearing of it, and how they are proved again. Pure.
//!
//! The client keeps a bounded number of the broker's complaints for the relay and drops the rest. So many at once as to come near that
//! bound leave in doubt what they may be about: the subscriptions that no fence has proved yet; and all, where one of the complaints
//! is about a subscription that was in force, for the broker's permissions have changed. Rooms in doubt are subscribed anew, few
//! enough between two fences that every refusal among them is heard.
//!
//! A burst that names no subscription in force is what clients cause that join or publish where the broker forbids it. It subscribes
//! no room in force anew, for that is a gap to everybody; what it may hide is found by a round of probes, which costs nobody a message
//! (see `rounds.rs`).

use crate::model::RoomName;
use crate::relay::interest::{Interest, RoomKey};

use super::subscribes::Subscribes;

/// Complaints in one turn from which on some may have been dropped. The client keeps 128 events until the relay's next turn.
pub(super) const BURST: u64 = 64;
/// Subscriptions between two fences while there are doubts, probes among them: refused all, they are no burst.
pub(super) const PACE: usize = 36;

const _: () = assert!((PACE as u64) < BURST, "proving must not raise doubts");

/// The rooms in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    rooms: Subscribes,
    /// Rooms that were in force are among them: a gap is due once all are proved.
    gap: bool,
    /// Which of two queues gives the next room to subscribe.
    turn: bool,
}

impl Doubts {
    /// The room may have been refused. One that is `in_force` may miss messages until it is proved.
    pub(super) fn add(&mut self, key: RoomKey, room: RoomName, in_force: bool) {
        self.rooms.push(key, room);
        self.gap |= in_force;
    }

    /// Every room may have been refused: `rooms` are all.
    pub(super) fn replace(&mut self, rooms: impl Iterator<Item = (RoomKey, RoomName)>) {
        self.rooms = Subscribes::default();
        rooms.for_each(|(key, room)| self.rooms.push(key, room));
        self.gap = true;
    }

    /// Whether subscriptions are to be paced.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// The next room to subscribe anew. It takes turns with the rooms that are asked for the first time, where `others` wait.
    pub(super) fn pop(&mut self, interest: &Interest, others: bool) -> Option<(RoomKey, RoomName)> {
        self.turn = !self.turn;
        if others && self.turn { None } else { self.rooms.pop(interest) }
    }

    /// Whether the gap is due: the last room was subscribed, and the next fence proves it.
    pub(super) fn take_gap(&mut self) -> bool {
        self.rooms.is_empty() && std::mem::take(&mut self.gap)
    }
}
