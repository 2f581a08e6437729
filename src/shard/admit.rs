//! Who gets in: the node's capacity, the rate of new connections, the cap on unfinished handshakes.
//!
//! Who does not is told so: the socket is taken, its request read and answered with 503. Only where even those are too many
//! is it answered before it asked.

use super::driver::Fd;

use super::Shard;
use crate::close::Refusal;
use crate::conn::{Entry, Flags, Tick, gained};
use crate::proto::handshake;
use crate::shard::driver::Driver;

/// A token bucket of one second's burst.
pub(super) struct Bucket {
    rate: u32,
    tokens: u32,
    tick: Tick,
}

impl Bucket {
    /// `rate` a second; 0 is no limit.
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, tokens: rate, tick: 0 }
    }

    fn take(&mut self, now: Tick) -> bool {
        if self.rate == 0 {
            return true;
        }
        let gained = gained(self.tick, now, self.rate);
        self.tokens = (u64::from(self.tokens) + gained).min(u64::from(self.rate)) as u32;
        self.tick = now;
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }
}

impl<D: Driver> Shard<D> {
    /// Takes in a socket that was just accepted; it is non-blocking. The shard owns its number from here on.
    pub fn handle_accepted(&mut self, fd: Fd) {
        self.turn.counters.accepted.add(1);
        let now = self.turn.clock.tick;
        let refusal = self.admission_refusal();
        if self.handshakes >= self.turn.settings.options.limits.handshakes_per_shard {
            return self.refuse_unasked(fd, Refusal::ConnectionRate);
        }
        if self.clients.len() >= self.turn.settings.slots {
            return self.refuse_unasked(fd, Refusal::Capacity);
        }
        let deadline = now + self.turn.settings.handshake_deadline;
        let rate = self.turn.settings.message_burst;
        let proxied = self.turn.settings.options.proxy_protocol
            && self.writer.driver_ref().peer(fd).is_some_and(|peer| self.turn.settings.trusts(peer.ip()));
        let accepted_us = self.turn.clock.mono_us();
        let token = self.clients.insert(&self.turn, |generation| {
            let mut entry = Entry::new(fd, generation, now, deadline);
            entry.tokens = rate;
            entry.batch = accepted_us;
            if let Some(refusal) = refusal {
                entry.flags.set(Flags::REFUSED);
                if refusal == Refusal::Capacity {
                    entry.flags.set(Flags::FULL);
                }
            }
            if proxied {
                entry.flags.set(Flags::PROXIED);
            }
            entry
        });
        self.handshakes += 1;
        if self.writer.driver().arm(fd, token).is_err() {
            self.clients.refuse(&mut self.turn, token, Refusal::Capacity);
            self.settle();
        }
    }

    /// Why a new connection would be refused now, whatever it asks for.
    pub(super) fn admission_refusal(&mut self) -> Option<Refusal> {
        if self.refusing {
            return Some(Refusal::Draining);
        }
        let open: u64 = self.turn.settings.node_counters.iter().map(|shard| shard.sockets.value()).sum();
        if open >= self.turn.settings.budgets.connections {
            return Some(Refusal::Capacity);
        }
        let now = self.turn.clock.tick;
        (!self.admission.take(now)).then_some(Refusal::ConnectionRate)
    }

    /// Seconds after which a refused client may try again: jittered, so that a crowd does not come back at once.
    pub(super) fn retry_after_s(&mut self) -> u32 {
        1 + self.turn.random.below(5)
    }

    /// Requests that were refused for their senders' mistakes. Each takes as much time as dozens of messages, and whoever is
    /// connected waits for it.
    pub fn mistakes(&self) -> u64 {
        self.mistakes
    }

    /// Takes in a socket that was just accepted only to refuse it.
    pub fn turn_away(&mut self, fd: Fd) {
        self.turn.counters.accepted.add(1);
        self.refuse_unasked(fd, Refusal::Capacity);
    }

    /// Answers without having been asked, for want of room to wait for the question.
    fn refuse_unasked(&mut self, fd: Fd, refusal: Refusal) {
        let refusal = if self.refusing { Refusal::Draining } else { refusal };
        // What is read is not reset: a socket that is closed over unread octets resets the answer too.
        let _ = self.writer.driver().recv(fd, &mut self.scratch);
        let mut answer = Vec::with_capacity(256);
        let retry_after_s = self.retry_after_s();
        handshake::refuse(&mut answer, refusal, Some(retry_after_s));
        let _ = self.writer.driver().send(fd, &answer);
        self.writer.driver().finish(fd);
        self.writer.driver().discard(fd);
        self.turn.counters.refused[refusal as usize].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_allows_one_seconds_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(100);
        let taken = |bucket: &mut Bucket, now| (0..1000).take_while(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, 1), 100);
        assert_eq!(taken(&mut bucket, 2), 10);
        assert_eq!(taken(&mut bucket, 1000), 100);
        assert!(Bucket::new(0).take(1));
    }

    #[test]
    fn connections_that_come_with_every_tick_get_the_whole_rate_whatever_it_is() {
        for rate in [1, 9, 19, 5_001] {
            let mut bucket = Bucket::new(rate);
            while bucket.take(7) {}
            let in_a_tick = |bucket: &mut Bucket, now| (0..10_000).take_while(|_| bucket.take(now)).count();
            let gained: usize = (8..=107).map(|now| in_a_tick(&mut bucket, now)).sum();
            assert_eq!(gained, 10 * rate as usize, "{rate} a second, for ten seconds");
        }
    }
}
