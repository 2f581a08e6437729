//! What an operation is called: 8 bits of what it is, 32 bits of generation or batch, 24 bits of index or place.
//!
//! The kernel hands the name back with each completion; a generation in it is what keeps a late one from a successor.

use tidegate_core::connection::Handle;
use tidegate_core::model::ConnectionId;

const INDEX_BITS: u32 = 24;
const KIND_SHIFT: u32 = 56;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

const POLL: u64 = 1;
const CANCEL: u64 = 2;
const SEND: u64 = 3;
const TICK: u64 = 4;

const _: () = assert!(ConnectionId::MAX_INDEX as u64 <= INDEX_MASK);

/// An operation of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    /// The poll of a connection's socket.
    Poll(Handle),
    /// The end of that poll.
    Cancel(Handle),
    /// The send at a place of a batch.
    Send {
        /// Number of the batch.
        batch: u32,
        /// Place in it.
        place: u32,
    },
    /// The poll of the timer.
    Tick,
}

impl Name {
    pub(super) fn pack(self) -> u64 {
        let (kind, high, low) = match self {
            Self::Poll(handle) => (POLL, handle.generation, handle.index),
            Self::Cancel(handle) => (CANCEL, handle.generation, handle.index),
            Self::Send { batch, place } => (SEND, batch, place),
            Self::Tick => (TICK, 0, 0),
        };
        debug_assert!(u64::from(low) <= INDEX_MASK);
        kind << KIND_SHIFT | u64::from(high) << INDEX_BITS | u64::from(low)
    }

    /// None for what no operation of ours is called.
    pub(super) fn unpack(packed: u64) -> Option<Self> {
        let (high, low) = ((packed >> INDEX_BITS) as u32, (packed & INDEX_MASK) as u32);
        let handle = Handle { index: low, generation: high };
        match packed >> KIND_SHIFT {
            POLL => Some(Self::Poll(handle)),
            CANCEL => Some(Self::Cancel(handle)),
            SEND => Some(Self::Send { batch: high, place: low }),
            TICK => Some(Self::Tick),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_as_it_went_at_the_edges_of_its_fields() {
        let handle = Handle { index: ConnectionId::MAX_INDEX, generation: u32::MAX };
        let places = Name::Send { batch: u32::MAX, place: INDEX_MASK as u32 };
        for name in [Name::Poll(handle), Name::Cancel(handle), places, Name::Tick] {
            assert_eq!(Name::unpack(name.pack()), Some(name));
        }
        assert_eq!(Name::unpack(0), None);
    }
}
