//! The relay where the broker forbids rooms, hundreds at once: the broker's client keeps 128 of its complaints and drops the rest,
//! and no room whose refusal was dropped may be taken for joined, whatever the complaints before it were about.

mod support;

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use support::nats::{Nats, NatsOptions, PlainClient};
use support::ports::{TestPort, TestRelay, json, options};
use support::proxy::Proxy;
use tidegate::gateway::broker::Options;
use tidegate_core::model::GapReason;
use tidegate_core::relay::ToShard;

const ROOMS: usize = 500;
const CLOSED: &str = "tidegate.room.closed.>";

/// A user list in which `a` may subscribe all but `denied` and publish all but the room `mute`, and `backend` everything.
fn rules(denied: &str) -> String {
    format!(
        "users: [ {{ user: backend, password: b }}, \
         {{ user: a, password: b, permissions: {{ \
         publish: {{ deny: [\"tidegate.room.mute\"] }}, subscribe: {{ deny: [\"{denied}\"] }} }} }} ]"
    )
}

fn broker(denied: &str) -> Nats {
    Nats::start_with(NatsOptions {
        config: Some(String::from("authorization { include 'users.conf' }")),
        files: vec![(String::from("users.conf"), rules(denied))],
        ..NatsOptions::default()
    })
}

fn forbid(broker: &Nats, denied: &str) {
    std::fs::write(broker.directory().join("users.conf"), rules(denied)).expect("the broker's directory is there");
    broker.signal(Signal::SIGHUP);
}

fn relay(broker: &Nats) -> TestRelay {
    relay_over(&broker.url())
}

fn relay_over(url: &str) -> TestRelay {
    let mut options: Options = options(url);
    options.config.nats.user = Some(String::from("a"));
    options.config.nats.password = Some("b".into());
    TestRelay::start(options, 1)
}

fn backend(broker: &Nats) -> PlainClient {
    PlainClient::connect_as(broker.address(), ",\"user\":\"backend\",\"pass\":\"b\"")
}

fn closed(number: usize) -> String {
    format!("closed.{number}")
}

fn join_all(port: &mut TestPort) {
    (0..ROOMS).for_each(|number| port.subscribe(&closed(number)));
    for _ in 0..ROOMS {
        let answer = port.next();
        assert!(matches!(answer, ToShard::Joined(_)), "{answer:?}");
    }
}

/// Waits until each of the closed rooms was revoked; whether a gap of all rooms came by then.
fn until_all_are_revoked(port: &mut TestPort) -> bool {
    let (mut left, mut gap): (BTreeSet<String>, bool) = ((0..ROOMS).map(closed).collect(), false);
    while !left.is_empty() {
        let waiting = left.len();
        match port.next_within(support::ports::LONGEST_WAIT) {
            Some(ToShard::Revoked(room)) => assert!(left.remove(&*room), "{room} was revoked twice, or is open"),
            Some(ToShard::Gap(None, GapReason::Broker)) => gap = true,
            other => panic!("{other:?} while {waiting} closed rooms are in force and silent"),
        }
    }
    gap
}

/// An open room is in force, once: each message comes, and no message twice.
fn hears(port: &mut TestPort, backend: &mut PlainClient, room: &str) {
    for number in 0..10 {
        backend.publish(&format!("tidegate.room.{room}"), number.to_string().as_bytes());
        assert_eq!(port.payload(), number.to_string());
    }
    assert!(port.poll().is_none());
}

#[test]
fn each_of_hundreds_of_forbidden_rooms_is_refused_and_the_open_ones_among_them_are_joined() {
    let broker = broker(CLOSED);
    let mut relay = relay(&broker);
    let mut backend = backend(&broker);
    let port = &mut relay.ports[0];
    port.join("before");
    for number in 0..ROOMS {
        port.subscribe(&closed(number));
        if number % 100 == 50 {
            port.subscribe(&format!("open.{number}"));
        }
    }
    let (mut refused, mut joined) = (BTreeSet::new(), BTreeSet::new());
    while refused.len() + joined.len() < ROOMS + ROOMS / 100 {
        match port.next() {
            ToShard::Refused(room, _) => assert!(refused.insert(room.to_string())),
            ToShard::Joined(room) => assert!(joined.insert(room.to_string())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, (0..ROOMS).map(closed).collect(), "joined instead: {joined:?}");
    hears(port, &mut backend, "open.450");
    hears(port, &mut backend, "before");
}

#[test]
fn each_of_hundreds_of_rooms_that_a_reload_takes_back_is_revoked_and_the_others_are_told_and_go_on() {
    let broker = broker("nothing");
    let mut relay = relay(&broker);
    let mut backend = backend(&broker);
    let port = &mut relay.ports[0];
    port.join("open");
    join_all(port);

    forbid(&broker, CLOSED);

    if !until_all_are_revoked(port) {
        let gap = port.next();
        assert!(matches!(gap, ToShard::Gap(None, GapReason::Broker)), "{gap:?}");
    }
    hears(port, &mut backend, "open");
}

#[test]
fn each_of_hundreds_of_rooms_that_a_restarted_broker_forbids_is_revoked() {
    let mut broker = broker("nothing");
    let mut relay = relay(&broker);
    relay.ports[0].join("open");
    join_all(&mut relay.ports[0]);

    broker.restart_with_files(vec![(String::from("users.conf"), rules(CLOSED))]);

    let port = &mut relay.ports[0];
    until_all_are_revoked(port);
    let mut backend = backend(&broker);
    // The last gap comes after the last room was proved.
    loop {
        backend.publish("tidegate.room.open", b"1");
        if let Some(item) = port.next_within(std::time::Duration::from_millis(200)) {
            match item {
                ToShard::Deliver(_) => break,
                ToShard::Gap(None, GapReason::Broker) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A client publishes where it may not, hundreds of times, while the broker takes a room back. The client of the broker kept the
/// complaints about the publications only, and the room's clients stayed in it, and heard nothing.
#[test]
fn a_room_taken_back_behind_hundreds_of_complaints_about_publications_is_revoked_and_no_other_is_told_a_gap() {
    const COMPLAINT: &str = "-ERR 'Permissions Violation for Publish to \"tidegate.room.mute\"'\r\n";
    let broker = broker("nothing");
    let proxy = Proxy::start(broker.address());
    let mut relay = relay_over(&format!("nats://{}", proxy.address()));
    let mut backend = backend(&broker);
    let port = &mut relay.ports[0];
    join_all(port);
    port.join("open");
    // In one read, before the broker's own complaint, which the reload makes.
    proxy.inject_garbage(COMPLAINT.repeat(400).as_bytes());

    forbid(&broker, "tidegate.room.closed.7");

    let told = port.next();
    assert!(matches!(&told, ToShard::Revoked(room) if &**room == "closed.7"), "{told:?}");
    hears(port, &mut backend, "open");
    hears(port, &mut backend, "closed.8");
}

#[test]
fn a_flood_of_forbidden_publications_costs_no_other_client_a_message_nor_a_gap() {
    support::log::capture();
    let broker = broker("nothing");
    let mut relay = relay(&broker);
    let mut backend = backend(&broker);
    let port = &mut relay.ports[0];
    join_all(port);
    // So many rooms as no other test of this log has.
    ["hall", "lobby"].iter().for_each(|room| port.join(room));

    for number in 0..100 {
        (0..300).for_each(|_| port.publish(json("mute", "1"), None));
        let room = closed(number);
        backend.publish(&format!("tidegate.room.{room}"), number.to_string().as_bytes());
        let delivery = port.delivery();
        assert_eq!((&*delivery.room, &delivery.payload[..]), (&*room, number.to_string().as_bytes()));
        if number == 50 {
            support::log::wait_for(&["every room is proved to be in force", "rooms=502"]);
        }
    }
    assert!(port.poll().is_none());
}
