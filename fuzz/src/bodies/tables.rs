//! The tables of a node against maps, sets and sorted lists: connections, deadlines, interest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use tidegate_core::connection::{Connections, Due, Entry, Flags, Handle, Heartbeat, Slices, State, Tick, due};
use tidegate_core::relay::interest::{Bounds, Effect, Interest, RoomKey};

use super::with;

#[derive(Arbitrary)]
enum Slot {
    Insert,
    Remove(u8),
    /// Looks for somebody who is gone.
    Stale(u8),
}

/// The slab is a map from names to connections, and a name of the past reaches nobody.
pub fn connections(data: &[u8]) {
    with(data, |steps: Vec<Slot>| {
        let mut slab = Connections::with_capacity(4);
        let mut model: BTreeMap<u32, (Handle, i32)> = BTreeMap::new();
        let (mut gone, mut highest) = (Vec::<Handle>::new(), 0);
        for (fd, step) in (0_i32..).zip(steps) {
            match step {
                Slot::Insert => {
                    let handle = slab.insert(|generation| Entry::new(fd, generation, 0, 0));
                    highest = highest.max(handle.index + 1);
                    assert!(model.insert(handle.index, (handle, fd)).is_none(), "an index was given twice");
                    assert!(!gone.contains(&handle), "a name was given twice");
                }
                Slot::Remove(pick) => {
                    let Some((handle, fd)) = nth(&model, pick) else { continue };
                    assert_eq!(slab.remove(handle).map(|entry| entry.fd), Some(fd));
                    model.remove(&handle.index);
                    gone.push(handle);
                }
                Slot::Stale(pick) => {
                    let Some(handle) = gone.get(usize::from(pick) % gone.len().max(1)).copied() else { continue };
                    assert!(
                        slab.find(handle).is_none() && slab.remove(handle).is_none(),
                        "a stale name reached somebody"
                    );
                }
            }
            assert_eq!((slab.len(), slab.is_empty(), slab.end()), (model.len(), model.is_empty(), highest));
        }
        let listed: Vec<(u32, i32)> = slab.iter().map(|(index, entry)| (index, entry.fd)).collect();
        assert_eq!(listed, model.iter().map(|(index, (_, fd))| (*index, *fd)).collect::<Vec<_>>());
        for (index, (handle, fd)) in model {
            assert_eq!(slab.handle_at(index), Some(handle));
            assert_eq!(slab.find(handle).map(|entry| entry.fd), Some(fd));
            assert_eq!(slab.peek(index).map(|entry| entry.fd), Some(fd));
        }
    });
}

fn nth(model: &BTreeMap<u32, (Handle, i32)>, pick: u8) -> Option<(Handle, i32)> {
    model.values().nth(usize::from(pick) % model.len().max(1)).copied()
}

#[derive(Arbitrary)]
struct Sweeps {
    /// Entries of the smallest slice.
    least: u8,
    slices: u8,
    entries: Vec<Swept>,
    ping: u8,
    pong: u8,
    turns: Vec<Turn>,
}

#[derive(Arbitrary)]
struct Swept {
    /// 0 is never.
    deadline: u16,
    open: bool,
}

#[derive(Arbitrary)]
struct Turn {
    ticks: u8,
    heard: Option<u8>,
}

/// What the model knows of one connection.
struct Watched {
    entry: Entry,
    heard: u64,
    pinged: Option<u64>,
    over: bool,
}

/// Deadlines come due in the order of a sorted list; who is silent is pinged once and then counts as vanished.
pub fn sweep(data: &[u8]) {
    with(data, |input: Sweeps| {
        every_index_is_seen_once(u32::from(input.slices) + 1, input.entries.len() as u32, u32::from(input.least));
        let heartbeat = Heartbeat { ping: u16::from(input.ping), pong: u16::from(input.pong) };
        let mut sorted = BTreeSet::new();
        let watch = |(i, swept): (usize, &Swept)| {
            let mut entry = Entry::new(i as i32, 1, 1, Tick::from(swept.deadline));
            entry.state = if swept.open { State::Open } else { State::Handshaking };
            if swept.deadline > 0 {
                sorted.insert((u64::from(swept.deadline), i));
            }
            Watched { entry, heard: 1, pinged: None, over: false }
        };
        let mut all: Vec<Watched> = input.entries.iter().enumerate().map(watch).collect();
        let mut now = 1;
        for turn in &input.turns {
            if let Some(one) = turn.heard.and_then(|pick| all.get_mut(usize::from(pick))) {
                one.entry.hear(now as Tick);
                (one.heard, one.pinged) = (now, None);
            }
            now += u64::from(turn.ticks);
            let mut expected = BTreeSet::new();
            while let Some(first) = sorted.first().filter(|(at, _)| *at <= now).copied() {
                sorted.remove(&first);
                expected.insert(first.1);
            }
            for (i, one) in all.iter_mut().enumerate().filter(|(_, one)| !one.over) {
                let found = due(&mut one.entry, now as Tick, heartbeat, u32::MAX);
                assert_eq!(found == Due::Deadline, expected.contains(&i), "{found:?} for {i} at {now}");
                silence_is_judged(one, found, now, heartbeat);
            }
        }
    });
}

fn silence_is_judged(one: &mut Watched, found: Due, now: u64, heartbeat: Heartbeat) {
    let (ping, pong) = (u64::from(heartbeat.ping), u64::from(heartbeat.pong));
    let silent = one.entry.state == State::Open && ping > 0 && now - one.heard >= ping;
    let expected = match one.pinged {
        _ if found == Due::Deadline => Due::Deadline,
        None if silent => Due::Ping,
        Some(at) if silent && now - at >= pong => Due::Vanished,
        _ => Due::Nothing,
    };
    assert_eq!(found, expected, "heard at {}, pinged at {:?}, now {now}", one.heard, one.pinged);
    match found {
        Due::Ping => one.pinged = Some(now),
        Due::Deadline | Due::Vanished => one.over = true,
        _ => {}
    }
    assert_eq!(one.entry.flags.has(Flags::PINGED), one.pinged.is_some());
}

fn every_index_is_seen_once(count: u32, end: u32, least: u32) {
    let mut slices = Slices::new(count);
    for _ in 0..2 {
        let mut next = 0;
        for turn in 1..=count {
            slices.tick(end, least);
            for index in slices.by_ref() {
                assert_eq!(index, next, "an index is skipped or seen twice");
                next += 1;
            }
            assert_eq!(slices.ends_round(), turn == count);
        }
        assert_eq!(next, end);
    }
}

#[derive(Arbitrary)]
enum Wish {
    Subscribe(u8, u16),
    Unsubscribe(u8, u16),
    Confirm(u8),
    Refuse(u8),
    /// A key of an earlier subscription.
    Outdated(u8, bool),
    Wait(u8),
}

const PORTS: u16 = 257;
const ROOMS: u8 = 4;

/// The interest table against a set of ports for each room, and the answers that are owed.
#[derive(Default)]
struct Wanted {
    ports: BTreeMap<u8, BTreeSet<u16>>,
    owed: BTreeMap<(u8, u16), usize>,
    subscribed: BTreeMap<u8, RoomKey>,
    confirmed: BTreeSet<u8>,
    outdated: Vec<RoomKey>,
}

/// Every request is answered once, a room is subscribed while somebody wants it, publications go to exactly its ports.
pub fn interest(data: &[u8]) {
    with(data, |wishes: Vec<Wish>| {
        let (confirm_within, linger) = (Duration::from_secs(50), Duration::from_secs(30));
        let (mut table, mut now, mut model) =
            (Interest::new(Bounds { confirm_within, linger, rooms: ROOMS.into() }), Instant::now(), Wanted::default());
        for wish in wishes {
            now = wish_for(&wish, &mut table, &mut model, now);
            model.take(&mut table);
            model.agrees(&table);
        }
        now += confirm_within + linger;
        table.handle_timeout(now);
        model.take(&mut table);
        assert!(model.owed.values().all(|owed| *owed == 0), "somebody waits for an answer: {:?}", model.owed);
    });
}

fn wish_for(wish: &Wish, table: &mut Interest, model: &mut Wanted, mut now: Instant) -> Instant {
    match *wish {
        Wish::Subscribe(room, port) => {
            let (room, port) = (room % ROOMS, port % PORTS);
            table.handle_subscribe(room.to_string().into(), port, now);
            model.ports.entry(room).or_default().insert(port);
            *model.owed.entry((room, port)).or_default() += 1;
        }
        Wish::Unsubscribe(room, port) => {
            let (room, port) = (room % ROOMS, port % PORTS);
            table.handle_unsubscribe(&room.to_string(), port, now);
            model.ports.entry(room).or_default().remove(&port);
        }
        Wish::Confirm(room) => {
            if let Some(key) = model.subscribed.get(&(room % ROOMS)) {
                table.confirm(*key, now);
                model.confirmed.insert(room % ROOMS);
            }
        }
        Wish::Refuse(room) => {
            if let Some(key) = model.subscribed.get(&(room % ROOMS)) {
                table.refuse(*key);
            }
        }
        Wish::Outdated(pick, confirm) => {
            if let Some(key) = model.outdated.get(usize::from(pick) % model.outdated.len().max(1)) {
                if confirm { table.confirm(*key, now) } else { table.refuse(*key) }
            }
        }
        Wish::Wait(seconds) => {
            now += Duration::from_secs(u64::from(seconds));
            table.handle_timeout(now);
            assert!(table.poll_timeout().is_none_or(|at| at > now), "what is due was left");
        }
    }
    now
}

impl Wanted {
    fn take(&mut self, table: &mut Interest) {
        while let Some(effect) = table.poll_effect() {
            match effect {
                Effect::Subscribe(key, room) => {
                    assert!(!self.outdated.contains(&key), "a key was used twice");
                    assert_eq!(self.subscribed.insert(number(&room), key), None, "{room} is subscribed twice");
                }
                Effect::Unsubscribe(key) => {
                    let room = self.subscribed.iter().find(|(_, known)| **known == key).map(|(room, _)| *room);
                    let room = room.expect("only what is subscribed is unsubscribed");
                    self.subscribed.remove(&room);
                    self.confirmed.remove(&room);
                    self.outdated.push(key);
                    assert!(self.ports.get(&room).is_none_or(BTreeSet::is_empty), "somebody wants room {room}");
                }
                Effect::Joined(port, room) => self.answered(number(&room), port),
                Effect::Refused(port, room, _) => {
                    self.answered(number(&room), port);
                    self.ports.entry(number(&room)).or_default().remove(&port);
                }
                Effect::Revoked(port, room) => {
                    assert!(self.confirmed.contains(&number(&room)), "{room} was never in force");
                    let wanted = self.ports.entry(number(&room)).or_default().remove(&port);
                    assert!(wanted, "{port} has not room {room}");
                }
            }
        }
    }

    fn answered(&mut self, room: u8, port: u16) {
        let owed = self.owed.entry((room, port)).or_default();
        *owed = owed.checked_sub(1).expect("an answer that nobody asked for");
    }

    fn agrees(&self, table: &Interest) {
        assert_eq!(table.len(), self.subscribed.len());
        for (room, key) in &self.subscribed {
            assert_eq!(table.key(&room.to_string()), Some(*key));
            let ports: BTreeSet<u16> =
                table.subscribers(*key).into_iter().flat_map(|(_, ports)| ports.iter()).collect();
            let expected = if self.confirmed.contains(room) { self.ports.get(room).cloned() } else { None };
            assert_eq!(ports, expected.unwrap_or_default(), "room {room}");
        }
    }
}

fn number(room: &str) -> u8 {
    room.parse().expect("rooms are numbers here")
}
