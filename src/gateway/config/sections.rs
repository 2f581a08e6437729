//! The sections of the file that the gateway reads itself, an entry for each setting. `[limits]` is in [`tidegate_core::limits`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::checks::{close_code, networks, readable, shown_urls, subject_prefix, urls};
use super::secret::{AccessTokens, Secret};
use tidegate_core::http::network::Network;
use tidegate_core::limits;
use tidegate_core::setting::{
    HOUR, MINUTE, SECOND, Value, ZERO, address, auto_or, boolean, checked, choice, flag, list, optional, plain, quoted,
    rare, secret, settings, time,
};

settings! {
    /// `[admin]`: the admin port.
    #[derive(Clone, PartialEq, Eq)]
    pub struct Admin in "admin" {
        /// Metrics, health, publishing over HTTP, drain.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9090)), address(),
            flag("Serving", 2, "ADDRESS", "Metrics, health, publishing over HTTP").name("admin").alias("admin").restart();
        /// Opens every admin endpoint. Several as a list, or one a line of `admin.token_file`: all are valid.
        token: Option<AccessTokens> = None,
            optional("only loopback may administer", checked(AccessTokens::from_value, masked)), secret();
    }
}

/// Secrets are never shown, not even to what would leave them out.
fn masked(_: &AccessTokens) -> Option<String> {
    quoted(&"***")
}

settings! {
    /// `[backend]`: what backends may do over HTTP.
    #[derive(Clone, PartialEq, Eq)]
    pub struct Backend in "backend" {
        /// Opens publishing, rooms, connections and nodes: everything below `/v1` but what concerns this node's operation. A list, or
        /// lines of `backend.token_file`, likewise.
        token: Option<AccessTokens> = None,
            optional("the admin token", checked(AccessTokens::from_value, masked)), secret();
    }
}

settings! {
    /// `[publish]`: publishing over HTTP.
    #[derive(Clone, PartialEq, Eq)]
    pub struct Publish in "publish" {
        /// Opens publishing only. A list, or lines of `publish.token_file`, likewise.
        token: Option<AccessTokens> = None,
            optional("the tokens of backends and operators, and without any only loopback, may publish over HTTP",
                checked(AccessTokens::from_value, masked)), secret();
    }
}

settings! {
    /// `[ready]`: when the node wants traffic.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Ready in "ready" {
        /// A lost broker makes the node unready.
        require_broker: bool = false, boolean(), rare();
    }
}

settings! {
    /// `[nats]`: how to reach the broker. Without a URL the local bus runs.
    #[derive(Clone, PartialEq, Eq)]
    pub struct Nats in "nats" {
        /// The broker that connects the nodes; several as a list, or with commas.
        url: Vec<String> = Vec::new(), checked(urls, |urls| shown_urls(urls)).absent("the local bus: this node alone"),
            flag("Serving", 3, "URL", "Broker that connects the nodes; several with commas; without it this node is alone")
                .alias("nats_url").restart();
        /// First tokens of the subjects, none of them `room` but the first: prefixes must not nest.
        prefix: String = String::from("tidegate"), checked(subject_prefix, quoted), rare().restart();
        /// A `.creds` file.
        credentials: Option<PathBuf> = None, optional("none", checked(readable, |path| quoted(&path.display()))), rare().restart();
        /// Token; or `nats.token_file`.
        token: Option<Secret> = None, optional("none", checked(Secret::from_value, |secret| quoted(&secret.text().to_owned()))), secret().restart();
        /// User name; needs `nats.password`.
        user: Option<String> = None, optional("none", checked(Value::filled, quoted)), rare().restart();
        /// Password; or `nats.password_file`.
        password: Option<Secret> = None, optional("none", checked(Secret::from_value, |secret| quoted(&secret.text().to_owned()))), secret().restart();
        /// Seed of an nkey, whose public key the broker knows; or `nats.nkey_file`.
        nkey: Option<Secret> = None, optional("none", checked(Secret::from_value, |secret| quoted(&secret.text().to_owned()))), secret().restart();
        /// Certificates to trust for `tls://`.
        ca_file: Option<PathBuf> = None,
            optional("the system's certificates", checked(readable, |path| quoted(&path.display()))), rare().restart();
        /// This node's certificate for a broker that asks for one (PEM); needs `nats.key_file`.
        cert_file: Option<PathBuf> = None, optional("none", checked(readable, |path| quoted(&path.display()))), rare().restart();
        /// The key of `nats.cert_file` (PEM).
        key_file: Option<PathBuf> = None, optional("none", checked(readable, |path| quoted(&path.display()))), rare().restart();
    }
}

settings! {
    /// `[heartbeat]`: how silent clients are found.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Heartbeat in "heartbeat" {
        /// From the last octet of a client to the ping.
        ping_interval: Duration = limits::PING_INTERVAL, time(SECOND..=50 * MINUTE), rare();
        /// From the ping to the end of a silent client.
        pong_timeout: Duration = limits::PONG_TIMEOUT, time(SECOND..=10 * MINUTE), rare();
    }
}

settings! {
    /// `[drain]`: how the node closes its clients before it stops.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Drain in "drain" {
        /// Time for which the node goes on accepting while it is unready.
        delay: Duration = ZERO, time(ZERO..=10 * MINUTE), rare();
        /// Time over which clients are told to reconnect and closed.
        window: Option<Duration> = None,
            auto_or("auto: 10 ms for each client, 1 s to 30 s; on a terminal 2 s", time(ZERO..=HOUR)),
            flag("Bounds", 5, "TIME", "Time over which a drain closes clients")
                .default("auto: 10 ms for each client, 1 s to 30 s").alias("drain_window");
        /// Close code of a drain: 1001, 1012, 1013, or 3000 to 4999.
        close_code: u16 = 1012, checked(close_code, plain), rare();
    }
}

impl Drain {
    /// Time over which a drain closes `clients`: as configured, else what follows from their number.
    pub fn window_of(&self, clients: u64) -> Duration {
        self.window.unwrap_or_else(|| limits::drain_window(clients))
    }
}

settings! {
    /// `[raw]`: clients that speak raw messages.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Raw in "raw" {
        /// `ignore`, or `close`: raw clients are closed with 1013 at a gap.
        on_gap: OnGap = OnGap::Ignore, choice(&[("ignore", OnGap::Ignore), ("close", OnGap::Close)]), rare();
    }
}

/// What a gap does to a client whose protocol has no words for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnGap {
    /// Nothing.
    Ignore,
    /// It is closed with 1013.
    Close,
}

settings! {
    /// `[proxies]`: where a client's address comes from when a balancer stands in front.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Proxies in "proxies" {
        /// Networks whose `X-Forwarded-For` counts.
        trusted: Vec<Network> = Vec::new(), checked(networks, |networks| list(networks)), rare();
        /// Trusted proxies send a PROXY protocol v2 header.
        protocol_v2: bool = false, boolean(), rare();
    }
}
