//! What ports (shards, the admin thread) and the relay say to each other.

use std::sync::Arc;

use bytes::Bytes;

use super::nodes::NodeTarget;
use crate::model::{AckLevel, ConnectionId, GapReason, Publication, RoomName};

/// Names a publish in its acknowledgement. The port that sent it chooses the value.
pub type AckId = u64;

/// Why a room cannot be joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// The broker did not confirm the subscription in time, or refused it.
    Unconfirmed,
    /// The node has as many rooms as it may have.
    TooManyRooms,
}

/// Why a publication was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PublishError {
    /// The broker did not take it in time, or that is not known: temporary, it may be published again.
    Unavailable,
    /// It is larger than the broker takes ([`crate::counters::RelayCounters::message_bytes`]): permanent, it will never be taken.
    TooLarge,
}

/// From a port (a shard, or the admin thread) to the relay.
#[derive(Debug)]
pub enum ToRelay {
    /// The shard wants the room; it is answered exactly once, by [`ToShard::Joined`] or [`ToShard::Refused`].
    Subscribe(RoomName),
    /// The shard has no member of the room any more. No answer.
    Unsubscribe(RoomName),
    /// A publication, and where its acknowledgement goes.
    Publish(Publication, Option<AckId>),
    /// A message on the node channel. No answer.
    ToNodes(NodeTarget, Bytes),
}

impl ToRelay {
    /// What the mailbox may be charged with for this item; the relay releases as much once it has taken the item.
    pub fn pinned_bytes(&self) -> usize {
        match self {
            Self::Publish(publication, _) => publication.pinned_bytes(),
            Self::ToNodes(_, message) => message.len(),
            Self::Subscribe(_) | Self::Unsubscribe(_) => 0,
        }
    }
}

/// From the relay to a port.
#[derive(Debug)]
pub enum ToShard {
    /// A publication of a room that the shard subscribed.
    Deliver(Arc<Publication>),
    /// The broker knows of the subscription: what is published from now on is delivered after this.
    Joined(RoomName),
    /// The shard is not subscribed.
    Refused(RoomName, JoinError),
    /// The broker ended a subscription that was in force: the shard is not subscribed any more. One that the shard asked for since
    /// then has an answer of its own.
    Revoked(RoomName),
    /// Publications of these rooms may be missing; `None` is every room of the shard.
    Gap(Option<Vec<RoomName>>, GapReason),
    /// The publish was taken.
    Acked(AckId, AckLevel),
    /// The publish was not taken, or that is not known.
    Failed(AckId, PublishError),
    /// A publication of this connection that asked for no acknowledgement was not taken. Told once a second for each connection and
    /// reason, however many they are.
    NotPublished(ConnectionId, PublishError),
    /// A message on the node channel; only the admin thread gets them.
    FromNodes(Box<[u8]>),
}

impl ToShard {
    /// What the mailbox is charged with for this item; its reader releases as much once it has taken the item.
    pub fn pinned_bytes(&self) -> usize {
        match self {
            Self::Deliver(publication) => publication.pinned_bytes(),
            Self::FromNodes(message) => message.len(),
            Self::Joined(_)
            | Self::Refused(..)
            | Self::Revoked(_)
            | Self::Gap(..)
            | Self::Acked(..)
            | Self::Failed(..)
            | Self::NotPublished(..) => 0,
        }
    }
}

const _: () =
    assert!(size_of::<ToShard>() + size_of::<ToRelay>() <= crate::limits::MAILBOX_ITEM_BYTES, "a place is counted");
