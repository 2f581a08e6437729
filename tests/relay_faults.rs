//! The relay while the broker is away, slow, silent or leaving.

mod support;

use std::ops::Range;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::checker::{self, Heard};
use support::nats::{Nats, NatsOptions, PlainClient, free_port};
use support::ports::{TestPort, TestRelay, eventually, json, options, options_with};
use support::proxy::Proxy;
use tidegate::gateway::broker::Options;
use tidegate::gateway::config::Secret;
use tidegate_core::counters::DropReason;
use tidegate_core::limits::{self, Limits};
use tidegate_core::model::{AckLevel, ConnectionId, GapReason};
use tidegate_core::relay::envelope::ENVELOPE_BYTES;
use tidegate_core::relay::{JoinError, PublishError, ToShard};

/// Waits this long instead of seconds.
const SHORT: Duration = Duration::from_millis(500);

fn impatient(url: &str) -> Options {
    options_with(url, Limits { fence_deadline: SHORT, ..Limits::default() })
}

#[test]
fn a_broker_that_comes_back_is_a_gap_told_after_the_rooms_are_subscribed_again() {
    let mut broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 2);
    for room in 0..200 {
        relay.ports[0].join(&format!("room-{room}"));
    }
    relay.ports[1].join("room-0");
    // Far enough away that a gap told too early is a message missed.
    proxy.delay(Duration::from_millis(100));
    for round in 0..3 {
        broker.kill();
        eventually("the loss is seen", || relay.counters.connected.value() == 0);
        broker.restart();
        let mut backend = PlainClient::connect(broker.address());
        let before = relay.ports[0].until(|item| matches!(item, ToShard::Gap(None, GapReason::Broker)));
        assert!(before.is_empty(), "round {round}: {before:?}");
        for room in 0..200 {
            backend.publish(&format!("tidegate.room.room-{room}"), room.to_string().as_bytes());
        }
        for room in 0..200 {
            assert_eq!(relay.ports[0].payload(), room.to_string());
        }
        assert!(matches!(relay.ports[1].next(), ToShard::Gap(None, GapReason::Broker)));
        assert_eq!(relay.ports[1].payload(), "0");
        assert_eq!(relay.counters.connected.value(), 1);
    }
}

#[test]
fn a_connection_reset_under_load_leaves_no_hole_untold() {
    const BURST: u64 = 2000;
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    let mut backend = PlainClient::connect(broker.address());
    let port = &mut relay.ports[0];
    port.join("lobby");
    let mut publish = |numbers: Range<u64>, at_half: &dyn Fn()| {
        let half = numbers.start.midpoint(numbers.end);
        for number in numbers {
            if number == half {
                at_half();
            }
            backend.publish("tidegate.room.lobby", checker::numbered(0, number).to_string().as_bytes());
        }
    };
    let (mut published, mut heard) = (0, Vec::new());
    for _ in 0..5 {
        // While the connection is up nothing at all is lost: what a gap excuses ends with the gap.
        publish(published..published + BURST, &|| {});
        let calm = hear_until(port, &Heard::Message(0, published + BURST - 1));
        checker::judge_range(published..published + BURST, &calm, &[]).assert_nothing_lost();
        published += BURST;
        heard.extend(calm);

        publish(published..published + BURST, &|| proxy.reset());
        let reset = hear_until(port, &Heard::Gap);
        assert_eq!(reset.last(), Some(&Heard::Gap), "a reset is told");
        published += BURST;
        heard.extend(reset);
    }
    publish(published..published + BURST, &|| {});
    let calm = hear_until(port, &Heard::Message(0, published + BURST - 1));
    checker::judge_range(published..published + BURST, &calm, &[]).assert_nothing_lost();
    heard.extend(calm);
    checker::judge(&[(0, published + BURST)].into(), &[heard], &[]).assert_promises();
}

/// What a shard hears of numbered messages, up to the last item; less where nothing comes any more.
fn hear_until(port: &mut TestPort, last: &Heard) -> Vec<Heard> {
    let mut heard = Vec::new();
    while heard.last() != Some(last) {
        match port.next_within(support::ports::LONGEST_WAIT) {
            Some(ToShard::Gap(None, GapReason::Broker)) => heard.push(Heard::Gap),
            Some(ToShard::Deliver(publication)) => {
                let content: serde_json::Value = serde_json::from_slice(&publication.payload).expect("JSON");
                heard.extend(Heard::of(&serde_json::json!({"type": "message", "content": content})));
            }
            Some(other) => panic!("{other:?}"),
            None => return heard,
        }
    }
    heard
}

#[test]
fn a_broker_that_was_never_there_refuses_joins_in_time_and_is_found_later() {
    let port = free_port();
    let mut relay = TestRelay::start(impatient(&format!("nats://127.0.0.1:{port}")), 1);
    relay.ports[0].subscribe("lobby");
    assert!(matches!(relay.ports[0].next(), ToShard::Refused(room, JoinError::Unconfirmed) if &*room == "lobby"));
    assert_eq!((relay.counters.connected.value(), relay.counters.was_connected.value()), (0, 0));

    let broker = Nats::start_on(port, NatsOptions::default());
    eventually("the broker is found", || relay.counters.was_connected.value() == 1);
    relay.ports[0].join("lobby");
    let mut backend = PlainClient::connect(broker.address());
    backend.publish("tidegate.room.lobby", b"1");
    assert_eq!(relay.ports[0].payload(), "1");
}

#[test]
fn what_is_published_while_the_broker_is_away_waits_for_it() {
    let mut broker = Nats::start();
    let limits = Limits { fence_deadline: Duration::from_secs(30), ..Limits::default() };
    let mut relay = TestRelay::start(options_with(&broker.url(), limits), 1);
    relay.ports[0].join("lobby");
    broker.kill();
    eventually("the loss is seen", || relay.counters.connected.value() == 0);
    for token in 0..100 {
        relay.ports[0].publish(json("lobby", &token.to_string()), Some(token));
    }
    broker.restart();
    let mut delivered = 0;
    let mut acked = 0;
    while acked < 100 {
        match relay.ports[0].next() {
            ToShard::Deliver(publication) => {
                assert_eq!(publication.payload, delivered.to_string());
                delivered += 1;
            }
            ToShard::Acked(token, AckLevel::Broker) => {
                assert_eq!(token, acked);
                acked += 1;
            }
            ToShard::Gap(None, GapReason::Broker) => {}
            other => panic!("{other:?}"),
        }
    }
    relay.ports[0].publish(json("lobby", "\"end\""), None);
    while relay.ports[0].payload() != "\"end\"" {
        delivered += 1;
    }
    assert_eq!(delivered, 100);
}

#[test]
fn the_queue_of_an_absent_broker_is_bounded_and_every_publisher_is_answered() {
    const MORE: u64 = 100;
    let mut relay = TestRelay::start(impatient(&format!("nats://127.0.0.1:{}", free_port())), 1);
    let sent = limits::PUBLISH_QUEUE_MESSAGES as u64 + MORE;
    for token in 0..sent {
        relay.ports[0].publish(json("lobby", "1"), Some(token));
    }
    let mut failed: Vec<u64> = (0..sent)
        .map(|_| match relay.ports[0].next() {
            ToShard::Failed(token, PublishError::Unavailable) => token,
            other => panic!("{other:?}"),
        })
        .collect();
    failed.sort_unstable();
    assert!(failed.into_iter().eq(0..sent), "each exactly once");
    assert_eq!(relay.dropped(DropReason::Unavailable), sent);
}

#[test]
fn a_silent_broker_refuses_joins_and_fails_publications_in_time() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(impatient(&format!("nats://{}", proxy.address())), 1);
    relay.ports[0].join("before");
    proxy.blackhole(true);
    relay.ports[0].subscribe("lobby");
    relay.ports[0].publish(json("before", "1"), Some(1));
    let mut refused = false;
    let mut failed = false;
    while !(refused && failed) {
        match relay.ports[0].next() {
            ToShard::Refused(room, JoinError::Unconfirmed) => refused = &*room == "lobby",
            ToShard::Failed(token, PublishError::Unavailable) => failed = token == 1,
            other => panic!("{other:?}"),
        }
    }
    proxy.blackhole(false);
    // The publication whose fate was not known arrives after all, and the room can be joined.
    assert_eq!(relay.ports[0].payload(), "1");
    relay.ports[0].join("lobby");
}

#[test]
fn one_byte_at_a_time_is_slow_and_nothing_else() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    relay.ports[0].join("before");
    proxy.one_byte_slices(true);
    relay.ports[0].join("lobby");
    for number in 0..50 {
        relay.ports[0].publish(json("lobby", &number.to_string()), None);
    }
    for number in 0..50 {
        assert_eq!(relay.ports[0].payload(), number.to_string());
    }
}

#[test]
fn garbage_from_the_broker_ends_the_connection_and_is_a_gap() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("lobby");
    for garbage in [&b"MSG tidegate.room.lobby one two\r\n"[..], b"\xff\xff\xff\r\n", b"HMSG a 1 9 3\r\nxxx\r\n"] {
        proxy.inject_garbage(garbage);
        backend.publish("tidegate.room.lobby", b"1");
        relay.ports[0].until(|item| matches!(item, ToShard::Gap(None, GapReason::Broker)));
        backend.publish("tidegate.room.lobby", b"2");
        assert_eq!(relay.ports[0].payload(), "2");
    }
}

#[test]
fn a_broker_that_is_about_to_leave_is_left_first() {
    let (first, second) = (Nats::start(), Nats::start());
    let mut options = options(&first.url());
    options.config.nats.url.push(second.url());
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("lobby");
    let (mut at_first, mut at_second) = (PlainClient::connect(first.address()), PlainClient::connect(second.address()));
    at_first.publish("tidegate.room.lobby", b"1");
    at_second.publish("tidegate.room.lobby", b"2");
    let (leaving, mut left) = if relay.ports[0].payload() == "1" { (&first, at_second) } else { (&second, at_first) };

    leaving.signal(Signal::SIGUSR2);

    assert!(matches!(relay.ports[0].next(), ToShard::Gap(None, GapReason::Broker)));
    assert!(leaving.is_running(), "the relay moved before it had to");
    left.publish("tidegate.room.lobby", b"3");
    assert_eq!(relay.ports[0].payload(), "3");
}

#[test]
fn stopping_without_a_broker_ends_and_fails_what_is_queued() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut silent = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    silent.ports[0].join("lobby");
    proxy.blackhole(true);
    let mut absent = TestRelay::start(options(&format!("nats://127.0.0.1:{}", free_port())), 1);
    for relay in [&mut silent, &mut absent] {
        relay.ports[0].publish(json("lobby", "1"), Some(1));
        relay.stop();
    }
    assert!(matches!(absent.ports[0].next(), ToShard::Failed(1, PublishError::Unavailable)));
    assert_eq!(absent.dropped(DropReason::Unavailable), 1);
    assert!(
        matches!(silent.ports[0].next(), ToShard::Failed(1, PublishError::Unavailable)),
        "it is not known whether it was taken"
    );
}

#[test]
fn why_the_broker_cannot_be_used_is_one_line_that_says_what_to_do() {
    support::log::capture();
    let broker = Nats::start_with(NatsOptions {
        arguments: ["--auth", "t0ken"].map(String::from).to_vec(),
        ..NatsOptions::default()
    });
    let nowhere = format!("127.0.0.1:{}", free_port());
    let _no_login = TestRelay::start(options(&broker.url()), 1);
    let _no_server = TestRelay::start(options(&format!("nats://{nowhere}")), 1);
    support::log::wait_for(&[&broker.url(), "asks for a login", "nats.token"]);
    support::log::wait_for(&[&nowhere, "refused", "check that nats-server runs there"]);
}

#[test]
fn a_broker_that_takes_less_than_clients_may_publish_is_told_with_the_cure_and_no_message_vanishes() {
    support::log::capture();
    let config = Some(String::from("max_payload: 8KB"));
    let broker = Nats::start_with(NatsOptions { config, ..NatsOptions::default() });
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    relay.ports[0].join("lobby");
    support::log::wait_for(&[
        "at most 8192 bytes",
        "set max_payload of nats-server to 66560",
        "limits.message_bytes to 7168",
    ]);
    let large = format!("{:?}", "x".repeat(9_000));

    relay.ports[0].publish(json("lobby", &large), Some(1));
    relay.ports[0].publish(json("lobby", &large), None);
    relay.ports[0].publish(json("lobby", "\"small\""), None);

    assert!(matches!(relay.ports[0].next(), ToShard::Failed(1, PublishError::TooLarge)));
    assert_eq!(relay.ports[0].payload(), "\"small\"", "the connection lives on");
    assert_eq!(relay.dropped(DropReason::TooLarge), 2, "each is counted");
    assert_eq!(relay.counters.messages_out.value(), 1);
}

/// A password, token or key was rotated: the broker and the file had the new one. The node had read the file once, at start, and
/// stayed away from its broker until it was restarted; its clients stayed, and were told nothing.
#[test]
fn a_rotated_secret_is_read_again_from_its_file_and_members_are_told_their_gap() {
    support::log::capture();
    let keys = [nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user()];
    let seeds = keys.each_ref().map(|key| key.seed().unwrap());
    let nkey = |key: &nkeys::KeyPair| format!("users: [ {{ nkey: {} }} ]", key.public_key());
    let ways: [(&str, [String; 2], [String; 2]); 3] = [
        (
            "password",
            ["old-secret", "new-secret"].map(String::from),
            ["old-secret", "new-secret"].map(|secret| format!("user: gw, password: \"{secret}\"")),
        ),
        (
            "token",
            ["old-token", "new-token"].map(String::from),
            ["old-token", "new-token"].map(|token| format!("token: \"{token}\"")),
        ),
        ("nkey", seeds, [nkey(&keys[0]), nkey(&keys[1])]),
    ];
    for (way, secrets, rules) in ways {
        let mut broker = Nats::start_with(NatsOptions {
            config: Some(String::from("authorization { include 'login.conf' }")),
            files: vec![(String::from("login.conf"), rules[0].clone()), (String::from("secret"), secrets[0].clone())],
            ..NatsOptions::default()
        });
        let file = broker.directory().join("secret");
        let mut options = options(&broker.url());
        let secret = Some(Secret::in_file(file.clone()).unwrap());
        let nats = &mut options.config.nats;
        match way {
            "password" => (nats.user, nats.password) = (Some(String::from("gw")), secret),
            "token" => nats.token = secret,
            _ => nats.nkey = secret,
        }
        let mut relay = TestRelay::start(options, 1);
        relay.ports[0].join("lobby");

        // The broker first: the node is refused until its file is there.
        broker.restart_with_files(vec![(String::from("login.conf"), rules[1].clone())]);
        let cure = format!("{} is read again at each attempt", file.display());
        support::log::wait_for(&[&broker.url(), "authorization violation", &cure]);
        assert_eq!(relay.counters.connected.value(), 0, "{way}");
        std::fs::write(&file, format!("{}\n", secrets[1])).unwrap();

        relay.ports[0].until(|item| matches!(item, ToShard::Gap(None, GapReason::Broker)));
        relay.ports[0].publish(json("lobby", "1"), None);
        assert_eq!(relay.ports[0].payload(), "1", "{way}");
        assert!(!support::log::captured().contains(&secrets[1]), "{way}");
    }
}

/// The file of a password was gone when the connection was lost, for a moment or for good: the log said that the broker refuses the
/// password, of which the broker had seen nothing.
#[test]
fn a_secrets_file_that_cannot_be_read_is_named_in_the_log_and_tried_again() {
    support::log::capture();
    let broker = Nats::start_with(NatsOptions {
        config: Some(String::from("authorization { user: gw, password: s3cret }")),
        files: vec![(String::from("secret"), String::from("s3cret"))],
        ..NatsOptions::default()
    });
    let proxy = Proxy::start(broker.address());
    let file = broker.directory().join("secret");
    let mut options = options(&format!("nats://{}", proxy.address()));
    options.config.nats.user = Some(String::from("gw"));
    options.config.nats.password = Some(Secret::in_file(file.clone()).unwrap());
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("lobby");
    std::fs::remove_file(&file).unwrap();
    proxy.reset();
    support::log::wait_for(&["nats.password_file", &file.display().to_string(), "cannot be read"]);
    std::fs::write(&file, "s3cret").unwrap();
    relay.ports[0].until(|item| matches!(item, ToShard::Gap(None, GapReason::Broker)));
}

/// nats-server refuses one subscription too many with an error that names none. The relay knew only those about permissions: it
/// confirmed the rooms all the same, and their members were deaf for ever.
#[test]
fn rooms_beyond_the_brokers_maximum_of_subscriptions_are_refused_and_the_others_hear() {
    const ROOMS: usize = 20;
    support::log::capture();
    let config = Some(String::from("max_subscriptions: 15"));
    let broker = Nats::start_with(NatsOptions { config, ..NatsOptions::default() });
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    let port = &mut relay.ports[0];
    (0..ROOMS).for_each(|room| port.subscribe(&format!("room-{room}")));
    let mut joined = Vec::new();
    for _ in 0..ROOMS {
        match port.next() {
            ToShard::Joined(room) => joined.push(room),
            ToShard::Refused(_, JoinError::Unconfirmed) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(joined.len(), 12, "three subscriptions are the relay's own: its inbox and the node channel");
    for room in joined {
        backend.publish(&format!("tidegate.room.{room}"), room.as_bytes());
        assert_eq!(port.payload(), &*room, "{room} was confirmed and is deaf");
    }
    support::log::wait_for(&["maximum subscriptions exceeded", "room-"]);
}

/// The same for an error that no version of nats-server has today.
#[test]
fn an_unknown_error_of_the_broker_confirms_no_room_before_it_is_proved_again() {
    const ROOMS: usize = 10;
    support::log::capture();
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    let mut backend = PlainClient::connect(broker.address());
    let port = &mut relay.ports[0];
    port.join("before");
    proxy.blackhole(true);
    (0..ROOMS).for_each(|room| port.subscribe(&format!("room-{room}")));
    port.publish(json("before", "1"), Some(1));
    // Before the first fence that comes back.
    proxy.inject_garbage(b"-ERR 'The Moon Is Full'\r\n");
    proxy.blackhole(false);
    let (mut joined, mut answered) = (0, false);
    while joined < ROOMS || !answered {
        match port.next() {
            ToShard::Joined(_) => joined += 1,
            ToShard::Failed(1, PublishError::Unavailable) => answered = true,
            ToShard::Deliver(publication) => assert_eq!(&*publication.room, "before"),
            other => panic!("{other:?}"),
        }
    }
    support::log::wait_for(&[
        "the broker says: The Moon Is Full",
        "subscribed again before they are confirmed",
        "room-",
    ]);
    for room in (0..ROOMS).map(|room| format!("room-{room}")).chain([String::from("before")]) {
        for number in ["1", "2"] {
            backend.publish(&format!("tidegate.room.{room}"), number.as_bytes());
            assert_eq!(port.payload(), number, "once");
        }
    }
}

/// A cluster advertises addresses that this node cannot reach. The broker was away for 0.3 s; the node waited 5 s for each of
/// those, its publications were given up, and the log named the address that worked.
#[test]
fn an_advertised_address_that_never_answers_does_not_keep_the_node_from_its_own_broker() {
    support::log::capture();
    let silent = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let silent_address = silent.local_addr().unwrap();
    let routes = [free_port(), free_port()];
    let member = |own: usize, other: usize, more: &str| NatsOptions {
        config: Some(format!(
            "server_name: n{own}\n{more}\ncluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [\"nats-route://127.0.0.1:{}\"] }}",
            routes[own], routes[other]
        )),
        ..NatsOptions::default()
    };
    let mut first = Nats::start_with(member(0, 1, ""));
    let _second = Nats::start_with(member(1, 0, &format!("client_advertise: \"{silent_address}\"")));
    wait_until_advertised(&first, &silent_address.to_string());
    let mut relay = TestRelay::start(options(&first.url()), 1);
    relay.ports[0].join("lobby");
    for round in 0..3 {
        first.kill();
        eventually("the loss is seen", || relay.counters.connected.value() == 0);
        relay.ports[0].publish(json("lobby", "1"), Some(round));
        support::log::wait_for(&[&first.url(), "refused", &silent_address.to_string(), "no answer within"]);
        first.restart();
        // It is given up after limits.fence_deadline, the time that one attempt at the silent address used to take.
        let acked = |item: &ToShard| match item {
            ToShard::Acked(id, AckLevel::Broker) => *id == round,
            ToShard::Failed(..) => panic!("the node did not come back in time"),
            _ => false,
        };
        relay.ports[0].until(acked);
        wait_until_advertised(&first, &silent_address.to_string());
    }
}

/// Waits until a server tells its clients this address of another.
fn wait_until_advertised(server: &Nats, address: &str) {
    eventually("the other server is advertised", || {
        let stream = std::net::TcpStream::connect(server.address()).expect("the server runs");
        let mut info = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut info)
            .expect("the server begins with INFO");
        info.contains(address)
    });
}

/// A broker stopped answering; ws_relay_rtt_seconds stood at the 0.2 ms of its last answer.
#[test]
fn the_round_trip_metric_grows_while_the_broker_is_silent_and_an_idle_node_asks() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    relay.ports[0].join("lobby");
    let answered = relay.counters.rtt_ns.value();
    proxy.blackhole(true);
    eventually("the time without an answer shows", || relay.counters.rtt_ns.value() > answered + 1_000_000_000);
    proxy.blackhole(false);
    eventually("the broker answers again", || relay.counters.rtt_ns.value() < 1_000_000_000 + answered);
}

/// The broker's `max_payload` was below `limits.message_bytes`. A message between the two vanished where its client asked for no
/// acknowledgement, and was `unavailable` where it did: the client sent it again for ever.
#[test]
fn a_message_over_the_max_payload_of_the_broker_is_too_large_at_once_until_the_broker_takes_more() {
    const CLIENT: ConnectionId = ConnectionId { node: 1, shard: 0, index: 2, generation: 3 };
    let config = |size: &str| vec![(String::from("size.conf"), format!("max_payload: {size}"))];
    let options_of = NatsOptions {
        config: Some(String::from("include 'size.conf'")),
        files: config("8KB"),
        ..NatsOptions::default()
    };
    let mut broker = Nats::start_with(options_of);
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    relay.ports[0].join("lobby");
    assert_eq!(relay.counters.message_bytes.value(), 8192 - ENVELOPE_BYTES as u64);
    let mut large = json("lobby", &format!("{:?}", "x".repeat(9_000)));
    large.from = Some(CLIENT);

    relay.ports[0].publish(large.clone(), Some(1));
    assert!(matches!(relay.ports[0].next(), ToShard::Failed(1, PublishError::TooLarge)));
    for _ in 0..100 {
        relay.ports[0].publish(large.clone(), None);
    }
    assert!(matches!(relay.ports[0].next(), ToShard::NotPublished(CLIENT, PublishError::TooLarge)));
    eventually("each is counted", || relay.dropped(DropReason::TooLarge) == 101);
    assert_eq!(relay.counters.messages_out.value(), 0, "none reached the broker");

    broker.restart_with_files(config("1MB"));
    relay.ports[0].until(|item| matches!(item, ToShard::Gap(None, GapReason::Broker)));
    assert_eq!(relay.counters.message_bytes.value(), limits::MESSAGE_BYTES as u64);
    relay.ports[0].publish(large.clone(), Some(2));
    relay.ports[0].until(|item| matches!(item, ToShard::Acked(2, AckLevel::Broker)));
}

/// A client published without asking for an acknowledgement while the broker was away. After five seconds its message was dropped
/// and counted, and neither the client nor any member was told.
#[test]
fn a_publication_without_an_acknowledgement_that_waited_too_long_for_a_broker_is_told_to_its_client() {
    const CLIENT: ConnectionId = ConnectionId { node: 1, shard: 0, index: 2, generation: 3 };
    let mut relay = TestRelay::start(impatient(&format!("nats://127.0.0.1:{}", free_port())), 1);
    let mut publication = json("lobby", "1");
    publication.from = Some(CLIENT);
    relay.ports[0].publish(publication, None);
    assert!(matches!(relay.ports[0].next(), ToShard::NotPublished(CLIENT, PublishError::Unavailable)));
    assert_eq!(relay.dropped(DropReason::Unavailable), 1);
}

#[test]
fn settings_that_cannot_work_are_told_at_start() {
    let wrong = |change: &dyn Fn(&mut tidegate::gateway::config::Nats)| {
        let mut options = options("nats://127.0.0.1:4222");
        change(&mut options.config.nats);
        TestRelay::try_start(options, 1).err().expect("it must not start").to_string()
    };
    let missing = std::path::PathBuf::from("/nowhere/user.creds");
    assert!(wrong(&|nats| nats.url = vec![String::from("http://h:1")]).contains("write nats://HOST:4222"));
    assert!(wrong(&|nats| nats.credentials = Some(missing.clone())).contains("nats.credentials: cannot read /nowhere"));
    assert!(wrong(&|nats| nats.ca_file = Some(missing.clone())).contains("nats.ca_file: cannot read /nowhere"));
}
