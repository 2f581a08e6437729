//! The local bus without its thread, for tests that decide themselves which thread runs when.
//!
//! It is the local bus as it is, with its lock and its mailboxes: a test holds the lock for as long as it likes, and runs the
//! relay's thread turn by turn. It is deterministic: the time is an argument, and nothing blocks.

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::local::Local;
use super::locked::Locked;
use super::port::Ends;
use super::service::{Next, Service};
use super::thread::Shared;
use super::{Options, Port, Server, Starting};
use crate::gateway::config::Config;
use crate::gateway::mailbox::Waker;
use tidegate_core::counters::RelayCounters;
use tidegate_core::limits::Limits;
use tidegate_core::relay::ports::PortIndex;

/// The local bus, and the state of its relay thread.
pub struct LocalBus {
    locked: Arc<Locked<Local>>,
    shared: Arc<Shared>,
    /// When the relay's thread wakes without having been woken.
    sleeps_until: Instant,
}

/// The relay's lock, held: requests that are put in meanwhile are left to the relay's thread.
pub struct Held<'a> {
    _service: MutexGuard<'a, Service<Local>>,
}

impl LocalBus {
    /// A bus with this many ports, the last of which is the admin thread's. Its relay thread has not run yet.
    ///
    /// # Errors
    /// No eventfd.
    pub fn new(
        limits: &Limits,
        ports: usize,
        counters: Arc<RelayCounters>,
        now: Instant,
    ) -> io::Result<(Vec<Port>, Self)> {
        let shared = Arc::new(Shared::new(Waker::new()?));
        let wakers = (0..ports).map(|_| Waker::new()).collect::<nix::Result<Vec<_>>>()?;
        let ends = Ends::new(limits, wakers, &shared);
        let config = Config { limits: limits.clone(), ..Config::default() };
        let options = Options::new(config, 0);
        let mut starting = Starting { options: &options, ends, shared: shared.clone(), counters };
        let locked = Arc::new(starting.locked(Local));
        starting.ends.serve_at_once(&Server::Local(locked.clone()));
        Ok((starting.ends.ports, Self { locked, shared, sleeps_until: now }))
    }

    /// Takes the relay's lock, as another thread that serves its port does.
    pub fn hold(&self) -> Held<'_> {
        Held { _service: self.locked.lock() }
    }

    /// Requests of a port that are put in and not taken yet.
    pub fn waiting(&self, port: PortIndex) -> usize {
        self.locked.lock().requests.waiting_at(port)
    }

    /// Whether something waits for a shard to make room in its mailbox.
    pub fn is_behind(&self) -> bool {
        self.locked.lock().relay.is_behind()
    }

    /// Runs a turn of the relay's thread, if it was woken or its sleep is over. Says whether it ran.
    pub fn run_thread(&mut self, now: Instant) -> bool {
        let woken = self.shared.waker.clear();
        if !woken && now < self.sleeps_until {
            return false;
        }
        self.shared.waker.stay_awake();
        self.sleeps_until = match self.locked.turn(now) {
            Next::Sleep(until) => until,
            Next::Turn | Next::End => now,
        };
        true
    }
}
