//! Readers that are slow, and those that only pretend to read: bounded memory, undisturbed neighbours.

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
use crate::support::http::{self, PATIENCE};

crate::on_both_drivers! {
    a_reader_that_stopped_is_closed_with_1013_and_its_neighbours_get_everything
    where_the_policy_says_so_the_oldest_is_dropped_and_told
    a_trickling_reader_makes_progress_and_still_stalls
    all_outboxes_together_are_bounded
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

const CHUNK: usize = 16 * 1024;

/// Publishes numbered messages of 16 KiB over HTTP until something holds.
fn publish_until(gateway: &Gateway, room: &str, from: u64, holds: impl Fn(&Gateway) -> bool) -> u64 {
    let padding = "x".repeat(CHUNK);
    let mut number = from;
    // Of time, not of octets: who is closed over them is counted after the close deadline, until when a fast host publishes 100 MB.
    let deadline = Instant::now() + PATIENCE;
    while !holds(gateway) {
        let body = json!({"p": 0, "n": number, "padding": padding}).to_string();
        assert_eq!(gateway.publish(room, &body), 202);
        number += 1;
        assert!(Instant::now() < deadline, "{number} messages and nothing happened; {:?}", gateway.metrics());
    }
    number
}

fn a_reader_that_stopped_is_closed_with_1013_and_its_neighbours_get_everything(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut stopped = Client::over(narrow(gateway.port), "/", &[]).unwrap().0;
    assert_eq!(stopped.json()["type"], "welcome");
    stopped.join("lobby");
    let mut neighbours: Vec<Client> = (0..4).map(|_| Client::connect(gateway.port)).collect();
    neighbours.iter_mut().for_each(|client| client.join("lobby"));
    let before = gateway.memory_bytes();
    std::thread::scope(|scope| {
        let gateway = &gateway;
        let heard: Vec<_> = neighbours
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    let mut next = 0;
                    loop {
                        let content = client.content("lobby");
                        if content == "end" {
                            return next;
                        }
                        assert_eq!(content["n"], next);
                        next += 1;
                    }
                })
            })
            .collect();
        let fills = publish_until(gateway, "lobby", 0, |gateway| {
            let metrics = gateway.metrics();
            assert!(metrics.value("ws_outbox_max_bytes") <= 300.0 * 1024.0);
            metrics.value("ws_outbox_bytes") > 100e3
        });
        let published = publish_until(gateway, "lobby", fills, |gateway| {
            gateway.get("/v1/connections").text().matches("\"open\"").count() == 4
        });
        assert_eq!(gateway.publish("lobby", "\"end\""), 202);
        let heard: Vec<u64> = heard.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(heard, [published; 4]);
    });
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "one slow reader took {grown} bytes");
    // Now that it reads: what was queued, as far as it was sent, and then why.
    assert!(matches!(stopped.end(), End::Closed(1013, _) | End::Lost));
    gateway.wait_for("ws_closes_total{reason=\"slow-reader\"}", 1.0);
}

fn where_the_policy_says_so_the_oldest_is_dropped_and_told(driver: Driver) {
    let config = "[[rooms]]\nmatch = \"dash.*\"\nslow = \"drop-oldest\"\n[limits]\nwrite_stall = \"5m\"";
    let mut gateway = Gateway::on(driver).config(config).start();
    let mut slow = Client::over(narrow(gateway.port), "/", &[]).unwrap().0;
    assert_eq!(slow.json()["type"], "welcome");
    slow.join("dash.cpu");
    let dropped = "ws_dropped_total{reason=\"outbox\"}";
    let published = publish_until(&gateway, "dash.cpu", 0, |gateway| gateway.metrics().value(dropped) >= 5.0);
    assert_eq!(gateway.publish("dash.cpu", "\"newest\""), 202);
    // It reads on: the newest is there, what is there is in order, and it was told of what is not.
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
    assert!(verdict.told >= 5, "{}", verdict.line());
    gateway.wait_for("ws_outbox_bytes", 0.0);
    assert_eq!(gateway.metrics().value("ws_closes_total{reason=\"slow-reader\"}"), 0.0);
}

fn a_trickling_reader_makes_progress_and_still_stalls(driver: Driver) {
    let config = "[limits]\nwrite_stall = \"1s\"\noutbox_bytes = \"4MiB\"";
    let mut gateway = Gateway::on(driver).config(config).start();
    let mut trickling = narrow(gateway.port);
    open(&mut trickling, "/raw/lobby");
    gateway.wait_for("ws_rooms_active", 1.0);
    publish_until(&gateway, "lobby", 0, |gateway| gateway.metrics().value("ws_outbox_bytes") > 500e3);
    let octets = [0; 64];
    let stalled = "ws_closes_total{reason=\"write-stall\"}";
    trickling.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    gateway.wait("it counts as stalled", |gateway| {
        let _ = (&trickling).read(&mut octets.clone());
        gateway.metrics().value(stalled) == 1.0
    });
}

fn all_outboxes_together_are_bounded(driver: Driver) {
    const TOTAL: f64 = 1024.0 * 1024.0;
    // Whoever is the last one left may hold all of it: nobody is full by himself.
    let config = "[limits]\noutbox_total_bytes = \"1MiB\"\noutbox_bytes = \"1MiB\"";
    let gateway = Gateway::on(driver).config(config).start();
    let stopped: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = Client::over(narrow(gateway.port), "/", &[]).unwrap().0;
            assert_eq!(client.json()["type"], "welcome");
            client.join("lobby");
            client
        })
        .collect();
    publish_until(&gateway, "lobby", 0, |gateway| {
        let metrics = gateway.metrics();
        let outboxes = metrics.value("ws_outbox_bytes");
        assert!(outboxes < TOTAL * 1.5, "{outboxes} bytes in outboxes");
        metrics.value("ws_closes_total{reason=\"outbox-budget\"}") >= 1.0
    });
    assert_eq!(gateway.metrics().value("ws_closes_total{reason=\"slow-reader\"}"), 0.0, "none was full by itself");
    drop(stopped);
}
