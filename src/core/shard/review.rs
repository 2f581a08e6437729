//! The review: after other options, what is there already is held to them. Rooms get their rules anew, then members that may no longer be
//! in leave, and connections that may no longer be there are closed. Sessions whose key is gone end within a minute unless renewed.
//!
//! All rooms come before the first connection: a join that an old rule still let in is found when the connections' turn comes. A turn
//! takes a share, so that a reload delays no client. What is given other options meanwhile begins again.

use std::sync::Arc;

use super::Shard;
use super::settings::Options;
use crate::auth::{Key, Reason};
use crate::connection::State;
use crate::shard::driver::Driver;

/// What a turn looks at: so many slots of the tables, and fewer where there is more to do for one.
const SHARE: usize = 2048;
/// Slots that a membership, whose rule may want a look at grants, counts as.
const MEMBERSHIP: usize = 8;
/// Slots that a connection counts as that is told something.
const TELLING: usize = 64;

/// How far the review is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Review {
    /// None is under way.
    #[default]
    Done,
    /// Rooms from this number on.
    Rooms(u32),
    /// Connections from this slot on.
    Connections(u32),
}

impl Review {
    /// Whether one is under way.
    #[inline]
    pub(super) fn is_under_way(self) -> bool {
        self != Self::Done
    }
}

impl<D: Driver> Shard<D> {
    /// Goes on with other options.
    pub(super) fn begin_review(&mut self, options: Arc<Options>) {
        self.turn.settings = Arc::new(self.turn.settings.with(options));
        self.admission.handle_options(&self.turn.settings.options);
        self.review = Review::Rooms(0);
    }

    /// Takes the review on by a turn's share.
    #[inline]
    pub(super) fn review_on(&mut self) {
        if self.review.is_under_way() {
            self.review_at_most(SHARE);
        }
    }

    #[cold]
    #[inline(never)]
    fn review_at_most(&mut self, most: usize) {
        let mut left = most;
        let keys = self.turn.settings.options.auth.as_ref().map(|auth| auth.verifier.keys().map(Key::number));
        let keys: Vec<u32> = keys.into_iter().flatten().collect();
        while left > 0 {
            self.review = match self.review {
                Review::Done => return,
                Review::Rooms(room) if room >= self.rooms.end() => Review::Connections(0),
                Review::Rooms(room) => {
                    self.rooms.renew_policy(&self.turn, room);
                    left -= 1;
                    Review::Rooms(room + 1)
                }
                Review::Connections(slot) if slot >= self.clients.end() => Review::Done,
                Review::Connections(slot) => {
                    left = left.saturating_sub(self.review_connection(slot, &keys));
                    Review::Connections(slot + 1)
                }
            };
        }
    }

    /// Holds one connection to the options and to the keys, by their numbers; what that cost of a turn's share.
    fn review_connection(&mut self, slot: u32, keys: &[u32]) -> usize {
        let entry = self.clients.peek(slot).filter(|entry| entry.state == State::Open);
        let Some((dialect, rooms)) = entry.map(|entry| (entry.form.dialect, entry.rooms.len())) else { return 1 };
        let Some(handle) = self.clients.handle_at(slot) else { return 1 };
        let cost = 1 + MEMBERSHIP * rooms;
        let may_be_here = match &self.turn.settings.options.auth {
            None => {
                self.clients.end_session(handle);
                true
            }
            Some(auth) => auth.guests || self.clients.session(handle).is_some(),
        };
        if !may_be_here {
            let message = "a token is required from now on; get one and connect with it";
            self.end_session(handle, dialect, Reason::Missing, message);
            self.settle();
            return cost + TELLING;
        }
        self.clients.withdraw(&mut self.turn, handle, |key| !keys.contains(&key));
        let is_told = rooms > 0 && self.leave_forbidden_rooms(handle, dialect);
        if !is_told {
            return cost;
        }
        self.writer.flush(&mut self.turn, &mut self.clients, handle);
        self.settle();
        cost + TELLING
    }
}
