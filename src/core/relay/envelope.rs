//! What travels beside a payload through the broker: one header, `Tidegate`. Pure.
//!
//! ```text
//! Tidegate: v1; time=NS; kind=json|text|binary; from=ID; user=USER; connection=ID; except=ID; except-user=USER
//! ```
//!
//! `time` is the publisher's clock in ns since 1970, `from` the connection that is shown as the sender. `connection` says the same as `from`
//! where the sender must not receive its own message (`echo: false`); any other value is ignored. `user` is shown as the sender too.
//! `except` and `except-user` name a connection and a user that do not get the message. In a user `;` and `%` stand as `%3B` and `%25`.
//! Gateways write it; backends may. It is one header and not four because each costs the receiver a hash table entry.
//!
//! Nothing in it is trusted: what cannot be read counts as absent. What a payload is says `kind`, else the header `Content-Type`, else
//! the payload itself. What is called JSON and is none, or is JSON that parsers cannot read, is refused ([`BadJson`]): members would
//! parse it.
//!
//! A byte order mark before JSON is skipped (RFC 8259 §8.1 lets a parser do so); members never get it.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;

use crate::model::{BadJson, ConnectionId, Except, Kind, Publication, RoomName, UserName, valid_json, valid_user};
use crate::percent;

/// The header's name.
pub const HEADER: &str = "Tidegate";

/// Bytes that the header adds to a payload in the broker at most: `NATS/1.0`, the longest header, line ends.
pub const ENVELOPE_BYTES: usize = 1024;

const VERSION: &str = "v1";

/// The header's value for a publication.
pub fn write(publication: &Publication) -> String {
    let mut value = String::with_capacity(128);
    // Writing to a String cannot fail.
    let _ = write!(value, "{VERSION}; time={}; kind={}", publication.time_unix_ns, kind_name(publication.kind));
    if let Some(from) = publication.from {
        let _ = write!(value, "; from={from}");
        if !publication.echo {
            let _ = write!(value, "; connection={from}");
        }
    }
    if let Some(user) = &publication.user {
        let _ = write!(value, "; user={}", escaped(user));
    }
    if let Some(except) = &publication.except {
        if let Some(connection) = except.connection {
            let _ = write!(value, "; except={connection}");
        }
        if let Some(user) = &except.user {
            let _ = write!(value, "; except-user={}", escaped(user));
        }
    }
    value
}

/// A user's name with what would end its field, and the sign of that, percent-encoded.
fn escaped(user: &str) -> Cow<'_, str> {
    if user.contains(['%', ';']) {
        Cow::Owned(user.replace('%', "%25").replace(';', "%3B"))
    } else {
        Cow::Borrowed(user)
    }
}

/// The user that a field names.
fn user_of(value: &str) -> Option<UserName> {
    percent::decode(value).filter(|name| valid_user(name)).map(|name| UserName::from(&*name))
}

/// The headers of a message that say what its payload is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// The value of `Tidegate`.
    pub tidegate: Option<&'a str>,
    /// The value of `Content-Type`.
    pub content_type: Option<&'a str>,
}

/// A publication from what the broker brought. `now_unix_ns` is asked where the header names no time.
///
/// # Errors
/// Why a payload that its sender calls JSON is none: the message is not to be delivered.
pub fn read(
    room: RoomName,
    headers: Headers<'_>,
    payload: Bytes,
    now_unix_ns: impl FnOnce() -> u64,
) -> Result<Publication, BadJson> {
    let fields = headers.tidegate.and_then(Fields::parse).unwrap_or_default();
    let announced = fields.kind.or_else(|| headers.content_type.and_then(kind_of_content_type));
    let text = without_bom(&payload);
    let kind = kind_of(text, announced);
    if announced == Some(Kind::Json) && kind != Kind::Json {
        // What is no UTF-8 is no JSON text either (RFC 8259 §8.1).
        return Err(std::str::from_utf8(text).ok().and_then(|text| valid_json(text).err()).unwrap_or(BadJson::Syntax));
    }
    let skipped = if kind == Kind::Json { payload.len() - text.len() } else { 0 };
    Ok(Publication {
        room,
        kind,
        payload: if skipped > 0 { payload.slice(skipped..) } else { payload },
        from: fields.from,
        user: fields.user,
        except: Except::new(fields.except, fields.except_user),
        echo: fields.connection.is_none() || fields.connection != fields.from,
        time_unix_ns: fields.time_unix_ns.unwrap_or_else(now_unix_ns),
    })
}

/// Text without the byte order mark that may stand before it.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// What a media type says of a payload (RFC 6838 §4.2.8 for `+json`): nothing where it is none of these.
fn kind_of_content_type(value: &str) -> Option<Kind> {
    let essence = value.split(';').next().unwrap_or_default().trim();
    let ends = |suffix: &str| {
        essence.len() >= suffix.len()
            && essence.is_char_boundary(essence.len() - suffix.len())
            && essence[essence.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
    };
    if essence.eq_ignore_ascii_case("application/json") || ends("+json") {
        Some(Kind::Json)
    } else if essence.eq_ignore_ascii_case("application/octet-stream") {
        Some(Kind::Binary)
    } else if essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/")) {
        Some(Kind::Text)
    } else {
        None
    }
}

/// What a payload is: the announced kind if it bears that out, else the first that it does of JSON, text and binary.
pub fn kind_of(payload: &[u8], announced: Option<Kind>) -> Kind {
    if announced == Some(Kind::Binary) {
        return Kind::Binary;
    }
    let Ok(text) = std::str::from_utf8(payload) else { return Kind::Binary };
    if announced != Some(Kind::Text) && valid_json(text).is_ok() {
        return Kind::Json;
    }
    Kind::Text
}

#[derive(Default)]
struct Fields {
    time_unix_ns: Option<u64>,
    kind: Option<Kind>,
    from: Option<ConnectionId>,
    connection: Option<ConnectionId>,
    user: Option<UserName>,
    except: Option<ConnectionId>,
    except_user: Option<UserName>,
}

impl Fields {
    fn parse(header: &str) -> Option<Self> {
        let rest = header.trim_start().strip_prefix(VERSION)?;
        let mut fields = Self::default();
        for field in rest.strip_prefix(';').unwrap_or_default().split(';') {
            let Some((name, value)) = field.trim().split_once('=') else { continue };
            match name {
                "time" => fields.time_unix_ns = value.parse().ok(),
                "kind" => fields.kind = kind_named(value),
                "from" => fields.from = value.parse().ok(),
                "connection" => fields.connection = value.parse().ok(),
                "user" => fields.user = user_of(value),
                "except" => fields.except = value.parse().ok(),
                "except-user" => fields.except_user = user_of(value),
                _ => {}
            }
        }
        Some(fields)
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Json => "json",
        Kind::Text => "text",
        Kind::Binary => "binary",
    }
}

fn kind_named(name: &str) -> Option<Kind> {
    match name {
        "json" => Some(Kind::Json),
        "text" => Some(Kind::Text),
        "binary" => Some(Kind::Binary),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::USER_NAME_BYTES;
    use proptest::prelude::*;

    const NOW: u64 = 42;

    fn sender() -> ConnectionId {
        ConnectionId { node: 0xdead_beef, shard: 1, index: 2, generation: 3 }
    }

    fn with(
        tidegate: Option<&str>,
        content_type: Option<&str>,
        payload: &'static [u8],
    ) -> Result<Publication, BadJson> {
        read("lobby".into(), Headers { tidegate, content_type }, Bytes::from_static(payload), || NOW)
    }

    fn received(header: Option<&str>, payload: &'static [u8]) -> Publication {
        with(header, None, payload).unwrap()
    }

    #[test]
    fn the_header_says_what_the_protocol_page_says() {
        let mut publication = received(None, b"{}");
        assert_eq!(write(&publication), "v1; time=42; kind=json");
        publication.from = Some(sender());
        assert_eq!(write(&publication), "v1; time=42; kind=json; from=deadbeef0100000200000003");
        publication.echo = false;
        let all = "v1; time=42; kind=json; from=deadbeef0100000200000003; connection=deadbeef0100000200000003";
        assert_eq!(write(&publication), all);
        publication.user = Some("alice".into());
        publication.except = Except::new(Some(sender()), Some("bob".into()));
        let more = "; user=alice; except=deadbeef0100000200000003; except-user=bob";
        assert_eq!(write(&publication), format!("{all}{more}"));
    }

    #[test]
    fn the_longest_header_is_within_what_is_asked_of_the_broker() {
        let mut publication = received(None, b"\xff");
        (publication.from, publication.echo, publication.time_unix_ns) = (Some(sender()), false, u64::MAX);
        let longest = UserName::from(";".repeat(USER_NAME_BYTES));
        publication.user = Some(longest.clone());
        publication.except = Except::new(Some(sender()), Some(longest));
        let on_the_wire = format!("NATS/1.0\r\n{HEADER}: {}\r\n\r\n", write(&publication));
        assert!(on_the_wire.len() <= ENVELOPE_BYTES, "{}", on_the_wire.len());
        assert_eq!(received(Some(&write(&publication)), b"\xff"), publication);
    }

    /// A user's name may have what separates the fields: it must not be able to write fields of its own.
    #[test]
    fn a_user_cannot_write_into_the_header_and_what_is_no_user_counts_as_absent() {
        for name in ["a;from=deadbeef0100000200000003", "100%", "a;b%3Bc", "auth0|7", "a=b", "eve@example.org"] {
            let publication = Publication { user: Some(name.into()), ..received(None, b"1") };
            assert_eq!(received(Some(&write(&publication)), b"1"), publication);
        }
        let long = "x".repeat(USER_NAME_BYTES + 1);
        for value in ["", "a b", "a..b", "$alice", "100%", "%00", "%2a", &long] {
            let header = format!("v1; kind=json; user={value}; except-user={value}; except=x");
            let publication = received(Some(&header), b"1");
            assert_eq!((publication.user, publication.except), (None, None), "{value}");
        }
    }

    #[test]
    fn every_publication_comes_out_as_it_went_in() {
        for (kind, payload) in [(Kind::Json, &b"[1]"[..]), (Kind::Text, b"[1]"), (Kind::Binary, b"[1]")] {
            for (from, echo) in [(None, true), (Some(sender()), true), (Some(sender()), false)] {
                let payload = Bytes::from_static(payload);
                let sent = Publication { from, echo, ..Publication::of_backend("lobby".into(), kind, payload, 7) };
                let tidegate = write(&sent);
                let headers = Headers { tidegate: Some(&tidegate), content_type: Some("text/plain") };
                let back = read("lobby".into(), headers, sent.payload.clone(), || NOW);
                assert_eq!(back, Ok(sent), "what a gateway says goes before any other header");
            }
        }
    }

    #[test]
    fn a_backend_needs_no_header() {
        for (payload, kind) in [
            (&b"{\"a\":[1,2.5e3,null,\"\\u00e4\"]}"[..], Kind::Json),
            (b"17", Kind::Json),
            (b" \"text\" ", Kind::Json),
            (b"hello", Kind::Text),
            (b"{\"a\":1", Kind::Text),
            (b"{} {}", Kind::Text),
            (b"\"\n\"", Kind::Text),
            (b"", Kind::Text),
            (b"\"\xff\"", Kind::Binary),
        ] {
            let publication = received(None, payload);
            assert_eq!((publication.kind, publication.time_unix_ns), (kind, NOW), "{payload:?}");
            assert_eq!((publication.from, publication.echo), (None, true));
        }
    }

    #[test]
    fn an_announced_kind_holds_only_if_the_payload_bears_it_out() {
        assert_eq!(received(Some("v1; kind=text"), b"\xff").kind, Kind::Binary);
        assert_eq!(received(Some("v1; kind=text"), b"17").kind, Kind::Text);
        assert_eq!(received(Some("v1; kind=binary"), b"17").kind, Kind::Binary);
    }

    /// A backend said `kind=json` and sent `NaN`, as some JSON libraries write it. Its members got the string "NaN" where they
    /// expected a number, and neither log nor metric knew of it.
    #[test]
    fn a_payload_that_its_sender_calls_json_and_that_is_none_is_refused() {
        for payload in [&b"NaN"[..], b"{\"a\":Infinity}", b"hello", b"\xff", b"", b"\xef\xbb\xbf", b"{} {}"] {
            assert_eq!(with(Some("v1; kind=json"), None, payload), Err(BadJson::Syntax), "{payload:?}");
            for content_type in ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"]
            {
                assert_eq!(with(None, Some(content_type), payload), Err(BadJson::Syntax), "{content_type} {payload:?}");
                let kind = with(Some("v1; kind=binary"), Some(content_type), payload).unwrap().kind;
                assert_eq!(kind, Kind::Binary, "the header Tidegate goes before Content-Type");
            }
            assert!(with(None, None, payload).is_ok(), "without a statement nothing was promised");
        }
        assert_eq!(with(None, Some("text/plain"), b"17").unwrap().kind, Kind::Text);
        assert_eq!(with(None, Some("application/octet-stream"), b"17").unwrap().kind, Kind::Binary);
        assert_eq!(with(None, Some("image/png"), b"17").unwrap().kind, Kind::Json, "no statement that is known");
        assert_eq!(with(None, Some("\u{e4}/+jso\u{f6}"), b"17").unwrap().kind, Kind::Json);
    }

    /// Programs on Windows write a byte order mark before JSON; the members got a string with an invisible first character.
    #[test]
    fn a_byte_order_mark_before_json_is_skipped_and_before_anything_else_stays() {
        for header in [None, Some("v1; kind=json")] {
            let publication = received(header, b"\xef\xbb\xbf{\"a\":1}");
            assert_eq!((publication.kind, &publication.payload[..]), (Kind::Json, &b"{\"a\":1}"[..]));
        }
        let publication = received(None, b"\xef\xbb\xbfhello");
        assert_eq!((publication.kind, &publication.payload[..]), (Kind::Text, &b"\xef\xbb\xbfhello"[..]));
        let publication = received(Some("v1; kind=text"), b"\xef\xbb\xbf1");
        assert_eq!((publication.kind, &publication.payload[..]), (Kind::Text, &b"\xef\xbb\xbf1"[..]));
    }

    /// A backend published 30,000 levels of JSON; the parsers of all members failed on them.
    #[test]
    fn json_that_other_parsers_cannot_read_is_refused_where_it_is_called_json_and_text_where_it_is_not() {
        let deep = |levels| Bytes::from([vec![b'['; levels], vec![b']'; levels]].concat());
        let read = |tidegate, payload| read("lobby".into(), Headers { tidegate, content_type: None }, payload, || NOW);
        for (payload, why) in [
            (deep(129), BadJson::Nesting),
            (deep(1 << 20), BadJson::Nesting),
            (Bytes::from_static(b"\"\\ud800\""), BadJson::LoneSurrogate),
        ] {
            assert_eq!(read(Some("v1; kind=json"), payload.clone()), Err(why));
            assert_eq!(read(None, payload).unwrap().kind, Kind::Text, "nothing was promised: members get a string");
        }
        assert_eq!(read(Some("v1; kind=json"), deep(128)).unwrap().kind, Kind::Json);
        assert_eq!(read(None, deep(128)).unwrap().kind, Kind::Json);
    }

    #[test]
    fn garbage_in_the_header_counts_as_absent() {
        for header in [
            "",
            "v2; kind=binary; from=deadbeef0100000200000003",
            "v1kind=binary",
            "v1",
            "v1;;;=;==; time; kind=; time=-1; time=99999999999999999999; kind=xml; from=me; connection=deadbeef",
            "v1; connection=deadbeef0100000200000003",
            "v1; connection=",
        ] {
            let publication = received(Some(header), b"17");
            assert_eq!(publication, received(None, b"17"), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_and_no_payload_panics(header in ".{0,200}", payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let headers = Headers { tidegate: Some(&header), content_type: Some(&header) };
            let publication = read("lobby".into(), headers, Bytes::from(payload.clone()), || NOW);
            if publication.is_ok_and(|publication| publication.kind != Kind::Binary) {
                prop_assert!(std::str::from_utf8(&payload).is_ok());
            }
        }
    }
}
