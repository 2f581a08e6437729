//! A client: what it makes of the octets that come back. What it says is in `speech`.

mod distance;
pub mod frames;
mod speech;

use std::collections::BTreeMap;

use serde_json::Value;
use tidegate_core::close::CloseReason;
use tidegate_core::model::{ConnectionId, GapReason};
use tidegate_core::ws::frame;

use super::dice::Dice;
use super::oracle::{Oracle, Receiver, Span, room_index};
use super::plan::Plan;
use frames::{Frame, Stream, Window};

/// How a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    Native,
    /// In this room.
    Raw(usize),
}

/// Whether a client wants to be in a room, as its own requests say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Membership {
    /// It asked with this `ref`, and the answer is awaited.
    Asked(u64),
    /// It was told `joined`.
    In,
}

/// What a `ref` stands for.
#[derive(Clone, Debug)]
enum Asked {
    Join(usize),
    /// These rooms by one message, of those that it listed: each is answered once.
    JoinAll(Vec<usize>),
    Leave,
    Publish {
        number: u64,
        ack: bool,
    },
}

/// See the module.
pub struct Client {
    pub shard: usize,
    pub dialect: Dialect,
    pub slow: bool,
    /// Offers permessage-deflate, with this window.
    offer: Option<Window>,
    /// What it did for which it may be closed.
    pub deeds: Vec<CloseReason>,
    /// A close frame, a refusal or the end of the stream was seen.
    pub over: bool,
    /// It was answered 503.
    pub refused: bool,
    /// Its outbox dropped messages, and it has to be closed for that: the close frame comes after what is left in the outbox.
    owes_close: bool,
    upgraded: bool,
    id: Option<ConnectionId>,
    stream: Stream,
    /// What it receives of each room, while it is a member; a raw client's begins when its shard is subscribed.
    views: BTreeMap<usize, Span>,
    /// The last message of each room, whatever it left and joined since.
    last: BTreeMap<usize, usize>,
    memberships: BTreeMap<usize, Membership>,
    /// Messages that it must get back, by number, with their rooms.
    wanted: BTreeMap<u64, usize>,
    /// Requests that carry a `ref` and have no answer yet.
    awaited: BTreeMap<u64, Asked>,
    next_reference: u64,
    /// Nonsense that has no `bad-message` yet.
    nonsense: usize,
    /// Some was over the message rate, which has no answer of its own.
    nonsense_is_dropped: bool,
    /// Everything that it published.
    said: Vec<u64>,
}

impl Client {
    pub fn new(shard: usize, plan: &Plan, dice: &mut Dice) -> Self {
        let slow = dice.percent(plan.slow_percent);
        let raw = dice.percent(plan.raw_percent);
        let offer = dice.percent(plan.deflate_percent).then(|| [Window::Full, Window::Small][dice.below(2)]);
        Self {
            shard,
            dialect: if raw { Dialect::Raw(dice.below(plan.rooms)) } else { Dialect::Native },
            slow,
            offer,
            deeds: Vec::new(),
            over: false,
            refused: false,
            owes_close: false,
            upgraded: false,
            id: None,
            stream: Stream::default(),
            views: BTreeMap::new(),
            last: BTreeMap::new(),
            memberships: BTreeMap::new(),
            wanted: BTreeMap::new(),
            awaited: BTreeMap::new(),
            next_reference: 1,
            nonsense: 0,
            nonsense_is_dropped: false,
            said: Vec::new(),
        }
    }

    pub fn is_raw(&self) -> bool {
        self.dialect != Dialect::Native
    }

    /// What may be missing for this client.
    fn receiver(&self, plan: &Plan) -> Receiver {
        let silent = self.is_raw() && !plan.raw_close_on_gap;
        Receiver {
            shard: self.shard,
            id: self.id,
            misses_silently: silent,
            drops_silently: self.is_raw() && self.slow && plan.drop_oldest,
        }
    }

    /// Takes octets in and checks what they say. Returns what the client answers.
    pub fn hear(&mut self, octets: &[u8], oracle: &mut Oracle, plan: &Plan) -> Vec<u8> {
        self.stream.push(octets);
        if !self.upgraded {
            let Some(head) = self.stream.head() else { return Vec::new() };
            self.answered(&head, plan);
            if self.over {
                return Vec::new();
            }
        }
        let mut answers = Vec::new();
        while let Some(frame) = self.stream.next(&mut oracle.inflated) {
            assert!(!self.over, "octets after the close frame");
            oracle.seen.inflated += std::mem::take(&mut self.stream.inflated);
            match frame {
                Frame::Text(payload) if self.is_raw() => self.raw_message(&payload, false, oracle, plan),
                Frame::Binary(payload) if self.is_raw() => self.raw_message(&payload, true, oracle, plan),
                Frame::Text(payload) => self.text(&payload, oracle, plan),
                Frame::Binary(_) => panic!("a binary message to a native client"),
                Frame::Close(payload) => {
                    self.closed(&payload, oracle, plan);
                    frame::write_masked(&mut answers, frame::CLOSE, [1, 2, 3, 4], &payload);
                }
                Frame::Ping(payload) => frame::write_masked(&mut answers, frame::PONG, [1, 2, 3, 4], &payload),
                Frame::Pong => {}
            }
        }
        answers
    }

    /// The answer to the upgrade request.
    fn answered(&mut self, head: &str, plan: &Plan) {
        if !head.starts_with("HTTP/1.1 101") {
            assert!(head.starts_with("HTTP/1.1 503") && plan.drain, "refused with {head}");
            (self.over, self.refused) = (true, true);
            return;
        }
        self.upgraded = true;
        let extension = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: permessage-deflate"));
        self.stream.window = extension.map(|parameters| {
            let small = parameters.contains("server_max_window_bits=9");
            assert!(parameters.contains("server_no_context_takeover"), "a window that is kept: {parameters}");
            if small { Window::Small } else { Window::Full }
        });
        assert_eq!(self.stream.window, self.offer, "what was offered of permessage-deflate was not agreed to");
    }

    /// The node's close frame: for a reason of this client's own, or one that the story allows.
    fn closed(&mut self, payload: &[u8], oracle: &mut Oracle, plan: &Plan) {
        self.over = true;
        let (code, text) = payload.split_first_chunk().expect("a close code");
        let (code, text) = (u16::from_be_bytes(*code), String::from_utf8_lossy(text));
        let echoed = code == 1_000 && text.is_empty() && self.deeds.contains(&CloseReason::ClosedByPeer);
        let told = |reason: &&CloseReason| reason.code() == code && reason.text() == text;
        let reasons: Vec<CloseReason> = CloseReason::ALL.iter().filter(told).copied().collect();
        let allowed =
            |reason: &CloseReason| plan.may_close(*reason, self.slow, self.is_raw()) || self.deeds.contains(reason);
        let (slow, dialect, deeds) = (self.slow, self.dialect, &self.deeds);
        assert!(
            echoed || reasons.iter().any(allowed),
            "closed with {code} {text:?}; slow: {slow}, {dialect:?}, what it did: {deeds:?}"
        );
        let reason = if echoed { CloseReason::ClosedByPeer } else { reasons[0] };
        assert!(!self.owes_close || code == CloseReason::Gap.code(), "a hole, and then closed with {code} {text:?}");
        oracle.seen.closes[reason as usize] += 1;
    }

    fn raw_message(&mut self, payload: &[u8], binary: bool, oracle: &mut Oracle, plan: &Plan) {
        let Dialect::Raw(room) = self.dialect else { return };
        let at = oracle.identify_raw(room, payload, binary);
        // Messages that wait in the room may come before the shard's confirmation was noticed.
        self.views.entry(room).or_insert_with(|| oracle.joined(room));
        self.received(room, at, oracle, plan);
    }

    /// A raw client is a member when its shard is subscribed, which it is not told.
    pub fn note_raw_membership(&mut self, oracle: &Oracle) {
        let Dialect::Raw(room) = self.dialect else { return };
        if self.upgraded && !self.over && oracle.in_force(self.shard, room) {
            self.views.entry(room).or_insert_with(|| oracle.joined(room));
        }
    }

    fn received(&mut self, room: usize, at: usize, oracle: &mut Oracle, plan: &Plan) {
        let receiver = self.receiver(plan);
        let span = self.views.get_mut(&room).expect("a message of a room that was not joined, or was left");
        let missed = oracle.received(span, room, at, receiver);
        self.owes_close |= missed && self.is_raw() && plan.raw_close_on_gap;
        let before = self.last.insert(room, at);
        assert!(before.is_none_or(|before| before < at), "{at} of room {room} came after {before:?}");
        self.wanted.remove(&oracle.number_at(room, at));
    }

    fn text(&mut self, payload: &[u8], oracle: &mut Oracle, plan: &Plan) {
        if let Some((room, at)) = oracle.known(payload) {
            return self.received(room, at, oracle, plan);
        }
        let message: Value = serde_json::from_slice(payload).expect("whole JSON in every text message");
        let room = || room_index(message["roomId"].as_str().expect("a room"));
        let reference = message["ref"].as_u64();
        match message["type"].as_str().expect("a type") {
            "welcome" => {
                let id: ConnectionId = message["connectionId"].as_str().expect("an id").parse().expect("an id");
                assert_eq!(usize::from(id.shard), self.shard, "an id of another shard");
                assert!(self.id.replace(id).is_none(), "a second welcome");
            }
            "joined" => self.joined(room(), reference, oracle),
            "left" => {
                assert!(matches!(self.answer(reference), Some(Asked::Leave)), "left without having asked");
                self.views.remove(&room());
            }
            "message" => {
                assert!(self.id.is_some(), "a message before the welcome");
                let (room, at) = oracle.identify(payload, &message);
                self.received(room, at, oracle, plan);
            }
            "gap" => self.gap(&message, oracle, plan),
            "ack" => self.acked(reference, oracle),
            "error" => self.error(&message, reference, oracle, plan),
            "pong" => panic!("a pong that was not asked for"),
            "server-shutdown" => assert!(plan.drain, "a server-shutdown without a drain"),
            other => panic!("an unknown type {other}"),
        }
    }

    /// What a `ref` was for; each is answered once.
    fn answer(&mut self, reference: Option<u64>) -> Option<Asked> {
        let reference = reference?;
        let asked = self.awaited.remove(&reference);
        Some(asked.unwrap_or_else(|| panic!("an answer to {reference}, which was answered or never asked")))
    }

    /// The same of an answer that names a room: it may be one of several to a list of rooms.
    fn answer_of(&mut self, room: usize, reference: Option<u64>) -> Option<Asked> {
        let asked = self.answer(reference)?;
        let Asked::JoinAll(mut rooms) = asked else { return Some(asked) };
        let at = rooms.iter().position(|asked| *asked == room).expect("an answer of a room that was not asked for");
        rooms.swap_remove(at);
        if !rooms.is_empty() {
            self.awaited.extend(reference.map(|reference| (reference, Asked::JoinAll(rooms))));
        }
        Some(Asked::Join(room))
    }

    fn joined(&mut self, room: usize, reference: Option<u64>, oracle: &Oracle) {
        match self.answer_of(room, reference) {
            None => {}
            Some(Asked::Join(asked)) => assert_eq!(asked, room, "joined in answer to another join"),
            Some(asked) => panic!("joined {room} in answer to {asked:?}"),
        }
        self.views.entry(room).or_insert_with(|| oracle.joined(room));
        if let Some(membership) = self.memberships.get_mut(&room) {
            *membership = Membership::In;
        }
    }

    fn gap(&mut self, message: &Value, oracle: &mut Oracle, plan: &Plan) {
        let label = message["reason"].as_str().expect("a reason");
        let reason = *GapReason::ALL.iter().find(|reason| reason.label() == label).expect("a reason that is known");
        assert!(plan.may_tell_gap(reason, self.slow), "a gap by {reason:?}, slow: {}", self.slow);
        let told = message["roomId"].as_str().map(room_index);
        oracle.seen.told_gaps += 1;
        let named = self.views.iter_mut().filter(|(room, _)| told.is_none_or(|told| told == **room));
        named.for_each(|(_, span)| oracle.gap(span, reason));
    }

    /// An acknowledged publication has its place in the order, so that it must reach every member.
    fn acked(&mut self, reference: Option<u64>, oracle: &mut Oracle) {
        match self.answer(reference) {
            Some(Asked::Publish { number, ack: true }) => {
                assert!(oracle.is_ordered(number), "{number} was acknowledged and not published");
            }
            other => panic!("an ack for {reference:?}: {other:?}"),
        }
        oracle.seen.acked += 1;
    }

    fn error(&mut self, message: &Value, reference: Option<u64>, oracle: &mut Oracle, plan: &Plan) {
        oracle.seen.errors += 1;
        let (code, text) = (message["code"].as_str().expect("a code"), message["message"].as_str().expect("a message"));
        let over_rate = code == "rate-limited";
        assert!(!over_rate || plan.message_rate > 0, "rate-limited without a rate: {text}");
        oracle.seen.rate_limited += u64::from(over_rate);
        let room = message["roomId"].as_str().map(room_index);
        let asked = match room {
            Some(room) => self.answer_of(room, reference),
            None => self.answer(reference),
        };
        match asked {
            Some(Asked::Join(room)) => self.not_joined(room, code, reference),
            // The whole message is dropped.
            Some(Asked::JoinAll(rooms)) if over_rate => {
                rooms.into_iter().for_each(|room| self.not_joined(room, code, reference));
            }
            Some(Asked::Publish { number, .. }) => {
                assert!(over_rate || code == "unavailable", "{code} {text}");
                self.wanted.remove(&number);
                oracle.excuse(number);
            }
            Some(Asked::Leave) if over_rate => {}
            Some(asked) => panic!("{asked:?} was refused: {code} {text}"),
            None if over_rate => self.nonsense_is_dropped = true,
            None if code == "bad-message" => {
                self.nonsense = self.nonsense.checked_sub(1).expect("bad-message without nonsense");
            }
            // Of publications that asked for no acknowledgement.
            None if text.starts_with("messages were not published") => {
                assert_eq!(code, "unavailable", "{text}");
                assert!(oracle.seen.given_up > 0, "each was taken");
            }
            None => {
                let room = room.filter(|_| text.starts_with("the broker no longer lets this node have room "));
                let room = room.unwrap_or_else(|| panic!("an error without ref: {code} {text}"));
                let span = self.views.remove(&room).expect("a revoked room that was not joined");
                assert!(span.is_in_relay_gap(), "room {room} was revoked, and no gap was told before");
                self.forget(room);
            }
        }
    }

    /// A join was refused.
    fn not_joined(&mut self, room: usize, code: &str, reference: Option<u64>) {
        let known = matches!(code, "unavailable" | "not-joined" | "rate-limited");
        assert!(known, "join {reference:?} of room {room} was refused: {code}");
        self.wanted.retain(|_, of| *of != room);
        let latest = self.memberships.get(&room).copied();
        if matches!(latest, Some(Membership::Asked(asked)) if Some(asked) == reference) {
            self.memberships.remove(&room);
        }
    }

    /// It is in the room no more: what it published there need not come back.
    fn forget(&mut self, room: usize) {
        self.memberships.remove(&room);
        self.wanted.retain(|_, of| *of != room);
    }

    /// The client is gone, or closed: what it published last may not have been read.
    pub fn excuse_all(&self, oracle: &mut Oracle) {
        self.said.iter().for_each(|number| oracle.excuse(*number));
    }

    /// At the end of a client that is neither gone nor closed: everything came, and every request was answered.
    pub fn check_settled(&self, oracle: &Oracle, plan: &Plan) {
        let receiver = self.receiver(plan);
        let missed =
            self.views.iter().fold(false, |missed, (room, span)| missed | oracle.settled(span, *room, receiver));
        let owes_close = self.owes_close || missed && self.is_raw() && plan.raw_close_on_gap;
        assert!(!owes_close, "a hole, and neither a gap nor a close frame");
        let drops = self.slow && plan.drop_oldest;
        let mut missing = self.wanted.keys().filter(|number| !oracle.may_miss_own(**number, drops, self.shard));
        assert_eq!(missing.next(), None, "a message with echo never came back to its sender");
        let unanswered = |asked: &&Asked| !matches!(asked, Asked::Publish { ack: false, .. });
        assert_eq!(self.awaited.values().filter(unanswered).count(), 0, "without an answer: {:?}", self.awaited);
        assert!(self.nonsense == 0 || self.nonsense_is_dropped, "nonsense without an answer");
    }
}
