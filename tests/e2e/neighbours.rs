//! One hostile or slow client beside others (G7): they get everything, and how long that takes is measured, not judged.
//!
//! Where the host allows it, the gateway has a core of its own and the pair goes before the hostile client on the other; and both
//! cores are kept awake, because a virtual one that has halted may be woken milliseconds late. What hostility takes of the host is
//! not the gateway's doing either: the same is done to another gateway on the hostile client's core, for comparison.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
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
const ROUND_TRIPS: usize = 1000;
const ROUNDS: usize = 11;

/// What somebody does until told to stop.
type Conduct = fn(&Gateway, &AtomicBool);

/// A name, the hostile conduct, and the conduct without the hostility.
const HOSTILITIES: [(&str, Conduct, Conduct); 4] = [
    ("a flood of messages", flood_of_messages, nothing),
    ("a flood of pings that is never read", flood_of_pings, nothing),
    ("connections that come and go with garbage", garbage, nothing),
    ("a reader that has stopped", stopped_reader, reader),
];

fn beside_one_hostile_client_the_others_get_everything_in_their_usual_time(driver: Driver) {
    let start = || Gateway::start(driver, &["--shards", "1", "--connection-rate", "0", "--message-rate", "1000"]);
    let (gateway, another) = (start(), start());
    let awake = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let _asleep = Ends(&awake);
        if keep_apart(&gateway, &another) {
            for core in ["0", "1"] {
                scope.spawn(|| keep_awake(core, &awake));
            }
        } else {
            println!(
                "not apart: taskset or chrt is not permitted, or there is one core: the times are the host's as much as the gateway's"
            );
        }
        measure(driver, gateway, another);
    });
}

fn measure(driver: Driver, mut gateway: Gateway, mut another: Gateway) {
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("pair"));
    for (name, hostile, usual) in HOSTILITIES {
        let (mut without, mut elsewhere, mut beside) = (Vec::new(), Vec::new(), Vec::new());
        // In turns, so that whatever else the host does falls on all alike.
        for _ in 0..ROUNDS {
            without.push(p99_during(usual, &gateway, &mut pair));
            // What it said is still being read, a little every tick.
            gateway.wait_for("ws_connections_active", 2.0);
            elsewhere.push(p99_during(hostile, &another, &mut pair));
            another.wait_for("ws_connections_active", 0.0);
            beside.push(p99_during(hostile, &gateway, &mut pair));
            gateway.wait_for("ws_connections_active", 2.0);
        }
        let [without, elsewhere, beside] = [without, elsewhere, beside].map(|mut rounds| {
            rounds.sort();
            rounds[ROUNDS / 2].as_micros()
        });
        println!("measured: {name} | {} | {without} | {elsewhere} | {beside}", driver.name());
    }
}

/// Ends what runs for as long as the flag is set, also when the story fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What the pair sees while somebody does so at `gateway`.
fn p99_during(conduct: Conduct, gateway: &Gateway, pair: &mut [Client; 2]) -> Duration {
    let goes_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let _ends = Ends(&goes_on);
        scope.spawn(|| {
            schedule("chrt", &["-o", "-p", "0"], nix::unistd::gettid().as_raw());
            conduct(gateway, &goes_on);
        });
        p99(pair)
    })
}

/// The gateway alone on one core; on the other the second one, and this thread, which goes before it and whom it starts. Says whether
/// it is so.
fn keep_apart(gateway: &Gateway, another: &Gateway) -> bool {
    let this = nix::unistd::gettid().as_raw();
    let (gateway, another) = (gateway.pid() as i32, another.pid() as i32);
    schedule("taskset", &["-a", "-c", "-p", "0"], gateway)
        && schedule("chrt", &["-a", "-r", "-p", "10"], gateway)
        && schedule("taskset", &["-a", "-c", "-p", "1"], another)
        && schedule("taskset", &["-c", "-p", "1"], this)
        && schedule("chrt", &["-r", "-p", "50"], this)
}

/// Takes what nobody else wants of a core.
fn keep_awake(core: &str, awake: &AtomicBool) {
    let this = nix::unistd::gettid().as_raw();
    if schedule("chrt", &["-i", "-p", "0"], this) && schedule("taskset", &["-c", "-p", core], this) {
        while awake.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }
}

/// Runs taskset(1) or chrt(1) on a thread or process; says whether it did.
fn schedule(command: &str, arguments: &[&str], id: i32) -> bool {
    let quiet =
        Command::new(command).args(arguments).arg(id.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// The 99th percentile of what a message takes from one client to the other, at most 1,000 a second.
fn p99(pair: &mut [Client; 2]) -> Duration {
    let [one, two] = pair;
    let mut times: Vec<Duration> = (0..ROUND_TRIPS)
        .map(|number| {
            std::thread::sleep(Duration::from_millis(1));
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

fn nothing(_: &Gateway, _: &AtomicBool) {}

fn flood_of_messages(gateway: &Gateway, goes_on: &AtomicBool) {
    let message = masked(0x81, b"{\"type\":\"message\",\"roomId\":\"flood\",\"content\":0}").repeat(200);
    write_while(gateway, "/", &message, goes_on, true);
}

fn flood_of_pings(gateway: &Gateway, goes_on: &AtomicBool) {
    write_while(gateway, "/raw/flood", &masked(0x89, &[b'p'; 100]).repeat(200), goes_on, false);
}

fn write_while(gateway: &Gateway, path: &str, octets: &[u8], goes_on: &AtomicBool, reads: bool) {
    let mut stream = http::connect(gateway.port);
    open(&mut stream, path);
    let reading = reads.then(|| drained(&stream));
    // It waits where the gateway holds it back: a client that spins would take the time from everybody on this host.
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    while goes_on.load(Ordering::Relaxed) {
        match stream.write(octets) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    reading.map(JoinHandle::join);
}

/// Reads all that comes until the end.
fn drained(stream: &TcpStream) -> JoinHandle<std::io::Result<u64>> {
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()))
}

fn garbage(gateway: &Gateway, goes_on: &AtomicBool) {
    while goes_on.load(Ordering::Relaxed) {
        let mut stream = http::connect(gateway.port);
        let _ = stream.write_all(&[0xff; 512]);
        let _ = stream.read(&mut [0; 1024]);
    }
}

fn reader(gateway: &Gateway, goes_on: &AtomicBool) {
    publish_to_another(gateway, goes_on, true);
}

fn stopped_reader(gateway: &Gateway, goes_on: &AtomicBool) {
    publish_to_another(gateway, goes_on, false);
}

/// Somebody publishes 3.3 MB a second in a room where there is one more, who reads it; or does not, is closed for that, and comes
/// again three times a second.
fn publish_to_another(gateway: &Gateway, goes_on: &AtomicBool, reads: bool) {
    let member = || {
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/raw/publications");
        stream
    };
    let message = masked(0x81, &[b'x'; 16 * 1024]);
    let (mut publisher, mut another) = (member(), member());
    let mut reading = vec![drained(&publisher)];
    reading.extend(reads.then(|| drained(&another)));
    for number in 1.. {
        if !goes_on.load(Ordering::Relaxed) {
            break;
        }
        publisher.write_all(&message).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        if !reads && number % 60 == 0 {
            another = member();
        }
    }
    [publisher, another].iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    reading.into_iter().for_each(|thread| drop(thread.join()));
}
