//! Percent-encoding (RFC 3986 §2.1): rooms in paths, logins in URLs.

use std::borrow::Cow;

/// A `%` that two hexadecimal digits do not follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The octets that the text stands for. A `%` without its digits is an error, and what follows it stands for itself.
pub fn octets(text: &str) -> impl Iterator<Item = Result<u8, Malformed>> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        rest = after;
        if first != b'%' {
            return Some(Ok(first));
        }
        let Some(octet) = rest.first_chunk().and_then(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)) else {
            return Some(Err(Malformed));
        };
        rest = &rest[2..];
        Some(Ok(octet))
    })
}

/// The text that the text stands for; `None` where a `%` is without its digits, or the result is not UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let octets = octets(text).collect::<Result<_, _>>().ok()?;
    String::from_utf8(octets).ok().map(Cow::Owned)
}

/// The text as one segment of a path: all but the unreserved characters encoded (RFC 3986 §2.3).
pub fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|octet| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(octet).to_string(),
        _ => format!("%{octet:02X}"),
    });
    encoded.collect()
}

fn digit(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percent_signs_decode_or_are_refused() {
        assert_eq!(decode("chat.room").as_deref(), Some("chat.room"));
        assert_eq!(decode("a%2Fb%2fc%25").as_deref(), Some("a/b/c%"));
        for bad in ["%", "%2", "%2g", "%+1", "%%41", "%ff", "a%c3"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_follows_a_percent_sign_without_digits_stands_for_itself() {
        let lenient = |text| octets(text).map(|octet| octet.unwrap_or(b'%')).collect::<Vec<_>>();
        for (text, decoded) in [("50%", "50%"), ("%4", "%4"), ("%zz%41", "%zzA"), ("%%41", "%A"), ("%+f", "%+f")] {
            assert_eq!(lenient(text), decoded.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_room_is_one_segment_of_the_path() {
        assert_eq!(encode("a.b-c"), "a.b-c");
        assert_eq!(encode("a/b?c#d%"), "a%2Fb%3Fc%23d%25");
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in any::<String>()) {
            let encoded = encode(&text);
            let decoded = decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(&*text));
        }

        #[test]
        fn any_text_decodes_to_no_more_octets_or_is_refused(text in any::<String>()) {
            prop_assert!(decode(&text).is_none_or(|decoded| decoded.len() <= text.len()));
        }
    }
}
