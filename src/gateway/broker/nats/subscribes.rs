//! Rooms that wait for the client to take their subscription. Pure.
//!
//! They wait in the order in which they were asked for, which is that of their deadlines: what the interest table has refused by now
//! is at the front.

use std::collections::VecDeque;

use tidegate_core::model::RoomName;
use tidegate_core::relay::interest::{Interest, RoomKey};

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Subscribes(VecDeque<(RoomKey, RoomName)>);

impl Subscribes {
    /// Puts a room last.
    pub(super) fn push(&mut self, key: RoomKey, room: RoomName) {
        self.0.push_back((key, room));
    }

    /// Takes the oldest that is still wanted.
    pub(super) fn pop(&mut self, interest: &Interest) -> Option<(RoomKey, RoomName)> {
        self.forget_refused(interest);
        self.0.pop_front()
    }

    /// Forgets the rooms at the front that were refused while they waited: a broker that is away must not make the queue grow.
    pub(super) fn forget_refused(&mut self, interest: &Interest) {
        while self.0.front().is_some_and(|(key, room)| interest.key(room) != Some(*key)) {
            self.0.pop_front();
        }
    }

    /// Whether no room waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Rooms that wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
