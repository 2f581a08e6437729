//! The relay under a broker that does what the test says.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::test_mailbox::{Reader, mailbox};
use super::*;
use crate::limits;
use crate::model::{Kind, RoomName};

const MAX_AGE: Duration = Duration::from_secs(5);

/// Keeps what it is asked; takes publications only while it is not `busy`.
#[derive(Default)]
struct Asked {
    subscribed: Vec<(RoomKey, RoomName)>,
    unsubscribed: Vec<RoomKey>,
    published: VecDeque<Outgoing>,
    busy: bool,
}

impl Broker for Asked {
    const NAME: &'static str = "asked";
    const NEEDS_RUNTIME: bool = true;

    fn poll<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, _: &mut S) {}

    fn subscribe<S: Sink>(&mut self, key: RoomKey, room: &RoomName, _: Instant, _: &mut S) {
        self.subscribed.push((key, room.clone()));
    }

    fn unsubscribe(&mut self, key: RoomKey) {
        self.unsubscribed.push(key);
    }

    fn publish<S: Sink>(&mut self, _: &mut Context<'_>, item: Outgoing, _: Instant, _: &mut S) -> Result<(), NotTaken> {
        if self.busy {
            return Err(NotTaken::Busy(item));
        }
        if item.publication.payload.is_empty() {
            return Err(NotTaken::Refused(item.publisher(), PublishError::Unavailable));
        }
        self.published.push_back(item);
        Ok(())
    }

    fn send_to_nodes<S: Sink>(&mut self, to: NodeTarget, message: Bytes, sink: &mut S) {
        if to == NodeTarget::All {
            sink.node_message(&message);
        }
    }

    fn flush<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, _: &mut S) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
        Poll::Ready(())
    }
}

/// A relay with the ports of one shard and of the admin thread, and the ends that they read.
fn relay() -> (Relay<test_mailbox::TestMailbox>, [Reader; 2], Arc<RelayCounters>) {
    let counters = Arc::new(RelayCounters::default());
    let [shard, admin] = [(); 2].map(|()| mailbox(16 + limits::MAILBOX_RESERVE));
    let outlets = vec![Outlet::new(shard.0, 16), Outlet::new(admin.0, 16)];
    let bounds = Bounds { confirm_within: MAX_AGE, linger: Duration::ZERO, rooms: 1 };
    (Relay::new(outlets, bounds, MAX_AGE, counters.clone()), [shard.1, admin.1], counters)
}

fn apply(relay: &mut Relay<test_mailbox::TestMailbox>, broker: &mut Asked, now: Instant) {
    relay.apply(broker, &mut Context::from_waker(Waker::noop()), now);
}

fn publication(payload: &'static str) -> Publication {
    let (room, payload) = ("lobby".into(), payload.into());
    Publication::of_backend(room, Kind::Json, payload, 0)
}

fn publish(payload: &'static str, ack: AckId) -> ToRelay {
    ToRelay::Publish(publication(payload), Some(ack))
}

fn items(reader: &Reader) -> Vec<String> {
    std::iter::from_fn(|| reader.pop()).map(|item| format!("{item:?}")).collect()
}

#[test]
fn a_port_is_told_in_the_order_in_which_the_broker_told_the_relay() {
    let ((mut relay, [shard, _], _), mut broker, now) = (relay(), Asked::default(), Instant::now());
    relay.handle_request(0, ToRelay::Subscribe("lobby".into()), now);
    assert!(broker.subscribed.is_empty(), "the broker is not called before apply");
    apply(&mut relay, &mut broker, now);
    let key = broker.subscribed[0].0;
    relay.message(key, publication("0"));
    relay.confirmed(key, now);
    relay.message(key, publication("1"));
    relay.lost(None, GapReason::Broker, 0);
    relay.message(key, publication("2"));
    let kinds: Vec<_> = items(&shard).iter().map(|item| item.split('(').next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["Joined", "Deliver", "Gap", "Deliver"], "nothing before the confirmation, the gap in its place");
}

#[test]
fn a_refused_subscription_is_answered_at_once_and_ended_at_the_broker_by_apply() {
    let ((mut relay, [shard, _], _), mut broker, now) = (relay(), Asked::default(), Instant::now());
    relay.handle_request(0, ToRelay::Subscribe("lobby".into()), now);
    apply(&mut relay, &mut broker, now);
    let key = broker.subscribed[0].0;
    relay.refused(key);
    assert!(matches!(shard.pop(), Some(ToShard::Refused(_, JoinError::Unconfirmed))));
    assert!(broker.unsubscribed.is_empty());
    apply(&mut relay, &mut broker, now);
    assert_eq!(broker.unsubscribed, [key]);
}

#[test]
fn a_busy_broker_gets_the_publications_later_in_order_and_those_too_old_never() {
    let ((mut relay, [shard, _], counters), mut broker, now) = (relay(), Asked::default(), Instant::now());
    broker.busy = true;
    relay.handle_request(0, publish("1", 1), now);
    relay.handle_request(0, publish("2", 2), now + MAX_AGE / 2);
    relay.handle_request(0, publish("3", 3), now + MAX_AGE / 2);
    apply(&mut relay, &mut broker, now);
    assert_eq!((relay.waiting_publications(), relay.poll_timeout()), (3, Some(now + MAX_AGE)));
    relay.handle_timeout(now + MAX_AGE);
    assert!(matches!(shard.pop(), Some(ToShard::Failed(1, PublishError::Unavailable))));
    broker.busy = false;
    apply(&mut relay, &mut broker, now + MAX_AGE);
    let acks: Vec<_> = broker.published.iter().map(|item| item.ticket.unwrap().ack).collect();
    assert_eq!((acks, counters.messages_out.value()), (vec![2, 3], 2));
    assert_eq!(counters.dropped[DropReason::Unavailable as usize].value(), 1);
}

#[test]
fn a_publication_that_the_broker_refuses_fails_and_the_next_ones_go_on() {
    let ((mut relay, [shard, _], counters), mut broker, now) = (relay(), Asked::default(), Instant::now());
    relay.handle_request(0, publish("", 1), now);
    relay.handle_request(0, publish("2", 2), now);
    apply(&mut relay, &mut broker, now);
    assert!(matches!(shard.pop(), Some(ToShard::Failed(1, PublishError::Unavailable))));
    assert_eq!((broker.published.len(), counters.messages_out.value()), (1, 1));
}

/// A client whose publications wait for a broker that is away may have thousands of them: each has a place in the shard's mailbox, so
/// they are told together.
#[test]
fn lost_publications_without_acknowledgement_are_told_once_a_second_for_each_connection_and_reason() {
    let ((mut relay, [shard, _], counters), now) = (relay(), Instant::now());
    relay.limit_messages(10);
    let connection = |index| ConnectionId { node: 1, shard: 0, index, generation: 0 };
    let publish = |index, payload: &'static str| {
        ToRelay::Publish(Publication { from: Some(connection(index)), ..publication(payload) }, None)
    };
    for _ in 0..100 {
        relay.handle_request(0, publish(1, "1"), now);
        relay.handle_request(0, publish(2, "larger than 10"), now);
        relay.handle_request(0, ToRelay::Publish(publication("larger than 10"), None), now);
    }
    relay.handle_timeout(now + MAX_AGE);
    assert!(matches!(shard.pop(), Some(ToShard::NotPublished(id, PublishError::TooLarge)) if id == connection(2)));
    assert!(matches!(shard.pop(), Some(ToShard::NotPublished(id, PublishError::Unavailable)) if id == connection(1)));
    assert!(shard.pop().is_none());
    relay.measure();
    relay.handle_request(0, publish(2, "larger than 10"), now);
    assert_eq!(items(&shard).len(), 1, "a second later again");
    let dropped = |reason| counters.dropped[reason as usize].value();
    assert_eq!((dropped(DropReason::Unavailable), dropped(DropReason::TooLarge)), (100, 201));
}

#[test]
fn a_message_that_waited_while_the_node_came_to_a_broker_that_takes_less_is_too_large() {
    let ((mut relay, [shard, _], counters), mut broker, now) = (relay(), Asked::default(), Instant::now());
    relay.limit_messages(100);
    broker.busy = true;
    relay.handle_request(0, publish("twelve bytes", 1), now);
    relay.handle_request(0, publish("2", 2), now);
    apply(&mut relay, &mut broker, now);
    relay.payload_limit(11);
    broker.busy = false;
    apply(&mut relay, &mut broker, now);
    assert!(matches!(shard.pop(), Some(ToShard::Failed(1, PublishError::TooLarge))));
    assert_eq!((broker.published.len(), counters.message_bytes.value()), (1, 11));
    relay.payload_limit(1 << 20);
    assert_eq!(counters.message_bytes.value(), 100, "the node's own limit is the smaller one");
}

/// 400,000 joins came at once, after a restart: those that the broker had not confirmed after five seconds were refused, and asked
/// again, while publications waited behind them all.
#[test]
fn a_crowd_of_joins_goes_on_in_shares_and_none_is_refused_while_the_broker_confirms_rooms() {
    const CROWD: usize = 20_000;
    let counters = Arc::new(RelayCounters::default());
    let [shard, admin] = [(); 2].map(|()| mailbox(16 + limits::MAILBOX_RESERVE));
    let outlets = vec![Outlet::new(shard.0, 16), Outlet::new(admin.0, 16)];
    let bounds = Bounds { confirm_within: MAX_AGE, linger: Duration::ZERO, rooms: CROWD };
    let (mut relay, mut broker) = (Relay::new(outlets, bounds, MAX_AGE, counters.clone()), Asked::default());
    let mut now = Instant::now();
    for room in 0..CROWD {
        relay.handle_request(0, ToRelay::Subscribe(room.to_string().into()), now);
    }
    relay.handle_request(0, publish("1", 1), now);
    apply(&mut relay, &mut broker, now);
    assert_eq!((broker.subscribed.len(), broker.published.len()), (limits::JOINS_OPEN, 1));
    assert!(relay.is_behind(), "the loop looks again soon");
    let mut joined = 0;
    while joined < CROWD {
        // A broker that takes almost as long as it may for each share.
        now += MAX_AGE * 9 / 10;
        for (key, _) in std::mem::take(&mut broker.subscribed) {
            relay.confirmed(key, now);
        }
        relay.message(relay.interest().key("0").unwrap(), publication("1"));
        apply(&mut relay, &mut broker, now);
        assert!(broker.subscribed.is_empty(), "no more than the shard has read");
        while let Some(item) = shard.1.pop() {
            if matches!(item, ToShard::Joined(_)) {
                joined += 1;
            } else {
                assert!(matches!(item, ToShard::Deliver(_)), "{item:?}");
            }
        }
        relay.handle_timeout(now);
        apply(&mut relay, &mut broker, now);
    }
    assert_eq!((joined, counters.dropped[DropReason::Mailbox as usize].value()), (CROWD, 0));
    assert!(!relay.is_behind());
}

#[test]
fn the_node_says_once_that_it_has_all_the_rooms_that_it_may_have() {
    let ((mut relay, [shard, _], _), now) = (relay(), Instant::now());
    relay.handle_request(0, ToRelay::Subscribe("lobby".into()), now);
    assert!(!relay.take_full());
    for room in ["hall", "attic"] {
        relay.handle_request(0, ToRelay::Subscribe(room.into()), now);
    }
    assert_eq!((relay.take_full(), relay.take_full()), (true, false));
    assert_eq!(items(&shard).len(), 2, "both were refused");
}

#[test]
fn control_is_told_no_gap_because_it_has_no_rooms() {
    let (mut relay, [shard, admin], counters) = relay();
    relay.lost(None, GapReason::Broker, 3);
    assert_eq!((items(&shard).len(), items(&admin).len()), (1, 0));
    assert_eq!(counters.dropped[DropReason::Broker as usize].value(), 3);
}

#[test]
fn a_message_of_the_node_channel_reaches_the_admin_thread_only_and_a_flood_of_them_is_dropped() {
    let ((mut relay, [shard, admin], _), mut broker, now) = (relay(), Asked::default(), Instant::now());
    let send = |relay: &mut Relay<_>, broker: &mut Asked, to, bytes: usize| {
        relay.handle_request(1, ToRelay::ToNodes(to, vec![b'1'; bytes].into()), now);
        apply(relay, broker, now);
    };
    send(&mut relay, &mut broker, NodeTarget::All, 3);
    assert!(matches!(admin.pop(), Some(ToShard::FromNodes(message)) if *message == *b"111"));
    send(&mut relay, &mut broker, NodeTarget::One(7), 3);
    send(&mut relay, &mut broker, NodeTarget::All, limits::NODE_MESSAGE_BYTES + 1);
    assert_eq!((admin.len(), shard.len()), (0, 0), "to another node, and too large");
    for _ in 0..2 * limits::MAILBOX_RESERVE {
        send(&mut relay, &mut broker, NodeTarget::All, 1);
    }
    assert!(admin.len() <= 16 + limits::MAILBOX_RESERVE / 2 + 1, "acknowledgements keep their places");
    assert!(admin.len() > 0 && shard.len() == 0 && !relay.is_behind());
}
