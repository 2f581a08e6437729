//! Bounded mailboxes between two threads, and the waking of the one that sleeps.
//!
//! One writer, one reader, no lock here: where threads take turns at an end, as under the relay's lock, they have a lock of their
//! own. The writer wakes only a reader that said it sleeps: the reader sets `sleeping`, fences, looks once more, and only
//! then waits on its eventfd; the writer puts its batch in, fences, and rings where it finds `sleeping` set. So one of the two
//! always sees the other.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one thread through an eventfd that the thread's runtime waits on.
#[derive(Debug)]
pub struct Waker {
    eventfd: EventFd,
    sleeping: AtomicBool,
}

impl Waker {
    /// A waker whose thread is awake.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM of eventfd(2).
    pub fn new() -> nix::Result<Arc<Self>> {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Self { eventfd, sleeping: AtomicBool::new(false) }))
    }

    /// The writer's side: notifies the reader if it sleeps. Call it after the batch is in the mailbox.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.notify();
        }
    }

    /// Notifies the reader whether it sleeps or not.
    pub fn notify(&self) {
        // A full counter (EAGAIN) is a reader that will wake anyway.
        let _ = self.eventfd.write(1);
    }

    /// The reader's side: announces sleep. Look into every mailbox once more after it, then wait or [`Waker::stay_awake`].
    pub fn will_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The reader is awake again.
    pub fn stay_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Takes the notifications, so that the next one is an event again. Says whether there was one.
    pub fn clear(&self) -> bool {
        self.eventfd.read().is_ok()
    }

    /// For drivers that want the number.
    pub fn raw_fd(&self) -> RawFd {
        self.eventfd.as_fd().as_raw_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// The writing end.
pub struct Sender<T> {
    ring: rtrb::Producer<T>,
    waker: Arc<Waker>,
    /// Bytes charged so far, wrapping. Only what the reader releases is shared, so that neither side needs a locked
    /// instruction.
    charged: Cell<usize>,
    released: Arc<AtomicUsize>,
}

/// The reading end.
pub struct Receiver<T> {
    ring: rtrb::Consumer<T>,
    /// Bytes released so far, wrapping; written by this side only.
    released: Arc<AtomicUsize>,
}

/// A mailbox of `capacity` items whose reader is woken by `waker`.
pub fn mailbox<T>(capacity: usize, waker: Arc<Waker>) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let released = Arc::new(AtomicUsize::new(0));
    let sender = Sender { ring: producer, waker, charged: Cell::new(0), released: released.clone() };
    (sender, Receiver { ring: consumer, released })
}

impl<T> Sender<T> {
    /// Puts an item in, or hands it back where the mailbox is full. Wakes no reader: [`Sender::wake`] does, after the batch.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.ring.push(item).map_err(|rtrb::PushError::Full(item)| item)
    }

    /// Free places.
    pub fn free(&self) -> usize {
        self.ring.slots()
    }

    /// Bytes charged and not yet released by the reader.
    pub fn bytes(&self) -> usize {
        self.charged.get().wrapping_sub(self.released.load(Ordering::Relaxed))
    }

    /// Charges the mailbox with what an item pins.
    pub fn charge(&self, bytes: usize) {
        self.charged.set(self.charged.get().wrapping_add(bytes));
    }

    /// Wakes the reader if it sleeps.
    pub fn wake(&self) {
        self.waker.wake();
    }
}

impl<T> Receiver<T> {
    /// The oldest item.
    pub fn pop(&mut self) -> Option<T> {
        self.ring.pop().ok()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.ring.slots()
    }

    /// Releases what an item was charged with.
    pub fn release(&mut self, bytes: usize) {
        self.released.store(self.released.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_hands_the_item_back() {
        let (mut sender, mut receiver) = mailbox(1, Waker::new().unwrap());
        assert_eq!(sender.push(1), Ok(()));
        assert_eq!(sender.push(2), Err(2));
        assert_eq!(receiver.pop(), Some(1));
        assert_eq!(sender.push(3), Ok(()));
        assert_eq!((receiver.pop(), receiver.pop()), (Some(3), None));
    }

    #[test]
    fn what_is_charged_and_not_released_is_what_the_mailbox_pins() {
        let (sender, mut receiver) = mailbox::<u8>(1, Waker::new().unwrap());
        sender.charge(100);
        sender.charge(20);
        receiver.release(100);
        assert_eq!(sender.bytes(), 20);
        receiver.release(20);
        assert_eq!(sender.bytes(), 0);
    }

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!waker.clear(), "no thread slept, nothing rang");
        waker.will_sleep();
        waker.wake();
        waker.wake();
        assert_eq!(waker.eventfd.read(), Ok(1));
    }

    #[test]
    fn no_wake_up_is_lost_between_the_last_look_and_the_sleep() {
        const ITEMS: u32 = 20_000;
        let waker = Waker::new().unwrap();
        let (mut sender, mut receiver) = mailbox(4, waker.clone());
        let writer = std::thread::spawn(move || {
            for mut item in 0..ITEMS {
                while let Err(back) = sender.push(item) {
                    item = back;
                    std::thread::yield_now();
                }
                sender.wake();
            }
        });
        let mut next = 0;
        while next < ITEMS {
            while let Some(item) = receiver.pop() {
                assert_eq!(item, next);
                next += 1;
            }
            waker.will_sleep();
            if receiver.is_empty() && next < ITEMS {
                let mut fds = [nix::poll::PollFd::new(waker.as_fd(), nix::poll::PollFlags::POLLIN)];
                let woken = nix::poll::poll(&mut fds, 10_000u16).unwrap();
                assert_eq!(woken, 1, "slept through item {next}");
                waker.clear();
            }
            waker.stay_awake();
        }
        writer.join().unwrap();
    }
}
