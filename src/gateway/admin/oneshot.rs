//! One-shot replies: a channel for a single value from a shard's thread to a task of the admin thread.
//!
//! A [`Sender`] travels to the shard inside a [`Command`](tidegate_core::shard::command::Command). Sending, or dropping it unused, writes
//! the admin thread's eventfd; the task that waits on that eventfd wakes all waiting tasks, and each polls its [`Receiver`].

use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TryRecvError, sync_channel};

use crate::gateway::mailbox::Waker;

/// The shard's end: sends one value, or is dropped where there is none.
#[derive(Debug)]
pub(super) struct Sender<T> {
    slot: Option<SyncSender<T>>,
    waker: Arc<Waker>,
}

/// The admin thread's end.
#[derive(Debug)]
pub(super) struct Receiver<T>(mpsc::Receiver<T>);

/// Both ends; `waker` is woken when the sender has sent or was dropped.
pub(super) fn channel<T>(waker: Arc<Waker>) -> (Sender<T>, Receiver<T>) {
    let (slot, receiver) = sync_channel(1);
    (Sender { slot: Some(slot), waker }, Receiver(receiver))
}

impl<T> Sender<T> {
    /// Sends the value. Never blocks.
    pub(super) fn send(self, value: T) {
        if let Some(slot) = &self.slot {
            // The receiver may have given up.
            let _ = slot.try_send(value);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // The slot first: the woken task must find the channel closed.
        self.slot = None;
        self.waker.notify();
    }
}

impl<T> Receiver<T> {
    /// The value; `Some(None)` where there will be none, `None` where it is not there yet.
    pub(super) fn poll(&self) -> Option<Option<T>> {
        match self.0.try_recv() {
            Ok(value) => Some(Some(value)),
            Err(TryRecvError::Disconnected) => Some(None),
            Err(TryRecvError::Empty) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_woken(waker: &Waker) -> bool {
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(waker), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, 0u16).unwrap() == 1
    }

    #[test]
    fn a_reply_arrives_and_wakes_the_admin_thread() {
        let waker = Waker::new().unwrap();
        let (sender, receiver) = channel(waker.clone());
        assert_eq!(receiver.poll(), None);
        assert!(!is_woken(&waker));
        sender.send(7);
        assert!(is_woken(&waker));
        assert_eq!(receiver.poll(), Some(Some(7)));
    }

    #[test]
    fn a_dropped_sender_wakes_the_admin_thread_so_that_no_task_waits_for_a_dead_shard() {
        let waker = Waker::new().unwrap();
        let (sender, receiver) = channel::<u8>(waker.clone());
        drop(sender);
        assert!(is_woken(&waker));
        assert_eq!(receiver.poll(), Some(None));
    }
}
