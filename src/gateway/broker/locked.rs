//! The relay of a broker that needs no runtime: the calling thread executes its own requests under the relay's lock
//! (`try_lock`), so that a publication is in the mailboxes of its room's shards without another thread being woken for it.
//!
//! If the lock is taken, the relay's thread executes the requests; it also handles timeouts. Only that thread ever blocks on the
//! lock.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker as TaskWaker};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::service::{Next, Service};
use super::thread::Shared;
use crate::gateway::mailbox::Waker;
use tidegate_core::relay::Broker;
use tidegate_core::relay::ports::PortIndex;

/// Nothing else can happen to a valid eventfd; a short sleep keeps a surprise from spinning.
const SURPRISE_SLEEP: Duration = Duration::from_millis(5);

/// The relay and its broker, shared by the ports and the relay's thread.
pub(super) struct Locked<B> {
    service: Mutex<Service<B>>,
    shared: Arc<Shared>,
}

impl<B: Broker> Locked<B> {
    pub(super) fn new(service: Service<B>) -> Self {
        let shared = service.shared.clone();
        Self { service: Mutex::new(service), shared }
    }

    /// Serves a port on the calling thread. Says whether something is left to the relay's thread: another thread holds the lock,
    /// or it was too much.
    pub(super) fn serve(&self, port: PortIndex, now: Instant) -> bool {
        let left = match self.service.try_lock() {
            Ok(mut service) => service.serve(port, &mut no_task(), now),
            Err(_) => true,
        };
        if left {
            self.shared.waker.wake();
        }
        left
    }

    /// What the relay's thread does, until the handle stops it.
    pub(super) fn run(&self) {
        loop {
            match self.turn(Instant::now()) {
                Next::Turn => {}
                Next::Sleep(until) => sleep(&self.shared.waker, until.saturating_duration_since(Instant::now())),
                Next::End => return,
            }
            self.shared.waker.stay_awake();
        }
    }

    /// One turn of the relay's thread.
    pub(super) fn turn(&self, now: Instant) -> Next {
        self.lock().turn(&mut no_task(), now)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Service<B>> {
        self.service.lock().expect("a panic under the relay's lock has ended the process")
    }
}

/// The context of a broker that no task waits for.
fn no_task() -> Context<'static> {
    Context::from_waker(TaskWaker::noop())
}

fn sleep(waker: &Waker, longest: Duration) {
    let mut fds = [PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
    // Rounded up: after a sleep that ends before its deadline the turn would find nothing due.
    let milliseconds = longest.as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) => drop(waker.clear()),
        Err(Errno::EINTR) => {}
        Err(_) => std::thread::sleep(SURPRISE_SLEEP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::broker::local::Local;
    use tidegate_core::relay::Relay;
    use tidegate_core::relay::interest::Bounds;

    #[test]
    fn a_port_that_finds_the_relay_lock_taken_does_not_wait_but_wakes_the_relays_thread() {
        let (shared, now) = (Arc::new(Shared::new(Waker::new().unwrap())), Instant::now());
        let bounds = Bounds { confirm_within: Duration::ZERO, linger: Duration::ZERO, rooms: 1 };
        let relay = Relay::new(Vec::new(), bounds, Duration::ZERO, Arc::default());
        let locked = Locked::new(Service::new(relay, Local, Default::default(), shared.clone(), now));
        let other_thread = locked.lock();
        shared.waker.will_sleep();
        assert!(locked.serve(0, now));
        assert!(shared.waker.clear());
        drop(other_thread);
    }
}
