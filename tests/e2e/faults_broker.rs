//! What networks and brokers do, under load: a fault proxy between one of two nodes and a real broker, and the load checker
//! as the judge (G1 to G4). Messages are not stored, so recovery is the other half of G4: none, and told so.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::checker::{self, Heard, Verdict};
use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::incident::Incident;
use crate::support::load::Load;
use crate::support::nats::{Nats, NatsOptions, PlainClient};
use crate::support::proxy::Proxy;

crate::on_both_drivers! {
    a_broker_that_is_back_after_a_tenth_of_a_second_loses_nothing_untold
    a_broker_that_is_back_after_three_seconds_loses_nothing_untold
    publications_that_waited_too_long_for_a_broker_are_told_to_their_publishers
    a_slow_broker_loses_nothing
    a_thin_pipe_to_the_broker_loses_nothing_untold
    a_broker_one_byte_at_a_time_loses_nothing
    a_broker_that_is_silent_for_seconds_loses_nothing
    a_connection_to_the_broker_that_is_reset_is_told_and_used_again
    garbage_from_the_broker_is_told_and_the_connection_made_again
    a_broker_in_lame_duck_mode_is_left_before_it_evicts_clients
    a_gateway_that_was_its_brokers_slow_consumer_tells_every_room
}

crate::long_on_both_drivers! {
    a_broker_that_is_back_after_fifteen_seconds_loses_nothing_untold
    a_broker_that_is_back_after_a_minute_loses_nothing_untold
    a_partition_is_noticed_by_pings_and_told
    a_gateway_that_stood_still_for_fifteen_seconds_tells_every_room
}

const MEMBERS: usize = 3;
const CONNECTED: &str = "ws_relay_connected";
const TOLD: &str = "ws_gaps_total{reason=\"broker\"}";

/// What was lost on each node, and how many publications failed and were told to their publisher.
struct Seen {
    far: Verdict,
    near: Verdict,
    failed: usize,
}

/// Two nodes of one broker: the far one behind the proxy, the near one beside it.
struct World {
    driver: Driver,
    far: Gateway,
    near: Gateway,
    proxy: Proxy,
    broker: Nats,
}

impl World {
    fn new(driver: Driver) -> Self {
        Self::with(driver, "")
    }

    fn with(driver: Driver, config: &str) -> Self {
        let broker = Nats::start();
        let proxy = Proxy::start(broker.address());
        let node =
            |url: &str| Gateway::on(driver).args(&["--nats-url", url, "--message-rate", "0"]).config(config).start();
        let (far, near) = (node(&format!("nats://{}", proxy.address())), node(&broker.url()));
        Self { driver, far, near, proxy, broker }
    }

    /// Has a publisher talk on the near node and members of both listen while the story goes on.
    fn under_load(&mut self, story: impl FnOnce(&mut Self)) -> Seen {
        let join = |node: &Gateway| {
            let mut members: Vec<Client> = (0..MEMBERS).map(|_| Client::connect(node.port)).collect();
            members.iter_mut().for_each(|member| member.join("lobby"));
            members
        };
        let (mut far, mut near) = (join(&self.far), join(&self.near));
        let mut publisher = Client::connect(self.near.port);
        let load = Load::default();
        let (far, near) = std::thread::scope(|scope| {
            let load = &load;
            let far = scope.spawn(move || listen(load, &mut far));
            let near = scope.spawn(move || listen(load, &mut near));
            scope.spawn(|| load.publish(&mut publisher, "lobby"));
            let stop = load.stop_at_the_end();
            load.wait_for_more(100);
            story(self);
            load.wait_for_more(100);
            drop(stop);
            (far.join().unwrap(), near.join().unwrap())
        });
        Seen { far: load.judge(&far, &[]), near: load.judge(&near, &[]), failed: load.failed() }
    }

    /// A fault that ends the far node's connection: told, made again, and nothing is lost on the near node.
    fn cut(mut self, fault: &'static str, inflict: impl FnOnce(&Proxy)) {
        let seen = self.under_load(|world| {
            let mut incident = Incident::begin(fault, world.driver);
            inflict(&world.proxy);
            world.far.wait("it knows", |far| {
                let metrics = far.metrics();
                metrics.value(CONNECTED) == 0.0 || metrics.value(TOLD) >= 1.0
            });
            incident.detected();
            world.far.wait_for(TOLD, MEMBERS as f64);
            incident.recovered();
        });
        seen.far.assert_promises();
        seen.near.assert_nothing_lost();
    }

    /// A fault that the connection survives: nothing is lost anywhere.
    fn ride_out(mut self, fault: &'static str, inflict: impl FnOnce(&Proxy), lift: impl FnOnce(&Proxy)) {
        let seen = self.under_load(|world| {
            let mut incident = Incident::begin(fault, world.driver);
            inflict(&world.proxy);
            // The stall is the story; and whether anything came through meanwhile is the checker's.
            std::thread::sleep(Duration::from_secs(3));
            lift(&world.proxy);
            incident.lifted();
            let mut late = Client::connect(world.far.port);
            late.join("late");
            late.publish("late", json!(1));
            assert_eq!(late.content("late"), 1);
            incident.recovered();
        });
        seen.far.assert_nothing_lost();
        seen.near.assert_nothing_lost();
    }

    /// The broker is killed under load and started again later.
    fn without_broker(mut self, fault: &'static str, away: Duration) -> Seen {
        let seen = self.under_load(|world| {
            let mut incident = Incident::begin(fault, world.driver);
            world.broker.kill();
            world.far.wait("the loss is known", |node| node.metrics().value(CONNECTED) == 0.0);
            incident.detected();
            std::thread::sleep(away);
            world.broker.restart();
            incident.lifted();
            for node in [&mut world.far, &mut world.near] {
                node.wait_for(CONNECTED, 1.0);
                node.wait_for_at_least(TOLD, MEMBERS as f64);
            }
            incident.recovered();
        });
        seen.far.assert_promises();
        seen.near.assert_promises();
        seen
    }
}

/// What each of the members hears.
fn listen(load: &Load, members: &mut [Client]) -> Vec<Vec<Heard>> {
    std::thread::scope(|scope| {
        let listening: Vec<_> = members.iter_mut().map(|member| scope.spawn(move || load.hear(member))).collect();
        let heard = listening.into_iter().map(|thread| thread.join().unwrap());
        heard.inspect(|(_, end)| assert_eq!(*end, None, "nobody is closed")).map(|(heard, _)| heard).collect()
    })
}

fn a_broker_that_is_back_after_a_tenth_of_a_second_loses_nothing_untold(driver: Driver) {
    World::new(driver).without_broker("broker killed, back after 0.1 s", Duration::from_millis(100));
}

fn a_broker_that_is_back_after_three_seconds_loses_nothing_untold(driver: Driver) {
    World::new(driver).without_broker("broker killed, back after 3 s", Duration::from_secs(3));
}

fn publications_that_waited_too_long_for_a_broker_are_told_to_their_publishers(driver: Driver) {
    let world = World::with(driver, "[limits]\nfence_deadline = \"2s\"");
    let fault = "broker killed, back after 4 s, publications wait for 2 s";
    let seen = world.without_broker(fault, Duration::from_secs(4));
    assert!(seen.failed > 0, "the broker was away for longer than a publication waits");
    assert!(seen.far.failed > 0 && seen.near.failed > 0, "what failed arrived nowhere");
}

fn a_broker_that_is_back_after_fifteen_seconds_loses_nothing_untold(driver: Driver) {
    World::new(driver).without_broker("broker killed, back after 15 s", Duration::from_secs(15));
}

fn a_broker_that_is_back_after_a_minute_loses_nothing_untold(driver: Driver) {
    World::new(driver).without_broker("broker killed, back after 60 s", Duration::from_secs(60));
}

fn a_slow_broker_loses_nothing(driver: Driver) {
    let (on, off) = (Duration::from_millis(200), Duration::ZERO);
    World::new(driver).ride_out("broker 200 ms away", |proxy| proxy.delay(on), |proxy| proxy.delay(off));
}

fn a_thin_pipe_to_the_broker_loses_nothing_untold(driver: Driver) {
    // A tenth of what the load needs: the rest piles up at the broker, and comes late.
    World::new(driver).ride_out("broker behind 10 kB/s", |proxy| proxy.bandwidth(10_000), |proxy| proxy.bandwidth(0));
}

fn a_broker_one_byte_at_a_time_loses_nothing(driver: Driver) {
    let on = |proxy: &Proxy| proxy.one_byte_slices(true);
    World::new(driver).ride_out("broker one byte at a time", on, |proxy| proxy.one_byte_slices(false));
}

fn a_broker_that_is_silent_for_seconds_loses_nothing(driver: Driver) {
    let on = |proxy: &Proxy| proxy.blackhole(true);
    World::new(driver).ride_out("broker silent for 3 s, then a burst", on, |proxy| proxy.blackhole(false));
}

fn a_connection_to_the_broker_that_is_reset_is_told_and_used_again(driver: Driver) {
    World::new(driver).cut("connection to the broker reset", Proxy::reset);
}

fn garbage_from_the_broker_is_told_and_the_connection_made_again(driver: Driver) {
    let garbage = b"MSG tidegate.room.lobby one two\r\n\xff\xff";
    World::new(driver).cut("garbage from the broker", |proxy| proxy.inject_garbage(garbage));
}

fn a_partition_is_noticed_by_pings_and_told(driver: Driver) {
    let mut world = World::new(driver);
    let seen = world.under_load(|world| {
        let mut incident = Incident::begin("broker partitioned until pings notice", world.driver);
        world.proxy.blackhole(true);
        world.far.wait("pings are missed", |far| far.metrics().value(CONNECTED) == 0.0);
        incident.detected();
        world.proxy.blackhole(false);
        incident.lifted();
        world.far.wait_for_at_least(TOLD, MEMBERS as f64);
        world.far.wait_for(CONNECTED, 1.0);
        incident.recovered();
    });
    seen.far.assert_promises();
    seen.near.assert_nothing_lost();
}

fn a_broker_in_lame_duck_mode_is_left_before_it_evicts_clients(driver: Driver) {
    let (first, second) = (Nats::start(), Nats::start());
    let urls = format!("{},{}", first.url(), second.url());
    let mut gateway = Gateway::start(driver, &["--nats-url", &urls]);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    let (mut at_first, mut at_second) = (PlainClient::connect(first.address()), PlainClient::connect(second.address()));
    at_first.publish("tidegate.room.lobby", b"1");
    at_second.publish("tidegate.room.lobby", b"2");
    let (leaving, mut staying) = if client.content("lobby") == 1 { (&first, at_second) } else { (&second, at_first) };
    let mut incident = Incident::begin("broker lame duck", driver);
    // What `nats-server --signal ldm` sends.
    leaving.signal(Signal::SIGUSR2);
    gateway.wait_for(TOLD, 1.0);
    incident.detected();
    assert!(leaving.is_running(), "the gateway left before it had to");
    assert_eq!(client.json()["type"], "gap");
    staying.publish("tidegate.room.lobby", b"3");
    assert_eq!(client.content("lobby"), 3);
    incident.recovered();
}

fn a_gateway_that_was_its_brokers_slow_consumer_tells_every_room(driver: Driver) {
    stand_still(driver, "gateway stopped (SIGSTOP) until its broker cut it off", "write_deadline: \"1s\"\n");
}

/// With the broker's own patience, which is ten seconds.
fn a_gateway_that_stood_still_for_fifteen_seconds_tells_every_room(driver: Driver) {
    stand_still(driver, "gateway stopped (SIGSTOP) for 15 s, its broker's deadline is 10 s", "");
}

/// Stops the gateway until the broker has had enough of it.
fn stand_still(driver: Driver, fault: &'static str, config: &str) {
    const ROOMS: u64 = 20;
    let options = NatsOptions { config: (!config.is_empty()).then(|| config.to_owned()), ..NatsOptions::default() };
    let broker = Nats::start_with(options);
    let mut gateway = Gateway::start(driver, &["--nats-url", &broker.url()]);
    let room = |number: u64| format!("floor-{number}");
    let mut members: Vec<Client> = (0..ROOMS).map(|_| Client::connect(gateway.port)).collect();
    members.iter_mut().zip(0..).for_each(|(member, number)| member.join(&room(number)));
    let mut backend = PlainClient::connect(broker.address());
    gateway.signal(Signal::SIGSTOP);
    let mut incident = Incident::begin(fault, driver);
    // More than the sockets between them hold, so that the broker's writes stall.
    let padding = "x".repeat(32 * 1024);
    let mut number = 0;
    while !broker.log().contains("Slow Consumer") {
        assert!(number < 100_000, "the broker does not mind");
        let message = json!({"p": 0, "n": number / ROOMS, "padding": padding}).to_string();
        backend.publish(&format!("tidegate.room.{}", room(number % ROOMS)), message.as_bytes());
        number += 1;
        if number > 2_000 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    incident.detected();
    gateway.signal(Signal::SIGCONT);
    incident.lifted();
    gateway.wait_for_at_least(TOLD, ROOMS as f64);
    incident.recovered();
    // Every ROOMSth message went to a room; and after all were told, nothing more is lost.
    let published = |room: u64| (number - room).div_ceil(ROOMS);
    let verdicts = (0..).zip(&mut members).map(|(number, member)| {
        let (told, after) = (published(number), published(number) + 10);
        for number_in_room in told..after {
            assert_eq!(gateway.publish(&room(number), &checker::numbered(0, number_in_room).to_string()), 202);
        }
        assert_eq!(gateway.publish(&room(number), "\"end\""), 202);
        let heard = hear_to_the_end(member);
        let last_gap = heard.iter().rposition(|item| *item == Heard::Gap);
        let last_gap = last_gap.unwrap_or_else(|| panic!("room {number} is not told"));
        checker::judge_range(told..after, &heard[last_gap..], &[]).assert_nothing_lost();
        checker::judge_range(0..after, &heard, &[])
    });
    verdicts.sum::<Verdict>().assert_promises();
}

/// What a member hears until the content `"end"`.
fn hear_to_the_end(member: &mut Client) -> Vec<Heard> {
    let mut heard = Vec::new();
    loop {
        let value = member.json();
        if value["content"] == "end" {
            return heard;
        }
        heard.extend(Heard::of(&value));
    }
}
