//! No descriptors, no capacity, too many at once: told with 503, and no spinning (G6, G12).

use std::io::{Read, Write};
use std::net::TcpStream;
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
    over_the_connection_rate_clients_get_503
    malformed_requests_do_not_starve_valid_clients
    all_unfinished_messages_together_are_bounded_and_the_largest_goes
    a_crowd_of_unfinished_handshakes_does_not_keep_others_out_for_long
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
    let malformed = std::thread::scope(|scope| {
        let end = ClearedAtTheEnd(&going_on);
        let (port, going_on) = (gateway.port, &going_on);
        let malformed = scope.spawn(move || send_malformed_requests(port, going_on));
        gateway.wait_for_at_least("ws_handshakes_total{result=\"bad-request\"}", 3.0);
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
    assert_eq!(["bad-request", "not-found", "upgrade-required"].map(counted), malformed.map(f64::from));
    assert_eq!(counted("upgraded"), f64::from(upgraded));
}

/// One after the other, each as soon as the one before is answered and closed: garbage, an upgrade of a path that is not served, and
/// a plain request. How many there were of each.
fn send_malformed_requests(port: u16, going_on: &AtomicBool) -> [u32; 3] {
    let plain = b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let kinds = [(vec![0xff; 512], 400), (http::upgrade("/nowhere", &[]).into_bytes(), 404), (plain, 426)];
    let mut counts = [0; 3];
    while going_on.load(Ordering::SeqCst) {
        for ((octets, status), count) in kinds.iter().zip(&mut counts) {
            let mut stream = http::connect(port);
            stream.write_all(octets).unwrap();
            assert_eq!(http::read_answer(&mut stream).unwrap().status, *status);
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it is closed after the answer");
            *count += 1;
        }
    }
    counts
}

fn a_crowd_of_unfinished_handshakes_does_not_keep_others_out_for_long(driver: Driver) {
    let config = "[limits]\nhandshakes_per_shard = 20\nhandshake_deadline = \"2s\"";
    // One shard, so that the first refusal says that there is no slot left, and only a timeout makes room again.
    let mut gateway = Gateway::on(driver).args(&["--shards", "1"]).config(config).start();
    let _crowd: Vec<TcpStream> = (0..100).map(|_| http::connect(gateway.port)).collect();
    gateway.wait_for_at_least("ws_handshakes_total{result=\"connection-rate\"}", 1.0);
    gateway.wait("they time out", |gateway| Client::try_connect(gateway.port, "/").is_ok());
    gateway.wait_for_at_least("ws_handshakes_total{result=\"timeout\"}", 1.0);
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
