//! What is measured, and how.

pub mod alone;
pub mod cpu;
pub mod feed;
pub mod messages;
pub mod own;
pub mod pared;
pub mod relays;
pub mod rooms;

/// Before a room's name in its subject; the default of `nats.prefix`.
pub const ROOM_PREFIX: &str = "tidegate.room.";
/// The core of the relay's thread.
pub const RELAY_CORE: usize = 0;
/// The core of everything else.
pub const OTHER_CORE: usize = 1;
