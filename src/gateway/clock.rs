//! The process's monotonic clock as a number, for cells that threads share.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// `now` in ns since the clock was first read in this process; never 0, which is "not yet" in a cell.
pub fn monotonic_ns(now: Instant) -> u64 {
    1 + now.saturating_duration_since(*START).as_nanos() as u64
}
