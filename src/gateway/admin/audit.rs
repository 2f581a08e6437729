//! The audit lines of the admin port: which peer changed something, or was refused, with which token.
//!
//! Changes are logged at `info`, refusals at `warn`, publications at `debug`. A token is named by its setting, never by its
//! value. Refusals come from peers without permission, which could fill the log: they are limited, and what was left out is counted in the
//! next line.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::auth::Credential;
use crate::gateway::log;

/// Lines about refused calls in [`WINDOW`].
const REFUSED_LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes of a path that a line shows.
const PATH_BYTES: usize = 256;

/// What a call was, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It reads.
    Read,
    /// It publishes.
    Publish,
    /// It changes the node or a connection.
    Change,
    /// It was not permitted.
    Refused,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) kind: Kind,
    pub(super) peer: SocketAddr,
    pub(super) credential: Credential,
    pub(super) method: &'a str,
    /// Without the query.
    pub(super) path: &'a str,
    pub(super) status: u16,
}

/// Writes the lines.
#[derive(Debug, Default)]
pub(super) struct Audit {
    window: Cell<Option<Instant>>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl Audit {
    /// Logs the call, where its kind is logged.
    pub(super) fn record(&self, call: &Call<'_>, now: Instant) {
        let (peer, token, status) = (log::address(call.peer), &*call.credential.label(), call.status);
        let (method, path) = (call.method, shortened(call.path));
        match call.kind {
            Kind::Read => {}
            Kind::Publish => tracing::debug!(%peer, token, method, path, status, "admin call"),
            Kind::Change => tracing::info!(%peer, token, method, path, status, "admin call"),
            Kind::Refused => {
                if let Some(left_out) = self.admit(now) {
                    tracing::warn!(%peer, token, method, path, status, left_out, "admin call refused");
                }
            }
        }
    }

    /// Whether one more line about a refusal is written, and how many were left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        if self.window.get().is_none_or(|began| now.duration_since(began) >= WINDOW) {
            self.window.set(Some(now));
            self.lines.set(0);
        }
        if self.lines.get() >= REFUSED_LINES {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.left_out.take())
    }
}

fn shortened(path: &str) -> &str {
    // A path is ASCII; one that is not is cut at a character.
    let end = (0..=PATH_BYTES.min(path.len())).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_ten_lines_in_ten_seconds_and_the_next_line_counts_what_was_left_out() {
        let (audit, now) = (Audit::default(), Instant::now());
        let admitted: Vec<_> = (0..25).filter_map(|_| audit.admit(now)).collect();
        assert_eq!(admitted, [0; 10]);
        assert_eq!(audit.admit(now + WINDOW), Some(15));
        assert_eq!(audit.admit(now + WINDOW), Some(0));
    }

    #[test]
    fn a_path_is_shown_to_its_256th_byte() {
        assert_eq!(shortened("/drain"), "/drain");
        assert_eq!(shortened(&"x".repeat(300)).len(), PATH_BYTES);
        assert_eq!(shortened(&"é".repeat(300)).len(), PATH_BYTES);
    }
}
