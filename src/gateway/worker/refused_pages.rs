//! Pages that may not connect, in the log: the developer of a page sees a failed connection and nothing else.
//!
//! One warning a minute for each origin, of all shards together. Any client can send any Origin, so there is a bound on how many are told
//! in a minute.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_core::close::Refusal;
use tidegate_core::shard::RefusedPage;

/// Between two warnings about one origin.
const INTERVAL: Duration = Duration::from_secs(60);
/// Origins that are warned about in one interval.
const ORIGINS: usize = 32;
/// Octets of an origin or a host that are shown.
const SHOWN_BYTES: usize = 200;

static WARNED: LazyLock<Mutex<Warned>> = LazyLock::new(Mutex::default);

/// Warns about a refused page, unless its origin was warned about within a minute.
pub(super) fn warn(page: &RefusedPage, now: Instant) {
    let (origin, host) = (shown(&page.origin), shown(&page.host));
    let is_due = WARNED.lock().unwrap_or_else(PoisonError::into_inner).is_due(&origin, now);
    if is_due {
        // Escaped, for a log line on a terminal; without the quotation marks that a log store would not find.
        let fields = (origin.escape_debug(), host.escape_debug());
        tracing::warn!(origin = %fields.0, host = %fields.1, "{}", cure(page.refusal, &origin, &host));
    }
}

/// What to do about it.
fn cure(refusal: Refusal, origin: &str, host: &str) -> String {
    if refusal == Refusal::ForbiddenHost {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        return format!(
            "refused a page that asks for this node by a name that it is not known by: if it is this node's, \
             add hosts = [\"{}\"]; if the page is yours, --origins {}",
            name.escape_debug(),
            origin.escape_debug()
        );
    }
    format!(
        "refused a page whose Origin may not connect: if it is yours, add it to origins: --origins {}",
        origin.escape_debug()
    )
}

/// As much of a text as a line of the log shows.
fn shown(text: &str) -> String {
    text.chars()
        .scan(0, |octets, c| {
            Some(c).filter(|c| {
                *octets += c.len_utf8();
                *octets <= SHOWN_BYTES
            })
        })
        .collect()
}

/// When each origin was last warned about.
#[derive(Default)]
struct Warned(HashMap<String, Instant>);

impl Warned {
    fn is_due(&mut self, origin: &str, now: Instant) -> bool {
        self.0.retain(|_, warned| now.saturating_duration_since(*warned) < INTERVAL);
        if self.0.contains_key(origin) || self.0.len() >= ORIGINS {
            return false;
        }
        self.0.insert(origin.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_origin_is_warned_about_once_a_minute_and_only_so_many_are() {
        let (mut warned, start) = (Warned::default(), Instant::now());
        let second = |s| start + Duration::from_secs(s);
        assert!(warned.is_due("https://a.example", start) && !warned.is_due("https://a.example", second(59)));
        assert!(warned.is_due("https://b.example", second(59)) && warned.is_due("https://a.example", second(60)));
        let many = (0..100).filter(|number| warned.is_due(&number.to_string(), second(61))).count();
        assert_eq!(many, ORIGINS - 2);
        assert!(warned.is_due("https://c.example", second(200)));
    }

    #[test]
    fn the_warning_names_the_cure_and_shows_no_more_than_a_line() {
        let line = cure(Refusal::ForbiddenOrigin, "http://localhost:3000", "localhost:8080");
        assert!(line.ends_with("--origins http://localhost:3000"), "{line}");
        let line = cure(Refusal::ForbiddenHost, "https://app.example", "app.example:8080");
        assert!(line.contains("hosts = [\"app.example\"]"), "{line}");
        assert_eq!(shown(&"\u{e9}".repeat(5_000)).len(), SHOWN_BYTES);
    }
}
