//! What this host allows a node: the arithmetic over the limits of a [`crate::gateway::host::Host`] ([`capacity()`]) and the table that
//! `tidegate check` shows ([`Report`]).
//!
//! The node uses the same at start: [`capacity()`] for admission and [`MemoryBound`] for its first log line. Pure.

pub mod capacity;
pub mod report;

pub use capacity::{
    Bound, Capacity, MemoryBound, capacity, connection_bytes, outbox_total_bytes, unfinished_total_bytes,
};
pub use report::{Report, Row};

#[cfg(test)]
mod tests;
