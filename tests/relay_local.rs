//! The relay on its built-in bus: one node, no broker.

mod support;

use std::time::Duration;

use support::ports::{TestRelay, json};
use tidegate_core::counters::DropReason;
use tidegate_core::limits::{self, Limits};
use tidegate_core::model::{AckLevel, GapReason};
use tidegate_core::relay::{ToRelay, ToShard};

#[test]
fn a_message_reaches_every_shard_that_subscribed_once_and_no_other() {
    let mut relay = TestRelay::local(Limits::default(), 3);
    relay.ports[0].join("lobby");
    relay.ports[1].join("lobby");
    relay.ports[2].join("elsewhere");

    relay.ports[3].publish(json("lobby", "1"), None);
    relay.ports[3].publish(json("lobby", "2"), None);
    relay.ports[3].publish(json("elsewhere", "3"), None);

    for shard in 0..2 {
        assert_eq!((relay.ports[shard].payload(), relay.ports[shard].payload()), ("1".into(), "2".into()));
    }
    assert_eq!(relay.ports[2].payload(), "3", "nothing of the lobby came before");
    relay.stop();
    assert!(relay.ports.iter_mut().all(|port| port.poll().is_none()), "no shard got anything twice");
}

#[test]
fn an_acknowledgement_of_the_local_bus_says_node() {
    let mut relay = TestRelay::local(Limits::default(), 1);
    relay.ports[1].publish(json("empty", "1"), Some(7));
    assert!(matches!(relay.ports[1].next(), ToShard::Acked(7, AckLevel::Node)));
}

#[test]
fn nothing_of_a_room_comes_before_joined_and_nothing_after_leaving() {
    let mut relay = TestRelay::local(Limits::default(), 1);
    relay.ports[0].publish(json("lobby", "\"before\""), None);
    relay.ports[0].subscribe("lobby");
    relay.ports[0].publish(json("lobby", "\"between\""), None);
    relay.ports[0].leave("lobby");
    relay.ports[0].publish(json("lobby", "\"after\""), Some(1));

    assert!(matches!(relay.ports[0].next(), ToShard::Joined(room) if &*room == "lobby"));
    assert_eq!(relay.ports[0].payload(), "\"between\"");
    assert!(
        matches!(relay.ports[0].next(), ToShard::Acked(1, _)),
        "what was published after the leave is not delivered"
    );
}

#[test]
fn a_room_that_was_left_makes_place_for_the_next_one_of_the_same_batch() {
    // The batch was handled whole before the room that was left ended: a client that changed rooms was refused on a full node.
    let limits = Limits { rooms_total: Some(1), ..Limits::default() };
    let mut relay = TestRelay::local(limits, 1);
    relay.ports[0].join("first");
    relay.ports[0].ask_together([ToRelay::Unsubscribe("first".into()), ToRelay::Subscribe("second".into())]);
    assert!(matches!(relay.ports[0].next(), ToShard::Joined(room) if &*room == "second"));
}

#[test]
fn a_shard_that_does_not_read_gets_a_gap_and_its_neighbour_gets_everything_in_order() {
    const MESSAGES: usize = 1000;
    let limits = Limits { mailbox_messages: 8, ..Limits::default() };
    let mut relay = TestRelay::local(limits, 2);
    relay.ports[0].join("lobby");
    relay.ports[1].join("lobby");

    for number in 0..MESSAGES {
        relay.ports[2].publish(json("lobby", &number.to_string()), None);
        assert_eq!(relay.ports[1].payload(), number.to_string());
    }

    let slow: Vec<String> = (0..8).map(|_| relay.ports[0].payload()).collect();
    assert_eq!(slow, (0..8).map(|number| number.to_string()).collect::<Vec<_>>());
    let gap = relay.ports[0].next();
    assert!(
        matches!(&gap, ToShard::Gap(Some(rooms), GapReason::Mailbox) if rooms.len() == 1 && &*rooms[0] == "lobby"),
        "{gap:?}"
    );
    relay.ports[2].publish(json("lobby", "\"on\""), None);
    assert_eq!(relay.ports[0].payload(), "\"on\"", "after the gap it goes on");
    assert_eq!(relay.dropped(DropReason::Mailbox), MESSAGES as u64 - 8);
}

#[test]
fn the_bytes_of_a_mailbox_are_bounded_too() {
    const MIB: usize = 1024 * 1024;
    let mut relay = TestRelay::local(Limits { message_bytes: MIB, ..Limits::default() }, 1);
    relay.ports[0].join("lobby");
    let payload = format!("\"{}\"", "x".repeat(MIB - 2));
    let sent = limits::MAILBOX_BYTES / MIB + 3;
    for _ in 0..sent {
        relay.ports[1].publish(json("lobby", &payload), Some(1));
        assert!(matches!(relay.ports[1].next(), ToShard::Acked(..)));
    }
    let waiting = relay.ports[0].waiting();
    assert!(waiting < limits::MAILBOX_BYTES / MIB, "{waiting} MiB wait");
    let before = relay.ports[0].until(|item| matches!(item, ToShard::Gap(_, GapReason::Mailbox)));
    assert_eq!(before.len(), waiting);
    assert_eq!(relay.dropped(DropReason::Mailbox) as usize, sent - waiting);
}

#[test]
fn answers_beyond_the_reserve_are_kept_and_come_in_order() {
    let limits = Limits { mailbox_messages: 4, ..Limits::default() };
    let mut relay = TestRelay::local(limits, 1);
    let answers = limits::MAILBOX_RESERVE as u64 + 500;
    for token in 0..answers {
        relay.ports[0].publish(json("lobby", "1"), Some(token));
    }
    for token in 0..answers {
        let answer = relay.ports[0].next();
        assert!(matches!(answer, ToShard::Acked(got, _) if got == token), "{token}: {answer:?}");
    }
}

#[test]
fn what_is_queued_when_the_relay_stops_is_still_delivered() {
    let mut relay = TestRelay::local(Limits::default(), 1);
    relay.ports[0].join("lobby");
    for number in 0..500 {
        relay.ports[1].publish(json("lobby", &number.to_string()), None);
    }
    relay.stop();
    for number in 0..500 {
        assert_eq!(relay.ports[0].payload(), number.to_string());
    }
    assert!(relay.ports[0].next_within(Duration::ZERO).is_none());
}

#[test]
fn what_several_shards_publish_at_once_reaches_all_of_them_once_and_in_one_order() {
    const SHARDS: usize = 4;
    const EACH: usize = 5_000;
    // No port reads before all is said, so the mailboxes hold all of it.
    let limits = Limits { mailbox_messages: SHARDS * EACH + 1, ..Limits::default() };
    let mut relay = TestRelay::local(limits, SHARDS);
    relay.ports[..SHARDS].iter_mut().for_each(|port| port.join("lobby"));
    std::thread::scope(|scope| {
        for (shard, port) in relay.ports[..SHARDS].iter_mut().enumerate() {
            scope.spawn(move || {
                for number in 0..EACH {
                    port.publish(json("lobby", &(shard * EACH + number).to_string()), None);
                }
            });
        }
    });
    let heard: Vec<Vec<usize>> = relay.ports[..SHARDS]
        .iter_mut()
        .map(|port| (0..SHARDS * EACH).map(|_| port.payload().parse().unwrap()).collect())
        .collect();
    for shard in 0..SHARDS {
        let of_one = heard[0].iter().filter(|number| **number / EACH == shard);
        assert!(of_one.copied().eq(shard * EACH..(shard + 1) * EACH), "one publisher's come in order, once");
    }
    assert!(heard.iter().all(|order| *order == heard[0]), "all of them hear one order");
    assert_eq!(relay.dropped(DropReason::Mailbox), 0);
}
