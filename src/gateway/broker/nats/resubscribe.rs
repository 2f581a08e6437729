//! Subscriptions that the server may have refused without the relay's knowing, and how they are made again. Pure.
//!
//! The client keeps a bounded number of the server's errors (`-ERR`) for the relay and drops the rest. After so many at once that
//! some may have been dropped, two kinds of subscription are uncertain: those that no fence has confirmed yet; and all of them, where
//! one of the errors names a room in force, for then the server's permissions have changed. Uncertain rooms are subscribed again, few
//! enough between two fences that the client keeps every error about them.
//!
//! Clients cause a burst of errors that names no room in force by joining or publishing where the server forbids it. Such a burst
//! subscribes no room in force again, for that is a gap to all its members; what it may hide is found by an audit, which costs no
//! member a message (see `audit.rs`).

use tidegate_core::model::RoomName;
use tidegate_core::relay::interest::{Interest, RoomKey};

use super::subscribes::Subscribes;

/// Errors in one turn from which on some may have been dropped. The client keeps 128 events until the relay's next turn.
pub(super) const BURST: u64 = 64;
/// Subscriptions between two fences while rooms are uncertain, probes among them: were all refused, that would be no burst.
pub(super) const PACE: usize = 36;

const _: () = assert!((PACE as u64) < BURST, "subscribing again must not be a burst");

/// The uncertain rooms.
#[derive(Debug, Default)]
pub(super) struct Resubscribe {
    rooms: Subscribes,
    /// Rooms that were in force are among them: a gap is due once all are proved.
    gap: bool,
    /// Which of two queues gives the next room to subscribe.
    turn: bool,
}

impl Resubscribe {
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
