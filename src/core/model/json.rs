//! What is JSON for members: a text that is valid by RFC 8259, and that the usual parsers read. Pure.
//!
//! The grammar allows what parsers refuse: escapes of UTF-16 surrogates without their other half (RFC 8259 §8.2, "unpredictable"), and
//! any number of levels (§9 lets a parser set limits). A message is one JSON text for all members of a room, and a parser that fails
//! on a part of it loses the whole. So such content is refused when it is published, whatever way it comes.

use memchr::{memchr, memchr_iter, memchr2};

use crate::limits::JSON_LEVELS;

/// Why a text is not taken for JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadJson {
    /// It is no JSON text (RFC 8259 §2).
    Syntax,
    /// An escape such as `\ud800` stands without the other half of its pair.
    LoneSurrogate,
    /// Arrays and objects are more than [`JSON_LEVELS`] deep in one another.
    Nesting,
}

impl BadJson {
    /// What is wrong, and what is accepted.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Syntax => "it is no valid JSON",
            Self::LoneSurrogate => {
                "it has one half of a UTF-16 surrogate pair as an escape, such as \\ud800, which many JSON parsers refuse; \
                 write both halves, such as \\ud83d\\ude00, or the character itself"
            }
            Self::Nesting => {
                "its arrays and objects are nested more than 128 levels deep, which many JSON parsers refuse; \
                 send at most 128 levels, or the inner part as a string"
            }
        }
    }
}

const _: () = assert!(JSON_LEVELS == 128, "the text of BadJson::Nesting names the limit");

impl std::fmt::Display for BadJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.rule())
    }
}

/// Checks that a text is JSON, and that members can read it.
///
/// # Errors
/// What is wrong with it.
pub fn valid_json(text: &str) -> Result<(), BadJson> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| BadJson::Syntax)?;
    readable_json(text)
}

/// Checks that members can read a text that was parsed as JSON before.
///
/// # Errors
/// [`BadJson::LoneSurrogate`] or [`BadJson::Nesting`].
#[inline]
pub fn readable_json(json: &str) -> Result<(), BadJson> {
    let octets = json.as_bytes();
    // Each level has an octet at its begin and one at its end.
    if octets.len() < 2 * (JSON_LEVELS + 1) && memchr(b'\\', octets).is_none() {
        return Ok(());
    }
    readable(octets)
}

#[inline(never)]
fn readable(json: &[u8]) -> Result<(), BadJson> {
    if has_lone_surrogate(json) {
        return Err(BadJson::LoneSurrogate);
    }
    // Those inside strings count here too: it costs little, and most texts have fewer.
    let opening = memchr_iter(b'[', json).count() + memchr_iter(b'{', json).count();
    if opening > JSON_LEVELS && levels(json) > JSON_LEVELS { Err(BadJson::Nesting) } else { Ok(()) }
}

/// Whether one half of a surrogate pair stands alone. In JSON a backslash stands in strings only.
fn has_lone_surrogate(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = memchr(b'\\', rest) {
        let escape = &rest[at..];
        let len = match code_unit(escape) {
            None => 2,
            Some(0xd800..=0xdbff) if matches!(code_unit(&escape[6..]), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => return true,
            Some(_) => 6,
        };
        rest = escape.get(len..).unwrap_or_default();
    }
    false
}

/// The UTF-16 code unit of an escape `\uXXXX` at the beginning of a text.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// How many arrays and objects stand in one another at the deepest place.
fn levels(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut position) = (0_usize, 0, 0);
    while let Some(octet) = json.get(position) {
        position += 1;
        match octet {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => position = end_of_string(json, position),
            _ => {}
        }
    }
    deepest
}

/// The position after the string whose content begins at `position`.
fn end_of_string(json: &[u8], mut position: usize) -> usize {
    while let Some(at) = json.get(position..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        position += at + 1;
        if json[position - 1] == b'"' {
            return position;
        }
        // What is escaped may be a quotation mark.
        position += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn nested(levels: usize) -> String {
        "[".repeat(levels) + &"]".repeat(levels)
    }

    /// A client published `"\ud800"`, and another 30,000 brackets. Every member of the room got them, and the parsers of PHP, Rust and
    /// Java failed on the whole message.
    #[test]
    fn json_with_a_lone_surrogate_or_more_than_128_levels_is_refused() {
        for lone in [
            r"\ud800",
            r"\uDBFF",
            r"\udc00\ud800",
            r"\ud83d\ud83d\ude00",
            r"\ud83d\n\ude00",
            r"\ud83d\\ude00",
            r"\uD83Dx",
        ] {
            for text in [format!("\"{lone}\""), format!("{{\"{lone}\":1}}"), format!("[\"\\\\\",\"{lone}\"]")] {
                assert_eq!(valid_json(&text), Err(BadJson::LoneSurrogate), "{text}");
            }
        }
        for levels in [129, 30_000] {
            assert_eq!(valid_json(&nested(levels)), Err(BadJson::Nesting), "{levels}");
        }
        assert_eq!(valid_json(&(r#"{"a":"#.repeat(129) + "1" + &"}".repeat(129))), Err(BadJson::Nesting));
    }

    #[test]
    fn json_with_surrogate_pairs_escaped_backslashes_and_128_levels_is_valid() {
        for text in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#""\\\\ud800 \" \u0041""#, r#"{"\uD83D\uDE00":"é"}"#] {
            assert_eq!(valid_json(text), Ok(()), "{text}");
        }
        assert_eq!(valid_json(&nested(128)), Ok(()));
        // Brackets that are no levels: in strings, and beside one another.
        assert_eq!(valid_json(&format!("[\"\\\"{0}\",\"{0}\"]", "[{".repeat(1_000))), Ok(()));
        assert_eq!(valid_json(&format!("[{}[]]", "[{\"a\":[]}],".repeat(1_000))), Ok(()));
    }

    #[test]
    fn text_that_is_no_json_is_a_syntax_error_however_deep() {
        for text in ["", "NaN", "{} {}", "\"\\ud800", "\\ud800", &nested(1_000)[1..]] {
            assert_eq!(valid_json(text), Err(BadJson::Syntax), "{text}");
        }
    }

    #[test]
    fn a_million_levels_are_refused_without_a_deep_stack() {
        assert_eq!(valid_json(&nested(1 << 20)), Err(BadJson::Nesting));
    }

    prop_compose! {
        /// A string of pieces that are easy to take for one another.
        fn string()(pieces in prop::collection::vec(0_usize..12, 0..6)) -> String {
            let all = ["\\ud83d", "\\ude00", "\\uDBFF", "\\uDC00", "\\\\", "\\\"", "\\n", "u", "d800", "[", "{", "é"];
            format!("\"{}\"", pieces.into_iter().map(|piece| all[piece]).collect::<String>())
        }
    }

    prop_compose! {
        /// JSON with a string inside a few arrays and objects, which have others beside them, inside none or many more.
        fn json()(
            inner in string(),
            mixed in prop::collection::vec((0_usize..4, string()), 0..4),
            plain in prop_oneof![Just(0), 122_usize..132],
        ) -> String {
            let mixed = mixed.into_iter().fold(inner, |inner, (kind, beside)| match kind {
                0 => format!("[{inner}]"),
                1 => format!("[{beside},{inner},{{}}]"),
                2 => format!("{{\"a\":{inner}}}"),
                _ => format!("{{\"a\":[1],{beside}:{inner}}}"),
            });
            "[".repeat(plain) + &mixed + &"]".repeat(plain)
        }
    }

    proptest! {
        /// serde_json takes 127 levels into a `Value`, one fewer than is taken here.
        #[test]
        fn readable_json_is_what_serde_json_reads_as_a_value(json in json()) {
            let one_more = format!("[{json}]");
            prop_assert_eq!(valid_json(&one_more).is_ok(), serde_json::from_str::<Value>(&json).is_ok(), "{}", one_more);
            prop_assert_ne!(valid_json(&one_more), Err(BadJson::Syntax));
        }
    }
}
