//! Many clients: the members of a room, and the passes that carry its messages to all of them.
//!
//! The shard drives it: publications and joins come in in mailbox order, and [`Room::step`] walks the members a few at a
//! time. A room has at most one pass at a time; what arrives meanwhile is the next pass, coalesced into one batch.
//!
//! Invariants:
//! - a pass ends where the members ended when it began, so a member that joins during it gets the next one first;
//! - while a pass runs no member changes position: leaving leaves a [`HOLE`];
//! - holes are closed between two passes, a few at a time, and the next pass begins when none is left;
//! - so no member is skipped and none gets a batch twice (G1), and batches follow each other in order (G2).
//!
//! It knows connections by their slab index only, and leaves encoding and sending to the shard.

mod batch;

use std::collections::VecDeque;
use std::sync::Arc;

pub use batch::{Batch, Encoded};

use crate::limits::COALESCED_BYTES;
use crate::model::Publication;

/// A member that left during a pass.
pub const HOLE: u32 = u32::MAX;

/// One room on one shard. Its name, and whether the broker has confirmed it, is the shard's to know.
#[derive(Debug, Default)]
pub struct Room {
    members: Vec<u32>,
    holes: usize,
    /// No position below it is a hole; says nothing where there is none.
    first_hole: usize,
    queue: VecDeque<Arc<Publication>>,
    queued_bytes: usize,
    /// In a box: most rooms of a node have no pass under way, and a pass takes more memory than all else here.
    pass: Option<Box<Pass>>,
    publications: u64,
}

#[derive(Debug)]
struct Pass {
    batch: Batch,
    position: usize,
    end: usize,
}

/// What a step of a pass came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This member is next.
    Member(u32),
    /// The pass is over; its batch is handed back, and [`Room::finish`] is due.
    Over,
    /// No pass is under way, and members left during the last one: [`Room::close_holes`] is due.
    Holes,
    /// There is nothing to send.
    Idle,
}

impl Room {
    /// Members.
    pub fn len(&self) -> usize {
        self.members.len() - self.holes
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Publications so far.
    pub fn publications(&self) -> u64 {
        self.publications
    }

    /// The members' slab indices.
    pub fn members(&self) -> impl Iterator<Item = u32> {
        self.members.iter().copied().filter(|member| *member != HOLE)
    }

    /// Adds a member, which gets what the next pass carries and all that follows; returns its position.
    pub fn join(&mut self, connection: u32) -> u32 {
        debug_assert!(connection != HOLE);
        self.members.push(connection);
        (self.members.len() - 1) as u32
    }

    /// Removes the member at `position`. Returns the connection that moved there, if one did: the caller must note it.
    pub fn leave(&mut self, position: u32) -> Option<u32> {
        let at = position as usize;
        debug_assert!(self.members[at] != HOLE);
        if self.pass.is_some() || self.holes > 0 {
            self.members[at] = HOLE;
            self.first_hole = if self.holes == 0 { at } else { self.first_hole.min(at) };
            self.holes += 1;
            return None;
        }
        self.members.swap_remove(at);
        if self.members.capacity() > 64 && self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
        self.members.get(at).copied()
    }

    /// Queues a publication for the next pass. Returns whether the room was idle, that is, must be scheduled.
    pub fn publish(&mut self, publication: Arc<Publication>) -> bool {
        let idle = self.pass.is_none() && self.queue.is_empty() && self.holes == 0;
        self.publications += 1;
        self.queued_bytes += Batch::cost(&publication);
        self.queue.push_back(publication);
        idle
    }

    /// Whether publications wait for a pass and none is under way.
    pub fn is_due(&self) -> bool {
        self.pass.is_none() && !self.queue.is_empty()
    }

    /// Bytes of the publications that wait for a pass or are in one.
    pub fn pending_bytes(&self) -> usize {
        self.queued_bytes + self.pass.as_ref().map_or(0, |pass| pass.batch.cost_bytes())
    }

    /// Goes one member on, starting the next pass if there is none. Holes are passed over, each in less than a nanosecond.
    pub fn step(&mut self) -> Step {
        if self.pass.is_none() {
            if self.holes > 0 {
                return Step::Holes;
            }
            if !self.begin() {
                return Step::Idle;
            }
        }
        let Some(pass) = &mut self.pass else { return Step::Idle };
        while pass.position < pass.end {
            let member = self.members[pass.position];
            pass.position += 1;
            if member != HOLE {
                return Step::Member(member);
            }
        }
        Step::Over
    }

    /// The member some steps ahead, for a prefetch.
    pub fn ahead(&self, steps: usize) -> Option<u32> {
        let pass = self.pass.as_ref()?;
        self.members.get(pass.position + steps).copied().filter(|member| *member != HOLE)
    }

    /// The batch of the pass under way.
    pub fn batch(&mut self) -> Option<&mut Batch> {
        self.pass.as_mut().map(|pass| &mut pass.batch)
    }

    /// Ends a pass that is [`Step::Over`]. Returns the batch and whether another pass waits. The holes stay.
    pub fn finish(&mut self) -> (Option<Batch>, bool) {
        (self.pass.take().map(|pass| pass.batch), !self.queue.is_empty())
    }

    /// Closes holes, where no pass is under way, by looking at `most` positions at most: half of a million members may have left
    /// during a pass. `moved` learns the members that moved and their new positions. Whether none is left.
    pub fn close_holes(&mut self, most: usize, mut moved: impl FnMut(u32, u32)) -> bool {
        debug_assert!(self.pass.is_none(), "a member moves while a pass runs");
        for _ in 0..most {
            if self.holes == 0 {
                break;
            }
            let at = self.first_hole;
            if self.members[at] != HOLE {
                self.first_hole += 1;
                continue;
            }
            self.members.swap_remove(at);
            self.holes -= 1;
            if let Some(member) = self.members.get(at).copied().filter(|member| *member != HOLE) {
                moved(member, at as u32);
            }
        }
        self.holes == 0
    }

    /// Takes what fits one coalesced buffer, at least one publication, into a new pass.
    fn begin(&mut self) -> bool {
        let Some(first) = self.queue.pop_front() else { return false };
        let mut batch = Batch::new(first);
        while let Some(next) = self.queue.front() {
            if batch.cost_bytes() + Batch::cost(next) > COALESCED_BYTES {
                break;
            }
            batch.extend(self.queue.pop_front());
        }
        self.queued_bytes -= batch.cost_bytes();
        self.pass = Some(Box::new(Pass { batch, position: 0, end: self.members.len() }));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use bytes::Bytes;

    fn publication(text: &str) -> Arc<Publication> {
        Arc::new(Publication::of_backend(Arc::from("room"), Kind::Text, Bytes::copy_from_slice(text.as_bytes()), 0))
    }

    fn room_of(members: std::ops::Range<u32>) -> Room {
        let mut room = Room::default();
        for member in members {
            room.join(member);
        }
        room
    }

    fn rest_of_pass(room: &mut Room) -> Vec<u32> {
        std::iter::from_fn(|| match room.step() {
            Step::Member(member) => Some(member),
            Step::Over | Step::Holes | Step::Idle => None,
        })
        .collect()
    }

    #[test]
    fn an_idle_room_pays_for_no_pass() {
        // 248 of a room's 400 bytes were an empty pass: a node of many small rooms ran out of memory with two thirds as many.
        assert!(size_of::<Room>() <= 96, "{} bytes", size_of::<Room>());
        assert!(size_of::<Pass>() > size_of::<Room>(), "the box is worth its allocation");
    }

    #[test]
    fn a_pass_visits_every_member_once_and_then_the_room_is_idle() {
        let mut room = room_of(0..3);
        assert_eq!(room.step(), Step::Idle);
        assert!(room.publish(publication("a")));
        assert_eq!(rest_of_pass(&mut room), [0, 1, 2]);
        assert!(!room.finish().1 && room.close_holes(10, |_, _| unreachable!()));
        assert_eq!(room.step(), Step::Idle);
    }

    #[test]
    fn what_arrives_during_a_pass_is_one_next_pass() {
        let mut room = room_of(0..2);
        room.publish(publication("a"));
        assert_eq!(room.step(), Step::Member(0));
        assert!(!room.publish(publication("b")));
        room.publish(publication("c"));
        assert_eq!(rest_of_pass(&mut room), [1]);
        let (batch, more) = room.finish();
        assert_eq!((batch.map(|b| b.publications().len()), more), (Some(1), true));
        assert_eq!(rest_of_pass(&mut room), [0, 1]);
        assert_eq!(room.finish().0.map(|b| b.publications().len()), Some(2));
    }

    #[test]
    fn members_that_leave_or_join_during_a_pass_make_no_member_miss_or_get_it_twice() {
        let mut room = room_of(0..5);
        room.publish(publication("a"));
        assert_eq!([room.step(), room.step()], [Step::Member(0), Step::Member(1)]);
        assert_eq!(room.leave(0), None, "already served");
        assert_eq!(room.leave(3), None, "not yet served");
        let position = room.join(0);
        assert_eq!(rest_of_pass(&mut room), [2, 4], "the member that came back waits for the next pass");
        let mut positions = vec![(0, position)];
        room.finish();
        assert!(room.close_holes(10, |member, at| positions.push((member, at))));
        for (member, at) in positions.into_iter().rev() {
            if room.members.get(at as usize) == Some(&member) {
                room.publish(publication("b"));
                break;
            }
        }
        let mut next = rest_of_pass(&mut room);
        next.sort_unstable();
        assert_eq!(next, [0, 1, 2, 4]);
    }

    #[test]
    fn holes_at_the_end_are_closed_and_positions_stay_true() {
        let mut room = room_of(0..6);
        let mut position_of: Vec<u32> = (0..6).collect();
        room.publish(publication("a"));
        room.step();
        for gone in [5, 1, 4] {
            room.leave(position_of[gone as usize]);
        }
        rest_of_pass(&mut room);
        room.finish();
        assert!(room.close_holes(10, |member, at| position_of[member as usize] = at));
        assert_eq!(room.len(), 3);
        for member in [0, 2, 3] {
            assert_eq!(room.members[position_of[member as usize] as usize], member);
        }
    }

    #[test]
    fn holes_of_a_crowd_that_left_are_closed_a_few_at_a_time_and_the_next_pass_waits_for_that() {
        // Half of a room of a million left during a pass, as when a network fails: all members that took their places were moved
        // in one go, and every client of the shard waited for it.
        const MEMBERS: u32 = 1_000;
        let mut room = room_of(0..MEMBERS);
        let mut position_of: Vec<u32> = (0..MEMBERS).collect();
        room.publish(publication("a"));
        room.step();
        (0..MEMBERS).step_by(2).for_each(|gone| assert_eq!(room.leave(gone), None));
        rest_of_pass(&mut room);
        assert!(!room.finish().1);
        let mut calls = 0;
        loop {
            assert_eq!(room.step(), Step::Holes);
            assert!(!room.publish(publication("b")), "it is to be gone on with in any case");
            let mut moves = 0;
            let all = room.close_holes(10, |member, at| {
                position_of[member as usize] = at;
                moves += 1;
            });
            assert!(moves <= 10);
            calls += 1;
            // One leaves, and one comes, in the middle of it: its place is below or above the one that is looked at next.
            let gone = if calls % 2 == 0 { calls } else { MEMBERS - calls };
            if gone % 2 == 1 && calls < 40 {
                let moved = room.leave(position_of[gone as usize]);
                assert_eq!(moved, None, "no other changes position under the one that closes them");
                position_of[gone as usize] = room.join(gone);
            }
            if all {
                break;
            }
        }
        assert!(calls > MEMBERS / 2 / 10, "{calls}");
        assert_eq!(room.len(), MEMBERS as usize / 2);
        for member in (1..MEMBERS).step_by(2) {
            assert_eq!(room.members[position_of[member as usize] as usize], member);
        }
        let mut next = rest_of_pass(&mut room);
        next.sort_unstable();
        assert!(next.into_iter().eq((1..MEMBERS).step_by(2)));
    }

    #[test]
    fn a_batch_holds_what_fits_one_buffer_and_at_least_one() {
        let mut room = room_of(0..1);
        let (large, huge) = ("x".repeat(20_000), "x".repeat(60_000));
        for text in [&large, &large, &huge, "small", "small"] {
            room.publish(publication(text));
        }
        let mut sizes = Vec::new();
        loop {
            rest_of_pass(&mut room);
            let (batch, more) = room.finish();
            sizes.push(batch.map_or(0, |b| b.publications().len()));
            if !more {
                break;
            }
        }
        assert_eq!(sizes, [1, 1, 1, 2]);
        assert_eq!(room.pending_bytes(), 0);
    }
}
