//! What clients make the node hold for them: outboxes and unfinished messages, each kind under one budget of the node's.
//!
//! Over a budget, a shard that holds more than its share ends the connections that hold the most, so that many that hold little
//! stay. It ends [`ENDS`] in one go, and of a crowd of holders it looks at a part: other connections are served between two parts.

use super::Shard;
use super::clients::Held;
use crate::close::CloseReason;
use crate::counters::{Cell, ShardCounters};
use crate::shard::driver::Driver;

/// Connections that are ended in one go: 5 µs each. As many as are read in a turn, or they would hold more with each turn.
pub(super) const ENDS: usize = 256;

impl<D: Driver> Shard<D> {
    /// Ends connections that hold the most while the node is over a budget. What is added until they are found and ended may go
    /// over it: in one turn, or in a turn for every 8,192 connections of the shard that hold something.
    pub(super) fn hold_to_budgets(&mut self) {
        let budgets = self.turn.settings.budgets;
        let outboxes =
            self.hold_to(budgets.outbox_bytes, |shard| &shard.outbox_bytes, Held::Outbox, CloseReason::OutboxBudget);
        let unfinished = self.hold_to(
            budgets.unfinished_bytes,
            |shard| &shard.unfinished_bytes,
            Held::Unfinished,
            CloseReason::MessageBudget,
        );
        self.is_over_budget = outboxes || unfinished;
    }

    /// Only a shard over its own share ends connections: where the node is over its budget there is one. Whether it has to go on.
    #[inline]
    fn hold_to(
        &mut self,
        budget: u64,
        held: impl Fn(&ShardCounters) -> &Cell + Copy,
        kind: Held,
        reason: CloseReason,
    ) -> bool {
        self.is_over(budget, held) && self.end_largest(budget, held, kind, reason)
    }

    #[inline]
    fn is_over(&self, budget: u64, held: impl Fn(&ShardCounters) -> &Cell) -> bool {
        let all = &self.turn.settings.node_counters;
        let node = || all.iter().map(|shard| held(shard).value()).sum::<u64>();
        held(&self.turn.counters).value() * all.len() as u64 > budget && node() > budget
    }

    /// Whether it has to go on: it ended as many as it may, or did not look at all connections that hold something.
    #[cold]
    #[inline(never)]
    fn end_largest(
        &mut self,
        budget: u64,
        held: impl Fn(&ShardCounters) -> &Cell + Copy,
        kind: Held,
        reason: CloseReason,
    ) -> bool {
        let (largest, is_whole) = self.clients.largest_holders(kind);
        let more = !is_whole || largest.len() > ENDS;
        for handle in largest.into_iter().take(ENDS) {
            if self.clients.is_open(handle) {
                self.writer.close(&mut self.turn, &mut self.clients, handle, reason);
            } else {
                // It was told why it goes, and does not read that either.
                self.clients.gone(&mut self.turn, handle, reason);
            }
            self.settle();
            if !self.is_over(budget, held) {
                return false;
            }
        }
        more
    }
}
