//! The relay of a broker that needs a runtime: the root task of a current-thread runtime, whose other tasks are the broker's.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::unix::AsyncFd;

use super::service::{Next, Service};
use crate::gateway::mailbox::Waker;
use tidegate_core::relay::Broker;

/// The relay's waker as the runtime sees it.
pub(super) struct AsyncWaker(AsyncFd<RawWaker>);

struct RawWaker(Arc<Waker>);

impl std::os::fd::AsRawFd for RawWaker {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.raw_fd()
    }
}

impl AsyncWaker {
    /// Registers the waker with the runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(runtime: &tokio::runtime::Runtime, waker: Arc<Waker>) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        // SAFETY: the waker owns its eventfd, gives the same number all its life, and lives as long as the AsyncFd that owns it.
        let eventfd = unsafe { AsyncFd::register_with_interest(RawWaker(waker), tokio::io::Interest::READABLE) };
        Ok(Self(eventfd?))
    }

    /// Registers for the next wake-up. Says whether there was one.
    fn poll_woken(&self, cx: &mut Context<'_>) -> bool {
        let mut woken = false;
        while let Poll::Ready(Ok(mut guard)) = self.0.poll_read_ready(cx) {
            self.0.get_ref().0.clear();
            guard.clear_ready();
            woken = true;
        }
        woken
    }
}

/// Runs until the handle stops it. Without tokio's budget: a turn empties every queue, which is what bounds them.
pub(super) async fn run<B: Broker>(mut service: Service<B>, waker_events: AsyncWaker) {
    let mut timer = Box::pin(tokio::time::sleep_until(tokio::time::Instant::now()));
    let turns = std::future::poll_fn(|cx| {
        service.shared.waker.stay_awake();
        match service.turn(cx, Instant::now()) {
            Next::End => return Poll::Ready(()),
            // The broker's tasks have their turn first.
            Next::Turn => cx.waker().wake_by_ref(),
            Next::Sleep(_) if waker_events.poll_woken(cx) => cx.waker().wake_by_ref(),
            Next::Sleep(until) => {
                let at = tokio::time::Instant::from_std(until);
                if timer.deadline() != at {
                    timer.as_mut().reset(at);
                }
                if timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    });
    tokio::task::unconstrained(turns).await;
}
