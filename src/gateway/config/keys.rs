//! The settings of all sections in one list: the names of each, how it is read into a [`Config`] and how it is shown.
//!
//! The list is made of the tables of the sections (`settings!`), which say everything that is known of a setting. Lists of tables are in
//! [`super::tables`].

use std::sync::LazyLock;

use super::Config;
use tidegate_core::setting::{Flag, Kind, Row, Section, Value};

type Read = Box<dyn Fn(&mut Config, &Value) -> Result<(), String> + Send + Sync>;
type Show = Box<dyn Fn(&Config) -> Option<String> + Send + Sync>;

/// One setting.
pub(super) struct Setting {
    /// The flag's name with underscores; `TIDEGATE_` and this in upper case is the environment's.
    pub(super) name: String,
    /// The name behind `--`, where the setting is a flag.
    pub(super) long: String,
    /// Keys of the file; the first is the one that is shown.
    pub(super) keys: Vec<String>,
    pub(super) kind: Kind,
    /// What it is, for the documentation.
    pub(super) about: &'static str,
    /// What it means that the setting is absent.
    pub(super) absent: &'static str,
    pub(super) read: Read,
    /// As TOML; `None` where it is absent.
    pub(super) show: Show,
}

/// Every setting, in the order in which it is shown: top-level keys first, then section by section.
pub(super) static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut all = section(|config| config, |config| config);
    all.extend(section(|config| &config.admin, |config| &mut config.admin));
    all.extend(section(|config| &config.auth, |config| &mut config.auth));
    all.extend(section(|config| &config.backend, |config| &mut config.backend));
    all.extend(section(|config| &config.publish, |config| &mut config.publish));
    all.extend(section(|config| &config.ready, |config| &mut config.ready));
    all.extend(section(|config| &config.nats, |config| &mut config.nats));
    all.extend(section(|config| &config.heartbeat, |config| &mut config.heartbeat));
    all.extend(section(|config| &config.drain, |config| &mut config.drain));
    all.extend(section(|config| &config.raw, |config| &mut config.raw));
    all.extend(section(|config| &config.proxies, |config| &mut config.proxies));
    all.extend(section(|config| &config.limits, |config| &mut config.limits));
    all
});

impl Setting {
    fn of<S: Section + 'static>(row: Row<S>, of: fn(&Config) -> &S, of_mut: fn(&mut Config) -> &mut S) -> Self {
        let in_section = |separator: &str| match S::NAME {
            "" => row.field.to_owned(),
            section => format!("{section}{separator}{}", row.field),
        };
        let name = row.given.name.map_or_else(|| in_section("_"), str::to_owned);
        Self {
            long: name.replace('_', "-"),
            name,
            keys: std::iter::once(in_section(".")).chain(row.given.alias.map(str::to_owned)).collect(),
            kind: row.given.kind,
            about: row.about,
            absent: row.absent,
            read: Box::new(move |config, value| (row.read)(of_mut(config), value)),
            show: Box::new(move |config| (row.show)(of(config))),
        }
    }

    pub(super) fn flag(&self) -> String {
        format!("--{}", self.long)
    }

    pub(super) fn variable(&self) -> String {
        format!("TIDEGATE_{}", self.name.to_ascii_uppercase())
    }

    pub(super) fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }
}

fn section<S: Section + 'static>(of: fn(&Config) -> &S, of_mut: fn(&mut Config) -> &mut S) -> Vec<Setting> {
    S::rows().into_iter().map(|row| Setting::of(row, of, of_mut)).collect()
}

/// Every setting in the order of a file, whose top-level keys must come before the first section: the heading, where a section begins
/// with the setting, its key in the section, and the setting.
pub(super) fn in_file_order() -> impl Iterator<Item = (Option<String>, &'static str, &'static Setting)> {
    let (top, sections): (Vec<&Setting>, Vec<&Setting>) =
        SETTINGS.iter().partition(|setting| !setting.keys[0].contains('.'));
    let mut section = "";
    top.into_iter().chain(sections).map(move |setting| {
        let (here, key) = setting.keys[0].rsplit_once('.').unwrap_or(("", &setting.keys[0]));
        let heading = (here != section).then(|| format!("\n[{here}]\n"));
        section = here;
        (heading, key, setting)
    })
}

/// The setting of that name.
pub(super) fn named(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// A setting that is a flag, as the command line shows it.
pub(crate) struct SettingFlag {
    /// The setting's name, with underscores.
    pub(crate) name: &'static str,
    /// The name behind `--`.
    pub(crate) long: &'static str,
    /// What `--help` says of it, with its variable and its default.
    pub(crate) help: String,
    /// Its heading, its place, and what stands for its value.
    pub(crate) flag: Flag,
}

/// Every setting that is a flag.
pub(crate) fn flags() -> impl Iterator<Item = SettingFlag> {
    let defaults = Config::default();
    SETTINGS.iter().filter_map(move |setting| {
        let Kind::Daily(flag) = setting.kind else { return None };
        let shown = (setting.show)(&defaults).unwrap_or_default();
        let default = match flag.default.unwrap_or(shown.trim_matches('"')) {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let help = format!("{} [{}]{default}", flag.help, setting.variable());
        Some(SettingFlag { name: &setting.name, long: &setting.long, help, flag })
    })
}
