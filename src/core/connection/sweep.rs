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

/// Cuts the slab into slices: a tick makes one due, and each entry is seen once in a round of `count` ticks. A late
/// sweep takes longer but still visits every connection once.
#[derive(Debug)]
pub struct Slices {
    count: u32,
    /// Ticks of the round so far.
    ticks: u32,
    /// What is due, of which what is below `seen` was seen.
    due: u32,
    seen: u32,
    /// Ticks that found the round to be over and not all of it seen.
    late: u32,
}

impl Slices {
    /// `count` slices.
    pub fn new(count: u32) -> Self {
        Self { count, ticks: 0, due: 0, seen: 0, late: 0 }
    }

    /// A tick. The indices of the slab end at `end`; it may grow between two ticks, which share what the round has not made due,
    /// and never shrinks. Slices of less than `least` wait and are due together.
    pub fn tick(&mut self, end: u32, least: u32) {
        let left = self.count - self.ticks;
        if left == 0 {
            self.late += 1;
            return;
        }
        self.ticks += 1;
        let share = (end - self.due) / left;
        if share >= least || left == 1 {
            self.due += share;
        }
    }

    /// Whether all of a round was seen, which is said once: the next round begins.
    pub fn ends_round(&mut self) -> bool {
        let ends = self.ticks == self.count && self.seen == self.due;
        if ends {
            *self = Self::new(self.count);
        }
        ends
    }

    /// By how many ticks the round is too long already.
    pub fn late(&self) -> u32 {
        self.late
    }

    /// Whether something is due.
    pub fn is_due(&self) -> bool {
        self.seen < self.due || self.ticks == self.count
    }
}

/// The indices that are due; none for now is not the end.
impl Iterator for Slices {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let index = self.seen;
        (index < self.due).then(|| {
            self.seen += 1;
            index
        })
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

    /// A tick, and the indices that were seen at it.
    fn seen(slices: &mut Slices, end: u32, least: u32) -> (std::ops::Range<u32>, bool) {
        slices.tick(end, least);
        let start = slices.seen;
        let next = std::iter::from_fn(|| slices.next()).last().map_or(start, |last| last + 1);
        assert!(slices.next().is_none());
        (start..next, slices.ends_round())
    }

    #[test]
    fn every_index_is_seen_once_a_round() {
        for (end, least) in [0, 1, 9, 10, 11, 100_003].into_iter().flat_map(|end| [(end, 0), (end, 50), (end, 20_000)])
        {
            let mut slices = Slices::new(10);
            let mut next = 0;
            for slice in 0..10 {
                let (range, ends) = seen(&mut slices, end, least);
                assert_eq!(range.start, next);
                next = range.end;
                assert_eq!(ends, slice == 9);
            }
            assert_eq!(next, end);
            assert!(!slices.is_due());
        }
    }

    #[test]
    fn small_slices_are_due_together() {
        let mut slices = Slices::new(10);
        let seen = [0; 10].map(|_| seen(&mut slices, 1_000, 300).0.len());
        assert_eq!(seen, [0, 0, 0, 0, 0, 0, 0, 333, 333, 334]);
    }

    #[test]
    fn a_slab_that_grows_during_a_round_has_no_index_left_out() {
        // Each slice was cut anew out of the whole slab: what lay between two cuts waited for another round.
        let mut slices = Slices::new(10);
        let mut next = 0;
        for (slice, end) in [10, 100, 100, 1_000, 1_001, 2_000, 2_000, 2_000, 50_000, 60_000].into_iter().enumerate() {
            let (range, ends) = seen(&mut slices, end, 0);
            assert_eq!(range.start, next, "slice {slice}");
            assert!(range.end <= end);
            next = range.end;
            assert_eq!(ends, slice == 9);
        }
        assert_eq!(next, 60_000);
        assert_eq!(seen(&mut slices, 60_000, 0).0, 0..6_000, "the next round begins at the first index");
    }

    #[test]
    fn a_late_sweep_takes_longer_and_still_visits_every_index() {
        let mut slices = Slices::new(10);
        let mut next = 0;
        // Seven a tick of the ten that each makes due.
        for tick in 0.. {
            slices.tick(100, 0);
            for _ in 0..7 {
                let Some(index) = slices.next() else { break };
                assert_eq!(index, next);
                next += 1;
            }
            if slices.ends_round() {
                assert_eq!((tick, next), (14, 100));
                break;
            }
            assert!(slices.is_due());
            assert_eq!(slices.late(), (tick + 1u32).saturating_sub(10));
        }
        assert_eq!(seen(&mut slices, 100, 0).0, 0..10);
        assert_eq!(slices.late(), 0);
    }

    #[test]
    fn durations_round_up_to_ticks() {
        assert_eq!(ticks(Duration::from_millis(101)), 2);
        let beat = Heartbeat::new(Duration::from_secs(25), Duration::from_secs(10));
        assert_eq!((beat.ping, beat.pong), (250, 100));
    }
}
