//! The relay on a real nats-server: what it promises while the broker works.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use support::nats::{Nats, NatsOptions, PlainClient};
use support::operator;
use support::ports::{TestRelay, json, options, options_with};
use support::proxy::Proxy;
use support::tls::Certificate;
use tidegate_core::counters::DropReason;
use tidegate_core::limits::Limits;
use tidegate_core::model::ConnectionId;
use tidegate_core::model::{AckLevel, GapReason, Kind};
use tidegate_core::relay::{JoinError, PublishError, ToShard};

#[test]
fn a_message_crosses_two_nodes_and_comes_back_through_the_broker() {
    let broker = Nats::start();
    let mut here = TestRelay::start(options(&broker.url()), 2);
    let mut there = TestRelay::start(options(&broker.url()), 1);
    here.ports[0].join("lobby");
    here.ports[1].join("lobby");
    there.ports[0].join("lobby");

    here.ports[0].publish(json("lobby", "{\"n\":1}"), None);

    for port in there.ports[..1].iter_mut().chain(&mut here.ports[..2]) {
        assert_eq!(port.payload(), "{\"n\":1}");
    }
    assert_eq!(here.counters.subscriptions.value(), 1, "two shards share one subscription");
    assert_eq!((here.counters.connected.value(), here.counters.was_connected.value()), (1, 1));
}

#[test]
fn every_node_sees_the_messages_of_one_publisher_in_order() {
    const MESSAGES: usize = 2000;
    let broker = Nats::start();
    let mut here = TestRelay::start(options(&broker.url()), 1);
    let mut there = TestRelay::start(options(&broker.url()), 1);
    here.ports[0].join("lobby");
    there.ports[0].join("lobby");
    for number in 0..MESSAGES {
        here.ports[1].publish(json("lobby", &number.to_string()), None);
    }
    for number in 0..MESSAGES {
        assert_eq!(here.ports[0].payload(), number.to_string());
        assert_eq!(there.ports[0].payload(), number.to_string());
    }
}

#[test]
fn all_that_is_known_of_a_publication_crosses_the_broker() {
    let broker = Nats::start();
    let mut here = TestRelay::start(options(&broker.url()), 1);
    let mut there = TestRelay::start(options(&broker.url()), 1);
    there.ports[0].join("lobby");
    let sender = ConnectionId { node: 0xdead_beef, shard: 7, index: 12, generation: 3 };
    for (kind, payload) in [(Kind::Json, &b"[1]"[..]), (Kind::Text, b"\"text\""), (Kind::Binary, b"\x00\xff")] {
        for (from, echo) in [(None, true), (Some(sender), true), (Some(sender), false)] {
            let mut sent = json("lobby", "");
            sent.kind = kind;
            sent.payload = bytes::Bytes::copy_from_slice(payload);
            (sent.from, sent.echo, sent.time_unix_ns) = (from, echo, 1_700_000_000_000_000_001);
            here.ports[1].publish(sent.clone(), None);
            assert_eq!(*there.ports[0].delivery(), sent);
        }
    }
}

#[test]
fn a_gateway_says_one_header_that_a_backend_can_read() {
    let broker = Nats::start();
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    backend.subscribe("tidegate.room.>");
    let mut sent = json("a.b", "{}");
    sent.time_unix_ns = 5;
    relay.ports[0].publish(sent, None);
    let message = backend.next();
    assert_eq!((message.subject.as_str(), message.payload.as_slice()), ("tidegate.room.a.b", &b"{}"[..]));
    assert!(message.headers.contains("Tidegate: v1; time=5; kind=json\r\n"), "{}", message.headers);
}

#[test]
fn a_backend_needs_no_header_and_garbage_in_one_is_ignored() {
    let broker = Nats::start();
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("lobby");
    let mut kinds = |header: Option<&str>, payload: &[u8]| {
        match header {
            Some(header) => backend.publish_with_header("tidegate.room.lobby", header, payload),
            None => backend.publish("tidegate.room.lobby", payload),
        }
        let got = relay.ports[0].delivery();
        assert_eq!(got.payload, payload);
        assert!(got.time_unix_ns > 1_600_000_000_000_000_000, "the time of arrival stands in");
        got.kind
    };
    assert_eq!(kinds(None, b"{\"price\": 17}"), Kind::Json);
    assert_eq!(kinds(None, b"hello"), Kind::Text);
    assert_eq!(kinds(None, b"\xff\xfe"), Kind::Binary);
    assert_eq!(kinds(Some("v1; kind=binary"), b"17"), Kind::Binary);
    assert_eq!(kinds(Some("v9; kind=binary; \u{1f980}; time=x; from=;;;"), b"17"), Kind::Json);
    assert_eq!(kinds(Some(""), b"17"), Kind::Json);
}

/// A backend announced JSON and sent `NaN`; members got a string, and the operator heard nothing.
#[test]
fn a_backends_message_that_is_called_json_and_is_none_is_counted_and_logged_once_and_not_delivered() {
    support::log::capture();
    let broker = Nats::start();
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("prices");
    for _ in 0..100 {
        backend.publish_with_header("tidegate.room.prices", "v1; kind=json", b"NaN");
    }
    let headers = "NATS/1.0\r\nContent-Type: application/json\r\n\r\n";
    let hpub = format!("HPUB tidegate.room.prices {} {}\r\n{headers}NaN\r\n", headers.len(), headers.len() + 3);
    backend.write(hpub.as_bytes());
    // Valid, and no parser of the members' would read the message that holds it.
    let deep = "[".repeat(129) + &"]".repeat(129);
    for unreadable in ["\"\\ud800\"", &deep] {
        backend.publish_with_header("tidegate.room.prices", "v1; kind=json", unreadable.as_bytes());
    }
    backend.publish("tidegate.room.prices", b"\xef\xbb\xbf17");
    assert_eq!(relay.ports[0].payload(), "17", "without its byte order mark, and no gap before it");
    assert_eq!(relay.dropped(DropReason::BadMessage), 103);
    let line = "a message into room prices is called JSON by its sender, but it is no valid JSON";
    support::log::wait_for(&[line]);
    assert_eq!(support::log::captured().matches(line).count(), 1);
}

#[test]
fn after_joined_nothing_is_missed_however_far_away_the_broker_is() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("first");
    proxy.delay(Duration::from_millis(500));
    for room in ["a", "b", "c"] {
        relay.ports[0].join(room);
        backend.publish(&format!("tidegate.room.{room}"), room.as_bytes());
        assert_eq!(relay.ports[0].payload(), room);
    }
    assert!(relay.counters.rtt_ns.value() >= 1_000_000_000, "the fence made the round trip");
}

#[test]
fn many_joins_at_once_share_fences() {
    const ROOMS: usize = 3000;
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut relay = TestRelay::start(options(&format!("nats://{}", proxy.address())), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("first");
    proxy.delay(Duration::from_millis(50));
    backend.subscribe("tidegate.inbox.>");
    for room in 0..ROOMS {
        relay.ports[0].subscribe(&format!("room-{room}"));
    }
    for _ in 0..ROOMS {
        assert!(matches!(relay.ports[0].next(), ToShard::Joined(_)));
    }
    backend.publish("tidegate.inbox.end", b"end");
    let fences = std::iter::from_fn(|| Some(backend.next())).take_while(|message| message.payload != b"end").count();
    assert!(fences < ROOMS / 10, "{fences} fences for {ROOMS} joins");
}

#[test]
fn an_acknowledgement_says_broker_and_follows_the_message() {
    let broker = Nats::start();
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    backend.subscribe("tidegate.room.lobby");
    for token in 0..100 {
        relay.ports[0].publish(json("lobby", "1"), Some(token));
    }
    for token in 0..100 {
        let answer = relay.ports[0].next();
        assert!(matches!(answer, ToShard::Acked(got, AckLevel::Broker) if got == token), "{token}: {answer:?}");
        assert_eq!(backend.next().payload, b"1");
    }
}

#[test]
fn a_backends_message_over_the_limit_is_told_and_not_delivered() {
    let broker = Nats::start();
    let limits = Limits { message_bytes: 100, ..Limits::default() };
    let mut relay = TestRelay::start(options_with(&broker.url(), limits), 2);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("lobby");
    relay.ports[1].join("elsewhere");
    backend.publish("tidegate.room.lobby", &[b'1'; 101]);
    backend.publish("tidegate.room.lobby", &[b'1'; 100]);
    let gap = relay.ports[0].next();
    assert!(matches!(&gap, ToShard::Gap(Some(rooms), GapReason::TooLarge) if **rooms == ["lobby".into()]), "{gap:?}");
    assert_eq!(relay.ports[0].payload().len(), 100);
    assert_eq!(relay.dropped(DropReason::TooLarge), 1);
    assert!(relay.ports[1].poll().is_none(), "another room is not concerned");
}

#[test]
fn a_shard_that_does_not_read_gets_a_gap_and_its_neighbour_gets_everything_in_order() {
    const MESSAGES: usize = 1000;
    let broker = Nats::start();
    let limits = Limits { mailbox_messages: 16, ..Limits::default() };
    let mut relay = TestRelay::start(options_with(&broker.url(), limits), 2);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("lobby");
    relay.ports[1].join("lobby");
    for number in 0..MESSAGES {
        backend.publish("tidegate.room.lobby", number.to_string().as_bytes());
        assert_eq!(relay.ports[1].payload(), number.to_string());
    }
    let before = relay.ports[0].until(|item| matches!(item, ToShard::Gap(Some(_), GapReason::Mailbox)));
    assert_eq!(before.len(), 16);
    backend.publish("tidegate.room.lobby", b"\"on\"");
    assert_eq!(relay.ports[0].payload(), "\"on\"");
}

#[test]
fn a_burst_does_not_overflow_the_clients_queue() {
    const MESSAGES: usize = 200_000;
    let broker = Nats::start();
    let limits = Limits { mailbox_messages: MESSAGES + 1, ..Limits::default() };
    let mut relay = TestRelay::start(options_with(&broker.url(), limits), 1);
    relay.ports[0].join("lobby");
    let mut backend = PlainClient::connect(broker.address());
    let burst: Vec<u8> =
        (0..MESSAGES).flat_map(|number| format!("PUB tidegate.room.lobby 6\r\n{number:06}\r\n").into_bytes()).collect();
    backend.write(&burst);
    for number in 0..MESSAGES {
        assert_eq!(relay.ports[0].payload(), format!("{number:06}"));
    }
    assert_eq!(relay.dropped(DropReason::Broker), 0);
}

#[test]
fn a_left_room_is_unsubscribed_after_the_linger_and_clients_that_reconnect_within_it_find_it() {
    let broker = Nats::start();
    let limits = Limits { linger: Duration::from_millis(300), ..Limits::default() };
    let mut relay = TestRelay::start(options_with(&broker.url(), limits), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("lobby");
    relay.ports[0].leave("lobby");
    relay.ports[0].join("lobby");
    backend.publish("tidegate.room.lobby", b"1");
    assert_eq!(relay.ports[0].payload(), "1");

    relay.ports[0].leave("lobby");
    support::ports::eventually("the room is unsubscribed", || relay.counters.subscriptions.value() == 0);
    relay.ports[0].join("lobby");
    backend.publish("tidegate.room.lobby", b"2");
    assert_eq!(relay.ports[0].payload(), "2", "once, and from the new subscription");
    backend.publish("tidegate.room.lobby", b"3");
    assert_eq!(relay.ports[0].payload(), "3");
}

#[test]
fn what_is_queued_when_the_relay_stops_reaches_the_broker() {
    const MESSAGES: usize = 5000;
    let broker = Nats::start();
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    backend.subscribe("tidegate.room.lobby");
    relay.ports[0].join("lobby");
    for number in 0..MESSAGES {
        relay.ports[1].publish(json("lobby", &number.to_string()), None);
    }
    relay.stop();
    for number in 0..MESSAGES {
        assert_eq!(backend.next().payload, number.to_string().into_bytes());
    }
}

#[test]
fn a_forbidden_room_is_refused_and_a_forbidden_publication_fails() {
    support::log::capture();
    let permissions = "publish: { deny: [\"tidegate.room.closed\"] }, subscribe: { deny: [\"tidegate.room.closed\"] }";
    let config = format!("authorization {{ users: [ {{ user: a, password: b, permissions: {{ {permissions} }} }} ] }}");
    let broker = Nats::start_with(NatsOptions { config: Some(config), ..NatsOptions::default() });
    let mut options = options(&broker.url());
    options.config.nats.user = Some(String::from("a"));
    options.config.nats.password = Some("b".into());
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].subscribe("closed");
    assert!(matches!(relay.ports[0].next(), ToShard::Refused(room, JoinError::Unconfirmed) if &*room == "closed"));
    relay.ports[0].publish(json("closed", "1"), Some(1));
    assert!(matches!(relay.ports[0].next(), ToShard::Failed(1, PublishError::Unavailable)));
    relay.ports[0].join("open");
    relay.ports[0].publish(json("open", "1"), Some(2));
    assert_eq!(relay.ports[0].payload(), "1");
    assert!(matches!(relay.ports[0].next(), ToShard::Acked(2, AckLevel::Broker)));
    support::log::wait_for(&["tidegate.room.closed", "allow this user to publish and subscribe tidegate.>"]);
}

#[test]
fn a_room_that_the_brokers_permissions_take_back_is_revoked_and_not_joined_until_they_allow_it() {
    let rules = |denied: &str| {
        format!("users: [ {{ user: a, password: b, permissions: {{ subscribe: {{ deny: [\"{denied}\"] }} }} }} ]")
    };
    let broker = Nats::start_with(NatsOptions {
        config: Some(String::from("authorization { include 'users.conf' }")),
        files: vec![(String::from("users.conf"), rules("nothing"))],
        ..NatsOptions::default()
    });
    let allow_all_but = |denied: &str| {
        std::fs::write(broker.directory().join("users.conf"), rules(denied)).unwrap();
        broker.signal(Signal::SIGHUP);
    };
    let mut options = options(&broker.url());
    options.config.nats.user = Some(String::from("a"));
    options.config.nats.password = Some("b".into());
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("private");
    relay.ports[0].join("open");

    allow_all_but("tidegate.room.private");
    relay.ports[0].until(|item| matches!(item, ToShard::Revoked(room) if &**room == "private"));
    relay.ports[0].subscribe("private");
    let refused = |item: &ToShard| matches!(item, ToShard::Refused(room, _) if &**room == "private");
    relay.ports[0].until(refused);

    allow_all_but("nothing");
    loop {
        relay.ports[0].subscribe("private");
        match relay.ports[0].next() {
            ToShard::Joined(room) if &*room == "private" => break,
            item => assert!(refused(&item), "{item:?}"),
        }
    }
    for room in ["open", "private"] {
        relay.ports[0].publish(json(room, "1"), None);
        relay.ports[0].until(|item| matches!(item, ToShard::Deliver(publication) if &*publication.room == room));
    }
}

#[test]
fn a_login_in_the_url_is_used_and_never_logged() {
    support::log::capture();
    let broker = Nats::start_with(NatsOptions {
        arguments: ["--user", "gate", "--pass", "s3cr3t-of-the-url"].map(String::from).to_vec(),
        ..NatsOptions::default()
    });
    let url = format!("nats://gate:s3cr3t-of-the-url@{}", broker.address());
    let mut relay = TestRelay::start(options(&url), 1);
    relay.ports[0].join("lobby");
    let wrong = format!("nats://gate:wr0ng-s3cr3t@{}", broker.address());
    let _refused = TestRelay::start(options(&wrong), 1);
    support::log::wait_for(&[&broker.address().to_string(), "does not accept nats.user with nats.password"]);
    let log = support::log::captured();
    assert!(!log.contains("s3cr3t"), "{log}");
}

#[test]
fn a_token_opens_the_broker() {
    let broker = Nats::start_with(NatsOptions {
        arguments: ["--auth", "t0ken"].map(String::from).to_vec(),
        ..NatsOptions::default()
    });
    let mut options = options(&broker.url());
    options.config.nats.token = Some("t0ken".into());
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("lobby");
}

#[test]
fn a_credentials_file_opens_a_broker_in_operator_mode_and_another_users_does_not() {
    use nkeys::KeyPair;
    support::log::capture();
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let broker = operator::broker(&account);
    let credentials = |issuer: &KeyPair, name: &str| {
        let mut options = options(&broker.url());
        options.config.nats.credentials = Some(operator::credentials_file(&broker, issuer, &user, name, None));
        options
    };
    let mut relay = TestRelay::start(credentials(&account, "known.creds"), 1);
    relay.ports[0].join("lobby");
    let _refused = TestRelay::start(credentials(&KeyPair::new_account(), "unknown.creds"), 1);
    support::log::wait_for(&[&broker.address().to_string(), "it does not accept the user of nats.credentials"]);
    let log = support::log::captured();
    assert!(!log.contains(&user.seed().unwrap()), "{log}");
}

#[test]
fn a_broker_behind_tls_is_used_if_its_certificate_is_known_and_named_if_not() {
    support::log::capture();
    let known = Certificate::new();
    let files =
        vec![(String::from("cert.pem"), known.certificate.clone()), (String::from("key.pem"), known.key.clone())];
    let config = Some(String::from("tls { cert_file: \"DIRECTORY/cert.pem\", key_file: \"DIRECTORY/key.pem\" }"));
    let broker = Nats::start_with(NatsOptions { config, files, ..NatsOptions::default() });
    let trusting = |certificate: &Certificate| {
        let mut options = options(&format!("tls://{}", broker.address()));
        options.config.nats.ca_file = Some(certificate.file());
        options
    };
    let mut relay = TestRelay::start(trusting(&known), 1);
    relay.ports[0].join("lobby");
    relay.ports[0].publish(json("lobby", "1"), None);
    assert_eq!(relay.ports[0].payload(), "1");

    let other = Certificate::new();
    let _distrusting = TestRelay::start(trusting(&other), 1);
    support::log::wait_for(&[&broker.address().to_string(), "certificate", "check nats.ca_file"]);
}

#[test]
fn a_broker_is_found_by_its_ipv6_address() {
    let broker = Nats::start_with(NatsOptions { ipv6: true, ..NatsOptions::default() });
    let mut relay = TestRelay::start(options(&broker.url()), 1);
    relay.ports[0].join("lobby");
}
