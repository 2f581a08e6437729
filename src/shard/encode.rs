//! From publications to the octets that each way of speaking makes of them.

use std::rc::Rc;
use std::sync::Arc;

use crate::dialect::Dialect;
use crate::dialect::native::{self, Content};
use crate::dialect::raw;
use crate::proto::deflate::{self, Deflate};
use crate::proto::frame;
use crate::relay::{Kind, Publication};
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

fn write_message(out: &mut Vec<u8>, publication: &Publication) {
    let from = publication.from.map(|id| id.text());
    let content = match publication.kind {
        Kind::Json => Content::Json(&publication.payload),
        Kind::Text => {
            std::str::from_utf8(&publication.payload).map_or(Content::Binary(&publication.payload), Content::Text)
        }
        Kind::Binary => Content::Binary(&publication.payload),
    };
    let from = from.as_ref().map(|text| &text[..]);
    native::message(out, &publication.room, from, content, publication.time_unix_ns / 1_000_000);
}
