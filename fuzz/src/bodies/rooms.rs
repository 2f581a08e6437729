//! A room against sets: whoever is a member gets everything once and in order, whatever happens between two steps of a pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::Arbitrary;
use bytes::Bytes;
use tidegate_core::model::{Kind, Publication};
use tidegate_core::room::{Room, Step};

use super::with;

#[derive(Arbitrary)]
enum Act {
    Join(u8),
    Leave(u8),
    /// With a payload of so many 256ths of 64 KiB.
    Publish(u8),
    Steps(u8),
}

/// What one membership saw.
struct Member {
    position: u32,
    /// Everything from here on must be seen.
    joined_at: usize,
    /// What must come next; none before the first.
    next: Option<usize>,
}

struct Model {
    room: Room,
    members: BTreeMap<u32, Member>,
    /// What each connection saw last, in whichever membership.
    last_seen: BTreeMap<u32, usize>,
    published: usize,
    /// The publications of the pass under way.
    pass: std::ops::Range<usize>,
}

/// See the module.
pub fn room(data: &[u8]) {
    with(data, |acts: Vec<Act>| {
        let mut model = Model {
            room: Room::default(),
            members: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            published: 0,
            pass: 0..0,
        };
        for act in acts {
            model.act(&act);
            model.check();
        }
        while model.step() {}
        assert_eq!(model.room.pending_bytes(), 0, "bytes are left");
        for (connection, member) in &model.members {
            let missing = member.next.unwrap_or(member.joined_at) < model.published;
            assert!(!missing, "{connection} never got {:?} of {}", member.next, model.published);
        }
    });
}

impl Model {
    fn act(&mut self, act: &Act) {
        match *act {
            Act::Join(connection) => self.join(u32::from(connection)),
            Act::Leave(connection) => self.leave(u32::from(connection)),
            Act::Publish(size) => self.publish(size),
            Act::Steps(steps) => {
                for _ in 0..steps {
                    self.step();
                }
            }
        }
    }

    fn join(&mut self, connection: u32) {
        if !self.members.contains_key(&connection) {
            let position = self.room.join(connection);
            self.members.insert(connection, Member { position, joined_at: self.published, next: None });
        }
    }

    fn leave(&mut self, connection: u32) {
        let Some(member) = self.members.remove(&connection) else { return };
        if let Some(moved) = self.room.leave(member.position) {
            self.members.get_mut(&moved).expect("only a member moves").position = member.position;
        }
    }

    fn publish(&mut self, size: u8) {
        static ZEROS: [u8; 65_536] = [0; 65_536];
        let publication = Publication::of_backend(
            "room".into(),
            Kind::Binary,
            Bytes::from_static(&ZEROS[..256 * usize::from(size)]),
            // Its place in the order.
            self.published as u64,
        );
        let is_idle = self.pass.is_empty() && self.room.pending_bytes() == 0;
        let is_begun = self.room.publish(Arc::new(publication));
        assert!(!is_begun || is_idle, "a room that is scheduled already is not scheduled again");
        assert!(is_begun || !is_idle || self.has_holes(), "an idle room must be scheduled");
        self.published += 1;
    }

    /// Whether the room is gone on with for its holes, although nothing is published.
    fn has_holes(&mut self) -> bool {
        self.pass.is_empty() && self.room.step() == Step::Holes
    }

    /// One step; false where there is nothing to do.
    fn step(&mut self) -> bool {
        let fresh = self.pass.is_empty();
        let step = self.room.step();
        if fresh && let Some(batch) = self.room.batch() {
            let start = self.pass.end;
            self.pass = start..start + batch.publications().len();
            let places = batch.publications().iter().map(|publication| publication.time_unix_ns as usize);
            assert!(places.eq(self.pass.clone()), "the batch is not what comes next");
        }
        match step {
            Step::Member(connection) => self.deliver(connection),
            Step::Over => self.finish(),
            Step::Holes => self.close_holes(),
            Step::Idle => return false,
        }
        true
    }

    fn deliver(&mut self, connection: u32) {
        let member = self.members.get_mut(&connection).expect("a delivery to somebody who left");
        let expected = member.next.unwrap_or(member.joined_at.min(self.pass.start));
        assert_eq!(self.pass.start, expected, "{connection} is skipped, or gets something twice");
        member.next = Some(self.pass.end);
        let before = self.last_seen.insert(connection, self.pass.end);
        assert!(before.is_none_or(|end| end <= self.pass.start), "{connection} got a publication twice");
    }

    fn finish(&mut self) {
        let (batch, more) = self.room.finish();
        assert!(batch.is_some(), "a pass that is over has a batch");
        assert_eq!(more, self.pass.end < self.published, "another pass waits exactly while a publication does");
        self.pass = self.pass.end..self.pass.end;
    }

    fn close_holes(&mut self) {
        let members = &mut self.members;
        self.room.close_holes(1, |connection, position| {
            members.get_mut(&connection).expect("only a member moves").position = position;
        });
    }

    fn check(&self) {
        assert_eq!((self.room.len(), self.room.is_empty()), (self.members.len(), self.members.is_empty()));
        let listed: std::collections::BTreeSet<u32> = self.room.members().collect();
        assert!(listed.iter().eq(self.members.keys()), "others are members than those who joined");
        assert_eq!(self.room.publications(), self.published as u64);
    }
}
