//! Where a value came from, what is wrong with it, and which name may have been meant.

use std::fmt;

use super::keys::Setting;
use tidegate_core::setting::Value;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It was not set; what the default was derived from, if from anything.
    Default(&'static str),
    /// The profile sets it.
    Profile,
    /// The configuration file.
    File {
        /// The file, as it was named.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default("") => f.write_str("default"),
            Self::Default(source) => write!(f, "default: {source}"),
            Self::Profile => f.write_str("profile conformance"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the settings, and where it was typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// `tidegate.toml:3`, `TIDEGATE_SHARDS`, `--shards`, or empty where several places are concerned.
    pub place: String,
    /// What was wrong and what to do.
    pub text: String,
}

impl Problem {
    pub(super) fn at(origin: &Origin, text: impl Into<String>) -> Self {
        let place = match origin {
            Origin::File { path, line } => format!("{path}:{line}"),
            Origin::Environment(name) | Origin::Flag(name) => name.clone(),
            Origin::Default(_) | Origin::Profile => String::new(),
        };
        Self { place, text: text.into() }
    }

    /// A problem of several settings together.
    pub(super) fn between(text: impl Into<String>) -> Self {
        Self { place: String::new(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() { f.write_str(&self.text) } else { write!(f, "{}: {}", self.place, self.text) }
    }
}

/// One setting, typed somewhere.
pub(super) struct Occurrence {
    pub(super) setting: &'static Setting,
    /// As it was typed: a key, a variable, a flag.
    pub(super) typed: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The known name that is most like `typed`, if one is like it at all.
pub(super) fn nearest(typed: &str, known: impl Iterator<Item = String>) -> Option<String> {
    known
        .map(|name| (strsim::damerau_levenshtein(typed, &name), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .map(|(_, name)| name)
}

/// ` did you mean …?` where something is near, else what is accepted.
pub(super) fn suggestion(near: Option<String>, otherwise: &str) -> String {
    near.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean \"{name}\"?"))
}
