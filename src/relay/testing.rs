//! The relay's parts without its thread, for tests that decide themselves which thread runs when.
//!
//! [`LocalBus`] is the local bus as it is, with its lock and its mailboxes: a test holds the lock for as long as it likes, and
//! runs the relay's thread round by round. [`Router`] is the router with its ports, for a test that plays the broker: it takes
//! the shards' requests and says what the broker confirmed, refused, delivered and lost. Both are deterministic: the time is an
//! argument, and nothing blocks.

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

pub use super::hub::BusEffect;
use super::hub::Hub;
use super::interest::RoomKey;
use super::local::{Bus, Next};
use super::ports::PortIndex;
use super::thread::{Desk, Shared, connect_ports, interest, serve_at_once};
use super::{AckToken, Port, ToRelay};
use crate::counters::RelayCounters;
use crate::limits::Limits;
use crate::mailbox::Waker;
use crate::model::{AckLevel, GapReason, Publication, RoomName};

/// The local bus, and the state of its relay thread.
pub struct LocalBus {
    bus: Arc<Bus>,
    shared: Arc<Shared>,
    /// When the relay's thread wakes without having been woken.
    sleeps_until: Instant,
    next_measure: Instant,
}

/// The relay's lock, held: requests that are put in meanwhile are left to the relay's thread.
pub struct Held<'a> {
    _desk: MutexGuard<'a, Desk>,
}

impl LocalBus {
    /// A bus with this many ports, the last of which is control's. Its relay thread has not run yet.
    ///
    /// # Errors
    /// No eventfd.
    pub fn new(
        limits: &Limits,
        ports: usize,
        counters: Arc<RelayCounters>,
        now: Instant,
    ) -> io::Result<(Vec<Port>, Self)> {
        let (mut ports, desk) = desk(limits, ports, Duration::ZERO, counters)?;
        let shared = desk.shared.clone();
        let bus = Arc::new(Bus::new(desk));
        serve_at_once(&mut ports, &bus);
        Ok((ports, Self { bus, shared, sleeps_until: now, next_measure: now }))
    }

    /// Takes the relay's lock, as another thread that serves its port does.
    pub fn hold(&self) -> Held<'_> {
        Held { _desk: self.bus.desk() }
    }

    /// Requests of a port that are put in and not taken yet.
    pub fn waiting(&self, port: PortIndex) -> usize {
        self.bus.desk().requests.waiting_at(port)
    }

    /// Whether something waits for a shard to make room in its mailbox.
    pub fn is_behind(&self) -> bool {
        self.bus.desk().hub.is_behind()
    }

    /// Runs a round of the relay's thread, if it was woken or its sleep is over. Says whether it ran.
    pub fn run_thread(&mut self, now: Instant) -> bool {
        let woken = self.shared.waker.clear();
        if !woken && now < self.sleeps_until {
            return false;
        }
        self.shared.waker.stay_awake();
        self.sleeps_until = match self.bus.round(now, &mut self.next_measure) {
            Next::Sleep(tick) => now + tick,
            Next::Round | Next::End => now,
        };
        true
    }
}

/// The router and the relay's ends of its ports' mailboxes.
pub struct Router {
    desk: Desk,
}

impl Router {
    /// A router with this many ports, the last of which is control's. A room without interest ends after `limits.linger`.
    ///
    /// # Errors
    /// No eventfd.
    pub fn new(limits: &Limits, ports: usize, counters: Arc<RelayCounters>) -> io::Result<(Vec<Port>, Self)> {
        let (ports, desk) = desk(limits, ports, limits.linger, counters)?;
        Ok((ports, Self { desk }))
    }

    /// Takes a port's oldest request.
    pub fn take(&mut self, port: PortIndex) -> Option<ToRelay> {
        self.desk.requests.pop(port)
    }

    /// Whether every request was taken and every item is in its mailbox.
    pub fn is_settled(&self) -> bool {
        self.desk.requests.is_empty() && !self.desk.hub.is_behind()
    }

    /// A port wants a room.
    pub fn subscribe(&mut self, room: RoomName, port: PortIndex, now: Instant) {
        self.desk.hub.interest.handle_subscribe(room, port, now);
    }

    /// A port has no member of a room any more.
    pub fn unsubscribe(&mut self, room: &str, port: PortIndex, now: Instant) {
        self.desk.hub.interest.handle_unsubscribe(room, port, now);
    }

    /// What the broker has to do next. The ports' answers go out on the way.
    pub fn poll_effect(&mut self) -> Option<BusEffect> {
        self.desk.hub.poll_bus_effect()
    }

    /// Refuses what was not confirmed in time and ends what lingered.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.desk.hub.handle_timeout(now);
    }

    /// The broker has the subscription.
    pub fn confirm(&mut self, key: RoomKey, now: Instant) {
        self.desk.hub.interest.confirm(key, now);
    }

    /// The broker refused the subscription, or revoked it.
    pub fn refuse(&mut self, key: RoomKey) {
        self.desk.hub.interest.refuse(key);
    }

    /// The broker delivered a message.
    pub fn deliver(&mut self, key: RoomKey, publication: Publication) {
        self.desk.hub.deliver(key, publication);
    }

    /// Messages of a room were lost, or with `None` of every room.
    pub fn tell_gap(&mut self, key: Option<RoomKey>, reason: GapReason) {
        match key {
            Some(key) => self.desk.hub.tell_gap(key, reason),
            None => self.desk.hub.tell_gap_to_all(reason),
        }
    }

    /// The broker took a publication (`Some`), or it did not, or nothing is known.
    pub fn answer(&mut self, port: PortIndex, token: AckToken, level: Option<AckLevel>) {
        match level {
            Some(level) => self.desk.hub.acked(port, token, level),
            None => self.desk.hub.failed(port, token),
        }
    }

    /// Ends a batch: brings what did not fit where there is room now, and wakes the ports.
    pub fn wake_ports(&mut self) {
        self.desk.hub.wake_ports();
    }
}

fn desk(
    limits: &Limits,
    ports: usize,
    linger: Duration,
    counters: Arc<RelayCounters>,
) -> io::Result<(Vec<Port>, Desk)> {
    let shared = Arc::new(Shared::new(Waker::new()?));
    let wakers = (0..ports).map(|_| Waker::new()).collect::<nix::Result<Vec<_>>>()?;
    let (ports, requests, posts) = connect_ports(limits, wakers, &shared);
    let hub = Hub::new(posts, interest(limits, linger), counters);
    Ok((ports, Desk { hub, requests, shared }))
}
