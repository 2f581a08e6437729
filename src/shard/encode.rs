//! From publications to the octets that each way of speaking makes of them.

use std::rc::Rc;
use std::sync::Arc;

use crate::dialect::Dialect;
use crate::dialect::native::{self, Content};
use crate::dialect::raw;
use crate::limits;
use crate::model::{Kind, Publication};
use crate::proto::deflate::{self, Deflate};
use crate::proto::frame;
use crate::room::Encoded;

/// Buffers that encodings are made in, kept for the next one.
#[derive(Default)]
pub(super) struct Scratch {
    payload: Vec<u8>,
    frames: Vec<u8>,
    ends: Vec<u32>,
}

/// Shorter messages are sent as they are: compressed they are hardly shorter.
const COMPRESS_BYTES: usize = 64;

/// How a member wants its frames: which dialect, compressed or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) dialect: Dialect,
    pub(super) deflate: Option<Deflate>,
}

impl Form {
    /// Its place among a batch's encodings.
    pub(super) fn index(self) -> usize {
        let compression = match self.deflate {
            None => 0,
            Some(Deflate::Full) => 1,
            Some(Deflate::Small) => 2,
        };
        usize::from(self.dialect == Dialect::Raw) + 2 * compression
    }
}

impl Scratch {
    /// What `write` makes, in a buffer that is used again.
    pub(super) fn payload(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        self.payload.clear();
        write(&mut self.payload);
        &self.payload
    }

    /// The frames of a batch.
    pub(super) fn encode(&mut self, form: Form, publications: &[Arc<Publication>]) -> Encoded {
        self.frames.clear();
        self.ends.clear();
        for publication in publications {
            match form.dialect {
                Dialect::Native => {
                    self.payload.clear();
                    write_message(&mut self.payload, publication);
                    write(&mut self.frames, frame::TEXT, &self.payload, form.deflate);
                }
                Dialect::Raw | Dialect::Echo => {
                    write(&mut self.frames, raw::opcode(publication.kind), &publication.payload, form.deflate);
                }
            }
            self.ends.push(self.frames.len() as u32);
        }
        Encoded { buffer: Rc::from(&self.frames[..]), ends: Rc::from(&self.ends[..]) }
    }
}

/// A message of one frame, compressed where that was agreed and may pay (RFC 7692 §6.1 leaves it to the sender).
pub(super) fn write(out: &mut Vec<u8>, opcode: frame::OpCode, payload: &[u8], deflate: Option<Deflate>) {
    match deflate {
        Some(deflate) if payload.len() >= COMPRESS_BYTES => {
            let compressed = deflate::compress_once(payload, deflate);
            frame::write_header(out, opcode, true, compressed.len());
            out.extend_from_slice(&compressed);
        }
        _ => frame::write_frame(out, opcode, payload),
    }
}

/// Bytes of a native message beside its room and its content, at most, with room for a few escapes.
const ENVELOPE_BYTES: usize = 192;

/// Text of control characters would be six times as long in JSON, more than an outbox takes: what JSON would more than double goes
/// as base64.
fn write_message(out: &mut Vec<u8>, publication: &Publication) {
    let payload = &publication.payload;
    let content = match publication.kind {
        Kind::Json => Content::Json(payload),
        Kind::Text => std::str::from_utf8(payload).map_or(Content::Binary(payload), Content::Text),
        Kind::Binary => Content::Binary(payload),
    };
    let start = out.len();
    write_content(out, publication, content);
    if out.len() - start > limits::EXPANSION * payload.len() + publication.room.len() + ENVELOPE_BYTES {
        out.truncate(start);
        write_content(out, publication, Content::Binary(payload));
    }
}

fn write_content(out: &mut Vec<u8>, publication: &Publication, content: Content<'_>) {
    let from = publication.from.map(|id| id.text());
    let from = from.as_ref().map(|text| &text[..]);
    native::message(out, &publication.room, from, content, publication.time_unix_ns / 1_000_000);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(kind: Kind, text: String) -> String {
        let (room, payload) = ("lobby".into(), text.into());
        let publication = Publication { room, kind, payload, from: None, echo: true, time_unix_ns: 0 };
        let form = Form { dialect: Dialect::Native, deflate: None };
        let encoded = Scratch::default().encode(form, &[Arc::new(publication)]);
        String::from_utf8_lossy(&encoded.buffer).into_owned()
    }

    #[test]
    fn no_text_is_more_than_an_outbox_holds_twice_however_it_must_be_written() {
        // A member with anything in its outbox was closed over one message of control characters.
        for (character, as_base64) in [("\u{1}", true), ("\"", false), ("\u{1}xxxx", false), ("x", false), ("é", false)]
        {
            let text = character.repeat(limits::MESSAGE_BYTES / character.len());
            let frame = frame_of(Kind::Text, text);
            assert!(frame.len() <= limits::OUTBOX_BYTES / 2 + ENVELOPE_BYTES, "{character:?}: {}", frame.len());
            assert_eq!(frame.contains(r#""encoding":"base64""#), as_base64, "{character:?}");
        }
        assert!(frame_of(Kind::Text, String::from("\u{1}\u{2}")).contains(r#""content":"\u0001\u0002""#));
    }
}
