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
mod joins;
mod messages;
mod nodes;
mod outlet;
pub mod ports;
pub mod publish_queue;
mod router;
#[cfg(test)]
mod test_mailbox;

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

pub use broker::{Broker, NotTaken, Sink};
pub use messages::{AckId, JoinError, PublishError, ToRelay, ToShard};
pub use nodes::NodeTarget;
pub use outlet::{Mailbox, Outlet};

use crate::counters::{DropReason, RelayCounters};
use crate::limits::NODE_MESSAGE_BYTES;
use crate::model::{AckLevel, ConnectionId, GapReason, Publication};
use interest::{Bounds, Interest, RoomKey};
use joins::Joins;
use ports::PortIndex;
use publish_queue::{Outgoing, PublishQueue, Publisher, Ticket};
use router::{BrokerEffect, Router};

/// The router with the ports' mailboxes, and the publications that wait for the broker.
pub struct Relay<M> {
    router: Router<M>,
    joins: Joins,
    publishes: PublishQueue,
    /// Bytes of the largest payload that the node takes (`limits.message_bytes`), and of the largest that its broker takes too.
    message_bytes: usize,
    payload_limit: usize,
    /// Connections that were told since the last measurement that a publication was not taken.
    told: HashSet<(ConnectionId, PublishError)>,
}

/// Connections that are told of lost publications in a second; beyond them none is told, but counted. Each has a place in
/// its shard's mailbox.
const TOLD_CONNECTIONS: usize = 4096;

impl<M: Mailbox> Relay<M> {
    /// A relay with a port for each outlet, the last of which is the admin thread's. A publication that the broker has not taken after
    /// `max_age` is given up.
    pub fn new(outlets: Vec<Outlet<M>>, bounds: Bounds, max_age: Duration, counters: Arc<RelayCounters>) -> Self {
        Self {
            joins: Joins::new(outlets.len(), bounds.confirm_within),
            router: Router::new(outlets, Interest::new(bounds), counters),
            publishes: PublishQueue::new(max_age),
            message_bytes: usize::MAX,
            payload_limit: usize::MAX,
            told: HashSet::new(),
        }
    }

    /// The node takes messages of at most so many bytes (`limits.message_bytes`).
    pub fn limit_messages(&mut self, bytes: usize) {
        self.message_bytes = bytes;
        self.payload_limit(usize::MAX);
    }

    /// A port asks. [`Relay::apply`] passes on what only the broker can do.
    pub fn handle_request(&mut self, port: PortIndex, request: ToRelay, now: Instant) {
        match request {
            ToRelay::Subscribe(room) => {
                self.joins.push(port, room, now);
                self.pass_joins(now);
            }
            ToRelay::Unsubscribe(room) => self.router.unsubscribe(&room, port, now),
            ToRelay::ToNodes(to, message) => self.router.send_to_nodes(to, message),
            ToRelay::Publish(publication, ack) => {
                let ticket = ack.map(|ack| Ticket { port, ack });
                let item = Outgoing { publication, ticket, since: now };
                if item.publication.payload.len() > self.payload_limit {
                    return self.give_up(item.publisher(), PublishError::TooLarge);
                }
                if let Err(item) = self.publishes.push(item) {
                    self.give_up(item.publisher(), PublishError::Unavailable);
                }
            }
        }
    }

    /// Refuses rooms that were not confirmed in time, ends those that lingered, and gives up publications that are too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.router.handle_timeout(now);
        while let Some((port, room)) = self.joins.poll_expired(now) {
            self.router.refuse_waiting(port, room);
        }
        while let Some(item) = self.publishes.poll_expired(now) {
            self.give_up(item.publisher(), PublishError::Unavailable);
        }
    }

    /// When to call [`Relay::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let others = [self.joins.poll_timeout(), self.publishes.poll_timeout()];
        self.router.interest.poll_timeout().into_iter().chain(others.into_iter().flatten()).min()
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
            request @ (ToRelay::Subscribe(_)
            | ToRelay::Unsubscribe(_)
            | ToRelay::Publish(..)
            | ToRelay::ToNodes(..)) => {
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
        self.pass_joins(now);
        while let Some(effect) = self.router.poll_broker_effect() {
            match effect {
                BrokerEffect::Subscribe(key, room) => broker.subscribe(key, &room, now, self),
                BrokerEffect::Unsubscribe(key) => broker.unsubscribe(key),
                BrokerEffect::ToNodes(to, message) => broker.send_to_nodes(to, message, self),
            }
        }
    }

    /// Gives up every publication that waits: the node ends. Says how many they were.
    pub fn give_up_all(&mut self) -> usize {
        let waiting = self.publishes.len();
        while let Some(item) = self.publishes.pop() {
            self.give_up(item.publisher(), PublishError::Unavailable);
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

    /// Whether a port's mailbox was full, or joins wait for room in one; then [`Relay::wake_ports`] is due again soon.
    pub fn is_behind(&self) -> bool {
        self.router.is_behind() || self.joins.len() > 0
    }

    /// Writes the depth of every mailbox into the counters; called once a second.
    pub fn measure(&mut self) {
        self.told.clear();
        self.router.measure();
    }

    /// The relay's thread is alive; `mono_ns` is its monotonic clock.
    pub fn show_sign_of_life(&self, mono_ns: u64) {
        self.router.counters.turning.show(mono_ns);
    }

    /// Whether a room was refused because the node has all the rooms that it may have; says so once, for the log.
    pub fn take_full(&mut self) -> bool {
        self.router.take_full()
    }

    /// Offers a publication to the broker. Says whether the next one may follow.
    #[inline]
    fn publish<B: Broker>(&mut self, item: Outgoing, broker: &mut B, cx: &mut Context<'_>, now: Instant) -> bool {
        // It may have waited while the node came to a broker that takes less.
        if item.publication.payload.len() > self.payload_limit {
            self.give_up(item.publisher(), PublishError::TooLarge);
            return true;
        }
        match broker.publish(cx, item, now, self) {
            Ok(()) => self.router.counters.messages_out.add(1),
            Err(NotTaken::Refused(publisher, error)) => self.give_up(publisher, error),
            Err(NotTaken::Busy(item)) => {
                self.publishes.hand_back(item);
                return false;
            }
        }
        true
    }

    /// Passes on the joins whose answers have room.
    fn pass_joins(&mut self, now: Instant) {
        let Self { joins, router, .. } = self;
        while let Some((port, room)) = joins.pop(|port| router.takes_join(port)) {
            router.subscribe(room, port, now);
        }
    }

    /// A publication goes no further: it is counted, and its publisher is told. A backend that asked for no acknowledgement
    /// cannot be told.
    #[cold]
    fn give_up(&mut self, publisher: Publisher, error: PublishError) {
        self.router.dropped(
            match error {
                PublishError::Unavailable => DropReason::Unavailable,
                PublishError::TooLarge => DropReason::TooLarge,
            },
            1,
        );
        match (publisher.ticket, publisher.connection) {
            (Some(ticket), _) => self.router.tell(ticket.port, ToShard::Failed(ticket.ack, error)),
            (None, Some(connection)) if self.told.len() < TOLD_CONNECTIONS && self.told.insert((connection, error)) => {
                self.router.tell(PortIndex::from(connection.shard), ToShard::NotPublished(connection, error));
            }
            (None, _) => {}
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

    fn payload_limit(&mut self, bytes: usize) {
        self.payload_limit = self.message_bytes.min(bytes);
        self.router.counters.message_bytes.set(u64::try_from(self.payload_limit).unwrap_or(u64::MAX));
    }

    fn round_trip(&mut self, time: Duration) {
        self.router.counters.rtt_ns.set(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn confirmed(&mut self, key: RoomKey, now: Instant) {
        self.joins.handle_progress(now);
        self.router.confirm(key, now);
    }

    fn refused(&mut self, key: RoomKey) {
        self.router.refuse(key);
    }

    #[inline]
    fn message(&mut self, key: RoomKey, publication: Publication) {
        self.router.deliver(key, publication);
    }

    fn node_message(&mut self, message: &[u8]) {
        if message.len() <= NODE_MESSAGE_BYTES {
            self.router.tell_admin(message);
        }
    }

    fn node_channel(&mut self, is_open: bool) {
        self.router.counters.node_channel_forbidden.set(u64::from(!is_open));
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

    fn refused_message(&mut self, reason: DropReason) {
        self.router.dropped(reason, 1);
    }

    fn acknowledged(&mut self, ticket: Ticket, level: AckLevel) {
        self.router.tell(ticket.port, ToShard::Acked(ticket.ack, level));
    }

    fn failed(&mut self, ticket: Ticket) {
        self.router.tell(ticket.port, ToShard::Failed(ticket.ack, PublishError::Unavailable));
    }
}

#[cfg(test)]
mod tests;
