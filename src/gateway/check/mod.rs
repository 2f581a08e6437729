//! What this host allows a node: the arithmetic over the limits of a [`crate::gateway::host::Host`] ([`capacity()`]) and the table that
//! `tidegate check` shows ([`Report`]).
//!
//! The node uses the same at start: [`capacity()`] for admission and [`MemoryBound`] for its first log line. A [`Watch`] looks at the
//! host again while the node runs. All but that is pure.

pub mod capacity;
pub mod report;
mod watch;

pub use capacity::{
    Bound, Capacity, MemoryBound, capacity, connection_bytes, handshakes_per_shard, host_capacity, most_connections,
    outbox_total_bytes, unfinished_total_bytes,
};
pub use report::{Report, Row};
pub use watch::Watch;

#[cfg(test)]
mod tests;
