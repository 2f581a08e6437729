//! A message's header block, as any client may have written it (ADR-4):
//!
//! ```text
//! NATS/1.0[ STATUS[ DESCRIPTION]]\r\n
//! NAME: VALUE\r\n
//! …
//! \r\n
//! ```
//!
//! Servers pass a block on as it came and look at little of it, so it may be anything. What cannot be read counts as absent: a
//! field without a colon, a name or value that is no UTF-8, a block without its first line. Nothing in a block ends the connection.
//!
//! Names are compared as they are written: NATS' header names differ by case.

use memchr::memchr;

/// A header block; empty where the message has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers<'a>(&'a [u8]);

const VERSION: &[u8] = b"NATS/1.0";

impl<'a> Headers<'a> {
    /// A block with its first line and its empty last line.
    #[inline]
    pub fn new(block: &'a [u8]) -> Self {
        Self(block)
    }

    /// The block as it came.
    #[inline]
    pub fn block(self) -> &'a [u8] {
        self.0
    }

    /// The status of a message that a server wrote, such as 503 for a request that has no responder, and its description.
    pub fn status(self) -> Option<(u16, &'a str)> {
        let (first, _) = split_line(self.0);
        let status = std::str::from_utf8(first.strip_prefix(VERSION)?).ok()?.trim();
        let (code, description) = status.split_once(' ').unwrap_or((status, ""));
        Some((code.parse().ok()?, description.trim()))
    }

    /// The value of the first field of this name that can be read, without the blanks around it. One that is folded over several lines
    /// ends with the first.
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.fields().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The fields that can be read.
    pub fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let (first, rest) = split_line(self.0);
        let mut rest = if first.starts_with(VERSION) { rest } else { &[] };
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (line, next) = split_line(rest);
                rest = next;
                if let Some(field) = field(line) {
                    return Some(field);
                }
            }
            None
        })
    }
}

fn field(line: &[u8]) -> Option<(&str, &str)> {
    let colon = memchr(b':', line)?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    let value = std::str::from_utf8(&line[colon + 1..]).ok()?;
    Some((name, value.trim()))
}

/// The first line without its end, and what is behind it.
fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b'\n', text) {
        Some(end) => (text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]), &text[end + 1..]),
        None => (text, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_foreign_clients_header_is_read_whatever_blanks_it_has() {
        let headers =
            Headers::new(b"NATS/1.0\r\nContent-Type:application/json\r\nA:  b c \t\r\nEmpty:\r\nA: second\r\n\r\n");
        assert_eq!(headers.value("Content-Type"), Some("application/json"));
        assert_eq!(headers.value("A"), Some("b c"));
        assert_eq!(headers.value("Empty"), Some(""));
        assert_eq!(headers.value("content-type"), None, "names differ by case");
        assert_eq!(headers.fields().count(), 4);
        assert_eq!(headers.status(), None);
    }

    /// async-nats ends the connection over each of these: one message of a backend was a gap to all rooms of every gateway.
    #[test]
    fn a_field_that_cannot_be_read_is_left_out_and_the_others_are_read() {
        for broken in [&b"no colon"[..], b"\xff: x", b"a: \xff", b"\r", b" folded", b"\x00"] {
            let block = [b"NATS/1.0\r\nBefore: 1\r\n", broken, b"\r\nAfter: 2\r\n\r\n"].concat();
            let headers = Headers::new(&block);
            assert_eq!((headers.value("Before"), headers.value("After")), (Some("1"), Some("2")), "{broken:?}");
        }
        assert_eq!(Headers::new(b"").fields().count(), 0);
        assert_eq!(Headers::new(b"HTTP/1.1\r\nA: b\r\n\r\n").value("A"), None, "another version says other things");
    }

    #[test]
    fn a_servers_status_is_read() {
        assert_eq!(Headers::new(b"NATS/1.0 503\r\n\r\n").status(), Some((503, "")));
        assert_eq!(
            Headers::new(b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n").status(),
            Some((100, "Idle Heartbeat"))
        );
        assert_eq!(Headers::new(b"NATS/1.0 many\r\n\r\n").status(), None);
    }

    proptest! {
        #[test]
        fn no_header_block_panics(block in prop::collection::vec(any::<u8>(), 0..100), begin in any::<bool>()) {
            let block = if begin { [b"NATS/1.0\r\n", &block[..]].concat() } else { block };
            let headers = Headers::new(&block);
            let _ = (headers.status(), headers.fields().count(), headers.value("Tidegate"));
        }
    }
}
