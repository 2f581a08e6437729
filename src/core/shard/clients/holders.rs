//! The connections that hold memory: outboxes and unfinished messages.
//!
//! They may be all connections of the shard, so nothing walks the list in one go: a call looks at [`LOOKS`] of them, and the next one
//! goes on where it stopped.

use crate::connection::{Connections, Entry, Flags, Handle};

/// Connections that are looked at in one call.
pub(in crate::shard) const LOOKS: usize = 4096;
/// How many connections ahead an entry is fetched into the cache.
const AHEAD: usize = 8;

/// Connections that hold memory. Entries are removed lazily, when the list is next looked through, so that releasing is O(1).
#[derive(Default)]
pub(super) struct Holders {
    handles: Vec<Handle>,
    /// Where the next look begins.
    next: usize,
    /// Connections that were added since the last [`Holders::forget_empty`].
    added: usize,
}

impl Holders {
    /// Notes that `entry` may hold something from now on.
    pub(super) fn note(&mut self, handle: Handle, entry: &mut Entry) {
        if !entry.flags.has(Flags::HOLDER) {
            entry.flags.set(Flags::HOLDER);
            self.handles.push(handle);
            self.added += 1;
        }
    }

    /// Whether one call looks at all of them.
    pub(super) fn are_few(&self) -> bool {
        self.handles.len() <= LOOKS
    }

    /// Removes connections that hold nothing any more, out of the next ones: twice as many as came since the last call, so that the
    /// list is no longer than what holds something and as many again.
    pub(super) fn forget_empty(&mut self, connections: &mut Connections) {
        let most = LOOKS.max(2 * std::mem::take(&mut self.added));
        self.look(connections, most, |_, _| ());
    }

    /// The connections that hold something, as `size` counts it in bytes, the largest first: of all where they are no more than
    /// [`LOOKS`], else of as many as that.
    pub(super) fn largest_first(
        &mut self,
        connections: &mut Connections,
        size: impl Fn(&Entry) -> usize,
    ) -> Vec<Handle> {
        let mut sized = Vec::new();
        self.look(connections, LOOKS, |handle, entry| match size(entry) {
            0 => {}
            bytes => sized.push((bytes, handle)),
        });
        sized.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        sized.into_iter().map(|(_, handle)| handle).collect()
    }

    /// Looks at up to `most` of the next connections, each once, and removes those that hold nothing any more; `holds` gets the others.
    fn look(&mut self, connections: &mut Connections, most: usize, mut holds: impl FnMut(Handle, &Entry)) {
        // The last call of a walk looks at as many as the others, or it would take the largest of a few.
        let mut at = self.next.min(self.handles.len().saturating_sub(most));
        for _ in 0..most {
            let Some(handle) = self.handles.get(at).copied() else { break };
            if let Some(ahead) = self.handles.get(at + AHEAD) {
                connections.prefetch(ahead.index);
            }
            match connections.find(handle) {
                Some(entry) if entry.outbox.is_some() || entry.partial.is_some() => {
                    holds(handle, entry);
                    at += 1;
                }
                gone => {
                    gone.into_iter().for_each(|entry| entry.flags.clear(Flags::HOLDER));
                    self.handles.swap_remove(at);
                }
            }
        }
        self.next = if at < self.handles.len() { at } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_releases_its_memory_is_removed_and_may_hold_again() {
        let mut connections = Connections::with_capacity(2);
        let [one, other] = [3, 4].map(|fd| connections.insert(|generation| Entry::new(fd, generation, 0, 0)));
        let mut holders = Holders::default();
        let note = |holders: &mut Holders, connections: &mut Connections, handle| {
            let Some(entry) = connections.find(handle) else { panic!("{handle:?} is gone") };
            entry.partial = Some(Box::default());
            holders.note(handle, entry);
        };
        for handle in [one, other, one] {
            note(&mut holders, &mut connections, handle);
        }
        assert_eq!(holders.handles, [one, other], "once, however often it begins");
        connections.find(one).unwrap().partial = None;
        holders.forget_empty(&mut connections);
        assert_eq!(holders.handles, [other]);
        note(&mut holders, &mut connections, one);
        assert_eq!(holders.handles, [other, one]);
        connections.remove(other);
        holders.forget_empty(&mut connections);
        assert_eq!(holders.handles, [one]);
    }

    #[test]
    fn a_look_at_a_crowd_of_holders_takes_some_thousand_and_the_next_look_takes_the_others() {
        // A million slow readers held a node over its budget: each turn walked all of them and sorted them, and the clients that were
        // served waited for it.
        const CROWD: usize = 2 * LOOKS + LOOKS / 2;
        let mut connections = Connections::with_capacity(CROWD);
        let mut holders = Holders::default();
        let handles: Vec<_> = (0..CROWD as i32).map(|fd| connections.insert(|own| Entry::new(fd, own, 0, 0))).collect();
        for handle in &handles {
            let entry = connections.find(*handle).unwrap();
            entry.partial = Some(Box::default());
            holders.note(*handle, entry);
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let largest = holders.largest_first(&mut connections, |entry| 1 + entry.fd as usize);
            assert_eq!(largest.len(), LOOKS);
            assert!(largest.is_sorted_by_key(|handle| std::cmp::Reverse(handle.index)), "the largest first");
            seen.extend(largest.iter().map(|handle| handle.index));
        }
        assert_eq!(seen.len(), CROWD, "three looks take in all");
        // Those that hold nothing any more are removed, although more came than one look takes.
        for handle in &handles[10..] {
            connections.remove(*handle);
        }
        (0..2).for_each(|_| holders.forget_empty(&mut connections));
        assert_eq!(holders.handles.len(), 10);
    }
}
