//! How tasks of the admin thread wait for each other and for other threads.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{self, Poll};

/// Wakes all waiting tasks of the admin thread. Few wait at a time, so each checks its own condition.
#[derive(Debug, Default)]
pub(super) struct Notify(RefCell<Vec<task::Waker>>);

impl Notify {
    /// Wakes all waiting tasks.
    pub(super) fn notify_all(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// Waits for the next [`Self::notify_all`].
    pub(super) async fn notified(&self) {
        let mut checks = 0;
        self.until(|| {
            checks += 1;
            (checks > 1).then_some(())
        })
        .await;
    }

    /// Waits until `check` finds something; it is called at once and after each [`Self::notify_all`].
    pub(super) async fn until<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match check() {
            Some(found) => Poll::Ready(found),
            None => {
                self.0.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}
