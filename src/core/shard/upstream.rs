//! What a shard sends to the relay: subscriptions, publications, and which clients wait for an acknowledgement.
//!
//! Everything is bounded: a client whose publication finds no room is told so. A publication into a room that is not confirmed
//! yet is held until it is, so that a client that joins and publishes at once receives its own message.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use super::clients::Clients;
use super::driver::Driver;
use super::turn::Turn;
use super::writer::Writer;
use crate::close::CloseReason;
use crate::connection::Handle;
use crate::dialect::{ErrorCode, Notice};
use crate::limits::{PUBLISH_QUEUE_BYTES, PUBLISH_QUEUE_MESSAGES};
use crate::model::{AckLevel, ConnectionId, Publication, RoomName};
use crate::relay::{AckId, PublishError, ToRelay};

/// What the publisher of a message is told that the broker will never take.
pub(super) const TOO_LARGE: &str =
    "the message is larger than the broker takes; send less, or raise max_payload of the broker";

/// What an answer needs to find its request again: the connection, and the client's own name for the request.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) handle: Handle,
    pub(super) reference: Option<&'a str>,
}

impl Request<'_> {
    /// The same, kept until the answer is there.
    pub(super) fn pending(self) -> PendingRequest {
        PendingRequest { handle: self.handle, reference: self.reference.map(Box::from) }
    }
}

/// A [`Request`] that waits for an answer of the relay's.
pub(super) struct PendingRequest {
    pub(super) handle: Handle,
    pub(super) reference: Option<Box<str>>,
}

/// A publication whose outcome the relay reports.
struct Followed {
    request: PendingRequest,
    /// The client asked for an acknowledgement; else it is told of a failure only.
    ack: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Upstream {
    /// Rooms that the shard asks for or gives up, in order.
    rooms: VecDeque<ToRelay>,
    /// Publications. None needs a request of `rooms` done before it: what goes into a room that is not confirmed is held.
    queue: VecDeque<ToRelay>,
    /// The last item taken was a publication.
    took_publication: bool,
    /// Bytes of the publications that are queued or held.
    bytes: usize,
    /// Publications that wait for a room's confirmation, by the room's number, and how many they are.
    held: HashMap<u32, Vec<ToRelay>>,
    held_len: usize,
    /// Publications that are queued or held: a crowd of joins in the queue leaves their places alone.
    publications: usize,
    acks: Slab<Followed>,
}

impl Upstream {
    /// Asks the relay for a room.
    pub(super) fn subscribe(&mut self, room: RoomName) {
        self.rooms.push_back(ToRelay::Subscribe(room));
    }

    /// Gives a room up.
    pub(super) fn unsubscribe(&mut self, room: RoomName) {
        self.rooms.push_back(ToRelay::Unsubscribe(room));
    }

    /// Whether a publication of `bytes` finds no room. An empty queue takes any: a message over the byte limit must not be refused for
    /// ever.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.publications >= PUBLISH_QUEUE_MESSAGES
            || self.bytes > 0 && self.bytes + bytes > PUBLISH_QUEUE_BYTES
            || self.acks.len() >= PUBLISH_QUEUE_MESSAGES
    }

    /// Has a request answered when the relay says what became of the publication that carries what this returns; without `ack` only
    /// where it was not taken.
    pub(super) fn follow(&mut self, request: Request<'_>, ack: bool) -> AckId {
        self.acks.insert(Followed { request: request.pending(), ack }) as AckId
    }

    /// Publishes, or holds the publication where it must wait for the confirmation of room number `unconfirmed`.
    #[inline(always)]
    pub(super) fn publish(&mut self, publication: Publication, unconfirmed: Option<u32>, ack: Option<AckId>) {
        self.bytes += publication.payload.len();
        self.publications += 1;
        let publish = ToRelay::Publish(publication, ack);
        match unconfirmed {
            Some(room) => {
                self.held.entry(room).or_default().push(publish);
                self.held_len += 1;
            }
            None => self.queue.push_back(publish),
        }
    }

    /// Room number `room` is confirmed or refused: what was held for it follows.
    pub(super) fn release_held(&mut self, room: u32) {
        let held = self.held.remove(&room).unwrap_or_default();
        self.held_len -= held.len();
        self.queue.extend(held);
    }

    /// The relay has acknowledged a publication, or could not take it: its client is told.
    pub(super) fn acknowledge<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        ack: AckId,
        level: Result<AckLevel, PublishError>,
    ) {
        let Some(followed) = self.acks.try_remove(ack as usize) else { return };
        if level.is_ok() && !followed.ack {
            return;
        }
        let awaited = followed.request;
        let Some(dialect) = clients.open(awaited.handle).map(|entry| entry.form.dialect) else { return };
        let reference = awaited.reference.as_deref();
        let notice = match level {
            Ok(level) => Notice::Acknowledged { level, reference },
            Err(PublishError::Unavailable) => {
                let message = "the broker did not confirm the message";
                Notice::Refused { code: ErrorCode::Unavailable, message, room: None, reference }
            }
            Err(PublishError::TooLarge) => {
                Notice::Refused { code: ErrorCode::MessageTooLarge, message: TOO_LARGE, room: None, reference }
            }
        };
        writer.reply(turn, dialect, &notice);
        writer.flush(turn, clients, awaited.handle);
    }

    /// The relay could not take a publication that asked for no acknowledgement: its client is told. One whose dialect has no words
    /// for it is closed with 1009 over a message that will never be taken, as over one that is larger than the node takes.
    pub(super) fn not_published<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        id: ConnectionId,
        error: PublishError,
    ) {
        let handle = Handle { index: id.index, generation: id.generation };
        if turn.id(handle) != id {
            return;
        }
        let Some(dialect) = clients.open(handle).map(|entry| entry.form.dialect) else { return };
        let (code, message) = match error {
            PublishError::Unavailable => {
                (ErrorCode::Unavailable, "messages were not published: the broker is away; publish again")
            }
            PublishError::TooLarge => (ErrorCode::MessageTooLarge, TOO_LARGE),
        };
        if writer.reply(turn, dialect, &Notice::Refused { code, message, room: None, reference: None }) {
            writer.flush(turn, clients, handle);
        } else if error == PublishError::TooLarge {
            writer.close(turn, clients, handle, CloseReason::TooBig);
        }
    }

    /// Takes an item for the relay: rooms and publications take turns, so that neither a crowd that joins or leaves nor a flood of
    /// publications keeps the other waiting.
    pub(super) fn poll(&mut self) -> Option<ToRelay> {
        if (self.took_publication || self.queue.is_empty())
            && let Some(room) = self.rooms.pop_front()
        {
            self.took_publication = false;
            return Some(room);
        }
        let publication = self.queue.pop_front()?;
        self.took_publication = true;
        self.bytes -= payload_bytes(&publication);
        self.publications -= 1;
        Some(publication)
    }

    /// Puts an item back that the mailbox had no room for.
    pub(super) fn unpoll(&mut self, item: ToRelay) {
        if let ToRelay::Publish(..) = item {
            self.took_publication = false;
            self.bytes += payload_bytes(&item);
            self.publications += 1;
            self.queue.push_front(item);
        } else {
            self.took_publication = true;
            self.rooms.push_front(item);
        }
    }

    /// Publications that are held, and bytes of all that are held or queued.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.held_len, self.bytes)
    }

    /// Whether nothing is queued for the relay.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.queue.is_empty()
    }
}

fn payload_bytes(item: &ToRelay) -> usize {
    match item {
        ToRelay::Publish(publication, _) => publication.payload.len(),
        ToRelay::Subscribe(_) | ToRelay::Unsubscribe(_) | ToRelay::ToNodes(..) => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::Kind;
    use crate::shard::test_driver::{Deed, TestDriver, open, turn};

    fn publication(payload: &'static [u8]) -> Publication {
        let (room, payload) = (RoomName::from("lobby"), Bytes::from_static(payload));
        Publication::of_backend(room, Kind::Text, payload, 0)
    }

    fn payloads(upstream: &mut Upstream) -> Vec<Bytes> {
        std::iter::from_fn(|| upstream.poll())
            .filter_map(
                |item| if let ToRelay::Publish(publication, _) = item { Some(publication.payload) } else { None },
            )
            .collect()
    }

    #[test]
    fn a_publication_into_an_unconfirmed_room_follows_its_confirmation() {
        let mut upstream = Upstream::default();
        upstream.publish(publication(b"held"), Some(4), None);
        upstream.publish(publication(b"other"), None, None);
        assert_eq!(payloads(&mut upstream), ["other"]);
        upstream.release_held(3);
        assert!(upstream.is_empty());
        upstream.release_held(4);
        assert_eq!(payloads(&mut upstream), ["held"]);
        assert_eq!((upstream.bytes, upstream.held_len, upstream.held.len()), (0, 0, 0));
    }

    #[test]
    fn held_and_queued_publications_share_one_bound() {
        let mut upstream = Upstream::default();
        for number in 0..PUBLISH_QUEUE_MESSAGES {
            assert!(!upstream.is_full(1));
            upstream.publish(publication(b"x"), number.is_multiple_of(2).then_some(1), None);
        }
        assert!(upstream.is_full(1));
    }

    /// A crowd of 400,000 joins waited in the queue, and every publication of the shard's other clients was unavailable. When the
    /// crowd left again, they waited a second behind the rooms that it gave up.
    #[test]
    fn a_crowd_that_joins_or_leaves_takes_no_publication_its_place_and_its_turn() {
        let mut upstream = Upstream::default();
        for number in 0..2 * PUBLISH_QUEUE_MESSAGES {
            upstream.subscribe(number.to_string().into());
            upstream.unsubscribe(number.to_string().into());
        }
        assert!(!upstream.is_full(1));
        upstream.publish(publication(b"one"), None, None);
        upstream.publish(publication(b"two"), None, None);
        let first: Vec<_> = std::iter::from_fn(|| upstream.poll()).take(4).collect();
        assert!(
            matches!(
                first[..],
                [ToRelay::Publish(..), ToRelay::Subscribe(_), ToRelay::Publish(..), ToRelay::Unsubscribe(_)]
            ),
            "{first:?}"
        );
        assert_eq!(upstream.publications, 0);
        assert_eq!(std::iter::from_fn(|| upstream.poll()).count(), 4 * PUBLISH_QUEUE_MESSAGES - 2);
    }

    #[test]
    fn a_flood_of_publications_keeps_no_join_waiting() {
        let mut upstream = Upstream::default();
        for _ in 0..100 {
            upstream.publish(publication(b"x"), None, None);
        }
        upstream.subscribe("lobby".into());
        let asked = std::iter::from_fn(|| upstream.poll()).position(|item| matches!(item, ToRelay::Subscribe(_)));
        assert_eq!(asked, Some(1));
    }

    /// With a limits.message_bytes above the queue's bytes larger messages were refused for ever, as temporary.
    #[test]
    fn an_empty_queue_takes_a_message_over_its_byte_limit_and_then_no_other() {
        let mut upstream = Upstream::default();
        assert!(!upstream.is_full(PUBLISH_QUEUE_BYTES + 1));
        upstream.publish(publication(b"x"), None, None);
        assert!(!upstream.is_full(PUBLISH_QUEUE_BYTES - 1));
        assert!(upstream.is_full(PUBLISH_QUEUE_BYTES));
    }

    #[test]
    fn an_item_that_the_mailbox_had_no_room_for_stays_first() {
        let mut upstream = Upstream::default();
        upstream.publish(publication(b"first"), None, None);
        upstream.publish(publication(b"second"), None, None);
        let first = upstream.poll().unwrap();
        upstream.unpoll(first);
        assert_eq!(upstream.bytes, "firstsecond".len());
        upstream.subscribe("asked".into());
        let again = upstream.poll().unwrap();
        assert!(matches!(&again, ToRelay::Publish(publication, _) if publication.payload == "first"));
        let room = upstream.poll().unwrap();
        assert!(matches!(room, ToRelay::Subscribe(_)));
        upstream.unpoll(room);
        assert!(matches!(upstream.poll(), Some(ToRelay::Subscribe(_))));
        assert_eq!(payloads(&mut upstream), ["second"]);
    }

    #[test]
    fn an_acknowledgement_answers_the_request_once_and_no_connection_that_is_closed() {
        let mut turn = turn(1, |_, _| {});
        let (mut clients, handles) = open(&turn, 2);
        let mut writer = Writer::new(TestDriver::new(""));
        let mut upstream = Upstream::default();
        for handle in &handles {
            let request = Request { handle: *handle, reference: Some("\"7\"") };
            let ack = upstream.follow(request, true);
            upstream.publish(publication(b"x"), None, Some(ack));
        }
        clients.close(&mut turn, handles[1], crate::close::CloseReason::Operator);
        for ack in [0, 1, 0] {
            upstream.acknowledge(&mut turn, &mut writer, &mut clients, ack, Ok(AckLevel::Node));
        }
        let [Deed::Sent(frame)] = &writer.driver().deeds[..] else { panic!("{:?}", writer.driver().deeds) };
        assert!(String::from_utf8_lossy(frame).contains(r#""type":"ack""#), "{}", String::from_utf8_lossy(frame));
    }
}
