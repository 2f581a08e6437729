//! No descriptors, no capacity, too many at once: told with 503, and no spinning (G6, G12).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::bad_frames::{close_code, masked, open, read_frame};
use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::load::ClearedAtTheEnd;

crate::on_both_drivers! {
    over_the_capacity_clients_get_503_and_those_inside_are_served
    without_descriptors_the_node_answers_pauses_and_recovers
    a_full_public_port_leaves_descriptors_for_probes_and_for_the_broker
    over_the_connection_rate_clients_get_503
    malformed_requests_do_not_starve_valid_clients
    an_address_over_its_connections_gets_429_and_others_are_served
    all_unfinished_messages_together_are_bounded_and_the_largest_goes
    a_crowd_of_unfinished_handshakes_keeps_no_other_client_out
}

fn over_the_capacity_clients_get_503_and_those_inside_are_served(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--max-connections", "10"]);
    let mut inside: Vec<Client> = (0..10).map(|_| Client::connect(gateway.port)).collect();
    inside.iter_mut().for_each(|client| client.join("lobby"));
    assert_eq!(gateway.metrics().value("ws_connection_capacity"), 10.0);
    for _ in 0..5 {
        let mut stream = http::connect(gateway.port);
        stream.write_all(http::upgrade("/", &[]).as_bytes()).unwrap();
        let answer = http::read_answer(&mut stream).unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    }
    gateway.wait_for("ws_handshakes_total{result=\"capacity\"}", 5.0);
    // A balancer takes a node out that does not answer, and its clients with it.
    let _silent: Vec<TcpStream> = (0..20).map(|_| http::connect(gateway.port)).collect();
    assert_eq!(http::request(gateway.port, "GET", "/health", &[], b"").status, 200);
    inside[0].publish("lobby", json!("inside"));
    inside.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), "inside"));
    inside.truncate(5);
    gateway.wait("there is room again", |gateway| Client::try_connect(gateway.port, "/").is_ok());
}

fn without_descriptors_the_node_answers_pauses_and_recovers(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--connection-rate", "0"]);
    // Fewer than it counted on when it started: its capacity is not what stops clients.
    gateway.limit_descriptors(gateway.open_descriptors() as u64 + 40);
    let mut inside: Vec<Client> = Vec::new();
    while let Ok(client) = Client::try_connect(gateway.port, "/") {
        inside.push(client);
        assert!(inside.len() < 200, "the limit does not bind");
    }
    assert!((10..=45).contains(&inside.len()), "{}", inside.len());
    for client in &mut inside {
        assert_eq!(client.json()["type"], "welcome");
    }
    // They wait in the queue, for as long as they like.
    let _waiting: Vec<TcpStream> = (0..20).map(|_| http::connect(gateway.port)).collect();
    let (pid, before) = (gateway.pid(), gateway.cpu_ticks());
    std::thread::sleep(Duration::from_secs(1));
    let spent = gateway.cpu_ticks() - before;
    // Two shards that spin are 200 ticks a second where they have a core each, and never less than 50.
    assert!(spent < 30, "process {pid} spent {spent} hundredths of a second with nothing to do");
    inside[0].join("lobby");
    inside[0].publish("lobby", json!("served"));
    assert_eq!(inside[0].content("lobby"), "served");
    inside.truncate(1);
    gateway.wait("it recovers", |gateway| Client::try_connect(gateway.port, "/").is_ok());
}

fn a_full_public_port_leaves_descriptors_for_probes_and_for_the_broker(driver: Driver) {
    // Clients up to the capacity, and silent or refused sockets above it, took every descriptor: no probe was answered, the
    // node was restarted with all of its clients, and it could not connect to its broker again.
    const FILES: u64 = 600;
    const UNSERVED: u64 = FILES / 2;
    let setup = Gateway::on(driver).args(&["--shards", "2", "--connection-rate", "0"]);
    let mut gateway = setup.config("[limits]\nhandshake_deadline = \"1m\"").descriptors(FILES).start();
    let capacity = gateway.metrics().value("ws_connection_capacity") as usize;
    let per_shard = gateway.get("/v1/node").json()["limits"]["handshakesPerShard"].as_u64().unwrap() as usize;
    assert!(
        capacity + 2 * per_shard + 256 < FILES as usize,
        "{capacity} clients, {per_shard} on each shard without an upgrade"
    );
    let inside: Vec<Client> = (1..capacity).map(|_| Client::connect(gateway.port)).collect();
    let unserved: Vec<TcpStream> = (0..UNSERVED).filter_map(|n| unserved_socket(n as u8, gateway.port)).collect();
    // All of them are taken in, the oldest giving way, and none meets a lack of descriptors.
    gateway.wait_for("ws_accepted_total", (inside.len() + unserved.len()) as f64);
    assert_eq!(["/live", "/ready"].map(|path| gateway.get(path).status), [200; 2]);
    let spare = FILES as usize - gateway.open_descriptors();
    assert!(spare >= 256, "{spare} descriptors are left for the admin port and the broker");
    let probes: Vec<TcpStream> = (0..200).map(|_| http::connect(gateway.admin)).collect();
    assert_eq!(["/live", "/ready"].map(|path| gateway.get(path).status), [200; 2]);
    let honest = Client::try_connect(gateway.port, "/").expect("there is one place, and no silent socket has it");
    assert!(Client::try_connect(gateway.port, "/").is_err(), "the node is full");
    assert!(!gateway.log().contains("cannot accept"), "{}", gateway.log());
    drop((probes, unserved, inside, honest));
    gateway.wait("there is room again", |gateway| Client::try_connect(gateway.port, "/").is_ok());
}

/// A socket that has no upgrade, from an address of its own: a silent one, or one that is refused and does not close.
fn unserved_socket(address: u8, port: u16) -> Option<TcpStream> {
    let mut stream = http::connect_from(Ipv4Addr::new(127, 0, 1, address), port).ok()?;
    if address.is_multiple_of(2) {
        stream.write_all(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    }
    Some(stream)
}

fn over_the_connection_rate_clients_get_503(driver: Driver) {
    let gateway = Gateway::start(driver, &["--connection-rate", "10"]);
    let mut statuses = Vec::new();
    for _ in 0..100 {
        let mut stream = http::connect(gateway.port);
        stream.write_all(http::upgrade("/", &[]).as_bytes()).unwrap();
        let answer = http::read_answer(&mut stream).unwrap();
        if answer.status == 503 {
            assert!(answer.header("retry-after").is_some());
        }
        statuses.push(answer.status);
    }
    assert!(statuses.contains(&101) && statuses.contains(&503), "{statuses:?}");
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!(gateway.metrics().value("ws_handshakes_total{result=\"connection-rate\"}"), refused as f64);
}

fn malformed_requests_do_not_starve_valid_clients(driver: Driver) {
    // One shard: every request is a neighbour of every other.
    let mut gateway = Gateway::start(driver, &["--shards", "1", "--connection-rate", "0", "--message-rate", "0"]);
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("lobby"));
    let (going_on, mut upgraded) = (AtomicBool::new(true), 2);
    let answered = std::thread::scope(|scope| {
        let end = ClearedAtTheEnd(&going_on);
        let (port, going_on) = (gateway.port, &going_on);
        let malformed = scope.spawn(move || send_malformed_requests(port, going_on));
        gateway.wait_for_at_least("ws_handshakes_total{result=\"dropped\"}", 3.0);
        // Connected clients get everything; new ones get in, one after the other and as a crowd, and are served.
        for number in 0..200 {
            pair[0].publish("lobby", json!(number));
            pair.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), number));
        }
        for number in 0..8 {
            let mut late = Client::connect(gateway.port);
            late.join("lobby");
            late.publish("lobby", json!(number));
            assert_eq!(late.content("lobby"), number);
            pair.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), number));
            upgraded += 1;
        }
        let crowd: Vec<TcpStream> = (0..20).map(|_| http::connect(gateway.port)).collect();
        for mut stream in crowd {
            open(&mut stream, "/");
            upgraded += 1;
        }
        drop(end);
        malformed.join().unwrap()
    });
    let metrics = gateway.metrics();
    let counted = |result: &str| metrics.value(&format!("ws_handshakes_total{{result=\"{result}\"}}"));
    assert!((1..=answered.1).contains(&answered.0), "{answered:?}");
    // What was sent may have met the reset before its answer was read.
    assert!(counted("bad-request") >= f64::from(answered.0) && counted("bad-request") < f64::from(answered.1));
    assert_eq!(counted("bad-request") + counted("dropped"), f64::from(answered.1));
    assert_eq!(counted("upgraded"), f64::from(upgraded));
}

/// One after the other, each as soon as the one before is answered or dropped, from an address of its own. How many were answered, of
/// how many.
fn send_malformed_requests(port: u16, going_on: &AtomicBool) -> (u32, u32) {
    let (mut answered, mut sent) = (0, 0);
    while going_on.load(Ordering::SeqCst) {
        sent += 1;
        let Ok(mut stream) = http::connect_from(Ipv4Addr::new(127, 0, 0, 2), port) else { continue };
        let answer = stream.write_all(&[0xff; 512]).and_then(|()| http::read_answer(&mut stream));
        answered += u32::from(answer.is_ok_and(|answer| answer.status == 400));
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    }
    (answered, sent)
}

fn an_address_over_its_connections_gets_429_and_others_are_served(driver: Driver) {
    let config = "[limits]\nconnections_per_address = 3\n[proxies]\ntrusted = [\"127.0.0.9\"]\n";
    let mut gateway = Gateway::on(driver).config(config).start();
    let (one, another, proxy) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 9));
    let ask = |gateway: &Gateway, address, headers: &[&str]| {
        let mut stream = http::connect_from(address, gateway.port).unwrap();
        stream.write_all(http::upgrade("/", headers).as_bytes()).unwrap();
        let answer = http::read_answer(&mut stream).unwrap();
        (stream, answer)
    };
    let mut inside: Vec<TcpStream> = Vec::new();
    for (address, headers, status) in [
        (one, &[][..], 101),
        (one, &[], 101),
        (one, &[], 101),
        (one, &[], 429),
        (another, &[], 101),
        (proxy, &["X-Forwarded-For: 198.51.100.1"], 101),
        (proxy, &["X-Forwarded-For: 127.0.0.2"], 429),
        // Of a proxy that does not tell whose connection it is.
        (proxy, &[], 101),
    ] {
        let (stream, answer) = ask(&gateway, address, headers);
        assert_eq!(answer.status, status, "{address} {headers:?}");
        if status == 429 {
            assert!(answer.header("retry-after").is_some());
            assert!(answer.text().contains("limits.connections_per_address"), "{}", answer.text());
        } else {
            inside.push(stream);
        }
    }
    inside.remove(0);
    gateway.wait_for("ws_connections_active", 5.0);
    assert_eq!(ask(&gateway, one, &[]).1.status, 101, "one has left");
    gateway.wait_for("ws_handshakes_total{result=\"address-connections\"}", 2.0);
}

fn a_crowd_of_unfinished_handshakes_keeps_no_other_client_out(driver: Driver) {
    // Clients that connected first and said nothing had the places until their deadline, and all others got 503.
    let config = "[limits]\nhandshakes_per_shard = 20\nhandshake_deadline = \"1m\"";
    let mut gateway = Gateway::on(driver).args(&["--shards", "1"]).config(config).start();
    let port = gateway.port;
    let _of_one_address: Vec<TcpStream> = (0..50).map(|_| http::connect(port)).collect();
    // A quarter of 20 stays; all above it have given way.
    gateway.wait_for("ws_handshakes_total{result=\"displaced\"}", 45.0);
    let _of_many: Vec<std::io::Result<TcpStream>> =
        (10..60).map(|host| http::connect_from(Ipv4Addr::new(127, 0, 0, host), port)).collect();
    gateway.wait_for("ws_handshakes_total{result=\"displaced\"}", 80.0);
    for _ in 0..30 {
        Client::connect(port).join("lobby");
    }
    assert_eq!(http::request(port, "GET", "/health", &[], b"").status, 200);
    assert_eq!(gateway.metrics().value("ws_handshakes_total{result=\"timeout\"}"), 0.0);
}

fn all_unfinished_messages_together_are_bounded_and_the_largest_goes(driver: Driver) {
    const TOTAL: u64 = 256 * 1024;
    let config = "[limits]\nunfinished_total_bytes = \"256KiB\"\nclose_deadline = \"1s\"";
    // One shard: the one that notices closes the largest of its own.
    let mut gateway = Gateway::on(driver).args(&["--shards", "1"]).config(config).start();
    let begin = |payload_bytes: usize| {
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/raw/lobby");
        let message = masked(0x82, &vec![b'x'; payload_bytes]);
        let (first, rest) = message.split_at(message.len() - 1);
        stream.write_all(first).unwrap();
        (stream, rest.to_vec())
    };
    let (mut small, rest) = begin(1_000);
    let mut large: Vec<TcpStream> = (0..6).map(|_| begin(60_000).0).collect();
    gateway.wait_for_at_least("ws_closes_total{reason=\"message-budget\"}", 2.0);
    assert!(gateway.metrics().value("ws_unfinished_bytes") <= TOTAL as f64);
    // Whoever holds little is not bothered.
    small.write_all(&rest).unwrap();
    assert_eq!(read_frame(&mut small), Some((0x82, vec![b'x'; 1_000])));
    large.iter().for_each(|stream| stream.shutdown(std::net::Shutdown::Write).unwrap());
    let told = large.iter_mut().filter_map(close_code).filter(|code| *code == 1013).count();
    assert_eq!(told as f64, gateway.metrics().value("ws_closes_total{reason=\"message-budget\"}"));
}
