//! What all outboxes of one shard take of memory: the account that the node's budget of outboxes is held to.

use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of a shared buffer beside its octets: the header of its `Rc`, and its entry in the account.
const SHARED_HEADER_BYTES: usize = 64;
/// Entries that the table keeps room for when it is empty.
const KEPT_ENTRIES: usize = 1024;

/// See the module. A buffer that many outboxes share is charged once, for as long as one of them refers to it.
#[derive(Debug, Default)]
pub struct Account {
    /// Of the outboxes alone: their queues, and the octets that they have copied.
    own_bytes: u64,
    shared_bytes: u64,
    unread_bytes: u64,
    /// References by the buffer's address. It is no other buffer's while an outbox keeps this one.
    shared: HashMap<*const u8, u32>,
}

impl Account {
    /// Bytes of memory that the outboxes take, each shared buffer once.
    pub fn memory_bytes(&self) -> u64 {
        self.own_bytes + self.shared_bytes
    }

    /// Octets that wait to be sent: those of a shared buffer once for each connection that waits for them.
    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// One more outbox refers to `buffer`.
    pub(super) fn hold(&mut self, buffer: &Rc<[u8]>) {
        let references = self.shared.entry(buffer.as_ptr()).or_default();
        *references += 1;
        if *references == 1 {
            self.shared_bytes += (buffer.len() + SHARED_HEADER_BYTES) as u64;
        }
    }

    /// One fewer.
    pub(super) fn release(&mut self, buffer: &Rc<[u8]>) {
        let Some(references) = self.shared.get_mut(&buffer.as_ptr()) else {
            debug_assert!(false, "a buffer is released that no outbox held");
            return;
        };
        *references -= 1;
        if *references == 0 {
            self.shared.remove(&buffer.as_ptr());
            self.shared_bytes -= (buffer.len() + SHARED_HEADER_BYTES) as u64;
            if self.shared.is_empty() {
                self.shared.shrink_to(KEPT_ENTRIES);
            }
        }
    }

    /// An outbox that was charged with `before` takes `now`: bytes of its own, and octets that wait in it.
    pub(super) fn recharge(&mut self, before: Charge, now: Charge) {
        self.own_bytes = self.own_bytes + now.own_bytes as u64 - before.own_bytes as u64;
        self.unread_bytes = self.unread_bytes + now.unread_bytes as u64 - before.unread_bytes as u64;
    }
}

/// What one outbox is charged with, shared buffers left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Charge {
    pub(super) own_bytes: usize,
    pub(super) unread_bytes: usize,
}
