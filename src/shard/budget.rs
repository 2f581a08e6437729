//! What clients make the node hold for them: outboxes and unfinished messages, each kind under one budget of the node's.
//!
//! Over a budget, a shard that holds more than its share ends the connections that hold the most, so that many that hold little
//! stay.

use super::Shard;
use crate::close::CloseReason;
use crate::conn::{Connections, Entry, Flags, Token};
use crate::counters::{Cell, ShardCounters};
use crate::proto::message::Partial;
use crate::shard::driver::Driver;

/// Connections that hold something. Who lets go is forgotten when the list is next looked through, so that a crowd that
/// catches up costs each of its members nothing.
#[derive(Default)]
pub(super) struct Holders(Vec<Token>);

impl Holders {
    /// Notes that `entry` may hold something from now on.
    pub(super) fn note(&mut self, token: Token, entry: &mut Entry) {
        if !entry.flags.has(Flags::HOLDER) {
            entry.flags.set(Flags::HOLDER);
            self.0.push(token);
        }
    }

    /// Forgets who holds nothing any more.
    pub(super) fn forget_empty(&mut self, connections: &mut Connections) {
        self.0.retain(|token| {
            let Some(entry) = connections.find(*token) else { return false };
            let holds = entry.outbox.is_some() || entry.partial.is_some();
            if !holds {
                entry.flags.clear(Flags::HOLDER);
            }
            holds
        });
    }

    /// Who holds something, as `size` counts, the largest first.
    fn largest_first(&self, connections: &Connections, size: impl Fn(&Entry) -> usize) -> Vec<Token> {
        let sized = self.0.iter().filter_map(|token| Some((size(connections.peek(token.index)?), *token)));
        let mut sized: Vec<_> = sized.filter(|(size, _)| *size > 0).collect();
        sized.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        sized.into_iter().map(|(_, token)| token).collect()
    }
}

impl<D: Driver> Shard<D> {
    /// Takes a connection's unfinished message out of its entry and of the accounts.
    pub(super) fn take_partial(&mut self, token: Token) -> Option<Box<Partial>> {
        let partial = self.connections.find(token)?.partial.take()?;
        self.turn.counters.unfinished_bytes.sub(partial.pinned_bytes() as u64);
        Some(partial)
    }

    /// Keeps a connection's unfinished message.
    pub(super) fn keep_partial(&mut self, token: Token, partial: Box<Partial>) {
        let Some(entry) = self.connections.find(token) else { return };
        self.turn.counters.unfinished_bytes.add(partial.pinned_bytes() as u64);
        entry.partial = Some(partial);
        self.holders.note(token, entry);
    }

    /// Ends who holds the most while the node is over a budget. What one turn adds may go over it.
    pub(super) fn hold_to_budgets(&mut self) {
        let budgets = self.turn.settings.budgets;
        self.hold_to(budgets.outbox_bytes, |shard| &shard.outbox_bytes, Entry::outbox_bytes, CloseReason::OutboxBudget);
        let size = |entry: &Entry| entry.partial.as_ref().map_or(0, |partial| partial.pinned_bytes());
        self.hold_to(budgets.unfinished_bytes, |shard| &shard.unfinished_bytes, size, CloseReason::MessageBudget);
    }

    /// Only a shard over its own share ends somebody: where the node is over its budget there is one.
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
        self.holders.forget_empty(&mut self.connections);
        for token in self.holders.largest_first(&self.connections, size) {
            if self.is_open(token) {
                self.close(token, reason);
            } else {
                // It was told why it goes, and does not read that either.
                self.gone(token, reason);
            }
            self.settle();
            if !is_over(self) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lets_go_is_forgotten_and_may_come_again() {
        let mut connections = Connections::with_capacity(2);
        let [one, other] = [3, 4].map(|fd| connections.insert(|generation| Entry::new(fd, generation, 0, 0)));
        let mut holders = Holders::default();
        let note = |holders: &mut Holders, connections: &mut Connections, token| {
            let Some(entry) = connections.find(token) else { panic!("{token:?} is gone") };
            entry.partial = Some(Box::default());
            holders.note(token, entry);
        };
        for token in [one, other, one] {
            note(&mut holders, &mut connections, token);
        }
        assert_eq!(holders.0, [one, other], "once, however often it begins");
        connections.find(one).unwrap().partial = None;
        holders.forget_empty(&mut connections);
        assert_eq!(holders.0, [other]);
        note(&mut holders, &mut connections, one);
        assert_eq!(holders.0, [other, one]);
        connections.remove(other);
        holders.forget_empty(&mut connections);
        assert_eq!(holders.0, [one]);
    }
}
