//! Clients that vanish, clients that are merely silent, and a gateway that stood still (G9, G11).

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bad_frames::{masked, open, read_frame};
use crate::support::client::{Client, Said};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    a_client_that_vanished_without_a_fin_is_reaped
    a_client_that_answers_pings_stays
    a_client_that_talks_is_not_pinged
    a_gateway_that_stood_still_times_out_no_client
    a_broadcast_reaches_thousands_of_idle_clients_once_while_another_room_talks
    an_idle_client_in_a_room_costs_less_than_192_bytes
}

crate::long_on_both_drivers! {
    a_broadcast_reaches_fifteen_thousand_idle_clients_once_while_another_room_talks
}

const SHORT: &str = "[heartbeat]\nping_interval = \"1s\"\npong_timeout = \"1s\"";

/// Closes a socket without telling the peer: no FIN, no RST, as if the host had lost its power. Needs CAP_NET_ADMIN.
fn vanish(client: Client) -> bool {
    use std::os::fd::AsRawFd;
    let on: nix::libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, and the descriptor is open.
    let result = unsafe {
        nix::libc::setsockopt(
            client.stream().as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_REPAIR,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as nix::libc::socklen_t,
        )
    };
    drop(client);
    result == 0
}

fn a_client_that_vanished_without_a_fin_is_reaped(driver: Driver) {
    let mut gateway = Gateway::on(driver).config(SHORT).start();
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(gateway.port)).collect();
    clients.iter_mut().for_each(|client| client.join("lobby"));
    let vanished = clients.into_iter().map(vanish).filter(|vanished| *vanished).count();
    if vanished == 0 {
        println!("skipped: TCP_REPAIR needs CAP_NET_ADMIN");
        return;
    }
    // On one host the kernel answers the ping with a reset; from afar nothing would come back.
    gateway.wait("they are reaped", |gateway| {
        let metrics = gateway.metrics();
        let reaped = |reason: &str| metrics.value(&format!("ws_closes_total{{reason=\"{reason}\"}}"));
        reaped("pong-timeout") + reaped("reset") == vanished as f64
    });
    gateway.wait_for("ws_connections_active", 0.0);
    gateway.wait_for("ws_rooms_active", 0.0);
}

fn a_client_that_answers_pings_stays(driver: Driver) {
    let gateway = Gateway::on(driver).config(SHORT).start();
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    let mut silent = http::connect(gateway.port);
    open(&mut silent, "/raw/lobby");
    // Three pings answered are more than ping and pong time together; who does not answer is gone by then.
    for _ in 0..3 {
        let (first, payload) = read_frame(&mut stream).unwrap();
        assert_eq!(first, 0x89);
        std::io::Write::write_all(&mut stream, &masked(0x8a, &payload)).unwrap();
    }
    std::io::Write::write_all(&mut stream, &masked(0x81, b"here")).unwrap();
    loop {
        let (first, payload) = read_frame(&mut stream).unwrap();
        if first == 0x81 {
            assert_eq!(payload, b"here");
            break;
        }
    }
    while read_frame(&mut silent).is_some() {}
    assert_eq!(gateway.metrics().value("ws_closes_total{reason=\"pong-timeout\"}"), 1.0);
}

fn a_client_that_talks_is_not_pinged(driver: Driver) {
    let config = "[heartbeat]\nping_interval = \"2s\"\npong_timeout = \"1s\"";
    let gateway = Gateway::on(driver).config(config).start();
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    // The first ping comes at a random moment of the interval, so one may come; after that, none.
    let begun = Instant::now();
    let mut pings = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        std::io::Write::write_all(&mut stream, &masked(0x81, b"talk")).unwrap();
        loop {
            let (first, payload) = read_frame(&mut stream).unwrap();
            match first {
                0x81 => break assert_eq!(payload, b"talk"),
                0x89 => {
                    pings += 1;
                    std::io::Write::write_all(&mut stream, &masked(0x8a, &payload)).unwrap();
                }
                other => panic!("{other:#x}"),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(pings <= 1, "{pings} pings to a client that talks");
}

fn a_gateway_that_stood_still_times_out_no_client(driver: Driver) {
    let config = "[heartbeat]\nping_interval = \"3s\"\npong_timeout = \"3s\"";
    let gateway = Gateway::on(driver).config(config).start();
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(gateway.port)).collect();
    clients.iter_mut().for_each(|client| client.join("lobby"));
    gateway.signal(Signal::SIGSTOP);
    // The stall is the story: longer than ping and pong time together.
    std::thread::sleep(Duration::from_secs(8));
    gateway.signal(Signal::SIGCONT);
    for number in 0..3 {
        assert_eq!(gateway.publish("lobby", &json!(number).to_string()), 202);
        clients.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), number));
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("ws_connections_active"), 30.0);
    assert_eq!(metrics.sum("ws_closes_total"), 0.0);
}

fn a_broadcast_reaches_thousands_of_idle_clients_once_while_another_room_talks(driver: Driver) {
    a_broadcast_reaches_idle_clients_once(driver, 3_000);
}

fn a_broadcast_reaches_fifteen_thousand_idle_clients_once_while_another_room_talks(driver: Driver) {
    a_broadcast_reaches_idle_clients_once(driver, 15_000);
}

fn a_broadcast_reaches_idle_clients_once(driver: Driver, most: usize) {
    // Their sockets are one process's, and so are the gateway's.
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).unwrap();
    let count = (descriptors as usize).saturating_sub(1_000).min(most);
    let mut gateway = Gateway::start(driver, &["--connection-rate", "0", "--message-rate", "0"]);
    let mut idle: Vec<Client> = (0..count).map(|_| Client::connect(gateway.port)).collect();
    idle.iter_mut().for_each(|client| client.join("stadium"));
    let (mut one, mut two) = (Client::connect(gateway.port), Client::connect(gateway.port));
    one.join("pair");
    two.join("pair");
    std::thread::scope(|scope| {
        let talking = scope.spawn(move || {
            for number in 0..500 {
                one.publish("pair", json!(number));
                assert_eq!([one.content("pair"), two.content("pair")], [number, number]);
            }
        });
        assert_eq!(gateway.publish("stadium", "\"goal\""), 202);
        assert_eq!(gateway.publish("stadium", "\"end\""), 202);
        for client in &mut idle {
            assert_eq!(client.content("stadium"), "goal");
            assert_eq!(client.content("stadium"), "end");
        }
        talking.join().unwrap();
    });
    gateway.wait_for("ws_connections_active", count as f64);
    // Nothing more comes: what each of them hears next is the answer to its own question.
    for client in &mut idle {
        client.say(json!({"type": "ping"}));
    }
    for client in &mut idle {
        let Said::Text(text) = client.next() else { panic!("no pong") };
        assert_eq!(text, "{\"type\":\"pong\"}");
    }
}

/// Measured between two crowds, so that what a node costs without clients does not count.
fn an_idle_client_in_a_room_costs_less_than_192_bytes(driver: Driver) {
    const FIRST: usize = 500;
    const MORE: usize = 3_000;
    let mut gateway = Gateway::start(driver, &["--connection-rate", "0", "--message-rate", "0"]);
    let crowd = |count: usize| {
        let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(gateway.port)).collect();
        clients.iter_mut().for_each(|client| client.join("stadium"));
        clients
    };
    let _first = crowd(FIRST);
    let before = gateway.memory_bytes();
    let _more = crowd(MORE);
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown <= 192 * MORE as u64, "{grown} bytes for {MORE} clients: {} each", grown / MORE as u64);
    gateway.wait_for("ws_connections_active", (FIRST + MORE) as f64);
}
