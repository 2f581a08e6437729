//! The connections that hold memory: outboxes and unfinished messages.
//!
//! Their list may be as long as the table. Nothing walks it in one go: the sweep tidies a part a tick, and the search for the
//! connections that hold the most looks at [`LOOKS`] of them at a time.

use std::cmp::Reverse;

use crate::connection::{Connections, Entry, Flags, Handle};

/// Entries of the list that one search looks at: 0.2 ms of work where none of them is in the cache.
pub(in crate::shard) const LOOKS: usize = 8192;
/// How many entries ahead a connection is fetched into the cache.
const AHEAD: usize = 8;

/// What is held, each under a budget of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Held {
    /// What the client does not read.
    Outbox,
    /// What the client has not finished.
    Unfinished,
}

impl Held {
    /// How much of it a connection holds, in bytes.
    fn bytes(self, entry: &Entry) -> usize {
        match self {
            Self::Outbox => entry.outbox_bytes(),
            Self::Unfinished => entry.partial.as_ref().map_or(0, |partial| partial.pinned_bytes()),
        }
    }
}

/// Connections that hold memory. Entries are removed lazily, when they are next looked at, so that releasing is O(1).
#[derive(Default)]
pub(super) struct Holders {
    list: Vec<Handle>,
    /// Where the tidying goes on.
    untidied: usize,
    /// The searches, one for each kind of [`Held`].
    searches: [Search; 2],
}

/// How far the search among a list of more than [`LOOKS`] connections is.
#[derive(Clone, Copy, Default)]
struct Search {
    next: usize,
    /// Connections of this round that hold something, and their bytes.
    count: usize,
    bytes: usize,
    /// Bytes that a connection held on average in the last whole round; none is complete yet where it is `None`.
    mean: Option<usize>,
}

impl Holders {
    /// Notes that `entry` may hold something from now on.
    pub(super) fn note(&mut self, handle: Handle, entry: &mut Entry) {
        if !entry.flags.has(Flags::HOLDER) {
            entry.flags.set(Flags::HOLDER);
            self.list.push(handle);
        }
    }

    /// Removes connections that hold nothing any more: looks at a part of the list, one in `parts`, where the last call ended.
    pub(super) fn tidy(&mut self, connections: &mut Connections, parts: usize) {
        for _ in 0..self.list.len().div_ceil(parts) {
            if self.untidied >= self.list.len() {
                self.untidied = 0;
            }
            self.untidied += usize::from(self.look(connections, self.untidied).is_some());
        }
    }

    /// The connections that hold the most, the largest first, and whether the whole list was looked at for them.
    ///
    /// Of a list of more than [`LOOKS`] each call looks at the next part, and returns those of it that hold as much as one of the
    /// whole list does on average, or more: many that hold little are not returned for the few that hold the most, and these are
    /// found within a round.
    pub(super) fn largest(&mut self, connections: &mut Connections, held: Held) -> (Vec<Handle>, bool) {
        let is_whole = self.list.len() <= LOOKS;
        let mut search = if is_whole { Search::default() } else { self.searches[held as usize] };
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            if search.next >= self.list.len() {
                let mean = search.bytes.checked_div(search.count).or(search.mean);
                search = Search { mean, ..Search::default() };
                break;
            }
            let Some((handle, entry)) = self.look(connections, search.next) else { continue };
            search.next += 1;
            let bytes = held.bytes(entry);
            if bytes > 0 {
                search.count += 1;
                search.bytes += bytes;
                found.push((bytes, handle));
            }
        }
        let least = if is_whole { 0 } else { search.mean.unwrap_or(usize::MAX) };
        self.searches[held as usize] = search;
        found.retain(|(bytes, _)| *bytes >= least);
        found.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        (found.into_iter().map(|(_, handle)| handle).collect(), is_whole)
    }

    /// The connection at a position of the list; one that holds nothing gives its position to the last one, and is removed.
    fn look<'a>(&mut self, connections: &'a mut Connections, at: usize) -> Option<(Handle, &'a Entry)> {
        if let Some(ahead) = self.list.get(at + AHEAD) {
            connections.prefetch(ahead.index);
        }
        let handle = *self.list.get(at)?;
        if let Some(entry) = connections.find(handle)
            && entry.outbox.is_none()
            && entry.partial.is_none()
        {
            entry.flags.clear(Flags::HOLDER);
        }
        let entry = connections.peek(handle.index).filter(|entry| entry.generation == handle.generation);
        let holds = entry.filter(|entry| entry.flags.has(Flags::HOLDER)).map(|entry| (handle, entry));
        if holds.is_none() {
            self.list.swap_remove(at);
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Account, Chunk, Moment, Tag};

    /// Connections of which each has an outbox of so many bytes or some more, and their list.
    fn holding(sizes: impl Iterator<Item = usize>) -> (Connections, Holders, Vec<Handle>) {
        let (mut connections, mut holders) = (Connections::with_capacity(4), Holders::default());
        let insert = |bytes| {
            let handle = connections.insert(|generation| Entry::new(3, generation, 0, 0));
            hold(&mut connections, &mut holders, handle, bytes);
            handle
        };
        let handles = sizes.map(insert).collect();
        (connections, holders, handles)
    }

    fn hold(connections: &mut Connections, holders: &mut Holders, handle: Handle, bytes: usize) {
        let Some(entry) = connections.find(handle) else { panic!("{handle:?} is gone") };
        let chunk = Chunk::whole(vec![0; bytes].into(), Tag::Control, 1);
        entry.outbox.get_or_insert_default().begin(&chunk, 0, Moment::default(), &mut Account::default());
        holders.note(handle, entry);
    }

    #[test]
    fn a_connection_that_releases_its_memory_is_removed_and_may_hold_again() {
        let (mut connections, mut holders, handles) = holding([1, 1].into_iter());
        let [one, other] = handles[..] else { panic!("{handles:?}") };
        hold(&mut connections, &mut holders, one, 1);
        assert_eq!(holders.list, [one, other], "once, however often it begins");
        connections.find(one).unwrap().outbox = None;
        holders.tidy(&mut connections, 1);
        assert_eq!(holders.list, [other]);
        hold(&mut connections, &mut holders, one, 1);
        assert_eq!(holders.list, [other, one]);
        connections.remove(other);
        holders.tidy(&mut connections, 1);
        assert_eq!(holders.list, [one]);
    }

    #[test]
    fn the_list_is_tidied_in_parts_and_each_connection_is_looked_at_once_in_a_round() {
        let (mut connections, mut holders, handles) = holding((0..1_000).map(|_| 1));
        for handle in handles.iter().step_by(2) {
            connections.find(*handle).unwrap().outbox = None;
        }
        for rounds in 1..=10 {
            holders.tidy(&mut connections, 10);
            assert!(holders.list.len() >= 1_000 - rounds * 100, "a tick looks at a tenth of the list at most");
        }
        // Those that took the place of a removed one wait for the next round.
        (0..10).for_each(|_| holders.tidy(&mut connections, 10));
        assert_eq!(holders.list.len(), 500);
    }

    #[test]
    fn of_few_connections_those_that_hold_the_most_are_found_in_order() {
        let (mut connections, mut holders, handles) = holding([100, 300, 200].into_iter());
        let (largest, is_whole) = holders.largest(&mut connections, Held::Outbox);
        assert_eq!((largest, is_whole), (vec![handles[1], handles[2], handles[0]], true));
        assert_eq!(holders.largest(&mut connections, Held::Unfinished), (Vec::new(), true), "all has come");
    }

    #[test]
    fn of_many_connections_a_part_is_searched_at_a_time_and_the_few_that_hold_the_most_are_found_and_no_other() {
        // Whenever the node was over a budget its shards sorted all connections that held something, many times a second.
        const ROUNDS: usize = 3;
        let is_large = |n: usize| n % 9_999 == 9_998;
        let (mut connections, mut holders, handles) =
            holding((0..ROUNDS * LOOKS).map(|n| if is_large(n) { 500_000 } else { 50 }));
        let large: Vec<_> =
            handles.iter().enumerate().filter(|(n, _)| is_large(*n)).map(|(_, handle)| *handle).collect();
        // In the first round it is not known yet how much is much.
        let first: Vec<_> = (0..ROUNDS).map(|_| holders.largest(&mut connections, Held::Outbox)).collect();
        assert!(first.iter().all(|(found, is_whole)| found.is_empty() && !is_whole), "{first:?}");
        let mut found = Vec::new();
        for _ in 0..=ROUNDS {
            found.extend(holders.largest(&mut connections, Held::Outbox).0);
        }
        found.sort_by_key(|handle| handle.index);
        assert!(found == large, "{} of {}", found.len(), large.len());
        // Where all hold as much as each other, each part has some.
        for handle in &large {
            connections.remove(*handle);
        }
        (0..=2 * ROUNDS).for_each(|_| drop(holders.largest(&mut connections, Held::Outbox)));
        let (found, _) = holders.largest(&mut connections, Held::Outbox);
        assert!((1..=LOOKS).contains(&found.len()), "{}", found.len());
    }
}
