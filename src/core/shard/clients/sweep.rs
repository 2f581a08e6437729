//! The sweep's looks: a tenth of the table each tick, so that every deadline, ping and drain is seen within a second.

use super::Clients;
use crate::close::CloseReason;
use crate::connection::{Due, Entry, Flags, Handle, Heartbeat, State, TICKS_PER_SECOND, Tick, due};
use crate::limits;
use crate::shard::turn::Turn;

/// Ticks that are made up for after a stall; the rest never happened, or all clients would time out because the node slept.
const MAKE_UP_TICKS: u32 = 2;
/// A slice of less waits for the next ones, or a shard with a few thousand clients would wake ten times a second for a handful of
/// pings each, which cost a third more than together.
const LEAST: u32 = 8192;

/// What a look at one connection came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Finding {
    /// A ping is due; it is noted as sent.
    Ping,
    /// The pong is overdue.
    Vanished,
    /// The deadline of this state has passed.
    Deadline(State),
    /// An open connection is to be closed for this reason.
    Close(CloseReason),
}

/// Which connections are to leave for no fault of theirs: a drain's window, or an age.
#[derive(Clone, Copy)]
pub(in crate::shard) struct Leaving {
    /// When the drain began, and its window in ticks.
    pub(in crate::shard) drain: Option<(Tick, u32)>,
    /// Age in ticks at which connections are closed, ± 10 %; 0 is never.
    pub(in crate::shard) max_age: u32,
}

/// What all looks of a turn are made with.
#[derive(Clone, Copy)]
struct DueAt {
    now: Tick,
    heartbeat: Heartbeat,
    /// Ticks.
    stall: u32,
}

impl Leaving {
    /// Why an open connection is to leave at `now`, if it is.
    #[inline(never)]
    fn reason(self, entry: &Entry, now: Tick) -> Option<CloseReason> {
        let share = spread(entry.generation);
        if let Some((start, window)) = self.drain {
            // The last second of the window is for the sweep to come round.
            let window = window.saturating_sub(TICKS_PER_SECOND);
            return (now - start >= part(window, share)).then_some(CloseReason::Drain);
        }
        let age = self.max_age;
        let is_old = age != 0 && now - entry.born >= age - age / 10 + part(age / 5, share);
        is_old.then_some(CloseReason::MaxAge)
    }
}

impl Clients {
    /// `count` tenths of a second went by: a part of the list of holders is tidied. Where `evenly`, every slice is looked at in its own tick, however small.
    pub(in crate::shard) fn tick(&mut self, turn: &mut Turn, count: u32, evenly: bool) {
        self.ready.extend(self.held_back.drain(..));
        let least = if evenly { 0 } else { LEAST };
        for _ in 0..count.min(MAKE_UP_TICKS) {
            turn.clock.tick += 1;
            self.slices.tick(self.table.end(), least);
            self.holders.tidy(&mut self.table, limits::SWEEP_SLICES as usize);
        }
    }

    /// Whether connections are to be looked at.
    pub(in crate::shard) fn is_sweep_due(&self) -> bool {
        self.slices.is_due()
    }

    /// By how many ticks the round of the sweep is too long already.
    pub(in crate::shard) fn late_ticks(&self) -> u32 {
        self.slices.late()
    }

    /// Looks at what is due until a look comes to something; at most `looks` times, which it counts down.
    pub(in crate::shard) fn look(
        &mut self,
        turn: &Turn,
        leaving: Option<Leaving>,
        looks: &mut usize,
    ) -> Option<(Handle, Finding)> {
        let due_at =
            DueAt { now: turn.clock.tick, heartbeat: turn.settings.heartbeat, stall: turn.settings.write_stall };
        let (mut left, mut found) = (*looks, None);
        while left > 0 && found.is_none() {
            let Some(index) = self.slices.next() else { break };
            left -= 1;
            found = self.look_at(due_at, leaving, index);
        }
        *looks = left;
        found
    }

    /// With a million connections this runs a million times a second: nothing is looked up twice.
    #[inline(always)]
    fn look_at(&mut self, at: DueAt, leaving: Option<Leaving>, index: u32) -> Option<(Handle, Finding)> {
        let entry = self.table.at(index)?;
        if let Some(outbox) = &entry.outbox {
            self.largest_outbox = self.largest_outbox.max(outbox.counted_bytes() as u64);
        }
        // An offence of the last second is remembered for one more.
        let told = entry.flags.has(Flags::RATE_TOLD);
        entry.flags.clear(Flags::RATE_TOLD);
        entry.flags.clear(Flags::RATE_BEFORE);
        if told {
            entry.flags.set(Flags::RATE_BEFORE);
        }
        let finding = match due(entry, at.now, at.heartbeat, at.stall) {
            Due::Nothing => {
                let leaving = leaving.filter(|_| entry.state == State::Open)?;
                Finding::Close(leaving.reason(entry, at.now)?)
            }
            Due::Ping => Finding::Ping,
            Due::Vanished => Finding::Vanished,
            Due::Stalled => Finding::Close(CloseReason::WriteStall),
            Due::Deadline => Finding::Deadline(entry.state),
        };
        Some((Handle { index, generation: entry.generation }, finding))
    }

    /// Where a round is over: publishes what it found.
    pub(in crate::shard) fn end_round(&mut self, turn: &Turn) {
        if self.slices.ends_round() {
            turn.counters.outbox_max_bytes.set(std::mem::take(&mut self.largest_outbox));
        }
    }
}

/// A connection's own place in a window, in 2⁻³² parts: the same at every look, and unlike its neighbours'.
fn spread(generation: u32) -> u32 {
    let mut x = generation.wrapping_mul(0x9e37_79b9);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^ (x >> 13)
}

fn part(window: u32, share: u32) -> u32 {
    ((u64::from(window) * u64::from(share)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_evenly_over_a_window() {
        let mut tenths = [0; 10];
        for generation in 1..=10_000 {
            tenths[part(10, spread(generation)) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }
}
