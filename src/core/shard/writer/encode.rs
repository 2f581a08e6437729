//! From publications to the octets that each way of speaking makes of them.

use std::rc::Rc;
use std::sync::Arc;

use crate::dialect::{DialectId, Form, Notice, Said};
use crate::model::Publication;
use crate::room::Encoded;
use crate::ws::deflate::{self, Deflate};
use crate::ws::frame;

/// Buffers that encodings are made in, kept for the next one.
#[derive(Default)]
pub(super) struct Scratch {
    payload: Vec<u8>,
    frames: Vec<u8>,
    ends: Vec<u32>,
}

/// Shorter messages are sent as they are: compressed they are hardly shorter.
const COMPRESS_BYTES: usize = 64;

impl Scratch {
    /// Writes a notice in a dialect's words, into a buffer that is used again.
    pub(super) fn notice(&mut self, dialect: DialectId, notice: &Notice<'_>) -> (Said, &[u8]) {
        self.payload.clear();
        let said = dialect.tell(notice, &mut self.payload);
        (said, &self.payload)
    }

    /// The frames of a batch.
    pub(super) fn encode(&mut self, form: Form, publications: &[Arc<Publication>]) -> Encoded {
        self.frames.clear();
        self.ends.clear();
        let mut messages = 0;
        for publication in publications {
            self.payload.clear();
            let (said, payload) = form.dialect.publication(publication, &mut self.payload);
            if let Some(opcode) = opcode(said) {
                write(&mut self.frames, opcode, payload, form.deflate);
                messages += 1;
            }
            self.ends.push(self.frames.len() as u32);
        }
        Encoded { buffer: Rc::from(&self.frames[..]), ends: Rc::from(&self.ends[..]), messages }
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

/// The opcode of the frame that carries a message; `None` where the dialect has no words.
pub(super) const fn opcode(said: Said) -> Option<frame::OpCode> {
    match said {
        Said::Text => Some(frame::TEXT),
        Said::Binary => Some(frame::BINARY),
        Said::Nothing => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::native::ENVELOPE_BYTES;
    use crate::limits;
    use crate::model::Kind;

    fn frame_of(kind: Kind, text: String) -> String {
        let (room, payload) = ("lobby".into(), text.into());
        let publication = Publication::of_backend(room, kind, payload, 0);
        let form = Form { dialect: DialectId::Native, deflate: None };
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
