use super::*;
use crate::relay::ToRelay;
use crate::shard::settings::{RoomRule, SlowPolicy};
use crate::shard::test_driver::{Deed, TestDriver, open, turn};

/// A shard's parts with open connections, and no shard around them.
struct Parts {
    turn: Turn,
    rooms: Rooms,
    upstream: Upstream,
    writer: Writer<TestDriver>,
    clients: Clients,
}

fn parts(connections: u32, publish: Who) -> (Parts, Vec<Handle>) {
    let rule = RoomRule { pattern: "*".into(), join: None, publish: Some(publish), slow: SlowPolicy::Close };
    let turn = turn(1, |options, _| options.rooms = vec![rule]);
    let (clients, handles) = open(&turn, connections);
    let (rooms, upstream, writer) = Default::default();
    (Parts { turn, rooms, upstream, writer, clients }, handles)
}

impl Default for Writer<TestDriver> {
    fn default() -> Self {
        Self::new(TestDriver::new(""))
    }
}

impl Parts {
    fn join(&mut self, handle: Handle) {
        let Self { turn, rooms, upstream, writer, clients } = self;
        rooms.join(turn, upstream, writer, clients, "lobby", Request { handle, reference: None });
        writer.flush(turn, clients, handle);
    }

    fn leave(&mut self, handle: Handle) {
        self.rooms.leave(&mut self.turn, &mut self.upstream, &mut self.clients, handle, "lobby");
    }

    fn confirm(&mut self) {
        let Self { turn, rooms, upstream, writer, clients } = self;
        rooms.confirmed(turn, upstream, writer, clients, &RoomName::from("lobby"));
    }

    fn publish(&mut self, handle: Handle) -> Result<(), (ErrorCode, Cow<'static, str>)> {
        let publish = Publish { room: "lobby", kind: Kind::Text, payload: b"hi", echo: true, ack: false };
        let request = Request { handle, reference: None };
        self.rooms.publish(&mut self.turn, &mut self.upstream, &mut self.clients, &publish, request)
    }

    /// What was sent, and is taken away.
    fn sent(&mut self) -> Vec<String> {
        let deeds = std::mem::take(&mut self.writer.driver().deeds);
        let text = |deed: Deed| {
            if let Deed::Sent(octets) = deed { String::from_utf8_lossy(&octets).into_owned() } else { panic!() }
        };
        deeds.into_iter().map(text).collect()
    }

    /// What goes to the relay, in words.
    fn upstream(&mut self) -> Vec<&'static str> {
        let word = |item| match item {
            ToRelay::Subscribe(_) => "subscribe",
            ToRelay::Unsubscribe(_) => "unsubscribe",
            ToRelay::Publish(..) => "publish",
            ToRelay::ToNodes(..) => "to nodes",
        };
        std::iter::from_fn(|| self.upstream.poll()).map(word).collect()
    }
}

#[test]
fn connections_that_join_a_room_are_members_when_the_relay_confirms_it() {
    let (mut parts, handles) = parts(2, Who::Any);
    handles.iter().for_each(|handle| parts.join(*handle));
    assert_eq!((parts.upstream(), parts.sent().len()), (vec!["subscribe"], 0), "one subscription, and no answer yet");
    parts.confirm();
    let joined = parts.sent();
    assert!(joined.len() == 2 && joined.iter().all(|text| text.contains(r#""type":"joined""#)), "{joined:?}");
    parts.confirm();
    assert!(parts.sent().is_empty(), "a confirmation that comes twice is told once");
}

#[test]
fn a_room_is_unsubscribed_when_its_last_member_leaves_and_not_before() {
    let (mut parts, handles) = parts(2, Who::Any);
    handles.iter().for_each(|handle| parts.join(*handle));
    parts.confirm();
    parts.upstream();
    parts.leave(handles[0]);
    assert!(parts.upstream().is_empty());
    parts.leave(handles[1]);
    parts.leave(handles[1]);
    assert_eq!(parts.upstream(), ["unsubscribe"]);
    assert_eq!((parts.turn.names.number("lobby"), parts.turn.counters.rooms.value()), (None, 0));
}

#[test]
fn a_room_that_was_left_before_its_confirmation_is_unsubscribed_after_it() {
    let (mut parts, handles) = parts(1, Who::Any);
    parts.join(handles[0]);
    parts.leave(handles[0]);
    assert_eq!(parts.upstream(), ["subscribe"]);
    parts.confirm();
    assert_eq!(parts.upstream(), ["unsubscribe"]);
}

#[test]
fn a_publication_into_a_room_that_is_not_confirmed_follows_the_confirmation() {
    let (mut parts, handles) = parts(1, Who::Members);
    assert_eq!(parts.publish(handles[0]).unwrap_err().0, ErrorCode::NotJoined);
    parts.join(handles[0]);
    parts.publish(handles[0]).unwrap();
    assert_eq!(parts.upstream(), ["subscribe"]);
    parts.confirm();
    assert_eq!(parts.upstream(), ["publish"]);
}

#[test]
fn a_pass_reaches_each_member_once_and_rooms_take_turns() {
    let (mut parts, handles) = parts(3, Who::Any);
    handles.iter().for_each(|handle| parts.join(*handle));
    parts.confirm();
    parts.sent();
    let (room, payload) = (RoomName::from("lobby"), bytes::Bytes::from_static(b"hi"));
    let publication = Publication::of_backend(room, Kind::Text, payload, 0);
    parts.rooms.deliver(&parts.turn, Arc::new(publication));
    let Parts { turn, rooms, writer, clients, .. } = &mut parts;
    assert_eq!(rooms.go_on(turn, writer, clients, 2), Some(2));
    assert_eq!(rooms.go_on(turn, writer, clients, 2), Some(1));
    assert_eq!(rooms.go_on(turn, writer, clients, 2), None);
    assert!(!rooms.is_passing() && rooms.has_delivered() && rooms.takes_deliveries(turn));
    writer.submit(turn, clients);
    assert_eq!(parts.sent().len(), 3);
}
