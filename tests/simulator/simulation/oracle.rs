//! What every shard and every client must have seen.
//!
//! The bus gives each room one order. Two pieces of it are judged, each without a hole, a repetition or a swap:
//!
//! - what a shard takes from its mailbox between `Joined` and its `Unsubscribe`; a gap in the mailbox allows one hole;
//! - what a member receives between its `joined` and its `left`, beginning no later than what was published after it saw
//!   `joined` (G1, G2, G3). What is missing must be its own without `echo`, or what its shard did not get and told as a gap, or
//!   what its outbox dropped and told as a gap.
//!
//! So the shard is judged by what it was given, and the relay by what it gave.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tidegate_core::model::{ConnectionId, GapReason, Kind, Publication, RoomName};
use tidegate_core::relay::ToShard;

use super::client::frames::Inflated;
use super::plan::{Plan, Seen};

/// A publication as the bus ordered it.
struct Ordered {
    number: u64,
    publication: Publication,
    /// The shards that took it from their mailboxes, one bit each.
    reached: u8,
}

impl Ordered {
    fn reached(&self, shard: usize) -> bool {
        self.reached >> shard & 1 == 1
    }
}

/// What a client said, whatever became of it.
struct Said {
    room: usize,
    payload: Vec<u8>,
    kind: Kind,
    echo: bool,
    /// Its place in the room's order, once it has one.
    at: Option<usize>,
    /// It may never get one: its publisher was told so, or its loss is forgiven.
    excused: bool,
}

/// What a shard took from its mailbox of one room.
#[derive(Clone, Default)]
struct Feed {
    in_force: bool,
    view: Span,
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    rooms: Vec<Vec<Ordered>>,
    said: BTreeMap<u64, Said>,
    feeds: Vec<Vec<Feed>>,
    /// Messages that were verified, as the octets of their JSON: all native members get the same.
    known: HashMap<Vec<u8>, (usize, usize)>,
    /// Payloads that were inflated and verified.
    pub inflated: Inflated,
    pub seen: Seen,
}

/// A piece of a room's order that is being received.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Everything from here on must be seen.
    next: usize,
    /// Nothing was seen since the beginning: what comes first may be older than `next`.
    fresh: bool,
    /// The relay lost messages, which was told since the last one.
    relay_gap: bool,
    /// The outbox dropped messages, which was told since the last one.
    outbox_gap: bool,
}

impl Span {
    /// Whether a loss of the relay was told since the last message.
    pub fn is_in_relay_gap(&self) -> bool {
        self.relay_gap
    }
}

/// What may be missing for one receiver.
#[derive(Clone, Copy)]
pub struct Receiver {
    pub shard: usize,
    /// Its own publications without `echo` do not come back.
    pub id: Option<ConnectionId>,
    /// It has no notices and is not closed over a gap: what its shard did not get is missing silently.
    pub misses_silently: bool,
    /// It has no notices, and its outbox drops.
    pub drops_silently: bool,
}

pub fn room_index(name: &str) -> usize {
    name.strip_prefix("room.").and_then(|number| number.parse().ok()).expect("a room of the story")
}

/// The number that a payload begins with, quoted or not.
fn number(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).expect("text").trim_start_matches('"');
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().expect("every payload begins with its number")
}

impl Oracle {
    pub fn new(shards: usize, rooms: usize) -> Self {
        Self {
            rooms: (0..rooms).map(|_| Vec::new()).collect(),
            feeds: vec![vec![Feed::default(); rooms]; shards],
            ..Self::default()
        }
    }

    /// A client publishes this.
    pub fn said(&mut self, number: u64, room: usize, kind: Kind, payload: &[u8], echo: bool) {
        let said = Said { room, payload: payload.to_vec(), kind, echo, at: None, excused: false };
        self.said.insert(number, said);
    }

    /// The publication may be lost: its publisher was told, or is gone, or the loss is forgiven.
    pub fn excuse(&mut self, number: u64) {
        if let Some(said) = self.said.get_mut(&number) {
            said.excused = true;
        }
    }

    /// A publication that the broker gave up. A native client is told so by the `ref` that each of its publications has where a broker
    /// may fail; a raw one has no words for it.
    pub fn given_up(&mut self, publication: &Publication) {
        self.seen.given_up += 1;
        if publication.kind != Kind::Json {
            self.excuse(number(&publication.payload));
        }
    }

    /// The bus gave a publication its place.
    pub fn ordered(&mut self, publication: &Publication) {
        let (room, number) = (room_index(&publication.room), number(&publication.payload));
        let said = self.said.get_mut(&number).expect("a publication that no client sent");
        assert!(said.at.is_none(), "publication {number} was handed over twice");
        assert_eq!(
            (room, &said.payload[..]),
            (said.room, &publication.payload[..]),
            "the payload of {number} or its room"
        );
        assert_eq!((publication.kind, publication.echo), (said.kind, said.echo), "the kind of {number} or its echo");
        let order = &mut self.rooms[room];
        said.at = Some(order.len());
        order.push(Ordered { number, publication: publication.clone(), reached: 0 });
    }

    /// Whether a publication has a place.
    pub fn is_ordered(&self, number: u64) -> bool {
        self.said.get(&number).is_some_and(|said| said.at.is_some())
    }

    /// A room whose members see everything from now on.
    pub fn joined(&self, room: usize) -> Span {
        Span { next: self.rooms[room].len(), fresh: true, ..Span::default() }
    }

    /// The shard hands `Unsubscribe` over: what is still in its mailbox is no longer its own.
    pub fn unsubscribed(&mut self, shard: usize, room: &RoomName) {
        self.feeds[shard][room_index(room)].in_force = false;
    }

    /// The shard takes an item from its mailbox.
    pub fn taken(&mut self, shard: usize, item: &ToShard, plan: &Plan) {
        match item {
            ToShard::Joined(room) => {
                let view = self.joined(room_index(room));
                let feed = &mut self.feeds[shard][room_index(room)];
                assert!(!feed.in_force, "{room} was confirmed twice");
                *feed = Feed { in_force: true, view };
            }
            ToShard::Refused(room, _) => {
                assert!(plan.broker.is_some_and(|faults| faults.refuse > 0), "{room} was refused");
                assert!(!self.feeds[shard][room_index(room)].in_force, "{room} was refused after it was confirmed");
            }
            ToShard::Revoked(room) => {
                assert!(plan.broker.is_some_and(|faults| faults.revoke > 0), "{room} was revoked");
                self.feeds[shard][room_index(room)].in_force = false;
                self.seen.revoked += 1;
            }
            ToShard::Gap(rooms, reason) => {
                assert!(plan.relay_loses(), "a gap by {reason:?}, and nothing can be lost");
                let named =
                    |room: usize| rooms.as_ref().is_none_or(|names| names.iter().any(|n| room_index(n) == room));
                let feeds = self.feeds[shard].iter_mut().enumerate();
                feeds.filter(|(room, _)| named(*room)).for_each(|(_, feed)| feed.view.relay_gap = true);
            }
            ToShard::Deliver(publication) => self.fed(shard, publication),
            ToShard::Acked(..) | ToShard::Failed(..) | ToShard::NotPublished(..) | ToShard::FromNodes(_) => {}
        }
    }

    fn fed(&mut self, shard: usize, publication: &Publication) {
        let (room, number) = (room_index(&publication.room), number(&publication.payload));
        let feed = &mut self.feeds[shard][room];
        if !feed.in_force {
            return;
        }
        let at = self.said[&number].at.expect("a delivery of what has no place in the order");
        let view = &mut feed.view;
        assert!(view.fresh && at <= view.next || at >= view.next, "shard {shard}: {number} repeated or out of order");
        let whole = view.relay_gap || at <= view.next;
        assert!(whole, "shard {shard} lost {} of {room} before {number} and was told no gap", at - view.next.min(at));
        *view = Span { next: at + 1, ..Span::default() };
        self.rooms[room][at].reached |= 1 << shard;
    }

    /// Whether the shard is subscribed to the room, as its mailbox says.
    pub fn in_force(&self, shard: usize, room: usize) -> bool {
        self.feeds[shard][room].in_force
    }

    /// The room and the place of a native message that was verified before.
    pub fn known(&self, json: &[u8]) -> Option<(usize, usize)> {
        self.known.get(json).copied()
    }

    /// Verifies a native message against the publication that it carries: its room and its place.
    pub fn identify(&mut self, json: &[u8], message: &Value) -> (usize, usize) {
        let room = room_index(message["roomId"].as_str().expect("a room"));
        let (text, octets) = content(message);
        let number = text.as_u64().unwrap_or_else(|| number(&octets));
        let at = self.said[&number].at.expect("a message that has no place in the order");
        let publication = &self.rooms[room][at].publication;
        match publication.kind {
            Kind::Json => assert_eq!(serde_json::from_slice::<Value>(&publication.payload).ok().as_ref(), Some(text)),
            Kind::Text | Kind::Binary => assert_eq!(octets, publication.payload, "the content of {number}"),
        }
        let from = publication.from.map(|id| id.to_string());
        assert_eq!(message["from"].as_str(), from.as_deref(), "the sender of {number}");
        assert_eq!(message["timestamp"].as_u64(), Some(publication.time_unix_ns / 1_000_000), "the time of {number}");
        self.known.insert(json.to_vec(), (room, at));
        (room, at)
    }

    /// The place of a raw message, verified.
    pub fn identify_raw(&self, room: usize, payload: &[u8], binary: bool) -> usize {
        let number = number(payload);
        let at = self.said[&number].at.expect("a message that has no place in the order");
        let publication = &self.rooms[room][at].publication;
        assert_eq!(payload, &publication.payload[..], "the payload of {number}");
        assert_eq!(binary, publication.kind == Kind::Binary, "the opcode of {number}");
        at
    }

    /// The number of an ordered publication.
    pub fn number_at(&self, room: usize, at: usize) -> u64 {
        self.rooms[room][at].number
    }

    /// A member received the message at a place. Says whether some are missing before it.
    pub fn received(&mut self, span: &mut Span, room: usize, at: usize, receiver: Receiver) -> bool {
        let order = &self.rooms[room];
        let own = is_own(&order[at].publication, receiver);
        assert!(!own, "a message without echo came back to its sender");
        let expected = span.next;
        assert!(span.fresh || at >= expected, "room {room}: repeated or out of order: {at} after {expected}");
        let missing = missing(order.get(expected..at).unwrap_or_default(), span, receiver);
        if let Some((offset, why)) = missing.fault {
            panic!("room {room}: {} is missing before {at}: {why}", expected + offset);
        }
        self.seen.holes += u64::from(missing.excused > 0);
        *span = Span { next: at + 1, ..Span::default() };
        self.seen.delivered += 1;
        missing.excused > 0
    }

    /// A gap was told to a member.
    pub fn gap(&mut self, span: &mut Span, reason: GapReason) {
        match reason {
            GapReason::Outbox => span.outbox_gap = true,
            _ => span.relay_gap = true,
        }
    }

    /// At the end, when everything has come to rest: nothing may be missing for this member.
    /// Says whether something is, and is excused.
    pub fn settled(&self, span: &Span, room: usize, receiver: Receiver) -> bool {
        let order = &self.rooms[room];
        let missing = missing(&order[span.next.min(order.len())..], span, receiver);
        if let Some((offset, why)) = missing.fault {
            panic!("room {room}: the end never came, {} of {} is missing: {why}", span.next + offset, order.len());
        }
        missing.excused > 0
    }

    /// At the end: whether the publication may be missing for its own publisher, a member that wants it back.
    pub fn may_miss_own(&self, number: u64, drops: bool, shard: usize) -> bool {
        let said = &self.said[&number];
        said.at.map_or(said.excused, |at| drops || !self.rooms[said.room][at].reached(shard))
    }

    /// At the end: no mailbox has lost its last messages silently, and no publication disappeared before the bus.
    pub fn check_settled(&self) {
        for (shard, feeds) in self.feeds.iter().enumerate() {
            for (room, feed) in feeds.iter().enumerate().filter(|(_, feed)| feed.in_force) {
                let lost = feed.view.next < self.rooms[room].len() && !feed.view.relay_gap;
                assert!(!lost, "shard {shard}: the end of room {room} never came, and no gap was told");
            }
        }
        for (number, said) in &self.said {
            assert!(said.at.is_some() || said.excused, "publication {number} disappeared before the bus");
        }
    }
}

/// What of a piece of the order a member may miss, and the first that it may not.
struct Missing {
    excused: usize,
    fault: Option<(usize, &'static str)>,
}

fn missing(order: &[Ordered], span: &Span, receiver: Receiver) -> Missing {
    let mut missing = Missing { excused: 0, fault: None };
    for (offset, ordered) in order.iter().enumerate().filter(|(_, o)| !is_own(&o.publication, receiver)) {
        let lost = !ordered.reached(receiver.shard);
        if span.outbox_gap || receiver.drops_silently || lost && (span.relay_gap || receiver.misses_silently) {
            missing.excused += 1;
        } else if missing.fault.is_none() {
            missing.fault = Some((offset, if lost { "its shard did not get it" } else { "its shard got it" }));
        }
    }
    missing
}

fn is_own(publication: &Publication, receiver: Receiver) -> bool {
    !publication.echo && receiver.id.is_some() && publication.from == receiver.id
}

/// The content of a native message, and the octets that it stands for.
fn content(message: &Value) -> (&Value, Vec<u8>) {
    let content = &message["content"];
    let text = content.as_str().unwrap_or_default();
    let octets = match message["encoding"].as_str() {
        Some("base64") => base64(text),
        Some(other) => panic!("an unknown encoding {other}"),
        None => text.as_bytes().to_vec(),
    };
    (content, octets)
}

/// Decodes base64 (RFC 4648 §4).
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(text.len() % 4, 0, "base64 comes in groups of four");
    let digits = text.trim_end_matches('=').bytes();
    let values = digits.map(|digit| ALPHABET.iter().position(|known| *known == digit).expect("a digit of base64"));
    let (mut octets, mut bits, mut count) = (Vec::new(), 0_usize, 0);
    for value in values {
        (bits, count) = (bits << 6 | value, count + 6);
        if count >= 8 {
            count -= 8;
            octets.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    octets
}
