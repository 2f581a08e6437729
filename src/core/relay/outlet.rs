//! What goes to one port: its mailbox, what did not fit it, and which rooms missed something.
//!
//! Deliveries may be dropped, and then a gap says so; control items (confirmations, gaps, acknowledgements) never are: they have
//! a reserve in the mailbox and, beyond it, a spill that shards keep short by bounding their open requests.
//!
//! After a drop the port is *behind*: everything for it is dropped until a quarter of its mailbox is free again, then one gap
//! names the rooms, and deliveries go on after it. Without that distance a slow shard would get a gap for each message.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::ToShard;
use crate::limits;
use crate::model::{GapReason, Publication, RoomName};

/// More missed rooms than this are told as a gap of all rooms.
const MISSED_ROOMS: usize = 1024;

/// The writing end of a port's bounded mailbox, with one writer at a time.
pub trait Mailbox {
    /// Puts an item in. Wakes no reader: [`Mailbox::wake`] does, after a batch.
    ///
    /// # Errors
    /// The item, where the mailbox is full.
    fn push(&mut self, item: ToShard) -> Result<(), ToShard>;

    /// Free places. The reader can only make more.
    fn free(&self) -> usize;

    /// Bytes charged and not yet released by the reader.
    fn bytes(&self) -> usize;

    /// Charges the mailbox with what an item pins.
    fn charge(&self, bytes: usize);

    /// Wakes the reader if it sleeps.
    fn wake(&self);
}

/// The relay's side of one port.
pub struct Outlet<M> {
    mailbox: M,
    /// Free places as of the last look; the reader can only have made more.
    free: usize,
    /// Places that deliveries may take.
    delivery_capacity: usize,
    spill: VecDeque<ToShard>,
    missed: Option<Missed>,
    /// Gaps of one room in the mailbox that neither a delivery of the room nor a confirmation came after: by room, the reason and the place.
    open_gaps: HashMap<RoomName, (GapReason, u64)>,
    /// Items put into the mailbox so far.
    pushed: u64,
    /// Places of the items in the mailbox that are no deliveries, oldest first; some of them may have been read.
    control: VecDeque<u64>,
    /// Joins that were passed on and have no answer yet.
    open_joins: usize,
    dirty: bool,
}

enum Missed {
    Rooms(HashSet<RoomName>),
    All,
}

impl<M: Mailbox> Outlet<M> {
    /// `mailbox` has room for `delivery_capacity` items and the reserve.
    pub fn new(mailbox: M, delivery_capacity: usize) -> Self {
        let free = mailbox.free();
        Self {
            mailbox,
            free,
            delivery_capacity,
            spill: VecDeque::new(),
            missed: None,
            open_gaps: HashMap::new(),
            pushed: 0,
            control: VecDeque::new(),
            open_joins: 0,
            dirty: false,
        }
    }

    /// Puts a publication in, or drops it and remembers the room. Says whether it went in.
    pub(super) fn deliver(&mut self, publication: &Arc<Publication>) -> bool {
        let bytes = publication.pinned_bytes();
        if self.is_behind() && !self.catch_up() || !self.fits(1, bytes) {
            self.miss(&publication.room);
            return false;
        }
        self.mailbox.charge(bytes);
        if !self.open_gaps.is_empty() {
            self.open_gaps.remove(&publication.room);
        }
        self.push(ToShard::Deliver(publication.clone()));
        true
    }

    /// Whether the answer to one more join has a place: the reserve is for all control items.
    pub(super) fn takes_join(&mut self) -> bool {
        self.spill.is_empty() && self.open_joins + self.unread_control() < limits::JOINS_OPEN
    }

    /// A join of this port is passed on.
    pub(super) fn begin_join(&mut self) {
        self.open_joins += 1;
    }

    /// Puts the answer to a join in.
    pub(super) fn answer_join(&mut self, item: ToShard) {
        debug_assert!(self.open_joins > 0, "an answer without a join");
        self.open_joins = self.open_joins.saturating_sub(1);
        self.tell(item);
    }

    /// Puts a control item in, after everything before it.
    pub(super) fn tell(&mut self, item: ToShard) {
        if let ToShard::Joined(room) = &item {
            self.open_gaps.remove(room);
        }
        if self.spill.is_empty() && self.has_free(1) {
            self.push(item);
        } else {
            self.spill.push_back(item);
        }
    }

    /// Puts a message of the node channel in, or drops it: nodes repeat themselves, and a flood must not fill the spill.
    pub(super) fn offer(&mut self, message: &[u8]) {
        if self.spill.is_empty() && self.fits(1, message.len()) && self.has_free(limits::MAILBOX_RESERVE / 2) {
            self.mailbox.charge(message.len());
            self.push(ToShard::FromNodes(message.into()));
        }
    }

    /// Tells a gap of one room, or of all. A port that is behind, or short of room, gets it with the gap that it is due anyway: a
    /// flood of reasons for gaps must not fill the spill. Nor does it cost the shard a walk each: one that waits for the reader with
    /// nothing of its room behind it says the same.
    pub(super) fn tell_gap(&mut self, room: Option<&RoomName>, reason: GapReason) {
        if room.is_some_and(|room| self.waits(room, reason)) {
            return;
        }
        if !self.is_behind() && self.has_free(limits::MAILBOX_RESERVE / 2) {
            if let Some(room) = room {
                if self.open_gaps.len() == MISSED_ROOMS {
                    self.open_gaps.clear();
                }
                self.open_gaps.insert(room.clone(), (reason, self.pushed));
            }
            self.push(ToShard::Gap(room.map(|room| vec![room.clone()]), reason));
        } else if let Some(room) = room {
            self.miss(room);
        } else {
            self.missed = Some(Missed::All);
        }
    }

    /// Whether something waits for the reader to make room; then call [`Outlet::catch_up`] again soon.
    pub(super) fn is_behind(&self) -> bool {
        !self.spill.is_empty() || self.missed.is_some()
    }

    /// Moves the spill and the gap in where there is room. Says whether nothing is left behind.
    pub(super) fn catch_up(&mut self) -> bool {
        while !self.spill.is_empty() && self.has_free(1) {
            if let Some(item) = self.spill.pop_front() {
                self.push(item);
            }
        }
        if !self.spill.is_empty() {
            return false;
        }
        let distance = (self.delivery_capacity / 4).max(1);
        if self.missed.is_some()
            && self.fits(distance, limits::MAILBOX_BYTES / 4)
            && let Some(missed) = self.missed.take()
        {
            self.push(ToShard::Gap(missed.into_rooms(), GapReason::Mailbox));
        }
        !self.is_behind()
    }

    /// Wakes the reader if something was put in since the last call.
    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.mailbox.wake();
        }
    }

    /// Items that the reader has not taken yet.
    pub(super) fn depth(&mut self) -> usize {
        self.free = self.mailbox.free();
        self.delivery_capacity + limits::MAILBOX_RESERVE - self.free + self.spill.len()
    }

    /// Whether this gap is in the mailbox already and no delivery of the room after it.
    fn waits(&mut self, room: &RoomName, reason: GapReason) -> bool {
        if !self.open_gaps.get(room).is_some_and(|(known, _)| *known == reason) {
            return false;
        }
        // What was read by now is over: the reader may have told it before this loss.
        let read = self.read();
        self.open_gaps.retain(|_, (_, place)| *place >= read);
        self.open_gaps.contains_key(room)
    }

    /// The place up to which the reader has read.
    fn read(&mut self) -> u64 {
        self.free = self.mailbox.free();
        let taken = self.delivery_capacity + limits::MAILBOX_RESERVE - self.free;
        self.pushed - taken as u64
    }

    /// Control items in the mailbox.
    fn unread_control(&mut self) -> usize {
        let read = self.read();
        while self.control.front().is_some_and(|place| *place < read) {
            self.control.pop_front();
        }
        self.control.len()
    }

    fn push(&mut self, item: ToShard) {
        if !matches!(item, ToShard::Deliver(_)) {
            if self.control.len() >= self.delivery_capacity + limits::MAILBOX_RESERVE {
                self.unread_control();
            }
            self.control.push_back(self.pushed);
        }
        self.free -= 1;
        self.pushed += 1;
        self.dirty = true;
        // The place was free when it was looked for, and only this side takes places.
        if let Err(item) = self.mailbox.push(item) {
            debug_assert!(false, "a free place was not free");
            self.spill.push_back(item);
        }
    }

    fn has_free(&mut self, places: usize) -> bool {
        if self.free < places {
            self.free = self.mailbox.free();
        }
        self.free >= places
    }

    fn fits(&mut self, deliveries: usize, bytes: usize) -> bool {
        let held = self.mailbox.bytes();
        // An empty mailbox takes anything: a message of nearly its byte limit must not be a gap for ever.
        let needed = limits::MAILBOX_RESERVE + deliveries;
        // Control items take the reserve's places, not those of deliveries.
        let free = self.has_free(needed)
            || self.free + self.unread_control().min(limits::MAILBOX_RESERVE) >= needed && self.free >= deliveries;
        free && (held == 0 || held + bytes <= limits::MAILBOX_BYTES)
    }

    fn miss(&mut self, room: &RoomName) {
        match self.missed.get_or_insert_with(|| Missed::Rooms(HashSet::new())) {
            Missed::Rooms(rooms) if rooms.len() < MISSED_ROOMS => {
                if !rooms.contains(room) {
                    rooms.insert(room.clone());
                }
            }
            Missed::Rooms(rooms) if rooms.contains(room) => {}
            missed @ (Missed::Rooms(_) | Missed::All) => *missed = Missed::All,
        }
    }
}

impl Missed {
    fn into_rooms(self) -> Option<Vec<RoomName>> {
        match self {
            Self::Rooms(rooms) => Some(rooms.into_iter().collect()),
            Self::All => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use crate::relay::test_mailbox::{Reader, TestMailbox, mailbox};

    fn outlet() -> (Outlet<TestMailbox>, Reader) {
        let (mailbox, reader) = mailbox(16 + limits::MAILBOX_RESERVE);
        (Outlet::new(mailbox, 16), reader)
    }

    fn publication(room: &str) -> Arc<Publication> {
        let (room, payload) = (room.into(), bytes::Bytes::from_static(b"1"));
        Arc::new(Publication::of_backend(room, Kind::Json, payload, 0))
    }

    /// With a limits.message_bytes of 64 MiB, which is allowed, a message of that size was a gap to its room whenever it was sent.
    #[test]
    fn an_empty_mailbox_takes_a_message_over_its_byte_limit() {
        let (mut outlet, reader) = outlet();
        let payload = bytes::Bytes::from(vec![b'1'; limits::MAILBOX_BYTES]);
        let large = Arc::new(Publication { payload, ..Publication::clone(&publication("lobby")) });
        assert!(outlet.deliver(&large));
        assert!(!outlet.deliver(&publication("lobby")), "the next waits until it is read");
        while reader.pop().is_some() {}
        assert!(outlet.deliver(&large));
    }

    /// A crowd of joins was confirmed at once: its answers filled the shard's mailbox, and rooms that had nothing to do with it lost
    /// messages.
    #[test]
    fn answers_to_a_crowd_of_joins_take_no_delivery_its_place() {
        let (mut outlet, reader) = outlet();
        let mut answered = 0;
        while outlet.takes_join() {
            outlet.begin_join();
            outlet.answer_join(ToShard::Joined("crowd".into()));
            answered += 1;
        }
        assert_eq!(answered, limits::JOINS_OPEN);
        (0..16).for_each(|_| assert!(outlet.deliver(&publication("lobby"))));
        assert!(!outlet.deliver(&publication("lobby")), "its own places are taken");
        (0..answered).for_each(|_| drop(reader.pop()));
        assert!(outlet.takes_join());
        for _ in 0..limits::JOINS_OPEN {
            outlet.begin_join();
        }
        assert!(!outlet.takes_join(), "those that wait for the broker count too");
    }

    #[test]
    fn a_gap_that_waits_already_is_not_told_again_until_it_is_read_or_followed() {
        let (mut outlet, reader) = outlet();
        let [lobby, hall] = ["lobby", "hall"].map(RoomName::from);
        for _ in 0..1_000 {
            outlet.tell_gap(Some(&lobby), GapReason::TooLarge);
            outlet.tell_gap(Some(&hall), GapReason::TooLarge);
        }
        assert_eq!(reader.len(), 2, "one for each room");
        assert!(outlet.deliver(&publication("lobby")));
        outlet.tell_gap(Some(&lobby), GapReason::TooLarge);
        outlet.tell_gap(Some(&hall), GapReason::TooLarge);
        assert_eq!(reader.len(), 4, "what was delivered stands between two losses");
        while reader.pop().is_some() {}
        outlet.tell_gap(Some(&hall), GapReason::TooLarge);
        assert_eq!(reader.len(), 1, "the one that was read says nothing of what came later");
        outlet.tell_gap(Some(&hall), GapReason::Broker);
        assert_eq!(reader.len(), 2, "another reason is another gap");
        outlet.tell(ToShard::Joined(hall.clone()));
        outlet.tell_gap(Some(&hall), GapReason::Broker);
        assert_eq!(reader.len(), 4, "a member that joined after a gap was not told it");
        for room in 0..2 * MISSED_ROOMS {
            outlet.tell_gap(Some(&room.to_string().into()), GapReason::TooLarge);
        }
        assert!(outlet.open_gaps.len() <= MISSED_ROOMS);
    }
}
