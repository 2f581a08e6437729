//! Sending everybody away in an orderly manner (G10).

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::checker::{self, Heard};
use crate::support::client::{Client, End, Said};
use crate::support::gateway::{Driver, Gateway};
use crate::support::{http, nats::Nats};

crate::on_both_drivers! {
    a_drain_under_load_tells_every_client_and_loses_nothing_silently
    upgrades_during_a_drain_get_503_and_no_connection_is_reset
    a_second_signal_ends_at_once
    a_drain_over_http_waits_for_the_signal
    a_drain_that_is_taken_back_keeps_the_clients_that_are_left
    the_drain_command_returns_when_the_node_is_empty
    the_close_code_of_a_drain_is_configured
    a_node_goes_on_accepting_for_the_drain_delay
    a_client_that_does_not_go_is_given_up_at_the_deadline
    an_old_connection_is_sent_away_like_in_a_drain
}

/// Reads until the end; what was heard, and how it ended.
fn hear_to_the_end(client: &mut Client) -> (Vec<Heard>, bool, End) {
    let (mut heard, mut told) = (Vec::new(), false);
    loop {
        match client.next() {
            Said::End(end) => {
                heard.push(Heard::End(end.code()));
                return (heard, told, end);
            }
            Said::Text(text) => {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                if value["type"] == "server-shutdown" {
                    assert!(value["reconnectAfter"].as_u64().unwrap() <= 5000);
                    told = true;
                }
                heard.extend(Heard::of(&value));
            }
            Said::Binary(_) => panic!("binary"),
        }
    }
}

fn a_drain_under_load_tells_every_client_and_loses_nothing_silently(driver: Driver) {
    let broker = Nats::start();
    let args = ["--nats-url", &broker.url(), "--message-rate", "0", "--drain-window", "2s"];
    let mut leaving = Gateway::start(driver, &args);
    let staying = Gateway::start(driver, &args);
    let mut here: Vec<Client> = (0..10).map(|_| Client::connect(staying.port)).collect();
    let mut gone: Vec<Client> = (0..40).map(|_| Client::connect(leaving.port)).collect();
    here.iter_mut().chain(&mut gone).for_each(|client| client.join("lobby"));
    let mut publisher = Client::connect(staying.port);
    let all_gone = AtomicBool::new(false);
    // One more than the last number, once it is known.
    let count = AtomicU64::new(u64::MAX);
    let (ends, others) = std::thread::scope(|scope| {
        let listening: Vec<_> = gone.iter_mut().map(|client| scope.spawn(move || hear_to_the_end(client))).collect();
        let staying: Vec<_> = here.iter_mut().map(|client| scope.spawn(|| hear_to_number(client, &count))).collect();
        scope.spawn(|| {
            let mut number = 0;
            while !all_gone.load(Ordering::Relaxed) {
                publisher.publish("lobby", checker::numbered(0, number));
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            count.store(number, Ordering::Relaxed);
        });
        leaving.wait_for_at_least("ws_relay_messages_total{direction=\"inbound\"}", 100.0);
        assert_eq!(leaving.terminate(), 0, "{}", leaving.log());
        let ends: Vec<_> = listening.into_iter().map(|thread| thread.join().unwrap()).collect();
        all_gone.store(true, Ordering::Relaxed);
        let others: Vec<_> = staying.into_iter().map(|thread| thread.join().unwrap()).collect();
        (ends, others)
    });
    let published = BTreeMap::from([(0, count.into_inner())]);
    for (_, told, end) in &ends {
        assert!(told, "told before the close");
        assert!(matches!(end, End::Closed(1012, _)), "{end:?}");
    }
    // Clients of the drained node have all up to their close; clients of the other one have all.
    let left: Vec<_> = ends.into_iter().map(|(heard, ..)| heard).collect();
    checker::judge(&published, &left, &[1012]).assert_promises();
    checker::judge(&published, &others, &[]).assert_nothing_lost();
}

/// Listens until the last number was heard, which is known only later.
fn hear_to_number(client: &mut Client, count: &AtomicU64) -> Vec<Heard> {
    let (mut heard, mut next) = (Vec::new(), 0);
    while next < count.load(Ordering::Relaxed) {
        let Some(said) = client.next_within(Duration::from_millis(100)) else { continue };
        let Said::Text(text) = said else { panic!("{said:?}") };
        let item = Heard::of(&serde_json::from_str(&text).unwrap());
        if let Some(Heard::Message(_, number)) = item {
            next = number + 1;
        }
        heard.extend(item);
    }
    heard
}

fn upgrades_during_a_drain_get_503_and_no_connection_is_reset(driver: Driver) {
    // The client answers its close only at the end.
    let config = "[drain]\nwindow = \"1s\"\n[limits]\nclose_deadline = \"1s\"";
    let mut gateway = Gateway::on(driver).config(config).start();
    let mut client = Client::connect(gateway.port);
    gateway.signal(Signal::SIGTERM);
    gateway.wait_ready(503);
    gateway.wait("a refusal", |gateway| Client::try_connect(gateway.port, "/").err() == Some(503));
    assert_eq!(http::request(gateway.port, "GET", "/health", &[], b"").status, 503);
    // Until the very end: each attempt is answered, or nobody listens any more, or its SYN is dropped.
    let mut refused = 0;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], gateway.port));
    while let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(700)) {
        http::be_patient(&stream);
        let written = stream.write_all(http::upgrade("/", &[]).as_bytes());
        let answer = written.and_then(|()| http::read_answer(&mut stream));
        let answer = answer.unwrap_or_else(|error| panic!("reset after {refused} refusals: {error}"));
        assert_eq!(answer.status, 503, "after {refused} refusals");
        let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&seconds));
        refused += 1;
    }
    assert!(refused > 0);
    assert!(matches!(client.end(), End::Closed(1012, _)));
    assert_eq!(gateway.exit().code(), Some(0));
}

fn a_second_signal_ends_at_once(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--drain-window", "10m"]);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(gateway.port)).collect();
    gateway.signal(Signal::SIGTERM);
    gateway.wait_ready(503);
    gateway.signal(Signal::SIGINT);
    let status = gateway.exit();
    assert!(status.code().is_some(), "{status}");
    clients.iter_mut().for_each(|client| assert_ne!(client.end(), End::Closed(1000, String::new())));
    assert!(gateway.log().contains("second signal"), "{}", gateway.log());
}

fn a_drain_over_http_waits_for_the_signal(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--drain-window", "0s"]);
    let mut client = Client::connect(gateway.port);
    let answer = gateway.ask("POST", "/drain", &[], b"");
    assert!(answer.status == 200 || answer.status == 202, "{answer:?}");
    assert!(matches!(client.end(), End::Closed(1012, _)));
    drop(client);
    gateway.wait_for("ws_sockets", 0.0);
    gateway.wait("drained", |gateway| gateway.get("/v1/node").text().contains("drained"));
    assert_eq!(Client::try_connect(gateway.port, "/").err(), Some(503));
    assert_eq!(gateway.terminate(), 0);
}

/// An operator drained the wrong node: half of its clients had to come back, and the other half would have had to, too.
fn a_drain_that_is_taken_back_keeps_the_clients_that_are_left(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--drain-window", "20s"]);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(gateway.port)).collect();
    clients.iter_mut().for_each(|client| client.join("lobby"));
    assert_eq!(gateway.ask("POST", "/drain", &[], b"").status, 202);
    assert_eq!(http::request(gateway.port, "GET", "/health", &[], b"").status, 503);
    // Each got a welcome; five are told to go.
    gateway.wait_for_at_least("ws_messages_total{direction=\"outbound\",type=\"control\"}", 45.0);

    assert_eq!(gateway.ask("DELETE", "/drain", &[], b"").json()["phase"], "serving");
    gateway.wait_for("ws_node_state{state=\"ready\"}", 1.0);
    assert_eq!(http::request(gateway.port, "GET", "/health", &[], b"").status, 200);
    // A shard that grants an upgrade has read the command.
    let mut shards = [false; 2];
    while shards != [true; 2] {
        shards[Client::connect(gateway.port).shard()] = true;
    }
    assert_eq!(gateway.publish("lobby", "\"still here\""), 202);
    let left = clients.into_iter().filter_map(|mut client| {
        let said = client.json();
        (said["type"] != "server-shutdown").then(|| assert_eq!(said["content"], "still here", "{said}"))
    });
    let left = left.count();
    assert!((1..=35).contains(&left), "{left}");
}

fn the_drain_command_returns_when_the_node_is_empty(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--drain-window", "1s"]);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(gateway.port)).collect();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["drain", "--admin", &format!("127.0.0.1:{}", gateway.admin)]);
    let ends: Vec<End> = std::thread::scope(|scope| {
        let ending: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.end())).collect();
        assert!(command.status().unwrap().success());
        assert_eq!(gateway.metrics().value("ws_connections_active"), 0.0);
        ending.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ends.iter().all(|end| matches!(end, End::Closed(1012, _))), "{ends:?}");
    assert_eq!(gateway.terminate(), 0);
}

fn the_close_code_of_a_drain_is_configured(driver: Driver) {
    let config = "[drain]\nclose_code = 4001\nwindow = \"0s\"";
    let mut gateway = Gateway::on(driver).config(config).start();
    let (mut native, mut raw) = (Client::connect(gateway.port), Client::raw(gateway.port, "/raw/lobby"));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(native.json()["type"], "server-shutdown");
    assert!(matches!(native.end(), End::Closed(4001, _)));
    // No envelope, so nothing but the close.
    assert!(matches!(raw.next(), Said::End(End::Closed(4001, _))));
    assert_eq!(gateway.exit().code(), Some(0));
}

fn a_node_goes_on_accepting_for_the_drain_delay(driver: Driver) {
    let config = "[drain]\ndelay = \"2s\"\nwindow = \"0s\"";
    let mut gateway = Gateway::on(driver).config(config).start();
    gateway.signal(Signal::SIGTERM);
    gateway.wait_ready(503);
    // Balancers have not noticed yet: whoever comes now is served, and told like the others later.
    let mut late = Client::connect(gateway.port);
    late.join("lobby");
    assert_eq!(late.json()["type"], "server-shutdown");
    assert!(matches!(late.end(), End::Closed(1012, _)));
    assert_eq!(gateway.exit().code(), Some(0));
}

fn a_client_that_does_not_go_is_given_up_at_the_deadline(driver: Driver) {
    let config = "[drain]\nwindow = \"0s\"\n[limits]\nclose_deadline = \"1s\"";
    let mut gateway = Gateway::on(driver).config(config).start();
    // It never reads, so it never answers the close.
    let stubborn = Client::connect(gateway.port);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.exit().code(), Some(0));
    drop(stubborn);
}

fn an_old_connection_is_sent_away_like_in_a_drain(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--max-connection-age", "2s"]);
    let mut client = Client::connect(gateway.port);
    let begun = Instant::now();
    client.join("lobby");
    assert_eq!(client.json()["type"], "server-shutdown");
    assert!(begun.elapsed() > Duration::from_secs(1), "not before its age");
    assert!(matches!(client.end(), End::Closed(1012, _)));
    gateway.wait_for("ws_closes_total{reason=\"max-age\"}", 1.0);
    assert_eq!(gateway.get("/ready").status, 200);
    let mut next = Client::connect(gateway.port);
    next.say(json!({"type": "ping"}));
    assert_eq!(next.json()["type"], "pong");
}
