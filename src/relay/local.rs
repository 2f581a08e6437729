//! The built-in bus: one node, nothing to install.
//!
//! A subscription is in force at once; a publication goes to every port that subscribed its room, and its acknowledgement says
//! `node`. Requests of one port are taken in order, so a port's `Joined` comes before every publication that it published
//! afterwards.
//!
//! Who asks serves himself: a port that has put requests in takes them out at the desk, so that a publication is in the mailboxes
//! of its room's shards without another thread being woken for it. Nobody waits for the desk but the relay's thread: it does what
//! was put in while the desk was taken, and what is due by the clock.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ToRelay;
use super::hub::BusEffect;
use super::ports::PortIndex;
use super::thread::{Desk, Shared};
use crate::mailbox::Waker;
use crate::model::AckLevel;

/// Requests taken from one port before the next port's turn.
const REQUESTS_PER_TURN: usize = 256;
/// Between two looks at a mailbox that was full: its reader does not ring when it has made room.
const FULL_MAILBOX_TICK: Duration = Duration::from_millis(5);
/// Between two measurements of the mailboxes' depth.
const MEASURE_TICK: Duration = Duration::from_secs(1);

/// The bus, shared by its ports and the relay's thread.
pub(super) struct Bus {
    desk: Mutex<Desk>,
    shared: Arc<Shared>,
}

/// What the relay's thread does after a round.
pub(super) enum Next {
    /// Another round: requests are left, or came while it was about to sleep.
    Round,
    /// Sleep until it is woken, for this long at most.
    Sleep(Duration),
    /// Nothing more: it was told to stop, and all requests are served.
    End,
}

impl Bus {
    pub(super) fn new(desk: Desk) -> Self {
        desk.hub.counters.connected.set(1);
        desk.hub.counters.was_connected.set(1);
        let shared = desk.shared.clone();
        Self { desk: Mutex::new(desk), shared }
    }

    /// Does what a port asks, on the calling thread. Says whether it was left to the relay's thread: somebody else was at the desk,
    /// or it was too much.
    pub(super) fn serve(&self, port: PortIndex) -> bool {
        let left = match self.desk.try_lock() {
            Ok(mut desk) => {
                // The relay's thread looks often while somebody is behind, and need be told only that it begins.
                let was_behind = desk.hub.is_behind();
                let more = take_some(&mut desk, port);
                desk.hub.wake_ports();
                more || !was_behind && desk.hub.is_behind()
            }
            Err(_) => true,
        };
        if left {
            self.shared.waker.wake();
        }
        left
    }

    /// What the relay's thread does, until the handle stops it.
    pub(super) fn run(&self) {
        let mut next_measure = Instant::now();
        loop {
            match self.round(Instant::now(), &mut next_measure) {
                Next::Round => {}
                Next::Sleep(tick) => sleep(&self.shared.waker, tick),
                Next::End => return,
            }
            self.shared.waker.stay_awake();
        }
    }

    /// One round of the relay's thread: serves every port, wakes the shards, measures when that is due. Before it says
    /// [`Next::Sleep`] it has announced the sleep, so that a request that comes from then on rings.
    pub(super) fn round(&self, now: Instant, next_measure: &mut Instant) -> Next {
        // Read before the turn: what was asked before the order to stop is then seen by it.
        let stopping = self.shared.must_stop();
        let mut desk = self.desk();
        let mut more = false;
        for port in desk.requests.ports() {
            more |= take_some(&mut desk, port);
        }
        desk.hub.wake_ports();
        if now >= *next_measure {
            *next_measure = now + MEASURE_TICK;
            desk.hub.measure();
        }
        drop(desk);
        if more {
            return Next::Round;
        }
        if stopping {
            return Next::End;
        }
        self.shared.waker.will_sleep();
        self.may_sleep().map_or(Next::Round, Next::Sleep)
    }

    /// For how long the relay's thread may sleep, if it may.
    fn may_sleep(&self) -> Option<Duration> {
        let desk = self.desk();
        let tick = if desk.hub.is_behind() { FULL_MAILBOX_TICK } else { MEASURE_TICK };
        (desk.requests.is_empty() && !self.shared.must_stop()).then_some(tick)
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("nobody panics at the desk and lives")
    }
}

/// Takes a share of a port's requests. Says whether some are left.
fn take_some(desk: &mut Desk, port: PortIndex) -> bool {
    for _ in 0..REQUESTS_PER_TURN {
        let Some(request) = desk.requests.pop(port) else { return false };
        take(desk, port, request);
    }
    !desk.requests.is_empty_at(port)
}

fn take(desk: &mut Desk, port: PortIndex, request: ToRelay) {
    let hub = &mut desk.hub;
    match request {
        ToRelay::Subscribe(room) => {
            hub.interest.handle_subscribe(room, port, Instant::now());
            settle(desk);
        }
        ToRelay::Unsubscribe(room) => {
            let now = Instant::now();
            hub.interest.handle_unsubscribe(&room, port, now);
            hub.handle_timeout(now);
            settle(desk);
        }
        ToRelay::Publish(publication, token) => {
            hub.counters.messages_out.add(1);
            if let Some(key) = hub.interest.key(&publication.room) {
                hub.deliver(key, publication);
            }
            if let Some(token) = token {
                hub.acked(port, token, AckLevel::Node);
            }
        }
    }
}

/// There is nobody to tell: every subscription is in force at once.
fn settle(desk: &mut Desk) {
    while let Some(effect) = desk.hub.poll_bus_effect() {
        match effect {
            BusEffect::Subscribe(key, _) => desk.hub.interest.confirm(key, Instant::now()),
            BusEffect::Unsubscribe(_) => {}
        }
    }
}

fn sleep(waker: &Waker, longest: Duration) {
    let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(waker), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) => drop(waker.clear()),
        Err(Errno::EINTR) => {}
        // Nothing else can happen to a valid eventfd; a short sleep keeps a surprise from spinning.
        Err(_) => std::thread::sleep(FULL_MAILBOX_TICK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hub::Hub;
    use crate::relay::interest::{Bounds, Interest};

    #[test]
    fn who_finds_somebody_at_the_desk_does_not_wait_but_wakes_the_relays_thread() {
        let shared = Arc::new(Shared::new(Waker::new().unwrap()));
        let bounds = Bounds { confirm_within: Duration::ZERO, linger: Duration::ZERO, rooms: 1 };
        let hub = Hub::new(Vec::new(), Interest::new(bounds), Arc::default());
        let bus = Bus::new(Desk { hub, requests: Default::default(), shared: shared.clone() });
        let somebody = bus.desk();
        shared.waker.will_sleep();
        assert!(bus.serve(0));
        assert!(shared.waker.clear());
        drop(somebody);
    }
}
