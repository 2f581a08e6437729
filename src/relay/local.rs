//! The built-in bus: one node, nothing to install.
//!
//! It runs on the relay's thread. A subscription is in force at once; a publication goes to every port that subscribed its
//! room, and its acknowledgement says `node`. Requests of one port are taken in order, so a port's `Joined` comes before every
//! publication that it published afterwards.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::hub::BusEffect;
use super::ports::PortIndex;
use super::thread::Desk;
use super::{AckLevel, ToRelay};
use crate::mailbox::Waker;

/// Requests taken from one port before the next port's turn.
const REQUESTS_PER_TURN: usize = 256;
/// Between two looks at a mailbox that was full: its reader does not ring when it has made room.
const FULL_MAILBOX_TICK: Duration = Duration::from_millis(5);
/// Between two measurements of the mailboxes' depth.
const MEASURE_TICK: Duration = Duration::from_secs(1);

/// Runs until the handle stops it.
pub(super) fn run(mut desk: Desk) {
    desk.hub.counters.connected.set(1);
    desk.hub.counters.was_connected.set(1);
    let mut next_measure = Instant::now();
    loop {
        // Read before the turn: what was asked before the order to stop is then seen by it.
        let stopping = desk.shared.must_stop();
        let more = turn(&mut desk);
        desk.hub.wake_ports();
        if Instant::now() >= next_measure {
            next_measure = Instant::now() + MEASURE_TICK;
            desk.hub.measure();
        }
        if more {
            continue;
        }
        if stopping {
            return;
        }
        desk.shared.waker.will_sleep();
        if desk.requests.is_empty() && !desk.shared.must_stop() {
            let tick = if desk.hub.is_behind() { FULL_MAILBOX_TICK } else { MEASURE_TICK };
            sleep(&desk.shared.waker, tick);
        }
        desk.shared.waker.stay_awake();
    }
}

/// Takes a share of every port's requests. Says whether some are left.
fn turn(desk: &mut Desk) -> bool {
    for port in desk.requests.ports() {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(request) = desk.requests.pop(port) else { break };
            take(desk, port, request);
        }
    }
    !desk.requests.is_empty()
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
        Ok(_) => waker.clear(),
        Err(Errno::EINTR) => {}
        // Nothing else can happen to a valid eventfd; a short sleep keeps a surprise from spinning.
        Err(_) => std::thread::sleep(FULL_MAILBOX_TICK),
    }
}
