//! The typed text of one setting, and how it becomes a value: numbers, sizes, durations, choices.
//!
//! Every refusal says what was expected and what was found; the place where it was typed is added by `config`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type is refused with the same words")]

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One typed value. Flags and environment variables are always text; the file has types of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, from anywhere.
    Text(String),
    /// A whole number of the file.
    Integer(i64),
    /// true or false of the file.
    Boolean(bool),
    /// A list of texts of the file.
    List(Vec<String>),
    /// A file that holds the value, from a `…_file` key.
    InFile(PathBuf),
}

/// Units of sizes, largest first.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
/// Units of durations in ms, in the order in which suffixes must be tried.
const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Value {
    /// Text, or a whole number as text.
    ///
    /// # Errors
    /// As for all of these: what was expected, and what was found.
    pub fn text(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Integer(number) => Ok(number.to_string()),
            _ => Err(self.unlike("text")),
        }
    }

    /// Text that is not empty.
    pub fn filled(&self) -> Result<String, String> {
        let text = self.text()?;
        if text.trim().is_empty() { Err(String::from("must not be empty")) } else { Ok(text) }
    }

    /// true or false, in one of their spellings.
    pub fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Boolean(value) => Ok(*value),
            Self::Text(text) if matches!(text.as_str(), "true" | "1" | "yes" | "on") => Ok(true),
            Self::Text(text) if matches!(text.as_str(), "false" | "0" | "no" | "off") => Ok(false),
            _ => Err(self.unlike("true or false")),
        }
    }

    /// A list of the file, or text with commas.
    pub fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Text(text) => {
                Ok(text.split(',').map(|item| item.trim().to_owned()).filter(|i| !i.is_empty()).collect())
            }
            _ => Err(self.unlike("a list of texts")),
        }
    }

    /// An address and port. `:PORT` is every IPv4 address of the host. Of names only localhost: that one means loopback
    /// everywhere, without a lookup (RFC 6761 §6.3).
    pub fn address(&self) -> Result<SocketAddr, String> {
        let expected =
            "an address and port, such as 127.0.0.1:8080, localhost:8080 or :8080 (every address of this host)";
        let Self::Text(text) = self else { return Err(self.unlike(expected)) };
        let address = match text.rsplit_once(':') {
            Some(("localhost", port)) => port.parse().map(|port| (Ipv4Addr::LOCALHOST, port).into()).ok(),
            Some(("", port)) => port.parse().map(|port| (Ipv4Addr::UNSPECIFIED, port).into()).ok(),
            _ => text.parse().ok(),
        };
        address.ok_or_else(|| self.unlike(expected))
    }

    /// The name and port of text such as `gateway.example:8080`; `None` where it is an [address](Self::address), or neither.
    pub fn host_name(&self) -> Option<(&str, u16)> {
        let Self::Text(text) = self else { return None };
        let (name, port) = text.rsplit_once(':')?;
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        (is_name && self.address().is_err()).then_some((name, port.parse().ok()?))
    }

    /// A whole number within `range`.
    pub fn integer<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Result<T, String> {
        let number = match self {
            Self::Integer(number) => u64::try_from(*number).map_err(|_| out_of(&range, number))?,
            Self::Text(text) => text.replace('_', "").parse().map_err(|_| self.unlike("a whole number"))?,
            _ => return Err(self.unlike("a whole number")),
        };
        within(&range, number, ToString::to_string)?;
        T::try_from(number).map_err(|_| out_of(&range, &number))
    }

    /// Bytes: a number with a unit, or alone.
    pub fn size(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let expected = "a size such as 64KiB, 16MiB or 4096 (units: B, kB, MB, GB, KiB, MiB, GiB)";
        let bytes = match self {
            Self::Integer(number) => u64::try_from(*number).map_err(|_| self.unlike(expected))?,
            Self::Text(text) => {
                let unit = SIZES.iter().find(|(unit, _)| text.ends_with(unit)).copied();
                measured(text, unit.or(Some(("", 1)))).ok_or_else(|| self.unlike(expected))?
            }
            _ => return Err(self.unlike(expected)),
        };
        within(&range, bytes, |bytes| size(*bytes))?;
        Ok(bytes)
    }

    /// A number with a unit of time.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, String> {
        let expected = "a duration with its unit, such as 30s, 500ms or 2m (units: ms, s, m, h, d; 0 needs none)";
        let ms = match self {
            Self::Integer(0) => 0,
            Self::Text(text) if text.trim() == "0" => 0,
            Self::Text(text) => {
                let unit = DURATIONS.iter().find(|(unit, _)| text.ends_with(unit)).copied();
                measured(text, unit).ok_or_else(|| self.unlike(expected))?
            }
            _ => return Err(self.unlike(expected)),
        };
        let value = Duration::from_millis(ms);
        within(&range, value, |value| duration(*value))?;
        Ok(value)
    }

    /// One of the names in `choices`.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, String> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Err(self.unlike(&format!("one of {}", names.join(", "))))
    }

    /// Nothing for `word` ("auto", "off"), else what `read` makes of it.
    pub fn unless<T>(&self, word: &str, read: impl Fn(&Self) -> Result<T, String>) -> Result<Option<T>, String> {
        match self {
            Self::Text(text) if text == word => Ok(None),
            _ => read(self).map(Some).map_err(|offence| format!("{offence}; \"{word}\" is accepted too")),
        }
    }

    fn unlike(&self, expected: &str) -> String {
        let found = match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(items) => format!("{items:?}"),
            Self::InFile(path) => format!("the file {}", path.display()),
        };
        format!("{found} is not {expected}")
    }
}

/// The number before `unit`, times what the unit stands for.
fn measured(text: &str, unit: Option<(&str, u64)>) -> Option<u64> {
    let (unit, scale) = unit?;
    let number: u64 = text.strip_suffix(unit)?.trim().replace('_', "").parse().ok()?;
    number.checked_mul(scale)
}

fn within<T: PartialOrd>(range: &RangeInclusive<T>, value: T, show: impl Fn(&T) -> String) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{} is out of range: {} to {}", show(&value), show(range.start()), show(range.end())))
}

fn out_of<T: Display>(range: &RangeInclusive<u64>, value: &T) -> String {
    format!("{value} is out of range: {} to {}", range.start(), range.end())
}

/// A duration as the settings take it, in the largest unit that shows it whole.
pub fn duration(value: Duration) -> String {
    let ms = value.as_millis() as u64;
    if ms == 0 {
        return String::from("0s");
    }
    let (unit, scale) = DURATIONS
        .iter()
        .rev()
        .filter(|(unit, _)| *unit != "d")
        .find(|(_, scale)| ms.is_multiple_of(*scale))
        .unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / scale)
}

/// A size as the settings take it, in the largest binary unit that shows it whole.
pub fn size(bytes: u64) -> String {
    let (unit, scale) =
        SIZES[..3].iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// Reads a duration that is no setting, such as the time that a command waits.
///
/// # Errors
/// What is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Value::Text(text.to_owned()).duration(Duration::ZERO..=Duration::from_secs(24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: RangeInclusive<Duration> = Duration::ZERO..=Duration::MAX;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn durations_are_numbers_with_a_unit() {
        for (typed, ms) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("1 d", 86_400_000), ("0", 0)]
        {
            assert_eq!(text(typed).duration(ANY), Ok(Duration::from_millis(ms)), "{typed}");
        }
        for typed in ["30", "s", "-1s", "1.5s", "30 parsecs", ""] {
            assert!(text(typed).duration(ANY).is_err(), "{typed}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_or_without_a_unit() {
        for (typed, bytes) in
            [("64KiB", 65_536), ("16 MiB", 1 << 24), ("1GB", 1_000_000_000), ("4_096", 4096), ("7B", 7)]
        {
            assert_eq!(text(typed).size(0..=u64::MAX), Ok(bytes), "{typed}");
        }
        for typed in ["64KB", "KiB", "-1", "99999999999999GiB"] {
            assert!(text(typed).size(0..=u64::MAX).is_err(), "{typed}");
        }
    }

    #[test]
    fn an_address_is_an_ip_localhost_or_a_port_alone_and_a_host_name_is_told_apart() {
        for (typed, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
            (":80", "0.0.0.0:80"),
        ] {
            assert_eq!(text(typed).address(), Ok(address.parse().unwrap()), "{typed}");
            assert_eq!(text(typed).host_name(), None, "{typed}");
        }
        assert_eq!(text("gateway-1.example:80").host_name(), Some(("gateway-1.example", 80)));
        for typed in ["8080", "nowhere", ":", ":x", "::1", "a b:80", "gateway:65536", "http://gateway:80"] {
            assert!(text(typed).address().is_err(), "{typed}");
            assert_eq!(text(typed).host_name(), None, "{typed}");
        }
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for ms in [0, 1, 999, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let value = Duration::from_millis(ms);
            assert_eq!(text(&duration(value)).duration(ANY), Ok(value));
        }
        for bytes in [0, 1, 1000, 1024, 65_536, 65_537, 1 << 24, 3 << 30] {
            assert_eq!(text(&size(bytes)).size(0..=u64::MAX), Ok(bytes));
        }
    }

    #[test]
    fn a_refusal_names_the_range() {
        assert_eq!(text("300").integer::<u16>(1..=256), Err("300 is out of range: 1 to 256".to_owned()));
        assert_eq!(Value::Integer(-1).integer::<u16>(0..=9), Err("-1 is out of range: 0 to 9".to_owned()));
        assert_eq!(
            text("2h").duration(Duration::ZERO..=Duration::from_secs(60)),
            Err("2h is out of range: 0s to 1m".to_owned())
        );
        assert_eq!(text("1KiB").size(2048..=4096), Err("1KiB is out of range: 2KiB to 4KiB".to_owned()));
    }
}
