//! One thread that stands still, lags or panics, while the others run on: held from outside, as by a debugger.
#![cfg(target_arch = "x86_64")]

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::bad_frames::{masked, open};
use crate::support::checker::{self, Heard};
use crate::support::client::{Client, End};
use crate::support::debugger::Held;
use crate::support::gateway::{Driver, Gateway};
use crate::support::incident::Incident;
use crate::support::load::Load;
use crate::support::nats::Nats;

crate::on_both_drivers! {
    a_shard_that_stands_still_stalls_neither_the_relay_nor_other_shards
    a_shard_whose_mailbox_overflowed_tells_its_rooms
    what_one_client_says_at_once_passes_through_the_smallest_mailbox
    a_shard_that_lags_shows_in_the_metrics
    a_shard_that_stands_still_for_long_makes_the_node_unfit_to_live
    a_relay_that_stands_still_for_long_makes_the_node_unfit_to_live
    a_panic_in_a_shard_ends_the_process_with_a_failure
    a_panic_in_the_relay_ends_the_process_with_a_failure
    a_shard_that_can_accept_no_connection_any_more_ends_the_process_with_a_failure
    a_relay_that_stands_still_leaves_connections_and_other_rooms_alone
    without_a_broker_messages_cross_while_the_relays_thread_stands_still
    a_kernel_without_buffers_ends_the_connection_concerned_and_no_other
}

/// Members of a room on each of the two shards, three on either.
fn members(gateway: &Gateway) -> [Vec<Client>; 2] {
    let mut members = [Vec::new(), Vec::new()];
    while members.iter().any(|members| members.len() < 3) {
        let mut client = Client::connect(gateway.port);
        client.join("lobby");
        members[client.shard()].push(client);
    }
    members
}

/// A client on shard 1.
fn on_the_other_shard(gateway: &Gateway) -> Client {
    std::iter::repeat_with(|| Client::connect(gateway.port)).find(|client| client.shard() == 1).unwrap()
}

fn a_shard_that_stands_still_stalls_neither_the_relay_nor_other_shards(driver: Driver) {
    let broker = Nats::start();
    let gateway = Gateway::start(driver, &["--nats-url", &broker.url(), "--message-rate", "0"]);
    let [mut stalled, mut others] = members(&gateway);
    let mut publisher = on_the_other_shard(&gateway);
    let held = Held::hold(gateway.pid(), "shard-0");
    let incident = Incident::begin("one shard of two stands still", driver);
    // Clients of the other shard come, go, join, talk and are acknowledged; backends publish.
    for number in 0..500 {
        publisher.publish("lobby", checker::numbered(0, number));
        others.iter_mut().for_each(|member| assert_eq!(member.content("lobby")["n"], number));
    }
    publisher.join("news");
    publisher.say(json!({"type": "message", "roomId": "news", "content": 1, "ack": true, "ref": 1}));
    assert_eq!(publisher.answer("ack")["level"], "broker");
    assert_eq!(gateway.publish("lobby", &checker::numbered(0, 500).to_string()), 202);
    assert_eq!(gateway.get("/live").status, 200);
    drop(held);
    let heard: Vec<Vec<Heard>> =
        stalled.iter_mut().map(|member| (0..501).filter_map(|_| Heard::of(&member.json())).collect()).collect();
    incident.recovered();
    checker::judge(&[(0, 501)].into(), &heard, &[]).assert_nothing_lost();
}

fn a_shard_whose_mailbox_overflowed_tells_its_rooms(driver: Driver) {
    // More than a busy machine lets wait, so that only the stall overflows it, and never takes the last word.
    let config = "[limits]\nmailbox_messages = 512";
    let mut gateway = Gateway::on(driver).args(&["--message-rate", "0"]).config(config).start();
    let [mut stalled, mut others] = members(&gateway);
    let load = Load::default();
    let mut publisher = on_the_other_shard(&gateway);
    let [stalled, others] = std::thread::scope(|scope| {
        let load = &load;
        let stalled: Vec<_> = stalled.iter_mut().map(|client| scope.spawn(move || load.hear(client).0)).collect();
        let others: Vec<_> = others.iter_mut().map(|client| scope.spawn(move || load.hear(client).0)).collect();
        scope.spawn(|| load.publish(&mut publisher, "lobby"));
        let stop = load.stop_at_the_end();
        load.wait_for_more(50);
        let held = Held::hold(gateway.pid(), "shard-0");
        let mut incident = Incident::begin("mailbox of a shard full", driver);
        gateway.wait_for_at_least("ws_dropped_total{reason=\"mailbox\"}", 1.0);
        incident.detected();
        load.wait_for_more(100);
        drop(held);
        incident.lifted();
        gateway.wait_for_at_least("ws_gaps_total{reason=\"mailbox\"}", 3.0);
        incident.recovered();
        load.wait_for_more(50);
        drop(stop);
        [stalled, others].map(|threads| threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>())
    });
    let verdict = load.judge(&stalled, &[]);
    verdict.assert_promises();
    // Each of them was told of each message that was dropped and counted, and of no other.
    let dropped = gateway.metrics().value("ws_dropped_total{reason=\"mailbox\"}");
    assert!(dropped >= 1.0, "the mailbox overflowed");
    assert_eq!((verdict.told as f64, verdict.failed), (stalled.len() as f64 * dropped, 0));
    load.judge(&others, &[]).assert_nothing_lost();
}

fn what_one_client_says_at_once_passes_through_the_smallest_mailbox(driver: Driver) {
    const MESSAGES: usize = 200;
    let config = "[limits]\nmailbox_messages = 1";
    let mut gateway = Gateway::on(driver).args(&["--shards", "1", "--message-rate", "0"]).config(config).start();
    let mut stream = crate::support::http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    stream.write_all(&masked(0x81, b"1").repeat(MESSAGES)).unwrap();
    gateway.wait_for("ws_messages_total{direction=\"outbound\",type=\"message\"}", MESSAGES as f64);
    assert_eq!(gateway.metrics().value("ws_dropped_total{reason=\"mailbox\"}"), 0.0);
}

fn a_shard_that_lags_shows_in_the_metrics(driver: Driver) {
    const LAG: &str = "ws_loop_lag_seconds{shard=\"0\"}";
    let mut gateway = Gateway::start(driver, &[]);
    // In the middle of a turn, and while it waits for something to do.
    assert!(gateway.metrics().value(LAG) < 1.0);
    for (in_a_turn, seconds) in [(true, 2), (false, 4)] {
        let held = Held::hold(gateway.pid(), "shard-0");
        if in_a_turn {
            held.step_into_turn();
        }
        let mut incident = Incident::begin("shard stalled for seconds", driver);
        // The stall is the story.
        std::thread::sleep(Duration::from_secs(seconds));
        drop(held);
        incident.lifted();
        gateway.wait("it shows", |gateway| gateway.metrics().value(LAG) >= seconds as f64 - 0.5);
        incident.detected();
        assert!(gateway.metrics().value("ws_loop_lag_seconds{shard=\"1\"}") < 1.5, "the other one does not lag");
        // The minute's longest turn is no sign that it goes on; a turn of every shard is.
        gateway.wait("it is over", |gateway| gateway.get("/v1/rooms").json()["silentShards"] == 0);
        incident.recovered();
    }
}

/// The relay's thread slept in write(2) of a log that no process read: joins got no answer, nothing was published, and /live was 200.
fn a_relay_that_stands_still_for_long_makes_the_node_unfit_to_live(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let held = Held::hold(gateway.pid(), "relay");
    let mut incident = Incident::begin("relay stalled until /live says so", driver);
    gateway.wait("/live = 503", |gateway| gateway.get("/live").status == 503);
    incident.detected();
    assert!(String::from_utf8_lossy(&gateway.get("/live").body).contains("silent-relay"));
    drop(held);
    incident.lifted();
    gateway.wait("/live = 200", |gateway| gateway.get("/live").status == 200);
    incident.recovered();
}

fn a_shard_that_stands_still_for_long_makes_the_node_unfit_to_live(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let held = Held::hold(gateway.pid(), "shard-0");
    let mut incident = Incident::begin("shard stalled until /live says so", driver);
    gateway.wait("/live = 503", |gateway| gateway.get("/live").status == 503);
    incident.detected();
    drop(held);
    incident.lifted();
    gateway.wait("/live = 200", |gateway| gateway.get("/live").status == 200);
    incident.recovered();
}

fn a_panic_in_a_shard_ends_the_process_with_a_failure(driver: Driver) {
    panic_in("shard-0", "panic in a shard", driver);
}

fn a_panic_in_the_relay_ends_the_process_with_a_failure(driver: Driver) {
    panic_in("relay", "panic in the relay", driver);
}

fn panic_in(thread: &str, fault: &'static str, driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let [mut one, mut two] = members(&gateway);
    let mut incident = Incident::begin(fault, driver);
    Held::hold(gateway.pid(), thread).panic();
    let status = gateway.exit();
    incident.detected();
    // A build that unwinds exits with 1, one that aborts by SIGABRT.
    assert!(!status.success(), "{status}");
    let log = gateway.take_log_of_a_panic();
    assert!(log.contains("called `Option::unwrap()` on a `None` value"), "{log}");
    assert!(status.code().is_none() || log.contains("the node ends"), "{log}");
    one.iter_mut().chain(&mut two).for_each(|client| assert_eq!(client.end(), End::Lost, "nobody is left behind"));
    gateway.restart();
    let [mut again, _] = members(&gateway);
    assert_eq!(gateway.publish("lobby", "\"again\""), 202);
    assert_eq!(again[0].content("lobby"), "again");
    incident.recovered();
}

/// One of two listeners ends: the other shard would live on, and half of those who connect would wait for ever.
fn a_shard_that_can_accept_no_connection_any_more_ends_the_process_with_a_failure(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    let mut incident = Incident::begin("listener of a shard is shut down", driver);
    shut_a_listener_down(&gateway);
    let status = gateway.exit();
    incident.detected();
    assert_eq!(status.code(), Some(1), "{}", gateway.log());
    let log = gateway.log();
    assert!(log.contains("no connection can be accepted") && log.contains("the node ends"), "{log}");
    assert_eq!(client.end(), End::Lost);
    gateway.restart();
    Client::connect(gateway.port).join("lobby");
    incident.recovered();
}

/// Takes a copy of a descriptor of the gateway, one that listens at its public port, and shuts it down.
fn shut_a_listener_down(gateway: &Gateway) {
    use nix::libc::{SYS_pidfd_getfd, SYS_pidfd_open, syscall};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let own = |result: i64| {
        // SAFETY: a new descriptor, and nobody else's.
        (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }).ok_or_else(std::io::Error::last_os_error)
    };
    // SAFETY: numbers only.
    let process = own(unsafe { syscall(SYS_pidfd_open, gateway.pid(), 0) });
    let process = process.unwrap_or_else(|error| panic!("pidfd_open(2) of the gateway, {}: {error}", gateway.pid()));
    let copies = (0..gateway.open_descriptors() as i32 * 2).filter_map(|number| {
        // SAFETY: numbers only.
        let copy = own(unsafe { syscall(SYS_pidfd_getfd, process.as_raw_fd(), number, 0) });
        match copy {
            Ok(copy) => Some(copy),
            // No number of the gateway's.
            Err(error) if error.raw_os_error() == Some(nix::libc::EBADF) => None,
            Err(error) => panic!("pidfd_getfd(2) of the gateway's descriptor {number}, as ptrace(2) would: {error}"),
        }
    });
    let listener = copies.map(std::net::TcpListener::from).find(|copy| {
        let listens = nix::sys::socket::getsockopt(copy, nix::sys::socket::sockopt::AcceptConn) == Ok(true);
        listens && copy.local_addr().is_ok_and(|address| address.port() == gateway.port)
    });
    let listener = listener.expect("none of the gateway's descriptors listens at its public port");
    let shut = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    shut.expect("shutdown(2) of the gateway's listener");
}

fn a_relay_that_stands_still_leaves_connections_and_other_rooms_alone(driver: Driver) {
    let broker = Nats::start();
    let gateway = Gateway::start(driver, &["--nats-url", &broker.url()]);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    let held = Held::hold(gateway.pid(), "relay");
    let incident = Incident::begin("relay's thread stalled", driver);
    // What needs no broker goes on; what does waits.
    client.publish("lobby", json!("waits"));
    let mut late = Client::connect(gateway.port);
    late.say(json!({"type": "ping"}));
    assert_eq!(late.json()["type"], "pong");
    client.say(json!({"type": "ping"}));
    assert_eq!(client.json()["type"], "pong");
    assert_eq!(gateway.get("/live").status, 200);
    drop(held);
    assert_eq!(client.content("lobby"), "waits");
    incident.recovered();
}

/// The shards' threads and the admin thread serve their own requests under the local bus's lock.
fn without_a_broker_messages_cross_while_the_relays_thread_stands_still(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let _held = Held::hold(gateway.pid(), "relay");
    let mut pair = [Client::connect(gateway.port), Client::connect(gateway.port)];
    pair.iter_mut().for_each(|client| client.join("lobby"));
    // One after the other: a thread that finds the lock taken leaves its requests to the relay's thread.
    pair[0].publish("lobby", json!("from a client"));
    pair.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), "from a client"));
    assert_eq!(gateway.publish("lobby", "\"from a backend\""), 202);
    pair.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), "from a backend"));
}

/// recv(2) and send(2) of either wire, as the shard makes them for requests and answers, and accept(2).
fn a_kernel_without_buffers_ends_the_connection_concerned_and_no_other(driver: Driver) {
    use nix::libc::{ENOBUFS, SYS_accept4, SYS_recvfrom, SYS_sendto};
    let mut gateway = Gateway::start(driver, &["--shards", "1"]);
    let mut neighbour = Client::connect(gateway.port);
    neighbour.join("lobby");
    let incident = Incident::begin("ENOBUFS of recv(2), send(2), accept(2)", driver);
    for call in [SYS_recvfrom, SYS_sendto] {
        let mut client = Client::connect(gateway.port);
        client.join("lobby");
        let held = Held::hold(gateway.pid(), "shard-0");
        client.say(json!({"type": "ping"}));
        held.fail_call(call, ENOBUFS);
        drop(held);
        // No octet of the stream is missing: it ends, and says why where it can still send.
        let (end, reason) = if call == SYS_recvfrom {
            (End::Closed(1011, String::from("internal error; reconnect")), "internal")
        } else {
            (End::Lost, "reset")
        };
        assert_eq!(client.end(), end);
        drop(client);
        gateway.wait_for(&format!("ws_closes_total{{reason=\"{reason}\"}}"), 1.0);
    }
    let held = Held::hold(gateway.pid(), "shard-0");
    let connecting = crate::support::http::connect(gateway.port);
    held.fail_call(SYS_accept4, ENOBUFS);
    drop(held);
    // Whoever waits is answered, with the descriptor that is kept for it, and may come again.
    assert_eq!(Client::over(connecting, "/", &[]).err(), Some(503));
    gateway.wait("it accepts again", |gateway| Client::try_connect(gateway.port, "/").is_ok());
    let mut late = Client::connect(gateway.port);
    late.join("lobby");
    late.publish("lobby", json!("all is well"));
    assert_eq!(neighbour.content("lobby"), "all is well");
    incident.recovered();
}
