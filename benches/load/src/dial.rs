//! When and from where connections are dialled: so many at a time, at such a rate, and again after a back-off. It decides;
//! the fleet dials.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;

/// Connections from one source address to one server: well under the 28,232 ports that the kernel picks from, because the
/// search for a free one slows down as they fill up.
const PER_ADDRESS: u32 = 8_000;
const FIRST_BACKOFF_NS: u64 = 100_000_000;
const LONGEST_BACKOFF_NS: u64 = 5_000_000_000;

/// The source address of the connection with this number, counted over all processes.
pub(crate) fn source(number: u32) -> Ipv4Addr {
    let index = number / PER_ADDRESS;
    Ipv4Addr::new(127, 1 + (index / 62_500) as u8, 1 + (index / 250 % 250) as u8, 1 + (index % 250) as u8)
}

/// Which connections are due to be dialled.
pub(crate) struct Dialer {
    fresh: std::ops::Range<u32>,
    again: BinaryHeap<Reverse<(u64, u32)>>,
    under_way: u32,
    window: u32,
    interval_ns: u64,
    next_ns: u64,
    random: u64,
}

impl Dialer {
    /// Keeps up to `window` handshakes under way, and begins at most `rate` a second.
    pub(crate) fn new(window: u32, rate: Option<f64>, seed: u64) -> Self {
        let interval_ns = rate.map_or(0, |rate| (1e9 / rate) as u64);
        Self { fresh: 0..0, again: BinaryHeap::new(), under_way: 0, window, interval_ns, next_ns: 0, random: seed | 1 }
    }

    /// Lets it begin with connections 0 to `count`.
    pub(crate) fn begin(&mut self, count: u32, now_ns: u64) {
        (self.fresh, self.next_ns) = (0..count, now_ns);
    }

    /// The next connection to dial now.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<u32> {
        if self.under_way >= self.window || now_ns < self.next_ns {
            return None;
        }
        let client = match self.again.peek() {
            Some(Reverse((at, client))) if *at <= now_ns => {
                let client = *client;
                self.again.pop();
                client
            }
            _ => self.fresh.next()?,
        };
        self.next_ns = self.next_ns.max(now_ns.saturating_sub(50_000_000)) + self.interval_ns;
        self.under_way += 1;
        Some(client)
    }

    /// A handshake that was under way has ended, well or not.
    pub(crate) fn ended(&mut self) {
        self.under_way -= 1;
    }

    /// Dials `client` again: after a random part of 100 ms, doubled with each failed attempt, up to 5 s.
    pub(crate) fn retry(&mut self, client: u32, attempts: u32, now_ns: u64) {
        let longest = (FIRST_BACKOFF_NS << attempts.min(16)).min(LONGEST_BACKOFF_NS);
        let at = now_ns + self.random() % longest;
        self.again.push(Reverse((at, client)));
    }

    /// Nanoseconds until something may be due; `None` when only an ending handshake can make it so.
    pub(crate) fn wait_ns(&self, now_ns: u64) -> Option<u64> {
        if self.under_way >= self.window {
            return None;
        }
        let due = match (self.fresh.is_empty(), self.again.peek()) {
            (false, _) => self.next_ns,
            (true, Some(Reverse((at, _)))) => self.next_ns.max(*at),
            (true, None) => return None,
        };
        Some(due.saturating_sub(now_ns))
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_window_is_under_way() {
        let mut dialer = Dialer::new(2, None, 1);
        dialer.begin(5, 0);
        assert_eq!((dialer.due(0), dialer.due(0), dialer.due(0)), (Some(0), Some(1), None));
        dialer.ended();
        assert_eq!((dialer.due(0), dialer.due(0)), (Some(2), None));
    }

    #[test]
    fn a_rate_spaces_the_dials_out() {
        let mut dialer = Dialer::new(100, Some(1_000.0), 1);
        dialer.begin(5, 0);
        assert_eq!((dialer.due(0), dialer.due(0)), (Some(0), None));
        assert_eq!(dialer.wait_ns(0), Some(1_000_000));
        assert_eq!(dialer.due(1_000_000), Some(1));
    }

    #[test]
    fn a_retry_comes_within_its_back_off_and_not_before() {
        let mut dialer = Dialer::new(10, None, 7);
        dialer.retry(3, 0, 0);
        let wait = dialer.wait_ns(0).unwrap();
        assert!(wait < FIRST_BACKOFF_NS);
        assert_eq!(dialer.due(wait), Some(3));
        assert_eq!(dialer.wait_ns(wait), None);
    }

    #[test]
    fn sources_stay_in_loopback_and_change_often_enough() {
        assert_ne!(source(0), source(PER_ADDRESS));
        assert!([0, 999_999, u32::MAX / 4].into_iter().all(|number| source(number).is_loopback()));
    }
}
