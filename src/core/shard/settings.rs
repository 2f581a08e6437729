//! A shard's settings: what a node's configuration says about its shards ([`Options`]), and the same in the units that a shard
//! counts in ([`Settings`]).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::admission::PerAddress;
use crate::auth::{Cache, Template, Verifier, Who};
use crate::connection::{Heartbeat, ticks};
use crate::counters::ShardCounters;
use crate::dialect::DialectId;
use crate::http::Origins;
use crate::http::network::Network;
use crate::limits::{self, Limits};
use crate::readiness::NodeState;
use crate::ws::message::Rules;

/// `[[routes]]`: which dialect a path speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The path, exactly.
    pub path: String,
    /// The client protocol.
    pub dialect: DialectId,
    /// The room, where the dialect wants one.
    pub room: Option<String>,
    /// The subprotocol that is answered where the client offers it and not the dialect's own.
    pub subprotocol: Option<String>,
}

/// What happens to a member that does not read fast enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SlowPolicy {
    /// Close 1013.
    #[default]
    Close,
    /// Drop the oldest frames and tell a gap.
    DropOldest,
}

/// `[[rooms]]`: the policy of the rooms that a pattern matches; the first match wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRule {
    /// A room's name, or a prefix that ends in `*`.
    pub pattern: String,
    /// Which clients may join; see [`Options::default_who`] for a rule that does not say it.
    pub join: Option<Who>,
    /// Which clients may publish; likewise.
    pub publish: Option<Who>,
    /// What slow members get.
    pub slow: SlowPolicy,
}

/// What clients may do in a room, and what its slow members get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Which clients may join.
    pub join: Who,
    /// Which clients may publish.
    pub publish: Who,
    /// What slow members get.
    pub slow: SlowPolicy,
}

/// `[auth]`: how clients show who they are.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// What tokens are verified with.
    pub verifier: Arc<Verifier>,
    /// Tokens that it has verified. Another verifier needs another cache.
    pub cache: Arc<Cache>,
    /// `[[auth.grants]]`.
    pub grants: Arc<[Template]>,
    /// A client without a token is a guest.
    pub guests: bool,
    /// The cookie that may hold a token.
    pub cookie: Option<String>,
    /// A token may stand in the query.
    pub query: bool,
    /// How long a token that comes as the first message may take.
    pub deadline: Duration,
    /// Hears of tokens whose key is not known: the keys are to be fetched anew.
    pub key_unknown: Option<Signal>,
}

/// A call of the shell's that a shard makes. It must not block.
#[derive(Clone)]
pub struct Signal(Arc<dyn Fn() + Send + Sync>);

impl Signal {
    /// One that calls this.
    pub fn new(call: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }

    /// Makes the call.
    pub(super) fn give(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signal")
    }
}

/// What the configuration says, the same for all shards of a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's name, for clients.
    pub node_name: String,
    /// Bounds.
    pub limits: Limits,
    /// Messages a second from one connection; 0 is no limit.
    pub message_rate: u16,
    /// New connections a second on each shard; 0 is no limit.
    pub connection_rate: u32,
    /// See [`limits::PING_INTERVAL`].
    pub ping_interval: Duration,
    /// See [`limits::PONG_TIMEOUT`].
    pub pong_timeout: Duration,
    /// Connections of this age are closed, ± 10 %.
    pub max_connection_age: Option<Duration>,
    /// Close code of a drain.
    pub drain_close_code: u16,
    /// Paths beside the built-in ones; of two with the same path the later one holds.
    pub routes: Vec<Route>,
    /// Room policies; the first match wins.
    pub rooms: Vec<RoomRule>,
    /// Clients of a dialect that has no words for a gap are closed with 1013 instead.
    pub close_on_gap: bool,
    /// Which pages may connect.
    pub origins: Origins,
    /// permessage-deflate is negotiated.
    pub compression: bool,
    /// `limits.connections_per_address`, with the counts of all shards.
    pub per_address: PerAddress,
    /// Proxies whose word about a client's address is taken.
    pub trusted: Vec<Network>,
    /// Connections of trusted proxies begin with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// The page at `/demo`, where there is one.
    pub demo_page: Option<&'static str>,
    /// How clients show who they are; `None`: any client may connect, and all are guests.
    pub auth: Option<AuthOptions>,
}

impl Options {
    /// Takes over from the options that were in force before what goes on: the counts of connections by address.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        self.per_address = before.per_address.with(self.per_address.limit());
        self
    }

    /// Whom a room is open to where no rule says it: with keys those whose tokens open it, without keys any client.
    pub fn default_who(&self) -> Who {
        if self.auth.is_some() { Who::Token } else { Who::Any }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_name: String::from("tidegate"),
            limits: Limits::default(),
            message_rate: limits::MESSAGE_RATE,
            connection_rate: limits::CONNECTION_RATE_PER_SHARD,
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            max_connection_age: None,
            drain_close_code: 1012,
            routes: Vec::new(),
            rooms: Vec::new(),
            close_on_gap: false,
            origins: Origins::default(),
            compression: false,
            per_address: PerAddress::default(),
            trusted: Vec::new(),
            proxy_protocol: false,
            demo_page: None,
            auth: None,
        }
    }
}

/// Slab entries for sockets that have given way and that the driver has not released yet.
const RELEASING: usize = 256;

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

/// See the module. Never changes: a reload, or other keys, are another one.
pub struct Settings {
    /// What the configuration says.
    pub options: Arc<Options>,
    /// Random number of this process.
    pub node_id: u32,
    /// This shard's number.
    pub shard: u8,
    /// What it shares with the node's other shards.
    pub budgets: Budgets,
    /// Slab entries: the shard's connections, its sockets that are not upgraded, and those that are being released.
    pub slots: usize,
    /// Counters of all shards of the node, to add up what they hold.
    pub node_counters: Vec<Arc<ShardCounters>>,
    /// Bytes of publications that the shard's rooms may hold before the mailbox waits.
    pub fanout_bytes: usize,
    /// The heartbeat.
    pub heartbeat: Heartbeat,
    /// In ticks; see [`limits::HANDSHAKE_DEADLINE`].
    pub handshake_deadline: u32,
    /// In ticks; see [`limits::CLOSE_DEADLINE`].
    pub close_deadline: u32,
    /// In ticks; see [`limits::MESSAGE_DEADLINE`].
    pub message_deadline: u32,
    /// In ticks; see [`limits::WRITE_STALL`].
    pub write_stall: u32,
    /// Age in ticks at which connections are closed; 0 is never.
    pub max_age: u32,
    /// Burst of messages from one connection.
    pub message_burst: u16,
    /// The decoder's rules.
    pub rules: Rules,
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
        let rule = self.options.rooms.iter().find(|rule| matches(&rule.pattern));
        let who = |of_rule: fn(&RoomRule) -> Option<Who>| rule.and_then(of_rule).unwrap_or(self.options.default_who());
        Policy {
            join: who(|rule| rule.join),
            publish: who(|rule| rule.publish),
            slow: rule.map(|rule| rule.slow).unwrap_or_default(),
        }
    }

    /// The configured route of a path. There are a few: to compare them costs less than to hash the path.
    #[inline]
    pub fn route(&self, path: &str) -> Option<&Route> {
        self.options.routes.iter().rev().find(|route| route.path == path)
    }

    /// Whether the word of a proxy at this address is taken.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.options.trusted.iter().any(|network| network.contains(address))
    }

    /// Derives the settings of shard number `shard`.
    pub fn new(
        options: Arc<Options>,
        node_id: u32,
        shard: u8,
        budgets: Budgets,
        node_counters: Vec<Arc<ShardCounters>>,
        state: Arc<NodeState>,
    ) -> Self {
        let limits = &options.limits;
        Self {
            node_id,
            shard,
            budgets,
            // Any one shard may get all of the node's connections: untouched entries cost nothing.
            slots: (budgets.connections as usize + limits.handshakes_per_shard + RELEASING).min(1 << 24),
            node_counters,
            fanout_bytes: limits::FANOUT_BYTES,
            heartbeat: Heartbeat::new(options.ping_interval, options.pong_timeout),
            handshake_deadline: ticks(limits.handshake_deadline),
            close_deadline: ticks(limits.close_deadline),
            message_deadline: ticks(limits.message_deadline),
            write_stall: ticks(limits.write_stall),
            max_age: options.max_connection_age.map_or(0, ticks),
            message_burst: options.message_rate.saturating_mul(limits::MESSAGE_BURST_SECONDS),
            rules: Rules { message_bytes: limits.message_bytes, deflate: None },
            state,
            options,
        }
    }

    /// The same with other options. What cannot change while the shard runs stays: its slab, and its counts.
    pub fn with(&self, options: Arc<Options>) -> Self {
        let (counters, state) = (self.node_counters.clone(), self.state.clone());
        let budgets = Budgets {
            connections: self.budgets.connections,
            outbox_bytes: options.limits.outbox_total_bytes.unwrap_or(self.budgets.outbox_bytes),
            unfinished_bytes: options.limits.unfinished_total_bytes.unwrap_or(self.budgets.unfinished_bytes),
        };
        Self { slots: self.slots, ..Self::new(options, self.node_id, self.shard, budgets, counters, state) }
    }
}
