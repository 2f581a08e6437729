//! The router: the ports of a relay and the interest table between them, the same for every broker.
//!
//! What the table answers goes to the ports at once, so that a confirmation stands before the first message of its room. What
//! only a broker can do waits in order for [`super::Relay::apply`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::interest::{Effect, Interest, RoomKey};
use super::nodes::NodeTarget;
use super::outlet::{Mailbox, Outlet};
use super::ports::PortIndex;
use super::{JoinError, ToShard};
use crate::counters::{DropReason, RelayCounters};
use crate::limits;
use crate::model::{GapReason, Publication, RoomName};

/// What the broker has to do.
#[derive(Debug)]
pub(super) enum BrokerEffect {
    /// Subscribe the room, then confirm it.
    Subscribe(RoomKey, RoomName),
    /// End the room's subscription.
    Unsubscribe(RoomKey),
    /// Send a message on the node channel.
    ToNodes(NodeTarget, Bytes),
}

/// Ports and interest.
pub(super) struct Router<M> {
    pub(super) interest: Interest,
    pub(super) counters: Arc<RelayCounters>,
    outlets: Vec<Outlet<M>>,
    broker_effects: VecDeque<BrokerEffect>,
    /// Joins of all ports that were passed on and have no answer yet.
    open_joins: usize,
    /// Ports with something that did not fit.
    behind: bool,
    full: Full,
}

/// Whether a room was refused because the node has all the rooms that it may have: logged once.
enum Full {
    Never,
    Unlogged,
    Logged,
}

impl<M: Mailbox> Router<M> {
    pub(super) fn new(outlets: Vec<Outlet<M>>, interest: Interest, counters: Arc<RelayCounters>) -> Self {
        Self {
            interest,
            counters,
            outlets,
            broker_effects: VecDeque::new(),
            open_joins: 0,
            behind: false,
            full: Full::Never,
        }
    }

    /// Whether a port can be given the answer to one more join.
    pub(super) fn takes_join(&mut self, port: PortIndex) -> bool {
        self.open_joins < limits::JOINS_OPEN_TOTAL && self.outlets[usize::from(port)].takes_join()
    }

    /// A port wants a room.
    pub(super) fn subscribe(&mut self, room: RoomName, port: PortIndex, now: Instant) {
        self.outlets[usize::from(port)].begin_join();
        self.open_joins += 1;
        self.interest.handle_subscribe(room, port, now);
        self.settle();
    }

    /// A port has no member of a room any more.
    pub(super) fn unsubscribe(&mut self, room: &str, port: PortIndex, now: Instant) {
        self.interest.handle_unsubscribe(room, port, now);
        self.settle();
    }

    /// The broker has the subscription.
    pub(super) fn confirm(&mut self, key: RoomKey, now: Instant) {
        self.interest.confirm(key, now);
        self.settle();
    }

    /// The broker refused the subscription, or revoked it.
    pub(super) fn refuse(&mut self, key: RoomKey) {
        self.interest.refuse(key);
        self.settle();
    }

    /// Refuses what was not confirmed in time and ends what lingered.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.interest.handle_timeout(now);
        self.settle();
    }

    /// The next thing that the broker has to do.
    pub(super) fn poll_broker_effect(&mut self) -> Option<BrokerEffect> {
        self.broker_effects.pop_front()
    }

    /// Hands a publication to every port that subscribed the room, once.
    pub(super) fn deliver(&mut self, key: RoomKey, publication: Publication) {
        self.counters.messages_in.add(1);
        let Some((_, ports)) = self.interest.subscribers(key) else { return };
        let publication = Arc::new(publication);
        for port in ports.iter() {
            if !self.outlets[usize::from(port)].deliver(&publication) {
                self.behind = true;
                self.dropped(DropReason::Mailbox, 1);
            }
        }
    }

    /// Tells a gap of one room to the ports that subscribed it.
    pub(super) fn tell_gap(&mut self, key: RoomKey, reason: GapReason) {
        let Some((room, ports)) = self.interest.subscribers(key) else { return };
        for port in ports.iter() {
            let outlet = &mut self.outlets[usize::from(port)];
            outlet.tell_gap(Some(room), reason);
            self.behind |= outlet.is_behind();
        }
    }

    /// Tells a gap of all rooms to every shard. The last port is the admin thread's, which has no rooms.
    pub(super) fn tell_gap_to_all(&mut self, reason: GapReason) {
        let shards = self.outlets.len().saturating_sub(1);
        for outlet in &mut self.outlets[..shards] {
            outlet.tell_gap(None, reason);
            self.behind |= outlet.is_behind();
        }
    }

    /// Tells a port something that must not be lost.
    pub(super) fn tell(&mut self, port: PortIndex, item: ToShard) {
        let outlet = &mut self.outlets[usize::from(port)];
        outlet.tell(item);
        self.behind |= outlet.is_behind();
    }

    /// A port has a message for other nodes.
    pub(super) fn send_to_nodes(&mut self, to: NodeTarget, message: Bytes) {
        self.broker_effects.push_back(BrokerEffect::ToNodes(to, message));
    }

    /// Hands a message of the node channel to the last port, the admin thread's, if it has room.
    pub(super) fn tell_admin(&mut self, message: &[u8]) {
        if let Some(outlet) = self.outlets.last_mut() {
            outlet.offer(message);
        }
    }

    /// Counts drops.
    pub(super) fn dropped(&self, reason: DropReason, messages: u64) {
        self.counters.dropped[reason as usize].add(messages);
    }

    /// Ends a batch: brings what did not fit where there is room now, and wakes each port once.
    pub(super) fn wake_ports(&mut self) {
        if self.behind {
            self.behind = false;
            for outlet in &mut self.outlets {
                self.behind |= !outlet.catch_up();
            }
        }
        for outlet in &mut self.outlets {
            outlet.wake();
        }
    }

    /// Refuses a join that was never passed on.
    pub(super) fn refuse_waiting(&mut self, port: PortIndex, room: RoomName) {
        self.tell(port, ToShard::Refused(room, JoinError::Unconfirmed));
    }

    /// Whether a port waits for room; then [`Router::wake_ports`] is due again soon.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Writes the depth of every mailbox into the counters.
    pub(super) fn measure(&mut self) {
        for (outlet, depth) in self.outlets.iter_mut().zip(&self.counters.mailbox_depth) {
            depth.set(outlet.depth() as u64);
        }
    }

    /// Whether a room was refused because there are too many; says so once.
    pub(super) fn take_full(&mut self) -> bool {
        let unlogged = matches!(self.full, Full::Unlogged);
        if unlogged {
            self.full = Full::Logged;
        }
        unlogged
    }

    /// Answers the ports, and keeps what the broker has to do.
    fn settle(&mut self) {
        while let Some(effect) = self.interest.poll_effect() {
            match effect {
                Effect::Joined(port, room) => self.answer_join(port, ToShard::Joined(room)),
                Effect::Refused(port, room, error) => self.refuse_port(port, room, error),
                Effect::Revoked(port, room) => self.tell(port, ToShard::Revoked(room)),
                Effect::Subscribe(key, room) => self.broker_effects.push_back(BrokerEffect::Subscribe(key, room)),
                Effect::Unsubscribe(key) => self.broker_effects.push_back(BrokerEffect::Unsubscribe(key)),
            }
        }
        self.counters.subscriptions.set(self.interest.len() as u64);
    }

    fn refuse_port(&mut self, port: PortIndex, room: RoomName, error: JoinError) {
        if error == JoinError::TooManyRooms && matches!(self.full, Full::Never) {
            self.full = Full::Unlogged;
        }
        self.answer_join(port, ToShard::Refused(room, error));
    }

    fn answer_join(&mut self, port: PortIndex, item: ToShard) {
        self.open_joins -= 1;
        let outlet = &mut self.outlets[usize::from(port)];
        outlet.answer_join(item);
        self.behind |= outlet.is_behind();
    }
}
