//! A JSON object whose members are read one by one: a token's header and its claims.
//!
//! A name that stands twice makes the object invalid: parsers differ in which of the two they take, and a token must mean the same to
//! its issuer and to this node.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Members of an object, in the order in which they stand there.
#[derive(Debug)]
pub(super) struct Claims<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A member has another type than the one asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WrongType;

impl<'a> Claims<'a> {
    /// Reads an object; the error says what is wrong, in the words of the JSON parser.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The member of this name, or at this JSON pointer (RFC 6901), which begins with a slash. JSON's `null` is no member.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        match name.strip_prefix('/') {
            Some(path) => self.at(path),
            None => self.member(name),
        }
    }

    fn member(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        found.filter(|value| value.get() != "null")
    }

    fn at(&self, path: &str) -> Option<&'a RawValue> {
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let value = self.member(&first.replace("~1", "/").replace("~0", "~"))?;
        match rest {
            Some(rest) => Claims::read(value.get()).ok()?.at(rest),
            None => Some(value),
        }
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, WrongType> {
        self.get(name).map(|value| as_text(value).ok_or(WrongType)).transpose()
    }

    /// A time in seconds of Unix time, which may have a fraction (RFC 7519 §2), in ms. One that does not fit is as far away as can be.
    pub(super) fn time_ms(&self, name: &str) -> Result<Option<i64>, WrongType> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let seconds: f64 = serde_json::from_str(value.get()).map_err(|_| WrongType)?;
        Ok(Some((seconds * 1_000.0) as i64))
    }

    /// A string, or a list of strings.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<Cow<'a, str>>, WrongType> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        if let Some(text) = as_text(value) {
            return Ok(vec![text]);
        }
        let values: Vec<&'a RawValue> = serde_json::from_str(value.get()).map_err(|_| WrongType)?;
        values.into_iter().map(|value| as_text(value).ok_or(WrongType)).collect()
    }

    /// All members.
    pub(super) fn into_members(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        self.0
    }
}

/// The text of a JSON string.
pub(super) fn as_text(value: &RawValue) -> Option<Cow<'_, str>> {
    // Borrowed where nothing in it is escaped.
    serde_json::from_str::<&str>(value.get())
        .map(Cow::Borrowed)
        .or_else(|_| serde_json::from_str::<String>(value.get()).map(Cow::Owned))
        .ok()
}

impl<'de: 'a, 'a> Deserialize<'de> for Claims<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Claims<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom(format_args!("`{name}` stands twice")));
                    }
                    members.push((name, value));
                }
                Ok(Claims(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A member's name, borrowed where nothing in it is escaped.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_stands_twice_makes_the_token_invalid_also_where_one_is_escaped() {
        for text in [r#"{"sub":"a","sub":"a"}"#, r#"{"sub":"a","s\u0075b":"b"}"#] {
            let error = Claims::read(text).expect_err(text);
            assert!(error.contains("`sub` stands twice"), "{error}");
        }
    }

    #[test]
    fn a_claim_is_found_by_its_name_and_by_a_json_pointer() {
        let claims = Claims::read(r#"{"a/b":{"m~n":{"x":"deep"}},"/odd":1,"none":null,"plain":"text"}"#).unwrap();
        let found = |name| claims.text(name).unwrap();
        assert_eq!(found("/a~1b/m~0n/x").as_deref(), Some("deep"));
        assert_eq!(found("/plain").as_deref(), Some("text"));
        for absent in ["none", "nothing", "/a~1b/y", "/plain/x", "/", ""] {
            assert_eq!(claims.get(absent).map(RawValue::get), None, "{absent}");
        }
    }

    #[test]
    fn times_may_have_fractions_and_are_nothing_but_numbers() {
        let claims = Claims::read(r#"{"f":1.5,"n":-2,"big":1e300,"text":"5","list":[1]}"#).unwrap();
        assert_eq!(claims.time_ms("f"), Ok(Some(1_500)));
        assert_eq!(claims.time_ms("n"), Ok(Some(-2_000)));
        assert_eq!(claims.time_ms("big"), Ok(Some(i64::MAX)));
        assert_eq!(claims.time_ms("absent"), Ok(None));
        for wrong in ["text", "list"] {
            assert_eq!(claims.time_ms(wrong), Err(WrongType), "{wrong}");
        }
    }
}
