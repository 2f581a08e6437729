//! A mailbox for unit tests, both ends of which are in one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Mailbox, ToShard};

#[derive(Default)]
struct Shared {
    items: RefCell<VecDeque<ToShard>>,
    bytes: Cell<usize>,
}

/// The writing end.
pub(super) struct TestMailbox(Rc<Shared>, usize);

/// The reading end.
pub(super) struct Reader(Rc<Shared>);

/// A mailbox of `capacity` items.
pub(super) fn mailbox(capacity: usize) -> (TestMailbox, Reader) {
    let shared = Rc::new(Shared::default());
    (TestMailbox(shared.clone(), capacity), Reader(shared))
}

impl Mailbox for TestMailbox {
    fn push(&mut self, item: ToShard) -> Result<(), ToShard> {
        if self.free() == 0 {
            return Err(item);
        }
        self.0.items.borrow_mut().push_back(item);
        Ok(())
    }

    fn free(&self) -> usize {
        self.1 - self.0.items.borrow().len()
    }

    fn bytes(&self) -> usize {
        self.0.bytes.get()
    }

    fn charge(&self, bytes: usize) {
        self.0.bytes.set(self.bytes() + bytes);
    }

    fn wake(&self) {}
}

impl Reader {
    /// The oldest item.
    pub(super) fn pop(&self) -> Option<ToShard> {
        let item = self.0.items.borrow_mut().pop_front()?;
        self.0.bytes.set(self.0.bytes.get() - item.pinned_bytes());
        Some(item)
    }

    /// Items waiting.
    pub(super) fn len(&self) -> usize {
        self.0.items.borrow().len()
    }
}
