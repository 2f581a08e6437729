//! Settings as tables: [`settings!`] makes a section's structure, its defaults and its [`Row`]s out of one list, an entry for each
//! setting.
//!
//! A row says how a setting is called, how typed text becomes its value and how the value is shown. `config` puts the rows of
//! all sections together; the keys of the file, the variables, the flags, `--print-config` and the table of the documentation
//! follow from them. Sections that the core uses itself, such as [`Limits`](crate::limits::Limits), stand beside their code.

mod format;
pub mod value;

pub use format::{
    Auto, Boolean, Checked, Choice, Format, GIB, HOUR, Integer, KIB, MIB, MINUTE, MS, Optional, SECOND, Size, Time,
    ZERO, address, auto_or, boolean, checked, choice, integer, list, off_or, optional, plain, quoted, size, time,
};
pub use value::{Value, parse_duration};

/// A flag of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag {
    /// Heading of `--help` that it stands under.
    pub heading: &'static str,
    /// Its place in `--help`: flags are sorted by it.
    pub place: usize,
    /// What stands for its value; `BOOL` may be left out and means true.
    pub value_name: &'static str,
    /// What it is, in a line.
    pub help: &'static str,
    /// What `--help` calls the default; the default's value where nothing is said here.
    pub default: Option<&'static str>,
}

/// Where a setting may be given, and whether it may be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Flag, environment and file.
    Daily(Flag),
    /// Environment and file.
    Rare,
    /// As [`Kind::Rare`], never shown, and may stand in a file of its own (`…_file`).
    Secret,
}

/// How a setting is given: its kind, and its names where they do not follow from its section and field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// Flag, variable, file.
    pub kind: Kind,
    /// A second key of the file.
    pub alias: Option<&'static str>,
    /// The name behind `--` and `TIDEGATE_`, with underscores.
    pub name: Option<&'static str>,
    /// Whether another value waits for a restart; else a reload puts it in force.
    pub restart: bool,
}

/// By environment and file.
pub const fn rare() -> Given {
    Given { kind: Kind::Rare, alias: None, name: None, restart: false }
}

/// By environment and file, or in a file of its own; never shown.
pub const fn secret() -> Given {
    Given { kind: Kind::Secret, ..rare() }
}

/// By a flag, environment and file. The variable and the default are added to `help`.
pub const fn flag(heading: &'static str, place: usize, value_name: &'static str, help: &'static str) -> Given {
    Given { kind: Kind::Daily(Flag { heading, place, value_name, help, default: None }), ..rare() }
}

/// As [`flag`], for a setting that is off by default; the flag alone switches it on.
pub const fn switch(heading: &'static str, place: usize, help: &'static str) -> Given {
    flag(heading, place, "BOOL", help).default("")
}

impl Given {
    /// Lets the file name it by this key too.
    pub const fn alias(self, key: &'static str) -> Self {
        Self { alias: Some(key), ..self }
    }

    /// Gives it another name than its section and field together.
    pub const fn name(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Has another value wait for a restart.
    pub const fn restart(self) -> Self {
        Self { restart: true, ..self }
    }

    /// What `--help` calls its default; nothing is said of it where this is empty.
    pub const fn default(self, text: &'static str) -> Self {
        match self.kind {
            Kind::Daily(flag) => Self { kind: Kind::Daily(Flag { default: Some(text), ..flag }), ..self },
            Kind::Rare | Kind::Secret => self,
        }
    }
}

/// One setting of a section `S`.
pub struct Row<S> {
    /// Its field, which is the last part of its key.
    pub field: &'static str,
    /// What it is: the entry's doc comment.
    pub about: &'static str,
    /// How it is given.
    pub given: Given,
    /// What it means that it is absent; empty where it always has a value.
    pub absent: &'static str,
    /// Takes a typed value into the section.
    pub read: fn(&mut S, &Value) -> Result<(), String>,
    /// The value as TOML; `None` where it is absent.
    pub show: fn(&S) -> Option<String>,
    /// Whether two sections have the same value.
    pub same: fn(&S, &S) -> bool,
    /// Takes the value of another section.
    pub keep: fn(&mut S, &S),
}

/// A section of the file: a structure whose fields are settings.
pub trait Section: Sized {
    /// The name in brackets; empty for the keys at the top.
    const NAME: &'static str;

    /// Its settings, in the order in which they are shown.
    fn rows() -> Vec<Row<Self>>;
}

/// Makes the structure of a section, its defaults and its rows. An entry is
///
/// ```text
/// /// What it is: a line of the documentation's table.
/// field: Type = default, format of its values, how it is given;
/// ```
///
/// where the format is one of those in this module (`time(range)`, `size(range)`, `choice(names)`, …) and the last part is
/// [`rare()`], [`secret()`], [`flag(…)`](flag) or [`switch(…)`](switch), with [`.restart()`](Given::restart) where a reload cannot put
/// another value in force. Fields after `and` are no settings.
#[macro_export]
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $Section:ident in $name:literal {
            $($(#[doc = $about:literal])+ $field:ident: $type:ty = $default:expr, $format:expr, $given:expr;)*
        }
        $(and { $($(#[doc = $other_about:literal])+ $other:ident: $other_type:ty = $other_default:expr;)* })?
    ) => {
        $(#[$attribute])*
        $visibility struct $Section {
            $($(#[doc = $about])+ pub $field: $type,)*
            $($($(#[doc = $other_about])+ pub $other: $other_type,)*)?
        }

        impl Default for $Section {
            fn default() -> Self {
                Self { $($field: $default,)* $($($other: $other_default,)*)? }
            }
        }

        impl $crate::setting::Section for $Section {
            const NAME: &'static str = $name;

            fn rows() -> Vec<$crate::setting::Row<Self>> {
                use $crate::setting::{Format, Row};
                vec![$(Row {
                    field: stringify!($field),
                    about: concat!($($about),+),
                    given: $given,
                    absent: Format::<$type>::absent(&$format),
                    read: |section, value| {
                        section.$field = Format::<$type>::read(&$format, value)?;
                        Ok(())
                    },
                    show: |section| Format::<$type>::show(&$format, &section.$field),
                    same: |one, other| one.$field == other.$field,
                    keep: |section, other| section.$field.clone_from(&other.$field),
                }),*]
            }
        }
    };
}
pub use settings;
