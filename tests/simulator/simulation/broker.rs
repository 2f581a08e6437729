//! A broker under the router: it confirms later, and as its [`Faults`] say it refuses, revokes, loses and fails.
//!
//! What it tells the node comes in one stream, as over one connection: a confirmation before the first message, a gap before
//! what came after the loss.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::counters::RelayCounters;
use tidegate::limits::Limits;
use tidegate::model::{AckLevel, GapReason, Publication, RoomName};
use tidegate::relay::interest::RoomKey;
use tidegate::relay::testing::{BusEffect, Router};
use tidegate::relay::{AckToken, Port, ToRelay};

use super::dice::Dice;
use super::oracle::Oracle;
use super::plan::Faults;

/// A publication on its way to the broker, and where its acknowledgement goes.
struct Outgoing {
    port: u16,
    publication: Publication,
    token: Option<AckToken>,
}

/// What is on its way to the node.
enum Incoming {
    Confirmed(RoomKey),
    Refused(RoomKey),
    Message(RoomKey, Publication),
    Answer(u16, AckToken, Option<AckLevel>),
    Gap(Option<RoomKey>),
}

/// See the module.
pub struct Broker {
    router: Router,
    ports: u16,
    pub faults: Faults,
    begin: Instant,
    now: Instant,
    outgoing: VecDeque<Outgoing>,
    /// Subscriptions without an answer, and when it is due.
    pending: Vec<(RoomKey, RoomName, Instant)>,
    in_force: BTreeMap<RoomName, RoomKey>,
    incoming: VecDeque<Incoming>,
}

impl Broker {
    pub fn new(
        limits: &Limits,
        faults: Faults,
        ports: usize,
        counters: Arc<RelayCounters>,
        now: Instant,
    ) -> (Vec<Port>, Self) {
        let (fence_deadline, linger) = (Duration::from_millis(40), Duration::from_millis(20));
        let limits = Limits { fence_deadline, linger, ..limits.clone() };
        let (all, router) = Router::new(&limits, ports, counters).expect("an eventfd for each port");
        let broker = Self {
            router,
            ports: ports as u16,
            faults,
            begin: now,
            now,
            outgoing: VecDeque::new(),
            pending: Vec::new(),
            in_force: BTreeMap::new(),
            incoming: VecDeque::new(),
        };
        (all, broker)
    }

    pub fn is_quiet(&self) -> bool {
        self.router.is_settled() && self.outgoing.is_empty() && self.pending.is_empty() && self.incoming.is_empty()
    }

    pub fn turn(&mut self, now_ns: u64, dice: &mut Dice, oracle: &mut Oracle) {
        self.now = self.begin + Duration::from_nanos(now_ns);
        let (ports, first) = (self.ports, dice.below(usize::from(self.ports)) as u16);
        for port in (0..ports).map(|n| (first + n) % ports) {
            for _ in 0..dice.below(20) {
                let Some(request) = self.router.take(port) else { break };
                self.take(port, request, dice);
            }
        }
        self.answer_subscriptions(dice);
        self.publish(dice, oracle);
        self.fail(dice);
        for _ in 0..dice.below(30) {
            let Some(incoming) = self.incoming.pop_front() else { break };
            self.arrive(incoming);
            self.carry_out(dice);
        }
        self.router.handle_timeout(self.now);
        self.carry_out(dice);
        self.router.wake_ports();
    }

    fn take(&mut self, port: u16, request: ToRelay, dice: &mut Dice) {
        match request {
            ToRelay::Subscribe(room) => self.router.subscribe(room, port, self.now),
            ToRelay::Unsubscribe(room) => self.router.unsubscribe(&room, port, self.now),
            ToRelay::Publish(publication, token) => self.outgoing.push_back(Outgoing { port, publication, token }),
        }
        self.carry_out(dice);
    }

    fn carry_out(&mut self, dice: &mut Dice) {
        while let Some(effect) = self.router.poll_effect() {
            match effect {
                BusEffect::Subscribe(key, room) => {
                    let due = self.now + Duration::from_millis(dice.below(20) as u64);
                    self.pending.push((key, room, due));
                }
                BusEffect::Unsubscribe(key) => {
                    self.pending.retain(|(pending, ..)| *pending != key);
                    self.in_force.retain(|_, known| *known != key);
                }
            }
        }
    }

    /// A subscription that is not answered at all is refused by the node when its time is up.
    fn answer_subscriptions(&mut self, dice: &mut Dice) {
        for (key, room, due) in std::mem::take(&mut self.pending) {
            if due > self.now {
                self.pending.push((key, room, due));
            } else if !dice.percent(self.faults.refuse) {
                self.in_force.insert(room, key);
                self.incoming.push_back(Incoming::Confirmed(key));
            } else if dice.percent(50) {
                self.incoming.push_back(Incoming::Refused(key));
            } else {
                self.pending.push((key, room, self.now + Duration::from_secs(3_600)));
            }
        }
    }

    fn publish(&mut self, dice: &mut Dice, oracle: &mut Oracle) {
        for _ in 0..dice.below(20) {
            let Some(Outgoing { port, publication, token }) = self.outgoing.pop_front() else { break };
            let taken = !dice.percent(self.faults.fail);
            let mut level = taken.then_some(AckLevel::Broker).filter(|_| !dice.percent(self.faults.fail));
            if taken {
                oracle.ordered(&publication);
                if let Some(key) = self.in_force.get(&publication.room) {
                    self.incoming.push_back(Incoming::Message(*key, publication));
                }
            } else {
                level = None;
                oracle.given_up(&publication);
            }
            if let Some(token) = token {
                self.incoming.push_back(Incoming::Answer(port, token, level));
            }
        }
    }

    /// The connection breaks and all that is on its way is lost, or one room's messages are; a subscription is revoked.
    fn fail(&mut self, dice: &mut Dice) {
        if dice.per_mille(self.faults.lose) {
            for incoming in &mut self.incoming {
                if let Incoming::Answer(.., level) = incoming {
                    *level = None;
                }
            }
            self.incoming.retain(|incoming| !matches!(incoming, Incoming::Message(..)));
            self.incoming.push_back(Incoming::Gap(None));
        }
        let any = dice.below(self.in_force.len());
        let Some((room, key)) = self.in_force.iter().nth(any).map(|(room, key)| (room.clone(), *key)) else { return };
        if dice.per_mille(self.faults.lose) {
            self.incoming.retain(|incoming| !matches!(incoming, Incoming::Message(of, _) if *of == key));
            self.incoming.push_back(Incoming::Gap(Some(key)));
        }
        if dice.per_mille(self.faults.revoke) {
            self.in_force.remove(&room);
            self.incoming.push_back(Incoming::Refused(key));
        }
    }

    fn arrive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Confirmed(key) => self.router.confirm(key, self.now),
            Incoming::Refused(key) => self.router.refuse(key),
            Incoming::Message(key, publication) => self.router.deliver(key, publication),
            Incoming::Answer(port, token, level) => self.router.answer(port, token, level),
            Incoming::Gap(key) => self.router.tell_gap(key, GapReason::Broker),
        }
    }
}
