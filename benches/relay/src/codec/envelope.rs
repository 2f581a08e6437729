//! The gateway's own header, `Tidegate`, as [`tidegate_core::relay::envelope`] describes it, read and written without a table.
//!
//! A gateway writes nothing else into a header block, and its fields in one order:
//!
//! ```text
//! 0                          27                  46
//! NATS/1.0\r\nTidegate: v1; time=1796000000000000000; kind=json; from=24 HEX; connection=24 HEX\r\n\r\n
//!                                └ 19 digits         └ 3 lengths └ or the end └ or the end
//! ```
//!
//! Such a block is read at fixed offsets ([`Envelope::read`]): the time has 19 digits from 2001 to 2286. Any other block goes through
//! [`super::headers`], and says the same to both: a node of another version, or a backend, may write it as it likes.
//!
//! Whether a payload is what its header calls it is not looked at here: only members of some client protocols need to know.

use tidegate_core::model::{ConnectionId, Kind, Publication};
use tidegate_core::relay::envelope::HEADER;

use super::encoder::decimal;
use super::headers::Headers;
use super::parser::number;

const PREFIX: &[u8] = b"NATS/1.0\r\nTidegate: v1; time=";
const KIND: &[u8] = b"; kind=";
const FROM: &[u8] = b"; from=";
const CONNECTION: &[u8] = b"; connection=";
const END: &[u8] = b"\r\n\r\n";
const TIME_DIGITS: usize = 19;

/// Bytes of the longest block that [`Envelope::write`] makes.
pub const BLOCK_BYTES: usize =
    PREFIX.len() + 20 + KIND.len() + 6 + FROM.len() + CONNECTION.len() + 2 * ConnectionId::TEXT_LEN + END.len();

const _: () =
    assert!(BLOCK_BYTES <= tidegate_core::relay::envelope::ENVELOPE_BYTES, "the broker is asked for that much");

/// What a header block says of its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The publisher's clock, in ns since 1970.
    pub time_unix_ns: Option<u64>,
    /// What the payload is said to be; `None`: the payload itself tells.
    pub kind: Option<Kind>,
    /// The connection that is shown as the sender.
    pub from: Option<ConnectionId>,
    /// Whether that connection gets the message too.
    pub echo: bool,
}

impl Default for Envelope {
    fn default() -> Self {
        Self { time_unix_ns: None, kind: None, from: None, echo: true }
    }
}

impl Envelope {
    /// What a publication is sent with.
    pub fn of(publication: &Publication) -> Self {
        let Publication { kind, from, echo, time_unix_ns, .. } = *publication;
        Self { time_unix_ns: Some(time_unix_ns), kind: Some(kind), from, echo: echo || from.is_none() }
    }

    /// From a header block, which may be empty. What cannot be read counts as absent.
    #[inline]
    pub fn read(block: &[u8]) -> Self {
        if block.is_empty() {
            return Self::default();
        }
        Self::read_fixed(block).unwrap_or_else(|| Self::read_any(Headers::new(block)))
    }

    /// Appends the block, whose last field's line and empty line are part of it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFIX);
        decimal(out, self.time_unix_ns.unwrap_or_default());
        if let Some(kind) = self.kind {
            out.extend_from_slice(KIND);
            out.extend_from_slice(match kind {
                Kind::Json => b"json",
                Kind::Text => b"text",
                Kind::Binary => b"binary",
            });
        }
        if let Some(from) = self.from {
            let text = from.text();
            out.extend_from_slice(FROM);
            out.extend_from_slice(&text);
            if !self.echo {
                out.extend_from_slice(CONNECTION);
                out.extend_from_slice(&text);
            }
        }
        out.extend_from_slice(END);
    }

    /// The block as gateways write it; `None`: it is another.
    #[inline]
    fn read_fixed(block: &[u8]) -> Option<Self> {
        let (time, rest) = block.strip_prefix(PREFIX)?.split_at_checked(TIME_DIGITS)?;
        let time_unix_ns = number(time)?;
        let rest = rest.strip_prefix(KIND)?;
        let (kind, rest) = match rest.first()? {
            b'j' => (Kind::Json, rest.strip_prefix(b"json")?),
            b't' => (Kind::Text, rest.strip_prefix(b"text")?),
            _ => (Kind::Binary, rest.strip_prefix(b"binary")?),
        };
        let envelope = Self { time_unix_ns: Some(time_unix_ns), kind: Some(kind), from: None, echo: true };
        if rest == END {
            return Some(envelope);
        }
        let (text, rest) = rest.strip_prefix(FROM)?.split_first_chunk::<{ ConnectionId::TEXT_LEN }>()?;
        let from = Some(connection_id(text)?);
        if rest == END {
            return Some(Self { from, ..envelope });
        }
        let (own, rest) = rest.strip_prefix(CONNECTION)?.split_first_chunk::<{ ConnectionId::TEXT_LEN }>()?;
        (own == text && rest == END).then_some(Self { from, echo: false, ..envelope })
    }

    /// Any block: its first field `Tidegate`, else `Content-Type`.
    #[cold]
    fn read_any(headers: Headers<'_>) -> Self {
        let Some(value) = headers.value(HEADER) else {
            return Self { kind: headers.value("Content-Type").and_then(kind_of_content_type), ..Self::default() };
        };
        Self::read_value(value)
    }

    /// From the value of the field `Tidegate`, however it is written.
    pub fn read_value(value: &str) -> Self {
        let Some(fields) = value.trim_start().strip_prefix("v1") else { return Self::default() };
        let (mut envelope, mut connection) = (Self::default(), None);
        for field in fields.strip_prefix(';').unwrap_or_default().split(';') {
            let Some((name, value)) = field.trim().split_once('=') else { continue };
            match name {
                "time" => envelope.time_unix_ns = value.parse().ok(),
                "kind" => envelope.kind = kind_named(value),
                "from" => envelope.from = value.parse().ok(),
                "connection" => connection = value.parse().ok(),
                _ => {}
            }
        }
        envelope.echo = connection.is_none() || connection != envelope.from;
        envelope
    }
}

/// 24 lower-case hexadecimal digits.
#[inline]
fn connection_id(text: &[u8; ConnectionId::TEXT_LEN]) -> Option<ConnectionId> {
    let node = hex(&text[0..8])?;
    let (shard, index, generation) = (hex(&text[8..10])? as u8, hex(&text[10..16])?, hex(&text[16..24])?);
    Some(ConnectionId { node, shard, index, generation })
}

#[inline]
fn hex(digits: &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u32::from(nibble);
    }
    Some(value)
}

fn kind_named(name: &str) -> Option<Kind> {
    match name {
        "json" => Some(Kind::Json),
        "text" => Some(Kind::Text),
        "binary" => Some(Kind::Binary),
        _ => None,
    }
}

/// What a media type says of a payload (RFC 6838 §4.2.8 for `+json`): nothing where it is none of these.
fn kind_of_content_type(value: &str) -> Option<Kind> {
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match &essence[..] {
        "application/octet-stream" => Some(Kind::Binary),
        json if json == "application/json" || json.ends_with("+json") => Some(Kind::Json),
        text if text.starts_with("text/") => Some(Kind::Text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidegate_core::relay::envelope;

    fn publication(kind: Kind, from: Option<ConnectionId>, echo: bool, time_unix_ns: u64) -> Publication {
        // Text that is JSON too, so that it is taken for what it is called.
        let payload = Bytes::from_static(b"1");
        Publication { from, echo, ..Publication::of_backend("lobby".into(), kind, payload, time_unix_ns) }
    }

    /// What the relay as it is makes of the header.
    fn as_the_relay_reads(block: &[u8]) -> Option<Publication> {
        let headers = Headers::new(block);
        let tidegate = headers.value(HEADER);
        let content_type = if tidegate.is_none() { headers.value("Content-Type") } else { None };
        let headers = envelope::Headers { tidegate, content_type };
        envelope::read("lobby".into(), headers, Bytes::from_static(b"1"), || 42).ok()
    }

    fn agrees(block: &[u8]) {
        let read = Envelope::read(block);
        let expected = as_the_relay_reads(block).expect("the payload is whatever it is called");
        let kind = read.kind.unwrap_or(Kind::Json);
        let (from, echo, time_unix_ns) = (read.from, read.echo, read.time_unix_ns.unwrap_or(42));
        assert_eq!(
            (kind, from, echo, time_unix_ns),
            (expected.kind, expected.from, expected.echo, expected.time_unix_ns)
        );
    }

    fn sender() -> ConnectionId {
        ConnectionId { node: 0xdead_beef, shard: 1, index: 0xabcdef, generation: 3 }
    }

    #[test]
    fn what_is_written_is_what_the_relay_writes_and_is_read_at_fixed_offsets() {
        for kind in [Kind::Json, Kind::Text, Kind::Binary] {
            for (from, echo) in [(None, true), (Some(sender()), true), (Some(sender()), false)] {
                let sent = publication(kind, from, echo, 1_796_000_000_000_000_000);
                let mut block = Vec::new();
                Envelope::of(&sent).write(&mut block);
                let today = format!("NATS/1.0\r\n{HEADER}: {}\r\n\r\n", envelope::write(&sent));
                assert_eq!(String::from_utf8(block.clone()).unwrap(), today);
                assert!(block.len() <= BLOCK_BYTES);
                assert_eq!(Envelope::read_fixed(&block), Some(Envelope::of(&sent)));
                assert_eq!(Envelope::read_any(Headers::new(&block)), Envelope::of(&sent));
            }
        }
    }

    #[test]
    fn a_block_that_another_client_wrote_says_the_same_as_to_the_relay() {
        for block in [
            &b""[..],
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v1\r\n\r\n",
            b"NATS/1.0\r\nTidegate:v1; kind=text\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\nTidegate: v1; kind=binary; time=5\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v1; from=deadbeef0100000200000003; time=7\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v1; time=1796000000000000000; kind=json; from=deadbeef0100000200000003; connection=deadbeef0100000200000004\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v1; time=1796000000000000000; kind=json\r\nA: b\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v1; time=1796000000000000000; kind=json; from=DEADBEEF0100000200000003\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v1; time=17960000000000000001; kind=text\r\n\r\n",
            b"NATS/1.0\r\nTidegate: v2; kind=text\r\n\r\n",
            b"NATS/1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
            b"NATS/1.0\r\nContent-Type: application/cloudevents+json\r\n\r\n",
            b"NATS/1.0\r\nTidegate: garbage\r\nContent-Type: text/plain\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"\xff\xfe",
        ] {
            agrees(block);
        }
    }

    proptest! {
        #[test]
        fn any_header_says_the_same_as_to_the_relay(
            fields in prop::collection::vec(
                prop::sample::select(&[
                    "; time=1796000000000000000", "; time=5", "; kind=json", "; kind=text", "; kind=binary", "; kind=",
                    "; from=deadbeef01abcdef00000003", "; connection=deadbeef01abcdef00000003", "; from=x", ";", " ", "=",
                ][..]), 0..6),
            tail in ".{0,10}",
        ) {
            let block = format!("NATS/1.0\r\nTidegate: v1{}{}\r\n\r\n", fields.concat(), tail.replace(['\n', '\r'], ""));
            agrees(block.as_bytes());
        }

        #[test]
        fn every_time_and_connection_is_read_as_it_was_written(
            time in any::<u64>(), node in any::<u32>(), shard in any::<u8>(), index in 0..=ConnectionId::MAX_INDEX,
            generation in any::<u32>(), echo in any::<bool>(),
        ) {
            let from = Some(ConnectionId { node, shard, index, generation });
            let envelope = Envelope { time_unix_ns: Some(time), kind: Some(Kind::Text), from, echo };
            let mut block = Vec::new();
            envelope.write(&mut block);
            prop_assert_eq!(Envelope::read(&block), envelope);
        }
    }
}
