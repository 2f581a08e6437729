//! An outbox against a list of messages: what is sent is whole messages in order, whatever is dropped and however they lie together,
//! and the account is right.

use std::rc::Rc;

use arbitrary::Arbitrary;
use tidegate_core::connection::{Account, Chunk, Frames, Moment, Outbox, Overflow, PIECE_BYTES, Tag};

use super::with;

#[derive(Arbitrary)]
enum Act {
    Push { room: u8, len: u8 },
    Control { len: u8 },
    Advance(u8),
    DropOldest,
    ClearUnbegun,
}

#[derive(Arbitrary)]
struct Acts {
    cap: u16,
    first: Option<(u8, u8)>,
    acts: Vec<Act>,
}

/// A message in the model: its tag, what is left of its octets, when it came.
#[derive(Clone, Debug)]
struct Waiting {
    tag: Tag,
    left: Vec<u8>,
    begun: bool,
    since: u32,
}

#[derive(Default)]
struct Stage {
    outbox: Outbox,
    account: Account,
    model: Vec<Waiting>,
    cap: usize,
    now: Moment,
    /// Messages that are out, by the model and by the outbox, which tells a piece when all of it is.
    out: u32,
    told_out: u32,
}

/// See the module.
pub fn outbox(data: &[u8]) {
    with(data, |input: Acts| {
        let mut stage = Stage { cap: usize::from(input.cap), ..Stage::default() };
        if let Some((len, sent)) = input.first {
            let (chunk, sent) = (chunk(1 + usize::from(len), 0, of_room(0)), usize::from(sent.min(len)));
            stage.outbox.begin(&chunk, sent, stage.now, &mut stage.account);
            let left = chunk.bytes()[sent..].to_vec();
            stage.model.push(Waiting { tag: chunk.tag, left, begun: sent > 0, since: 0 });
        }
        for (number, act) in (1_u32..).zip(&input.acts) {
            // Several acts in a tick, so that frames lie together.
            stage.now = Moment { tick: number / 8, mono_ms: number };
            stage.apply(act, number as u8);
            stage.check();
        }
        stage.outbox.end(&mut stage.account);
        assert_eq!((stage.account.memory_bytes(), stage.account.unread_bytes()), (0, 0), "the account does not close");
    });
}

impl Stage {
    fn apply(&mut self, act: &Act, octet: u8) {
        match *act {
            // Small frames, which lie together, and large ones.
            Act::Push { room, len } => {
                self.push(of_room(room), 1 + usize::from(len) * if room < 192 { 1 } else { 8 }, octet);
            }
            Act::Control { len } => self.push(Tag::Control, 1 + usize::from(len), octet),
            Act::Advance(by) => self.advance(4 * usize::from(by)),
            Act::DropOldest => self.drop_oldest(),
            Act::ClearUnbegun => self.clear_unbegun(),
        }
    }

    fn check(&self) {
        let left = stream(&self.model);
        assert_eq!(unread(&self.outbox), left, "the stream is out of step");
        assert_eq!((self.outbox.unread_bytes(), self.outbox.is_empty()), (left.len(), left.is_empty()));
        assert_eq!(self.account.unread_bytes(), left.len() as u64);
        assert_eq!(self.outbox.oldest(), self.model.first().map(|waiting| waiting.since));
        assert!(self.told_out <= self.out, "a message is told out that is not");
        assert!(!left.is_empty() || self.told_out == self.out, "a message is out and not told");
        for room in 0..4 {
            assert_eq!(self.outbox.tells_gap(room), self.model.iter().any(|waiting| waiting.tag == Tag::Gap(room)));
        }
    }

    fn push(&mut self, tag: Tag, length: usize, octet: u8) {
        let chunk = chunk(length, octet, tag);
        let counted = self.outbox.counted_bytes() + length;
        let pushed = self.outbox.push(Frames::Shared(&chunk), self.cap, self.now, &mut self.account);
        match pushed {
            Ok(()) => assert!(counted <= self.cap, "over the cap"),
            Err(Overflow) => assert!(counted + PIECE_BYTES > self.cap, "refused below the cap"),
        }
        assert!(pushed.is_err() || self.outbox.counted_bytes() <= self.cap);
        if pushed.is_ok() {
            let left = chunk.bytes().to_vec();
            self.model.push(Waiting { tag, left, begun: false, since: self.now.tick });
        }
    }

    fn advance(&mut self, by: usize) {
        let mut by = by.min(self.outbox.unread_bytes());
        let told_out = &mut self.told_out;
        self.outbox.advance(by, &mut self.account, |sent| *told_out += sent.messages);
        while let Some(first) = self.model.first_mut().filter(|_| by > 0) {
            let taken = by.min(first.left.len());
            first.left.drain(..taken);
            first.begun = true;
            by -= taken;
            if first.left.is_empty() {
                self.out += u32::from(!matches!(first.tag, Tag::Gap(_)));
                self.model.remove(0);
            }
        }
    }

    /// What goes is the oldest that may go, but for messages that lie together with one that is begun.
    fn drop_oldest(&mut self) {
        let begun = self.model.first().filter(|first| first.begun).map(|first| (first.tag, first.since));
        let may_drop = |waiting: &&Waiting| matches!(waiting.tag, Tag::Room { may_drop: true, .. });
        let Some(dropped) = self.outbox.drop_oldest(&mut self.account) else {
            for waiting in self.model.iter().filter(may_drop) {
                assert_eq!(Some((waiting.tag, waiting.since)), begun, "one that may go stays");
            }
            return;
        };
        let (count, tag) = (dropped.messages as usize, Tag::Room { room: dropped.room, may_drop: true });
        let after = unread(&self.outbox);
        let goes = (0..self.model.len()).find(|at| {
            let mut rest = self.model.clone();
            at + count <= rest.len()
                && rest.drain(*at..at + count).all(|waiting| waiting.tag == tag && !waiting.begun)
                && stream(&rest) == after
        });
        let Some(at) = goes else { panic!("something else was dropped than {count} messages of one room") };
        let older = self.model.drain(..at + count).take(at).collect::<Vec<_>>();
        for waiting in older.iter().filter(may_drop) {
            assert_eq!(Some((waiting.tag, waiting.since)), begun, "an older one may have gone");
        }
        self.model.splice(..0, older);
        if !self.outbox.tells_gap(dropped.room) {
            self.outbox.tell_gap(dropped.at, b"gap", dropped.room, self.now, &mut self.account);
            let (tag, left) = (Tag::Gap(dropped.room), b"gap".to_vec());
            self.model.insert(at, Waiting { tag, left, begun: false, since: self.now.tick });
        }
    }

    fn clear_unbegun(&mut self) {
        self.outbox.clear_unbegun(&mut self.account);
        let mut left = self.outbox.unread_bytes();
        self.model.retain(|waiting| {
            let stays = left > 0;
            left = left.saturating_sub(waiting.left.len());
            stays
        });
        // Those that lay together with a begun one are told with it, if they are out.
        assert!(self.model.is_empty() || self.told_out <= self.out);
    }
}

fn stream(model: &[Waiting]) -> Vec<u8> {
    model.iter().flat_map(|waiting| waiting.left.iter().copied()).collect()
}

fn unread(outbox: &Outbox) -> Vec<u8> {
    outbox.next_bytes(usize::MAX, usize::MAX, &mut Vec::new()).to_vec()
}

/// One of four rooms, of which two let their messages be dropped.
fn of_room(room: u8) -> Tag {
    let room = u32::from(room % 4);
    Tag::Room { room, may_drop: room >= 2 }
}

/// A part of a buffer, smaller than the whole where its octet is odd.
fn chunk(length: usize, octet: u8, tag: Tag) -> Chunk {
    let buffer: Rc<[u8]> = Rc::from(vec![octet; length + usize::from(octet % 2) * 300]);
    Chunk { end: length as u32, ..Chunk::whole(buffer, tag, 1) }
}
