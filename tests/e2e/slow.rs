//! Readers that are slow, and those that only pretend to read: bounded memory, undisturbed neighbours. Each story is told of large
//! messages, of which a few fill an outbox, and of small ones of some ten bytes, of which it takes thousands.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use serde_json::json;

use crate::bad_frames::open;
use crate::support::checker::{self, Heard};
use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http::{self, LONGEST_WAIT};

crate::on_both_drivers! {
    a_reader_that_stopped_is_closed_with_1013_and_its_neighbours_get_everything
    a_reader_of_small_messages_that_stopped_is_closed_with_1013_and_its_neighbours_get_everything
    where_the_policy_says_so_the_oldest_is_dropped_and_told
    where_the_policy_says_so_the_oldest_small_messages_are_dropped_and_told
    a_trickling_reader_makes_progress_and_still_stalls
    a_trickling_reader_of_small_messages_makes_progress_and_still_stalls
    all_outboxes_together_are_bounded
    all_outboxes_of_small_messages_together_are_bounded
    a_broadcast_that_stopped_readers_share_costs_the_budget_of_all_outboxes_once
    outboxes_of_small_messages_take_no_more_memory_than_the_budget_of_all_outboxes
}

/// A socket whose peer cannot hand the kernel much: its receive buffer is small from the start.
pub(crate) fn narrow(port: u16) -> TcpStream {
    let socket: OwnedFd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::RcvBuf, &4096).unwrap();
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    socket::connect(socket.as_raw_fd(), &address).unwrap();
    let stream = TcpStream::from(socket);
    http::be_patient(&stream);
    stream
}

/// Payload of a large message.
const LARGE_BYTES: usize = 16 * 1024;
/// Messages that wait for a shard together are coalesced into one chunk of an outbox. A chunk for each small message needs one
/// shard, where a message is delivered to all members before the publisher hears that it is back.
const ONE_BY_ONE: [&str; 4] = ["--shards", "1", "--message-rate", "0"];
/// A reader that has stopped does not answer its close either.
const CLOSE: &str = "close_deadline = \"1s\"";
/// The smallest outbox that is allowed: four coalesced buffers.
const SMALL_OUTBOX: &str = "message_bytes = \"1KiB\"\noutbox_bytes = \"128KiB\"";

/// Publishes numbered messages.
enum Publisher {
    /// Of 16 KiB each, over HTTP.
    Large,
    /// Of some ten bytes each, one by one: a member waits for each of its messages to come back before it publishes the next.
    Small(Box<Client>),
}

impl Publisher {
    fn small(gateway: &Gateway, room: &str) -> Self {
        let mut client = Client::connect(gateway.port);
        client.join(room);
        Self::Small(Box::new(client))
    }

    /// Publishes until something holds; the number after the last one.
    fn publish_until(&mut self, gateway: &Gateway, room: &str, from: u64, holds: impl Fn(&Gateway) -> bool) -> u64 {
        let mut next = from;
        // Of time, not of octets: a reader that is closed is counted after the close deadline, until when a fast host publishes
        // 100 MB.
        let deadline = Instant::now() + LONGEST_WAIT;
        while !holds(gateway) {
            next = self.publish_some(gateway, room, next);
            assert!(Instant::now() < deadline, "{next} messages and nothing happened; {:?}", gateway.metrics());
        }
        next
    }

    /// A large message, or some small ones, because what a story waits for costs a request to look at.
    fn publish_some(&mut self, gateway: &Gateway, room: &str, from: u64) -> u64 {
        match self {
            Self::Large => {
                let body = json!({"p": 0, "n": from, "padding": "x".repeat(LARGE_BYTES)}).to_string();
                assert_eq!(gateway.publish(room, &body), 202);
                from + 1
            }
            Self::Small(client) => {
                for number in from..from + 500 {
                    client.publish(room, checker::numbered(0, number));
                    assert_eq!(client.content(room)["n"], number);
                }
                from + 500
            }
        }
    }
}

/// What a neighbour hears: all messages, once and in order; their count.
fn hear_all(client: &mut Client) -> u64 {
    let mut next = 0;
    loop {
        let content = client.content("lobby");
        if content == "end" {
            return next;
        }
        assert_eq!(content["n"], next);
        next += 1;
    }
}

fn a_reader_that_stopped_is_closed_with_1013_and_its_neighbours_get_everything(driver: Driver) {
    let gateway = Gateway::on(driver).config(&format!("[limits]\n{CLOSE}")).start();
    let mut stopped = Client::over(narrow(gateway.port), "/", &[]).unwrap().0;
    assert_eq!(stopped.json()["type"], "welcome");
    stopped.join("lobby");
    a_stopped_reader_is_closed(gateway, stopped, Publisher::Large);
}

/// By a raw client, whose frames carry nothing but the content.
fn a_reader_of_small_messages_that_stopped_is_closed_with_1013_and_its_neighbours_get_everything(driver: Driver) {
    let config = format!("[limits]\n{CLOSE}\n{SMALL_OUTBOX}");
    let mut gateway = Gateway::on(driver).args(&ONE_BY_ONE).config(&config).start();
    let stopped = Client::over(narrow(gateway.port), "/raw/lobby", &[]).unwrap().0;
    gateway.wait_for("ws_rooms_active", 1.0);
    let publisher = Publisher::small(&gateway, "lobby");
    a_stopped_reader_is_closed(gateway, stopped, publisher);
}

fn a_stopped_reader_is_closed(mut gateway: Gateway, mut stopped: Client, mut publisher: Publisher) {
    let mut neighbours: Vec<Client> = (0..4).map(|_| Client::connect(gateway.port)).collect();
    neighbours.iter_mut().for_each(|client| client.join("lobby"));
    let open = |gateway: &Gateway| gateway.get("/v1/connections").text().matches("\"open\"").count();
    let (before, all) = (gateway.memory_bytes(), open(&gateway));
    std::thread::scope(|scope| {
        let gateway = &gateway;
        let heard: Vec<_> = neighbours.iter_mut().map(|client| scope.spawn(move || hear_all(client))).collect();
        let fills = publisher.publish_until(gateway, "lobby", 0, |gateway| {
            let metrics = gateway.metrics();
            assert!(metrics.value("ws_outbox_max_bytes") <= 300.0 * 1024.0);
            metrics.value("ws_outbox_bytes") > 100e3
        });
        let published = publisher.publish_until(gateway, "lobby", fills, |gateway| open(gateway) == all - 1);
        assert_eq!(gateway.publish("lobby", "\"end\""), 202);
        let heard: Vec<u64> = heard.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(heard, [published; 4]);
    });
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "one slow reader took {grown} bytes");
    // Now that it reads: what was queued, as far as it was sent, and then why.
    assert!(matches!(stopped.end(), End::Closed(1013, _) | End::Lost));
    gateway.wait_for("ws_closes_total{reason=\"slow-reader\"}", 1.0);
    assert_eq!(gateway.metrics().sum("ws_closes_total"), 1.0, "no other connection is closed");
}

fn where_the_policy_says_so_the_oldest_is_dropped_and_told(driver: Driver) {
    let config = "[[rooms]]\nmatch = \"dash.*\"\nslow = \"drop-oldest\"\n[limits]\nwrite_stall = \"5m\"";
    let gateway = Gateway::on(driver).config(config).start();
    the_oldest_is_dropped_and_told(gateway, |_| Publisher::Large);
}

fn where_the_policy_says_so_the_oldest_small_messages_are_dropped_and_told(driver: Driver) {
    let config = format!(
        "[[rooms]]\nmatch = \"dash.*\"\nslow = \"drop-oldest\"\n[limits]\n{SMALL_OUTBOX}\nwrite_stall = \"5m\""
    );
    let gateway = Gateway::on(driver).args(&ONE_BY_ONE).config(&config).start();
    the_oldest_is_dropped_and_told(gateway, |gateway| Publisher::small(gateway, "dash.cpu"));
}

fn the_oldest_is_dropped_and_told(mut gateway: Gateway, publisher: impl Fn(&Gateway) -> Publisher) {
    let mut slow = Client::over(narrow(gateway.port), "/", &[]).unwrap().0;
    assert_eq!(slow.json()["type"], "welcome");
    slow.join("dash.cpu");
    let dropped = "ws_dropped_total{reason=\"outbox\"}";
    let mut publisher = publisher(&gateway);
    let enough = |gateway: &Gateway| gateway.metrics().value(dropped) >= 5.0;
    let published = publisher.publish_until(&gateway, "dash.cpu", 0, enough);
    assert_eq!(gateway.publish("dash.cpu", "\"newest\""), 202);
    // It reads on, through a window that is not narrow any more, or the kernel's probes of it would take the time: the newest is
    // there, what is there is in order, and it was told of what is not.
    setsockopt(slow.stream(), sockopt::RcvBuf, &(1 << 20)).unwrap();
    let mut heard = Vec::new();
    loop {
        let value = slow.json();
        if value["type"] == "gap" {
            assert_eq!((&value["roomId"], &value["reason"]), (&json!("dash.cpu"), &json!("outbox")));
        }
        if value["content"] == "newest" {
            break;
        }
        heard.extend(Heard::of(&value));
    }
    let verdict = checker::judge(&[(0, published)].into(), &[heard], &[]);
    verdict.assert_promises();
    assert_eq!(verdict.told as f64, gateway.metrics().value(dropped), "no more is missing than was dropped");
    gateway.wait_for("ws_outbox_bytes", 0.0);
    assert_eq!(gateway.metrics().sum("ws_closes_total"), 0.0);
}

const STALL: &str = "[limits]\nwrite_stall = \"1s\"\nclose_deadline = \"1s\"\noutbox_bytes = \"4MiB\"";

fn a_trickling_reader_makes_progress_and_still_stalls(driver: Driver) {
    let gateway = Gateway::on(driver).config(STALL).start();
    a_trickling_reader_stalls(gateway, |_| Publisher::Large, 500e3);
}

fn a_trickling_reader_of_small_messages_makes_progress_and_still_stalls(driver: Driver) {
    let gateway = Gateway::on(driver).args(&ONE_BY_ONE).config(STALL).start();
    a_trickling_reader_stalls(gateway, |gateway| Publisher::small(gateway, "lobby"), 10e3);
}

fn a_trickling_reader_stalls(mut gateway: Gateway, publisher: impl Fn(&Gateway) -> Publisher, outbox_bytes: f64) {
    let mut trickling = narrow(gateway.port);
    open(&mut trickling, "/raw/lobby");
    gateway.wait_for("ws_rooms_active", 1.0);
    let mut publisher = publisher(&gateway);
    publisher.publish_until(&gateway, "lobby", 0, |gateway| gateway.metrics().value("ws_outbox_bytes") > outbox_bytes);
    let octets = [0; 64];
    let stalled = "ws_closes_total{reason=\"write-stall\"}";
    trickling.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    gateway.wait("it counts as stalled", |gateway| {
        let _ = (&trickling).read(&mut octets.clone());
        gateway.metrics().value(stalled) == 1.0
    });
}

const TOTAL_BYTES: f64 = 1024.0 * 1024.0;
/// The last reader that is left may hold all of it: no outbox is full by itself.
const BUDGET: &str = "[limits]\noutbox_total_bytes = \"1MiB\"\noutbox_bytes = \"1MiB\"\nclose_deadline = \"1s\"";

fn all_outboxes_together_are_bounded(driver: Driver) {
    let gateway = Gateway::on(driver).config(BUDGET).start();
    all_outboxes_are_bounded(&gateway, "/", Publisher::Large, TOTAL_BYTES);
}

fn all_outboxes_of_small_messages_together_are_bounded(driver: Driver) {
    let config = format!("[limits]\n{CLOSE}\n{SMALL_OUTBOX}\noutbox_total_bytes = \"128KiB\"");
    let gateway = Gateway::on(driver).args(&ONE_BY_ONE).config(&config).start();
    let publisher = Publisher::small(&gateway, "lobby.0");
    all_outboxes_are_bounded(&gateway, "/raw", publisher, TOTAL_BYTES / 8.0);
}

/// A client that does not read; through the path of a room, or a member of it.
fn stopped_reader(gateway: &Gateway, path: &str, room: &str) -> Client {
    if path == "/raw" {
        return Client::over(narrow(gateway.port), &format!("/raw/{room}"), &[]).unwrap().0;
    }
    let mut client = Client::over(narrow(gateway.port), path, &[]).unwrap().0;
    assert_eq!(client.json()["type"], "welcome");
    client.join(room);
    client
}

/// Each reader is in a room of its own: nothing that waits for one waits for another.
fn all_outboxes_are_bounded(gateway: &Gateway, path: &str, mut publisher: Publisher, total_bytes: f64) {
    const READERS: usize = 8;
    let room = |number: u64| format!("lobby.{}", number as usize % READERS);
    let stopped: Vec<Client> = (0..READERS as u64).map(|number| stopped_reader(gateway, path, &room(number))).collect();
    if let Publisher::Small(client) = &mut publisher {
        (1..READERS as u64).for_each(|number| client.join(&room(number)));
    }
    let (mut next, deadline) = (0, Instant::now() + LONGEST_WAIT);
    loop {
        let metrics = gateway.metrics();
        let outboxes = metrics.value("ws_outbox_bytes");
        assert!(outboxes < total_bytes * 1.5, "{outboxes} bytes in outboxes");
        if metrics.value("ws_closes_total{reason=\"outbox-budget\"}") >= 1.0 {
            break;
        }
        assert!(Instant::now() < deadline, "{metrics:?}");
        for _ in 0..READERS {
            publisher.publish_some(gateway, &room(next), next);
            next += 1;
        }
    }
    assert_eq!(gateway.metrics().value("ws_closes_total{reason=\"slow-reader\"}"), 0.0);
    drop(stopped);
}

fn a_broadcast_that_stopped_readers_share_costs_the_budget_of_all_outboxes_once(driver: Driver) {
    // Each outbox was charged with the whole buffer that all of them share: readers were closed over memory that nothing took.
    const READERS: usize = 20;
    let gateway = Gateway::on(driver).args(&["--shards", "1"]).config(BUDGET).start();
    let stopped: Vec<Client> = (0..READERS).map(|_| stopped_reader(&gateway, "/", "lobby")).collect();
    let all_wait = |gateway: &Gateway| gateway.metrics().value("ws_outbox_unread_bytes") > TOTAL_BYTES * 5.0;
    Publisher::Large.publish_until(&gateway, "lobby", 0, all_wait);
    let metrics = gateway.metrics();
    assert!(metrics.value("ws_outbox_bytes") < TOTAL_BYTES, "{metrics:?}");
    assert_eq!(metrics.sum("ws_closes_total"), 0.0);
    drop(stopped);
}

fn outboxes_of_small_messages_take_no_more_memory_than_the_budget_of_all_outboxes(driver: Driver) {
    // An outbox was charged the octets of its frames and nothing for what each frame took beside them: of frames of three octets
    // 4 MiB for the 256 KiB that it may hold. A node of 512 MiB with 200 readers that had stopped was killed by its limit.
    const READERS: usize = 64;
    const EACH: f64 = 30_000.0;
    let config = "[limits]\nwrite_stall = \"5m\"\nclose_deadline = \"1s\"";
    let gateway = Gateway::on(driver).args(&ONE_BY_ONE).config(config).start();
    let stopped: Vec<Client> = (0..READERS).map(|_| stopped_reader(&gateway, "/raw", "lobby")).collect();
    let mut publisher = Client::connect(gateway.port);
    publisher.join("lobby");
    // Their sockets take large messages faster.
    let unread = |gateway: &Gateway| gateway.metrics().value("ws_outbox_unread_bytes") / READERS as f64;
    let full = |gateway: &Gateway| unread(gateway) > LARGE_BYTES as f64;
    let large = Publisher::Large.publish_until(&gateway, "lobby", 0, full);
    (0..large).for_each(|number| assert_eq!(publisher.content("lobby")["n"], number));
    let (before, held, begun) = (gateway.memory_bytes(), gateway.metrics().value("ws_outbox_bytes"), unread(&gateway));
    for number in 0.. {
        publisher.publish("lobby", json!(number % 10));
        assert_eq!(publisher.content("lobby"), number % 10);
        if number % 500 == 0 && unread(&gateway) > begun + EACH {
            break;
        }
    }
    let (metrics, grown) = (gateway.metrics(), gateway.memory_bytes().saturating_sub(before) as f64);
    let counted = metrics.value("ws_outbox_bytes") - held;
    assert_eq!(metrics.sum("ws_closes_total"), 0.0);
    assert!(grown < 1.5 * counted + 4e6, "outboxes of {counted} bytes took {grown} bytes of memory");
    drop(stopped);
}
