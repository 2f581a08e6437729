//! Bad requests inside good messages, end to end: input, expected error code, expected metric label; and floods of good ones.
//! A client that is wrong is told and stays; what it did leaves nothing behind (G6, G12).

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::bad_frames::{close_code, masked, open};
use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    every_bad_name_of_a_room_is_refused_wherever_it_is_said
    a_room_that_injects_reaches_no_broker
    a_million_joins_are_as_many_rooms_as_a_client_may_have
    ten_thousand_messages_at_once_are_cut_to_the_rate_and_told
    a_message_over_the_limit_is_closed_with_1009_and_reaches_no_member
    joining_and_leaving_twice_is_once
    leaving_while_messages_fly_neither_hangs_nor_doubles
    a_connection_at_a_slot_that_was_freed_gets_nothing_of_its_predecessor
    what_was_bad_leaves_nothing_behind
}

crate::long_on_both_drivers! {
    a_hundred_thousand_messages_at_once_are_cut_to_the_rate_and_told
}

/// Names that name no room: empty, huge, wildcards, white space, control characters, no ASCII, reserved, empty tokens.
fn bad_rooms() -> Vec<String> {
    let mut names: Vec<String> =
        ["", "a.*", "*", "a.>", ">", "a b", " ", "a\tb", "a\r\nPUB x 0\r\n\r\n", "a\0b", "é", "\u{202e}a"]
            .map(String::from)
            .to_vec();
    names.extend(["$SYS", "$JS.API", ".", "a.", ".a", "a..b", "a\"b", "a\\b", "\u{7f}"].map(String::from));
    names.extend([201, 5_000, 60_000].map(|length| "r".repeat(length)));
    names
}

fn percent_encoded(name: &str) -> String {
    name.bytes().map(|octet| format!("%{octet:02X}")).collect()
}

fn every_bad_name_of_a_room_is_refused_wherever_it_is_said(driver: Driver) {
    let gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let mut client = Client::connect(gateway.port);
    let mut told = 0.0;
    for name in bad_rooms() {
        for kind in ["join", "leave", "message"] {
            client.say(json!({"type": kind, "roomId": name, "content": 1, "ref": told}));
            let error = client.json();
            assert_eq!((&error["code"], &error["ref"]), (&json!("bad-room"), &json!(told)), "{kind} {name:?}");
            told += 1.0;
        }
        let encoded = percent_encoded(&name);
        if encoded.len() < 1_000 && !name.is_empty() {
            let status = Client::try_connect(gateway.port, &format!("/raw/{encoded}")).err();
            assert!(matches!(status, Some(400 | 404)), "{name:?}: {status:?}");
            assert_eq!(gateway.publish(&encoded, "1"), 400, "{name:?}");
        }
    }
    for room in [json!(5), json!(null), json!(["a"]), json!({"a": 1}), json!(true)] {
        client.say(json!({"type": "join", "roomId": room}));
        assert!(matches!(&*client.error(), "bad-room" | "bad-message"), "{room}");
        told += 1.0;
    }
    assert_eq!(gateway.metrics().value("ws_messages_total{direction=\"outbound\",type=\"error\"}"), told);
    assert_eq!(gateway.metrics().value("ws_rooms_active"), 0.0);
    client.join("served");
    println!("bad inputs: {told} names of rooms");
}

fn a_room_that_injects_reaches_no_broker(driver: Driver) {
    let broker = crate::support::nats::Nats::start();
    let gateway = Gateway::start(driver, &["--nats-url", &broker.url(), "--message-rate", "0"]);
    let mut spy = crate::support::nats::PlainClient::connect(broker.address());
    spy.subscribe(">");
    let mut client = Client::connect(gateway.port);
    for name in bad_rooms() {
        client.publish(&name, json!("injected"));
        assert_eq!(client.error(), "bad-room");
    }
    client.publish("fine", json!("\r\nPUB tidegate.room.other 1\r\nx\r\n"));
    loop {
        let message = spy.next();
        assert!(!message.payload.starts_with(b"x"), "{message:?}");
        if message.subject.starts_with("tidegate.room.") {
            assert_eq!(message.subject, "tidegate.room.fine");
            break;
        }
    }
}

fn a_million_joins_are_as_many_rooms_as_a_client_may_have(driver: Driver) {
    const JOINS: usize = 1_000_000;
    const PIECE: usize = 2_000;
    let mut gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/");
    let mut reader = stream.try_clone().unwrap();
    // Somebody has to read the answers, or it is a slow reader.
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap_or(0));
    let before = gateway.memory_bytes();
    for piece in 0..JOINS / PIECE {
        let mut octets = Vec::with_capacity(PIECE * 64);
        for number in piece * PIECE..(piece + 1) * PIECE {
            octets.extend(masked(0x81, format!("{{\"type\":\"join\",\"roomId\":\"r{number}\"}}").as_bytes()));
        }
        stream.write_all(&octets).unwrap();
    }
    gateway.wait_for("ws_messages_total{direction=\"inbound\",type=\"join\"}", JOINS as f64);
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("ws_rooms_active"), 128.0);
    assert_eq!(metrics.value("ws_messages_total{direction=\"outbound\",type=\"join\"}"), 128.0);
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "a million joins took {grown} bytes");
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    reading.join().unwrap();
    gateway.wait_for("ws_rooms_active", 0.0);
}

fn ten_thousand_messages_at_once_are_cut_to_the_rate_and_told(driver: Driver) {
    messages_at_once_are_cut_to_the_rate_and_told(driver, 10_000);
}

fn a_hundred_thousand_messages_at_once_are_cut_to_the_rate_and_told(driver: Driver) {
    messages_at_once_are_cut_to_the_rate_and_told(driver, 100_000);
}

fn messages_at_once_are_cut_to_the_rate_and_told(driver: Driver, messages: usize) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("lobby"));
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/");
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap_or(0));
    // It is read ten times a second, 8 KiB each, once it is over its rate: short messages, or they take a minute.
    let piece = masked(0x81, b"{\"type\":\"ping\"}").repeat(1_000);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || (0..messages / 1_000).for_each(|_| writer.write_all(&piece).unwrap()));
    let dropped = "ws_dropped_total{reason=\"rate-limited\"}";
    let taken = "ws_messages_total{direction=\"inbound\",type=\"ping\"}";
    gateway.wait("some are dropped", |gateway| gateway.metrics().value(dropped) > 0.0);
    let [one, two] = &mut pair;
    one.publish("lobby", json!("beside it"));
    assert_eq!(two.content("lobby"), "beside it");
    gateway.wait("all are judged", |gateway| {
        let metrics = gateway.metrics();
        metrics.value(dropped) + metrics.value(taken) == messages as f64
    });
    let metrics = gateway.metrics();
    let count = metrics.value(taken) as usize;
    assert!((200..messages / 2).contains(&count), "{count} taken");
    assert_eq!(metrics.value("ws_messages_total{direction=\"outbound\",type=\"ping\"}") as usize, count);
    assert!(metrics.value("ws_messages_total{direction=\"outbound\",type=\"error\"}") >= 1.0, "nobody was told");
    writing.join().unwrap();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    reading.join().unwrap();
}

fn a_message_over_the_limit_is_closed_with_1009_and_reaches_no_member(driver: Driver) {
    // The gateway reads no close frame behind a message that it refused to read.
    let mut gateway = Gateway::on(driver).config("[limits]\nclose_deadline = \"1s\"").start();
    let mut member = Client::connect(gateway.port);
    member.join("lobby");
    let mut large = Client::connect(gateway.port);
    large.try_say(&json!({"type": "message", "roomId": "lobby", "content": "x".repeat(70_000)}));
    assert!(matches!(large.end(), End::Closed(1009, _)));
    gateway.wait_for("ws_closes_total{reason=\"too-big\"}", 1.0);
    assert_eq!(gateway.publish("lobby", "\"marker\""), 202);
    assert_eq!(member.content("lobby"), "marker");
}

fn joining_and_leaving_twice_is_once(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let mut client = Client::connect(gateway.port);
    for round in 0..200 {
        for (request, answer) in [("join", "joined"), ("join", "joined"), ("leave", "left"), ("leave", "left")] {
            client.say(json!({"type": request, "roomId": "lobby", "ref": round}));
            assert_eq!(client.json(), json!({"type": answer, "roomId": "lobby", "ref": round}));
        }
    }
    gateway.wait_for("ws_rooms_active", 0.0);
    client.join("lobby");
    client.join("lobby");
    assert_eq!(gateway.publish("lobby", "1"), 202);
    assert_eq!(gateway.publish("lobby", "2"), 202);
    assert_eq!([client.content("lobby"), client.content("lobby")], [1, 2]);
}

fn leaving_while_messages_fly_neither_hangs_nor_doubles(driver: Driver) {
    const MEMBERS: usize = 60;
    let coming_and_going = AtomicUsize::new(MEMBERS / 2);
    let gateway = Gateway::start(driver, &["--message-rate", "0", "--connection-rate", "0"]);
    let mut members: Vec<Client> = (0..MEMBERS).map(|_| Client::connect(gateway.port)).collect();
    members.iter_mut().for_each(|member| member.join("lobby"));
    std::thread::scope(|scope| {
        for (number, member) in members.iter_mut().enumerate() {
            let coming_and_going = &coming_and_going;
            scope.spawn(move || {
                if number % 2 == 0 {
                    stay(member);
                } else {
                    let _gone = CountedDown(coming_and_going);
                    come_and_go(member);
                }
            });
        }
        let mut number = 0;
        while coming_and_going.load(Ordering::Relaxed) > 0 {
            assert_eq!(gateway.publish("lobby", &number.to_string()), 202);
            number += 1;
        }
        assert_eq!(gateway.publish("lobby", "\"end\""), 202);
    });
}

/// One less with the value's end, also where its thread fails.
struct CountedDown<'a>(&'a AtomicUsize);

impl Drop for CountedDown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hears all messages, once and in order.
fn stay(member: &mut Client) {
    for number in 0.. {
        let content = member.content("lobby");
        if content == "end" {
            return;
        }
        assert_eq!(content, number);
    }
}

/// Leaves and joins again and again. A membership hears consecutive messages, at least one; between `left` and `joined` nothing
/// comes, and nothing comes twice.
fn come_and_go(member: &mut Client) {
    let mut next = 0;
    for membership in 0..30 {
        let first = member.content("lobby").as_u64().unwrap();
        assert!(first >= next, "{first} comes again in membership {membership}");
        next = first + 1;
        member.say(json!({"type": "leave", "roomId": "lobby"}));
        loop {
            let value = member.json();
            match value["type"].as_str() {
                Some("left") => break,
                Some("message") => assert_eq!(value["content"], next, "a hole in membership {membership}"),
                _ => panic!("{value}"),
            }
            next += 1;
        }
        member.say(json!({"type": "join", "roomId": "lobby"}));
        assert_eq!(member.json()["type"], "joined", "nothing comes before it");
    }
}

fn a_connection_at_a_slot_that_was_freed_gets_nothing_of_its_predecessor(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--shards", "1", "--connection-rate", "0"]);
    let index = |client: &Client| client.id[10..16].to_owned();
    let mut ids = std::collections::BTreeSet::new();
    let mut reused = false;
    let mut before: Option<String> = None;
    for round in 0..50 {
        let mut client = Client::connect(gateway.port);
        assert!(ids.insert(client.id.clone()), "{} is another connection", client.id);
        reused |= before.replace(index(&client)) == Some(index(&client));
        // Of the room that the one before was in, and of what it published, nothing.
        assert_eq!(gateway.publish("old", &round.to_string()), 202);
        client.join("old");
        client.publish("old", json!("mine"));
        assert_eq!(client.content("old"), "mine");
        drop(client);
        gateway.wait_for("ws_sockets", 0.0);
    }
    assert!(reused, "the index is used again");
}

fn what_was_bad_leaves_nothing_behind(driver: Driver) {
    let args = ["--connection-rate", "0", "--message-rate", "0"];
    let mut gateway = Gateway::on(driver).args(&args).config("[limits]\nmistakes_per_address = 0\n").start();
    let misbehave = |gateway: &mut Gateway| {
        for (_, octets, ..) in crate::bad_frames::bad_frames() {
            let mut stream = http::connect(gateway.port);
            open(&mut stream, "/raw/lobby");
            let _ = stream.write_all(&octets);
            close_code(&mut stream);
        }
        let requests = crate::bad_http::bad_requests();
        let mut streams: Vec<_> = requests.iter().map(|_| http::connect(gateway.port)).collect();
        for (stream, (_, octets, ..)) in streams.iter_mut().zip(&requests) {
            let _ = stream.write_all(octets);
        }
        for (stream, (name, _, status, _)) in streams.iter_mut().zip(&requests) {
            assert_eq!(http::read_answer(stream).map_or(*status, |answer| answer.status), *status, "{name}");
        }
        drop(streams);
        let mut client = Client::connect(gateway.port);
        for name in bad_rooms() {
            client.say(json!({"type": "join", "roomId": name}));
            client.error();
        }
        drop(client);
        // Every slot, and with it every deadline: the sweep knows no timer but those of the slots.
        gateway.wait_for("ws_sockets", 0.0);
        gateway.wait_for("ws_rooms_active", 0.0);
    };
    (0..3).for_each(|_| misbehave(&mut gateway));
    let (memory, descriptors) = (gateway.memory_bytes(), gateway.open_descriptors());
    (0..10).for_each(|_| misbehave(&mut gateway));
    let grown = gateway.memory_bytes().saturating_sub(memory);
    assert!(grown < 1 << 20, "ten times everything bad left {grown} bytes");
    gateway.wait("as many descriptors as before", |gateway| gateway.open_descriptors() <= descriptors);
}
