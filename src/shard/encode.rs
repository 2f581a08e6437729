//! From publications to the octets that each way of speaking makes of them.

use std::rc::Rc;
use std::sync::Arc;

use crate::dialect::Dialect;
use crate::dialect::native::{self, Content};
use crate::dialect::raw;
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

/// How a member wants its frames: which dialect, compressed or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) dialect: Dialect,
    pub(super) deflate: bool,
}

impl Form {
    /// Its place among a batch's encodings.
    pub(super) fn index(self) -> usize {
        usize::from(self.dialect == Dialect::Raw) + 2 * usize::from(self.deflate)
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
                    frame::write_frame(&mut self.frames, frame::TEXT, &self.payload);
                }
                Dialect::Raw | Dialect::Echo => {
                    frame::write_frame(&mut self.frames, raw::opcode(publication.kind), &publication.payload);
                }
            }
            self.ends.push(self.frames.len() as u32);
        }
        Encoded { buffer: Rc::from(&self.frames[..]), ends: Rc::from(&self.ends[..]) }
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
