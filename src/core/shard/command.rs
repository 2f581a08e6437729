//! Commands from the admin side: drain, stop, and queries of rooms and connections.
//!
//! A query carries the function that takes its reply; dropped without a call, there is none.

use std::fmt;
use std::sync::Arc;

use super::looks::Look;
use super::{Options, Shard};
use crate::close::{CloseReason, Refusal};
use crate::connection::{Handle, ticks};
use crate::model::ConnectionId;
use crate::shard::driver::Driver;

/// A one-shot reply: takes one value, on the shard's thread, and must not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// What a shard is told to do.
pub enum Command {
    /// Refuse new upgrades with 503 from now on.
    Refuse,
    /// Tell and close every client, each at its moment within the window.
    Drain {
        /// The window in ms.
        window_ms: u32,
    },
    /// Take a drain back: grant upgrades again, and keep the clients that are not told yet.
    Resume,
    /// Close what is left and end the thread.
    Stop,
    /// Go on with other options: a reload, or other keys. What is there already is held to them, over several turns.
    Options(Arc<Options>),
    /// Describe the busiest rooms. The shard looks at them over several turns: one that begins or ends meanwhile is counted in or
    /// out. Where 64 such queries wait already, this one is dropped.
    Rooms {
        /// At most this many.
        limit: usize,
        /// Takes the rooms, the busiest first.
        reply: Reply<Vec<RoomInfo>>,
    },
    /// Describe connections. The shard looks at them over several turns: one that comes or goes meanwhile is counted in or out.
    /// Where 64 such queries wait already, this one is dropped.
    Connections {
        /// The ones with the largest outboxes first, else in slab order.
        by_outbox: bool,
        /// At most this many.
        limit: usize,
        /// Takes the connections.
        reply: Reply<Vec<ConnectionInfo>>,
    },
    /// Close one connection.
    Close {
        /// The connection.
        id: ConnectionId,
        /// Takes whether it was there and open.
        reply: Reply<bool>,
    },
}

/// Without the replies, which are functions.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("Refuse"),
            Self::Drain { window_ms } => write!(f, "Drain {{ window_ms: {window_ms} }}"),
            Self::Resume => f.write_str("Resume"),
            Self::Stop => f.write_str("Stop"),
            Self::Options(_) => f.write_str("Options"),
            Self::Rooms { limit, .. } => write!(f, "Rooms {{ limit: {limit} }}"),
            Self::Connections { by_outbox, limit, .. } => {
                write!(f, "Connections {{ by_outbox: {by_outbox}, limit: {limit} }}")
            }
            Self::Close { id, .. } => write!(f, "Close {{ id: {id} }}"),
        }
    }
}

/// A room, on one shard or (merged) on the node.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RoomInfo {
    /// Its name.
    pub room: String,
    /// Members.
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
    /// The dialect's name.
    pub dialect: &'static str,
    /// Rooms joined.
    pub rooms: usize,
    /// Bytes that its outbox pins.
    pub outbox_bytes: usize,
    /// The client's address.
    pub peer: String,
}

impl<D: Driver> Shard<D> {
    /// Carries out a command.
    pub fn handle_command(&mut self, command: Command) {
        match command {
            Command::Refuse => self.admission.refuse_upgrades(),
            Command::Drain { window_ms } => {
                let window = ticks(std::time::Duration::from_millis(u64::from(window_ms)));
                self.admission.begin_drain(&self.turn, window);
            }
            Command::Resume => self.admission.end_drain(),
            Command::Stop => self.stopped = true,
            Command::Options(options) => self.begin_review(options),
            Command::Rooms { limit, reply } => self.looks.begin(Look::at_rooms(limit, reply)),
            Command::Connections { by_outbox, limit, reply } => {
                self.looks.begin(Look::at_connections(by_outbox, limit, reply));
            }
            Command::Close { id, reply } => {
                let closed = self.close_by_id(id);
                reply(closed);
            }
        }
        self.settle();
    }

    /// Closes whatever is left, telling it: the thread ends. All in one go, because no turn follows, and a drain has left few.
    pub fn close_all(&mut self) {
        for index in 0..self.clients.end() {
            let Some(handle) = self.clients.handle_at(index) else { continue };
            self.clients.refuse(&mut self.turn, handle, Refusal::Draining);
            self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::Drain);
            self.clients.gone(&mut self.turn, handle, CloseReason::Drain);
            self.settle();
        }
    }

    fn close_by_id(&mut self, id: ConnectionId) -> bool {
        let handle = Handle { index: id.index, generation: id.generation };
        if self.turn.id(handle) != id || !self.clients.is_open(handle) {
            return false;
        }
        self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::Operator);
        true
    }
}
