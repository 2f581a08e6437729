//! How a shard's thread answers control's task, and how tasks on the control thread wait.
//!
//! An [`Answer`] travels to the shard inside a [`Command`](crate::shard::command::Command). Sending it, or dropping it unanswered, rings
//! control's eventfd; the task that waits on that eventfd rings the [`Bell`], and every waiting task looks again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::task::{self, Poll};

use crate::mailbox::Waker;

/// The shard's side of a question: send one value, or drop it to say that there is none.
#[derive(Debug)]
pub struct Answer<T> {
    slot: Option<SyncSender<T>>,
    waker: Arc<Waker>,
}

/// Control's side of a question.
#[derive(Debug)]
pub struct Question<T>(Receiver<T>);

impl<T> Answer<T> {
    /// A question and its answer; `waker` is rung when the answer was sent or dropped.
    pub fn new(waker: Arc<Waker>) -> (Self, Question<T>) {
        let (slot, receiver) = sync_channel(1);
        (Self { slot: Some(slot), waker }, Question(receiver))
    }

    /// Answers. Never blocks.
    pub fn send(self, value: T) {
        if let Some(slot) = &self.slot {
            // Whoever asked may have given up.
            let _ = slot.try_send(value);
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        // The slot first: who wakes must see that nothing comes any more.
        self.slot = None;
        self.waker.ring();
    }
}

impl<T> Question<T> {
    /// The answer; `Some(None)` where there will be none, `None` where it is not there yet.
    pub fn poll(&self) -> Option<Option<T>> {
        match self.0.try_recv() {
            Ok(value) => Some(Some(value)),
            Err(TryRecvError::Disconnected) => Some(None),
            Err(TryRecvError::Empty) => None,
        }
    }
}

/// Wakes every waiting task of the control thread. Few wait at a time, so each looks for itself.
#[derive(Debug, Default)]
pub(super) struct Bell(RefCell<Vec<task::Waker>>);

impl Bell {
    /// Everybody looks again.
    pub(super) fn ring(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// Waits for the next ring.
    pub(super) async fn rung(&self) {
        let mut rings = 0;
        self.until(|| {
            rings += 1;
            (rings > 1).then_some(())
        })
        .await;
    }

    /// Waits until `look` finds something.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match look() {
            Some(found) => Poll::Ready(found),
            None => {
                self.0.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(waker: &Waker) -> bool {
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(waker), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, 0u16).unwrap() == 1
    }

    #[test]
    fn an_answer_arrives_and_rings() {
        let waker = Waker::new().unwrap();
        let (answer, question) = Answer::new(waker.clone());
        assert_eq!(question.poll(), None);
        assert!(!rung(&waker));
        answer.send(7);
        assert!(rung(&waker));
        assert_eq!(question.poll(), Some(Some(7)));
    }

    #[test]
    fn a_dropped_answer_rings_too_so_that_nobody_waits_for_a_dead_shard() {
        let waker = Waker::new().unwrap();
        let (answer, question) = Answer::<u8>::new(waker.clone());
        drop(answer);
        assert!(rung(&waker));
        assert_eq!(question.poll(), Some(None));
    }
}
