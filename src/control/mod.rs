//! Control: the node's admin side, on the main thread.
//!
//! It asks shards through [`Order`]s, reads what they count, and publishes through a relay port of its own. It never
//! touches a connection.

use crate::id::ConnectionId;

/// What control tells a shard.
#[derive(Debug)]
pub enum Order {
    /// Refuse new upgrades with 503 from now on.
    Refuse,
    /// Tell and close every client, each at its moment within the window.
    Drain {
        /// The window in ms.
        window_ms: u32,
    },
    /// Close what is left and end the thread.
    Stop,
    /// Describe the busiest rooms.
    Rooms {
        /// At most this many.
        limit: usize,
        /// Where the answer goes.
        answer: std::sync::mpsc::SyncSender<Vec<RoomInfo>>,
    },
    /// Describe connections.
    Connections {
        /// The ones with the largest outboxes first, else in slab order.
        by_outbox: bool,
        /// At most this many.
        limit: usize,
        /// Where the answer goes.
        answer: std::sync::mpsc::SyncSender<Vec<ConnectionInfo>>,
    },
    /// Close one connection.
    Close {
        /// Which one.
        id: ConnectionId,
        /// Whether it was there.
        answer: std::sync::mpsc::SyncSender<bool>,
    },
}

/// A room on one shard.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RoomInfo {
    /// Its name.
    pub room: String,
    /// Members on the shard.
    pub members: usize,
    /// Publications delivered to it so far.
    pub publications: u64,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: String,
    /// `handshake`, `open` or `closing`.
    pub state: &'static str,
    /// `native`, `raw` or `echo`.
    pub dialect: &'static str,
    /// Rooms joined.
    pub rooms: usize,
    /// Bytes that its outbox pins.
    pub outbox_bytes: usize,
    /// The client's address.
    pub peer: String,
}
