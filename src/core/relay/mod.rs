//! The relay: what is between this node's shards and the broker, or the local bus where there is no broker. Pure: no
//! runtime, no socket, no clock, no log.
//!
//! Shards say what they are interested in and what their clients publish ([`ToRelay`]); the relay hands every publication to
//! every shard that has a member of its room, once ([`ToShard`]). Two sides drive it, never at the same time:
//!
//! ```text
//!           handle_request() ┌───────┐ apply(): subscribe, unsubscribe, publish ┌────────┐
//!   ports ─────────────────► │       │ ───────────────────────────────────────► │        │
//!                            │ Relay │                                          │ Broker │
//!         ◄───────────────── │       │ ◄─────────────────────────────────────── │        │
//!                  mailboxes └───────┘      Sink: confirmed, message, lost, …   └────────┘
//! ```
//!
//! What a broker tells through [`Sink`] is in the mailboxes when the call returns, in the order of the calls; what it makes
//! the relay ask of the broker waits for [`Relay::apply`]. So a broker is never called from within its own call.
//!
//! The relay knows no client protocol and no broker, never blocks on a shard and never drops silently: a publication that
//! does not fit a mailbox is a gap to the rooms concerned.

mod broker;
pub mod envelope;
pub mod interest;
mod messages;
mod outlet;
pub mod ports;
pub mod publish_queue;
mod router;
#[cfg(test)]
mod test_mailbox;

use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

pub use broker::{Broker, NotTaken, Sink};
pub use messages::{AckId, JoinError, ToRelay, ToShard};
pub use outlet::{Mailbox, Outlet};

use crate::counters::{DropReason, RelayCounters};
use crate::model::{AckLevel, GapReason, Publication};
use interest::{Bounds, Interest, RoomKey};
use ports::PortIndex;
use publish_queue::{Outgoing, PublishQueue, Ticket};
use router::{BrokerEffect, Router};

/// The router with the ports' mailboxes, and the publications that wait for the broker.
pub struct Relay<M> {
    router: Router<M>,
    publishes: PublishQueue,
}

impl<M: Mailbox> Relay<M> {
    /// A relay with a port for each outlet, the last of which is the admin thread's. A publication that the broker has not taken after
    /// `max_age` is given up.
    pub fn new(outlets: Vec<Outlet<M>>, bounds: Bounds, max_age: Duration, counters: Arc<RelayCounters>) -> Self {
        Self { router: Router::new(outlets, Interest::new(bounds), counters), publishes: PublishQueue::new(max_age) }
    }

    /// A port asks. [`Relay::apply`] passes on what only the broker can do.
    pub fn handle_request(&mut self, port: PortIndex, request: ToRelay, now: Instant) {
        match request {
            ToRelay::Subscribe(room) => self.router.subscribe(room, port, now),
            ToRelay::Unsubscribe(room) => self.router.unsubscribe(&room, port, now),
            ToRelay::Publish(publication, ack) => {
                let ticket = ack.map(|ack| Ticket { port, ack });
                if let Err(item) = self.publishes.push(Outgoing { publication, ticket, since: now }) {
                    self.give_up(item.ticket);
                }
            }
        }
    }

    /// Refuses rooms that were not confirmed in time, ends those that lingered, and gives up publications that are too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.router.handle_timeout(now);
        while let Some(item) = self.publishes.poll_expired(now) {
            self.give_up(item.ticket);
        }
    }

    /// When to call [`Relay::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.router.interest.poll_timeout().into_iter().chain(self.publishes.poll_timeout()).min()
    }

    /// Passes on to the broker what requests, timeouts and the broker's own news asked of it, and as many publications as it
    /// takes.
    pub fn apply<B: Broker>(&mut self, broker: &mut B, cx: &mut Context<'_>, now: Instant) {
        self.apply_effects(broker, now);
        while let Some(item) = self.publishes.pop() {
            if !self.publish(item, broker, cx, now) {
                return;
            }
        }
    }

    /// [`Relay::handle_request`] and [`Relay::apply`] in one, for a broker that answers before a call returns: a publication then
    /// goes through no queue.
    #[inline]
    pub fn execute<B: Broker>(
        &mut self,
        port: PortIndex,
        request: ToRelay,
        broker: &mut B,
        cx: &mut Context<'_>,
        now: Instant,
    ) {
        match request {
            ToRelay::Publish(publication, ack) if self.publishes.is_empty() => {
                let ticket = ack.map(|ack| Ticket { port, ack });
                self.publish(Outgoing { publication, ticket, since: now }, broker, cx, now);
            }
            request @ (ToRelay::Subscribe(_) | ToRelay::Unsubscribe(_) | ToRelay::Publish(..)) => {
                self.handle_request(port, request, now);
                self.apply(broker, cx, now);
                // A room that its last port has left ends before the next request, which may need its place.
                if self.poll_timeout().is_some_and(|at| at <= now) {
                    self.handle_timeout(now);
                    self.apply_effects(broker, now);
                }
            }
        }
    }

    /// The same without publications: what [`Broker::flush`] told may ask for it, when it is too late to publish in this turn.
    pub fn apply_effects<B: Broker>(&mut self, broker: &mut B, now: Instant) {
        while let Some(effect) = self.router.poll_broker_effect() {
            match effect {
                BrokerEffect::Subscribe(key, room) => broker.subscribe(key, &room, now, self),
                BrokerEffect::Unsubscribe(key) => broker.unsubscribe(key),
            }
        }
    }

    /// Gives up every publication that waits: the node ends. Says how many they were.
    pub fn give_up_all(&mut self) -> usize {
        let waiting = self.publishes.len();
        while let Some(item) = self.publishes.pop() {
            self.give_up(item.ticket);
        }
        waiting
    }

    /// Publications that the broker has not taken.
    pub fn waiting_publications(&self) -> usize {
        self.publishes.len()
    }

    /// Ends a batch: brings what did not fit a mailbox where there is room now, and wakes each port once.
    pub fn wake_ports(&mut self) {
        self.router.wake_ports();
    }

    /// Whether a port's mailbox was full; then [`Relay::wake_ports`] is due again soon.
    pub fn is_behind(&self) -> bool {
        self.router.is_behind()
    }

    /// Writes the depth of every mailbox into the counters.
    pub fn measure(&mut self) {
        self.router.measure();
    }

    /// Whether a room was refused because the node has all the rooms that it may have; says so once, for the log.
    pub fn take_full(&mut self) -> bool {
        self.router.take_full()
    }

    /// Offers a publication to the broker. Says whether the next one may follow.
    #[inline]
    fn publish<B: Broker>(&mut self, item: Outgoing, broker: &mut B, cx: &mut Context<'_>, now: Instant) -> bool {
        match broker.publish(cx, item, now, self) {
            Ok(()) => self.router.counters.messages_out.add(1),
            Err(NotTaken::Refused(ticket)) => self.give_up(ticket),
            Err(NotTaken::Busy(item)) => {
                self.publishes.hand_back(item);
                return false;
            }
        }
        true
    }

    /// A publication goes no further: the broker did not take it.
    fn give_up(&mut self, ticket: Option<Ticket>) {
        self.router.dropped(DropReason::Unavailable, 1);
        if let Some(ticket) = ticket {
            self.failed(ticket);
        }
    }
}

impl<M: Mailbox> Sink for Relay<M> {
    fn interest(&self) -> &Interest {
        &self.router.interest
    }

    fn connected(&mut self, up: bool) {
        let counters = &self.router.counters;
        counters.connected.set(u64::from(up));
        if up {
            counters.was_connected.set(1);
        }
    }

    fn round_trip(&mut self, time: Duration) {
        self.router.counters.rtt_ns.set(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn confirmed(&mut self, key: RoomKey, now: Instant) {
        self.router.confirm(key, now);
    }

    fn refused(&mut self, key: RoomKey) {
        self.router.refuse(key);
    }

    #[inline]
    fn message(&mut self, key: RoomKey, publication: Publication) {
        self.router.deliver(key, publication);
    }

    fn lost(&mut self, key: Option<RoomKey>, reason: GapReason, messages: u64) {
        let counted = match reason {
            GapReason::Broker => DropReason::Broker,
            GapReason::Mailbox => DropReason::Mailbox,
            GapReason::Outbox => DropReason::Outbox,
            GapReason::TooLarge => DropReason::TooLarge,
        };
        self.router.dropped(counted, messages);
        match key {
            Some(key) => self.router.tell_gap(key, reason),
            None => self.router.tell_gap_to_all(reason),
        }
    }

    fn acknowledged(&mut self, ticket: Ticket, level: AckLevel) {
        self.router.tell(ticket.port, ToShard::Acked(ticket.ack, level));
    }

    fn failed(&mut self, ticket: Ticket) {
        self.router.tell(ticket.port, ToShard::Failed(ticket.ack));
    }
}

#[cfg(test)]
mod tests;
