//! How the broker is reached: addresses, credentials, certificates, retries, and what to say when it does not work.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ServerAddr};

use super::client_events::ClientEvents;
use crate::gateway::broker::Options;
use crate::gateway::config;
use tidegate_core::percent;

/// Between two pings to a silent broker; the third that finds no answer ends the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// From the SYN to the broker's first answer.
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

/// Everything that a connection needs, read and checked once.
#[derive(Clone)]
pub(super) struct ConnectOptions {
    servers: Vec<ServerAddr>,
    login: Login,
    ca_file: Option<PathBuf>,
    prefix: String,
    node: u32,
}

#[derive(Clone)]
enum Login {
    None,
    Token(String),
    User(String, String),
    /// The content of a credentials file.
    Credentials(String),
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
        if let Some(file) = &nats.ca_file {
            read_file("nats.ca_file", file)?;
        }
        let login = login(nats)?.or(in_url).unwrap_or(Login::None);
        let prefix = if nats.prefix.is_empty() { "tidegate" } else { &nats.prefix };
        let (ca_file, prefix) = (nats.ca_file.clone(), prefix.to_owned());
        Ok(Self { servers, login, ca_file, prefix, node: options.node })
    }

    /// The subject of a room.
    pub(super) fn subject(&self, room: &str) -> String {
        format!("{}.room.{room}", self.prefix)
    }

    /// The part of every room's subject before its name.
    pub(super) fn room_prefix(&self) -> String {
        self.subject("")
    }

    /// Tries once to reach the broker.
    pub(super) async fn connect(&self, client_events: Arc<ClientEvents>) -> Result<Client, ConnectError> {
        self.options(client_events)?.connect(self.servers.as_slice()).await
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
            ConnectErrorKind::Tls => TLS_CURE,
            _ if cause.to_ascii_lowercase().contains("certificate") => TLS_CURE,
            ConnectErrorKind::Dns => "check the host name in nats.url",
            ConnectErrorKind::TimedOut => "check nats.url and the firewall",
            _ => "check that nats-server runs there and that nats.url is right",
        };
        format!("cannot use the broker at {}: {cause}; {cure}", self.server_list())
    }

    /// The same where the client says only what kind of error it was.
    pub(super) fn explain_retry(&self, kind: &str) -> String {
        let cure = match kind {
            "authorization violation" | "failed signing nonce" => self.login_cure(),
            "TLS error" => TLS_CURE,
            _ => "check that nats-server runs there",
        };
        format!("cannot reach the broker at {} again: {kind}; {cure}", self.server_list())
    }

    /// The servers without what is secret in their URLs.
    pub(super) fn server_list(&self) -> String {
        let names: Vec<_> = self.servers.iter().map(ServerAddr::as_url_str).collect();
        names.join(", ")
    }

    fn login_cure(&self) -> &'static str {
        match self.login {
            Login::None => "it asks for a login: set nats.token, nats.user and nats.password, or nats.credentials",
            Login::Token(_) => "it does not accept nats.token",
            Login::User(..) => "it does not accept nats.user with nats.password",
            Login::Credentials(_) => "it does not accept the user of nats.credentials",
        }
    }

    fn options(&self, client_events: Arc<ClientEvents>) -> io::Result<async_nats::ConnectOptions> {
        let mut options = async_nats::ConnectOptions::new()
            .name(format!("tidegate {:08x}", self.node))
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .read_buffer_capacity(READ_BUFFER_BYTES)
            .subscription_capacity(SUBSCRIPTION_QUEUE_MESSAGES)
            .client_capacity(COMMAND_QUEUE)
            .custom_inbox_prefix(format!("{}.inbox", self.prefix))
            .skip_subject_validation(true)
            .reconnect_delay_callback(retry_delay)
            .event_callback(move |event| {
                client_events.handle_event(event);
                std::future::ready(())
            });
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        match &self.login {
            Login::None => Ok(options),
            Login::Token(token) => Ok(options.token(token.clone())),
            Login::User(user, password) => Ok(options.user_and_password(user.clone(), password.clone())),
            Login::Credentials(content) => options.credentials(content),
        }
    }
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
        (token, None) => Some(Login::Token(decode(token)?)),
        (user, Some(password)) => Some(Login::User(decode(user)?, decode(password)?)),
    };
    // Both fail only for URLs without a host, and there is one.
    let _ = (url.set_username(""), url.set_password(None));
    Ok((ServerAddr::from_url(url)?, login))
}

/// A login as it was meant: what is no escape stands for itself, for many a password has a `%`.
fn decoded(text: &str) -> Option<String> {
    String::from_utf8(percent::octets(text).map(|octet| octet.unwrap_or(b'%')).collect()).ok()
}

fn login(nats: &config::Nats) -> io::Result<Option<Login>> {
    if let Some(file) = &nats.credentials {
        let content = read_file("nats.credentials", file)?;
        // Parsed once here, so that a wrong file is an error at start and not a warning for ever.
        async_nats::ConnectOptions::with_credentials(&content).map_err(|error| {
            invalid(format!("nats.credentials: {} is no credentials file: {error}", file.display()))
        })?;
        return Ok(Some(Login::Credentials(content)));
    }
    let user = nats.user.clone().zip(nats.password.clone()).map(|(user, password)| Login::User(user, password));
    Ok(user.or_else(|| nats.token.clone().map(Login::Token)))
}

fn read_file(setting: &str, path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
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
