//! `TIDEGATE_…` variables: from names to typed values.
//!
//! Unknown ones only warn: Kubernetes injects some for a Service that is called tidegate.

use std::path::PathBuf;

use super::keys::{SETTINGS, Setting};
use super::origin::{Occurrence, Origin, nearest};
use tidegate_core::setting::Value;

/// Variables that are no settings: the settings file, and what the commands `pub`, `sub` and `drain` read.
const OTHERS: [&str; 3] = ["TIDEGATE_CONFIG", "TIDEGATE_NODE", "TIDEGATE_TOKEN"];

/// What the environment says, and what to warn about.
pub(super) fn read(variables: &[(String, String)]) -> (Vec<Occurrence>, Vec<String>) {
    let (mut occurrences, mut warnings, mut injected) = (Vec::new(), Vec::new(), Vec::new());
    for (name, text) in
        variables.iter().filter(|(name, _)| name.starts_with("TIDEGATE_") && !OTHERS.contains(&name.as_str()))
    {
        match known(name) {
            // Charts set a variable to nothing where they mean to leave it out.
            Some(_) if text.is_empty() => {}
            Some((setting, in_file)) => {
                let value = if in_file { Value::InFile(PathBuf::from(text)) } else { Value::Text(text.clone()) };
                let origin = Origin::Environment(name.clone());
                occurrences.push(Occurrence { setting, typed: name.clone(), value, origin });
            }
            None if is_injected(name) => injected.push(name.as_str()),
            None => warnings.push(unknown(name)),
        }
    }
    if !injected.is_empty() {
        warnings.push(format!(
            "ignoring what Kubernetes injects for a Service called tidegate: {}; enableServiceLinks: false stops it",
            injected.join(", ")
        ));
    }
    (occurrences, warnings)
}

fn known(name: &str) -> Option<(&'static Setting, bool)> {
    let by_name = |name: &str| SETTINGS.iter().find(|setting| setting.variable() == name);
    if let Some(setting) = by_name(name) {
        return Some((setting, false));
    }
    by_name(name.strip_suffix("_FILE")?).filter(|setting| setting.is_secret()).map(|setting| (setting, true))
}

/// `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_PORT`, `…_PORT_8080_TCP_ADDR` and their like.
fn is_injected(name: &str) -> bool {
    let rest = name.trim_start_matches("TIDEGATE");
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"].iter().any(|part| rest.contains(part)) || rest.ends_with("_PORT")
}

fn unknown(name: &str) -> String {
    let near = nearest(name, SETTINGS.iter().map(Setting::variable));
    let help = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    format!("ignoring the unknown environment variable {name}{help}")
}
