//! The relay: the local bus as it is, or the relay as it is over a simulated broker.
//!
//! On the local bus a port serves its own requests under the relay's lock. At random the lock is taken, as if another port's
//! thread held it, and stays so for some turns: requests then wait for the relay's thread, which runs when it was woken or its
//! sleep is over, at a random moment after that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker as TaskWaker};
use std::time::{Duration, Instant};

use tidegate::gateway::broker::Port;
use tidegate::gateway::broker::testing::LocalBus;
use tidegate::gateway::mailbox::{Receiver, Sender, Waker, mailbox};
use tidegate_core::counters::RelayCounters;
use tidegate_core::limits::{self, Limits};
use tidegate_core::model::Publication;
use tidegate_core::relay::interest::Bounds;
use tidegate_core::relay::{Broker, Outlet, ToRelay, ToShard};

use super::broker::{Fate, SimulatedBroker};
use super::dice::Dice;
use super::oracle::Oracle;
use super::plan::{Faults, Plan};

/// See the module.
pub enum Relay {
    Local(Local),
    Remote(Box<Remote>),
}

/// The relay as it is, over the simulated broker.
pub struct Remote {
    relay: tidegate_core::relay::Relay<Sender<ToShard>>,
    broker: SimulatedBroker,
    requests: Vec<Receiver<ToRelay>>,
    begin: Instant,
}

/// The local bus, and what is known of the requests in it.
pub struct Local {
    bus: LocalBus,
    /// Requests that each port has put in and that are not taken, the publications among them: their order is the order in
    /// which they are taken.
    asked: Vec<VecDeque<Option<Publication>>>,
    begin: Instant,
    now: Instant,
    /// Another thread has the lock until then.
    held_until: Instant,
    contention_percent: usize,
    contended: u64,
}

impl Relay {
    pub fn new(limits: &Limits, plan: &Plan, ports: usize, counters: Arc<RelayCounters>) -> (Vec<Port>, Self) {
        // Only differences of times are looked at.
        let now = Instant::now();
        if let Some(faults) = plan.broker {
            let (ports, remote) = Remote::new(limits, faults, ports, counters, now);
            return (ports, Self::Remote(Box::new(remote)));
        }
        let (all, bus) = LocalBus::new(limits, ports, counters, now).expect("an eventfd for each port");
        let local = Local {
            bus,
            asked: (0..ports).map(|_| VecDeque::new()).collect(),
            begin: now,
            now,
            held_until: now,
            contention_percent: plan.contention_percent,
            contended: 0,
        };
        (all, Self::Local(local))
    }

    /// A port has put a request in.
    pub fn asked(&mut self, port: usize, publication: Option<Publication>) {
        if let Self::Local(local) = self {
            local.asked[port].push_back(publication);
        }
    }

    /// A port has its requests taken, if the lock is free.
    pub fn flush(&mut self, n: usize, port: &mut Port, dice: &mut Dice, oracle: &mut Oracle) {
        let Self::Local(local) = self else {
            // The relay's thread has its turns.
            port.flush(Instant::now());
            return;
        };
        if dice.percent(local.contention_percent) {
            local.held_until = local.now + Duration::from_millis(dice.below(10) as u64);
        }
        if local.is_held() {
            local.contended += 1;
            let _held = local.bus.hold();
            assert!(port.flush(local.now), "requests were served under a lock that another thread holds");
        } else {
            port.flush(local.now);
        }
        local.note_taken(n, oracle);
    }

    /// The relay's thread, or the broker, has its turn.
    pub fn turn(&mut self, now_ns: u64, dice: &mut Dice, oracle: &mut Oracle) {
        match self {
            Self::Local(local) => local.turn(now_ns, dice, oracle),
            Self::Remote(remote) => remote.turn(now_ns, dice, oracle),
        }
    }

    /// From now on the broker does nothing wrong.
    pub fn calm(&mut self) {
        if let Self::Remote(remote) = self {
            remote.broker.faults = Faults::default();
        }
    }

    /// Whether every request is served and every item is in its mailbox.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Local(local) => local.asked.iter().all(VecDeque::is_empty) && !local.bus.is_behind(),
            Self::Remote(remote) => remote.is_quiet(),
        }
    }

    pub fn contended(&self) -> u64 {
        if let Self::Local(local) = self { local.contended } else { 0 }
    }
}

impl Remote {
    fn new(
        limits: &Limits,
        faults: Faults,
        ports: usize,
        counters: Arc<RelayCounters>,
        begin: Instant,
    ) -> (Vec<Port>, Self) {
        let waker = || Waker::new().expect("an eventfd for each port");
        let (mut all, mut requests, mut outlets) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ports {
            let (to_relay, taken) = mailbox(limits.mailbox_messages, waker());
            let (outlet, from_relay) = mailbox(limits.mailbox_messages + limits::MAILBOX_RESERVE, waker());
            all.push(Port::new(to_relay, from_relay));
            requests.push(taken);
            outlets.push(Outlet::new(outlet, limits.mailbox_messages));
        }
        let (confirm_within, linger) = (Duration::from_millis(40), Duration::from_millis(20));
        let bounds = Bounds { confirm_within, linger, rooms: usize::MAX };
        // What the relay gives up by age the oracle does not see: nothing gets that old.
        let relay = tidegate_core::relay::Relay::new(outlets, bounds, Duration::from_secs(3_600), counters);
        (all, Self { relay, broker: SimulatedBroker::new(faults), requests, begin })
    }

    fn is_quiet(&self) -> bool {
        let served = self.requests.iter().all(Receiver::is_empty) && self.relay.waiting_publications() == 0;
        served && !self.relay.is_behind() && self.broker.is_quiet()
    }

    /// A turn of the relay's loop, in which each port may come first and is served any part of what it asks.
    fn turn(&mut self, now_ns: u64, dice: &mut Dice, oracle: &mut Oracle) {
        let (now, mut cx) = (self.begin + Duration::from_nanos(now_ns), Context::from_waker(TaskWaker::noop()));
        std::mem::swap(&mut self.broker.dice, dice);
        self.broker.poll(&mut cx, now, &mut self.relay);
        let ports = self.requests.len();
        let first = self.broker.dice.below(ports);
        for port in (0..ports).map(|n| (first + n) % ports) {
            for _ in 0..self.broker.dice.below(20) {
                let Some(request) = self.requests[port].pop() else { break };
                self.requests[port].release(request.pinned_bytes());
                self.relay.handle_request(port as u16, request, now);
            }
        }
        self.relay.handle_timeout(now);
        self.relay.apply(&mut self.broker, &mut cx, now);
        self.broker.flush(&mut cx, now, &mut self.relay);
        self.relay.wake_ports();
        std::mem::swap(&mut self.broker.dice, dice);
        for fate in self.broker.fates.drain(..) {
            match fate {
                Fate::Ordered(publication) => oracle.ordered(&publication),
                Fate::GivenUp(publication) => oracle.given_up(&publication),
            }
        }
    }
}

impl Local {
    fn is_held(&self) -> bool {
        self.now < self.held_until
    }

    fn turn(&mut self, now_ns: u64, dice: &mut Dice, oracle: &mut Oracle) {
        self.now = self.begin + Duration::from_nanos(now_ns);
        if self.is_held() || dice.percent(40) {
            return;
        }
        if self.bus.run_thread(self.now) {
            // A round takes the ports' requests in the order of the ports.
            (0..self.asked.len()).for_each(|port| self.note_taken(port, oracle));
        }
    }

    /// Tells the oracle what was taken of a port's requests.
    fn note_taken(&mut self, port: usize, oracle: &mut Oracle) {
        let (asked, waiting) = (&mut self.asked[port], self.bus.waiting(port as u16));
        let taken = asked.len().checked_sub(waiting).expect("a request waits that was never put in");
        asked.drain(..taken).flatten().for_each(|publication| oracle.ordered(&publication));
    }
}
