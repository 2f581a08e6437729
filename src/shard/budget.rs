//! What clients make the node hold for them: outboxes and unfinished messages, each kind under one budget of the node's.
//!
//! Over a budget, the shard that notices closes the connection that holds the most, so that many that hold little stay.

use super::Shard;
use crate::close::CloseReason;
use crate::conn::{Connections, Entry, Flags, Token};
use crate::counters::{Cell, ShardCounters};
use crate::proto::message::Partial;
use crate::wire::Wire;

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

    /// Who holds the most, as `size` counts.
    fn largest(&self, connections: &Connections, size: impl Fn(&Entry) -> usize) -> Option<Token> {
        self.0.iter().copied().max_by_key(|token| connections.peek(token.index).map_or(0, &size))
    }
}

impl<W: Wire> Shard<W> {
    /// Takes a connection's unfinished message out of its entry and of the accounts.
    pub(super) fn take_partial(&mut self, token: Token) -> Option<Box<Partial>> {
        let partial = self.connections.find(token)?.partial.take()?;
        self.counters.unfinished_bytes.sub(partial.pinned_bytes() as u64);
        Some(partial)
    }

    /// Keeps a connection's unfinished message, if the budget of all of them allows it.
    pub(super) fn keep_partial(&mut self, token: Token, partial: Box<Partial>) {
        let Some(entry) = self.connections.find(token) else { return };
        self.counters.unfinished_bytes.add(partial.pinned_bytes() as u64);
        entry.partial = Some(partial);
        self.holders.note(token, entry);
        if self.node_sum(|shard| &shard.unfinished_bytes) > self.settings.budgets.unfinished_bytes {
            let size = |entry: &Entry| entry.partial.as_ref().map_or(0, |partial| partial.pinned_bytes());
            self.close_largest(size, CloseReason::MessageBudget);
        }
    }

    /// Makes room for more in outboxes, if all of them together are over their budget.
    pub(super) fn hold_outboxes_to_budget(&mut self) {
        if self.node_sum(|shard| &shard.outbox_bytes) > self.settings.budgets.outbox_bytes {
            self.close_largest(Entry::outbox_bytes, CloseReason::OutboxBudget);
        }
    }

    fn close_largest(&mut self, size: impl Fn(&Entry) -> usize, reason: CloseReason) {
        self.holders.forget_empty(&mut self.connections);
        if let Some(token) = self.holders.largest(&self.connections, size) {
            self.close(token, reason);
        }
    }

    fn node_sum(&self, cell: impl Fn(&ShardCounters) -> &Cell) -> u64 {
        self.settings.node_counters.iter().map(|shard| cell(shard).value()).sum()
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
