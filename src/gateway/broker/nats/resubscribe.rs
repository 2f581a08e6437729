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
//!
//! An error that names no room (`maximum subscriptions exceeded`, or one that a later server invents) may be about any subscription
//! that no fence has confirmed. These are subscribed again one at a time: the one behind which the error comes again is refused,
//! the others are proved.

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
    /// An error named no room: one subscription between two fences, so that the next error can be about that one only.
    alone: bool,
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

    /// An error named no room, and these subscriptions are not confirmed yet. Gives the one that is refused for it: it was subscribed
    /// alone, because there was such an error before.
    pub(super) fn handle_unnamed_error(&mut self, unproven: &[RoomKey]) -> Option<RoomKey> {
        match unproven {
            [] => None,
            [key] if self.alone => Some(*key),
            _ => {
                self.alone = true;
                None
            }
        }
    }

    /// A fence is back without an error before it.
    pub(super) fn handle_proof(&mut self) {
        self.alone &= !self.rooms.is_empty();
    }

    /// How many subscriptions may be between two fences.
    pub(super) fn pace(&self) -> usize {
        if self.alone { 1 } else { PACE }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};
    use tidegate_core::relay::interest::{Bounds, Effect};

    #[test]
    fn the_room_that_is_alone_when_an_unnamed_error_comes_again_is_the_one_that_is_refused() {
        let long = Duration::from_secs(5);
        let mut interest = Interest::new(Bounds { confirm_within: long, linger: long, rooms: 9 });
        let mut keys = Vec::new();
        for room in ["a", "b", "c"] {
            interest.handle_subscribe(room.into(), 0, Instant::now());
            let Some(Effect::Subscribe(key, _)) = interest.poll_effect() else { panic!("it is new") };
            keys.push(key);
        }
        let mut resubscribe = Resubscribe::default();
        assert_eq!(resubscribe.handle_unnamed_error(&[]), None, "it was about nothing that is under way");
        assert_eq!((resubscribe.handle_unnamed_error(&keys), resubscribe.pace()), (None, 1));
        keys.iter().zip(["a", "b", "c"]).for_each(|(key, room)| resubscribe.add(*key, room.into(), false));
        assert_eq!(resubscribe.pop(&interest, false).map(|(key, _)| key), Some(keys[0]));
        resubscribe.handle_proof();
        assert_eq!(resubscribe.pop(&interest, false).map(|(key, _)| key), Some(keys[1]));
        assert_eq!(resubscribe.handle_unnamed_error(&keys[1..2]), Some(keys[1]));
        assert_eq!(resubscribe.pop(&interest, false).map(|(key, _)| key), Some(keys[2]));
        resubscribe.handle_proof();
        assert_eq!((resubscribe.is_empty(), resubscribe.pace()), (true, PACE));
    }
}
