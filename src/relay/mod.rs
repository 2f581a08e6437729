//! The relay: one thread between this node's shards and the broker; the local bus, where there is no broker.
//!
//! Shards say what they are interested in and what their clients publish ([`ToRelay`]); the relay hands every publication
//! to every shard that has a member of its room, once ([`ToShard`]). With NATS it keeps one subscription per room and node;
//! without, the local bus does the same on one node, on the thread of whoever asks. The rest of the program cannot tell which.
//!
//! It knows no client protocol, never blocks on a shard and never drops silently: what does not fit a mailbox is told as a
//! gap to the rooms concerned.

pub mod envelope;
pub mod fences;
pub mod interest;
pub mod losses;
pub mod ports;
pub mod queue;

#[cfg(feature = "gateway")]
mod hub;
#[cfg(feature = "gateway")]
mod local;
#[cfg(feature = "gateway")]
mod nats;
#[cfg(feature = "gateway")]
mod post;
#[cfg(feature = "gateway")]
mod thread;

use std::sync::Arc;

use bytes::Bytes;

#[cfg(feature = "gateway")]
pub use thread::{Handle, Options, Port, start};

use crate::id::ConnectionId;

/// A room's name: valid by [`valid_room`].
pub type RoomName = Arc<str>;

/// What a payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Valid JSON text.
    Json,
    /// UTF-8 that need not be JSON.
    Text,
    /// Any bytes.
    Binary,
}

/// One message accepted into one room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// The room.
    pub room: RoomName,
    /// What the payload is. Text and Json payloads are valid UTF-8, Json payloads valid JSON: checked at the border.
    pub kind: Kind,
    /// The message.
    pub payload: Bytes,
    /// Who is shown as its sender; absent for backends.
    pub from: Option<ConnectionId>,
    /// Whether the sender gets it too (`echo`).
    pub echo: bool,
    /// When the first gateway (or backend) took it, in ns since 1970.
    pub time_unix_ns: u64,
}

impl Publication {
    /// Bytes that the publication keeps allocated while it waits in a mailbox.
    pub fn pinned_bytes(&self) -> usize {
        size_of::<Self>() + self.payload.len()
    }
}

/// Names a publish in its acknowledgement. The port that sent it chooses the value.
pub type AckToken = u64;

/// What a publisher was promised (G5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckLevel {
    /// The local bus took it.
    Node,
    /// A fence sent through the broker after it came back.
    Broker,
}

/// Why messages may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapReason {
    /// The broker was away, or dropped for us.
    Broker,
    /// A shard's mailbox was full.
    Mailbox,
    /// The connection's outbox dropped its oldest.
    Outbox,
    /// A backend's message was over the limit.
    TooLarge,
}

impl GapReason {
    /// Every reason, in order.
    pub const ALL: [Self; 4] = [Self::Broker, Self::Mailbox, Self::Outbox, Self::TooLarge];

    /// The name in `gap` messages and the metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Mailbox => "mailbox",
            Self::Outbox => "outbox",
            Self::TooLarge => "too-large",
        }
    }
}

/// Why a room cannot be joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// The broker did not confirm the subscription in time, or refused it.
    Unconfirmed,
    /// The node has as many rooms as it may have.
    TooManyRooms,
}

/// From a port (a shard, or control) to the relay.
#[derive(Debug)]
pub enum ToRelay {
    /// The shard wants the room; [`ToShard::Joined`] or [`ToShard::Refused`] answers, exactly once each.
    Subscribe(RoomName),
    /// The shard has no member of the room any more. No answer.
    Unsubscribe(RoomName),
    /// A publication, and where its acknowledgement goes.
    Publish(Publication, Option<AckToken>),
}

impl ToRelay {
    /// What the mailbox may be charged with for this item; the relay releases as much once it has taken the item.
    pub fn pinned_bytes(&self) -> usize {
        match self {
            Self::Publish(publication, _) => publication.pinned_bytes(),
            _ => 0,
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
    Acked(AckToken, AckLevel),
    /// The publish was not taken, or nobody knows (`unavailable`).
    Failed(AckToken),
}

impl ToShard {
    /// What the mailbox is charged with for this item; its reader releases as much once it has taken the item.
    pub fn pinned_bytes(&self) -> usize {
        match self {
            Self::Deliver(publication) => publication.pinned_bytes(),
            _ => 0,
        }
    }
}

const _: () =
    assert!(size_of::<ToShard>() + size_of::<ToRelay>() <= crate::limits::MAILBOX_ITEM_BYTES, "a place is counted");

/// Why a room's name is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRoom {
    /// No bytes, or more than [`crate::limits::ROOM_NAME_BYTES`].
    Length,
    /// A byte that is not printable ASCII, or space, `*`, `>`, `"`, `\`.
    Character,
    /// An empty token: a leading, trailing or double dot.
    EmptyToken,
    /// A leading `$`.
    Dollar,
}

impl BadRoom {
    /// The rule that is broken, in words.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Length => "a room's name has 1 to 200 bytes",
            Self::Character => "a room's name is printable ASCII without space, *, >, \" and \\",
            Self::EmptyToken => "a room's name has no leading, trailing or double dot",
            Self::Dollar => "a room's name does not begin with $",
        }
    }
}

impl std::fmt::Display for BadRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.rule())
    }
}

/// Checks a room's name: always a valid broker subject token list, with nothing to inject.
///
/// # Errors
/// What is wrong with it.
pub fn valid_room(name: &str) -> Result<(), BadRoom> {
    if name.is_empty() || name.len() > crate::limits::ROOM_NAME_BYTES {
        return Err(BadRoom::Length);
    }
    if !name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'>' | b'"' | b'\\')) {
        return Err(BadRoom::Character);
    }
    if name.starts_with('$') {
        return Err(BadRoom::Dollar);
    }
    if name.split('.').any(str::is_empty) {
        return Err(BadRoom::EmptyToken);
    }
    Ok(())
}
