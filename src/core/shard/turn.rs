//! What each part of a shard is given with every call: the settings, the counters, the time, random numbers, the names
//! of the rooms, and the list of endings that it may append to.

use std::collections::VecDeque;
use std::sync::Arc;

use super::names::Names;
use super::settings::Settings;
use super::teardown::Ending;
use crate::connection::{Handle, Moment, Tick};
use crate::counters::{MessageType, ShardCounters};
use crate::model::ConnectionId;

/// The time, as the loop last read it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The shard's own ticks; only its sweep advances them.
    pub tick: Tick,
    /// Monotonic ns, for durations.
    pub mono_ns: u64,
    /// Unix ns, for timestamps and latency across nodes; decides nothing (G11).
    pub unix_ns: u64,
}

impl Clock {
    /// Monotonic µs modulo 2³², for short durations.
    pub(super) fn mono_us(self) -> u32 {
        (self.mono_ns / 1_000) as u32
    }

    /// What outboxes note the age of their frames by.
    pub(super) fn moment(self) -> Moment {
        Moment { tick: self.tick, mono_ms: (self.mono_ns / 1_000_000) as u32 }
    }
}

/// xorshift64*: jitter, not secrets.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`; 0 where `bound` is 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }
}

/// See the module.
pub(super) struct Turn {
    pub(super) settings: Arc<Settings>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) names: Names,
    /// Ends that were decided and not carried out yet.
    pub(super) endings: VecDeque<Ending>,
}

impl Turn {
    pub(super) fn new(settings: Arc<Settings>, counters: Arc<ShardCounters>, seed: u64) -> Self {
        let clock = Clock { tick: 1, ..Clock::default() };
        let (random, names) = (Random::new(seed), Names::default());
        Self { settings, counters, clock, random, names, endings: VecDeque::new() }
    }

    /// The name of one of this shard's connections in the cluster.
    pub(super) fn id(&self, handle: Handle) -> ConnectionId {
        ConnectionId {
            node: self.settings.node_id,
            shard: self.settings.shard,
            index: handle.index,
            generation: handle.generation,
        }
    }

    pub(super) fn count_in(&self, kind: MessageType) {
        self.counters.messages_in[kind as usize].add(1);
    }

    pub(super) fn count_out(&self, kind: MessageType, n: u64) {
        self.counters.messages_out[kind as usize].add(n);
    }
}
