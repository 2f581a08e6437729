//! One hostile or slow client beside others (G7): the others get everything, and how long it takes them is measured. Whether it
//! takes too long is judged by scripts/reliability/bounds.py, as a ratio to the time without the hostile client in the same run.
//!
//! Where the host allows it, the gateway has a core of its own and the measuring thread goes before the hostile client on the
//! other; and both cores are kept awake, because a virtual one that has halted may be woken milliseconds late. What hostility takes
//! of the host is not the gateway's doing either: the same is done to another gateway on the hostile client's core, for comparison.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::bad_frames::{masked, open};
use crate::support::client::{Client, Said};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::load::ClearedAtTheEnd;
use crate::support::nats::Nats;

crate::on_both_drivers! {
    beside_each_hostile_conduct_connected_and_new_clients_are_served
    beside_a_crowd_that_joins_no_join_is_refused_and_a_bystander_is_acknowledged
}

crate::long_on_both_drivers! {
    the_p99_of_connected_clients_beside_each_hostile_conduct_is_measured
    the_p99_of_upgrades_beside_malformed_requests_is_measured
    the_p99_of_connected_clients_while_readers_come_back_is_measured
    the_longest_acknowledgement_beside_a_crowd_that_joins_is_measured
}

/// How much is measured: rounds of each kind, and round trips or upgrades in a round; and how many readers come back, to how many
/// small messages that each was not sent.
struct Size {
    rounds: usize,
    round_trips: usize,
    upgrades: usize,
    readers: usize,
    unread: usize,
}

const LONG: Size = Size { rounds: 11, round_trips: 1000, upgrades: 30, readers: 100, unread: 10_000 };
/// Enough to see that all that is measured works.
const SMOKE: Size = Size { rounds: 1, round_trips: 30, upgrades: 3, readers: 5, unread: 500 };

/// What a client does until told to stop.
type Conduct = fn(&Gateway, &AtomicBool);

/// A name, the hostile conduct, and the conduct without the hostility.
const HOSTILITIES: [(&str, Conduct, Conduct); 4] = [
    ("a flood of messages", flood_of_messages, nothing),
    ("a flood of pings that is never read", flood_of_pings, nothing),
    ("connections that come and go with garbage", garbage, nothing),
    ("a reader that has stopped", stopped_reader, reader),
];

/// Clients of a crowd, and rooms that each joins at once.
struct Crowd {
    clients: usize,
    rooms: usize,
}

/// Times without the hostile client, with it at another gateway, and with it at this one.
type Times = [Duration; 3];

fn beside_each_hostile_conduct_connected_and_new_clients_are_served(driver: Driver) {
    let (mut gateway, mut another) = (start(driver), start(driver));
    for hostility in HOSTILITIES {
        connected_clients_beside(hostility, &mut gateway, &mut another, &SMOKE);
    }
    upgrades_beside_malformed_requests(&mut gateway, &mut another, &SMOKE);
    let (mut gateway, mut another) = (start_unlimited(driver), start_unlimited(driver));
    connected_clients_while_readers_come_back(&mut gateway, &mut another, &SMOKE);
}

fn the_p99_of_connected_clients_beside_each_hostile_conduct_is_measured(driver: Driver) {
    on_cores_of_their_own([start(driver), start(driver)], |mut gateway, mut another| {
        for hostility in HOSTILITIES {
            let times = connected_clients_beside(hostility, &mut gateway, &mut another, &LONG);
            print_measured(hostility.0, driver, times);
        }
    });
}

fn the_p99_of_upgrades_beside_malformed_requests_is_measured(driver: Driver) {
    on_cores_of_their_own([start(driver), start(driver)], |mut gateway, mut another| {
        let times = upgrades_beside_malformed_requests(&mut gateway, &mut another, &LONG);
        print_measured("upgrades beside ten malformed requests a second", driver, times);
    });
}

fn the_p99_of_connected_clients_while_readers_come_back_is_measured(driver: Driver) {
    on_cores_of_their_own([start_unlimited(driver), start_unlimited(driver)], |mut gateway, mut another| {
        let times = connected_clients_while_readers_come_back(&mut gateway, &mut another, &LONG);
        print_measured("a hundred readers of small messages that come back", driver, times);
    });
}

fn beside_a_crowd_that_joins_no_join_is_refused_and_a_bystander_is_acknowledged(driver: Driver) {
    beside_a_crowd_that_joins(driver, &Crowd { clients: 5, rooms: 400 });
}

fn the_longest_acknowledgement_beside_a_crowd_that_joins_is_measured(driver: Driver) {
    let times = beside_a_crowd_that_joins(driver, &Crowd { clients: 40, rooms: 10_000 });
    print_measured("400,000 joins at once", driver, times);
}

/// The line that scripts/reliability/bounds.py reads.
fn print_measured(what: &str, driver: Driver, times: Times) {
    let [without, elsewhere, beside] = times.map(|time| time.as_micros());
    println!("measured: {what} | {} | {without} | {elsewhere} | {beside}", driver.name());
}

fn start(driver: Driver) -> Gateway {
    Gateway::start(driver, &["--shards", "1", "--connection-rate", "0", "--message-rate", "1000"])
}

/// The same for a publisher of more than a client may usually send.
fn start_unlimited(driver: Driver) -> Gateway {
    Gateway::start(driver, &["--shards", "1", "--connection-rate", "0", "--message-rate", "0"])
}

fn on_cores_of_their_own([gateway, another]: [Gateway; 2], story: impl FnOnce(Gateway, Gateway)) {
    let awake = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let _asleep = ClearedAtTheEnd(&awake);
        if keep_apart(&gateway, &another) {
            for core in ["0", "1"] {
                scope.spawn(|| keep_awake(core, &awake));
            }
        } else {
            println!(
                "not apart: taskset or chrt is not permitted, or there is one core: the times are the host's as much as the gateway's"
            );
        }
        story(gateway, another);
    });
}

/// The median over the rounds of the 99th percentile of what a message takes from one connected client to another.
fn connected_clients_beside(
    (_, hostile, usual): (&str, Conduct, Conduct),
    gateway: &mut Gateway,
    another: &mut Gateway,
    size: &Size,
) -> Times {
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("pair"));
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    // In turns, so that whatever else the host does falls on all alike.
    for _ in 0..size.rounds {
        times[0].push(p99(during(usual, gateway, || round_trips(&mut pair, size.round_trips))));
        // What it said is still being read, a little every tick.
        gateway.wait_for("ws_connections_active", 2.0);
        times[1].push(p99(during(hostile, another, || round_trips(&mut pair, size.round_trips))));
        another.wait_for("ws_connections_active", 0.0);
        times[2].push(p99(during(hostile, gateway, || round_trips(&mut pair, size.round_trips))));
        gateway.wait_for("ws_connections_active", 2.0);
    }
    drop(pair);
    gateway.wait_for("ws_connections_active", 0.0);
    times.map(|mut rounds| {
        rounds.sort();
        rounds[rounds.len() / 2]
    })
}

/// The 99th percentile over all rounds of what an upgrade takes.
fn upgrades_beside_malformed_requests(gateway: &mut Gateway, another: &mut Gateway, size: &Size) -> Times {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        times[0].extend(upgrades(gateway, size.upgrades));
        times[1].extend(during(malformed_requests, another, || upgrades(gateway, size.upgrades)));
        another.wait_for("ws_sockets", 0.0);
        times[2].extend(during(malformed_requests, gateway, || upgrades(gateway, size.upgrades)));
        gateway.wait_for("ws_sockets", 0.0);
    }
    times.map(p99)
}

/// The 99th percentile over all rounds of what a message takes, from when readers that had stopped read again until all is read.
fn connected_clients_while_readers_come_back(gateway: &mut Gateway, another: &mut Gateway, size: &Size) -> Times {
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("pair"));
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        times[0].extend(while_they_read(&mut stopped_readers(gateway, size.readers, 0), &mut pair));
        gateway.wait_for("ws_connections_active", 2.0);
        times[1].extend(while_they_read(&mut stopped_readers(another, size.readers, size.unread), &mut pair));
        another.wait_for("ws_connections_active", 0.0);
        times[2].extend(while_they_read(&mut stopped_readers(gateway, size.readers, size.unread), &mut pair));
        gateway.wait_for("ws_connections_active", 2.0);
    }
    times.map(p99)
}

/// Members that have not read while small messages were published to them, which their outboxes hold. The last message is larger.
fn stopped_readers(gateway: &mut Gateway, readers: usize, unread: usize) -> Vec<TcpStream> {
    const FILLER: [u8; 16 * 1024] = [b'x'; 16 * 1024];
    let mut publisher = Client::raw(gateway.port, "/raw/backlog");
    let streams: Vec<TcpStream> = (0..readers)
        .map(|_| {
            let mut stream = http::connect(gateway.port);
            setsockopt(&stream, sockopt::RcvBuf, &4096).unwrap();
            open(&mut stream, "/raw/backlog");
            stream
        })
        .collect();
    let mut publish = |message: &[u8], times: usize| {
        // Its own messages come back to it: so many are under way at most.
        for sent in (0..times).collect::<Vec<_>>().chunks(200) {
            sent.iter().for_each(|_| publisher.say_binary(message));
            sent.iter().for_each(|_| assert!(matches!(publisher.next(), Said::Binary(octets) if octets == message)));
        }
    };
    if unread > 0 {
        // More than the sockets hold, so that what follows waits in the outboxes.
        while gateway.metrics().sum("ws_outbox_unread_bytes") < (readers * FILLER.len()) as f64 {
            publish(&FILLER, 1);
        }
        publish(b"abc", unread);
    }
    publish(b"the end", 1);
    streams
}

/// What messages of `pair` take while all of `readers` read until the end.
fn while_they_read(readers: &mut [TcpStream], pair: &mut [Client; 2]) -> Vec<Duration> {
    let reading = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _read = ClearedAtTheEnd(&reading);
            schedule("chrt", &["-o", "-p", "0"], nix::unistd::gettid().as_raw());
            read_to_the_end(readers);
        });
        let mut times = round_trips(pair, 3);
        while reading.load(Ordering::Relaxed) {
            times.extend(round_trips(pair, 1));
        }
        times
    })
}

/// Reads in turns, as clients on many hosts would.
fn read_to_the_end(readers: &mut [TcpStream]) {
    const LAST: &[u8] = b"the end";
    let mut octets = [0; 64 * 1024];
    // Each with the last octets that it read.
    let mut left: Vec<_> = readers.iter_mut().map(|stream| (stream, Vec::new())).collect();
    left.iter().for_each(|(stream, _)| stream.set_nonblocking(true).unwrap());
    while !left.is_empty() {
        left.retain_mut(|(stream, tail)| match stream.read(&mut octets) {
            Ok(0) => panic!("a reader that came back was closed"),
            Ok(read) => {
                tail.extend_from_slice(&octets[read.saturating_sub(LAST.len())..read]);
                tail.drain(..tail.len().saturating_sub(LAST.len()));
                tail != LAST
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                true
            }
        });
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The longest acknowledgement that a client in a room of its own gets, before and while a crowd joins rooms of the broker; no join is
/// refused, and the client gets each message of its room.
fn beside_a_crowd_that_joins(driver: Driver, crowd: &Crowd) -> Times {
    let broker = Nats::start();
    let config = format!("message_rate = 0\n[limits]\nrooms_per_connection = {}", crowd.rooms);
    let arguments = ["--nats-url", &broker.url(), "--shards", "1", "--connection-rate", "0"];
    let gateway = Gateway::on(driver).args(&arguments).config(&config).start();
    let mut bystander = Client::connect(gateway.port);
    bystander.join("bystander");
    let quiet = (0..20).map(|_| acknowledged(&mut bystander)).max().unwrap();
    let joining = AtomicBool::new(true);
    let longest = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _joined = ClearedAtTheEnd(&joining);
            std::thread::scope(|scope| {
                for number in 0..crowd.clients {
                    scope.spawn(move || join_at_once(Client::connect(gateway.port), number, crowd.rooms));
                }
            });
        });
        let mut longest = Duration::ZERO;
        while joining.load(Ordering::Relaxed) {
            longest = longest.max(acknowledged(&mut bystander));
            std::thread::sleep(Duration::from_millis(20));
        }
        longest
    });
    [quiet, quiet, longest]
}

/// What it takes until a publication is acknowledged by the broker; it comes to its publisher too.
fn acknowledged(client: &mut Client) -> Duration {
    let begun = Instant::now();
    client.say(json!({"type": "message", "roomId": "bystander", "content": 1, "ack": true, "ref": 1}));
    let mut took = None;
    let mut received = false;
    while took.is_none() || !received {
        let said = client.json();
        match said["type"].as_str() {
            Some("ack") => took = Some(begun.elapsed()),
            Some("message") => received = true,
            _ => panic!("a bystander is told {said}"),
        }
    }
    took.unwrap()
}

/// Asks for all rooms in one go, and reads the answers meanwhile.
fn join_at_once(mut client: Client, number: usize, rooms: usize) {
    let mut writer = client.stream().try_clone().unwrap();
    let asking = std::thread::spawn(move || {
        let joins =
            (0..rooms).map(|room| json!({"type": "join", "roomId": format!("crowd.{number}.{room}")}).to_string());
        let frames: Vec<u8> = joins.flat_map(|join| masked(0x81, join.as_bytes())).collect();
        writer.write_all(&frames).unwrap();
    });
    for _ in 0..rooms {
        let said = client.json();
        assert_eq!(said["type"], "joined", "{said}");
    }
    asking.join().unwrap();
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// What is seen while a client behaves so at `gateway`.
fn during<T>(conduct: Conduct, gateway: &Gateway, see: impl FnOnce() -> T) -> T {
    let goes_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let _ends = ClearedAtTheEnd(&goes_on);
        scope.spawn(|| {
            schedule("chrt", &["-o", "-p", "0"], nix::unistd::gettid().as_raw());
            conduct(gateway, &goes_on);
        });
        see()
    })
}

/// The gateway alone on one core; on the other the second gateway, and this thread, which goes before it and before the threads
/// that it starts. Whether it is so.
fn keep_apart(gateway: &Gateway, another: &Gateway) -> bool {
    let this = nix::unistd::gettid().as_raw();
    let (gateway, another) = (gateway.pid() as i32, another.pid() as i32);
    schedule("taskset", &["-a", "-c", "-p", "0"], gateway)
        && schedule("chrt", &["-a", "-r", "-p", "10"], gateway)
        && schedule("taskset", &["-a", "-c", "-p", "1"], another)
        && schedule("taskset", &["-c", "-p", "1"], this)
        && schedule("chrt", &["-r", "-p", "50"], this)
}

/// Takes what nothing else wants of a core.
fn keep_awake(core: &str, awake: &AtomicBool) {
    let this = nix::unistd::gettid().as_raw();
    if schedule("chrt", &["-i", "-p", "0"], this) && schedule("taskset", &["-c", "-p", core], this) {
        while awake.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }
}

/// Runs taskset(1) or chrt(1) on a thread or process; whether it did.
fn schedule(command: &str, arguments: &[&str], id: i32) -> bool {
    let quiet =
        Command::new(command).args(arguments).arg(id.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// What a message takes from one client to the other, at most 1,000 a second.
fn round_trips(pair: &mut [Client; 2], count: usize) -> Vec<Duration> {
    let [one, two] = pair;
    let times = (0..count).map(|number| {
        std::thread::sleep(Duration::from_millis(1));
        let begun = Instant::now();
        one.publish("pair", json!(number));
        assert_eq!(two.content("pair"), number);
        let took = begun.elapsed();
        assert_eq!(one.content("pair"), number);
        took
    });
    times.collect()
}

/// What it takes from connect(2) to the 101, for clients that come one after the other.
fn upgrades(gateway: &Gateway, count: usize) -> Vec<Duration> {
    let times = (0..count).map(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/raw/upgraded");
        begun.elapsed()
    });
    times.collect()
}

/// Ten a second, whenever each is answered: garbage, and upgrades of a path that is not served, as of a client with a wrong setting.
fn malformed_requests(gateway: &Gateway, goes_on: &AtomicBool) {
    let mut unanswered = VecDeque::new();
    while goes_on.load(Ordering::Relaxed) {
        let mut stream = http::connect(gateway.port);
        let kinds = [(vec![0xff; 512], 400), (http::upgrade("/nowhere", &[]).into_bytes(), 404)];
        let (octets, status) = &kinds[unanswered.len() % 2];
        let _ = stream.write_all(octets);
        unanswered.push_back((stream, *status));
        if unanswered.len() > 20
            && let Some((mut oldest, status)) = unanswered.pop_front()
        {
            assert_eq!(http::read_answer(&mut oldest).unwrap().status, status);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    unanswered.iter_mut().for_each(|(stream, status)| assert_eq!(http::read_answer(stream).unwrap().status, *status));
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
    // It waits where the gateway holds it back: a client that spins would take the time of all others on this host.
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
        // Its address is dropped after a while, and the clients that are measured have another one.
        let Ok(mut stream) = http::connect_from(Ipv4Addr::new(127, 0, 0, 2), gateway.port) else { continue };
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

/// A client publishes 3.3 MB a second in a room with one more member, which reads them; or does not, is closed for that, and
/// connects again three times a second.
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
