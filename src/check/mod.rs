//! What this host allows: its limits read in one place ([`Host`]), the arithmetic over them ([`capacity()`]) and the table that
//! `tidegate check` shows ([`Report`]).
//!
//! The node uses the same at start: [`raise_nofile`], then [`Host::this`], then [`capacity()`] for admission and [`MemoryBound`]
//! for its first log line. Only [`host`] and [`probe`] touch the system; the rest is pure.

pub mod capacity;
pub mod host;
pub mod probe;
pub mod report;

pub use capacity::{
    Bound, Capacity, MemoryBound, capacity, connection_bytes, outbox_total_bytes, unfinished_total_bytes,
};
pub use host::{Host, raise_nofile};
pub use probe::{ProbeOutcome, io_uring_probe};
pub use report::{Report, Row};

#[cfg(test)]
mod tests;
