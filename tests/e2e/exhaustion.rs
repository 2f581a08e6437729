//! No descriptors, no capacity, too many at once: told with 503, and no spinning (G6, G12).

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bad_frames::{close_code, masked, open, read_frame};
use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    over_the_capacity_clients_get_503_and_those_inside_are_served
    without_descriptors_the_node_answers_rests_and_recovers
    over_the_connection_rate_clients_get_503
    who_knocks_with_garbage_without_end_is_taken_in_slowly_and_others_are_not_kept_out
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

fn without_descriptors_the_node_answers_rests_and_recovers(driver: Driver) {
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

fn who_knocks_with_garbage_without_end_is_taken_in_slowly_and_others_are_not_kept_out(driver: Driver) {
    const KNOCKS: u32 = 20;
    // One shard: what is refused on one slows no other down.
    let gateway = Gateway::start(driver, &["--shards", "1", "--connection-rate", "0"]);
    let begun = Instant::now();
    for _ in 0..KNOCKS {
        let mut stream = http::connect(gateway.port);
        stream.write_all(&[0xff; 512]).unwrap();
        assert_eq!(http::read_answer(&mut stream).unwrap().status, 400);
    }
    // All but the first few wait for the queue's next turn, at last 250 ms later; a slow host only adds to that.
    assert!(begun.elapsed() >= Duration::from_millis(250) * (KNOCKS - 6), "{:?}", begun.elapsed());
    // A crowd among them gets in all the same.
    let crowd: Vec<_> = (0..20).map(|_| http::connect(gateway.port)).collect();
    for mut stream in crowd {
        open(&mut stream, "/");
    }
    assert_eq!(gateway.metrics().value("ws_handshakes_total{result=\"bad-request\"}"), f64::from(KNOCKS));
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
    let config = "[limits]\nunfinished_total_bytes = \"256KiB\"";
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
