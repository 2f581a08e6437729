//! The shards' side of a relay, for tests: ports that wait with a deadline.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tidegate::gateway::broker::{self, Options};
use tidegate::gateway::config::Config;
use tidegate::gateway::mailbox::Waker;
use tidegate_core::counters::{Cell, DropReason, RelayCounters};
use tidegate_core::limits::Limits;
use tidegate_core::model::{Kind, Publication};
use tidegate_core::relay::{AckId, ToRelay, ToShard};

/// How long a test waits for what must come.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A relay with its ports; the last port is the admin thread's.
pub struct TestRelay {
    pub ports: Vec<TestPort>,
    pub counters: Arc<RelayCounters>,
    handle: Option<broker::Handle>,
}

impl TestRelay {
    /// Starts a relay with `shards` ports for shards and one for the admin thread.
    pub fn start(options: Options, shards: usize) -> Self {
        Self::try_start(options, shards).unwrap()
    }

    /// Starts a relay, if its settings allow.
    pub fn try_start(options: Options, shards: usize) -> std::io::Result<Self> {
        let wakers: Vec<_> = (0..=shards).map(|_| Waker::new().unwrap()).collect();
        let mailbox_depth = wakers.iter().map(|_| Cell::default()).collect();
        let counters = Arc::new(RelayCounters { mailbox_depth, ..RelayCounters::default() });
        let (ports, handle) = broker::start(options, wakers.clone(), counters.clone())?;
        let ports = ports.into_iter().zip(wakers).map(|(port, waker)| TestPort { port, waker }).collect();
        Ok(Self { ports, counters, handle: Some(handle) })
    }

    /// Starts a relay on the local bus.
    pub fn local(limits: Limits, shards: usize) -> Self {
        Self::start(Options::new(Config { limits, ..Config::default() }, 1), shards)
    }

    /// Dropped for `reason` so far.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped[reason as usize].value()
    }

    /// Stops the relay; what is in the ports' mailboxes can still be read.
    pub fn stop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One port of a relay.
pub struct TestPort {
    port: broker::Port,
    waker: Arc<Waker>,
}

impl TestPort {
    /// Sends a request.
    pub fn ask(&mut self, request: ToRelay) {
        let mut request = request;
        let deadline = Instant::now() + LONGEST_WAIT;
        while let Err(back) = self.port.ask(request) {
            assert!(Instant::now() < deadline, "the relay takes no requests");
            self.port.flush(Instant::now());
            std::thread::yield_now();
            request = back;
        }
        self.port.flush(Instant::now());
    }

    /// Sends requests that the relay gets in one batch, as a shard does at the end of a turn.
    pub fn ask_together(&mut self, requests: impl IntoIterator<Item = ToRelay>) {
        for request in requests {
            assert!(self.port.ask(request).is_ok(), "the mailbox is full");
        }
        self.port.flush(Instant::now());
    }

    /// Asks for a room without waiting for the answer.
    pub fn subscribe(&mut self, room: &str) {
        self.ask(ToRelay::Subscribe(room.into()));
    }

    /// Asks for a room and waits until it is joined, skipping everything before.
    pub fn join(&mut self, room: &str) {
        self.subscribe(room);
        self.until(|item| matches!(item, ToShard::Joined(joined) if &**joined == room));
    }

    /// Gives a room up.
    pub fn leave(&mut self, room: &str) {
        self.ask(ToRelay::Unsubscribe(room.into()));
    }

    /// Publishes.
    pub fn publish(&mut self, publication: Publication, ack: Option<AckId>) {
        self.ask(ToRelay::Publish(publication, ack));
    }

    /// What is in the mailbox now.
    pub fn poll(&mut self) -> Option<ToShard> {
        let item = self.port.from_relay.pop()?;
        self.port.from_relay.release(item.pinned_bytes());
        Some(item)
    }

    /// Items in the mailbox.
    pub fn waiting(&self) -> usize {
        self.port.from_relay.len()
    }

    /// The next item, or nothing within `longest`.
    pub fn next_within(&mut self, longest: Duration) -> Option<ToShard> {
        let deadline = Instant::now() + longest;
        loop {
            if let Some(item) = self.poll() {
                return Some(item);
            }
            self.waker.will_sleep();
            if self.port.from_relay.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.waker.stay_awake();
                    return None;
                }
                let mut fds = [PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
                self.waker.clear();
            }
            self.waker.stay_awake();
        }
    }

    /// The next item.
    pub fn next(&mut self) -> ToShard {
        self.next_within(LONGEST_WAIT).expect("nothing came from the relay")
    }

    /// The next item must be a delivery: its publication.
    pub fn delivery(&mut self) -> Arc<Publication> {
        match self.next() {
            ToShard::Deliver(publication) => publication,
            other => panic!("expected a delivery, got {other:?}"),
        }
    }

    /// The next item must be a delivery: its payload as text.
    pub fn payload(&mut self) -> String {
        String::from_utf8(self.delivery().payload.to_vec()).unwrap()
    }

    /// Takes items until one fits; gives back those before it.
    pub fn until(&mut self, fits: impl Fn(&ToShard) -> bool) -> Vec<ToShard> {
        let mut before = Vec::new();
        let deadline = Instant::now() + LONGEST_WAIT;
        while let Some(item) = self.next_within(deadline.saturating_duration_since(Instant::now())) {
            if fits(&item) {
                return before;
            }
            before.push(item);
        }
        panic!("what the test waits for never came; before it came {} items", before.len());
    }
}

/// A client's or backend's JSON message, with `echo`.
pub fn json(room: &str, payload: &str) -> Publication {
    let payload = bytes::Bytes::copy_from_slice(payload.as_bytes());
    Publication::of_backend(room.into(), Kind::Json, payload, 1)
}

/// A relay's options for one broker.
pub fn options(url: &str) -> Options {
    let mut config = Config::default();
    config.nats.url = vec![url.to_owned()];
    Options::new(config, 1)
}

/// A relay's options for one broker, with these bounds.
pub fn options_with(url: &str, limits: Limits) -> Options {
    let mut options = options(url);
    options.config.limits = limits;
    options
}

/// Waits until something holds.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LONGEST_WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
