//! What clients make the node hold for them: outboxes and unfinished messages, each kind under one budget of the node's.
//!
//! Over a budget, a shard that holds more than its share ends the connections that hold the most, so that many that hold little
//! stay.

use super::Shard;
use crate::close::CloseReason;
use crate::connection::Entry;
use crate::counters::{Cell, ShardCounters};
use crate::shard::driver::Driver;

impl<D: Driver> Shard<D> {
    /// Ends the connections that hold the most while the node is over a budget. What one turn adds may go over it.
    pub(super) fn hold_to_budgets(&mut self) {
        let budgets = self.turn.settings.budgets;
        self.hold_to(budgets.outbox_bytes, |shard| &shard.outbox_bytes, Entry::outbox_bytes, CloseReason::OutboxBudget);
        let size = |entry: &Entry| entry.partial.as_ref().map_or(0, |partial| partial.pinned_bytes());
        self.hold_to(budgets.unfinished_bytes, |shard| &shard.unfinished_bytes, size, CloseReason::MessageBudget);
    }

    /// Only a shard over its own share ends connections: where the node is over its budget there is one.
    fn hold_to(
        &mut self,
        budget: u64,
        held: impl Fn(&ShardCounters) -> &Cell,
        size: impl Fn(&Entry) -> usize,
        reason: CloseReason,
    ) {
        let is_over = |shard: &Self| {
            let all = &shard.turn.settings.node_counters;
            let node = || all.iter().map(|shard| held(shard).value()).sum::<u64>();
            held(&shard.turn.counters).value() * all.len() as u64 > budget && node() > budget
        };
        if !is_over(self) {
            return;
        }
        for handle in self.clients.largest_holders(size) {
            if self.clients.is_open(handle) {
                self.writer.close(&mut self.turn, &mut self.clients, handle, reason);
            } else {
                // It was told why it goes, and does not read that either.
                self.clients.gone(&mut self.turn, handle, reason);
            }
            self.settle();
            if !is_over(self) {
                return;
            }
        }
    }
}
