//! The entry: all that an idle client costs.

use super::outbox::Outbox;
use super::{Tick, gained};
use crate::close::CloseReason;
use crate::dialect::Form;
use crate::ws::message::Partial;

/// Where a connection stands between accept and release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// The upgrade request is not complete.
    Handshaking,
    /// Messages flow.
    Open,
    /// Its end is decided and is carried out before the next event: nothing more is sent or delivered to it.
    Ending,
    /// Our close frame is sent or queued; the peer's is awaited until the deadline.
    Closing,
    /// Everything is said and our FIN is sent; what still arrives is discarded until EOF or the deadline.
    Lingering,
    /// Given back to the driver; the slot is free when the driver says so.
    Released,
}

/// One bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(u16);

impl Flags {
    /// On the shard's ready list.
    pub const READY: Self = Self(1);
    /// The peer's end or an error was signalled: read until 0 or an error, whatever a short read says.
    pub const HANGUP: Self = Self(2);
    /// A ping is out and nothing was heard since.
    pub const PINGED: Self = Self(4);
    /// The request is a HEAD: its answer has no body.
    pub const HEAD: Self = Self(8);
    /// To be answered 503 where it asks for an upgrade: connections come too fast.
    pub const REFUSED: Self = Self(16);
    /// An excess of messages within the current second.
    pub const RATE_TOLD: Self = Self(32);
    /// Our FIN follows when the outbox is empty.
    pub const FIN_AFTER_OUTBOX: Self = Self(64);
    /// A PROXY protocol header comes first.
    pub const PROXIED: Self = Self(128);
    /// The 101 was sent: from here on it counts as a connection.
    pub const UPGRADED: Self = Self(256);
    /// An excess of messages in the second before the current one.
    pub const RATE_BEFORE: Self = Self(512);
    /// A token is required of it, and none came yet.
    pub const AWAITS_TOKEN: Self = Self(1024);
    /// On the shard's list of those that hold memory.
    pub const HOLDER: Self = Self(2048);
    /// On the shard's list of those whose outboxes are to be sent on.
    pub const WRITING: Self = Self(4096);
    /// It has sent more than it may, and not all of that is read.
    pub const EXCESS: Self = Self(8192);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets the bits of `other`.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Clears the bits of `other`.
    pub fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// That a connection is in a room, seen from the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The room's index on the shard.
    pub room: u32,
    /// The connection's position among the room's members, or [`WAITING`].
    pub position: u32,
}

/// The position of a member whose subscription is not confirmed yet.
pub const WAITING: u32 = u32::MAX;

/// The rooms of a connection: one inline, more in a box.
#[derive(Debug, Default)]
pub enum Rooms {
    /// No room.
    #[default]
    None,
    /// One room: nothing is allocated.
    One(Membership),
    /// Two or more, behind a thin pointer: it keeps the entry at 64 bytes.
    Many(Box<Vec<Membership>>),
}

impl Rooms {
    /// All memberships.
    pub fn as_slice(&self) -> &[Membership] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// The membership in `room`.
    pub fn find(&self, room: u32) -> Option<Membership> {
        self.as_slice().iter().find(|m| m.room == room).copied()
    }

    /// Number of memberships.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Adds a membership; the caller knows that there is none in this room.
    pub fn insert(&mut self, membership: Membership) {
        debug_assert!(self.find(membership.room).is_none());
        *self = match std::mem::take(self) {
            Self::None => Self::One(membership),
            Self::One(one) => Self::Many(Box::new(vec![one, membership])),
            Self::Many(mut many) => {
                many.push(membership);
                Self::Many(many)
            }
        };
    }

    /// Removes and returns the membership in `room`.
    pub fn remove(&mut self, room: u32) -> Option<Membership> {
        let found = self.find(room)?;
        *self = match std::mem::take(self) {
            Self::None | Self::One(_) => Self::None,
            Self::Many(mut many) => {
                many.retain(|m| m.room != room);
                if let [one] = many[..] { Self::One(one) } else { Self::Many(many) }
            }
        };
        Some(found)
    }

    /// Notes the connection's new position in `room`.
    pub fn set_position(&mut self, room: u32, position: u32) {
        let slice = match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => &mut many[..],
        };
        if let Some(membership) = slice.iter_mut().find(|m| m.room == room) {
            membership.position = position;
        }
    }
}

/// One client, from accept to release. 64 bytes, and nothing else while it is idle.
#[derive(Debug)]
pub struct Entry {
    /// The socket.
    pub fd: i32,
    /// Tells this connection from earlier ones at the same index.
    pub generation: u32,
    /// The driver's batch in which a send for this connection was last queued. While the handshake is unfinished and nothing is
    /// queued: its place among those sockets that are not upgraded.
    pub batch: u32,
    /// The deadline of the current state; 0 is none.
    pub deadline: Tick,
    /// When it was accepted.
    pub born: Tick,
    /// What waits to be sent; only while something does.
    pub outbox: Option<Box<Outbox>>,
    /// What arrived of an unfinished frame or message; only while one is unfinished.
    pub partial: Option<Box<Partial>>,
    /// Its rooms.
    pub rooms: Rooms,
    /// When the client was last heard, in ticks modulo 2¹⁶.
    pub heard: u16,
    /// Messages that it may still send in this instant.
    pub credits: u16,
    /// When the credits were last refilled, in ticks modulo 2¹⁶.
    pub credit_tick: u16,
    /// Where it stands.
    pub state: State,
    /// How its messages look on the wire.
    pub form: Form,
    /// See [`Flags`].
    pub flags: Flags,
    /// Why it will have ended: set when the end begins.
    pub reason: Option<CloseReason>,
}

impl Entry {
    /// A connection that was just accepted.
    pub fn new(fd: i32, generation: u32, now: Tick, deadline: Tick) -> Self {
        Self {
            fd,
            generation,
            batch: 0,
            deadline,
            born: now,
            outbox: None,
            partial: None,
            rooms: Rooms::None,
            heard: now as u16,
            credits: 0,
            credit_tick: now as u16,
            state: State::Handshaking,
            form: Form::UNDECIDED,
            flags: Flags::default(),
            reason: None,
        }
    }

    /// The client said something.
    pub fn hear(&mut self, now: Tick) {
        self.heard = now as u16;
        self.flags.clear(Flags::PINGED);
    }

    /// Takes one credit of a bucket that gains `rate` a second up to `burst`; false where there is none. A `rate` of 0 is
    /// no limit.
    pub fn take_credit(&mut self, now: Tick, rate: u16, burst: u16) -> bool {
        if rate == 0 {
            return true;
        }
        self.refill(now, rate, burst);
        if self.credits == 0 {
            return false;
        }
        self.credits -= 1;
        true
    }

    /// Takes `count` credits of the same bucket, or none where there are fewer. What needs more than `burst`, which the bucket never
    /// holds, needs a full one and takes all of it.
    pub fn take_credits(&mut self, now: Tick, rate: u16, burst: u16, count: usize) -> bool {
        if rate == 0 {
            return true;
        }
        self.refill(now, rate, burst);
        let count = u16::try_from(count).unwrap_or(u16::MAX).min(burst);
        let Some(left) = self.credits.checked_sub(count) else { return false };
        self.credits = left;
        true
    }

    #[inline]
    fn refill(&mut self, now: Tick, rate: u16, burst: u16) {
        let elapsed = (now as u16).wrapping_sub(self.credit_tick);
        if elapsed > 0 {
            let gained = gained(now.saturating_sub(u32::from(elapsed)), now, u32::from(rate));
            self.credits = (u64::from(self.credits) + gained).min(u64::from(burst)) as u16;
            self.credit_tick = now as u16;
        }
    }

    /// What its outbox counts against its cap, in bytes.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.counted_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_costs_64_bytes_even_in_the_slab() {
        // The slab's own enum, whose vacant variant must find its tag in a niche of the entry.
        #[expect(dead_code, reason = "only its size is asked for")]
        enum Slot {
            Vacant(usize),
            Occupied(Entry),
        }
        assert_eq!(size_of::<Entry>(), 64);
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn rooms_come_and_go_and_one_room_needs_no_box() {
        let mut rooms = Rooms::None;
        for room in 0..5 {
            rooms.insert(Membership { room, position: room * 10 });
        }
        rooms.set_position(3, 7);
        assert_eq!(rooms.find(3), Some(Membership { room: 3, position: 7 }));
        for room in [0, 4, 2, 1] {
            assert!(rooms.remove(room).is_some());
        }
        assert!(matches!(rooms, Rooms::One(Membership { room: 3, position: 7 })));
        assert_eq!(rooms.remove(9), None);
        assert!(rooms.remove(3).is_some() && rooms.is_empty());
    }

    #[test]
    fn the_token_bucket_allows_its_burst_and_then_its_rate() {
        let mut entry = Entry::new(3, 1, 0, 0);
        entry.credits = 20;
        let taken = |entry: &mut Entry, now| (0..1000).take_while(|_| entry.take_credit(now, 10, 20)).count();
        assert_eq!(taken(&mut entry, 0), 20);
        assert_eq!(taken(&mut entry, 5), 5, "half a second gains five");
        assert_eq!(taken(&mut entry, 6), 1, "a tenth gains one");
        assert_eq!(taken(&mut entry, 1000), 20, "never more than the burst");
        assert_eq!(taken(&mut entry, 65_536 + 1000), 0, "the tick's wrap gains nothing");
        assert!(entry.take_credit(1000, 0, 0), "rate 0 is no limit");
    }

    #[test]
    fn several_credits_are_taken_all_or_none_and_never_more_than_the_burst() {
        let mut entry = Entry::new(3, 1, 0, 0);
        entry.credits = 20;
        assert!(entry.take_credits(0, 10, 20, 16) && entry.credits == 4);
        assert!(!entry.take_credits(0, 10, 20, 5) && entry.credits == 4, "none of them");
        assert!(entry.take_credits(1, 10, 20, 5) && entry.credits == 0, "a tenth gains one");
        assert!(!entry.take_credits(20, 10, 20, 100_000) && entry.credits == 19, "the bucket is not full");
        assert!(entry.take_credits(21, 10, 20, 100_000) && entry.credits == 0, "a full bucket pays for any message");
        assert!(entry.take_credits(21, 0, 0, 100_000), "rate 0 is no limit");
    }

    #[test]
    fn a_slow_rate_still_gains_a_credit_in_time() {
        let mut entry = Entry::new(3, 1, 0, 0);
        let gained = (1..=30).filter(|now| entry.take_credit(*now, 1, 2)).count();
        assert_eq!(gained, 3, "one a second for three seconds");
    }

    #[test]
    fn a_connection_that_sends_with_every_tick_gets_its_whole_message_rate_whatever_it_is() {
        // Rates that are no multiple of the ticks in a second lost up to half of themselves, a part of a credit each tick.
        for rate in [1, 9, 10, 11, 19, 101, 32_767] {
            let mut entry = Entry::new(3, 1, 7, 0);
            let in_a_tick =
                |entry: &mut Entry, now| (0..40_000).take_while(|_| entry.take_credit(now, rate, 2 * rate)).count();
            let gained: usize = (8..=107).map(|now| in_a_tick(&mut entry, now)).sum();
            assert_eq!(gained, 10 * usize::from(rate), "{rate} a second, for ten seconds");
        }
    }
}
