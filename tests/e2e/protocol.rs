//! The native dialect, line by line of the contract.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    a_client_is_welcomed_with_its_id_and_how_silence_is_judged
    the_three_native_paths_speak_the_same
    the_subprotocol_is_answered_if_offered_and_not_needed
    join_and_leave_are_idempotent_and_echo_their_ref
    a_message_reaches_every_member_the_sender_too_and_no_other_client
    echo_false_leaves_out_the_sender_only
    any_json_is_content_and_arrives_as_it_was_written
    an_acknowledgement_names_the_local_bus
    a_json_ping_is_answered_and_a_frame_too
    unknown_fields_are_ignored
    what_is_wrong_is_told_with_its_code_and_ref
    a_binary_message_is_closed_with_1003
    a_client_that_says_goodbye_gets_its_code_back
    over_the_message_rate_the_excess_is_dropped_and_told_once_a_second
    a_client_that_joins_its_rooms_again_over_the_message_rate_is_answered_for_each_ref
    a_reconnecting_client_is_counted
    publishing_needs_no_membership
}

fn a_client_is_welcomed_with_its_id_and_how_silence_is_judged(driver: Driver) {
    let gateway = Gateway::on(driver).args(&["--node-name", "alpha"]).config("[heartbeat]").start();
    let (first, second) = (Client::connect(gateway.port), Client::connect(gateway.port));
    let welcome = &first.welcome;
    assert_eq!(welcome["node"], "alpha");
    assert_eq!(welcome["pingInterval"], 25_000);
    assert_eq!(welcome["pongTimeout"], 10_000);
    assert_eq!(first.id.len(), 24);
    assert_ne!(first.id, second.id);
}

fn the_three_native_paths_speak_the_same(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    for path in ["/", "/ws", "/socket", "/ws?token=x&a=b"] {
        let mut client = Client::connect_at(gateway.port, path);
        client.join("lobby");
    }
}

fn the_subprotocol_is_answered_if_offered_and_not_needed(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let offers = [("sec-websocket-protocol", "chat, tidegate.v1")];
    let (_client, answer) = Client::over(http::connect(gateway.port), "/", &offers).unwrap();
    assert_eq!(answer["sec-websocket-protocol"], "tidegate.v1");
    let (_client, answer) = Client::over(http::connect(gateway.port), "/", &[]).unwrap();
    assert!(!answer.contains_key("sec-websocket-protocol"));
    // RFC 6455 §4.1: a client that gets no subprotocol although it offered some fails the connection; tungstenite does.
    let mut stream = http::connect(gateway.port);
    let request = http::upgrade("/", &["Sec-WebSocket-Protocol: chat"]);
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let answer = http::read_answer(&mut stream).unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
}

fn join_and_leave_are_idempotent_and_echo_their_ref(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    for reference in [json!(1), json!("seven"), json!(-2.5), json!("x".repeat(64))] {
        for (request, answer) in [("join", "joined"), ("join", "joined"), ("leave", "left"), ("leave", "left")] {
            client.say(json!({"type": request, "roomId": "lobby", "ref": reference}));
            assert_eq!(client.json(), json!({"type": answer, "roomId": "lobby", "ref": reference}));
        }
    }
    client.say(json!({"type": "join", "roomId": "lobby"}));
    assert_eq!(client.json(), json!({"type": "joined", "roomId": "lobby"}));
    client.say(json!({"type": "join", "roomId": "lobby"}));
    assert_eq!(client.json(), json!({"type": "joined", "roomId": "lobby"}));
    // Joined twice is one membership: one message.
    client.publish("lobby", json!("one"));
    client.publish("lobby", json!("two"));
    assert_eq!([client.content("lobby"), client.content("lobby")], ["one", "two"]);
    client.leave("lobby");
    client.publish("lobby", json!("unheard"));
    client.join("lobby");
    client.publish("lobby", json!("heard"));
    assert_eq!(client.content("lobby"), "heard");
}

fn a_message_reaches_every_member_the_sender_too_and_no_other_client(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    // More than the shards: some of them share one, some do not.
    let mut members: Vec<Client> = (0..8).map(|_| Client::connect(gateway.port)).collect();
    members.iter_mut().for_each(|member| member.join("lobby"));
    let mut stranger = Client::connect(gateway.port);
    stranger.join("elsewhere");
    let before = now_ms();
    members[0].publish("lobby", json!({"text": "hello"}));
    let sender = members[0].id.clone();
    for member in &mut members {
        let mut message = member.json();
        let timestamp = message["timestamp"].take().as_u64().unwrap();
        assert!((before..=now_ms()).contains(&timestamp));
        let expected = json!({"type": "message", "roomId": "lobby", "from": sender, "content": {"text": "hello"}, "timestamp": null});
        assert_eq!(message, expected);
    }
    stranger.publish("elsewhere", json!("mine"));
    assert_eq!(stranger.content("elsewhere"), "mine");
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

fn echo_false_leaves_out_the_sender_only(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let (mut sender, mut other) = (Client::connect(gateway.port), Client::connect(gateway.port));
    sender.join("lobby");
    other.join("lobby");
    sender.say(json!({"type": "message", "roomId": "lobby", "content": 1, "echo": false}));
    sender.say(json!({"type": "message", "roomId": "lobby", "content": 2, "echo": true}));
    assert_eq!([other.content("lobby"), other.content("lobby")], [1, 2]);
    assert_eq!(sender.content("lobby"), 2);
}

fn any_json_is_content_and_arrives_as_it_was_written(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    let contents = [
        "null",
        "true",
        "-0.10e+5",
        "12345678901234567890123",
        "\"\\u00e9\\n\"",
        "\"é🌊\"",
        "[]",
        "{ \"b\":1 , \"a\":[ ] }",
    ];
    for content in contents {
        client.say_text(&format!("{{\"type\":\"message\",\"roomId\":\"lobby\",\"content\":{content}}}"));
        let message = client.text();
        assert!(message.contains(&format!("\"content\":{content},")), "{message}");
    }
}

fn an_acknowledgement_names_the_local_bus(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    client.say(json!({"type": "message", "roomId": "lobby", "content": 1, "ack": true, "ref": 7}));
    assert_eq!(client.json(), json!({"type": "ack", "ref": 7, "level": "node"}));
}

fn a_json_ping_is_answered_and_a_frame_too(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    client.say(json!({"type": "ping"}));
    assert_eq!(client.json(), json!({"type": "pong"}));
    client.say(json!({"type": "ping", "ref": "a"}));
    assert_eq!(client.json(), json!({"type": "pong", "ref": "a"}));
    // The frame: written out, because the client library keeps pongs to itself.
    let mut stream = http::connect(gateway.port);
    crate::bad_frames::open(&mut stream, "/raw/lobby");
    std::io::Write::write_all(&mut stream, &crate::bad_frames::masked(0x89, b"are you there?")).unwrap();
    assert_eq!(crate::bad_frames::read_frame(&mut stream), Some((0x8a, b"are you there?".to_vec())));
}

fn unknown_fields_are_ignored(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    client.say(json!({"type": "join", "roomId": "lobby", "color": "blue", "since": [1, 2]}));
    assert_eq!(client.json(), json!({"type": "joined", "roomId": "lobby"}));
}

fn what_is_wrong_is_told_with_its_code_and_ref(driver: Driver) {
    let long = "r".repeat(201);
    let table: [(Value, &str); 18] = [
        (json!({"type": "dance"}), "bad-message"),
        (json!({}), "bad-message"),
        (json!([]), "bad-message"),
        (json!("join"), "bad-message"),
        (json!({"type": "message", "roomId": "a"}), "bad-message"),
        (json!({"type": "message", "roomId": "a", "content": 1, "echo": 3}), "bad-message"),
        (json!({"type": "ping", "ref": {}}), "bad-message"),
        (json!({"type": "ping", "ref": "x".repeat(65)}), "bad-message"),
        (json!({"type": "join"}), "bad-room"),
        (json!({"type": "join", "roomId": ""}), "bad-room"),
        (json!({"type": "join", "roomId": long}), "bad-room"),
        (json!({"type": "join", "roomId": "a.*"}), "bad-room"),
        (json!({"type": "join", "roomId": "a.>"}), "bad-room"),
        (json!({"type": "join", "roomId": "a b"}), "bad-room"),
        (json!({"type": "join", "roomId": "a\r\nPUB x 0\r\n"}), "bad-room"),
        (json!({"type": "join", "roomId": "a..b"}), "bad-room"),
        (json!({"type": "join", "roomId": "$SYS"}), "bad-room"),
        (json!({"type": "message", "roomId": "é", "content": 1}), "bad-room"),
    ];
    let gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    for (request, code) in &table {
        client.say(request.clone());
        assert_eq!(&client.error(), code, "{request}");
    }
    client.say_text("{\"type\":");
    assert_eq!(client.error(), "bad-message");
    client.say(json!({"type": "dance", "ref": 5}));
    assert_eq!(client.json()["ref"], 5);
    // It goes on all the same.
    client.join("lobby");
    let errors = gateway.metrics().value("ws_messages_total{direction=\"outbound\",type=\"error\"}");
    assert_eq!(errors, table.len() as f64 + 2.0);
}

fn a_binary_message_is_closed_with_1003(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    client.say_binary(b"\x00\x01");
    assert!(matches!(client.end(), End::Closed(1003, _)));
    gateway.wait_for("ws_closes_total{reason=\"unsupported\"}", 1.0);
}

fn a_client_that_says_goodbye_gets_its_code_back(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    for code in [1000, 1001, 3000, 4999] {
        let mut client = Client::connect(gateway.port);
        client.join("lobby");
        client.close(code);
        assert!(matches!(client.end(), End::Closed(answered, _) if answered == code), "{code}");
    }
    gateway.wait_for("ws_closes_total{reason=\"client\"}", 4.0);
}

fn over_the_message_rate_the_excess_is_dropped_and_told_once_a_second(driver: Driver) {
    const SENT: usize = 300;
    let mut gateway = Gateway::start(driver, &["--message-rate", "10"]);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    (0..SENT).for_each(|number| client.publish("lobby", json!(number)));
    let (dropped, taken) =
        ("ws_dropped_total{reason=\"rate-limited\"}", "ws_messages_total{direction=\"inbound\",type=\"message\"}");
    gateway.wait("all are judged", |gateway| {
        let metrics = gateway.metrics();
        metrics.value(dropped) + metrics.value(taken) == SENT as f64
    });
    let (taken, dropped) = (gateway.metrics().value(taken) as usize, gateway.metrics().value(dropped) as usize);
    assert!(dropped > 0 && taken >= 10, "{taken} taken, {dropped} dropped");
    let said: Vec<Value> = (0..taken).map(|_| client.answer_or_error("message")).collect();
    assert!(said.windows(2).all(|pair| pair[0]["content"].as_u64() < pair[1]["content"].as_u64()));
    assert!((1..dropped.max(2)).contains(&client.errors.len()), "told {} times", client.errors.len());
    assert!(client.errors.iter().all(|error| error["code"] == "rate-limited"));
}

fn a_client_that_joins_its_rooms_again_over_the_message_rate_is_answered_for_each_ref(driver: Driver) {
    // Of 60 joins with a `ref` at ten messages a second 39 were never answered, and their rooms stayed silent for ever.
    let gateway = Gateway::start(driver, &["--message-rate", "10"]);
    let mut client = Client::connect(gateway.port);
    assert_eq!(client.welcome["limits"], json!({"messageBytes": 65_536, "messageRate": 10, "rooms": 128}));
    for number in 0..60 {
        client.say(json!({"type": "join", "roomId": format!("room.{number}"), "ref": number}));
    }
    let answers: Vec<Value> = (0..60).map(|_| client.json()).collect();
    let answered: BTreeSet<u64> = answers.iter().filter_map(|answer| answer["ref"].as_u64()).collect();
    assert_eq!(answered, (0..60).collect(), "{answers:?}");
    let joined = answers.iter().filter(|answer| answer["type"] == "joined").count();
    let refused = answers.iter().filter(|answer| answer["code"] == "rate-limited").count();
    assert!(joined >= 20 && refused > 0 && joined + refused == 60, "{answers:?}");

    // One message joins them all.
    let mut client = Client::connect(gateway.port);
    let rooms: Vec<String> = (0..60).map(|number| format!("room.{number}")).collect();
    client.say(json!({"type": "join", "rooms": rooms, "ref": "again"}));
    let answers: Vec<Value> = rooms.iter().map(|_| client.json()).collect();
    for room in rooms {
        assert!(answers.contains(&json!({"type": "joined", "roomId": room, "ref": "again"})), "{room}: {answers:?}");
    }
}

fn a_reconnecting_client_is_counted(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    for path in ["/", "/?attempt=0", "/?attempt=1", "/ws?x=1&attempt=12", "/raw/lobby?attempt=3", "/?attempt=no"] {
        Client::raw(gateway.port, path);
    }
    assert_eq!(gateway.metrics().value("ws_reconnects_total"), 3.0);
}

fn publishing_needs_no_membership(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let (mut member, mut stranger) = (Client::connect(gateway.port), Client::connect(gateway.port));
    member.join("lobby");
    stranger.publish("lobby", json!("from outside"));
    assert_eq!(member.content("lobby"), "from outside");
}
