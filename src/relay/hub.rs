//! The hub: the ports of a relay and the interest table between them, the same for every bus.
//!
//! A bus drives it: it hands over what shards asked ([`Hub::request`] answers what the table alone can answer) and what
//! arrived, and takes the effects that only a bus can carry out.

use std::sync::Arc;
use std::time::Instant;

use super::interest::{Effect, Interest, RoomKey};
use super::ports::PortIndex;
use super::post::Post;
use super::{AckToken, JoinError, ToShard};
use crate::counters::{DropReason, RelayCounters};
use crate::model::{AckLevel, GapReason, Publication, RoomName};

/// What the table cannot do itself.
#[derive(Debug)]
pub enum BusEffect {
    /// Subscribe the room, then confirm it.
    Subscribe(RoomKey, RoomName),
    /// End the room's subscription.
    Unsubscribe(RoomKey),
}

/// Ports and interest.
pub(super) struct Hub {
    pub(super) interest: Interest,
    pub(super) counters: Arc<RelayCounters>,
    posts: Vec<Post>,
    /// Ports with something that did not fit.
    behind: bool,
    /// That the node has too many rooms is logged once.
    told_full: bool,
}

impl Hub {
    pub(super) fn new(posts: Vec<Post>, interest: Interest, counters: Arc<RelayCounters>) -> Self {
        Self { interest, counters, posts, behind: false, told_full: false }
    }

    /// The next effect for the bus; answers to ports go out on the way.
    pub(super) fn poll_bus_effect(&mut self) -> Option<BusEffect> {
        while let Some(effect) = self.interest.poll_effect() {
            match effect {
                Effect::Joined(port, room) => self.tell(port, ToShard::Joined(room)),
                Effect::Refused(port, room, error) => self.refuse(port, room, error),
                Effect::Revoked(port, room) => self.tell(port, ToShard::Revoked(room)),
                Effect::Subscribe(key, room) => return Some(BusEffect::Subscribe(key, room)),
                Effect::Unsubscribe(key) => return Some(BusEffect::Unsubscribe(key)),
            }
        }
        self.counters.subscriptions.set(self.interest.len() as u64);
        None
    }

    /// Hands a publication to every port that subscribed the room, once.
    pub(super) fn deliver(&mut self, key: RoomKey, publication: Publication) {
        self.counters.messages_in.add(1);
        let Some((_, ports)) = self.interest.subscribers(key) else { return };
        let publication = Arc::new(publication);
        for port in ports.iter() {
            if !self.posts[usize::from(port)].deliver(&publication) {
                self.behind = true;
                self.dropped(DropReason::Mailbox);
            }
        }
    }

    /// Tells a gap of one room to the ports that subscribed it.
    pub(super) fn tell_gap(&mut self, key: RoomKey, reason: GapReason) {
        let Some((room, ports)) = self.interest.subscribers(key) else { return };
        for port in ports.iter() {
            let post = &mut self.posts[usize::from(port)];
            post.tell_gap(Some(room), reason);
            self.behind |= post.is_behind();
        }
    }

    /// Tells a gap of all rooms to every shard. The last port is control's, which has no rooms.
    pub(super) fn tell_gap_to_all(&mut self, reason: GapReason) {
        let shards = self.posts.len() - 1;
        for post in &mut self.posts[..shards] {
            post.tell_gap(None, reason);
            self.behind |= post.is_behind();
        }
    }

    /// A publish was taken.
    pub(super) fn acked(&mut self, port: PortIndex, token: AckToken, level: AckLevel) {
        self.tell(port, ToShard::Acked(token, level));
    }

    /// A publish was not taken, or nobody knows.
    pub(super) fn failed(&mut self, port: PortIndex, token: AckToken) {
        self.tell(port, ToShard::Failed(token));
    }

    /// Counts a drop.
    pub(super) fn dropped(&self, reason: DropReason) {
        self.counters.dropped[reason as usize].add(1);
    }

    /// Ends a batch: brings what did not fit where there is room now, and wakes each port once.
    pub(super) fn wake_ports(&mut self) {
        if self.behind {
            self.behind = false;
            for post in &mut self.posts {
                self.behind |= !post.catch_up();
            }
        }
        for post in &mut self.posts {
            post.wake();
        }
    }

    /// Whether a port waits for room; then [`Hub::wake_ports`] is due again soon.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Writes the depth of every mailbox into the counters.
    pub(super) fn measure(&mut self) {
        for (post, depth) in self.posts.iter_mut().zip(&self.counters.mailbox_depth) {
            depth.set(post.depth() as u64);
        }
    }

    /// Refuses what was not confirmed in time and ends what lingered.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.interest.handle_timeout(now);
    }

    fn refuse(&mut self, port: PortIndex, room: RoomName, error: JoinError) {
        if error == JoinError::TooManyRooms && !std::mem::replace(&mut self.told_full, true) {
            let rooms = self.interest.len();
            tracing::warn!(
                rooms,
                "the node has all the rooms that it may have: raise limits.rooms_total, or add nodes"
            );
        }
        self.tell(port, ToShard::Refused(room, error));
    }

    fn tell(&mut self, port: PortIndex, item: ToShard) {
        let post = &mut self.posts[usize::from(port)];
        post.tell(item);
        self.behind |= post.is_behind();
    }
}
