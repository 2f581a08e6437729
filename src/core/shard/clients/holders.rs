//! The connections that hold memory: outboxes and unfinished messages.

use crate::connection::{Connections, Entry, Flags, Handle};

/// Connections that hold memory. Entries are removed lazily, when the list is next looked through, so that releasing is O(1).
#[derive(Default)]
pub(super) struct Holders(Vec<Handle>);

impl Holders {
    /// Notes that `entry` may hold something from now on.
    pub(super) fn note(&mut self, handle: Handle, entry: &mut Entry) {
        if !entry.flags.has(Flags::HOLDER) {
            entry.flags.set(Flags::HOLDER);
            self.0.push(handle);
        }
    }

    /// Removes the connections that hold nothing any more.
    pub(super) fn forget_empty(&mut self, connections: &mut Connections) {
        self.0.retain(|handle| {
            let Some(entry) = connections.find(*handle) else { return false };
            let holds = entry.outbox.is_some() || entry.partial.is_some();
            if !holds {
                entry.flags.clear(Flags::HOLDER);
            }
            holds
        });
    }

    /// The connections that hold something, as `size` counts it in bytes, the largest first.
    pub(super) fn largest_first(&self, connections: &Connections, size: impl Fn(&Entry) -> usize) -> Vec<Handle> {
        let sized = self.0.iter().filter_map(|handle| Some((size(connections.peek(handle.index)?), *handle)));
        let mut sized: Vec<_> = sized.filter(|(size, _)| *size > 0).collect();
        sized.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        sized.into_iter().map(|(_, handle)| handle).collect()
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
