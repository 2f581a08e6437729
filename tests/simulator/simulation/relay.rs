//! The relay: the local bus as it is, or the router as it is under a simulated broker.
//!
//! On the local bus a port serves its own requests under the relay's lock. At random the lock is taken, as if another port's
//! thread held it, and stays so for some turns: requests then wait for the relay's thread, which runs when it was woken or its
//! sleep is over, at a random moment after that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::counters::RelayCounters;
use tidegate::limits::Limits;
use tidegate::model::Publication;
use tidegate::relay::Port;
use tidegate::relay::testing::LocalBus;

use super::broker::Broker;
use super::dice::Dice;
use super::oracle::Oracle;
use super::plan::{Faults, Plan};

/// See the module.
pub enum Relay {
    Local(Local),
    Broker(Box<Broker>),
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
            let (ports, broker) = Broker::new(limits, faults, ports, counters, now);
            return (ports, Self::Broker(Box::new(broker)));
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
            port.flush();
            return;
        };
        if dice.percent(local.contention_percent) {
            local.held_until = local.now + Duration::from_millis(dice.below(10) as u64);
        }
        if local.is_held() {
            local.contended += 1;
            let _held = local.bus.hold();
            assert!(port.flush(), "requests were served under a lock that another thread holds");
        } else {
            port.flush();
        }
        local.note_taken(n, oracle);
    }

    /// The relay's thread, or the broker, has its turn.
    pub fn turn(&mut self, now_ns: u64, dice: &mut Dice, oracle: &mut Oracle) {
        match self {
            Self::Local(local) => local.turn(now_ns, dice, oracle),
            Self::Broker(broker) => broker.turn(now_ns, dice, oracle),
        }
    }

    /// From now on the broker does nothing wrong.
    pub fn calm(&mut self) {
        if let Self::Broker(broker) = self {
            broker.faults = Faults::default();
        }
    }

    /// Whether every request is served and every item is in its mailbox.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Local(local) => local.asked.iter().all(VecDeque::is_empty) && !local.bus.is_behind(),
            Self::Broker(broker) => broker.is_quiet(),
        }
    }

    pub fn contended(&self) -> u64 {
        if let Self::Local(local) = self { local.contended } else { 0 }
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
