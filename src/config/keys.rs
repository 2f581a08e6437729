//! The table of settings: for each its names, how it is read into the [`Draft`] and how it is shown.
//!
//! A setting is a row here and a field of [`Config`]; a daily one is a flag of the command line too. Everything else (file,
//! environment, `--print-config`, suggestions) follows from the row. `[[routes]]` and `[[rooms]]` are in [`super::tables`].

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{self, Value};
use super::{Config, Driver, LogFormat, Nats};
use crate::limits;
use crate::proto::network::Network;

/// A configuration in the making: what only together becomes a field of [`Config`] is still apart.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) nats: Nats,
    pub(super) nats_user: Option<String>,
    pub(super) nats_password: Option<String>,
}

/// Who gives a setting, and whether it may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A flag too.
    Daily,
    /// File and environment.
    Rare,
    /// As [`Kind::Rare`], never shown, and may stand in a file of its own (`…_file`).
    Secret,
}

/// One setting.
pub(super) struct Setting {
    /// The flag's name with underscores; `TIDEGATE_` and this in upper case is the environment's.
    pub(super) name: &'static str,
    /// Keys of the file; the first is the one that is shown.
    pub(super) keys: &'static [&'static str],
    pub(super) kind: Kind,
    /// What it means that the setting is absent.
    pub(super) absent: &'static str,
    pub(super) read: fn(&mut Draft, &Value) -> Result<(), String>,
    /// As TOML; `None` where it is absent.
    pub(super) show: fn(&Draft) -> Option<String>,
}

impl Setting {
    pub(super) fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    pub(super) fn variable(&self) -> String {
        format!("TIDEGATE_{}", self.name.to_ascii_uppercase())
    }
}

/// The setting of that name.
pub(super) fn named(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

type Read = fn(&mut Draft, &Value) -> Result<(), String>;
type Show = fn(&Draft) -> Option<String>;

const fn row(name: &'static str, keys: &'static [&'static str], kind: Kind, read: Read, show: Show) -> Setting {
    Setting { name, keys, kind, absent: "", read, show }
}

const fn optional(
    name: &'static str,
    keys: &'static [&'static str],
    kind: Kind,
    absent: &'static str,
    read: Read,
    show: Show,
) -> Setting {
    Setting { name, keys, kind, absent, read, show }
}

const fn ms(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A bucket holds [`limits::MESSAGE_BURST_SECONDS`] of its rate in 16 bits.
const MAX_MESSAGE_RATE: u64 = (u16::MAX / limits::MESSAGE_BURST_SECONDS) as u64;

const DRIVERS: [(&str, Driver); 3] = [("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)];
const PROFILES: [(&str, bool); 2] = [("production", false), ("conformance", true)];
const LOG_FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
const ON_GAP: [(&str, bool); 2] = [("ignore", false), ("close", true)];

fn named_choice<T: PartialEq>(choices: &[(&str, T)], value: &T) -> Option<String> {
    choices.iter().find(|(_, known)| known == value).and_then(|(name, _)| quoted(name))
}

/// A TOML string.
pub(super) fn quoted(text: impl ToString) -> Option<String> {
    Some(toml::Value::String(text.to_string()).to_string())
}

fn list(items: &[impl ToString]) -> Option<String> {
    let items: Vec<String> = items.iter().filter_map(|item| quoted(item.to_string())).collect();
    Some(format!("[{}]", items.join(", ")))
}

fn plain(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn time(value: Duration) -> Option<String> {
    quoted(value::duration(value))
}

fn bytes(value: usize) -> Option<String> {
    quoted(value::size(value as u64))
}

/// Every setting, in the order in which it is shown: top-level keys first, then section by section.
#[rustfmt::skip]
pub(super) static SETTINGS: &[Setting] = &[
    // The profile comes first: it changes the defaults of the others.
    row("profile", &["profile"], Kind::Daily,
        |d, v| { d.config.conformance = v.choice(&PROFILES)?; Ok(()) }, |d| named_choice(&PROFILES, &d.config.conformance)),
    row("listen", &["listen"], Kind::Daily,
        |d, v| { d.config.listen = v.address()?; Ok(()) }, |d| quoted(d.config.listen)),
    row("node_name", &["node_name"], Kind::Daily,
        |d, v| { d.config.node_name = node_name(v)?; Ok(()) }, |d| quoted(&d.config.node_name)),
    row("shards", &["shards"], Kind::Daily,
        |d, v| { d.config.shards = v.integer(1..=256)?; Ok(()) }, |d| plain(d.config.shards)),
    row("driver", &["driver"], Kind::Daily,
        |d, v| { d.config.driver = v.choice(&DRIVERS)?; Ok(()) }, |d| named_choice(&DRIVERS, &d.config.driver)),
    optional("max_connections", &["max_connections", "limits.max_connections"], Kind::Daily, "auto: what the host holds",
        |d, v| { d.config.max_connections = v.unless("auto", |v| v.integer(1..=100_000_000))?; Ok(()) },
        |d| d.config.max_connections.and_then(plain)),
    optional("max_connection_age", &["max_connection_age", "limits.max_connection_age"], Kind::Daily, "off",
        |d, v| { d.config.max_connection_age = v.unless("off", |v| v.duration(ms(SECOND, 30 * 24 * HOUR)))?; Ok(()) },
        |d| d.config.max_connection_age.and_then(time)),
    row("message_rate", &["message_rate", "limits.message_rate"], Kind::Daily,
        |d, v| { d.config.limits.message_rate = v.integer(0..=MAX_MESSAGE_RATE)?; Ok(()) }, |d| plain(d.config.limits.message_rate)),
    optional("connection_rate", &["connection_rate", "limits.connection_rate"], Kind::Daily, "auto: 5000 for each shard",
        |d, v| { d.config.limits.connection_rate = v.unless("auto", |v| v.integer(0..=10_000_000))?; Ok(()) },
        |d| d.config.limits.connection_rate.and_then(plain)),
    row("compression", &["compression"], Kind::Daily,
        |d, v| { d.config.compression = v.boolean()?; Ok(()) }, |d| plain(d.config.compression)),
    row("origins", &["origins"], Kind::Daily,
        |d, v| { d.config.origins = origins(v)?; Ok(()) }, |d| list(&d.config.origins)),
    row("share_port", &["share_port"], Kind::Daily,
        |d, v| { d.config.share_port = v.boolean()?; Ok(()) }, |d| plain(d.config.share_port)),
    row("demo", &["demo"], Kind::Daily,
        |d, v| { d.config.demo = v.boolean()?; Ok(()) }, |d| plain(d.config.demo)),
    row("log", &["log"], Kind::Daily,
        |d, v| { d.config.log_filter = log_filter(v)?; Ok(()) }, |d| quoted(&d.config.log_filter)),
    row("log_format", &["log_format"], Kind::Daily,
        |d, v| { d.config.log_format = v.choice(&LOG_FORMATS)?; Ok(()) }, |d| named_choice(&LOG_FORMATS, &d.config.log_format)),

    row("admin", &["admin.listen", "admin"], Kind::Daily,
        |d, v| { d.config.admin = v.address()?; Ok(()) }, |d| quoted(d.config.admin)),
    optional("admin_token", &["admin.token"], Kind::Secret, "only loopback may administer",
        |d, v| { d.config.admin_token = Some(secret(v)?); Ok(()) }, |d| d.config.admin_token.as_ref().and_then(quoted)),
    optional("publish_token", &["publish.token"], Kind::Secret, "the admin token, and without one only loopback, may publish over HTTP",
        |d, v| { d.config.publish_token = Some(secret(v)?); Ok(()) }, |d| d.config.publish_token.as_ref().and_then(quoted)),
    row("ready_require_broker", &["ready.require_broker"], Kind::Rare,
        |d, v| { d.config.ready_require_broker = v.boolean()?; Ok(()) }, |d| plain(d.config.ready_require_broker)),

    optional("nats_url", &["nats.url", "nats_url"], Kind::Daily, "the local bus: this node alone",
        |d, v| { d.nats.urls = nats_urls(v)?; Ok(()) },
        |d| if d.nats.urls.is_empty() { None } else { list(&d.nats.urls.iter().map(|url| masked_url(url)).collect::<Vec<_>>()) }),
    row("nats_prefix", &["nats.prefix"], Kind::Rare,
        |d, v| { d.nats.prefix = subject_prefix(v)?; Ok(()) }, |d| quoted(&d.nats.prefix)),
    optional("nats_credentials", &["nats.credentials"], Kind::Rare, "none",
        |d, v| { d.nats.credentials = Some(readable(v)?); Ok(()) }, |d| d.nats.credentials.as_ref().and_then(|p| quoted(p.display()))),
    optional("nats_token", &["nats.token"], Kind::Secret, "none",
        |d, v| { d.nats.token = Some(secret(v)?); Ok(()) }, |d| d.nats.token.as_ref().and_then(quoted)),
    optional("nats_user", &["nats.user"], Kind::Rare, "none",
        |d, v| { d.nats_user = Some(v.filled()?); Ok(()) }, |d| d.nats_user.as_ref().and_then(quoted)),
    optional("nats_password", &["nats.password"], Kind::Secret, "none",
        |d, v| { d.nats_password = Some(secret(v)?); Ok(()) }, |d| d.nats_password.as_ref().and_then(quoted)),
    optional("nats_ca_file", &["nats.ca_file"], Kind::Rare, "the system's certificates",
        |d, v| { d.nats.ca_file = Some(readable(v)?); Ok(()) }, |d| d.nats.ca_file.as_ref().and_then(|p| quoted(p.display()))),

    row("heartbeat_ping_interval", &["heartbeat.ping_interval"], Kind::Rare,
        |d, v| { d.config.ping_interval = v.duration(ms(SECOND, 50 * MINUTE))?; Ok(()) }, |d| time(d.config.ping_interval)),
    row("heartbeat_pong_timeout", &["heartbeat.pong_timeout"], Kind::Rare,
        |d, v| { d.config.pong_timeout = v.duration(ms(SECOND, 10 * MINUTE))?; Ok(()) }, |d| time(d.config.pong_timeout)),

    row("drain_delay", &["drain.delay"], Kind::Rare,
        |d, v| { d.config.drain_delay = v.duration(ms(0, 10 * MINUTE))?; Ok(()) }, |d| time(d.config.drain_delay)),
    row("drain_window", &["drain.window", "drain_window"], Kind::Daily,
        |d, v| { d.config.drain_window = v.duration(ms(0, HOUR))?; Ok(()) }, |d| time(d.config.drain_window)),
    row("drain_close_code", &["drain.close_code"], Kind::Rare,
        |d, v| { d.config.drain_close_code = close_code(v)?; Ok(()) }, |d| plain(d.config.drain_close_code)),

    row("raw_on_gap", &["raw.on_gap"], Kind::Rare,
        |d, v| { d.config.raw_close_on_gap = v.choice(&ON_GAP)?; Ok(()) }, |d| named_choice(&ON_GAP, &d.config.raw_close_on_gap)),

    row("proxies_trusted", &["proxies.trusted"], Kind::Rare,
        |d, v| { d.config.proxies.trusted = networks(v)?; Ok(()) }, |d| list(&d.config.proxies.trusted)),
    row("proxies_protocol_v2", &["proxies.protocol_v2"], Kind::Rare,
        |d, v| { d.config.proxies.protocol_v2 = v.boolean()?; Ok(()) }, |d| plain(d.config.proxies.protocol_v2)),

    row("limits_head_bytes", &["limits.head_bytes"], Kind::Rare,
        |d, v| { d.config.limits.head_bytes = v.size(5 * KIB..=64 * KIB)? as usize; Ok(()) }, |d| bytes(d.config.limits.head_bytes)),
    row("limits_handshake_deadline", &["limits.handshake_deadline"], Kind::Rare,
        |d, v| { d.config.limits.handshake_deadline = v.duration(ms(100, MINUTE))?; Ok(()) }, |d| time(d.config.limits.handshake_deadline)),
    row("limits_handshakes_per_shard", &["limits.handshakes_per_shard"], Kind::Rare,
        |d, v| { d.config.limits.handshakes_per_shard = v.integer(1..=65_536)?; Ok(()) }, |d| plain(d.config.limits.handshakes_per_shard)),
    row("limits_message_bytes", &["limits.message_bytes"], Kind::Rare,
        |d, v| { d.config.limits.message_bytes = v.size(KIB..=64 * MIB)? as usize; Ok(()) }, |d| bytes(d.config.limits.message_bytes)),
    row("limits_message_deadline", &["limits.message_deadline"], Kind::Rare,
        |d, v| { d.config.limits.message_deadline = v.duration(ms(100, 10 * MINUTE))?; Ok(()) }, |d| time(d.config.limits.message_deadline)),
    row("limits_outbox_bytes", &["limits.outbox_bytes"], Kind::Rare,
        |d, v| { d.config.limits.outbox_bytes = v.size(4 * KIB..=GIB)? as usize; Ok(()) }, |d| bytes(d.config.limits.outbox_bytes)),
    optional("limits_outbox_total_bytes", &["limits.outbox_total_bytes"], Kind::Rare, "auto: 10 % of memory",
        |d, v| { d.config.limits.outbox_total_bytes = v.unless("auto", |v| v.size(4 * KIB..=1024 * GIB))?; Ok(()) },
        |d| d.config.limits.outbox_total_bytes.and_then(|n| quoted(value::size(n)))),
    optional("limits_unfinished_total_bytes", &["limits.unfinished_total_bytes"], Kind::Rare, "auto: 5 % of memory",
        |d, v| { d.config.limits.unfinished_total_bytes = v.unless("auto", |v| v.size(4 * KIB..=1024 * GIB))?; Ok(()) },
        |d| d.config.limits.unfinished_total_bytes.and_then(|n| quoted(value::size(n)))),
    row("limits_write_stall", &["limits.write_stall"], Kind::Rare,
        |d, v| { d.config.limits.write_stall = v.duration(ms(100, 10 * MINUTE))?; Ok(()) }, |d| time(d.config.limits.write_stall)),
    row("limits_close_deadline", &["limits.close_deadline"], Kind::Rare,
        |d, v| { d.config.limits.close_deadline = v.duration(ms(100, MINUTE))?; Ok(()) }, |d| time(d.config.limits.close_deadline)),
    row("limits_rooms_per_connection", &["limits.rooms_per_connection"], Kind::Rare,
        |d, v| { d.config.limits.rooms_per_connection = v.integer(1..=10_000)?; Ok(()) }, |d| plain(d.config.limits.rooms_per_connection)),
    optional("limits_rooms_total", &["limits.rooms_total"], Kind::Rare, "auto: what 20 % of memory hold",
        |d, v| { d.config.limits.rooms_total = v.unless("auto", |v| v.integer(1..=100_000_000))?; Ok(()) },
        |d| d.config.limits.rooms_total.and_then(plain)),
    row("limits_mailbox_messages", &["limits.mailbox_messages"], Kind::Rare,
        |d, v| { d.config.limits.mailbox_messages = v.integer(1..=1_048_576)?; Ok(()) }, |d| plain(d.config.limits.mailbox_messages)),
    row("limits_fence_deadline", &["limits.fence_deadline"], Kind::Rare,
        |d, v| { d.config.limits.fence_deadline = v.duration(ms(10, MINUTE))?; Ok(()) }, |d| time(d.config.limits.fence_deadline)),
    row("limits_linger", &["limits.linger"], Kind::Rare,
        |d, v| { d.config.limits.linger = v.duration(ms(0, 10 * MINUTE))?; Ok(()) }, |d| time(d.config.limits.linger)),
];

fn node_name(value: &Value) -> Result<String, String> {
    let name = value.filled()?;
    if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
        return Err(format!(
            "{name:?} is not a node's name: 1 to 64 printable ASCII characters without space, \" and \\"
        ));
    }
    Ok(name)
}

fn log_filter(value: &Value) -> Result<String, String> {
    let filter = value.filled()?;
    // A word alone would be a target that logs all, and everything else nothing: a level with a slip silences the node.
    let is_word = |part: &&str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let mut words = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).filter(is_word);
    if let Some(word) = words.find(|word| word.parse::<tracing::level_filters::LevelFilter>().is_err()) {
        return Err(format!(
            "{word:?} is not a level: off, error, warn, info, debug or trace; a target has one too, such as tidegate=debug"
        ));
    }
    match tracing_subscriber::EnvFilter::builder().parse(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(format!(
            "{filter:?} is not a log filter ({error}); give a level such as info or debug, or tidegate=debug"
        )),
    }
}

fn origins(value: &Value) -> Result<Vec<String>, String> {
    let origins = value.list()?;
    for origin in &origins {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        if !matches!(origin.as_str(), "*" | "null") && (host.is_empty() || host.contains(['/', '?', '#', ' '])) {
            return Err(format!("{origin:?} is not an origin: scheme and host such as https://app.example, or *"));
        }
    }
    Ok(origins)
}

fn nats_urls(value: &Value) -> Result<Vec<String>, String> {
    let urls = value.list()?;
    if urls.is_empty() {
        return Err(String::from("names no server; give nats://host:4222, or leave it out for the local bus"));
    }
    for url in &urls {
        let host = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            let shown = masked_url(url);
            return Err(format!("{shown:?} is not a broker's URL: nats://host:4222, or tls://host:4222"));
        }
    }
    Ok(urls)
}

/// A URL without the user and password that may stand in it.
pub(super) fn masked_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}"),
        None => url.to_owned(),
    }
}

fn subject_prefix(value: &Value) -> Result<String, String> {
    let prefix = value.filled()?;
    match crate::model::valid_room(&prefix) {
        Ok(()) if prefix.len() <= 64 => Ok(prefix),
        _ => {
            Err(format!("{prefix:?} is not a subject prefix: up to 64 printable ASCII characters, dots between tokens"))
        }
    }
}

fn close_code(value: &Value) -> Result<u16, String> {
    let code = value.integer(1000..=4999)?;
    match code {
        1001 | 1012 | 1013 | 3000..=4999 => Ok(code),
        _ => Err(format!("{code} is not a close code for a drain: 1001, 1012, 1013 or 3000 to 4999")),
    }
}

fn networks(value: &Value) -> Result<Vec<Network>, String> {
    value.list()?.iter().map(|network| network.parse()).collect()
}

fn readable(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(value.filled()?);
    std::fs::File::open(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Ok(path)
}

/// A secret, typed or in a file; a line's end after it does not belong to it.
fn secret(value: &Value) -> Result<String, String> {
    let text = match value {
        Value::InFile(path) => {
            std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?
        }
        Value::Text(text) => text.clone(),
        // Never echoed: it may be the secret, typed without quotes.
        _ => return Err(String::from("is not text; put it in quotes")),
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(String::from("must be printable ASCII without spaces, at least one character"));
    }
    Ok(text.to_owned())
}
