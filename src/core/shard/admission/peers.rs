//! What admission knows of a peer's address: how many connections it has, and how many of its requests are mistakes.
//!
//! An IPv4 address is one peer; of IPv6 a /64 is, because one client has that many addresses. Both tables forget what says nothing
//! any more, and both are bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::connection::{Tick, gained};

/// Peers whose mistakes are counted at a time on one shard.
const MISTAKEN_PEERS: usize = 1024;
/// Burst of mistakes from one peer, in seconds of its rate.
const BURST_SECONDS: u32 = 2;

/// What arrives with a socket that was just accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrival {
    /// The peer's address, where the kernel told it.
    pub address: Option<IpAddr>,
    /// How long it waited to be accepted, in µs.
    pub queued_us: u32,
}

/// An IPv4 address, or a /64 of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Peer(u64);

impl Peer {
    /// Not told, or a proxy that many clients share; no limit holds for it. As a /64 it would be one of multicast, which opens no
    /// connection.
    pub(super) const UNKNOWN: Self = Self(u64::MAX);

    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

/// Connections by peer.
type Counts = Arc<Mutex<HashMap<Peer, u32>>>;

/// `limits.connections_per_address` and what it counts; all shards of a node share the counts.
#[derive(Clone, Debug, Default)]
pub struct PerAddress {
    limit: Option<u32>,
    counts: Counts,
}

impl PerAddress {
    /// At most so many connections of one address on the node; `None` is no limit.
    pub fn new(limit: Option<u32>) -> Self {
        Self { limit, counts: Counts::default() }
    }

    /// Another limit over the same counts. Connections that came while there was no limit are not counted.
    #[must_use]
    pub fn with(&self, limit: Option<u32>) -> Self {
        Self { limit, counts: self.counts.clone() }
    }

    /// The limit.
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    pub(super) fn is_on(&self) -> bool {
        self.limit.is_some()
    }

    /// Counts one more connection of a peer; false where that is one too many.
    pub(super) fn take(&self, peer: Peer) -> bool {
        let Some(limit) = self.limit.filter(|_| peer != Peer::UNKNOWN) else { return true };
        // A count is whole at any time: a thread that panicked has not left half of one.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        let taken = *count < limit;
        *count += u32::from(taken);
        taken
    }

    /// Counts one connection of a peer less.
    pub(super) fn give_back(&self, peer: Peer) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&peer);
            }
        }
    }
}

/// Peers whose requests are mistakes: a token bucket for each. One that has used up its own is dropped right after accept, which costs
/// a tenth of reading and answering one more.
pub(super) struct Mistakes {
    /// Mistakes a second that a peer may make; 0 is no limit.
    rate: u32,
    peers: HashMap<Peer, Credits>,
}

#[derive(Clone, Copy)]
struct Credits {
    left: u32,
    tick: Tick,
}

impl Mistakes {
    /// `rate` a second for each peer; 0 is no limit.
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, peers: HashMap::new() }
    }

    /// Goes on with another rate.
    pub(super) fn change_rate(&mut self, rate: u32) {
        self.rate = rate;
        if rate == 0 {
            self.peers.clear();
        }
    }

    /// Counts a mistake of a peer.
    pub(super) fn note(&mut self, peer: Peer, now: Tick) {
        if self.rate == 0 || peer == Peer::UNKNOWN {
            return;
        }
        if self.peers.len() >= MISTAKEN_PEERS && !self.peers.contains_key(&peer) {
            let rate = self.rate;
            self.peers.retain(|_, credits| credits.refilled(rate, now) < burst(rate));
            if self.peers.len() >= MISTAKEN_PEERS {
                return;
            }
        }
        let credits = self.peers.entry(peer).or_insert(Credits { left: burst(self.rate), tick: now });
        credits.left = credits.refilled(self.rate, now).saturating_sub(1);
        credits.tick = now;
    }

    /// Whether a peer has made so many mistakes that it is not heard now.
    pub(super) fn is_over(&self, peer: Peer, now: Tick) -> bool {
        // Most nodes never see a mistake.
        if self.peers.is_empty() {
            return false;
        }
        self.peers.get(&peer).is_some_and(|credits| credits.refilled(self.rate, now) == 0)
    }
}

impl Credits {
    fn refilled(self, rate: u32, now: Tick) -> u32 {
        (u64::from(self.left) + gained(self.tick, now, rate)).min(u64::from(burst(rate))) as u32
    }
}

fn burst(rate: u32) -> u32 {
    rate.saturating_mul(BURST_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::of(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_one_peer_and_of_ipv6_a_slash_64_is() {
        assert_eq!(peer("192.0.2.1"), peer("::ffff:192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::2"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
    }

    #[test]
    fn a_peer_that_makes_mistakes_faster_than_its_rate_is_not_heard_and_others_are() {
        let mut mistakes = Mistakes::new(50);
        let (loud, quiet) = (peer("192.0.2.1"), peer("192.0.2.2"));
        let mut heard = |now| {
            let mut count = 0;
            while !mistakes.is_over(loud, now) && count < 1000 {
                mistakes.note(loud, now);
                count += 1;
            }
            count
        };
        assert_eq!(heard(1), 100, "two seconds of its rate");
        assert_eq!(heard(2), 5, "a tenth of a second gains a tenth of the rate");
        assert_eq!(heard(1000), 100, "never more than that");
        assert!(
            mistakes.is_over(loud, 1000) && !mistakes.is_over(quiet, 1000) && !mistakes.is_over(Peer::UNKNOWN, 1000)
        );
    }

    #[test]
    fn the_table_of_mistaken_peers_is_bounded_and_forgets_the_old_ones() {
        let mut mistakes = Mistakes::new(1);
        (0..2 * MISTAKEN_PEERS as u64).for_each(|number| mistakes.note(Peer(number), 1));
        assert_eq!(mistakes.peers.len(), MISTAKEN_PEERS);
        mistakes.note(Peer(u64::from(u32::MAX)), 100);
        assert_eq!(mistakes.peers.len(), 1);
        let mut off = Mistakes::new(0);
        (0..1000).for_each(|_| off.note(Peer(1), 1));
        assert!(!off.is_over(Peer(1), 1));
    }

    #[test]
    fn the_connections_of_an_address_are_counted_over_all_shards_and_given_back() {
        let shards = [PerAddress::new(Some(2)), PerAddress::default()];
        let another = shards[0].clone();
        let (one, two) = (peer("192.0.2.1"), peer("192.0.2.2"));
        assert!(shards[0].take(one) && another.take(one) && !shards[0].take(one) && shards[0].take(two));
        another.give_back(one);
        assert!(shards[0].take(one) && !another.take(one));
        assert!((0..5).all(|_| shards[0].take(Peer::UNKNOWN)), "proxies are not counted");
        assert!((0..5).all(|_| shards[1].take(one)), "without a limit all are taken");
        [one, one, two].into_iter().for_each(|peer| shards[0].give_back(peer));
        assert!(shards[0].counts.lock().unwrap().is_empty(), "nothing is left behind");
    }

    #[test]
    fn another_limit_of_connections_of_an_address_goes_on_with_the_same_counts() {
        let (before, one) = (PerAddress::new(Some(2)), peer("192.0.2.1"));
        assert!(before.take(one) && before.take(one));
        let now = before.with(Some(3));
        assert!(now.take(one) && !now.take(one));
        let off = now.with(None);
        assert!(off.take(one), "no limit, and not counted");
        (0..2).for_each(|_| off.give_back(one));
        let again = off.with(Some(2));
        assert!(again.take(one) && !again.take(one), "one was left of those that were counted");
    }
}
