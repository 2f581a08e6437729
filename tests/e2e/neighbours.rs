//! One hostile or slow client beside others (G7): they get everything, and how long that takes is measured, not judged.
//!
//! Where the host allows it, the gateway has a core of its own and the pair goes before the hostile client on the other. What that
//! takes of the host is not the gateway's doing: the same is done to another gateway on the hostile client's core, for comparison.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bad_frames::{masked, open};
use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::long_on_both_drivers! {
    beside_one_hostile_client_the_others_get_everything_in_their_usual_time
}

/// Round trips of one measurement, and measurements of each kind.
const ROUND_TRIPS: usize = 500;
const ROUNDS: usize = 9;

/// What a hostile client does until it is told to stop.
type Hostility = fn(&Gateway, &AtomicBool);

const HOSTILITIES: [(&str, Hostility); 4] = [
    ("a flood of messages", flood_of_messages),
    ("a flood of pings that is never read", flood_of_pings),
    ("connections that come and go with garbage", garbage),
    ("a reader that has stopped", stopped_reader),
];

fn beside_one_hostile_client_the_others_get_everything_in_their_usual_time(driver: Driver) {
    let start = || Gateway::start(driver, &["--shards", "1", "--connection-rate", "0", "--message-rate", "1000"]);
    let (mut gateway, mut another) = (start(), start());
    keep_apart(&gateway, &another);
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("pair"));
    for (name, hostility) in HOSTILITIES {
        let (mut alone, mut elsewhere, mut beside) = (Vec::new(), Vec::new(), Vec::new());
        // In turns, so that whatever else the host does falls on all alike.
        for _ in 0..ROUNDS {
            alone.push(p99(&mut pair));
            elsewhere.push(p99_during(hostility, &another, &mut pair));
            another.wait_for("ws_connections_active", 0.0);
            beside.push(p99_during(hostility, &gateway, &mut pair));
            // What it said is still being read, a little every tick.
            gateway.wait_for("ws_connections_active", 2.0);
        }
        let [alone, elsewhere, beside] = [alone, elsewhere, beside].map(|mut rounds| {
            rounds.sort();
            rounds[ROUNDS / 2].as_micros()
        });
        println!("measured: {name} | {} | {alone} | {elsewhere} | {beside}", driver.name());
    }
}

/// What the pair sees while somebody is hostile to `gateway`.
fn p99_during(hostility: Hostility, gateway: &Gateway, pair: &mut [Client; 2]) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            schedule("chrt", &["-o", "-p", "0"], nix::unistd::gettid().as_raw());
            hostility(gateway, stop);
        });
        let p99 = p99(pair);
        stop.store(true, Ordering::Relaxed);
        p99
    })
}

/// The gateway alone on one core; on the other the second one, and this thread, which goes before it and whom it starts.
fn keep_apart(gateway: &Gateway, another: &Gateway) {
    let this = nix::unistd::gettid().as_raw();
    let (gateway, another) = (gateway.pid() as i32, another.pid() as i32);
    let apart = schedule("taskset", &["-a", "-c", "-p", "0"], gateway)
        && schedule("chrt", &["-a", "-r", "-p", "10"], gateway)
        && schedule("taskset", &["-a", "-c", "-p", "1"], another)
        && schedule("taskset", &["-c", "-p", "1"], this)
        && schedule("chrt", &["-r", "-p", "50"], this);
    if !apart {
        println!(
            "not apart: taskset or chrt is not permitted, or there is one core: the times are the host's as much as the gateway's"
        );
    }
}

/// Runs taskset(1) or chrt(1) on a thread or process; says whether it did.
fn schedule(command: &str, arguments: &[&str], id: i32) -> bool {
    let quiet =
        Command::new(command).args(arguments).arg(id.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// The 99th percentile of what a message takes from one client to the other, at 500 a second.
fn p99(pair: &mut [Client; 2]) -> Duration {
    let [one, two] = pair;
    let mut times: Vec<Duration> = (0..ROUND_TRIPS)
        .map(|number| {
            std::thread::sleep(Duration::from_millis(2));
            let begun = Instant::now();
            one.publish("pair", json!(number));
            assert_eq!(two.content("pair"), number);
            let took = begun.elapsed();
            assert_eq!(one.content("pair"), number);
            took
        })
        .collect();
    times.sort();
    times[ROUND_TRIPS * 99 / 100]
}

fn flood_of_messages(gateway: &Gateway, stop: &AtomicBool) {
    let message = masked(0x81, b"{\"type\":\"message\",\"roomId\":\"flood\",\"content\":0}").repeat(200);
    write_until(gateway, "/", &message, stop, true);
}

fn flood_of_pings(gateway: &Gateway, stop: &AtomicBool) {
    write_until(gateway, "/raw/flood", &masked(0x89, &[b'p'; 100]).repeat(200), stop, false);
}

fn write_until(gateway: &Gateway, path: &str, octets: &[u8], stop: &AtomicBool, reads: bool) {
    let mut stream = http::connect(gateway.port);
    open(&mut stream, path);
    let mut reader = stream.try_clone().unwrap();
    let reading = reads.then(|| std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink())));
    // It waits where the gateway holds it back: a client that spins would take the time from everybody on this host.
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match stream.write(octets) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    reading.map(std::thread::JoinHandle::join);
}

fn garbage(gateway: &Gateway, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = http::connect(gateway.port);
        let _ = stream.write_all(&[0xff; 512]);
        let _ = stream.read(&mut [0; 1024]);
    }
}

fn stopped_reader(gateway: &Gateway, stop: &AtomicBool) {
    let mut stream: TcpStream = http::connect(gateway.port);
    open(&mut stream, "/raw/stopped");
    let padding = format!("\"{}\"", "x".repeat(16 * 1024));
    while !stop.load(Ordering::Relaxed) {
        gateway.publish("stopped", &padding);
        std::thread::sleep(Duration::from_millis(5));
    }
}
