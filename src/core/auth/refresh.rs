//! When the keys of a provider are fetched: at the start, then again and again, and sooner where a token has a key that is not known.
//!
//! [`Schedule`] is told what became of each fetch and says when the next one is due. Times are in ms from any point. It never gives
//! up, and between two fetches that succeeded, or that tokens asked for, there are at least [`LEAST_PAUSE_MS`].

/// From one fetch to the next where the provider says nothing else.
const INTERVAL_MS: u64 = 5 * 60 * 1_000;
/// The shortest and the longest interval that a provider's `Cache-Control` makes.
const INTERVALS_MS: (u64, u64) = (60 * 1_000, 60 * 60 * 1_000);
/// From a fetch to one that a token with an unknown key asks for, and from a failed fetch to the next.
const LEAST_PAUSE_MS: u64 = 30 * 1_000;
/// From the first failed fetch to the next while no keys were ever loaded; it doubles up to [`LEAST_PAUSE_MS`].
const FIRST_PAUSE_MS: u64 = 1_000;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    due_ms: u64,
    /// When the last fetch ended; `None` before the first.
    last_ms: Option<u64>,
    /// Pause after the next fetch that fails.
    pause_ms: u64,
}

impl Schedule {
    /// The first fetch is due at once.
    pub const fn new(now_ms: u64) -> Self {
        Self { due_ms: now_ms, last_ms: None, pause_ms: FIRST_PAUSE_MS }
    }

    /// When the next fetch is due.
    pub const fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Keys were fetched, which the provider said to hold for `max_age_s`. The next fetch is due after that time ± 10 %, by `share`, in
    /// 2⁻³² parts: nodes that started together do not ask together.
    pub fn handle_fetched(&mut self, now_ms: u64, max_age_s: Option<u64>, share: u32) {
        let (least, most) = INTERVALS_MS;
        let interval = max_age_s.map_or(INTERVAL_MS, |age| age.saturating_mul(1_000).clamp(least, most));
        self.last_ms = Some(now_ms);
        self.pause_ms = LEAST_PAUSE_MS;
        self.due_ms = now_ms + interval * 9 / 10 + part(interval / 5, share);
    }

    /// A fetch failed. The next one is due up to 10 % earlier than the pause says, by `share`.
    pub fn handle_failed(&mut self, now_ms: u64, share: u32) {
        self.last_ms = Some(now_ms);
        self.due_ms = now_ms + self.pause_ms - part(self.pause_ms / 10, share);
        self.pause_ms = (self.pause_ms * 2).min(LEAST_PAUSE_MS);
    }

    /// A token has a key that is not known: a fetch is due now, or as soon as the last one is long enough ago.
    pub fn handle_unknown_key(&mut self, now_ms: u64) {
        let earliest = self.last_ms.map_or(now_ms, |last| last + LEAST_PAUSE_MS);
        self.due_ms = self.due_ms.min(now_ms.max(earliest));
    }
}

fn part(whole: u64, share: u32) -> u64 {
    (whole * u64::from(share)) >> 32
}

/// How long an answer may be kept, by its `Cache-Control` (RFC 9111 §5.2.2.1).
pub fn max_age_s(cache_control: &str) -> Option<u64> {
    let value = |directive: &str| {
        let (name, value) = directive.split_once('=')?;
        let is_max_age = name.trim().eq_ignore_ascii_case("max-age");
        is_max_age.then(|| value.trim().trim_matches('"').parse().ok()).flatten()
    };
    cache_control.split(',').find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HALF: u32 = 1 << 31;

    /// Fetches for so long; each answer is what `answer` says at that time. The times of the fetches.
    fn run(until_ms: u64, mut answer: impl FnMut(u64) -> Result<Option<u64>, ()>) -> Vec<u64> {
        let (mut schedule, mut fetches) = (Schedule::new(0), Vec::new());
        while schedule.due_ms() <= until_ms {
            let now = schedule.due_ms();
            fetches.push(now);
            match answer(now) {
                Ok(max_age_s) => schedule.handle_fetched(now, max_age_s, HALF),
                Err(()) => schedule.handle_failed(now, 0),
            }
        }
        fetches
    }

    #[test]
    fn keys_are_fetched_at_the_start_and_then_every_five_minutes() {
        assert_eq!(run(10 * MINUTE, |_| Ok(None)), [0, 5 * MINUTE, 10 * MINUTE]);
    }

    #[test]
    fn a_provider_says_how_long_its_keys_hold_between_a_minute_and_an_hour() {
        for (said_s, interval_ms) in [(0, MINUTE), (600, 10 * MINUTE), (86_400, 60 * MINUTE), (u64::MAX, 60 * MINUTE)] {
            assert_eq!(run(interval_ms, |_| Ok(Some(said_s))), [0, interval_ms], "{said_s}");
        }
    }

    #[test]
    fn nodes_that_started_together_do_not_fetch_together() {
        let due = |share| {
            let mut schedule = Schedule::new(0);
            schedule.handle_fetched(0, None, share);
            schedule.due_ms()
        };
        assert_eq!((due(0), due(u32::MAX)), (270 * SECOND, 330 * SECOND - 1));
    }

    #[test]
    fn a_provider_that_is_down_is_asked_ever_more_rarely_and_at_least_every_30_seconds() {
        let seconds = [0, 1, 3, 7, 15, 31, 61, 91];
        assert_eq!(run(100 * SECOND, |_| Err(())), seconds.map(|second| second * SECOND));
        // One that was up once is not asked in a hurry: its keys are there.
        let fetches = run(10 * MINUTE, |now| if now == 0 { Ok(None) } else { Err(()) });
        assert_eq!(fetches[..4], [0, 300 * SECOND, 330 * SECOND, 360 * SECOND]);
    }

    #[test]
    fn a_token_with_an_unknown_key_brings_a_fetch_at_once_and_a_flood_of_them_one_in_30_seconds() {
        let mut schedule = Schedule::new(0);
        schedule.handle_fetched(0, None, HALF);
        let mut fetches = Vec::new();
        for now in (100 * SECOND..200 * SECOND).step_by(10) {
            schedule.handle_unknown_key(now);
            if schedule.due_ms() <= now {
                fetches.push(now / SECOND);
                schedule.handle_fetched(now, None, HALF);
            }
        }
        assert_eq!(fetches, [100, 130, 160, 190]);
    }

    /// A key is rotated while the provider is down: tokens of the new key are taken within 30 s of its return.
    #[test]
    fn the_new_key_is_known_30_seconds_after_the_provider_is_back() {
        let mut schedule = Schedule::new(0);
        schedule.handle_fetched(0, Some(3_600), HALF);
        let (down_from, back) = (1_000 * SECOND, 1_777 * SECOND);
        let mut known = None;
        for now in (down_from..2 * back).step_by(100) {
            schedule.handle_unknown_key(now);
            if schedule.due_ms() > now {
                continue;
            }
            if now >= back {
                known = Some(now);
                break;
            }
            schedule.handle_failed(now, 0);
        }
        assert!(known.is_some_and(|known| known <= back + 30 * SECOND), "{known:?}");
    }

    #[test]
    fn max_age_is_found_among_other_directives() {
        assert_eq!(max_age_s("public, max-age=300, must-revalidate"), Some(300));
        assert_eq!(max_age_s("Max-Age = \"60\""), Some(60));
        for none in ["", "no-store", "max-age", "max-age=soon", "s-maxage=5"] {
            assert_eq!(max_age_s(none), None, "{none}");
        }
    }
}
