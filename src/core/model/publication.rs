//! A publication: one message accepted into one room.

use bytes::Bytes;

use super::{ConnectionId, RoomName};

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
    /// The connection that is shown as the sender; absent for backends.
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
