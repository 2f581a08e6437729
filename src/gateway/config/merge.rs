//! From the sources to one [`Config`]: the stronger source wins for each setting, all errors are reported at once.
//!
//! [`merge`] reads nothing but the files that settings name (secrets, credentials); [`load`] finds the sources.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::keys::{SETTINGS, named};
use super::origin::{Occurrence, Origin, Problem};
use super::tables::Tables;
use super::{Config, Profile, environment, file, print, relations};
use crate::gateway::host::Host;
use tidegate_core::limits::{self, CONFORMANCE_MESSAGE_BYTES};
use tidegate_core::setting::Value;

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "tidegate.toml";

/// Where settings may come from.
pub struct Sources<'a> {
    /// Names of settings (the flag's name with underscores) and what was typed.
    pub flags: Vec<(&'static str, String)>,
    /// The environment; what does not begin with `TIDEGATE_` is skipped.
    pub environment: Vec<(String, String)>,
    /// The configuration file's name and text.
    pub file: Option<(String, String)>,
    /// What defaults are derived from.
    pub host: &'a Host,
}

/// The outcome: the configuration, where its values came from, and what to warn about.
pub struct Settings {
    /// What the program uses.
    pub config: Config,
    /// What deserves a warning in the log.
    pub warnings: Vec<String>,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    pub(super) tables: Tables,
}

impl Settings {
    /// Where the setting of that name (`shards`, `drain_window`) came from.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// The outcome as TOML, each line with its origin; secrets are masked.
    pub fn to_toml(&self) -> String {
        print::settings(self)
    }
}

/// Reads the environment and the file (`file`, or [`DEFAULT_FILE`] where there is one), and merges.
///
/// # Errors
/// All problems that were found.
pub fn load(flags: Vec<(&'static str, String)>, file: Option<PathBuf>, host: &Host) -> Result<Settings, Vec<Problem>> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let variable = std::env::var_os("TIDEGATE_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    let (path, named, cure) = match (file, variable) {
        (Some(path), _) => (path, true, "check --config"),
        (None, Some(path)) => (path, true, "check TIDEGATE_CONFIG"),
        (None, None) => (PathBuf::from(DEFAULT_FILE), false, "make it readable, or name another with --config"),
    };
    let file = match fs::read_to_string(&path) {
        Ok(text) => Some((path.display().to_string(), text)),
        Err(error) if !named && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let text = format!("the configuration file cannot be read: {error}; {cure}");
            return Err(vec![Problem { place: path.display().to_string(), text }]);
        }
    };
    merge_with(Sources { flags, environment, file, host }, look_up)
}

/// Merges the sources: flags, environment, file, defaults, the first wins. Asks no name server: a host's name is no address here.
///
/// # Errors
/// All problems that were found.
pub fn merge(sources: Sources<'_>) -> Result<Settings, Vec<Problem>> {
    merge_with(sources, |_, _| Err(io::ErrorKind::Unsupported.into()))
}

/// Finds an address of a host.
type LookUp = fn(&str, u16) -> io::Result<SocketAddr>;

fn look_up(host: &str, port: u16) -> io::Result<SocketAddr> {
    (host, port).to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Settings that are addresses to listen at, which may be given by a host's name.
const ADDRESSES: [&str; 2] = ["listen", "admin"];

/// The value, a host's name in it replaced by its address.
fn with_address(setting: &str, value: Value, look_up: LookUp) -> Result<Value, String> {
    match value.host_name().filter(|_| ADDRESSES.contains(&setting)) {
        Some((name, port)) => look_up(name, port).map(|address| Value::Text(address.to_string())).map_err(|error| {
            format!(
                "the host name \"{name}\" was not found ({error}); give an address, such as 127.0.0.1:{port} or :{port}"
            )
        }),
        None => Ok(value),
    }
}

fn merge_with(sources: Sources<'_>, look_up: LookUp) -> Result<Settings, Vec<Problem>> {
    let contents = sources.file.map(|(path, text)| file::read(&path, &text)).unwrap_or_default();
    let (variables, mut warnings) = environment::read(&sources.environment);
    let mut problems = contents.problems;
    let mut chosen: BTreeMap<&'static str, Occurrence> = BTreeMap::new();
    for layer in [contents.occurrences, variables, typed_flags(sources.flags)] {
        choose(layer, &mut chosen, &mut problems);
    }
    let mut config = defaults(sources.host);
    config.routes = contents.tables.routes.iter().map(|(route, _)| route.clone()).collect();
    config.issuers = contents.tables.issuers.iter().map(|(issuer, _)| issuer.clone()).collect();
    config.grants = contents.tables.grants.iter().map(|(grant, _)| grant.clone()).collect();
    config.rooms = contents.tables.rooms.iter().map(|(rule, _)| rule.clone()).collect();
    let mut origins = default_origins(sources.host);
    for setting in SETTINGS.iter() {
        if let Some(occurrence) = chosen.remove(setting.name.as_str()) {
            if let Value::InFile(path) = &occurrence.value {
                warnings.extend(relations::readable_by_others(&occurrence.typed, path));
            }
            let value = with_address(&setting.name, occurrence.value.clone(), look_up);
            if let Err(offence) = value.and_then(|value| (setting.read)(&mut config, &value)) {
                problems.push(Problem::at(&occurrence.origin, offence_of(&occurrence, &offence)));
            }
            origins.insert(setting.name.as_str(), occurrence.origin);
        }
        if setting.name == "profile" && config.profile == Profile::Conformance {
            conformance(&mut config, &mut origins);
        }
    }
    // Relations between values that are wrong themselves would only confuse.
    if problems.is_empty() {
        problems.extend(relations::check(&config, &mut warnings));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Settings { config, warnings, origins, tables: contents.tables })
}

/// Adds what a flag or variable is called where the place does not say it already.
fn offence_of(occurrence: &Occurrence, offence: &str) -> String {
    match occurrence.origin {
        Origin::File { .. } => format!("{}: {offence}", occurrence.typed),
        _ => offence.to_owned(),
    }
}

fn typed_flags(flags: Vec<(&'static str, String)>) -> Vec<Occurrence> {
    let occurrence = |(name, text)| {
        let setting = named(name)?;
        let origin = Origin::Flag(setting.flag());
        Some(Occurrence { setting, typed: setting.flag(), value: Value::Text(text), origin })
    };
    flags.into_iter().filter_map(occurrence).collect()
}

/// Lets a layer win over those before it. Within one layer a setting may be given once, under one of its names.
fn choose(layer: Vec<Occurrence>, chosen: &mut BTreeMap<&'static str, Occurrence>, problems: &mut Vec<Problem>) {
    let mut here: BTreeMap<&'static str, Occurrence> = BTreeMap::new();
    for occurrence in layer {
        let (typed, origin) = (occurrence.typed.clone(), occurrence.origin.clone());
        if let Some(first) = here.insert(occurrence.setting.name.as_str(), occurrence) {
            let text = format!("{typed} and {} ({}) are the same setting; keep one", first.typed, first.origin);
            problems.push(Problem::at(&origin, text));
        }
    }
    chosen.append(&mut here);
}

fn defaults(host: &Host) -> Config {
    let mut config = Config { shards: host.shards(), ..Config::default() };
    if let Some(name) = &host.hostname {
        config.node_name.clone_from(name);
    }
    config
}

pub(super) fn default_origins(host: &Host) -> BTreeMap<&'static str, Origin> {
    let mut origins: BTreeMap<&'static str, Origin> =
        SETTINGS.iter().map(|setting| (setting.name.as_str(), Origin::Default(""))).collect();
    let source = match host.cpu_quota_cores {
        Some(quota) if (quota.ceil() as usize) < host.cores => "the cgroup's CPU quota",
        _ => "the cores that this process may run on",
    };
    origins.insert("shards", Origin::Default(source));
    if host.hostname.is_some() {
        origins.insert("node_name", Origin::Default("the hostname"));
    }
    origins
}

/// What the conformance profile changes: messages of 16 MiB and all that must rise with them, and no rates.
fn conformance(config: &mut Config, origins: &mut BTreeMap<&'static str, Origin>) {
    config.compression = true;
    config.limits.message_bytes = CONFORMANCE_MESSAGE_BYTES;
    config.limits.outbox_bytes = 4 * CONFORMANCE_MESSAGE_BYTES;
    config.limits.outbox_total_bytes = Some(16 * CONFORMANCE_MESSAGE_BYTES as u64);
    config.limits.unfinished_total_bytes = Some(16 * CONFORMANCE_MESSAGE_BYTES as u64);
    config.limits.message_deadline = 6 * limits::MESSAGE_DEADLINE;
    config.message_rate = 0;
    config.connection_rate = Some(0);
    let changed = [
        "compression",
        "limits_message_bytes",
        "limits_outbox_bytes",
        "limits_outbox_total_bytes",
        "limits_unfinished_total_bytes",
        "limits_message_deadline",
        "message_rate",
        "connection_rate",
    ];
    origins.extend(changed.map(|name| (name, Origin::Profile)));
}
