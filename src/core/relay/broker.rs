//! The interface of a broker: what the relay asks of it ([`Broker`]), and what it tells the relay ([`Sink`]).
//!
//! A broker hides its connection: it connects again by itself, finds out what was lost, and says so. `docs/new-broker.md` is
//! the guide to writing one.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::PublishError;
use super::interest::{Interest, RoomKey};
use super::nodes::NodeTarget;
use super::publish_queue::{Outgoing, Publisher, Ticket};
use crate::counters::DropReason;
use crate::model::{AckLevel, GapReason, Publication, RoomName};

/// Carries publications between nodes, or on the local bus between the shards of one.
///
/// The relay's loop calls [`Broker::poll`], then passes the ports' requests on, then calls [`Broker::flush`]; then it sleeps
/// until the context's waker, a request or [`Broker::next_deadline`] wakes it. No call waits.
pub trait Broker {
    /// Its name, as the configuration says it.
    const NAME: &'static str;

    /// Whether it has tasks of its own, which run on the relay's thread. One that has none answers before a call returns: the
    /// relay's requests are then applied one by one, by the thread that asks, under the relay's lock.
    const NEEDS_RUNTIME: bool;

    /// Tells the sink what happened, in the order in which clients must hear it: a confirmation before the first message of a
    /// room, a gap before what came after the loss.
    fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S);

    /// Subscribes a room. [`Sink::confirmed`] or [`Sink::refused`] answers; without an answer the relay refuses the room when
    /// its time is up, and unsubscribes it.
    fn subscribe<S: Sink>(&mut self, key: RoomKey, room: &RoomName, now: Instant, sink: &mut S);

    /// Ends a room's subscription: one in force, one that waits for its answer, or one that was refused.
    fn unsubscribe(&mut self, key: RoomKey);

    /// Takes a publication. Where it has a ticket, [`Sink::acknowledged`] or [`Sink::failed`] answers it, once.
    ///
    /// # Errors
    /// The publication, where it is not taken now ([`NotTaken::Busy`]) or never ([`NotTaken::Refused`]).
    fn publish<S: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        item: Outgoing,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), NotTaken>;

    /// Sends a message on the node channel, to every node or one, now or with the next [`Broker::flush`]. One that cannot be sent
    /// then is lost, and none waits for a new connection. Messages of one node arrive in their order, at most once.
    fn send_to_nodes<S: Sink>(&mut self, to: NodeTarget, message: Bytes, sink: &mut S);

    /// Ends a turn: sends what the turn's subscriptions and publications left to send, and gives up what is overdue.
    fn flush<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S);

    /// When the next turn is due at the latest.
    fn next_deadline(&self) -> Option<Instant>;

    /// The node ends: ready once every publication that was taken is answered. With no time `left` it fails those without an
    /// answer, and is ready.
    fn poll_finish<S: Sink>(&mut self, cx: &mut Context<'_>, left: Duration, sink: &mut S) -> Poll<()>;
}

/// A publication that a broker did not take.
#[derive(Debug)]
pub enum NotTaken {
    /// The broker takes none now, and wakes the loop when it does: the relay keeps it, bounded in number, bytes and age.
    Busy(Outgoing),
    /// The broker does not take this one: its publisher ([`Outgoing::publisher`]) is told why.
    Refused(Publisher, PublishError),
}

/// The relay, as a broker sees it. Keys of subscriptions that have ended do nothing.
pub trait Sink {
    /// The interest table: the key of a room's name, the name of a key, and whether it was confirmed.
    fn interest(&self) -> &Interest;

    /// The broker is connected, or it is not.
    fn connected(&mut self, up: bool);

    /// The broker takes payloads of at most so many bytes; larger publications are refused before they reach it.
    fn payload_limit(&mut self, bytes: usize);

    /// How long the broker took to answer, for the metric.
    fn round_trip(&mut self, time: Duration);

    /// The subscription is in force: what is published from now on is delivered.
    fn confirmed(&mut self, key: RoomKey, now: Instant);

    /// The subscription will not come into force, or it was in force and is no more.
    fn refused(&mut self, key: RoomKey);

    /// A message of a room arrived.
    fn message(&mut self, key: RoomKey, publication: Publication);

    /// A message arrived on the node channel, one that this node sent to all included.
    fn node_message(&mut self, message: &[u8]);

    /// Whether the broker lets this node use the node channel, from now on; until it says so, it does.
    fn node_channel(&mut self, is_open: bool);

    /// Messages of a room, or with `None` of every room, may be missing: a gap. `messages` is how many are known to be lost,
    /// for the metric.
    fn lost(&mut self, key: Option<RoomKey>, reason: GapReason, messages: u64);

    /// A message of a room that must not be delivered, which is no loss to its members: it is counted.
    fn refused_message(&mut self, reason: DropReason);

    /// The publication was taken, as `level` says.
    fn acknowledged(&mut self, ticket: Ticket, level: AckLevel);

    /// The publication was not taken, or that is not known.
    fn failed(&mut self, ticket: Ticket);
}
