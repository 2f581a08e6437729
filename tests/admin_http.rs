//! The admin port over real sockets: what it serves, and what it does with malformed requests.

mod admin_support;

use std::collections::BTreeMap;
use std::time::Duration;

use admin_support::{FakeRelay, NODE, Shard, TestNode, eventually, post};
use serde_json::json;
use tidegate::gateway::config::{Admin, Backend, Config, Drain, Publish};
use tidegate_core::counters::DropReason;
use tidegate_core::limits::{ADMIN_CONNECTIONS, Limits, REQUEST_MAILBOX_BYTES};
use tidegate_core::model::{AckLevel, Kind};
use tidegate_core::relay::{PublishError, ToRelay, ToShard};

fn config() -> Config {
    Config { drain: Drain { window: Some(Duration::from_millis(100)), ..Drain::default() }, ..Config::default() }
}

fn node() -> TestNode {
    TestNode::with_fake_relay(config(), [Shard::Obedient; 2]).0
}

#[test]
fn a_message_posted_to_a_room_reaches_its_subscribers_as_it_was_sent() {
    let (node, relay, mut subscriber) = TestNode::start(config());
    subscriber.join("lobby");

    let json_type = "content-type: application/json\r\n";
    let answer = node.post("/v1/rooms/lobby/messages", json_type, "{\"a\": [1, 2]}");
    assert_eq!((answer.status, answer.json()), (202, json!({"level": "node"})));
    let ToShard::Deliver(publication) = subscriber.next() else { panic!("no delivery") };
    assert_eq!((publication.kind, publication.payload.as_ref()), (Kind::Json, &b"{\"a\": [1, 2]}"[..]));
    assert_eq!((publication.from, publication.echo), (None, true));

    let answer = node.post("/v1/messages", json_type, r#"{"rooms":["lobby","empty-room"],"content":"hi"}"#);
    assert_eq!((answer.status, answer.json()), (202, json!({"level": "node"})));
    let ToShard::Deliver(publication) = subscriber.next() else { panic!("no delivery") };
    assert_eq!(publication.payload.as_ref(), b"\"hi\"");

    node.stop();
    relay.stop();
}

#[test]
fn an_acknowledgement_names_the_level_that_the_relay_gave() {
    let (node, mut relay) = TestNode::with_fake_relay(config(), [Shard::Obedient]);
    let mut client = node.connect();
    client.say(post("/v1/messages", "", r#"{"rooms":["a","b"],"content":1}"#));
    acknowledge(&mut relay, |token| ToShard::Acked(token, AckLevel::Broker));
    acknowledge(&mut relay, |token| ToShard::Acked(token, AckLevel::Broker));
    assert_eq!(client.hear().json(), json!({"level": "broker"}));
    node.stop();
}

#[test]
fn a_publish_that_the_relay_fails_or_forgets_is_503_and_says_so() {
    let limits = Limits { fence_deadline: Duration::from_millis(1), ..Limits::default() };
    let (node, mut relay) = TestNode::with_fake_relay(Config { limits, ..config() }, [Shard::Obedient]);
    let mut client = node.connect();

    client.say(post("/v1/messages", "", r#"{"rooms":["good","bad"],"content":1}"#));
    acknowledge(&mut relay, |token| ToShard::Failed(token, PublishError::Unavailable));
    acknowledge(&mut relay, |token| ToShard::Acked(token, AckLevel::Broker));
    let answer = client.hear();
    assert_eq!(answer.error(), (503, "unavailable".into()));
    assert!(answer.body.contains("bad") && !answer.body.contains("good"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));

    client.say(post("/v1/rooms/a/messages", "", "1"));
    assert_eq!(client.hear().error(), (503, "unavailable".into()));
    node.stop();
}

/// The bodies that waited for the relay were bounded by the places of its mailbox alone: 16,384 of any size, each of a request that
/// had given up, outside of the memory bound that the node prints.
#[test]
fn a_relay_that_takes_nothing_holds_no_more_bytes_of_publications_than_its_bound() {
    let limits =
        Limits { message_bytes: REQUEST_MAILBOX_BYTES, fence_deadline: Duration::from_secs(60), ..Limits::default() };
    let (node, mut relay) = TestNode::with_fake_relay(Config { limits, ..config() }, [Shard::Obedient]);
    let binary = "content-type: application/octet-stream\r\n";
    let largest = "1".repeat(REQUEST_MAILBOX_BYTES);
    let mut client = node.connect();
    client.say(post("/v1/rooms/a/messages", binary, &largest));
    eventually("the largest message is in the mailbox", || !relay.from_admin.is_empty());

    let answer = node.post("/v1/rooms/a/messages", binary, "1");
    assert_eq!(answer.error(), (503, "unavailable".into()));
    assert_eq!(answer.header("retry-after"), Some("1"));

    acknowledge(&mut relay, |token| ToShard::Acked(token, AckLevel::Broker));
    assert_eq!(client.hear().status, 202);
    client.say(post("/v1/rooms/a/messages", binary, "1"));
    acknowledge(&mut relay, |token| ToShard::Acked(token, AckLevel::Broker));
    assert_eq!(client.hear().status, 202, "what the relay has taken makes room");
    node.stop();
}

#[test]
fn a_full_relay_is_503_at_once() {
    let (node, relay) = TestNode::with_fake_relay(config(), [Shard::Obedient]);
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let mut client = node.connect();
            client.say(post("/v1/rooms/a/messages", "", "1"));
            client
        })
        .collect();
    eventually("the relay's mailbox is full", || relay.from_admin.len() == 8);
    assert_eq!(node.post("/v1/rooms/a/messages", "", "1").error(), (503, "unavailable".into()));
    drop(waiting);
    node.stop();
}

#[test]
fn an_invalid_message_is_refused_with_the_status_that_says_why() {
    let node = node();
    let big = "x".repeat(Limits::default().message_bytes + 1);
    let table = [
        ("/v1/rooms/lobby/messages", "content-type: application/json\r\n", "{", (400, "bad-json")),
        ("/v1/rooms/lobby/messages", "content-type: image/png\r\n", "x", (415, "unsupported-media-type")),
        ("/v1/rooms/lobby/messages", "", "", (400, "bad-message")),
        ("/v1/rooms/a%20b/messages", "", "1", (400, "bad-room")),
        ("/v1/rooms/lobby/messages", "", &big, (413, "message-too-large")),
        ("/v1/messages", "", "{}", (400, "bad-json")),
        ("/v1/messages", "content-type: text/plain\r\n", "{}", (415, "unsupported-media-type")),
    ];
    for (target, headers, body, (status, code)) in table {
        let answer = node.post(target, headers, body);
        assert_eq!(answer.error(), (status, code.to_owned()), "{target} {headers}");
    }
    node.stop();
}

#[test]
fn ready_is_503_with_a_reason_while_live_stays_200() {
    let node = node();
    let ready = node.get("/ready");
    assert_eq!((ready.status, ready.json()["reason"].as_str()), (503, Some("broker-never-reached")));
    assert_eq!(node.get("/live").status, 200);
    node.relay_counters.was_connected.set(1);
    assert_eq!(node.get("/ready").status, 200);
    node.stop();
}

#[test]
fn the_node_describes_itself_its_rooms_and_its_connections() {
    let node = node();
    let described = node.get("/v1/node").json();
    assert_eq!(described["shards"], 2);
    assert_eq!(described["capacity"], json!({"connections": 1000, "boundBy": "nofile"}));
    assert_eq!(described["driver"], json!({"name": "epoll", "why": "the test says so"}));
    assert_eq!((&described["draining"], &described["phase"]), (&json!(false), &json!("serving")));

    let rooms = node.get("/v1/rooms?limit=2").json();
    let lobby = json!({"room": "lobby", "members": 4, "publications": 9});
    let shard_0 = json!({"room": "shard-0", "members": 2, "publications": 1});
    assert_eq!(rooms["rooms"], json!([lobby, shard_0]));

    let connections = node.get("/v1/connections?sort=outbox&limit=3").json();
    let outboxes: Vec<_> =
        connections["connections"].as_array().unwrap().iter().map(|c| c["outbox_bytes"].clone()).collect();
    assert_eq!(outboxes, [201, 200, 101]);
    node.stop();
}

#[test]
fn a_connection_is_closed_on_its_shard_and_an_unknown_one_is_404() {
    let node = node();
    let delete = |id: &str| node.ask(&format!("DELETE /v1/connections/{id} HTTP/1.1\r\nhost: node\r\n\r\n"));
    let there = format!("{NODE:08x}0100000100000001");
    assert_eq!((delete(&there).status, node.commands.lock().unwrap().clone()), (200, vec![(1, "Close".into())]));
    for (id, why) in [
        (format!("{NODE:08x}0100000200000001"), "no such connection on the shard"),
        (format!("{NODE:08x}0900000100000001"), "no such shard"),
        (format!("{:08x}0100000100000001", NODE + 1), "another node"),
    ] {
        assert_eq!(delete(&id).error(), (404, "no-connection".into()), "{why}");
    }
    node.stop();
}

#[test]
fn the_metrics_carry_every_name_of_the_contract_from_the_first_scrape() {
    let node = node();
    eventually("the shards have started", || node.counters.iter().all(|shard| shard.connections.value() == 3));
    node.counters[0].dropped[DropReason::Outbox as usize].set(2);
    node.relay_counters.dropped[DropReason::Outbox as usize].set(3);
    let answer = node.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    let has = |line: &str| assert!(answer.body.lines().any(|seen| seen == line), "{line} is not in\n{}", answer.body);
    for line in [
        "# TYPE ws_connections_active gauge",
        "ws_connections_active 6",
        "ws_connected_clients 6",
        "ws_connection_capacity 1000",
        "pod_connection_capacity 1000",
        "# TYPE ws_messages_total counter",
        "ws_messages_total{direction=\"inbound\",type=\"join\"} 0",
        "ws_bytes_total{direction=\"outbound\"} 0",
        "# TYPE ws_message_duration_seconds histogram",
        "ws_message_duration_seconds_bucket{le=\"0.0001\"} 0",
        "ws_message_duration_seconds_bucket{le=\"10\"} 0",
        "ws_publish_delivery_seconds_count 0",
        "ws_handshakes_total{result=\"upgraded\"} 0",
        "ws_handshakes_total{result=\"draining\"} 0",
        "ws_handshake_duration_seconds_sum 0",
        "ws_closes_total{reason=\"slow-reader\"} 0",
        "ws_dropped_total{reason=\"outbox\"} 5",
        "ws_gaps_total{reason=\"broker\"} 0",
        "ws_outbox_bytes 0",
        "ws_outbox_max_bytes 0",
        "ws_loop_lag_seconds{shard=\"1\"} 0",
        "ws_shard_connections{shard=\"0\"} 3",
        "ws_reconnects_total 0",
        "ws_rooms_active 0",
        "ws_relay_connected 0",
        "ws_relay_subscriptions 0",
        "ws_relay_rtt_seconds 0",
        "ws_relay_mailbox_depth{shard=\"1\"} 0",
        "ws_relay_messages_total{direction=\"inbound\"} 0",
        "ws_node_state{state=\"ready\"} 0",
        "ws_node_state{state=\"unready\"} 1",
        "ws_log_dropped_total{reason=\"queue-full\"} 0",
    ] {
        has(line);
    }
    assert!(answer.body.contains("\nprocess_max_fds "));
    has(&format!("tidegate_build_info{{version=\"{}\",driver=\"epoll\"}} 1", env!("CARGO_PKG_VERSION")));
    node.stop();
}

#[test]
fn each_token_opens_its_own_endpoints() {
    let tokens = Config {
        admin: Admin { token: Some(["master"].into()), ..Admin::default() },
        publish: Publish { token: Some(["sender"].into()) },
        ..config()
    };
    let (node, relay, _subscriber) = TestNode::start(tokens);
    let with = |token: &str| format!("authorization: Bearer {token}\r\n");
    assert_eq!(node.get("/v1/node").error(), (401, "unauthorized".into()));
    assert_eq!(node.get("/v1/node").header("www-authenticate"), Some("Bearer"));
    assert_eq!(node.get("/metrics").status, 200);
    assert_eq!(node.get("/live").status, 200);
    assert_eq!(node.post("/v1/rooms/a/messages", &with("sender"), "1").status, 202);
    assert_eq!(node.post("/v1/rooms/a/messages", &with("master"), "1").status, 202);
    assert_eq!(node.post("/v1/rooms/a/messages", &with("wrong"), "1").error(), (401, "unauthorized".into()));
    assert_eq!(node.post("/drain", &with("sender"), "").error(), (403, "forbidden".into()));
    node.stop();
    relay.stop();
}

/// Every call of docs/openapi.json with every kind of token, an old and a new one of each: it is opened by those that the description
/// names and by no other, and each answer is counted.
#[test]
fn each_call_is_opened_by_the_tokens_that_openapi_json_names() {
    let tokens = Config {
        admin: Admin { token: Some(["master", "master-2"].into()), ..Admin::default() },
        backend: Backend { token: Some(["service", "service-2"].into()) },
        publish: Publish { token: Some(["sender", "sender-2"].into()) },
        ..config()
    };
    let (node, relay, _subscriber) = TestNode::start(tokens);
    let description: serde_json::Value = serde_json::from_str(include_str!("../docs/openapi.json")).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let kinds = [("admin", "master"), ("backend", "service"), ("publish", "sender"), ("unknown", "guess")];
    let mut expected: BTreeMap<String, u32> = BTreeMap::new();
    for (template, calls) in paths {
        // What names nothing that is there changes nothing, but for the drain: nothing asks for a token that is drained.
        let path = template.replace("{room}", "lobby").replace("{connection}", "feedbeef0000000900000001");
        for (method, call) in calls.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let opens = call.get("security").unwrap_or(&description["security"]).as_array().unwrap();
            for (kind, token) in
                kinds.iter().flat_map(|(kind, token)| [(kind, (*token).to_owned()), (kind, format!("{token}-2"))])
            {
                let request = format!(
                    "{} {path} HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {token}\r\n\r\n",
                    method.to_ascii_uppercase()
                );
                let status = node.ask(&request).status;
                let refused = if opens.is_empty() || opens.iter().any(|one| one.get(*kind).is_some()) {
                    !matches!(status, 401 | 403)
                } else {
                    status == if *kind == "unknown" { 401 } else { 403 }
                };
                assert!(refused, "{method} {template} with {token}: {status}");
                let sample = format!(
                    "tidegate_admin_requests_total{{route=\"{} {template}\",status=\"{status}\"}}",
                    method.to_ascii_uppercase()
                );
                *expected.entry(sample).or_default() += 1;
            }
        }
    }
    let metrics = node.get("/metrics").body;
    for (sample, count) in expected {
        assert!(metrics.lines().any(|line| line == format!("{sample} {count}")), "no {sample} {count} in\n{metrics}");
    }
    node.stop();
    relay.stop();
}

#[test]
fn a_web_page_on_the_same_host_cannot_drain_the_node() {
    let node = node();
    assert_eq!(node.post("/drain", "origin: http://example.com\r\n", "").error(), (403, "forbidden".into()));
    assert!(node.commands.lock().unwrap().is_empty());
    node.stop();
}

#[test]
fn a_web_page_whose_name_was_pointed_at_loopback_reads_nothing() {
    // Its browser takes the port for the page's own server and sends no Origin with a GET: DNS rebinding.
    let node = node();
    let get = |path: &str, host: &str| node.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example:9090"] {
        assert_eq!(get("/v1/connections", host).error(), (403, "forbidden".into()), "{host}");
        assert_eq!(get("/live", host).status, 200, "{host}");
    }
    for host in ["127.0.0.1:9090", "127.1", "[::1]:9090", "localhost:9090", "node.localhost", "node:9090"] {
        assert_eq!(get("/v1/connections", host).status, 200, "{host}");
    }
    node.stop();
}

#[test]
fn requests_on_one_connection_are_answered_in_order_pipelined_or_not() {
    let node = node();
    let mut client = node.connect();
    client.say("GET /live HTTP/1.1\r\nhost: a\r\n\r\nGET /nothing HTTP/1.1\r\nhost: a\r\n\r\n");
    client.say("PUT /drain HTTP/1.1\r\nhost: a\r\n\r\nGET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answers: Vec<_> = (0..4).map(|_| client.hear().status).collect();
    assert_eq!(answers, [200, 404, 405, 200]);
    assert!(client.is_closed());
    node.stop();
}

/// Health checks of older programs: HAProxy's default is this version, without a Host.
#[test]
fn http_1_0_is_served_without_a_host_and_the_connection_ends_with_the_answer() {
    let (node, mut relay) = TestNode::with_fake_relay(config(), [Shard::Obedient]);
    node.relay_counters.was_connected.set(1);
    let answered = |request: &str| {
        let mut client = node.connect();
        client.say(request);
        let answer = client.hear();
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
        assert!(client.is_closed(), "{request}");
        answer.status
    };
    for (request, status) in [
        ("GET /live HTTP/1.0\r\n\r\n", 200),
        ("GET /ready HTTP/1.0\r\n\r\n", 200),
        ("GET /ready HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", 200),
        ("GET /metrics HTTP/1.0\r\n\r\n", 200),
        ("GET /v1/node HTTP/1.0\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 404),
        ("OPTIONS /ready HTTP/1.0\r\n\r\n", 405),
    ] {
        assert_eq!(answered(request), status, "{request}");
    }
    let mut client = node.connect();
    client.say("POST /v1/rooms/a/messages HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi");
    acknowledge(&mut relay, |token| ToShard::Acked(token, AckLevel::Broker));
    assert_eq!(client.hear().status, 202);
    node.stop();
}

#[test]
fn a_chunked_body_is_one_message_however_it_is_cut() {
    let (node, relay, mut subscriber) = TestNode::start(config());
    subscriber.join("lobby");
    let mut client = node.connect();
    let head = "POST /v1/rooms/lobby/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for byte in format!("{head}3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n").bytes() {
        client.say([byte]);
    }
    assert_eq!(client.hear().status, 202);
    let ToShard::Deliver(publication) = subscriber.next() else { panic!("no delivery") };
    assert_eq!(publication.payload.as_ref(), b"[1,2]");
    node.stop();
    relay.stop();
}

#[test]
fn a_client_that_expects_100_continue_gets_it_before_it_sends_a_body() {
    let (node, relay, _subscriber) = TestNode::start(config());
    let mut client = node.connect();
    client.say("POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(client.hear().status, 100);
    client.say("1");
    assert_eq!(client.hear().status, 202);
    let mut client = node.connect();
    client.say(
        "POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.hear().error(), (413, "message-too-large".into()), "and not where it would be refused");
    node.stop();
    relay.stop();
}

#[test]
fn every_malformed_request_is_answered_and_closed() {
    let node = node();
    let long_head = format!("GET /live HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(9000));
    let long_name = format!("GET /live HTTP/1.1\r\nhost: a\r\n{}: x\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET /live HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(200));
    let chunks = format!(
        "POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "1\r\nx\r\n".repeat(100_000)
    );
    let endless = "\x16\x03\x01".repeat(4000);
    let table: &[(&str, &str, u16)] = &[
        ("garbage", "garbage\r\n\r\n", 400),
        ("endless garbage", &endless, 431),
        ("an h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("a control byte in a header", "GET /live HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n", 400),
        ("a space before the colon", "GET /live HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        ("a folded header", "GET /live HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", 400),
        ("a header without a name", "GET /live HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n", 400),
        ("no Host", "GET /live HTTP/1.1\r\n\r\n", 400),
        ("two Hosts", "GET /live HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        ("a head that is too long", &long_head, 431),
        ("a name that is too long", &long_name, 431),
        ("too many headers", &many, 400),
        ("a target that is none", "GET \x7f HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("two lengths", "POST /drain HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", 400),
        (
            "a length and chunks",
            "POST /drain HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("a negative length", "POST /drain HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400),
        (
            "a length over 64 bits",
            "POST /drain HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
            400,
        ),
        (
            "a length of nearly 64 bits",
            "POST /drain HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551615\r\n\r\n",
            413,
        ),
        ("an unknown encoding", "POST /drain HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (
            "a chunk that is none",
            "POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (
            "a chunk over 64 bits",
            "POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            400,
        ),
        (
            "a chunk of nearly 64 bits",
            "POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffd\r\nx",
            0,
        ),
        ("endless chunks", &chunks, 413),
    ];
    for (what, request, status) in table {
        let mut client = node.connect();
        client.say(request);
        if *status == 0 {
            client.shut();
            assert!(client.try_hear().is_none_or(|answer| answer.status >= 400), "{what}");
        } else {
            let answer = client.try_hear().unwrap_or_else(|| panic!("no answer to {what}"));
            assert_eq!(answer.error().0, *status, "{what}: {answer:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{what}");
        }
        assert!(client.is_closed(), "{what}");
    }
    assert!(node.commands.lock().unwrap().is_empty(), "none of it was a command");
    assert_eq!(node.get("/live").status, 200, "and the port still serves");
    node.stop();
}

#[test]
fn no_byte_in_any_place_of_a_head_takes_the_port_down() {
    let node = node();
    let head = b"GET /live?q HTTP/1.1\r\nhost: a\r\nx-y: z\r\n\r\n";
    for byte in (0..=255u8).filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        for place in [0, 3, 5, 10, 12, 19, 22, 27, 28, 31, 33, 36] {
            let mut mutated = head.to_vec();
            mutated[place] = byte;
            let mut client = node.connect();
            client.say(&mutated);
            client.shut();
            let answer = client.try_hear();
            assert!(answer.is_none_or(|answer| matches!(answer.status, 200 | 400 | 404 | 405)), "{byte:#x} at {place}");
        }
    }
    assert_eq!(node.get("/live").status, 200);
    node.stop();
}

#[test]
fn a_client_that_disconnects_in_the_middle_of_a_request_is_released() {
    let node = node();
    for half in ["GET /li", "POST /v1/rooms/a/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhal"] {
        let mut client = node.connect();
        client.say(half);
        client.shut();
        assert!(client.try_hear().is_none_or(|answer| answer.status == 400), "{half}");
    }
    let open = || {
        let metrics = node.get("/metrics").body;
        let line = metrics.lines().find(|line| line.starts_with("tidegate_admin_connections ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    eventually("only the connection that asks is open", || open() == 1);
    node.stop();
}

#[test]
fn a_request_that_stops_coming_is_cut_with_408() {
    let node = node();
    let mut client = node.connect();
    client.say("GET /live HT");
    let answer = client.hear();
    assert_eq!(answer.error(), (408, "timeout".into()));
    assert!(client.is_closed());
    node.stop();
}

const LIVE: &str = "GET /live HTTP/1.1\r\nhost: a\r\n\r\n";

/// Publishers keep idle connections in their pools: with 256 of them, or of silent connections without any token, `/live`, `/ready` and
/// `/metrics` answered 503, and after three probes the orchestrator restarted the node, with all its clients.
#[test]
fn probes_are_answered_while_idle_and_silent_connections_take_every_place() {
    let node = node();
    let mut idle: Vec<_> = (0..150).map(|_| node.connect()).collect();
    for client in &mut idle {
        client.say(LIVE);
        assert_eq!(client.hear().status, 200);
    }
    let mut silent: Vec<_> = (0..150).map(|_| node.connect()).collect();
    for path in ["/live", "/metrics"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert_ne!(node.get("/ready").status, 0);
    assert!(silent[0].is_closed(), "a connection without a request gives way first");
    idle[0].say(LIVE);
    assert_eq!(idle[0].hear().status, 200, "idle ones stay while silent ones are left");
    // Once all are idle, the one that was so for longest gives way.
    let one_more = || {
        let mut client = node.connect();
        client.say(LIVE);
        assert_eq!(client.hear().status, 200);
        client
    };
    let _more: Vec<_> = (0..150).map(|_| one_more()).collect();
    assert!(idle[1].is_closed());
    let metrics = node.get("/metrics").body;
    let gave_way =
        metrics.lines().find(|line| line.starts_with("tidegate_admin_connections_given_way_total ")).unwrap();
    assert!(gave_way.rsplit(' ').next().unwrap().parse::<u32>().unwrap() >= 150, "{gave_way}");
    node.stop();
}

/// Requests that wait for a broker that does not answer never give way: they must not take the places of probes.
#[test]
fn probes_are_answered_while_publishers_wait_for_a_broker_in_every_place_that_they_may_take() {
    let limits = Limits { fence_deadline: Duration::from_secs(60), ..Limits::default() };
    let (node, _relay) = TestNode::with_fake_relay(Config { limits, ..config() }, [Shard::Obedient]);
    let publishers = ADMIN_CONNECTIONS + 10;
    let mut waiting: Vec<_> = (0..publishers).map(|_| node.connect()).collect();
    waiting.iter_mut().for_each(|client| client.say(post("/v1/rooms/a/messages", "", "1")));
    for path in ["/live", "/metrics"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    // The relay's mailbox holds eight; the others are refused at once, for one reason or the other.
    node.stop();
}

/// Uptime monitors and some balancers check with HEAD, and got 405.
#[test]
fn head_is_answered_as_get_without_the_body_and_the_connection_goes_on() {
    let node = node();
    let mut client = node.connect();
    for path in ["/live", "/ready", "/metrics", "/v1/node", "/v1/rooms?limit=1", "/v1/connections"] {
        client.say(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let get = client.hear();
        client.say(format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let head = client.hear_head();
        assert_eq!((head.status, head.header("content-type")), (get.status, get.header("content-type")), "{path}");
        assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 0, "{path}");
    }
    // What would be refused is refused without a body too.
    for (path, status) in [("/drain", 405), ("/nowhere", 404), ("/v1/rooms?limit=x", 400)] {
        client.say(format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(client.hear_head().status, status, "{path}");
    }
    client.say(LIVE);
    assert_eq!(client.hear().json(), json!({"live": true}), "no octet was in between");
    node.stop();
}

fn acknowledge(relay: &mut FakeRelay, answer: impl Fn(u64) -> ToShard) {
    let mut asked = None;
    eventually("the admin thread published", || {
        asked = relay.from_admin.pop();
        asked.is_some()
    });
    let Some(request @ ToRelay::Publish(_, Some(token))) = &asked else { panic!("{asked:?}") };
    relay.from_admin.release(request.pinned_bytes());
    assert!(relay.to_admin.push(answer(*token)).is_ok());
    relay.to_admin.wake();
}
