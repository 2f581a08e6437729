//! What an outbox consists of: octets of whole frames, and what is to be known of them.

use std::rc::Rc;

use super::{COPIED_BYTES, Chunk, Frames, Moment, Tag};

/// Where a piece's octets are.
#[derive(Debug)]
pub(super) enum Octets {
    /// In a buffer that other connections wait for too.
    Shared(Rc<[u8]>),
    /// In one of its own.
    Own(Vec<u8>),
}

/// One entry of an outbox's queue.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) octets: Octets,
    start: u32,
    end: u32,
    /// What it is.
    pub(super) tag: Tag,
    /// Messages of rooms that it carries.
    pub(super) messages: u32,
    /// When the first of its octets came in.
    pub(super) since: Moment,
}

impl Piece {
    /// A piece of a shared buffer. Where it is little of the buffer it is copied: a reference keeps all of the buffer in memory.
    pub(super) fn of_chunk(chunk: &Chunk, since: Moment) -> Self {
        let bytes = chunk.bytes();
        if bytes.len() < COPIED_BYTES || bytes.len() < chunk.buffer.len() / 4 {
            return Self::of_bytes(bytes, chunk.tag, chunk.messages, since);
        }
        let octets = Octets::Shared(chunk.buffer.clone());
        Self { octets, start: chunk.start, end: chunk.end, tag: chunk.tag, messages: chunk.messages, since }
    }

    pub(super) fn of_bytes(bytes: &[u8], tag: Tag, messages: u32, since: Moment) -> Self {
        Self { octets: Octets::Own(bytes.to_vec()), start: 0, end: bytes.len() as u32, tag, messages, since }
    }

    /// What is left of it to send.
    pub(super) fn bytes(&self) -> &[u8] {
        let all = match &self.octets {
            Octets::Shared(buffer) => buffer,
            Octets::Own(octets) => &octets[..],
        };
        &all[self.start as usize..self.end as usize]
    }

    /// Octets that are left to send.
    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Notes that `sent` octets are out.
    pub(super) fn advance(&mut self, sent: usize) {
        self.start += sent as u32;
    }

    /// Bytes of its own buffer.
    pub(super) fn own_bytes(&self) -> usize {
        match &self.octets {
            Octets::Shared(_) => 0,
            Octets::Own(octets) => octets.capacity(),
        }
    }

    /// Gives back what its own buffer has of room beyond an eighth of its octets.
    pub(super) fn shrink(&mut self) {
        if let Octets::Own(octets) = &mut self.octets
            && octets.capacity() > octets.len() + octets.len() / 8
        {
            octets.shrink_to_fit();
        }
    }

    /// Appends small frames that came in with the same tick, so that no age is lost, up to `limit` octets in all. What may be dropped
    /// is kept together by room; of what may not, the room does not matter any more. False where they do not go together.
    pub(super) fn append(&mut self, frames: Frames<'_>, now: Moment, limit: usize) -> bool {
        let bytes = frames.bytes();
        let tag = match (self.tag, frames.tag()) {
            (Tag::Gap(_), _) | (_, Tag::Gap(_)) => return false,
            (Tag::Room { may_drop: true, .. }, other) if self.tag != other => return false,
            (tag, Tag::Room { may_drop: true, .. }) if tag != frames.tag() => return false,
            (Tag::Room { may_drop: true, .. }, _) => self.tag,
            (Tag::Control | Tag::Room { may_drop: false, .. }, _) => Tag::Control,
        };
        let Octets::Own(octets) = &mut self.octets else { return false };
        if self.start != 0
            || self.since.tick != now.tick
            || bytes.len() >= COPIED_BYTES
            || octets.len() + bytes.len() > limit
        {
            return false;
        }
        octets.extend_from_slice(bytes);
        self.end = octets.len() as u32;
        self.tag = tag;
        self.messages += frames.messages();
        true
    }
}
