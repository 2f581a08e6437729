//! The sweep: carries out what the looks at the connections come to. It pauses after a few, because pings that are due together
//! are sent together, and other connections are read from meanwhile.

use super::Shard;
use super::clients::Finding;
use crate::close::{CloseReason, Refusal};
use crate::connection::{Handle, State};
use crate::shard::driver::Driver;

/// Looks in one turn of the loop, and how many of them may come to something: a ping takes some 5 µs. So many more for each tick
/// that the sweep is late, or a busy shard would see a silent connection once in minutes.
const LOOKS: usize = 8192;
const FINDS: usize = 32;

impl<D: Driver> Shard<D> {
    /// `count` tenths of a second went by.
    pub(super) fn handle_ticks(&mut self, count: u32) {
        // In a drain connections leave evenly.
        let evenly = self.admission.leaving(&self.turn).is_some();
        self.clients.tick(&mut self.turn, count, evenly);
    }

    /// Looks at what is due, up to a turn's share.
    pub(super) fn sweep(&mut self) {
        if !self.clients.is_sweep_due() {
            return;
        }
        let leaving = self.admission.leaving(&self.turn);
        let times = 1 + self.clients.late_ticks() as usize;
        let mut looks = times * LOOKS;
        for _ in 0..times * FINDS {
            let Some((handle, finding)) = self.clients.look(&self.turn, leaving, &mut looks) else { break };
            self.handle_finding(handle, finding);
            self.settle();
        }
        self.clients.end_round(&self.turn);
    }

    fn handle_finding(&mut self, handle: Handle, finding: Finding) {
        match finding {
            Finding::Ping => {
                self.writer.reply_ping();
                self.writer.flush(&mut self.turn, &mut self.clients, handle);
            }
            Finding::Vanished => self.clients.gone(&mut self.turn, handle, CloseReason::PongTimeout),
            Finding::Close(reason) => self.writer.close(&mut self.turn, &mut self.clients, handle, reason),
            Finding::Deadline(state) => self.handle_deadline(handle, state),
        }
    }

    fn handle_deadline(&mut self, handle: Handle, state: State) {
        match state {
            State::Handshaking => self.clients.refuse(&mut self.turn, handle, Refusal::Timeout),
            State::Open => self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::MessageTimeout),
            // Why it closes was noted when that began; a close that the peer never answers is no other reason.
            State::Closing | State::Lingering => self.clients.gone(&mut self.turn, handle, CloseReason::Reset),
            State::Ending | State::Released => {}
        }
    }
}
