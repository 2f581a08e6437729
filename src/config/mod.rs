//! Every setting of a node, validated: what the program uses. What the user typed (file, environment, flags) is merged
//! into it here and nowhere else.
//!
//! [`load`] reads the sources and [`merge`] makes [`Settings`] of them: flags win over the environment, it over the file,
//! that over the defaults. Each value remembers where it came from. A new setting is a field of [`Config`] and a row in
//! `keys`; the file, the environment, `--print-config` and the suggestions follow from the row. A flag is named in
//! [`crate::cli`] too.

mod environment;
mod file;
mod keys;
mod merge;
mod origin;
mod print;
mod relations;
mod tables;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::dialect::DialectId;
use crate::limits::{self, Limits};
use crate::proto::network::Network;
use crate::shard::{self, RoomRule, Route};

pub use merge::{DEFAULT_FILE, Settings, Sources, load, merge};
pub use origin::{Origin, Problem};
pub use value::parse_duration;

/// Which wire a shard runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Driver {
    /// io_uring where the probe succeeds, else epoll.
    #[default]
    Auto,
    /// io_uring or exit 3.
    IoUring,
    /// epoll.
    Epoll,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How to reach the broker.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Nats {
    /// `nats://` or `tls://` servers; at least one.
    pub urls: Vec<String>,
    /// Credentials file (JWT and seed).
    pub credentials: Option<PathBuf>,
    /// Token.
    pub token: Option<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// First part of every subject: `PREFIX.room.ROOM`.
    pub prefix: String,
}

/// Where a client's address comes from when a balancer stands in front.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proxies {
    /// Networks whose word is taken.
    pub trusted: Vec<Network>,
    /// Connections of trusted peers begin with a PROXY protocol v2 header.
    pub protocol_v2: bool,
}

/// All settings of a node.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// Address of the public port.
    pub listen: SocketAddr,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// The node's name in `welcome` and `/v1/node`.
    pub node_name: String,
    /// Number of shards, 1 to 256.
    pub shards: usize,
    /// Whether each shard's thread is pinned to a core.
    pub pin: bool,
    /// Which wire.
    pub driver: Driver,
    /// Connections that the node admits at most; computed from the host when absent.
    pub max_connections: Option<u32>,
    /// Close connections of this age, ± 10 %.
    pub max_connection_age: Option<Duration>,
    /// Broker; none is the local bus.
    pub nats: Option<Nats>,
    /// Bounds.
    pub limits: Limits,
    /// See [`limits::PING_INTERVAL`].
    pub ping_interval: Duration,
    /// See [`limits::PONG_TIMEOUT`].
    pub pong_timeout: Duration,
    /// How long a draining node goes on accepting before it refuses.
    pub drain_delay: Duration,
    /// The window over which clients are closed.
    pub drain_window: Duration,
    /// Close code of a drain.
    pub drain_close_code: u16,
    /// Paths beside the built-in ones; they win.
    pub routes: Vec<Route>,
    /// Room policies in order.
    pub rooms: Vec<RoomRule>,
    /// Raw clients are closed with 1013 on a gap.
    pub raw_close_on_gap: bool,
    /// Allowed values of Origin, exactly; `*` allows any. Empty: the host that the request names, or no Origin at all.
    pub origins: Vec<String>,
    /// permessage-deflate is negotiated.
    pub compression: bool,
    /// Opens all of the admin port.
    pub admin_token: Option<String>,
    /// Opens publishing on the admin port.
    pub publish_token: Option<String>,
    /// `/ready` is 503 while the broker is away, not only before it was first reached.
    pub ready_require_broker: bool,
    /// Balancers in front.
    pub proxies: Proxies,
    /// Other processes may listen at the same address too (SO_REUSEPORT), each taking a share of the clients.
    pub share_port: bool,
    /// Serve `/demo`.
    pub demo: bool,
    /// Serve `/echo` with raised limits.
    pub conformance: bool,
    /// What is logged: a level, or directives such as `tidegate=debug`.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

impl Config {
    /// What the shards need of it. The demo page is the caller's to add.
    pub fn shard_options(&self) -> shard::Options {
        let rate = self.connection_rate();
        // The conformance profile adds a path, which a configured one hides.
        let echo = Route { path: String::from("/echo"), dialect: DialectId::Echo, room: None };
        let echo = self.conformance.then_some(echo);
        shard::Options {
            node_name: self.node_name.clone(),
            limits: self.limits.clone(),
            connection_rate: if rate == 0 { 0 } else { (rate / self.shards as u32).max(1) },
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            max_connection_age: self.max_connection_age,
            drain_close_code: self.drain_close_code,
            routes: echo.into_iter().chain(self.routes.iter().cloned()).collect(),
            rooms: self.rooms.clone(),
            close_on_gap: self.raw_close_on_gap,
            origins: self.origins.clone(),
            compression: self.compression,
            trusted: self.proxies.trusted.clone(),
            proxy_protocol: self.proxies.protocol_v2,
            demo_page: None,
        }
    }

    /// New connections a second that the node takes, on all shards together; 0 is no limit.
    pub fn connection_rate(&self) -> u32 {
        self.limits.connection_rate.unwrap_or(limits::CONNECTION_RATE_PER_SHARD * self.shards as u32)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            node_name: String::from("tidegate"),
            shards: 1,
            pin: false,
            driver: Driver::Auto,
            max_connections: None,
            max_connection_age: None,
            nats: None,
            limits: Limits::default(),
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            drain_delay: Duration::ZERO,
            drain_window: limits::DRAIN_WINDOW,
            drain_close_code: 1012,
            routes: Vec::new(),
            rooms: Vec::new(),
            raw_close_on_gap: false,
            origins: Vec::new(),
            compression: false,
            admin_token: None,
            publish_token: None,
            ready_require_broker: false,
            proxies: Proxies::default(),
            share_port: false,
            demo: false,
            conformance: false,
            log_filter: String::from("info"),
            log_format: LogFormat::Auto,
        }
    }
}

/// Without secrets: what `--print-config` shows.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print::toml_of(self))
    }
}

#[cfg(test)]
mod tests;
