//! One client: the 64-byte entry that it costs, what waits to be sent to it, and when it is due for a look.
//!
//! ```text
//!  accept        101 sent                 close frame sent          FIN sent             EOF or deadline
//!    │               │                          │                      │                      │
//!    ▼               ▼                          ▼                      ▼                      ▼
//! Handshaking ──▶  Open  ──────────────────▶ Closing ─────────────▶ Lingering ──────────▶ (released)
//!    │                     the peer's close frame: echoed, then FIN ───▲
//!    └──── refused: the answer, then FIN ──────────────────────────────┘
//! ```
//!
//! An end is decided before it is carried out: in between, a connection is `Ending`, and nothing more is sent to it.
//!
//! The shard drives it. A connection knows no room (only that it has memberships), no socket (only its number) and no
//! clock: time comes in as [`Tick`]s.

mod entry;
mod outbox;
mod slab;
mod sweep;

pub use entry::{Entry, Flags, Membership, Rooms, State, WAITING};
pub use outbox::{Account, COPIED_BYTES, Chunk, Dropped, Frames, Moment, Outbox, Overflow, PIECE_BYTES, Sent, Tag};
pub use slab::{Connections, Handle};
pub use sweep::{Due, Heartbeat, Slices, due};

/// The shard's time: tenths of a second of the monotonic clock, counted by its sweeps.
///
/// A shard that was stopped for a minute counts few ticks, not six hundred: no client times out because *we* slept.
pub type Tick = u32;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 10;

/// What a bucket that gains `rate` a second gains between two ticks. The shard's clock says which tick brings what a second
/// has left over: any ten ticks in a row bring the whole rate, and no bucket keeps a remainder.
pub fn gained(since: Tick, now: Tick, rate: u32) -> u64 {
    let until = |tick| u64::from(tick) * u64::from(rate) / u64::from(TICKS_PER_SECOND);
    until(now) - until(since.min(now))
}

/// A duration in ticks, rounded up.
pub fn ticks(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(100)).unwrap_or(u32::MAX / 2)
}
