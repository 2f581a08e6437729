//! What a connection could not be sent yet: references to shared frames, in order, with a cap.
//!
//! An outbox exists only while something waits in it. It is charged with the whole buffer that a reference pins, because
//! that is what a slow reader costs the node.

use std::collections::VecDeque;
use std::rc::Rc;

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
    /// How many messages it carries.
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
}

/// What was dropped to make room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The room whose messages they were.
    pub room: u32,
    /// How many messages.
    pub messages: u32,
    /// Bytes of the buffer that is not pinned any more.
    pub bytes: usize,
    /// Their place in the outbox.
    pub at: usize,
}

/// The outbox would pin more than its cap.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<(Chunk, Tick)>,
    pinned_bytes: usize,
    /// Octets of the first chunk are out: it must be finished, or the stream is broken.
    begun: bool,
}

impl Outbox {
    /// Bytes of the buffers that it pins.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// When the oldest chunk came in.
    pub fn oldest(&self) -> Option<Tick> {
        self.chunks.front().map(|(_, since)| *since)
    }

    /// The first chunk.
    pub fn front(&self) -> Option<&Chunk> {
        self.chunks.front().map(|(chunk, _)| chunk)
    }

    /// Queues the rest of a chunk of which `sent` octets are already out; it may go over the cap, since it is the first.
    pub fn begin(&mut self, mut chunk: Chunk, sent: usize, now: Tick) {
        debug_assert!(self.is_empty());
        chunk.start += sent as u32;
        self.begun = sent > 0;
        self.pinned_bytes += chunk.buffer.len();
        self.chunks.push_back((chunk, now));
    }

    /// Queues a chunk.
    ///
    /// # Errors
    /// [`Overflow`] where it would pin more than `cap` bytes; nothing is queued then.
    pub fn push(&mut self, chunk: Chunk, cap: usize, now: Tick) -> Result<(), Overflow> {
        if self.pinned_bytes + chunk.buffer.len() > cap {
            return Err(Overflow);
        }
        self.pinned_bytes += chunk.buffer.len();
        self.chunks.push_back((chunk, now));
        Ok(())
    }

    /// Notes that `sent` octets of the first chunk are out.
    pub fn advance(&mut self, sent: usize) {
        let Some((chunk, _)) = self.chunks.front_mut() else { return };
        debug_assert!(sent <= (chunk.end - chunk.start) as usize);
        chunk.start += sent as u32;
        self.begun |= sent > 0;
        if chunk.start == chunk.end {
            self.pinned_bytes -= chunk.buffer.len();
            self.begun = false;
            self.chunks.pop_front();
        }
    }

    /// Drops the oldest chunk that may be dropped and is not begun; says what went, and where it was.
    pub fn drop_oldest(&mut self) -> Option<Dropped> {
        let first = usize::from(self.begun);
        let (at, room) = (first..self.chunks.len()).find_map(|at| match self.chunks[at].0.tag {
            Tag::Room { room, may_drop: true } => Some((at, room)),
            Tag::Room { may_drop: false, .. } | Tag::Control | Tag::Gap(_) => None,
        })?;
        let (chunk, _) = self.chunks.remove(at)?;
        self.pinned_bytes -= chunk.buffer.len();
        Some(Dropped { room, messages: chunk.messages, bytes: chunk.buffer.len(), at })
    }

    /// Drops everything that is not begun; what is begun stays, so that a close frame can follow it.
    pub fn clear_unbegun(&mut self) {
        self.chunks.truncate(usize::from(self.begun));
        self.pinned_bytes = self.chunks.iter().map(|(chunk, _)| chunk.buffer.len()).sum();
    }

    /// Puts the notice of a gap where the dropped chunk was, so that it is told before what came later. The notice may go
    /// over the cap: what makes room must not fail for want of it.
    pub fn tell_gap(&mut self, at: usize, notice: Chunk, now: Tick) {
        self.pinned_bytes += notice.buffer.len();
        self.chunks.insert(at, (notice, now));
    }

    /// What waits of a room that the reader has left is dropped no more, and belongs to no room that may get the same index.
    pub fn forget_room(&mut self, room: u32) {
        for (chunk, _) in &mut self.chunks {
            if matches!(chunk.tag, Tag::Room { room: of, .. } | Tag::Gap(of) if of == room) {
                chunk.tag = Tag::Control;
            }
        }
    }

    /// Whether a gap of `room` waits to be told.
    pub fn tells_gap(&self, room: u32) -> bool {
        self.chunks.iter().any(|(chunk, _)| chunk.tag == Tag::Gap(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn droppable(room: u32) -> Tag {
        Tag::Room { room, may_drop: true }
    }

    const fn kept(room: u32) -> Tag {
        Tag::Room { room, may_drop: false }
    }

    fn chunk(text: &str, tag: Tag) -> Chunk {
        Chunk::whole(Rc::from(text.as_bytes()), tag, 1)
    }

    #[test]
    fn what_is_queued_comes_out_in_order_and_in_any_pieces() {
        let mut outbox = Outbox::default();
        outbox.begin(chunk("hello", Tag::Control), 2, 7);
        outbox.push(chunk("world", droppable(1)), 100, 8).unwrap();
        let mut sent = Vec::new();
        while let Some(front) = outbox.front() {
            let n = front.bytes().len().min(2);
            sent.extend_from_slice(&front.bytes()[..n]);
            outbox.advance(n);
        }
        assert_eq!(sent, b"lloworld");
        assert_eq!((outbox.pinned_bytes(), outbox.oldest()), (0, None));
    }

    #[test]
    fn the_cap_counts_whole_buffers_not_what_is_left_of_them() {
        let mut outbox = Outbox::default();
        outbox.begin(chunk("0123456789", Tag::Control), 9, 0);
        assert_eq!(outbox.push(chunk("ab", Tag::Control), 11, 0), Err(Overflow));
        assert_eq!(outbox.push(chunk("a", Tag::Control), 11, 0), Ok(()));
    }

    #[test]
    fn the_oldest_is_dropped_but_never_a_begun_frame_or_an_answer() {
        let mut outbox = Outbox::default();
        outbox.begin(chunk("begun", droppable(1)), 1, 0);
        for (text, tag) in [("answer", Tag::Control), ("other", kept(2)), ("old", droppable(1)), ("new", droppable(1))]
        {
            outbox.push(chunk(text, tag), 100, 0).unwrap();
        }
        assert_eq!(outbox.drop_oldest(), Some(Dropped { room: 1, messages: 1, bytes: 3, at: 3 }));
        assert_eq!(outbox.drop_oldest(), Some(Dropped { room: 1, messages: 1, bytes: 3, at: 3 }));
        assert_eq!(outbox.drop_oldest(), None, "only the begun one is left of the room");
        assert_eq!(outbox.pinned_bytes(), "begunanswerother".len());
    }

    #[test]
    fn what_waits_of_a_room_that_was_left_is_kept_and_no_notice_of_it_stands_for_another_room() {
        let mut outbox = Outbox::default();
        outbox.begin(chunk("begun", Tag::Control), 1, 0);
        outbox.push(chunk("old", droppable(1)), 100, 0).unwrap();
        outbox.tell_gap(1, chunk("gap", Tag::Gap(1)), 0);
        outbox.forget_room(1);
        assert!(!outbox.tells_gap(1));
        assert_eq!(outbox.drop_oldest(), None);
    }
}
