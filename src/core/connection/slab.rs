//! The slab of connections, where a stale name can never reach a successor.

use slab::Slab;

use super::entry::Entry;
use crate::model::ConnectionId;

/// Names a connection on its shard: index and generation, as the driver hands it back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    /// Slab index.
    pub index: u32,
    /// Generation of the connection.
    pub generation: u32,
}

/// See the module.
pub struct Connections {
    entries: Slab<Entry>,
    accepted: u32,
    end: u32,
}

impl Connections {
    /// Room for `capacity` connections, reserved at once: untouched pages cost nothing, and growing by doubling would
    /// cost twice the memory and a stall.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { entries: Slab::with_capacity(capacity), accepted: 0, end: 0 }
    }

    /// Takes an entry in; `make` gets its generation.
    pub fn insert(&mut self, make: impl FnOnce(u32) -> Entry) -> Handle {
        self.accepted = self.accepted.wrapping_add(1);
        let generation = self.accepted;
        let index = self.entries.insert(make(generation)) as u32;
        debug_assert!(index <= ConnectionId::MAX_INDEX);
        self.end = self.end.max(index + 1);
        Handle { index, generation }
    }

    /// The connection of this name, if it is still there.
    pub fn find(&mut self, handle: Handle) -> Option<&mut Entry> {
        self.entries.get_mut(handle.index as usize).filter(|entry| entry.generation == handle.generation)
    }

    /// The connection at an index that the caller knows to be taken (a member of a room, an entry under sweep).
    pub fn at(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize)
    }

    /// The same, to look at.
    pub fn peek(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    /// The name of the connection at an index.
    pub fn handle_at(&self, index: u32) -> Option<Handle> {
        self.entries.get(index as usize).map(|entry| Handle { index, generation: entry.generation })
    }

    /// Asks the processor for an entry that will be needed soon.
    pub fn prefetch(&self, index: u32) {
        #[cfg(target_arch = "x86_64")]
        if let Some(entry) = self.entries.get(index as usize) {
            // SAFETY: a prefetch of a valid reference; it has no effect but on the cache.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(entry).cast())
            };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }

    /// Frees the slot.
    pub fn remove(&mut self, handle: Handle) -> Option<Entry> {
        self.find(handle)?;
        Some(self.entries.remove(handle.index as usize))
    }

    /// Connections in the slab.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One past the highest index that was ever taken.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Every connection with its index. It visits all slots in one go: for tests and fuzzers, never within a turn.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries.iter().map(|(index, entry)| (index as u32, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_reaches_the_successor_at_its_index() {
        let mut connections = Connections::with_capacity(4);
        let first = connections.insert(|generation| Entry::new(3, generation, 0, 0));
        assert!(connections.remove(first).is_some());
        let second = connections.insert(|generation| Entry::new(4, generation, 0, 0));
        assert_eq!(first.index, second.index);
        assert!(connections.find(first).is_none() && connections.remove(first).is_none());
        assert_eq!(connections.find(second).map(|entry| entry.fd), Some(4));
    }
}
