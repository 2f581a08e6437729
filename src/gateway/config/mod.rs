//! Every setting of a node, validated: what the program uses. What the user typed (file, environment, flags) is merged
//! into it here and nowhere else.
//!
//! [`load`] reads the sources and [`merge`] makes [`Settings`] of them: flags win over the environment, it over the file,
//! that over the defaults. Each value remembers where it came from. A new setting is one entry in the table of its section
//! (here, in `sections`, or in [`tidegate_core::limits`]): its field, default, key, variable, flag, `--print-config`, the suggestions
//! and the documentation's table follow from the entry.

mod auth;
mod checks;
mod environment;
mod file;
mod keys;
mod merge;
mod origin;
mod print;
mod relations;
mod sample;
mod secret;
mod sections;
mod tables;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::gateway::host::Host;
use tidegate_core::dialect::DialectId;
use tidegate_core::http::{OriginPattern, Origins};
use tidegate_core::limits::{self, Limits};
use tidegate_core::setting::{
    HOUR, SECOND, address, auto_or, boolean, checked, choice, flag, integer, list, off_or, quoted, rare, settings,
    switch, time,
};
use tidegate_core::shard::{self, PerAddress, RoomRule, Route};

pub use auth::{Anonymous, Auth, Grant, Secrets, TokenIssuer, random_key};
pub(crate) use keys::{SettingFlag, flags};
pub use merge::{DEFAULT_FILE, Settings, Sources, load, merge};
pub use origin::{Origin, Problem};
pub use print::table as settings_table;
pub use sample::sample;
pub use secret::{AccessTokens, Secret};
pub use sections::{Admin, Backend, Drain, Heartbeat, Nats, OnGap, Proxies, Publish, Raw, Ready};

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

/// Whether each shard's thread runs on one core only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pin {
    /// Where the cores were set apart for this process; see [`Host::has_cores_of_its_own`].
    #[default]
    Auto,
    /// Yes. Processes that pin themselves to the same cores share them, whatever else is idle.
    On,
    /// No: the kernel's scheduler decides.
    Off,
}

/// What the node is for: it changes the defaults of other settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// Clients.
    #[default]
    Production,
    /// A test suite of the protocol: large messages, no rates, and `/echo`.
    Conformance,
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

/// How log lines show addresses of clients and peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogAddresses {
    /// Whole.
    #[default]
    Full,
    /// As networks: IPv4 /24, IPv6 /48.
    Masked,
}

settings! {
    /// All settings of a node: the keys at the top of the file, and its sections.
    #[derive(Clone, PartialEq)]
    pub struct Config in "" {
        // The profile comes first: it changes the defaults of the others.
        /// `production`, or `conformance`: 16 MiB messages, no rates, `/echo`.
        profile: Profile = Profile::Production,
            choice(&[("production", Profile::Production), ("conformance", Profile::Conformance)]),
            flag("Serving", 7, "PROFILE", "production, or conformance: 16 MiB messages, no rates, /echo").default("");
        /// Where clients connect.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)), address(),
            flag("Serving", 1, "ADDRESS", "Where clients connect").restart();
        /// This node's name in `welcome` and the admin endpoints.
        node_name: String = String::from("tidegate"), checked(checks::node_name, quoted),
            flag("Serving", 4, "NAME", "This node's name").default("the hostname").restart();
        /// Threads that serve clients; fewer where a CPU quota pays for fewer.
        shards: usize = 1, integer(1..=256),
            flag("Machine", 1, "N", "Threads that serve clients").default("cores, or the CPU quota").restart();
        /// `auto`, `io_uring` or `epoll`.
        driver: Driver = Driver::Auto,
            choice(&[("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)]),
            flag("Machine", 2, "DRIVER", "auto, io_uring or epoll").restart();
        /// Pin each shard's thread to a core: `on`, `off`; `auto`: only where there is one for each shard, set apart from the host's others.
        pin: Pin = Pin::Auto, choice(&[("auto", Pin::Auto), ("on", Pin::On), ("off", Pin::Off)]), rare().restart();
        /// Connections of this node; more get 503.
        max_connections: Option<u32> = None, auto_or("auto: what the host holds", integer(1..=100_000_000)),
            flag("Bounds", 1, "N", "Connections of this node")
                .default("what the host holds").alias("limits.max_connections").restart();
        /// Older connections are asked to reconnect, ± 10 %.
        max_connection_age: Option<Duration> = None, off_or(time(SECOND..=30 * 24 * HOUR)),
            flag("Bounds", 4, "TIME", "Ask older connections to reconnect, such as 6h")
                .default("off").alias("limits.max_connection_age");
        /// Messages a second from one connection; 0: no limit. A message counts once for each 4 KiB, or part of them, inflated
        /// where it was compressed. Twice as many are a burst. The excess is dropped, and the connection is read only ten times
        /// a second.
        message_rate: u16 = limits::MESSAGE_RATE, integer(0..=MAX_MESSAGE_RATE),
            flag("Bounds", 2, "N", "Messages a second from one connection, 0: no limit").alias("limits.message_rate");
        /// New connections a second on this node; 0: no limit.
        connection_rate: Option<u32> = None, auto_or("auto: 5000 for each shard", integer(0..=10_000_000)),
            flag("Bounds", 3, "N", "New connections a second, 0: no limit")
                .default("5000 a shard").alias("limits.connection_rate");
        /// Negotiate permessage-deflate.
        compression: bool = false, boolean(), switch("Clients", 2, "Negotiate permessage-deflate");
        /// Pages that may connect, such as `https://app.example` or `https://*.example.com`; `null`, `file://`: pages without a
        /// host; `*`: any; empty: the same host.
        origins: Vec<OriginPattern> = Vec::new(), checked(checks::origins, |origins| list(origins)),
            flag("Clients", 1, "LIST", "Pages that may connect, such as https://app.example; *: any").default("same host");
        /// Names of this node where `origins` is empty, such as `app.example`, beside addresses, `localhost` and names without a dot.
        hosts: Vec<String> = Vec::new(), checked(checks::hosts, |hosts| list(hosts)), rare();
        /// Let other gateways of this host listen at the same address.
        share_port: bool = false, boolean(),
            switch("Serving", 5, "Let other gateways of this host listen at the same address").restart();
        /// Also serve a page at `/demo`, and let pages of loopback hosts and files connect.
        demo: bool = false, boolean(),
            switch("Serving", 6, "Also serve a page at /demo, and let pages of this machine connect");
        /// `error` to `trace`, or such as `tidegate=debug`.
        log: String = String::from("info"), checked(checks::log_filter, quoted),
            flag("Logging", 1, "FILTER", "error, warn, info, debug, trace, or such as tidegate=debug").restart();
        /// `human`, `json`; `auto`: human on a terminal.
        log_format: LogFormat = LogFormat::Auto,
            choice(&[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)]),
            flag("Logging", 2, "FORMAT", "auto, human or json").default("human on a terminal, else json").restart();
        /// How the log shows addresses of clients: `full`, or `masked`, as networks such as `203.0.113.0/24` and `2001:db8:1::/48`.
        log_addresses: LogAddresses = LogAddresses::Full,
            choice(&[("full", LogAddresses::Full), ("masked", LogAddresses::Masked)]), rare().restart();
    } and {
        /// The admin port.
        admin: Admin = Admin::default();
        /// Tokens of clients.
        auth: Auth = Auth::default();
        /// What backends may do over HTTP.
        backend: Backend = Backend::default();
        /// Publishing over HTTP.
        publish: Publish = Publish::default();
        /// When the node wants traffic.
        ready: Ready = Ready::default();
        /// The broker.
        nats: Nats = Nats::default();
        /// How silent clients are found.
        heartbeat: Heartbeat = Heartbeat::default();
        /// How the node closes its clients before it stops.
        drain: Drain = Drain::default();
        /// Clients that speak raw messages.
        raw: Raw = Raw::default();
        /// Balancers in front.
        proxies: Proxies = Proxies::default();
        /// Bounds.
        limits: Limits = Limits::default();
        /// Paths beside the built-in ones; they win.
        routes: Vec<Route> = Vec::new();
        /// Issuers of tokens beside `[auth]`.
        issuers: Vec<TokenIssuer> = Vec::new();
        /// Rooms that tokens open by their claims.
        grants: Vec<Grant> = Vec::new();
        /// Room policies in order.
        rooms: Vec<RoomRule> = Vec::new();
    }
}

/// A connection's bucket holds [`limits::MESSAGE_BURST_SECONDS`] of its rate in 16 bits.
const MAX_MESSAGE_RATE: u64 = (u16::MAX / limits::MESSAGE_BURST_SECONDS) as u64;

impl Config {
    /// What the shards need of it. The demo page is the caller's to add.
    pub fn shard_options(&self) -> shard::Options {
        let rate = self.connection_rate();
        // The conformance profile adds a path, which a configured one hides.
        let echo = Route { path: String::from("/echo"), dialect: DialectId::Echo, room: None, subprotocol: None };
        let echo = (self.profile == Profile::Conformance).then_some(echo);
        shard::Options {
            node_name: self.node_name.clone(),
            limits: self.limits.clone(),
            message_rate: self.message_rate,
            connection_rate: if rate == 0 { 0 } else { (rate / self.shards as u32).max(1) },
            ping_interval: self.heartbeat.ping_interval,
            pong_timeout: self.heartbeat.pong_timeout,
            max_connection_age: self.max_connection_age,
            drain_close_code: self.drain.close_code,
            routes: echo.into_iter().chain(self.routes.iter().cloned()).collect(),
            rooms: self.rooms.clone(),
            close_on_gap: self.raw.on_gap == OnGap::Close,
            origins: Origins { listed: self.origins.clone(), hosts: self.hosts.clone(), demo: self.demo },
            compression: self.compression,
            per_address: PerAddress::new(self.limits.connections_per_address),
            trusted: self.proxies.trusted.clone(),
            proxy_protocol: self.proxies.protocol_v2,
            demo_page: None,
            auth: self.auth_options(),
        }
    }

    /// Whether the shards' threads are pinned on this host.
    pub fn is_pinned(&self, host: &Host) -> bool {
        match self.pin {
            Pin::Auto => host.has_cores_of_its_own(self.shards),
            Pin::On => true,
            Pin::Off => false,
        }
    }

    /// New connections a second that the node takes, on all shards together; 0 is no limit.
    pub fn connection_rate(&self) -> u32 {
        self.connection_rate.unwrap_or(limits::CONNECTION_RATE_PER_SHARD * self.shards as u32)
    }
}

/// Where a node that listens at `address` is reached from its own host: on loopback where it listens at every address.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Without secrets: what `--print-config` shows.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print::toml_of(self))
    }
}

#[cfg(test)]
mod tests;
