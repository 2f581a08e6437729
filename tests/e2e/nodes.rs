//! Two nodes with two shards each over one broker, and what happens when the broker or a node goes away.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::checker::{self, ABNORMAL_CLOSURE, Heard};
use crate::support::client::{Client, End, Said};
use crate::support::gateway::{Driver, Gateway};
use crate::support::load::Load;
use crate::support::nats::{Nats, PlainClient};

crate::on_both_drivers! {
    every_member_on_every_node_gets_every_message_once_and_in_order
    the_acknowledgement_of_a_broker_comes_after_its_fence
    a_broker_that_is_back_at_once_is_a_gap_and_then_all_is_as_before
    a_broker_that_is_away_for_seconds_fails_publishes_and_leaves_the_node_ready
    a_node_that_needs_its_broker_is_not_ready_without_it
    clients_of_a_killed_node_go_on_with_the_survivor
    backends_reach_clients_through_the_broker
}

fn node(driver: Driver, broker: &Nats, more: &[&str]) -> Gateway {
    Gateway::on(driver).args(&["--nats-url", &broker.url()]).args(more).start()
}

/// Members, spread over the nodes, in one room.
fn members(nodes: &[&Gateway], each: usize, room: &str) -> Vec<Client> {
    let mut members: Vec<Client> =
        nodes.iter().flat_map(|node| (0..each).map(|_| Client::connect(node.port))).collect();
    members.iter_mut().for_each(|member| member.join(room));
    members
}

/// Reads until every publisher's last number, or a notice of a hole and a later message, was heard.
fn hear(client: &mut Client, last: &BTreeMap<u64, u64>) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut open = last.clone();
    while !open.is_empty() {
        let value = client.json();
        if let Some(item) = Heard::of(&value) {
            if let Heard::Message(publisher, number) = item
                && open.get(&publisher).is_some_and(|count| number + 1 == *count)
            {
                open.remove(&publisher);
            }
            heard.push(item);
        }
    }
    heard
}

fn every_member_on_every_node_gets_every_message_once_and_in_order(driver: Driver) {
    const MESSAGES: u64 = 300;
    let broker = Nats::start();
    let nodes = [node(driver, &broker, &["--message-rate", "0"]), node(driver, &broker, &["--message-rate", "0"])];
    let mut members = members(&[&nodes[0], &nodes[1]], 8, "lobby");
    let mut publishers: Vec<Client> =
        nodes.iter().flat_map(|node| (0..2).map(|_| Client::connect(node.port))).collect();
    let published: BTreeMap<u64, u64> = (0..publishers.len() as u64).map(|number| (number, MESSAGES)).collect();
    std::thread::scope(|scope| {
        for (number, publisher) in (0..).zip(&mut publishers) {
            scope.spawn(move || {
                (0..MESSAGES).for_each(|n| publisher.publish("lobby", checker::numbered(number, n)));
            });
        }
    });
    let heard: Vec<_> = members.iter_mut().map(|member| hear(member, &published)).collect();
    checker::judge(&published, &heard, &[]).assert_nothing_lost();
    // Members of one node see one common order (G2).
    for node in heard.chunks(8) {
        assert!(node.iter().all(|member| *member == node[0]));
    }
}

fn the_acknowledgement_of_a_broker_comes_after_its_fence(driver: Driver) {
    let broker = Nats::start();
    let gateway = node(driver, &broker, &[]);
    let mut client = Client::connect(gateway.port);
    client.say(json!({"type": "message", "roomId": "lobby", "content": 1, "ack": true, "ref": "a"}));
    assert_eq!(client.json(), json!({"type": "ack", "ref": "a", "level": "broker"}));
    let answer = gateway.ask("POST", "/v1/rooms/lobby/messages", &["Content-Type: text/plain"], b"x");
    assert_eq!((answer.status, answer.json()["level"].as_str()), (202, Some("broker")));
}

/// Publishes from a backend until the client hears one: delivery is back. What came before it.
fn until_delivery_is_back(gateway: &Gateway, client: &mut Client, room: &str) -> Vec<Heard> {
    let mut before = Vec::new();
    loop {
        gateway.publish(room, "\"again\"");
        while let Some(said) = client.next_within(Duration::from_millis(50)) {
            let Said::Text(text) = said else { panic!("{said:?}") };
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            if value["content"] == "again" {
                return before;
            }
            before.extend(Heard::of(&value));
        }
    }
}

fn a_broker_that_is_back_at_once_is_a_gap_and_then_all_is_as_before(driver: Driver) {
    let mut broker = Nats::start();
    let mut nodes = [node(driver, &broker, &["--message-rate", "0"]), node(driver, &broker, &["--message-rate", "0"])];
    let mut members = members(&[&nodes[0], &nodes[1]], 4, "lobby");
    let mut publisher = Client::connect(nodes[0].port);
    let published = BTreeMap::from([(0, 200)]);
    (0..50).for_each(|n| publisher.publish("lobby", checker::numbered(0, n)));
    broker.kill();
    (50..100).for_each(|n| publisher.publish("lobby", checker::numbered(0, n)));
    broker.restart();
    nodes.iter_mut().for_each(|node| node.wait_for("ws_relay_connected", 1.0));
    let mut heard: Vec<Vec<Heard>> = Vec::new();
    // Everybody is told before what comes after the hole.
    for member in &mut members {
        let mut before = Vec::new();
        while before.last() != Some(&Heard::Gap) {
            before.extend(Heard::of(&member.json()));
        }
        heard.push(before);
    }
    (100..200).for_each(|n| publisher.publish("lobby", checker::numbered(0, n)));
    for (member, before) in members.iter_mut().zip(&mut heard) {
        before.extend(hear(member, &published));
    }
    checker::judge(&published, &heard, &[]).assert_promises();
}

fn a_broker_that_is_away_for_seconds_fails_publishes_and_leaves_the_node_ready(driver: Driver) {
    let mut broker = Nats::start();
    let config = "[limits]\nfence_deadline = \"1s\"";
    let mut gateway = Gateway::on(driver).args(&["--nats-url", &broker.url()]).config(config).start();
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    broker.kill();
    gateway.wait_for("ws_relay_connected", 0.0);
    assert_eq!(gateway.get("/ready").status, 200, "one blip must not empty every Service");
    client.say(json!({"type": "message", "roomId": "lobby", "content": 1, "ack": true, "ref": 9}));
    let refused = client.json();
    assert_eq!((&refused["code"], &refused["ref"]), (&json!("unavailable"), &json!(9)), "{refused}");
    client.say(json!({"type": "join", "roomId": "new"}));
    assert_eq!(client.error(), "unavailable");
    assert_eq!(gateway.publish("lobby", "1"), 503);
    broker.restart();
    gateway.wait_for("ws_relay_connected", 1.0);
    let before = until_delivery_is_back(&gateway, &mut client, "lobby");
    assert!(before.contains(&Heard::Gap), "the hole was told: {before:?}");
    client.say(json!({"type": "join", "roomId": "new"}));
    client.answer("joined");
}

fn a_node_that_needs_its_broker_is_not_ready_without_it(driver: Driver) {
    let mut broker = Nats::start();
    let config = "[ready]\nrequire_broker = true";
    let mut gateway = Gateway::on(driver).args(&["--nats-url", &broker.url()]).config(config).start();
    broker.kill();
    gateway.wait_ready(503);
    assert_eq!(gateway.get("/live").status, 200);
    broker.restart();
    gateway.wait_ready(200);
}

/// Under load: whoever was on the survivor notices nothing, and whoever comes over misses nothing from then on.
fn clients_of_a_killed_node_go_on_with_the_survivor(driver: Driver) {
    const EACH: usize = 4;
    let broker = Nats::start();
    let [mut survivor, mut victim] = [(); 2].map(|()| node(driver, &broker, &["--message-rate", "0"]));
    let (mut staying, mut moving) = (members(&[&survivor], EACH, "lobby"), members(&[&victim], EACH, "lobby"));
    let (mut publisher, port) = (Client::connect(survivor.port), survivor.port);
    let load = Load::default();
    let (stayed, moved) = std::thread::scope(|scope| {
        let load = &load;
        let stayed: Vec<_> = staying.iter_mut().map(|client| scope.spawn(move || load.hear(client))).collect();
        let moved: Vec<_> =
            moving.iter_mut().map(|client| scope.spawn(move || come_over(load, client, port))).collect();
        scope.spawn(|| load.publish(&mut publisher, "lobby"));
        let stop = load.stop_at_the_end();
        load.wait_for_more(100);
        victim.kill();
        survivor.wait_for_at_least("ws_reconnects_total", EACH as f64);
        load.wait_for_more(100);
        drop(stop);
        let stayed = stayed.into_iter().map(|thread| thread.join().unwrap());
        let stayed: Vec<_> = stayed.inspect(|(_, end)| assert_eq!(*end, None)).map(|(heard, _)| heard).collect();
        (stayed, moved.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>())
    });
    load.judge(&stayed, &[]).assert_nothing_lost();
    for (before, since, after) in moved {
        load.judge(&[before], &[ABNORMAL_CLOSURE]).assert_promises();
        checker::judge_range(since..load.published(), &after, &[]).assert_nothing_lost();
    }
}

/// What a client heard until it was lost, the first message that it is owed on the other node, and what it heard there.
fn come_over(load: &Load, client: &mut Client, port: u16) -> (Vec<Heard>, u64, Vec<Heard>) {
    let (before, end) = load.hear(client);
    assert_eq!(end, Some(End::Lost));
    let mut again = Client::connect_at(port, "/?attempt=1");
    again.join("lobby");
    let since = load.next_number();
    let (after, end) = load.hear_since(since, &mut again);
    assert_eq!(end, None);
    (before, since, after)
}

fn backends_reach_clients_through_the_broker(driver: Driver) {
    let broker = Nats::start();
    let gateway = node(driver, &broker, &[]);
    let mut native = Client::connect(gateway.port);
    native.join("lobby");
    // The room is subscribed, so that the raw client is a member before it can say anything.
    let mut raw = Client::raw(gateway.port, "/raw/lobby");
    raw.say_text("am I in?");
    assert_eq!(raw.text(), "am I in?");
    assert_eq!(native.content("lobby"), "am I in?");
    let mut backend = PlainClient::connect(broker.address());
    let mut publish = |payload: &[u8]| backend.publish("tidegate.room.lobby", payload);
    publish(b"{\"a\": [1]}");
    publish(b"plain text");
    publish(b"\xff\xfe");
    backend.publish_with_header("tidegate.room.lobby", "v1; kind=text", b"{\"a\":1}");
    backend.publish("tidegate.room.lobby", &vec![b'x'; 70_000]);
    backend.publish("tidegate.room.lobby", b"1");
    let mut messages: Vec<Value> = (0..6).map(|_| native.json()).collect();
    // What is over the limit is a gap, in its place.
    let gap = messages.remove(4);
    assert_eq!((&gap["type"], &gap["reason"]), (&json!("gap"), &json!("too-large")), "{messages:?}");
    assert_eq!(gap["roomId"], "lobby");
    let contents: Vec<_> = messages.iter().map(|message| (&message["content"], &message["encoding"])).collect();
    let (plain, base64) = (&Value::Null, &json!("base64"));
    let kind_text = &json!("{\"a\":1}");
    assert_eq!(
        contents,
        [
            (&json!({"a": [1]}), plain),
            (&json!("plain text"), plain),
            (&json!("//4="), base64),
            (kind_text, plain),
            (&json!(1), plain),
        ]
    );
    assert_eq!([raw.text(), raw.text()], ["{\"a\": [1]}", "plain text"]);
    assert_eq!(raw.next(), Said::Binary(b"\xff\xfe".to_vec()));
    assert_eq!([raw.text(), raw.text()], ["{\"a\":1}", "1"]);
}
