//! The relay's thread: what it shares with the one that started it, and how it ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::gateway::log;
use crate::gateway::mailbox::Waker;

/// Ends the relay.
pub struct Handle {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Starts the relay's thread.
    pub(super) fn start(shared: Arc<Shared>, run: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let builder = std::thread::Builder::new().name(String::from("relay"));
        Ok(Self { shared, thread: builder.spawn(move || or_end_the_process(run))? })
    }

    /// Publishes what is queued, for [`tidegate_core::limits::RELAY_STOP_DEADLINE`] at most, then joins the thread.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.waker.notify();
        // A panic has ended the process.
        drop(self.thread.join());
    }
}

/// What the thread and its starter share.
pub(super) struct Shared {
    pub(super) waker: Arc<Waker>,
    stop: AtomicBool,
}

impl Shared {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, stop: AtomicBool::new(false) }
    }

    pub(super) fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A node whose relay is gone is half alive: its clients stay, and hear nothing. Where a panic unwinds, it ends the process as
/// it does where panics abort.
fn or_end_the_process(run: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!("the relay's thread panicked; the node ends");
        log::flush();
        std::process::exit(1);
    }
}
