//! What clients make the node hold for them: outboxes and unfinished messages, each kind under one budget of the node's.
//!
//! Over a budget, a shard that holds more than its share ends the connections that hold the most, so that many that hold little
//! stay. They are the largest of some thousand where more hold something, and [`ENDS`] in a call: a node that a crowd of slow
//! readers has filled ends them over several turns.

use super::Shard;
use crate::close::CloseReason;
use crate::connection::Entry;
use crate::counters::{Cell, ShardCounters};
use crate::shard::driver::Driver;

/// Connections that are ended in one call: as many as get something in one call of the fan-out, each for some 10 µs.
pub(super) const ENDS: usize = 64;

impl<D: Driver> Shard<D> {
    /// Ends connections that hold the most while the node is over a budget. What one turn adds may go over it.
    pub(super) fn hold_to_budgets(&mut self) {
        let budgets = self.turn.settings.budgets;
        self.is_over_budget = self.hold_to(
            budgets.outbox_bytes,
            |shard| &shard.outbox_bytes,
            Entry::outbox_bytes,
            CloseReason::OutboxBudget,
        );
        let size = |entry: &Entry| entry.partial.as_ref().map_or(0, |partial| partial.pinned_bytes());
        self.is_over_budget |=
            self.hold_to(budgets.unfinished_bytes, |shard| &shard.unfinished_bytes, size, CloseReason::MessageBudget);
    }

    /// Only a shard over its own share ends connections: where the node is over its budget there is one. Whether the next turn is to
    /// go on with it.
    fn hold_to(
        &mut self,
        budget: u64,
        held: impl Fn(&ShardCounters) -> &Cell,
        size: impl Fn(&Entry) -> usize,
        reason: CloseReason,
    ) -> bool {
        let is_over = |shard: &Self| {
            let all = &shard.turn.settings.node_counters;
            let node = || all.iter().map(|shard| held(shard).value()).sum::<u64>();
            held(&shard.turn.counters).value() * all.len() as u64 > budget && node() > budget
        };
        if !is_over(self) {
            return false;
        }
        let largest = self.clients.largest_holders(size);
        for handle in largest.iter().copied().take(ENDS) {
            if self.clients.is_open(handle) {
                self.writer.close(&mut self.turn, &mut self.clients, handle, reason);
            } else {
                // It was told why it goes, and does not read that either.
                self.clients.gone(&mut self.turn, handle, reason);
            }
            self.settle();
            if !is_over(self) {
                return false;
            }
        }
        // Otherwise there is none to end.
        largest.len() > ENDS || !self.clients.are_holders_few()
    }
}
