//! A simulated broker: it confirms later, and as its [`Faults`] say it refuses, revokes, loses and fails.
//!
//! What it tells the relay comes in one stream, as over one connection: a confirmation before the first message, a gap before
//! what came after the loss.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_core::model::{AckLevel, GapReason, Publication, RoomName};
use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::{Outgoing, Ticket};
use tidegate_core::relay::{Broker, NodeTarget, NotTaken, PublishError, Sink};

use super::dice::Dice;
use super::plan::Faults;

/// What is on its way to the node.
enum Incoming {
    Confirmed(RoomKey),
    Refused(RoomKey),
    Message(RoomKey, Publication),
    Answer(Ticket, Option<AckLevel>),
    Gap(Option<RoomKey>),
}

/// What became of a publication that the relay offered, for the oracle.
pub enum Fate {
    /// It has its place in the order.
    Ordered(Publication),
    GivenUp(Publication),
}

/// See the module.
pub struct SimulatedBroker {
    pub faults: Faults,
    /// The world's dice while the relay has its turn.
    pub dice: Dice,
    pub fates: Vec<Fate>,
    /// Publications that it takes until its next turn.
    takes: usize,
    /// Subscriptions without an answer, and when it is due.
    pending: Vec<(RoomKey, RoomName, Instant)>,
    in_force: BTreeMap<RoomName, RoomKey>,
    incoming: VecDeque<Incoming>,
}

impl Broker for SimulatedBroker {
    const NAME: &'static str = "simulated";
    const NEEDS_RUNTIME: bool = true;

    fn poll<S: Sink>(&mut self, _: &mut Context<'_>, now: Instant, sink: &mut S) {
        self.takes = self.dice.below(20);
        self.answer_subscriptions(now);
        self.fail();
        for _ in 0..self.dice.below(30) {
            match self.incoming.pop_front() {
                None => break,
                Some(Incoming::Confirmed(key)) => sink.confirmed(key, now),
                Some(Incoming::Refused(key)) => sink.refused(key),
                Some(Incoming::Message(key, publication)) => sink.message(key, publication),
                Some(Incoming::Answer(ticket, Some(level))) => sink.acknowledged(ticket, level),
                Some(Incoming::Answer(ticket, None)) => sink.failed(ticket),
                Some(Incoming::Gap(key)) => sink.lost(key, GapReason::Broker, 0),
            }
        }
    }

    fn subscribe<S: Sink>(&mut self, key: RoomKey, room: &RoomName, now: Instant, _: &mut S) {
        let due = now + Duration::from_millis(self.dice.below(20) as u64);
        self.pending.push((key, room.clone(), due));
    }

    fn unsubscribe(&mut self, key: RoomKey) {
        self.pending.retain(|(pending, ..)| *pending != key);
        self.in_force.retain(|_, known| *known != key);
    }

    fn publish<S: Sink>(&mut self, _: &mut Context<'_>, item: Outgoing, _: Instant, _: &mut S) -> Result<(), NotTaken> {
        if self.takes == 0 {
            return Err(NotTaken::Busy(item));
        }
        self.takes -= 1;
        let publisher = item.publisher();
        let Outgoing { publication, ticket, .. } = item;
        if self.dice.percent(self.faults.fail) {
            self.fates.push(Fate::GivenUp(publication));
            return Err(NotTaken::Refused(publisher, PublishError::Unavailable));
        }
        self.fates.push(Fate::Ordered(publication.clone()));
        if let Some(key) = self.in_force.get(&publication.room) {
            self.incoming.push_back(Incoming::Message(*key, publication));
        }
        if let Some(ticket) = ticket {
            let level = Some(AckLevel::Broker).filter(|_| !self.dice.percent(self.faults.fail));
            self.incoming.push_back(Incoming::Answer(ticket, level));
        }
        Ok(())
    }

    fn send_to_nodes<S: Sink>(&mut self, to: NodeTarget, message: Bytes, sink: &mut S) {
        if to == NodeTarget::All {
            sink.node_message(&message);
        }
    }

    fn flush<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, _: &mut S) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
        Poll::Ready(())
    }
}

impl SimulatedBroker {
    pub fn new(faults: Faults) -> Self {
        Self {
            faults,
            dice: Dice::new(0),
            fates: Vec::new(),
            takes: 0,
            pending: Vec::new(),
            in_force: BTreeMap::new(),
            incoming: VecDeque::new(),
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.incoming.is_empty()
    }

    /// A subscription that is not answered at all is refused by the relay when its time is up.
    fn answer_subscriptions(&mut self, now: Instant) {
        for (key, room, due) in std::mem::take(&mut self.pending) {
            if due > now {
                self.pending.push((key, room, due));
            } else if !self.dice.percent(self.faults.refuse) {
                self.in_force.insert(room, key);
                self.incoming.push_back(Incoming::Confirmed(key));
            } else if self.dice.percent(50) {
                self.incoming.push_back(Incoming::Refused(key));
            } else {
                self.pending.push((key, room, now + Duration::from_secs(3_600)));
            }
        }
    }

    /// The connection breaks and all that is on its way is lost, or one room's messages are; a subscription is revoked.
    fn fail(&mut self) {
        if self.dice.per_mille(self.faults.lose) {
            for incoming in &mut self.incoming {
                if let Incoming::Answer(_, level) = incoming {
                    *level = None;
                }
            }
            self.incoming.retain(|incoming| !matches!(incoming, Incoming::Message(..)));
            self.incoming.push_back(Incoming::Gap(None));
        }
        let any = self.dice.below(self.in_force.len());
        let Some((room, key)) = self.in_force.iter().nth(any).map(|(room, key)| (room.clone(), *key)) else { return };
        if self.dice.per_mille(self.faults.lose) {
            self.incoming.retain(|incoming| !matches!(incoming, Incoming::Message(of, _) if *of == key));
            self.incoming.push_back(Incoming::Gap(Some(key)));
        }
        if self.dice.per_mille(self.faults.revoke) {
            self.in_force.remove(&room);
            self.incoming.push_back(Incoming::Refused(key));
        }
    }
}
