//! A rate limit for the log: an error that lasts for hours, or concerns thousands of rooms at once, is logged now and then.

use std::time::{Duration, Instant};

/// A window: the same line is logged once in it.
const WINDOW: Duration = Duration::from_secs(30);
/// Different lines in a window.
const LINES_PER_WINDOW: u32 = 10;

/// What was logged in the current window.
#[derive(Default)]
pub(super) struct LogLimit {
    window: Option<Instant>,
    lines: u32,
    last: String,
    left_out: u64,
}

impl LogLimit {
    /// Logs a line, unless it is the last one again or there were many.
    pub(super) fn warn(&mut self, text: String, now: Instant) {
        self.warn_once(&text.clone(), || text, now);
    }

    /// Logs a line whose words differ, once in a window: `kind` names what is said.
    pub(super) fn warn_once(&mut self, kind: &str, text: impl FnOnce() -> String, now: Instant) {
        if self.allows(kind, now) {
            tracing::warn!(left_out = std::mem::take(&mut self.left_out), "{}", text());
            kind.clone_into(&mut self.last);
        } else {
            self.left_out += 1;
        }
    }

    /// The error is over: the next line is logged whatever it says.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn allows(&mut self, text: &str, now: Instant) -> bool {
        if self.window.is_none_or(|window| now >= window + WINDOW) {
            self.window = Some(now);
            self.lines = 0;
            self.last.clear();
        }
        if text == self.last || self.lines == LINES_PER_WINDOW {
            return false;
        }
        self.lines += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_line_is_logged_once_in_a_window() {
        let (mut log_limit, now) = (LogLimit::default(), Instant::now());
        for attempt in 0..100 {
            log_limit.warn(String::from("unreachable"), now + WINDOW * attempt / 100);
        }
        assert_eq!((log_limit.lines, log_limit.left_out), (1, 99));
        assert!(log_limit.allows("unreachable", now + WINDOW), "and again in the next");
    }

    #[test]
    fn a_thousand_different_lines_are_a_few() {
        let (mut log_limit, now) = (LogLimit::default(), Instant::now());
        for room in 0..1000 {
            log_limit.warn(format!("room {room} is forbidden"), now);
        }
        assert_eq!(log_limit.left_out, 1000 - u64::from(LINES_PER_WINDOW));
    }
}
