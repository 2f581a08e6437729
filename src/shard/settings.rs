//! A shard's settings: the node's, in the units that the shard counts in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, PublishPolicy, Route, SlowPolicy};
use crate::conn::{Heartbeat, ticks};
use crate::control::NodeState;
use crate::counters::ShardCounters;
use crate::dialect::DialectId;
use crate::limits;
use crate::proto::message::Rules;

/// What clients may do in a room, and what its slow members get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Who may publish.
    pub publish: PublishPolicy,
    /// What slow members get.
    pub slow: SlowPolicy,
}

/// What all shards of the node share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budgets {
    /// Connections that the node admits.
    pub connections: u64,
    /// Bytes that all outboxes of the node may pin.
    pub outbox_bytes: u64,
    /// Bytes that all unfinished messages of the node may take.
    pub unfinished_bytes: u64,
}

/// See the module. Built once for each shard; never changes.
pub struct Settings {
    /// The node's settings.
    pub config: Arc<Config>,
    /// Random number of this process.
    pub node_id: u32,
    /// This shard's number.
    pub shard: u8,
    /// What it shares with the node's other shards.
    pub budgets: Budgets,
    /// Slab entries: the shard's connections and the few above them that are answered 503.
    pub slots: usize,
    /// Counters of all shards of the node, to add up what they hold.
    pub node_counters: Vec<Arc<ShardCounters>>,
    /// Bytes of publications that the shard's rooms may hold before the mailbox waits.
    pub fanout_bytes: usize,
    /// New connections a second on this shard; 0 is no limit.
    pub connection_rate: u32,
    /// The heartbeat.
    pub heartbeat: Heartbeat,
    /// Deadlines in ticks.
    pub handshake_deadline: u32,
    /// See [`limits::CLOSE_DEADLINE`].
    pub close_deadline: u32,
    /// See [`limits::MESSAGE_DEADLINE`].
    pub message_deadline: u32,
    /// See [`limits::WRITE_STALL`].
    pub write_stall: u32,
    /// Age at which connections are closed; 0 never.
    pub max_age: u32,
    /// Burst of messages from one connection.
    pub message_burst: u16,
    /// The decoder's rules.
    pub rules: Rules,
    /// Paths that the configuration maps.
    pub routes: HashMap<String, Route>,
    /// What `/health` answers.
    pub state: Arc<NodeState>,
}

impl Settings {
    /// The policy of a room: the first rule that matches.
    pub fn policy(&self, room: &str) -> Policy {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => room.starts_with(prefix),
            None => room == pattern,
        };
        self.config
            .rooms
            .iter()
            .find(|rule| matches(&rule.pattern))
            .map(|rule| Policy { publish: rule.publish, slow: rule.slow })
            .unwrap_or_default()
    }

    /// Whether the word of a proxy at this address is taken.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.config.proxies.trusted.iter().any(|network| network.contains(address))
    }

    /// Derives a shard's settings.
    pub fn new(
        config: Arc<Config>,
        node_id: u32,
        shard: u8,
        budgets: Budgets,
        node_counters: Vec<Arc<ShardCounters>>,
        state: Arc<NodeState>,
    ) -> Self {
        let rate = config.connection_rate();
        let share = if rate == 0 { 0 } else { (rate / config.shards as u32).max(1) };
        Self {
            node_id,
            shard,
            budgets,
            // Any one shard may get all of the node's connections: untouched entries cost nothing.
            slots: (budgets.connections as usize + config.limits.handshakes_per_shard).min(1 << 24),
            node_counters,
            fanout_bytes: limits::FANOUT_BYTES,
            connection_rate: share,
            heartbeat: Heartbeat::new(config.ping_interval, config.pong_timeout),
            handshake_deadline: ticks(config.limits.handshake_deadline),
            close_deadline: ticks(config.limits.close_deadline),
            message_deadline: ticks(config.limits.message_deadline),
            write_stall: ticks(config.limits.write_stall),
            max_age: config.max_connection_age.map_or(0, ticks),
            message_burst: config.limits.message_rate.saturating_mul(limits::MESSAGE_BURST_SECONDS),
            rules: Rules { message_bytes: config.limits.message_bytes, deflate: None },
            routes: routes(&config),
            state,
            config,
        }
    }
}

/// Configured paths; the conformance profile adds its own, which a configured one hides.
fn routes(config: &Config) -> HashMap<String, Route> {
    let echo = Route { path: String::from("/echo"), dialect: DialectId::Echo, room: None };
    let built_in = config.conformance.then_some(&echo);
    built_in.into_iter().chain(&config.routes).map(|route| (route.path.clone(), route.clone())).collect()
}
