//! What goes wrong for hours, or for thousands of rooms at once, is logged now and then and not each time.

use std::time::{Duration, Instant};

/// A window: the same line is logged once in it.
const WINDOW: Duration = Duration::from_secs(30);
/// Different lines in a window.
const LINES_PER_WINDOW: u32 = 10;

/// What was logged in the current window.
#[derive(Default)]
pub(super) struct Complaints {
    window: Option<Instant>,
    lines: u32,
    last: String,
    left_out: u64,
}

impl Complaints {
    /// Logs a line, unless it is the last one again or there were many.
    pub(super) fn warn(&mut self, text: String, now: Instant) {
        if self.allows(&text, now) {
            tracing::warn!(left_out = std::mem::take(&mut self.left_out), "{text}");
            self.last = text;
        } else {
            self.left_out += 1;
        }
    }

    /// What was wrong is over: the next complaint is logged whatever it says.
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
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        for attempt in 0..100 {
            complaints.warn(String::from("unreachable"), now + WINDOW * attempt / 100);
        }
        assert_eq!((complaints.lines, complaints.left_out), (1, 99));
        assert!(complaints.allows("unreachable", now + WINDOW), "and again in the next");
    }

    #[test]
    fn a_thousand_different_lines_are_a_few() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        for room in 0..1000 {
            complaints.warn(format!("room {room} is forbidden"), now);
        }
        assert_eq!(complaints.left_out, 1000 - u64::from(LINES_PER_WINDOW));
    }
}
