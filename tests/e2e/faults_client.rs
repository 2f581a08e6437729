//! What networks do to clients: a fault proxy between one of them and the gateway. Whatever becomes of that one, its
//! neighbours get everything, once and in order, and it is told, closed or served.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::bad_frames::{masked, open};
use crate::support::checker::{ABNORMAL_CLOSURE, Heard};
use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::incident::Incident;
use crate::support::load::Load;
use crate::support::proxy::Proxy;

crate::on_both_drivers! {
    a_client_far_away_gets_everything
    a_client_one_byte_at_a_time_gets_everything
    a_client_behind_a_thin_pipe_is_closed_or_served_and_its_neighbours_notice_nothing
    a_client_in_a_black_hole_is_reaped_and_its_neighbours_notice_nothing
    a_client_that_is_reset_is_gone_at_once
    a_client_whose_stream_is_spoiled_is_closed_with_1002
    half_open_sockets_are_closed_in_every_state_and_none_waits_in_close_wait
}

/// Neighbours beside one client behind the proxy.
struct World {
    driver: Driver,
    gateway: Gateway,
    proxy: Proxy,
}

impl World {
    fn new(driver: Driver, config: &str) -> Self {
        let gateway = Gateway::on(driver).args(&["--message-rate", "0"]).config(config).start();
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, gateway.port)));
        Self { driver, gateway, proxy }
    }

    /// Has a publisher talk while the story goes on. The neighbours lose nothing; the client behind the proxy may be closed with one
    /// of the expected codes. Gives how its connection ended.
    fn under_load(&mut self, expected_closes: &'static [u16], story: impl FnOnce(&mut Self)) -> Option<End> {
        let connect = |port| {
            let mut client = Client::connect(port);
            client.join("lobby");
            client
        };
        let mut neighbours: Vec<Client> = (0..4).map(|_| connect(self.gateway.port)).collect();
        let mut one = connect(self.proxy.address().port());
        let mut publisher = Client::connect(self.gateway.port);
        let load = Load::default();
        let (near, (far, end)) = std::thread::scope(|scope| {
            let load = &load;
            let far = scope.spawn(move || load.hear(&mut one));
            let near: Vec<_> = neighbours.iter_mut().map(|client| scope.spawn(move || load.hear(client))).collect();
            scope.spawn(move || load.publish(&mut publisher, "lobby"));
            let stop = load.stop_at_the_end();
            load.wait_for_more(100);
            story(self);
            load.wait_for_more(100);
            drop(stop);
            let near: Vec<_> = near.into_iter().map(|thread| thread.join().unwrap()).collect();
            (near, far.join().unwrap())
        });
        assert!(near.iter().all(|(_, end)| end.is_none()), "no neighbour is closed");
        let near: Vec<Vec<Heard>> = near.into_iter().map(|(heard, _)| heard).collect();
        load.judge(&near, &[]).assert_nothing_lost();
        load.judge(&[far], expected_closes).assert_promises();
        end
    }
}

fn a_client_far_away_gets_everything(driver: Driver) {
    let mut world = World::new(driver, "");
    let end = world.under_load(&[], |world| {
        world.proxy.delay(Duration::from_millis(300));
        std::thread::sleep(Duration::from_secs(1));
        world.proxy.delay(Duration::ZERO);
    });
    assert_eq!(end, None);
}

fn a_client_one_byte_at_a_time_gets_everything(driver: Driver) {
    let mut world = World::new(driver, "");
    // From the upgrade on: the client takes a head in so many pieces for an attack, and the gateway's own is cut elsewhere.
    assert_eq!(world.under_load(&[], |world| world.proxy.one_byte_slices(true)), None);
}

fn a_client_behind_a_thin_pipe_is_closed_or_served_and_its_neighbours_notice_nothing(driver: Driver) {
    // Room for a neighbour that this host does not run for a while.
    let config = "[limits]\noutbox_bytes = \"2MiB\"\nwrite_stall = \"3s\"\nclose_deadline = \"1s\"";
    let mut world = World::new(driver, config);
    let end = world.under_load(&[1013, ABNORMAL_CLOSURE], |world| {
        let mut incident = Incident::begin("client behind 1 kB/s under load", world.driver);
        world.proxy.bandwidth(1_000);
        let padding = "x".repeat(16 * 1024);
        let reasons = ["slow-reader", "write-stall", "outbox-budget"];
        let closed = |gateway: &Gateway| {
            let metrics = gateway.metrics();
            reasons.iter().map(|reason| metrics.value(&format!("ws_closes_total{{reason=\"{reason}\"}}"))).sum::<f64>()
        };
        world.gateway.wait("it is sent away", |gateway| {
            assert_eq!(gateway.publish("lobby", &json!({"padding": padding}).to_string()), 202);
            closed(gateway) == 1.0
        });
        incident.detected();
        world.gateway.wait_for("ws_outbox_bytes", 0.0);
        incident.recovered();
        world.proxy.bandwidth(0);
    });
    assert!(end.is_some(), "it is closed");
}

fn a_client_in_a_black_hole_is_reaped_and_its_neighbours_notice_nothing(driver: Driver) {
    let mut world = World::new(driver, "[heartbeat]\nping_interval = \"1s\"\npong_timeout = \"1s\"");
    let end = world.under_load(&[1001, ABNORMAL_CLOSURE], |world| {
        let mut incident = Incident::begin("client in a black hole (ping 1 s, pong 1 s)", world.driver);
        world.proxy.blackhole(true);
        world.gateway.wait_for("ws_closes_total{reason=\"pong-timeout\"}", 1.0);
        incident.detected();
        world.gateway.wait_for("ws_connections_active", 5.0);
        incident.recovered();
        world.proxy.blackhole(false);
    });
    assert!(end.is_some(), "it is closed");
}

fn a_client_that_is_reset_is_gone_at_once(driver: Driver) {
    let mut world = World::new(driver, "");
    let end = world.under_load(&[ABNORMAL_CLOSURE], |world| {
        let mut incident = Incident::begin("client's connection reset", world.driver);
        world.proxy.reset();
        world.gateway.wait_for("ws_closes_total{reason=\"reset\"}", 1.0);
        incident.detected();
        world.gateway.wait_for("ws_connections_active", 5.0);
        incident.recovered();
    });
    assert!(end.is_some(), "it is reset");
}

fn a_client_whose_stream_is_spoiled_is_closed_with_1002(driver: Driver) {
    let mut world = World::new(driver, "");
    let end = world.under_load(&[1002], |world| {
        let mut incident = Incident::begin("garbage in a client's stream", world.driver);
        world.proxy.inject_garbage_upstream(b"\xff\xff garbage");
        world.gateway.wait_for("ws_closes_total{reason=\"protocol\"}", 1.0);
        incident.detected();
        world.gateway.wait_for("ws_connections_active", 5.0);
        incident.recovered();
    });
    assert!(end.is_some(), "it is closed");
}

/// Sockets of this port in TCP's state CLOSE_WAIT: their peers have gone, and nobody has closed them.
fn in_close_wait(port: u16) -> usize {
    const CLOSE_WAIT: &str = "08";
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 3 && row[1].ends_with(&local) && row[3] == CLOSE_WAIT).count()
}

fn half_open_sockets_are_closed_in_every_state_and_none_waits_in_close_wait(driver: Driver) {
    const EACH: usize = 20;
    let mut gateway = Gateway::on(driver).config("[limits]\nclose_deadline = \"1s\"").start();
    let mut incident = Incident::begin("half-open sockets, both ways (close deadline 1 s)", driver);
    // In the middle of a head; open; in the middle of a message; after a close that was never answered.
    let half_of_a_head = &http::upgrade("/", &[])[..40];
    let half_of_a_frame = &masked(0x81, b"never finished")[..8];
    let binary = masked(0x82, b"closed with 1003");
    let upgraded = |first: &[u8]| {
        let mut stream = http::connect(gateway.port);
        open(&mut stream, "/");
        std::io::Write::write_all(&mut stream, first).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..EACH {
        let mut head = http::connect(gateway.port);
        std::io::Write::write_all(&mut head, half_of_a_head.as_bytes()).unwrap();
        streams.extend([head, upgraded(b""), upgraded(half_of_a_frame), upgraded(&binary)]);
    }
    for stream in &streams {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    // The other way round: these never shut, never answer and never read.
    let stubborn: Vec<TcpStream> = (0..EACH).map(|_| upgraded(&binary)).collect();
    gateway.wait_for_at_least("ws_closes_total{reason=\"eof\"}", 2.0 * EACH as f64);
    incident.detected();
    gateway.wait_for("ws_sockets", 0.0);
    incident.recovered();
    assert_eq!(in_close_wait(gateway.port), 0);
    drop((streams, stubborn));
}
