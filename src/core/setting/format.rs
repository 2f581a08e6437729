//! Formats: how a value of a setting is typed, judged and shown. An entry of [`settings!`](super::settings) names one.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::value::{self, Value};

/// No time at all.
pub const ZERO: Duration = Duration::ZERO;
/// A millisecond.
pub const MS: Duration = Duration::from_millis(1);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;

/// How values of type `T` are typed and shown.
pub trait Format<T> {
    /// What was typed as a value.
    ///
    /// # Errors
    /// What was expected, and what was found.
    fn read(&self, typed: &Value) -> Result<T, String>;

    /// The value as TOML; `None` where it is absent.
    fn show(&self, value: &T) -> Option<String>;

    /// What it means that the value is absent; empty where there is always one.
    fn absent(&self) -> &'static str;
}

/// See [`boolean`].
pub struct Boolean;

/// true or false.
pub const fn boolean() -> Boolean {
    Boolean
}

impl Format<bool> for Boolean {
    fn read(&self, typed: &Value) -> Result<bool, String> {
        typed.boolean()
    }

    fn show(&self, value: &bool) -> Option<String> {
        plain(value)
    }

    fn absent(&self) -> &'static str {
        ""
    }
}

/// See [`integer`].
pub struct Integer(RangeInclusive<u64>);

/// A whole number within a range.
pub const fn integer(range: RangeInclusive<u64>) -> Integer {
    Integer(range)
}

impl<T: TryFrom<u64> + Display> Format<T> for Integer {
    fn read(&self, typed: &Value) -> Result<T, String> {
        typed.integer(self.0.clone())
    }

    fn show(&self, value: &T) -> Option<String> {
        plain(value)
    }

    fn absent(&self) -> &'static str {
        ""
    }
}

/// See [`size`].
pub struct Size(RangeInclusive<u64>);

/// Bytes, with or without a unit.
pub const fn size(range: RangeInclusive<u64>) -> Size {
    Size(range)
}

impl Format<u64> for Size {
    fn read(&self, typed: &Value) -> Result<u64, String> {
        typed.size(self.0.clone())
    }

    fn show(&self, value: &u64) -> Option<String> {
        quoted(&value::size(*value))
    }

    fn absent(&self) -> &'static str {
        ""
    }
}

impl Format<usize> for Size {
    fn read(&self, typed: &Value) -> Result<usize, String> {
        typed.size(self.0.clone()).map(|bytes| bytes as usize)
    }

    fn show(&self, value: &usize) -> Option<String> {
        quoted(&value::size(*value as u64))
    }

    fn absent(&self) -> &'static str {
        ""
    }
}

/// See [`time()`].
pub struct Time(RangeInclusive<Duration>);

/// A duration, with its unit.
pub const fn time(range: RangeInclusive<Duration>) -> Time {
    Time(range)
}

impl Format<Duration> for Time {
    fn read(&self, typed: &Value) -> Result<Duration, String> {
        typed.duration(self.0.clone())
    }

    fn show(&self, value: &Duration) -> Option<String> {
        quoted(&value::duration(*value))
    }

    fn absent(&self) -> &'static str {
        ""
    }
}

/// See [`choice`].
pub struct Choice<T: 'static>(&'static [(&'static str, T)]);

/// One of several names.
pub const fn choice<T>(names: &'static [(&'static str, T)]) -> Choice<T> {
    Choice(names)
}

impl<T: Copy + PartialEq> Format<T> for Choice<T> {
    fn read(&self, typed: &Value) -> Result<T, String> {
        typed.choice(self.0)
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, known)| known == value).and_then(|(name, _)| quoted(*name))
    }

    fn absent(&self) -> &'static str {
        ""
    }
}

/// See [`checked`].
pub struct Checked<T> {
    read: fn(&Value) -> Result<T, String>,
    show: fn(&T) -> Option<String>,
    absent: &'static str,
}

/// What functions of its own read and show. Where `show` gives nothing, the value counts as absent.
pub const fn checked<T>(read: fn(&Value) -> Result<T, String>, show: fn(&T) -> Option<String>) -> Checked<T> {
    Checked { read, show, absent: "" }
}

impl<T> Checked<T> {
    /// What it means that the value is absent.
    pub const fn absent(self, meaning: &'static str) -> Self {
        Self { absent: meaning, ..self }
    }
}

impl<T> Format<T> for Checked<T> {
    fn read(&self, typed: &Value) -> Result<T, String> {
        (self.read)(typed)
    }

    fn show(&self, value: &T) -> Option<String> {
        (self.show)(value)
    }

    fn absent(&self) -> &'static str {
        self.absent
    }
}

/// See [`auto_or`] and [`off_or`].
pub struct Auto<F> {
    word: &'static str,
    meaning: &'static str,
    format: F,
}

/// A value, or the word `auto`; `meaning` says what that is and begins with the word.
pub const fn auto_or<F>(meaning: &'static str, format: F) -> Auto<F> {
    Auto { word: "auto", meaning, format }
}

/// A value, or the word `off`.
pub const fn off_or<F>(format: F) -> Auto<F> {
    Auto { word: "off", meaning: "off", format }
}

impl<T, F: Format<T>> Format<Option<T>> for Auto<F> {
    fn read(&self, typed: &Value) -> Result<Option<T>, String> {
        typed.unless(self.word, |typed| self.format.read(typed))
    }

    fn show(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.format.show(value))
    }

    fn absent(&self) -> &'static str {
        self.meaning
    }
}

/// See [`optional`].
pub struct Optional<F> {
    meaning: &'static str,
    format: F,
}

/// A value that may be left out; `meaning` says what that means.
pub const fn optional<F>(meaning: &'static str, format: F) -> Optional<F> {
    Optional { meaning, format }
}

impl<T, F: Format<T>> Format<Option<T>> for Optional<F> {
    fn read(&self, typed: &Value) -> Result<Option<T>, String> {
        self.format.read(typed).map(Some)
    }

    fn show(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.format.show(value))
    }

    fn absent(&self) -> &'static str {
        self.meaning
    }
}

/// An address and port.
pub const fn address() -> Checked<SocketAddr> {
    checked(Value::address, quoted)
}

/// A value whose text is TOML as it is: a number, true or false.
pub fn plain<T: Display + ?Sized>(value: &T) -> Option<String> {
    Some(value.to_string())
}

/// A TOML string (TOML 1.0, basic string).
pub fn quoted<T: Display + ?Sized>(value: &T) -> Option<String> {
    let mut text = String::from("\"");
    for character in value.to_string().chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            character if character.is_control() => text.push_str(&format!("\\u{:04X}", character as u32)),
            character => text.push(character),
        }
    }
    text.push('"');
    Some(text)
}

/// A TOML array of strings.
pub fn list<T: Display>(items: &[T]) -> Option<String> {
    let items: Vec<String> = items.iter().filter_map(quoted).collect();
    Some(format!("[{}]", items.join(", ")))
}
