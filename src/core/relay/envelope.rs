//! What travels beside a payload through the broker: one header, `Tidegate`. Pure.
//!
//! ```text
//! Tidegate: v1; time=NS; kind=json|text|binary; from=ID; connection=ID
//! ```
//!
//! `time` is the publisher's clock in ns since 1970, `from` the connection that is shown as the sender. `connection` says the same as `from`
//! where the sender must not receive its own message (`echo: false`); any other value is ignored. Gateways write it;
//! backends may. It is one header and not four because each costs the receiver a hash table entry.
//!
//! Nothing in it is trusted: what cannot be read counts as absent, and a kind that the payload contradicts is ignored.

use std::fmt::Write;

use bytes::Bytes;

use crate::model::ConnectionId;
use crate::model::{Kind, Publication, RoomName};

/// The header's name.
pub const HEADER: &str = "Tidegate";

/// Bytes that the header adds to a payload in the broker at most: `NATS/1.0`, the longest header, line ends.
pub const ENVELOPE_BYTES: usize = 256;

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
    value
}

/// A publication from what the broker brought. `now_unix_ns` is asked where the header names no time.
pub fn read(room: RoomName, header: Option<&str>, payload: Bytes, now_unix_ns: impl FnOnce() -> u64) -> Publication {
    let fields = header.and_then(Fields::parse).unwrap_or_default();
    let kind = kind_of(&payload, fields.kind);
    Publication {
        room,
        kind,
        payload,
        from: fields.from,
        echo: fields.connection.is_none() || fields.connection != fields.from,
        time_unix_ns: fields.time_unix_ns.unwrap_or_else(now_unix_ns),
    }
}

/// What a payload is: the announced kind if it bears that out, else the first that it does of JSON, text and binary.
pub fn kind_of(payload: &[u8], announced: Option<Kind>) -> Kind {
    if announced == Some(Kind::Binary) {
        return Kind::Binary;
    }
    let Ok(text) = std::str::from_utf8(payload) else { return Kind::Binary };
    if announced != Some(Kind::Text) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
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
    use proptest::prelude::*;

    const NOW: u64 = 42;

    fn sender() -> ConnectionId {
        ConnectionId { node: 0xdead_beef, shard: 1, index: 2, generation: 3 }
    }

    fn received(header: Option<&str>, payload: &'static [u8]) -> Publication {
        read("lobby".into(), header, Bytes::from_static(payload), || NOW)
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
    }

    #[test]
    fn the_longest_header_is_within_what_is_asked_of_the_broker() {
        let mut publication = received(None, b"\xff");
        (publication.from, publication.echo, publication.time_unix_ns) = (Some(sender()), false, u64::MAX);
        let on_the_wire = format!("NATS/1.0\r\n{HEADER}: {}\r\n\r\n", write(&publication));
        assert!(on_the_wire.len() <= ENVELOPE_BYTES, "{}", on_the_wire.len());
    }

    #[test]
    fn every_publication_comes_out_as_it_went_in() {
        for (kind, payload) in [(Kind::Json, &b"[1]"[..]), (Kind::Text, b"[1]"), (Kind::Binary, b"[1]")] {
            for (from, echo) in [(None, true), (Some(sender()), true), (Some(sender()), false)] {
                let payload = Bytes::from_static(payload);
                let sent = Publication { room: "lobby".into(), kind, payload, from, echo, time_unix_ns: 7 };
                let back = read("lobby".into(), Some(&write(&sent)), sent.payload.clone(), || NOW);
                assert_eq!(back, sent);
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
        assert_eq!(received(Some("v1; kind=json"), b"hello").kind, Kind::Text);
        assert_eq!(received(Some("v1; kind=json"), b"\xff").kind, Kind::Binary);
        assert_eq!(received(Some("v1; kind=text"), b"\xff").kind, Kind::Binary);
        assert_eq!(received(Some("v1; kind=text"), b"17").kind, Kind::Text);
        assert_eq!(received(Some("v1; kind=binary"), b"17").kind, Kind::Binary);
    }

    #[test]
    fn deep_nesting_is_checked_without_a_deep_stack() {
        let payload = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        assert_eq!(kind_of(&payload, None), Kind::Json);
        assert_eq!(kind_of(&payload[1..], None), Kind::Text);
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
            let publication = read("lobby".into(), Some(&header), Bytes::from(payload.clone()), || NOW);
            if publication.kind != Kind::Binary {
                prop_assert!(std::str::from_utf8(&payload).is_ok());
            }
        }
    }
}
