//! Timers as a sweep: every tick a slice of the slab is looked at for what is due. Nothing is linked, nothing re-armed.

use super::entry::{Entry, Flags, State};
use super::{Tick, ticks};

/// The intervals of the heartbeat, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// Silence after which a ping is sent; 0 never.
    pub ping: u16,
    /// Silence after the ping after which the client counts as vanished.
    pub pong: u16,
}

impl Heartbeat {
    /// From durations of at most 50 minutes each, so that 16-bit ticks never wrap unseen; settings allow no more.
    pub fn new(ping: std::time::Duration, pong: std::time::Duration) -> Self {
        let ticks = |d| ticks(d).min(30_000) as u16;
        Self { ping: ticks(ping), pong: ticks(pong) }
    }
}

/// What a look at one connection found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A ping.
    Ping,
    /// The pong is overdue.
    Vanished,
    /// The state's deadline has passed.
    Deadline,
    /// The oldest queued frame is older than the write stall.
    Stalled,
}

/// Looks at one connection. `Due::Ping` is noted in the entry: the caller must send it.
pub fn due(entry: &mut Entry, now: Tick, heartbeat: Heartbeat, write_stall: u32) -> Due {
    if entry.deadline != 0 && now >= entry.deadline {
        return Due::Deadline;
    }
    if entry.state != State::Open {
        return Due::Nothing;
    }
    if entry.outbox.as_ref().and_then(|outbox| outbox.oldest()).is_some_and(|since| now - since >= write_stall) {
        return Due::Stalled;
    }
    let silent = (now as u16).wrapping_sub(entry.heard);
    if heartbeat.ping == 0 || silent < heartbeat.ping {
        return Due::Nothing;
    }
    if !entry.flags.has(Flags::PINGED) {
        // The pong's time runs from the ping, however late the sweep came by.
        entry.heard = (now as u16).wrapping_sub(heartbeat.ping);
        entry.flags.set(Flags::PINGED);
        return Due::Ping;
    }
    if silent >= heartbeat.ping + heartbeat.pong { Due::Vanished } else { Due::Nothing }
}

/// Cuts the slab into slices, so that each entry is seen once in `count` ticks.
#[derive(Debug)]
pub struct Slices {
    next: u32,
    count: u32,
    /// Where the last slice ended.
    seen: u32,
}

impl Slices {
    /// `count` slices.
    pub fn new(count: u32) -> Self {
        Self { next: 0, count, seen: 0 }
    }

    /// The indices of the next slice of a slab whose indices end at `end`, and whether it is the last one. The slab may grow
    /// between two slices, which share what the round has not seen; it never shrinks.
    pub fn advance(&mut self, end: u32) -> (std::ops::Range<u32>, bool) {
        let unseen = end - self.seen;
        let range = self.seen..self.seen + unseen / (self.count - self.next);
        self.next = (self.next + 1) % self.count;
        let last = self.next == 0;
        self.seen = if last { 0 } else { range.end };
        (range, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BEAT: Heartbeat = Heartbeat { ping: 250, pong: 100 };

    fn open(heard: Tick) -> Entry {
        let mut entry = Entry::new(3, 1, heard, 0);
        entry.state = State::Open;
        entry
    }

    #[test]
    fn a_silent_client_is_pinged_once_and_then_reaped_and_a_talking_one_left_alone() {
        let mut entry = open(0);
        assert_eq!(due(&mut entry, 249, BEAT, 100), Due::Nothing);
        assert_eq!(due(&mut entry, 259, BEAT, 100), Due::Ping);
        assert_eq!(due(&mut entry, 358, BEAT, 100), Due::Nothing);
        entry.hear(358);
        assert_eq!(due(&mut entry, 600, BEAT, 100), Due::Nothing);
        assert_eq!(due(&mut entry, 608, BEAT, 100), Due::Ping);
        assert_eq!(due(&mut entry, 708, BEAT, 100), Due::Vanished);
    }

    #[test]
    fn the_heartbeat_survives_the_wrap_of_its_clock() {
        let mut entry = open(65_500);
        assert_eq!(due(&mut entry, 65_600, BEAT, 100), Due::Nothing);
        assert_eq!(due(&mut entry, 65_750, BEAT, 100), Due::Ping);
    }

    #[test]
    fn a_deadline_ends_a_state_and_zero_never_does() {
        let mut entry = Entry::new(3, 1, 0, 50);
        assert_eq!(due(&mut entry, 49, BEAT, 100), Due::Nothing);
        assert_eq!(due(&mut entry, 50, BEAT, 100), Due::Deadline);
        entry.deadline = 0;
        assert_eq!(due(&mut entry, u32::MAX, BEAT, 100), Due::Nothing);
    }

    #[test]
    fn every_index_is_seen_once_a_round() {
        for end in [0, 1, 9, 10, 11, 1_000_003] {
            let mut slices = Slices::new(10);
            let mut next = 0;
            for slice in 0..10 {
                let (range, last) = slices.advance(end);
                assert_eq!(range.start, next);
                next = range.end;
                assert_eq!(last, slice == 9);
            }
            assert_eq!(next, end);
        }
    }

    #[test]
    fn a_slab_that_grows_during_a_round_has_no_index_left_out() {
        // Each slice was cut anew out of the whole slab: what lay between two cuts waited for another round.
        let mut slices = Slices::new(10);
        let mut next = 0;
        for (slice, end) in [10, 100, 100, 1_000, 1_001, 2_000, 2_000, 2_000, 50_000, 60_000].into_iter().enumerate() {
            let (range, last) = slices.advance(end);
            assert_eq!(range.start, next, "slice {slice}");
            assert!(range.end <= end);
            next = range.end;
            assert_eq!(last, slice == 9);
        }
        assert_eq!(next, 60_000);
        assert_eq!(slices.advance(60_000).0, 0..6_000, "the next round begins at the first index");
    }

    #[test]
    fn durations_round_up_to_ticks() {
        assert_eq!(ticks(Duration::from_millis(101)), 2);
        let beat = Heartbeat::new(Duration::from_secs(25), Duration::from_secs(10));
        assert_eq!((beat.ping, beat.pong), (250, 100));
    }
}
