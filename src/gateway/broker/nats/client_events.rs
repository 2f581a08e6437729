//! What the broker's client reports from its own task, for the relay to read in its turn.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_nats::{ClientError, Event, ServerError};
use futures_util::task::AtomicWaker;
use tokio::sync::mpsc;

/// Reports that wait, more than the client keeps events; what is beyond either is not kept, see `resubscribe.rs`.
const REPORTS: usize = 256;

/// Something to log, or a refusal to act on.
pub(super) enum Report {
    /// The connection could not be made again, for this reason.
    NotConnected(String),
    /// The server refused something.
    ServerError(String),
}

/// Set in the client's event task, read by the relay.
pub(super) struct ClientEvents {
    events: AtomicU64,
    lost: AtomicU64,
    lame_duck: AtomicBool,
    changed: AtomicBool,
    reports: mpsc::Sender<Report>,
    waker: AtomicWaker,
}

impl ClientEvents {
    /// No event yet, and the channel that the reports come out of.
    pub(super) fn new() -> (Self, mpsc::Receiver<Report>) {
        let (reports, received) = mpsc::channel(REPORTS);
        let client_events = Self {
            events: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            lame_duck: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            reports,
            waker: AtomicWaker::new(),
        };
        (client_events, received)
    }

    /// The client's callback.
    pub(super) fn handle_event(&self, event: Event) {
        self.events.fetch_add(1, Ordering::Relaxed);
        match event {
            Event::SlowConsumer(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            Event::LameDuckMode => self.lame_duck.store(true, Ordering::Relaxed),
            Event::ServerError(error) => self.report(Report::ServerError(match error {
                ServerError::Other(text) => text,
                error => error.to_string(),
            })),
            Event::ClientError(ClientError::Other(text)) => self.report(Report::NotConnected(text)),
            Event::ClientError(error) => self.report(Report::NotConnected(error.to_string())),
            Event::Connected | Event::Disconnected | Event::Draining | Event::Closed => {}
        }
        self.changed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether anything happened since the last call.
    pub(super) fn take_changed(&self, cx: &mut std::task::Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.changed.swap(false, Ordering::Acquire)
    }

    /// Events since the last call. So many that the client may have had no room for more mean that some are missing.
    pub(super) fn take_events(&self) -> u64 {
        self.events.swap(0, Ordering::Relaxed)
    }

    /// Messages that the client dropped since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Whether the server said that it is going away.
    pub(super) fn take_lame_duck(&self) -> bool {
        self.lame_duck.swap(false, Ordering::Relaxed)
    }

    fn report(&self, report: Report) {
        // A full queue means that the log has enough to say already.
        let _ = self.reports.try_send(report);
    }
}
