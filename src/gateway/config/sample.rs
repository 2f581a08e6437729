//! `tuning/tidegate.toml`: a settings file in which each key stands as a comment with its default, to be copied and edited.
//!
//! `tests/tables.rs` compares the file with what is made here, and writes it with `UPDATE_DOCS=1`.

use super::keys::{Setting, in_file_order};
use super::{Config, Origin, merge};
use crate::gateway::host::Host;
use tidegate_core::setting::Kind;

/// What stands where the default is no value that could be typed.
const TO_FILL_IN: &str = "\"…\"";

/// Characters of a line of a comment, at most.
const LINE: usize = 120;

const HEAD: &str = "\
# Settings of a tidegate node. Each key is here with its default: remove the # before a key to change it.
# A key without a default has … in place of the value that you would give.
# The node reads tidegate.toml in its working directory, or the file that --config or TIDEGATE_CONFIG names.
# `tidegate check --config FILE` says whether it is valid, and what the host holds with it.
# docs/configuration.md explains the settings, with examples.
";

const LISTS: &str = "
# Paths of other programs: each with its dialect (native, raw, echo), and for raw with its room.
#[[routes]]
#path = \"/chat\"
#dialect = \"raw\"
#room = \"chat_channel\"
#subprotocol = \"chat.v2\"

# Rules for rooms, the first that matches: which clients may join (any, users, token, none) and publish (members too), and what
# happens to a client that does not read (close, drop-oldest). docs/tokens.md explains them, [[auth.issuers]] and [[auth.grants]].
#[[rooms]]
#match = \"dash.*\"
#join = \"any\"
#publish = \"any\"
#slow = \"close\"
";

/// The file's text. Defaults that a node derives from its host are named, as `host` has them.
pub fn sample(host: &Host) -> String {
    let (origins, defaults) = (merge::default_origins(host), Config::default());
    let mut text = String::from(HEAD);
    for (heading, key, setting) in in_file_order() {
        text.extend(heading);
        let derived = match &origins[setting.name.as_str()] {
            Origin::Default(source) => *source,
            _ => "",
        };
        text.push_str(&entry(setting, key, derived, (setting.show)(&defaults)));
    }
    text + LISTS
}

/// A setting: what it is, what its default means, and the key.
fn entry(setting: &Setting, key: &str, derived: &str, default: Option<String>) -> String {
    let about = setting.about.trim();
    let (meaning, value) = match default {
        Some(value) if derived.is_empty() => (String::new(), value),
        Some(_) => (format!(" Without it: {derived}."), String::from(TO_FILL_IN)),
        // `off`, or `auto: what that is`: the word can be typed.
        None if setting.absent == "off" => (String::new(), String::from("\"off\"")),
        None => match setting.absent.strip_prefix("auto: ") {
            Some(meaning) => (format!(" auto: {meaning}."), String::from("\"auto\"")),
            None => (format!(" Without it: {}.", setting.absent), String::from(TO_FILL_IN)),
        },
    };
    let mut entry = format!("\n{}#{key} = {value}\n", comment(&format!("{about}{meaning}")));
    if setting.kind == Kind::Secret {
        entry.push_str(&format!("#{key}_file = {TO_FILL_IN}\n"));
    }
    entry
}

/// A text as lines of a comment, at most [`LINE`] characters each.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split(' ') {
        if lines.last().is_some_and(|line| line.chars().count() + 1 + word.chars().count() > LINE) {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}
