//! `--print-config`: the outcome as TOML that can be saved and used, with the origin of each value beside it.
//!
//! Secrets are shown as comments, so that the mask never becomes a password.

use std::collections::BTreeMap;

use super::keys::{SETTINGS, Setting, in_file_order};
use super::merge::Settings;
use super::tables::{self, Tables};
use super::{Config, Origin, merge};
use crate::gateway::host::Host;
use tidegate_core::auth::Who;
use tidegate_core::setting::{Kind, list, quoted};

/// Column at which the origin begins, where the value leaves room.
const COMMENT_COLUMN: usize = 44;

/// The outcome of a merge.
pub(super) fn settings(settings: &Settings) -> String {
    let origins: BTreeMap<&str, String> =
        settings.origins.iter().map(|(name, origin)| (*name, origin.to_string())).collect();
    let mut text = scalars(&settings.config, &origins);
    text.push_str(&lists(&settings.config, Some(&settings.tables)));
    text
}

/// A configuration without the origins of its values.
pub(super) fn toml_of(config: &Config) -> String {
    scalars(config, &BTreeMap::new()) + &lists(config, None)
}

fn scalars(config: &Config, origins: &BTreeMap<&str, String>) -> String {
    let mut text = String::new();
    for (heading, key, setting) in in_file_order() {
        text.extend(heading);
        let origin = origins.get(setting.name.as_str()).map_or("", String::as_str);
        text.push_str(&line(setting, key, (setting.show)(config), origin));
    }
    text
}

fn line(setting: &Setting, key: &str, value: Option<String>, origin: &str) -> String {
    match value {
        Some(_) if setting.is_secret() => commented(&format!("# {key} = \"***\""), &format!("masked; {origin}")),
        Some(value) => commented(&format!("{key} = {value}"), origin),
        None => commented(&format!("# {key} ="), &format!("{origin}: {}", setting.absent)),
    }
}

fn commented(text: &str, comment: &str) -> String {
    if comment.is_empty() { format!("{text}\n") } else { format!("{text:<COMMENT_COLUMN$} # {comment}\n") }
}

/// The lists of tables; `tables` knows where each item came from.
fn lists(config: &Config, tables: Option<&Tables>) -> String {
    let mut text = String::new();
    for (index, route) in config.routes.iter().enumerate() {
        text.push_str(&heading("routes", tables.and_then(|tables| place(&tables.routes, index))));
        text.push_str(&pair("path", &route.path));
        text.push_str(&pair("dialect", route.dialect.name()));
        text.extend(route.room.iter().map(|room| pair("room", room)));
        text.extend(route.subprotocol.iter().map(|subprotocol| pair("subprotocol", subprotocol)));
    }
    let default = if config.has_keys() { Who::Token } else { Who::Any };
    for (index, rule) in config.rooms.iter().enumerate() {
        text.push_str(&heading("rooms", tables.and_then(|tables| place(&tables.rooms, index))));
        text.push_str(&pair("match", &rule.pattern));
        for (key, who) in [("join", rule.join), ("publish", rule.publish)] {
            text.push_str(if who.is_none() { "# " } else { "" });
            text.push_str(&pair(key, name_of(&tables::PUBLISH, who.unwrap_or(default))));
        }
        text.push_str(&pair("slow", name_of(&tables::SLOW, rule.slow)));
    }
    for (index, issuer) in config.issuers.iter().enumerate() {
        text.push_str(&heading("auth.issuers", tables.and_then(|tables| place(&tables.issuers, index))));
        text.extend(issuer.rows().into_iter().map(|(key, value)| format!("{key} = {value}\n")));
    }
    for (index, grant) in config.grants.iter().enumerate() {
        text.push_str(&heading("auth.grants", tables.and_then(|tables| place(&tables.grants, index))));
        text.push_str(&format!("rooms = {}\n", list(&grant.rooms).unwrap_or_default()));
        text.push_str(&pair("allow", &grant.allow));
    }
    text
}

fn heading(list: &str, origin: Option<String>) -> String {
    format!("\n{}", commented(&format!("[[{list}]]"), &origin.unwrap_or_default()))
}

fn place<T>(items: &[(T, Origin)], index: usize) -> Option<String> {
    items.get(index).map(|(_, origin)| origin.to_string())
}

fn pair(key: &str, value: &str) -> String {
    format!("{key} = {}\n", quoted(value).unwrap_or_default())
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

/// Every setting as a table in Markdown, for the documentation: a row for each, in the order of `--print-config`. `host` is
/// what some defaults are derived from.
pub fn table(host: &Host) -> String {
    let origins = merge::default_origins(host);
    let defaults = Config::default();
    let mut text = String::from("| key | flag | environment | default | what it is |\n|---|---|---|---|---|\n");
    for setting in SETTINGS.iter() {
        let flag = match setting.kind {
            Kind::Daily(_) => format!("`{}`", setting.flag()),
            Kind::Rare | Kind::Secret => String::new(),
        };
        let default = match (&origins[setting.name.as_str()], (setting.show)(&defaults)) {
            (Origin::Default(""), Some(value)) => format!("`{value}`"),
            (Origin::Default(""), None) => setting.absent.to_owned(),
            (source, _) => source.to_string().trim_start_matches("default: ").to_owned(),
        };
        let (key, variable, about) = (&setting.keys[0], setting.variable(), sentence_part(setting.about));
        text.push_str(&format!("| `{key}` | {flag} | `{variable}` | {default} | {about} |\n"));
    }
    text
}

/// A sentence as it stands in a cell of a table: without its capital letter and its full stop.
fn sentence_part(sentence: &str) -> String {
    let sentence = sentence.trim().trim_end_matches('.');
    let mut characters = sentence.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}
