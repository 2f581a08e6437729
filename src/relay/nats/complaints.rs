//! What goes wrong for hours is logged now and then, not at every attempt.

use std::time::{Duration, Instant};

/// Between two lines that say the same.
const REPEAT: Duration = Duration::from_secs(30);

/// The last complaint and when it was logged.
#[derive(Default)]
pub(super) struct Complaints {
    last: Option<(String, Instant)>,
    left_out: u64,
}

impl Complaints {
    /// Logs a line, unless it is the last one again and that was a short time ago.
    pub(super) fn warn(&mut self, text: String, now: Instant) {
        let repeated = self.last.as_ref().is_some_and(|(last, at)| *last == text && now < *at + REPEAT);
        if repeated {
            self.left_out += 1;
            return;
        }
        tracing::warn!(left_out = self.left_out, "{text}");
        self.left_out = 0;
        self.last = Some((text, now));
    }

    /// What was wrong is over: the next complaint is logged whatever it says.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
