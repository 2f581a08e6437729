//! What a backend's request publishes. Pure: headers and body in, [`Publish`] or [`Problem`] out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::publish_options::PublishOptions;
use super::reply::Problem;
use super::route::room_name;
use tidegate_core::limits::PUBLISH_ROOMS as ROOMS_MAX;
use tidegate_core::model::{BadJson, Kind, RoomName, readable_json, valid_json};
use tidegate_core::relay::envelope::without_bom;

/// What is waited for an acknowledgement beyond the relay's own deadline, so that it is the relay that says no.
pub(super) const ACKNOWLEDGEMENT_MARGIN: Duration = Duration::from_secs(1);

/// A message and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Publish {
    /// Each once, at least one.
    pub(super) rooms: Vec<RoomName>,
    pub(super) kind: Kind,
    /// Valid for its kind.
    pub(super) payload: Bytes,
    pub(super) options: PublishOptions,
}

/// What Content-Type says of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Json,
    Text,
    Binary,
    /// Nothing: the bytes speak for themselves, as with the broker.
    Nothing,
}

/// Refuses a body that is compressed: its bytes are not the message (RFC 9110 §8.4).
///
/// # Errors
/// 415 with Accept-Encoding (RFC 9110 §15.5.16).
fn plain(headers: &HeaderMap) -> Result<(), Problem> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = codings.flat_map(|value| value.as_bytes().split(|octet| *octet == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    if codings.all(|coding| coding.eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let message = "compressed bodies are not taken; send the body as it is, without Content-Encoding";
    Err(Problem::new(415, "unsupported-content-encoding", message).with("accept-encoding", "identity"))
}

/// `POST /v1/rooms/ROOM/messages`: the body is the message.
///
/// # Errors
/// 400 or 415.
pub(super) fn of_room(
    room: RoomName,
    options: PublishOptions,
    headers: &HeaderMap,
    payload: Bytes,
) -> Result<Publish, Problem> {
    plain(headers)?;
    let kind = match said(headers)? {
        Said::Json => {
            checked(without_bom(&payload)).map_err(|why| match why {
                BadJson::Syntax => bad_json("the body is no valid JSON; fix it, or send it as text/plain"),
                BadJson::LoneSurrogate | BadJson::Nesting => unreadable("the body", why),
            })?;
            Kind::Json
        }
        Said::Text if std::str::from_utf8(&payload).is_ok() => Kind::Text,
        Said::Text => {
            return Err(Problem::bad("bad-text", "the body is no valid UTF-8; send it as application/octet-stream"));
        }
        Said::Binary => Kind::Binary,
        Said::Nothing if payload.is_empty() => {
            return Err(Problem::bad("bad-message", "the body is the message, and there is none"));
        }
        Said::Nothing => sniffed(&payload),
    };
    // A byte order mark before JSON is skipped: members would get it as a part of the message.
    let payload = if kind == Kind::Json { payload.slice_ref(without_bom(&payload)) } else { payload };
    Ok(Publish { rooms: vec![room], kind, payload, options })
}

/// `POST /v1/messages`: `{"rooms":[…],"content":ANY}`, with `user`, `exclude` and `excludeUser` as in the query of the other.
///
/// # Errors
/// 400, 413 or 415.
pub(super) fn of_rooms(headers: &HeaderMap, body: &Bytes, message_bytes: usize) -> Result<Publish, Problem> {
    #[derive(Deserialize)]
    struct Wanted<'a> {
        #[serde(borrow)]
        rooms: Vec<Cow<'a, str>>,
        #[serde(borrow)]
        content: &'a RawValue,
        #[serde(borrow)]
        user: Option<Cow<'a, str>>,
        #[serde(borrow)]
        exclude: Option<Cow<'a, str>>,
        #[serde(borrow, rename = "excludeUser")]
        exclude_user: Option<Cow<'a, str>>,
    }
    plain(headers)?;
    if !matches!(said(headers)?, Said::Json | Said::Nothing) {
        return Err(Problem::new(415, "unsupported-media-type", "send application/json"));
    }
    let bad =
        |why: &dyn Display| bad_json(format!("the body must be {{\"rooms\":[\"ROOM\",…],\"content\":ANY}}: {why}"));
    let body = body.slice_ref(without_bom(body));
    // serde would take a list of the values, in order, for the object.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(bad(&"it is a list"));
    }
    let wanted: Wanted<'_> = serde_json::from_slice(&body).map_err(|error| bad(&error))?;
    // A room named twice still gets it once.
    let names: BTreeSet<_> = wanted.rooms.iter().map(AsRef::as_ref).collect();
    if names.is_empty() || names.len() > ROOMS_MAX {
        return Err(Problem::bad("bad-room", format!("name 1 to {ROOMS_MAX} rooms; send several requests for more")));
    }
    let rooms = names.into_iter().map(room_name).collect::<Result<_, _>>()?;
    if wanted.content.get().len() > message_bytes {
        return Err(Problem::too_large("the content", message_bytes));
    }
    readable_json(wanted.content.get()).map_err(|why| unreadable("`content`", why))?;
    let Wanted { user, exclude, exclude_user, .. } = &wanted;
    let options = PublishOptions::new(user.as_deref(), exclude.as_deref(), exclude_user.as_deref())?;
    let payload = body.slice_ref(wanted.content.get().as_bytes());
    Ok(Publish { rooms, kind: Kind::Json, payload, options })
}

fn said(headers: &HeaderMap) -> Result<Said, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Said::Nothing) };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Said::Json),
        "application/octet-stream" => Ok(Said::Binary),
        kind if kind.ends_with("+json") => Ok(Said::Json),
        kind if kind.starts_with("text/") => Ok(Said::Text),
        _ => {
            let message = "this Content-Type is not taken; send application/json, text/plain or application/octet-stream \
                           (curl: -H 'Content-Type: application/json')";
            Err(Problem::new(415, "unsupported-media-type", message))
        }
    }
}

fn sniffed(payload: &[u8]) -> Kind {
    if checked(without_bom(payload)).is_ok() {
        Kind::Json
    } else if std::str::from_utf8(payload).is_ok() {
        Kind::Text
    } else {
        Kind::Binary
    }
}

/// Whether a payload is JSON that members can read. What is no UTF-8 is no JSON text either (RFC 8259 §8.1).
fn checked(payload: &[u8]) -> Result<(), BadJson> {
    valid_json(std::str::from_utf8(payload).map_err(|_| BadJson::Syntax)?)
}

/// JSON that other parsers refuse.
fn unreadable(what: &str, why: BadJson) -> Problem {
    Problem::bad("bad-message", format!("{what} is refused: {why}"))
}

fn bad_json(message: impl Into<Cow<'static, str>>) -> Problem {
    Problem::bad("bad-json", message)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn typed(content_type: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        headers
    }

    fn one(content_type: &'static str, body: &'static [u8]) -> Result<Kind, (u16, &'static str)> {
        let publish =
            of_room("lobby".into(), PublishOptions::default(), &typed(content_type), Bytes::from_static(body));
        publish.map(|publish| publish.kind).map_err(|problem| (problem.status, problem.code))
    }

    fn many(body: &str) -> Result<Publish, (u16, &'static str)> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        of_rooms(&typed("application/json"), &body, 16).map_err(|problem| (problem.status, problem.code))
    }

    #[test]
    fn the_content_type_is_honoured() {
        assert_eq!(one("application/json; charset=utf-8", b"{\"a\":1}"), Ok(Kind::Json));
        assert_eq!(one("application/cloudevents+json", b"[]"), Ok(Kind::Json));
        assert_eq!(one("Text/Plain", b"{\"a\":1}"), Ok(Kind::Text));
        assert_eq!(one("application/octet-stream", b"{}"), Ok(Kind::Binary));
    }

    #[test]
    fn without_a_content_type_the_payload_decides_as_it_does_from_the_broker() {
        assert_eq!(one("", b" 7 "), Ok(Kind::Json));
        assert_eq!(one("", b"seven"), Ok(Kind::Text));
        assert_eq!(one("", b"\xff"), Ok(Kind::Binary));
        assert_eq!(one("", b""), Err((400, "bad-message")));
    }

    #[test]
    fn a_byte_order_mark_before_json_is_skipped() {
        for content_type in ["", "application/json"] {
            let body = Bytes::from_static(b"\xef\xbb\xbf{}");
            let publish = of_room("lobby".into(), PublishOptions::default(), &typed(content_type), body).unwrap();
            assert_eq!((publish.kind, &publish.payload[..]), (Kind::Json, &b"{}"[..]));
        }
        assert_eq!(one("text/plain", b"\xef\xbb\xbf{}"), Ok(Kind::Text));
        assert_eq!(many("\u{feff}{\"rooms\":[\"a\"],\"content\":1}").unwrap().payload.as_ref(), b"1");
    }

    #[test]
    fn a_body_that_is_not_what_it_says_is_refused() {
        assert_eq!(one("application/json", b"{"), Err((400, "bad-json")));
        assert_eq!(one("application/json", b"1 2"), Err((400, "bad-json")));
        assert_eq!(one("application/json", b"\"\xff\""), Err((400, "bad-json")));
        assert_eq!(one("text/plain", b"\xc3\x28"), Err((400, "bad-text")));
        assert_eq!(one("application/x-www-form-urlencoded", b"a=b"), Err((415, "unsupported-media-type")));
    }

    /// A backend passed on what its users typed, half an emoji in it, and what a scraper had nested 30,000 levels deep: the parsers of
    /// all members failed on the whole message.
    #[test]
    fn json_that_other_parsers_cannot_read_is_refused_and_says_what_is_accepted() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let refusals = |content: &str| {
            let one = of_room(
                "lobby".into(),
                PublishOptions::default(),
                &typed("application/json"),
                Bytes::copy_from_slice(content.as_bytes()),
            );
            let body = Bytes::from(format!("{{\"rooms\":[\"a\"],\"content\":{content}}}"));
            let many = of_rooms(&typed("application/json"), &body, 1 << 20);
            [one, many].map(|publish| publish.err().map(|problem| (problem.status, problem.code, problem.message)))
        };
        for (content, accepted) in [(deep(129), "at most 128 levels"), ("\"\\ud800\"".into(), "write both halves")] {
            for refusal in refusals(&content) {
                let (status, code, message) = refusal.expect("it is refused");
                assert_eq!((status, code), (400, "bad-message"), "{message}");
                assert!(message.contains(accepted), "{message}");
            }
            let said_nothing =
                of_room("lobby".into(), PublishOptions::default(), &typed(""), Bytes::from(content)).unwrap();
            assert_eq!(said_nothing.kind, Kind::Text, "nothing was promised: members get a string");
        }
        assert_eq!(refusals(&deep(128)), [None, None]);
        assert_eq!(refusals("\"\\ud83d\\ude00\""), [None, None]);
    }

    /// A backend's HTTP client compressed the body and said so; the room got the compressed octets as its message.
    #[test]
    fn a_body_with_a_content_encoding_is_415_and_says_what_is_accepted() {
        let encoded = |codings: &[&'static str]| {
            let mut headers = typed("application/json");
            for coding in codings {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            let one = of_room("lobby".into(), PublishOptions::default(), &headers, Bytes::from_static(b"1"));
            let many = of_rooms(&headers, &Bytes::from_static(b"{\"rooms\":[\"a\"],\"content\":1}"), 16);
            assert_eq!(one.as_ref().err(), many.as_ref().err(), "both endpoints");
            one.map_or_else(|problem| (problem.status, problem.header), |_| (200, None))
        };
        let refused = (415, Some(("accept-encoding", "identity")));
        for codings in [&["gzip"][..], &["br"], &["deflate"], &["identity, gzip"], &["identity", "zstd"], &["x"]] {
            assert_eq!(encoded(codings), refused, "{codings:?}");
        }
        for codings in [&[][..], &[""], &["identity"], &["Identity, identity"]] {
            assert_eq!(encoded(codings), (200, None), "{codings:?}");
        }
    }

    #[test]
    fn several_rooms_get_the_content_as_it_is_and_each_once() {
        let publish = many(r#"{"rooms":["b","a","b","\u0063"],"content": {"x": 1} ,"more":0}"#).unwrap();
        assert_eq!(publish.rooms, ["a".into(), "b".into(), "c".into()] as [RoomName; 3]);
        assert_eq!((publish.kind, publish.payload.as_ref()), (Kind::Json, &b"{\"x\": 1}"[..]));
        assert_eq!(publish.options, PublishOptions::default());
    }

    #[test]
    fn several_rooms_take_the_options_in_the_body() {
        let publish = many(r#"{"rooms":["a"],"content":1,"user":"bot","excludeUser":"alice"}"#).unwrap();
        assert_eq!(publish.options, PublishOptions::parse("user=bot&excludeUser=alice").unwrap());
        assert_eq!(many(r#"{"rooms":["a"],"content":1,"exclude":"alice"}"#), Err((400, "bad-parameter")));
        assert_eq!(many(r#"{"rooms":["a"],"content":1,"user":7}"#), Err((400, "bad-json")));
    }

    #[test]
    fn a_list_of_rooms_is_checked_whole_before_anything_is_published() {
        assert_eq!(many(r#"{"rooms":[],"content":1}"#), Err((400, "bad-room")));
        assert_eq!(many(r#"{"rooms":["ok","not ok"],"content":1}"#), Err((400, "bad-room")));
        assert_eq!(many(r#"{"rooms":["ok"]}"#), Err((400, "bad-json")));
        assert_eq!(many(r#"{"rooms":"ok","content":1}"#), Err((400, "bad-json")));
        // The fields without their names were taken too.
        assert_eq!(many(r#"[["ok"],1]"#), Err((400, "bad-json")));
        assert_eq!(many(r#"{"rooms":["ok"],"content":"0123456789abcdef"}"#), Err((413, "message-too-large")));
        let names: Vec<_> = (0..=ROOMS_MAX).map(|n| n.to_string()).collect();
        assert_eq!(many(&serde_json::json!({"rooms": names, "content": 1}).to_string()), Err((400, "bad-room")));
    }
}
