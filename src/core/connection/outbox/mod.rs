//! What a connection could not be sent yet: whole frames, in order, with a cap.
//!
//! An outbox exists only while something waits in it. Large frames are references to the buffer that all their receivers share;
//! small ones, and small parts of a buffer, are copied into buffers of the outbox's own, in which those of one tick lie together:
//! they take as much memory as they have octets, and one send takes many of them.
//!
//! Two counts hold it. Its own cap counts what the client has not read: octets, and [`PIECE_BYTES`] for each piece of the queue.
//! The node's budget counts memory, of which a shared buffer is charged once: see [`Account`], which every change goes through.

mod account;
mod piece;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

pub use account::Account;
use account::Charge;
use piece::{Octets, Piece};

use super::Tick;

/// What a chunk is, for the policy that may drop it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// Answers, pongs, close frames: never dropped.
    Control,
    /// Messages of a room.
    Room {
        /// The room's index on the shard.
        room: u32,
        /// Whether the room's policy lets them be dropped for a slow reader.
        may_drop: bool,
    },
    /// The notice that messages of a room were dropped; the room's index.
    Gap(u32),
}

/// Octets of whole frames, shared with every other connection that gets them.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The buffer that is pinned.
    pub buffer: Rc<[u8]>,
    /// First octet to send.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// What it is.
    pub tag: Tag,
    /// How many messages of rooms it carries.
    pub messages: u32,
}

impl Chunk {
    /// The whole buffer.
    pub fn whole(buffer: Rc<[u8]>, tag: Tag, messages: u32) -> Self {
        let end = buffer.len() as u32;
        Self { buffer, start: 0, end, tag, messages }
    }

    /// What is left to send.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..self.end as usize]
    }

    /// The same without its first `sent` octets.
    pub fn rest(&self, sent: usize) -> Self {
        Self { start: self.start + sent as u32, ..self.clone() }
    }
}

/// Frames that are to be queued.
#[derive(Clone, Copy, Debug)]
pub enum Frames<'a> {
    /// Those that other connections get too.
    Shared(&'a Chunk),
    /// Frames for this connection alone, with their tag and the number of messages of rooms among them.
    Own(&'a [u8], Tag, u32),
}

impl Frames<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(chunk) => chunk.bytes(),
            Self::Own(bytes, ..) => bytes,
        }
    }

    fn tag(&self) -> Tag {
        match self {
            Self::Shared(chunk) => chunk.tag,
            Self::Own(_, tag, _) => *tag,
        }
    }

    fn messages(&self) -> u32 {
        match self {
            Self::Shared(chunk) => chunk.messages,
            Self::Own(_, _, messages) => *messages,
        }
    }

    fn piece(&self, now: Moment) -> Piece {
        match self {
            Self::Shared(chunk) => Piece::of_chunk(chunk, now),
            Self::Own(bytes, tag, messages) => Piece::of_bytes(bytes, *tag, *messages, now),
        }
    }
}

/// When something was queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// The shard's tick: what the write stall is counted in.
    pub tick: Tick,
    /// Monotonic ms modulo 2³², for the metric of how long messages waited.
    pub mono_ms: u32,
}

/// A piece of which the last octet is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Messages of rooms that it carried.
    pub messages: u32,
    /// When the first of its octets was queued.
    pub since: Moment,
}

/// What was dropped to make room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The room whose messages they were.
    pub room: u32,
    /// How many messages.
    pub messages: u32,
    /// Their place in the outbox, in pieces.
    pub at: usize,
}

/// The outbox would hold more than its cap.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

/// Frames of fewer octets, or chunks that are less than a quarter of their buffer, are copied and not referred to.
pub const COPIED_BYTES: usize = 512;
/// Octets of small frames that lie together in one piece, at most; also at most a sixteenth of the cap, because messages that may be
/// dropped are dropped by the piece.
const MERGED_BYTES: usize = 4 * 1024;
/// Bytes that a piece counts beside its octets: its place in the queue, which is up to half empty, and the header of its buffer.
pub const PIECE_BYTES: usize = 2 * size_of::<Piece>() + 32;
/// Places that the queue keeps when it gets shorter.
const KEPT_PLACES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// Octets that wait.
    unread_bytes: usize,
    /// Bytes of the pieces' own buffers.
    own_bytes: usize,
    /// What the account was charged with for it.
    charged: Charge,
    /// Octets of the first piece are out: it must be finished, or the stream is broken.
    begun: bool,
}

impl Outbox {
    /// What it counts against its cap: octets that wait, and [`PIECE_BYTES`] for each piece.
    pub fn counted_bytes(&self) -> usize {
        self.unread_bytes + self.pieces.len() * PIECE_BYTES
    }

    /// Octets that wait.
    pub fn unread_bytes(&self) -> usize {
        self.unread_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// When the oldest octets came in.
    pub fn oldest(&self) -> Option<Tick> {
        self.pieces.front().map(|piece| piece.since.tick)
    }

    /// Octets to send next, up to `most` of them: those of the first piece where they are many, else of as many pieces as fit into
    /// `gathered` octets, put together in `scratch`.
    pub fn next_bytes<'a>(&'a self, most: usize, gathered: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let Some(first) = self.pieces.front() else { return &[] };
        let gathered = gathered.min(most);
        if first.len() >= gathered / 2 || self.pieces.len() == 1 {
            return &first.bytes()[..first.len().min(most)];
        }
        scratch.clear();
        for piece in &self.pieces {
            let left = gathered - scratch.len();
            if left == 0 {
                break;
            }
            scratch.extend_from_slice(&piece.bytes()[..piece.len().min(left)]);
        }
        scratch
    }

    /// Queues the rest of a chunk of which `sent` octets are already out, before anything else that waits; it may go over the cap.
    pub fn begin(&mut self, chunk: &Chunk, sent: usize, now: Moment, account: &mut Account) {
        debug_assert!(!self.begun);
        self.begun = sent > 0;
        self.insert(0, Piece::of_chunk(&chunk.rest(sent), now), account);
        self.settle(account);
    }

    /// Queues frames behind what waits.
    ///
    /// # Errors
    /// [`Overflow`] where it would count more than `cap` bytes; nothing is queued then.
    pub fn push(&mut self, frames: Frames<'_>, cap: usize, now: Moment, account: &mut Account) -> Result<(), Overflow> {
        let length = frames.bytes().len();
        let counted = self.counted_bytes().saturating_add(length);
        if counted > cap {
            return Err(Overflow);
        }
        if self.append(frames, cap, now) {
            self.unread_bytes += length;
        } else if counted.saturating_add(PIECE_BYTES) <= cap {
            self.insert(self.pieces.len(), frames.piece(now), account);
        } else {
            return Err(Overflow);
        }
        self.settle(account);
        Ok(())
    }

    /// Adds frames to the last piece, or else has it give back what room it had for more.
    fn append(&mut self, frames: Frames<'_>, cap: usize, now: Moment) -> bool {
        let is_begun = self.begun && self.pieces.len() == 1;
        let Some(last) = self.pieces.back_mut().filter(|_| !is_begun) else { return false };
        let before = last.own_bytes();
        let appended = last.append(frames, now, MERGED_BYTES.min(cap / 16));
        if !appended {
            last.shrink();
        }
        self.own_bytes = self.own_bytes - before + last.own_bytes();
        appended
    }

    /// Notes that `sent` more octets are out, and tells each piece that they complete.
    pub fn advance(&mut self, mut sent: usize, account: &mut Account, mut complete: impl FnMut(Sent)) {
        debug_assert!(sent <= self.unread_bytes);
        while let Some(first) = self.pieces.front_mut() {
            let length = first.len();
            if sent < length {
                first.advance(sent);
                self.unread_bytes -= sent;
                self.begun |= sent > 0;
                break;
            }
            sent -= length;
            self.begun = false;
            complete(Sent { messages: first.messages, since: first.since });
            self.remove(0, account);
        }
        self.settle(account);
    }

    /// Drops the oldest piece that may be dropped and is not begun; says what went, and where it was.
    pub fn drop_oldest(&mut self, account: &mut Account) -> Option<Dropped> {
        let first = usize::from(self.begun);
        let (at, room) = (first..self.pieces.len()).find_map(|at| match self.pieces[at].tag {
            Tag::Room { room, may_drop: true } => Some((at, room)),
            Tag::Room { may_drop: false, .. } | Tag::Control | Tag::Gap(_) => None,
        })?;
        let piece = self.remove(at, account)?;
        self.settle(account);
        Some(Dropped { room, messages: piece.messages, at })
    }

    /// Drops everything that is not begun; what is begun stays, so that a close frame can follow it.
    pub fn clear_unbegun(&mut self, account: &mut Account) {
        while self.pieces.len() > usize::from(self.begun) {
            self.remove(self.pieces.len() - 1, account);
        }
        self.settle(account);
    }

    /// Drops everything, and what it is charged with: it is of no more use.
    pub fn end(&mut self, account: &mut Account) {
        self.begun = false;
        self.clear_unbegun(account);
        account.recharge(self.charged, Charge::default());
        *self = Self::default();
    }

    /// Puts the notice of a gap of `room` where dropped messages were, so that it is told before what came later. The notice may go
    /// over the cap: what makes room must not fail for want of it.
    pub fn tell_gap(&mut self, at: usize, notice: &[u8], room: u32, now: Moment, account: &mut Account) {
        self.insert(at, Piece::of_bytes(notice, Tag::Gap(room), 0, now), account);
        self.settle(account);
    }

    /// What waits of a room that the reader has left is dropped no more, and belongs to no room that may get the same index.
    pub fn forget_room(&mut self, room: u32) {
        for piece in &mut self.pieces {
            if matches!(piece.tag, Tag::Room { room: of, .. } | Tag::Gap(of) if of == room) {
                piece.tag = Tag::Control;
            }
        }
    }

    /// Whether a gap of `room` waits to be told.
    pub fn tells_gap(&self, room: u32) -> bool {
        self.pieces.iter().any(|piece| piece.tag == Tag::Gap(room))
    }

    fn insert(&mut self, at: usize, piece: Piece, account: &mut Account) {
        if let Octets::Shared(buffer) = &piece.octets {
            account.hold(buffer);
        }
        self.unread_bytes += piece.len();
        self.own_bytes += piece.own_bytes();
        self.pieces.insert(at, piece);
    }

    fn remove(&mut self, at: usize, account: &mut Account) -> Option<Piece> {
        let piece = self.pieces.remove(at)?;
        if let Octets::Shared(buffer) = &piece.octets {
            account.release(buffer);
        }
        self.unread_bytes -= piece.len();
        self.own_bytes -= piece.own_bytes();
        if self.pieces.capacity() > KEPT_PLACES && self.pieces.len() < self.pieces.capacity() / 4 {
            self.pieces.shrink_to(self.pieces.len() * 2);
        }
        Some(piece)
    }

    /// Has the account charge what it takes now.
    fn settle(&mut self, account: &mut Account) {
        let own_bytes = size_of::<Self>() + self.pieces.capacity() * size_of::<Piece>() + self.own_bytes;
        let now = Charge { own_bytes, unread_bytes: self.unread_bytes };
        account.recharge(self.charged, now);
        self.charged = now;
    }
}
