//! How the broker is reached: addresses, certificates, retries, and what to say when it does not work. Credentials are in
//! `login.rs`, the choice of a server in `servers.rs`.
//!
//! Whatever stands in a file is read at each connection: log-ins here, certificates by the client.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{AuthError, Client, ConnectError, ConnectErrorKind, ServerAddr};

use super::client_events::ClientEvents;
use super::login::Login;
use super::servers::{self, Attempts};
use crate::gateway::broker::Options;
use tidegate_core::percent;
use tidegate_core::relay::NodeTarget;

/// Between two pings to a silent broker; the third that finds no answer ends the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// From the SYN to the broker's answer to the log-in. That it answers at all is known before, see `servers.rs`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest first delay of a retry.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest delay of any retry.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// What one read takes from the broker's socket. A message that waits keeps its whole read allocated, so it is small.
const READ_BUFFER_BYTES: u16 = 16 * 1024;
/// Reads that tokio allows a task before another task's turn.
const READS_PER_TURN: usize = 128;
/// The shortest message on the wire: `MSG a.room.b 1 0` and two line ends.
const SHORTEST_MESSAGE_BYTES: usize = 20;
/// Messages that the client's queue of one room holds. The relay empties every queue before the client reads again, so a queue
/// that holds all that one turn can read never overflows, whatever the burst; and what all queues hold is one turn's bytes.
const SUBSCRIPTION_QUEUE_MESSAGES: usize = READ_BUFFER_BYTES as usize * READS_PER_TURN / SHORTEST_MESSAGE_BYTES;
/// Commands that the client's queue holds; what is beyond it waits in the relay's own queue.
const COMMAND_QUEUE: usize = 256;

const NO_SERVER: &str = "nats.url names no server; write nats://HOST:4222";
const TLS_CURE: &str = "TLS failed: check nats.ca_file and that the server's certificate names the host of nats.url";
/// What to do where a connection that should be encrypted fails, and the client does not say how.
const TLS_OR_NO_SERVER: &str = "check that nats-server runs there, that nats.ca_file knows its certificate, and that it knows the one of \
                                nats.cert_file; these files are read again at each attempt";

/// Everything that a connection needs.
#[derive(Clone)]
pub(super) struct ConnectOptions {
    servers: Vec<ServerAddr>,
    login: Login,
    ca_file: Option<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
    attempts: Arc<Attempts>,
    prefix: String,
    node: u32,
}

impl ConnectOptions {
    /// From the settings.
    ///
    /// # Errors
    /// No settings, a URL that is none, or a file that cannot be read.
    pub(super) fn new(options: &Options) -> io::Result<Self> {
        let nats = &options.config.nats;
        let mut servers = Vec::new();
        let mut in_url = None;
        for url in &nats.url {
            let (server, login) = parse_server(url)?;
            servers.push(server);
            in_url = in_url.or(login);
        }
        if servers.is_empty() {
            return Err(invalid(String::from(NO_SERVER)));
        }
        let files =
            [("nats.ca_file", &nats.ca_file), ("nats.cert_file", &nats.cert_file), ("nats.key_file", &nats.key_file)];
        for (setting, file) in files {
            file.as_ref().map_or(Ok(()), |file| read_file(setting, file))?;
        }
        let client_certificate = nats.cert_file.clone().zip(nats.key_file.clone());
        let login = Login::new(nats)?.or(in_url).unwrap_or(Login::None);
        let prefix = if nats.prefix.is_empty() { "tidegate" } else { &nats.prefix };
        let (ca_file, prefix) = (nats.ca_file.clone(), prefix.to_owned());
        let attempts = Arc::default();
        Ok(Self { servers, login, ca_file, client_certificate, attempts, prefix, node: options.node })
    }

    /// The subject of a room.
    pub(super) fn subject(&self, room: &str) -> String {
        format!("{}.room.{room}", self.prefix)
    }

    /// The subjects of the node channel: to all nodes, and to this one.
    pub(super) fn node_subjects(&self) -> [String; 2] {
        [NodeTarget::All, NodeTarget::One(self.node)].map(|to| self.node_subject(to))
    }

    /// The subject of the node channel for these receivers.
    pub(super) fn node_subject(&self, to: NodeTarget) -> String {
        match to {
            NodeTarget::All => format!("{}.all", self.node_prefix()),
            NodeTarget::One(node) => format!("{}.{node:08x}", self.node_prefix()),
        }
    }

    /// The part of every subject of the node channel before its last dot.
    pub(super) fn node_prefix(&self) -> String {
        format!("{}.node", self.prefix)
    }

    /// The part of every room's subject before its name.
    pub(super) fn room_prefix(&self) -> String {
        self.subject("")
    }

    /// Tries once to reach the broker.
    pub(super) async fn connect(&self, client_events: Arc<ClientEvents>) -> Result<Client, ConnectError> {
        self.options(client_events).connect(self.servers.as_slice()).await
    }

    /// Whether the connection is to be encrypted.
    fn uses_tls(&self) -> bool {
        let wanted = self.servers.iter().any(ServerAddr::tls_required);
        wanted || self.ca_file.is_some() || self.client_certificate.is_some()
    }

    /// Whether the settings name more than one server.
    pub(super) fn has_alternatives(&self) -> bool {
        self.servers.len() > 1
    }

    /// Why the broker cannot be used, and what to do: one line without secrets.
    pub(super) fn explain(&self, error: &ConnectError) -> String {
        let cause = innermost(error);
        let cure = match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => self.login_cure(),
            ConnectErrorKind::Tls => String::from(TLS_CURE),
            _ if cause.to_ascii_lowercase().contains("certificate") => String::from(TLS_CURE),
            ConnectErrorKind::Dns => String::from("check the host name in nats.url"),
            ConnectErrorKind::TimedOut => String::from("check nats.url and the firewall"),
            _ => String::from("check that nats-server runs there and that nats.url is right"),
        };
        format!("cannot use the broker at {}: {cause}; {cure}", self.tried())
    }

    /// The same where the client says only what kind of error it was.
    pub(super) fn explain_retry(&self, kind: &str) -> String {
        let cure = match kind {
            "authorization violation" | "failed signing nonce" => self.login_cure(),
            "TLS error" => String::from(TLS_CURE),
            // The client calls a failed TLS handshake so too.
            "IO error" if self.uses_tls() => String::from(TLS_OR_NO_SERVER),
            _ => String::from("check that nats-server runs there"),
        };
        format!("cannot reach the broker at {} again: {kind}; {cure}", self.tried())
    }

    /// The client is connected.
    pub(super) fn handle_connected(&self) {
        self.attempts.handle_connected();
    }

    /// The server that the client tries, or is connected to.
    pub(super) fn tried(&self) -> String {
        self.attempts.server(|| self.server_list())
    }

    /// The servers without what is secret in their URLs.
    fn server_list(&self) -> String {
        let names: Vec<_> = self.servers.iter().map(ServerAddr::as_url_str).collect();
        names.join(", ")
    }

    /// Why the broker did not let this node in, as far as this node knows, and what to do.
    fn login_cure(&self) -> String {
        match self.attempts.login_error() {
            Some(error) => format!("{error}; the file is read again at each attempt"),
            None => self.login.cure(),
        }
    }

    fn options(&self, client_events: Arc<ClientEvents>) -> async_nats::ConnectOptions {
        let (login, attempts) = (self.login.clone(), self.attempts.clone());
        let choosing = self.attempts.clone();
        let mut options =
            async_nats::ConnectOptions::with_auth_callback(move |nonce| auth(login.clone(), attempts.clone(), nonce))
                .name(format!("tidegate {:08x}", self.node))
                .ping_interval(PING_INTERVAL)
                .connection_timeout(CONNECT_TIMEOUT)
                .read_buffer_capacity(READ_BUFFER_BYTES)
                .subscription_capacity(SUBSCRIPTION_QUEUE_MESSAGES)
                .client_capacity(COMMAND_QUEUE)
                .custom_inbox_prefix(format!("{}.inbox", self.prefix))
                .skip_subject_validation(true)
                .reconnect_delay_callback(retry_delay)
                .reconnect_to_server_callback(move |pool, _| {
                    // A task of its own: the callback's future must be Sync.
                    let chosen = tokio::spawn(servers::choose(pool, choosing.clone()));
                    async move { chosen.await.ok().flatten() }
                })
                .event_callback(move |event| {
                    client_events.handle_event(event);
                    std::future::ready(())
                });
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.client_certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }
}

/// What the broker is given at this connection. Files are read on a thread that may wait for them.
async fn auth(login: Login, attempts: Arc<Attempts>, nonce: Vec<u8>) -> Result<async_nats::Auth, AuthError> {
    let read = tokio::task::spawn_blocking(move || login.auth(&nonce)).await;
    let auth = read.unwrap_or_else(|error| Err(error.to_string()));
    attempts.handle_login(auth.as_ref().err().cloned());
    auth.map_err(AuthError::new)
}

/// The delay before attempt `attempt`, counted from 1: exponential, bounded, with full jitter.
pub(super) fn retry_delay(attempt: usize) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16) as u32;
    let longest = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
    // Each RandomState has other keys, and hashing nothing shows them.
    let random = RandomState::new().build_hasher().finish();
    longest.mul_f64(random as f64 / u64::MAX as f64)
}

/// A server's address without its login, which the client would neither use nor keep out of its logs.
fn parse_server(text: &str) -> io::Result<(ServerAddr, Option<Login>)> {
    let wrong = |what: &str| invalid(format!("nats.url: {what}; write nats://HOST:4222 or tls://HOST:4222"));
    let server: ServerAddr = text.trim().parse().map_err(|error: io::Error| wrong(&error.to_string()))?;
    if server.is_websocket() || server.host().is_empty() {
        return Err(wrong("not a server that the relay can use"));
    }
    let mut url = server.into_inner();
    let decode = |part: &str| decoded(part).ok_or_else(|| wrong("the login in it is not UTF-8"));
    let login = match (url.username(), url.password()) {
        ("", _) => None,
        (token, None) => Some(Login::Token(decode(token)?.as_str().into())),
        (user, Some(password)) => Some(Login::User(decode(user)?, decode(password)?.as_str().into())),
    };
    // Both fail only for URLs without a host, and there is one.
    let _ = (url.set_username(""), url.set_password(None));
    Ok((ServerAddr::from_url(url)?, login))
}

/// A login as it was meant: what is no escape stands for itself, for many a password has a `%`.
fn decoded(text: &str) -> Option<String> {
    String::from_utf8(percent::octets(text).map(|octet| octet.unwrap_or(b'%')).collect()).ok()
}

fn read_file(setting: &str, path: &Path) -> io::Result<()> {
    std::fs::read(path)
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("{setting}: cannot read {}: {error}", path.display())))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// The text of the error at the end of the chain: the others only name the layers above it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
