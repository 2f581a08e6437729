//! The sweep: a tenth of the slab each tick, so that every deadline, ping and drain is seen within a second. It pauses after a few
//! sends: a crowd that came at once is pinged at once, and everybody else is read from meanwhile.

use super::Shard;
use crate::close::{CloseReason, Refusal};
use crate::conn::{Due, Flags, Heartbeat, State, TICKS_PER_SECOND, Token, due};
use crate::proto::frame;
use crate::shard::driver::Driver;

/// Ticks that are made up for after a stall; the rest never happened, or everybody would time out because we slept.
const MAKE_UP_TICKS: u32 = 2;
/// Looks in one turn of the loop, and how many of them may come to something: a ping takes some 5 µs. So many more for each tick
/// that the sweep is late, or a shard that is busy would see who is silent once in minutes.
const LOOKS: usize = 8192;
const FINDS: usize = 32;
/// A slice of less waits for the next ones, or a shard with a few thousand clients would wake ten times a second for a handful of
/// pings each, which cost a third more than together.
const LEAST: u32 = 8192;

impl<D: Driver> Shard<D> {
    /// `count` tenths of a second went by.
    pub(super) fn handle_ticks(&mut self, count: u32) {
        self.ready.extend(self.held_back.drain(..));
        // Who is sent away leaves evenly.
        let least = if self.sends_away() { 0 } else { LEAST };
        for _ in 0..count.min(MAKE_UP_TICKS) {
            self.turn.clock.tick += 1;
            self.slices.tick(self.connections.end(), least);
        }
    }

    /// Looks at what is due, up to a turn's share.
    pub(super) fn sweep(&mut self) {
        if !self.slices.is_due() {
            return;
        }
        let sends_away = self.sends_away();
        let (heartbeat, stall) = (self.turn.settings.heartbeat, self.turn.settings.write_stall);
        let times = 1 + self.slices.late() as usize;
        let mut finds = times * FINDS;
        for _ in 0..times * LOOKS {
            let Some(index) = self.slices.next() else { break };
            if self.look_at(index, heartbeat, stall, sends_away) {
                self.settle();
                finds -= 1;
                if finds == 0 {
                    break;
                }
            }
        }
        if self.slices.ends_round() {
            self.holders.forget_empty(&mut self.connections);
            self.turn.counters.outbox_max_bytes.set(std::mem::take(&mut self.sweep_max_outbox));
        }
    }

    fn sends_away(&self) -> bool {
        self.drain.is_some() || self.turn.settings.max_age != 0
    }

    /// Whether the look came to something. With a million connections this runs a million times a second: nothing is looked up twice.
    fn look_at(&mut self, index: u32, heartbeat: Heartbeat, stall: u32, sends_away: bool) -> bool {
        let Some(entry) = self.connections.at(index) else { return false };
        let (state, token) = (entry.state, Token { index, generation: entry.generation });
        self.sweep_max_outbox = self.sweep_max_outbox.max(entry.outbox_bytes() as u64);
        // An offence of the last second is remembered for one more.
        let told = entry.flags.has(Flags::RATE_TOLD);
        entry.flags.clear(Flags::RATE_TOLD);
        entry.flags.clear(Flags::RATE_BEFORE);
        if told {
            entry.flags.set(Flags::RATE_BEFORE);
        }
        match due(entry, self.turn.clock.tick, heartbeat, stall) {
            Due::Nothing => return sends_away && self.send_away_if_due(token),
            Due::Ping => {
                frame::write_frame(&mut self.reply, frame::PING, &[]);
                self.flush_reply(token);
            }
            Due::Vanished => self.gone(token, CloseReason::PongTimeout),
            Due::Stalled => self.close(token, CloseReason::WriteStall),
            Due::Deadline => self.handle_deadline(token, state),
        }
        true
    }

    fn handle_deadline(&mut self, token: Token, state: State) {
        match state {
            State::Handshaking => self.refuse(token, Refusal::Timeout),
            State::Open => self.close(token, CloseReason::MessageTimeout),
            // Why it closes was noted when that began; a close that the peer never answers is no other reason.
            State::Closing | State::Lingering => self.gone(token, CloseReason::Reset),
            State::Ending | State::Released => {}
        }
    }

    /// Closes a connection whose moment in a drain, or whose age, has come; whether it has.
    fn send_away_if_due(&mut self, token: Token) -> bool {
        let Some(entry) = self.connections.find(token).filter(|entry| entry.state == State::Open) else { return false };
        let now = self.turn.clock.tick;
        let share = spread(token.generation);
        let age = self.turn.settings.max_age;
        let reason = if let Some(drain) = self.drain {
            // The last second of the window is for the sweep to come round.
            let window = drain.window.saturating_sub(TICKS_PER_SECOND);
            (now - drain.start >= part(window, share)).then_some(CloseReason::Drain)
        } else {
            // 90 % to 110 % of the age.
            let is_old = age != 0 && now - entry.born >= age - age / 10 + part(age / 5, share);
            is_old.then_some(CloseReason::MaxAge)
        };
        if let Some(reason) = reason {
            self.close(token, reason);
        }
        reason.is_some()
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
