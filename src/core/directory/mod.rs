//! The directory: what the nodes of a cluster know of each other. Pure: no broker, no clock.
//!
//! Nodes talk over the node channel ([`crate::relay::NodeTarget`]) in [`message`]s. Each says every [`HEARTBEAT_INTERVAL`] that it
//! lives; [`nodes`] is the table that this makes. No client and no backend reads or writes the channel.
//!
//! [`HEARTBEAT_INTERVAL`]: crate::limits::HEARTBEAT_INTERVAL

pub mod message;
pub mod nodes;

pub use message::{Body, Heartbeat, Message};
pub use nodes::{Known, Nodes};
