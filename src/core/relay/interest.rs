//! The interest table: which ports want which room, and what the broker must know of it. Pure: no clock, no broker, no mailbox.
//!
//! The relay drives it: requests go in by `handle_*` with the time, what to do comes out of [`Interest::poll_effect`]
//! in order. A room's life:
//!
//! ```text
//!            first interest                confirm()               last leave
//!  (absent) ────────────────► Pending ───────────────► Confirmed ─────────────► Lingering
//!     ▲      Subscribe           │      Joined × n          ▲                       │  │
//!     │                          │                          └───────────────────────┘  │
//!     └──────────────────────────┴───────────────────────────  interest again: Joined  │
//!        not confirmed in time,  Refused × n                                           │
//!     ▲                                                                                │
//!     └────────────────────────────────────────────────────────────────────────────────┘
//!        Unsubscribe             no interest during the linger, or another room needs its place
//! ```
//!
//! A room that lingers is a cache: where the table is full, a join of another room ends the one that has lingered longest. Only
//! rooms that a port wants, or waits for, count against the limit.
//!
//! Invariants, held in debug builds after every entry point: every [`Interest::handle_subscribe`] is answered by exactly one
//! `Joined` or `Refused`; a pending room is in the
//! one set of timers, a lingering one in the other, each exactly once; `Subscribe` and `Unsubscribe` of a
//! room alternate. A port that left while its answer was under way still gets the answer.
//!
//! The broker may revoke a subscription that was in force ([`Interest::refuse`]): its permissions changed. The room is then absent, and
//! each port that wanted it is told `Revoked`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

use super::JoinError;
use super::ports::{PortIndex, PortSet};
use crate::model::{RoomName, shrink_table};

/// Names a room's entry. Its number differs each time that the room is subscribed, so that what concerns an earlier
/// subscription cannot reach a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoomKey {
    slot: usize,
    number: u64,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Subscribe the room, then [`Interest::confirm`] the key once the subscription is known to be in force.
    Subscribe(RoomKey, RoomName),
    /// End the room's subscription.
    Unsubscribe(RoomKey),
    /// Tell the port that it is subscribed.
    Joined(PortIndex, RoomName),
    /// Tell the port that it is not.
    Refused(PortIndex, RoomName, JoinError),
    /// Tell the port, which was subscribed, that it is no more.
    Revoked(PortIndex, RoomName),
}

#[derive(Debug)]
enum State {
    /// One waiter for each request that has no answer yet, in order.
    Pending {
        waiters: Vec<PortIndex>,
        deadline: Instant,
    },
    Confirmed,
    Lingering {
        until: Instant,
    },
}

#[derive(Debug)]
struct Entry {
    room: RoomName,
    number: u64,
    ports: PortSet,
    state: State,
}

/// The table.
#[derive(Debug)]
pub struct Interest {
    entries: Slab<Entry>,
    names: HashMap<RoomName, usize>,
    /// When pending rooms are refused.
    deadlines: BTreeSet<(Instant, RoomKey)>,
    /// When lingering rooms end; the first has lingered longest.
    lingering: BTreeSet<(Instant, RoomKey)>,
    effects: VecDeque<Effect>,
    next_number: u64,
    bounds: Bounds,
}

/// What bounds the table.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A room not confirmed by then is refused.
    pub confirm_within: Duration,
    /// A room without interest ends after it.
    pub linger: Duration,
    /// Rooms in the table; more are refused, unless one that lingers gives way.
    pub rooms: usize,
}

impl Interest {
    /// An empty table.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            entries: Slab::new(),
            names: HashMap::new(),
            deadlines: BTreeSet::new(),
            lingering: BTreeSet::new(),
            effects: VecDeque::new(),
            next_number: 0,
            bounds,
        }
    }

    /// A port wants a room.
    pub fn handle_subscribe(&mut self, room: RoomName, port: PortIndex, now: Instant) {
        match self.names.get(&room).copied() {
            Some(slot) => self.join_known(slot, port),
            None if self.entries.len() >= self.bounds.rooms && !self.end_longest_lingering() => {
                self.effects.push_back(Effect::Refused(port, room, JoinError::TooManyRooms));
            }
            None => self.join_new(room, port, now),
        }
        self.check_invariants();
    }

    /// A port has no member of a room any more.
    pub fn handle_unsubscribe(&mut self, room: &str, port: PortIndex, now: Instant) {
        let Some(&slot) = self.names.get(room) else { return };
        let entry = &mut self.entries[slot];
        if entry.ports.remove(port) && entry.ports.is_empty() && matches!(entry.state, State::Confirmed) {
            self.linger(slot, now);
        }
        self.check_invariants();
    }

    /// The subscription is in force. A key of the past does nothing.
    pub fn confirm(&mut self, key: RoomKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key.slot).filter(|entry| entry.number == key.number) else { return };
        let State::Pending { waiters, deadline } = &mut entry.state else { return };
        self.deadlines.remove(&(*deadline, key));
        for port in std::mem::take(waiters) {
            self.effects.push_back(Effect::Joined(port, entry.room.clone()));
        }
        entry.state = State::Confirmed;
        if entry.ports.is_empty() {
            self.linger(key.slot, now);
        }
        self.check_invariants();
    }

    /// The subscription will not come into force, or is in force no more: its waiters are refused, and from the ports that
    /// have the room it is revoked. A key of the past does nothing.
    pub fn refuse(&mut self, key: RoomKey) {
        let Some(entry) = self.entries.get(key.slot).filter(|entry| entry.number == key.number) else { return };
        match entry.state {
            State::Pending { deadline, .. } => drop(self.deadlines.remove(&(deadline, key))),
            State::Lingering { until } => drop(self.lingering.remove(&(until, key))),
            State::Confirmed => {}
        }
        self.end(key);
        self.check_invariants();
    }

    /// Refuses what was not confirmed in time and ends what lingered long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        for due in [pop_due(&mut self.deadlines, now), pop_due(&mut self.lingering, now)] {
            due.for_each(|key| self.end(key));
        }
        self.check_invariants();
    }

    /// When to call [`Interest::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().into_iter().chain(self.lingering.first()).map(|(at, _)| *at).min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The room and the ports that its publications go to: none before it is confirmed.
    pub fn subscribers(&self, key: RoomKey) -> Option<(&RoomName, &PortSet)> {
        let entry = self.entries.get(key.slot).filter(|entry| entry.number == key.number)?;
        matches!(entry.state, State::Confirmed).then_some((&entry.room, &entry.ports))
    }

    /// The key of a room that has an entry.
    pub fn key(&self, room: &str) -> Option<RoomKey> {
        let slot = *self.names.get(room)?;
        Some(RoomKey { slot, number: self.entries[slot].number })
    }

    /// Whether the room was confirmed.
    pub fn is_in_force(&self, key: RoomKey) -> bool {
        let entry = self.entries.get(key.slot).filter(|entry| entry.number == key.number);
        entry.is_some_and(|entry| !matches!(entry.state, State::Pending { .. }))
    }

    /// The name of a room that has an entry.
    pub fn room(&self, key: RoomKey) -> Option<&RoomName> {
        self.entries.get(key.slot).filter(|entry| entry.number == key.number).map(|entry| &entry.room)
    }

    /// Rooms in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no room is in the table.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn join_known(&mut self, slot: usize, port: PortIndex) {
        let entry = &mut self.entries[slot];
        entry.ports.insert(port);
        match &mut entry.state {
            State::Pending { waiters, .. } => {
                waiters.push(port);
                return;
            }
            State::Confirmed => {}
            State::Lingering { until } => {
                self.lingering.remove(&(*until, RoomKey { slot, number: entry.number }));
                entry.state = State::Confirmed;
            }
        }
        self.effects.push_back(Effect::Joined(port, entry.room.clone()));
    }

    fn join_new(&mut self, room: RoomName, port: PortIndex, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        let deadline = now + self.bounds.confirm_within;
        let mut ports = PortSet::default();
        ports.insert(port);
        let state = State::Pending { waiters: vec![port], deadline };
        let slot = self.entries.insert(Entry { room: room.clone(), number, ports, state });
        let key = RoomKey { slot, number };
        self.names.insert(room.clone(), slot);
        self.deadlines.insert((deadline, key));
        self.effects.push_back(Effect::Subscribe(key, room));
    }

    fn linger(&mut self, slot: usize, now: Instant) {
        let until = now + self.bounds.linger;
        let entry = &mut self.entries[slot];
        entry.state = State::Lingering { until };
        self.lingering.insert((until, RoomKey { slot, number: entry.number }));
    }

    /// Makes room for another: ends the room that has lingered longest. Says whether there was one.
    fn end_longest_lingering(&mut self) -> bool {
        let Some((_, key)) = self.lingering.pop_first() else { return false };
        self.end(key);
        true
    }

    /// Takes a room out; its timer is out already.
    fn end(&mut self, key: RoomKey) {
        let entry = self.entries.remove(key.slot);
        debug_assert_eq!(entry.number, key.number, "a timer outlived its room");
        self.names.remove(&entry.room);
        shrink_table(&mut self.names);
        match entry.state {
            State::Pending { waiters, .. } => self
                .effects
                .extend(waiters.iter().map(|port| Effect::Refused(*port, entry.room.clone(), JoinError::Unconfirmed))),
            State::Confirmed => {
                self.effects.extend(entry.ports.iter().map(|port| Effect::Revoked(port, entry.room.clone())));
            }
            State::Lingering { .. } => {}
        }
        self.effects.push_back(Effect::Unsubscribe(key));
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.entries.len(), self.names.len(), "a room has one entry");
        if cfg!(debug_assertions) && self.entries.len() <= 64 {
            let count = |of: fn(&State) -> bool| self.entries.iter().filter(|(_, entry)| of(&entry.state)).count();
            let pending = count(|state| matches!(state, State::Pending { .. }));
            let lingering = count(|state| matches!(state, State::Lingering { .. }));
            let timers = (self.deadlines.len(), self.lingering.len());
            assert_eq!((pending, lingering), timers, "pending and lingering rooms have one timer each");
            for (_, entry) in &self.entries {
                let lingers = matches!(entry.state, State::Lingering { .. });
                let pending = matches!(entry.state, State::Pending { .. });
                assert!(pending || lingers == entry.ports.is_empty(), "a room lingers exactly while no port wants it");
            }
        }
    }
}

/// Takes out the timers that are due, in order.
fn pop_due(timers: &mut BTreeSet<(Instant, RoomKey)>, now: Instant) -> impl Iterator<Item = RoomKey> + use<> {
    let mut due = Vec::new();
    while let Some((at, key)) = timers.first().copied().filter(|(at, _)| *at <= now) {
        timers.remove(&(at, key));
        due.push(key);
    }
    due.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap as Map, HashSet as Set};

    const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
    const LINGER: Duration = Duration::from_secs(3);

    fn table() -> (Interest, Instant) {
        (Interest::new(Bounds { confirm_within: CONFIRM_WITHIN, linger: LINGER, rooms: 2 }), Instant::now())
    }

    fn effects(table: &mut Interest) -> Vec<Effect> {
        std::iter::from_fn(|| table.poll_effect()).collect()
    }

    fn subscribed(effects: &[Effect]) -> RoomKey {
        match effects {
            [Effect::Subscribe(key, _)] => *key,
            other => panic!("expected one subscription, got {other:?}"),
        }
    }

    fn joined(port: PortIndex) -> Effect {
        Effect::Joined(port, "lobby".into())
    }

    fn refused(port: PortIndex) -> Effect {
        Effect::Refused(port, "lobby".into(), JoinError::Unconfirmed)
    }

    #[test]
    fn a_port_that_subscribes_while_the_fence_is_under_way_waits_for_it() {
        let (mut table, now) = table();
        table.handle_subscribe("lobby".into(), 0, now);
        let key = subscribed(&effects(&mut table));
        table.handle_subscribe("lobby".into(), 256, now);
        assert_eq!(effects(&mut table), []);
        assert!(table.subscribers(key).is_none(), "nothing is delivered before the fence");
        table.confirm(key, now);
        assert_eq!(effects(&mut table), [joined(0), joined(256)]);
        table.handle_subscribe("lobby".into(), 7, now);
        assert_eq!(effects(&mut table), [joined(7)], "confirmed at once");
        assert_eq!(table.subscribers(key).unwrap().1.iter().collect::<Vec<_>>(), [0, 7, 256]);
    }

    #[test]
    fn a_room_is_subscribed_until_the_linger_is_over_and_no_longer() {
        let (mut table, now) = table();
        table.handle_subscribe("lobby".into(), 0, now);
        let key = subscribed(&effects(&mut table));
        table.confirm(key, now);
        table.handle_unsubscribe("lobby", 0, now);
        table.handle_timeout(now + LINGER / 2);
        table.handle_subscribe("lobby".into(), 1, now + LINGER / 2);
        assert_eq!(effects(&mut table), [joined(0), joined(1)], "a port that comes back is confirmed at once");

        table.handle_unsubscribe("lobby", 1, now + LINGER);
        table.handle_timeout(now + LINGER * 2 - Duration::from_nanos(1));
        assert_eq!(effects(&mut table), [], "the linger began again");
        assert_eq!(table.poll_timeout(), Some(now + LINGER * 2));
        table.handle_timeout(now + LINGER * 2);
        assert_eq!(effects(&mut table), [Effect::Unsubscribe(key)]);
        assert!(table.is_empty());
    }

    #[test]
    fn a_fence_that_comes_too_late_confirms_nothing() {
        let (mut table, now) = table();
        table.handle_subscribe("lobby".into(), 0, now);
        let key = subscribed(&effects(&mut table));
        table.handle_subscribe("lobby".into(), 0, now);
        table.handle_timeout(now + CONFIRM_WITHIN);
        assert_eq!(
            effects(&mut table),
            [refused(0), refused(0), Effect::Unsubscribe(key)],
            "one answer for each request"
        );

        table.handle_subscribe("lobby".into(), 1, now);
        let next = subscribed(&effects(&mut table));
        table.confirm(key, now);
        table.refuse(key);
        assert_eq!(effects(&mut table), [], "the earlier subscription's key does not reach the later one");
        table.confirm(next, now);
        assert_eq!(effects(&mut table), [joined(1)]);
    }

    #[test]
    fn a_port_that_unsubscribed_before_the_fence_is_still_answered_and_the_room_lingers() {
        let (mut table, now) = table();
        table.handle_subscribe("lobby".into(), 0, now);
        let key = subscribed(&effects(&mut table));
        table.handle_unsubscribe("lobby", 0, now);
        table.confirm(key, now);
        assert_eq!(effects(&mut table), [joined(0)]);
        assert_eq!(table.poll_timeout(), Some(now + LINGER));
    }

    #[test]
    fn a_room_that_the_broker_takes_back_is_revoked_and_the_next_join_begins_anew() {
        let (mut table, now) = table();
        table.handle_subscribe("lobby".into(), 0, now);
        let key = subscribed(&effects(&mut table));
        table.handle_subscribe("lobby".into(), 256, now);
        table.confirm(key, now);
        effects(&mut table);
        table.refuse(key);
        let revoked = |port| Effect::Revoked(port, "lobby".into());
        assert_eq!(effects(&mut table), [revoked(0), revoked(256), Effect::Unsubscribe(key)]);
        table.handle_unsubscribe("lobby", 0, now);
        table.handle_subscribe("lobby".into(), 0, now);
        let next = subscribed(&effects(&mut table));
        assert!(table.subscribers(next).is_none(), "it is confirmed again first");
    }

    #[test]
    fn one_room_too_many_is_refused_until_another_is_left() {
        let (mut table, now) = table();
        table.handle_subscribe("lobby".into(), 0, now);
        let lobby = subscribed(&effects(&mut table));
        table.handle_subscribe("hall".into(), 0, now);
        let hall = subscribed(&effects(&mut table));
        table.handle_subscribe("attic".into(), 7, now);
        let refused = Effect::Refused(7, "attic".into(), JoinError::TooManyRooms);
        assert_eq!(effects(&mut table), [refused]);
        table.handle_subscribe("lobby".into(), 7, now);
        table.confirm(lobby, now);
        table.confirm(hall, now);
        assert_eq!(effects(&mut table).len(), 3, "a room that is there can be joined");
        table.handle_unsubscribe("hall", 0, now);
        table.handle_subscribe("attic".into(), 7, now);
        assert!(matches!(effects(&mut table)[..], [Effect::Unsubscribe(key), Effect::Subscribe(..)] if key == hall));
    }

    /// Ten clients joined and left ten rooms of a node that may have ten; for five seconds no client was in any room, and each join
    /// of another one was answered with `room-limit`.
    #[test]
    fn a_room_that_only_lingers_gives_way_to_a_join_and_the_longest_lingering_first() {
        let (mut table, now) = table();
        let mut keys = Vec::new();
        for room in ["lobby", "hall"] {
            table.handle_subscribe(room.into(), 0, now);
            keys.push(subscribed(&effects(&mut table)));
            table.confirm(keys[keys.len() - 1], now);
            effects(&mut table);
        }
        table.handle_unsubscribe("hall", 0, now);
        table.handle_unsubscribe("lobby", 0, now + LINGER / 2);
        for (room, gives_way) in [("attic", keys[1]), ("cellar", keys[0])] {
            table.handle_subscribe(room.into(), 1, now + LINGER / 2);
            let effects = effects(&mut table);
            assert!(matches!(&effects[..], [Effect::Unsubscribe(key), Effect::Subscribe(..)] if *key == gives_way));
        }
        table.handle_subscribe("hall".into(), 1, now + LINGER / 2);
        let refused = Effect::Refused(1, "hall".into(), JoinError::TooManyRooms);
        assert_eq!(effects(&mut table), [refused], "a room that a port wants, or waits for, does not give way");
    }

    /// What a port or the broker does in the property test.
    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(u8, PortIndex),
        Unsubscribe(u8, PortIndex),
        Confirm(u8),
        Refuse(u8),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_u8, 0..4_u16).prop_map(|(room, port)| Step::Subscribe(room, port * 85)),
            3 => (0..3_u8, 0..4_u16).prop_map(|(room, port)| Step::Unsubscribe(room, port * 85)),
            3 => (0..3_u8).prop_map(Step::Confirm),
            1 => (0..3_u8).prop_map(Step::Refuse),
            2 => (0..4_u64).prop_map(Step::Wait),
        ]
    }

    /// The simplest thing that could be right: sets, and answers owed.
    #[derive(Default)]
    struct Model {
        wanted: Map<u8, Set<PortIndex>>,
        owed: Map<(u8, PortIndex), usize>,
        subscriptions: Map<u8, RoomKey>,
        confirmed: Set<u8>,
    }

    impl Model {
        fn take(&mut self, effects: Vec<Effect>) {
            for effect in effects {
                match effect {
                    Effect::Subscribe(key, room) => {
                        let before = self.subscriptions.insert(number(&room), key);
                        assert_eq!(before, None, "{room} is subscribed twice");
                    }
                    Effect::Unsubscribe(key) => {
                        let room = self.subscriptions.iter().find(|(_, known)| **known == key).map(|(room, _)| *room);
                        let room = room.expect("only what is subscribed is unsubscribed");
                        self.subscriptions.remove(&room);
                        self.confirmed.remove(&room);
                        assert_eq!(self.wanted.get(&room).map_or(0, Set::len), 0, "a port wants {room}");
                    }
                    Effect::Joined(port, room) => self.answered(number(&room), port),
                    Effect::Refused(port, room, error) => {
                        assert!(error == JoinError::Unconfirmed || self.subscriptions.len() == 2, "there was room");
                        self.answered(number(&room), port);
                        self.wanted.entry(number(&room)).or_default().remove(&port);
                    }
                    Effect::Revoked(port, room) => {
                        assert!(self.confirmed.contains(&number(&room)), "{room} was never in force");
                        let wanted = self.wanted.entry(number(&room)).or_default().remove(&port);
                        assert!(wanted, "{port} has not {room}");
                    }
                }
            }
        }

        fn answered(&mut self, room: u8, port: PortIndex) {
            let owed = self.owed.entry((room, port)).or_default();
            *owed = owed.checked_sub(1).expect("an answer without a request");
        }
    }

    fn number(room: &str) -> u8 {
        room.parse().unwrap()
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_sets_of_ports(steps in prop::collection::vec(step(), 0..120)) {
            let (mut table, mut now) = table();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Subscribe(room, port) => {
                        table.handle_subscribe(room.to_string().into(), port, now);
                        model.wanted.entry(room).or_default().insert(port);
                        *model.owed.entry((room, port)).or_default() += 1;
                    }
                    Step::Unsubscribe(room, port) => {
                        table.handle_unsubscribe(&room.to_string(), port, now);
                        model.wanted.entry(room).or_default().remove(&port);
                    }
                    Step::Confirm(room) => {
                        if let Some(key) = model.subscriptions.get(&room) {
                            table.confirm(*key, now);
                            model.confirmed.insert(room);
                        }
                    }
                    Step::Refuse(room) => {
                        if let Some(key) = model.subscriptions.get(&room) {
                            table.refuse(*key);
                        }
                    }
                    Step::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        table.handle_timeout(now);
                    }
                }
                model.take(effects(&mut table));
                for (room, key) in &model.subscriptions {
                    let ports = table.subscribers(*key).map_or_else(Set::new, |(_, ports)| ports.iter().collect());
                    let expected = if model.confirmed.contains(room) { model.wanted[room].clone() } else { Set::new() };
                    prop_assert_eq!(ports, expected);
                }
                prop_assert_eq!(table.len(), model.subscriptions.len());
            }
            now += CONFIRM_WITHIN + LINGER;
            table.handle_timeout(now);
            model.take(effects(&mut table));
            prop_assert!(model.owed.values().all(|owed| *owed == 0), "each request was answered: {:?}", model.owed);
        }
    }
}
