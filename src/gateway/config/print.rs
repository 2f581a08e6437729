//! `--print-config`: the outcome as TOML that can be saved and used, with the origin of each value beside it.
//!
//! Secrets are shown as comments, so that the mask never becomes a password.

use std::collections::BTreeMap;

use super::keys::{SETTINGS, Setting};
use super::merge::Settings;
use super::{Config, Origin, merge};
use crate::gateway::host::Host;
use tidegate_core::setting::{Kind, quoted};
use tidegate_core::shard::{PublishPolicy, SlowPolicy};

/// Column at which the origin begins, where the value leaves room.
const COMMENT_COLUMN: usize = 44;

/// The outcome of a merge.
pub(super) fn settings(settings: &Settings) -> String {
    let origins: BTreeMap<&str, String> =
        settings.origins.iter().map(|(name, origin)| (*name, origin.to_string())).collect();
    let mut text = scalars(&settings.config, &origins);
    let routes = settings.tables.routes.iter().map(|(_, origin)| origin.to_string());
    let rooms = settings.tables.rooms.iter().map(|(_, origin)| origin.to_string());
    text.push_str(&lists(&settings.config, &routes.collect::<Vec<_>>(), &rooms.collect::<Vec<_>>()));
    text
}

/// A configuration without the origins of its values.
pub(super) fn toml_of(config: &Config) -> String {
    scalars(config, &BTreeMap::new()) + &lists(config, &[], &[])
}

fn scalars(config: &Config, origins: &BTreeMap<&str, String>) -> String {
    let (mut text, mut section) = (String::new(), "");
    // Top-level keys must come before the first section.
    let (top, sections): (Vec<&Setting>, Vec<&Setting>) =
        SETTINGS.iter().partition(|setting| !setting.keys[0].contains('.'));
    for setting in top.into_iter().chain(sections) {
        let (here, key) = setting.keys[0].rsplit_once('.').unwrap_or(("", &setting.keys[0]));
        if here != section {
            text.push_str(&format!("\n[{here}]\n"));
            section = here;
        }
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

fn lists(config: &Config, route_origins: &[String], room_origins: &[String]) -> String {
    let mut text = String::new();
    let origin = |origins: &[String], index: usize| origins.get(index).cloned().unwrap_or_default();
    let pair = |key: &str, value: &str| format!("{key} = {}\n", quoted(value).unwrap_or_default());
    for (index, route) in config.routes.iter().enumerate() {
        text.push_str(&format!("\n{}", commented("[[routes]]", &origin(route_origins, index))));
        text.push_str(&pair("path", &route.path));
        text.push_str(&pair("dialect", route.dialect.name()));
        text.extend(route.room.iter().map(|room| pair("room", room)));
        text.extend(route.subprotocol.iter().map(|subprotocol| pair("subprotocol", subprotocol)));
    }
    for (index, rule) in config.rooms.iter().enumerate() {
        text.push_str(&format!("\n{}", commented("[[rooms]]", &origin(room_origins, index))));
        text.push_str(&pair("match", &rule.pattern));
        let publish = match rule.publish {
            PublishPolicy::Any => "any",
            PublishPolicy::Members => "members",
            PublishPolicy::None => "none",
        };
        let slow = match rule.slow {
            SlowPolicy::Close => "close",
            SlowPolicy::DropOldest => "drop-oldest",
        };
        text.push_str(&(pair("publish", publish) + &pair("slow", slow)));
    }
    text
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
