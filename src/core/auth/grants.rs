//! Grants: which rooms a token opens, and for what.
//!
//! A token's claim `rooms` maps patterns to `r`, `w` or `rw`. A [`Template`] is a grant of the configuration, for tokens that cannot
//! carry rooms: claims stand in its pattern. [`Rights`] is what one token has of both, as one text, so that connections with the same
//! rights share it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::claims::{Claims, as_text};
use crate::limits::ROOM_NAME_BYTES;
use crate::model::valid_room;

/// Patterns in one token's grants.
const MOST_PATTERNS: usize = 64;
/// Octets of one token's patterns together.
const MOST_PATTERN_BYTES: usize = 4 * 1024;
/// How a dot within a claim's value stands in a room's name, so that the user `bob.x` is never within the rooms of `bob`.
const ESCAPED_DOT: &str = "%2E";

/// What may be done in a room: listen (`r`), publish (`w`), or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access(u8);

impl Access {
    /// Join and listen.
    pub const READ: Self = Self(1);
    /// Publish.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Reads `r`, `w`, `rw` or `wr`.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "r" => Some(Self::READ),
            "w" => Some(Self::WRITE),
            "rw" | "wr" => Some(Self::BOTH),
            _ => None,
        }
    }

    /// Whether all of `other` is allowed.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As an octet of [`Rights`].
    const fn letter(self) -> char {
        match self.0 {
            1 => 'r',
            2 => 'w',
            _ => 'b',
        }
    }

    const fn of_letter(letter: u8) -> Self {
        match letter {
            b'r' => Self::READ,
            b'w' => Self::WRITE,
            b'b' => Self::BOTH,
            _ => Self(0),
        }
    }
}

/// Why a text is no pattern of rooms; what is accepted is part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPattern(pub Cow<'static, str>);

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A room's name, a beginning and `*`, or `*` alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it. Before the `*` stands no letter or digit: `org.1*` would open `org.10` too.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it opens a room. Names that begin with `$` are opened only by patterns that do.
    pub fn matches(&self, room: &str) -> bool {
        matches(&self.0, room)
    }

    /// The pattern of the rooms that both open.
    pub fn within(&self, other: &Self) -> Option<Self> {
        let (narrow, wide) = if self.0.len() >= other.0.len() { (self, other) } else { (other, self) };
        let name = narrow.0.strip_suffix('*').unwrap_or(&narrow.0);
        let contained = match wide.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning) && name.starts_with('$') == beginning.starts_with('$'),
            None => wide == narrow,
        };
        (contained || wide == narrow).then(|| narrow.clone())
    }
}

#[inline]
fn matches(pattern: &str, room: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => room.starts_with(beginning) && (!room.starts_with('$') || beginning.starts_with('$')),
        None => pattern == room,
    }
}

fn check(pattern: &str) -> Result<(), BadPattern> {
    let (name, is_beginning) = match pattern.strip_suffix('*') {
        Some("") => return Ok(()),
        Some(beginning) => (beginning, true),
        None => (pattern, false),
    };
    if is_beginning && name.ends_with(|last: char| last.is_ascii_alphanumeric()) {
        let text = format!("`{pattern}` would open `{name}0` too; write `{name}.*` for what is below {name}");
        return Err(BadPattern(text.into()));
    }
    // A destination such as `$user.bob` is a name after its dollar.
    let name = name.strip_prefix('$').unwrap_or(name);
    let whole = if is_beginning { format!("{name}x") } else { name.to_owned() };
    valid_room(&whole).map_err(|error| BadPattern(format!("`{pattern}` opens no room: {error}").into()))
}

/// What one token opens: the patterns of its grants, and the values of those claims that the configuration's grants name.
///
/// One text: a line for each grant, the letter of its access and the pattern; then a line for each value, `=`, the claim's name, a
/// tab and the value. In order, so that the same rights are the same text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rights(Arc<str>);

impl Rights {
    /// No rights.
    pub fn none() -> Self {
        Self(Arc::from(""))
    }

    /// Reads the claim `rooms`, and takes what of it lies within `confines`, where there are any.
    ///
    /// # Errors
    /// It is no map of patterns to `r`, `w` or `rw`, a pattern is none, or there are too many.
    pub(super) fn of_claim(
        claim: Option<&RawValue>,
        confines: &[Pattern],
        values: &[(&str, Cow<'_, str>)],
    ) -> Result<Self, BadPattern> {
        let mut grants: BTreeMap<Pattern, u8> = BTreeMap::new();
        let members = match claim {
            Some(claim) => Claims::read(claim.get())
                .map_err(|error| {
                    BadPattern(format!("it must be an object of patterns, each with r, w or rw: {error}").into())
                })?
                .into_members(),
            None => Vec::new(),
        };
        if members.len() > MOST_PATTERNS
            || members.iter().map(|(name, _)| name.len()).sum::<usize>() > MOST_PATTERN_BYTES
        {
            let text = format!("it may have {MOST_PATTERNS} patterns of {MOST_PATTERN_BYTES} bytes together");
            return Err(BadPattern(text.into()));
        }
        for (name, value) in members {
            let access = as_text(value).and_then(|text| Access::named(&text));
            let access =
                access.ok_or_else(|| BadPattern(format!("`{name}` must have \"r\", \"w\" or \"rw\"").into()))?;
            let pattern = Pattern::new(&name)?;
            let mut grant = |pattern| *grants.entry(pattern).or_default() |= access.0;
            if confines.is_empty() {
                grant(pattern);
            } else {
                confines.iter().filter_map(|confine| pattern.within(confine)).for_each(grant);
            }
        }
        let mut text = String::new();
        for (pattern, access) in grants {
            text.push(Access(access).letter());
            text.push_str(pattern.as_str());
            text.push('\n');
        }
        for (name, value) in values {
            text.extend(["=", name, "\t", value, "\n"]);
        }
        Ok(Self(text.into()))
    }

    /// Rights as this type keeps them.
    pub fn as_text(&self) -> &Arc<str> {
        &self.0
    }

    /// The token's own grants: what each allows (`r`, `w` or `rw`), and its pattern.
    pub fn grants(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.lines().filter(|line| !line.starts_with('=')).map(|line| {
            let access = match line.as_bytes()[0] {
                b'r' => "r",
                b'w' => "w",
                _ => "rw",
            };
            (access, &line[1..])
        })
    }

    /// Whether one of the token's own grants allows this in a room.
    pub fn allow(&self, access: Access, room: &str) -> bool {
        let granted = |line: &str| Access::of_letter(line.as_bytes()[0]).has(access) && matches(&line[1..], room);
        self.0.lines().any(granted)
    }

    /// The value of a claim that the configuration's grants name.
    pub fn value(&self, claim: &str) -> Option<&str> {
        let of_claim = |line: &'_ str| -> Option<usize> {
            let rest = line.strip_prefix('=')?.strip_prefix(claim)?.strip_prefix('\t')?;
            Some(line.len() - rest.len())
        };
        self.0.lines().find_map(|line| of_claim(line).map(|at| &line[at..]))
    }
}

/// A grant of the configuration: a pattern in which claims stand, and what it allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    parts: Vec<Part>,
    is_beginning: bool,
    access: Access,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(Box<str>),
    /// The claim of this name.
    Claim(Box<str>),
}

impl Template {
    /// Reads a pattern such as `inbox.{sub}.*`.
    ///
    /// # Errors
    /// A brace has no partner, a claim no name, or the pattern is none whatever the claims say.
    pub fn new(text: &str, access: Access) -> Result<Self, BadPattern> {
        let (body, is_beginning) = text.strip_suffix('*').map_or((text, false), |body| (body, true));
        let mut parts = Vec::new();
        let mut example = String::new();
        let mut rest = body;
        let unpaired = || BadPattern(format!("`{text}`: a claim stands in braces, as in inbox.{{sub}}.*").into());
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(unpaired)?;
            if before.contains('}') || name.is_empty() || name.contains(['{', '\t', '\n']) {
                return Err(unpaired());
            }
            example.push_str(before);
            example.push('x');
            parts.extend([Part::Text(before.into()), Part::Claim(name.into())]);
            rest = after;
        }
        if rest.contains('}') {
            return Err(unpaired());
        }
        example.push_str(rest);
        parts.push(Part::Text(rest.into()));
        parts.retain(|part| *part != Part::Text("".into()));
        if is_beginning {
            example.push('*');
        }
        check(&example).map_err(|error| BadPattern(format!("`{text}`, with x for each claim: {error}").into()))?;
        Ok(Self { parts, is_beginning, access })
    }

    /// The claims that it names.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Claim(name) => Some(&**name),
            Part::Text(_) => None,
        })
    }

    /// Whether it allows this in a room, to the connection whose claims `value` knows. A claim without a value opens nothing.
    pub(super) fn allows<'a>(&self, access: Access, room: &str, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        if !self.access.has(access) {
            return false;
        }
        let opens_destinations = matches!(self.parts.first(), Some(Part::Text(text)) if text.starts_with('$'));
        if room.starts_with('$') && !opens_destinations {
            return false;
        }
        let mut rest = room;
        for part in &self.parts {
            let left = match part {
                Part::Text(text) => rest.strip_prefix(&**text),
                Part::Claim(name) => value(name).and_then(|value| strip_value(rest, value)),
            };
            let Some(left) = left else { return false };
            rest = left;
        }
        self.is_beginning || rest.is_empty()
    }
}

/// What follows a claim's value at the beginning of a room's name, where the value stands there with its dots escaped.
fn strip_value<'a>(room: &'a str, value: &str) -> Option<&'a str> {
    let mut rest = room;
    for (index, token) in value.split('.').enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(ESCAPED_DOT)?;
        }
        rest = rest.strip_prefix(token)?;
    }
    Some(rest)
}

/// Whether a claim's value can stand in a room's name.
pub(super) fn is_value(value: &str) -> bool {
    value.len() <= ROOM_NAME_BYTES && valid_room(value).is_ok()
}
