//! What the nodes of a cluster know of each other: heartbeats over a real broker, nodes that die, a node that is cut off.

use std::time::Instant;

use serde_json::Value;
use tidegate_core::limits::HEARTBEAT_INTERVAL;

use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::{Nats, NatsOptions, PlainClient};
use crate::support::proxy::Proxy;

crate::on_both_drivers! {
    every_node_lists_the_others_and_a_killed_one_as_dead
}

fn node(driver: Driver, url: &str, name: &str) -> Gateway {
    Gateway::on(driver).args(&["--nats-url", url]).config(&format!("node_name = \"{name}\"\n")).start()
}

/// The names and states of the nodes in the table of one of them, by name.
fn table(gateway: &Gateway) -> Vec<(String, String)> {
    let answer = gateway.get("/v1/nodes").json();
    let text = |node: &Value, field: &str| node[field].as_str().unwrap().to_owned();
    let mut nodes: Vec<_> =
        answer["nodes"].as_array().unwrap().iter().map(|node| (text(node, "node"), text(node, "state"))).collect();
    nodes.sort();
    nodes
}

fn states(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

fn every_node_lists_the_others_and_a_killed_one_as_dead(driver: Driver) {
    let broker = Nats::start();
    let mut nodes = ["a", "b", "c"].map(|name| node(driver, &broker.url(), name));
    let all = states(&[("a", "ready"), ("b", "ready"), ("c", "ready")]);
    for node in &mut nodes {
        node.wait("the table has all nodes", |node| table(node) == all);
        node.wait_for("ws_nodes_alive", 3.0);
    }
    let [a, b, c] = &mut nodes;
    c.kill();
    for node in [a, b] {
        node.wait_for("ws_nodes_alive", 2.0);
        assert_eq!(table(node), states(&[("a", "ready"), ("b", "ready"), ("c", "dead")]));
    }
}

#[test]
fn a_node_that_is_cut_off_from_the_broker_judges_no_other_and_counts_as_dead_until_it_is_back() {
    let broker = Nats::start();
    let proxy = Proxy::start(broker.address());
    let mut near = node(Driver::Epoll, &broker.url(), "near");
    let mut far = node(Driver::Epoll, &format!("nats://{}", proxy.address()), "far");
    near.wait_for("ws_nodes_alive", 2.0);
    far.wait_for("ws_nodes_alive", 2.0);
    proxy.blackhole(true);
    near.wait_for("ws_nodes_alive", 1.0);
    assert_eq!(table(&near), states(&[("far", "dead"), ("near", "ready")]));
    assert_eq!(table(&far), states(&[("far", "ready"), ("near", "ready")]));
    proxy.blackhole(false);
    proxy.reset();
    near.wait_for("ws_nodes_alive", 2.0);
    far.wait("the nodes hear each other again", |far| table(far) == states(&[("far", "ready"), ("near", "ready")]));
    assert!(!far.log().contains("counts as dead"), "{}", far.log());
}

/// The rights of a gateway from the time before the node channel, and those that it has now.
fn gateway_user(subjects: &str) -> String {
    format!("users: [{{ user: g, password: g, permissions: {{ publish: [{subjects}], subscribe: [{subjects}] }} }}]")
}

/// Each heartbeat was a violation, and each violation failed the acknowledgements of the publications under way.
#[test]
fn nodes_that_the_broker_forbids_the_node_channel_publish_as_before_and_hear_each_other_once_it_allows_it() {
    let user = |subjects| vec![(String::from("users.conf"), gateway_user(subjects))];
    let mut broker = Nats::start_with(NatsOptions {
        config: Some(String::from("authorization { include 'users.conf' }")),
        files: user(r#""tidegate.room.>", "tidegate.inbox.>""#),
        ..NatsOptions::default()
    });
    let url = broker.url().replace("nats://", "nats://g:g@");
    let mut gateways = ["a", "b"].map(|name| node(Driver::Epoll, &url, name));
    gateways.iter_mut().for_each(|gateway| gateway.wait_for("ws_node_channel_forbidden", 1.0));
    let mut client = Client::connect(gateways[1].port);
    client.join("lobby");
    // Over the time of several heartbeats.
    let (since, mut published) = (Instant::now(), 0);
    while since.elapsed() < 3 * HEARTBEAT_INTERVAL {
        assert_eq!(gateways[0].publish("lobby", &published.to_string()), 202);
        assert_eq!(client.json()["content"], published);
        published += 1;
    }
    for gateway in &gateways {
        assert_eq!(gateway.get("/v1/nodes").json()["channel"], "forbidden");
        assert_eq!(gateway.log().matches("the broker forbids the node channel").count(), 1, "{}", gateway.log());
    }
    let violations = broker.log().matches("Publish Violation").count();
    assert!(violations <= 2, "{violations} heartbeats of two nodes were refused");

    broker.restart_with_files(user(r#""tidegate.>""#));

    for gateway in &mut gateways {
        gateway.wait_for("ws_nodes_alive", 2.0);
        gateway.wait_for("ws_node_channel_forbidden", 0.0);
        assert_eq!(gateway.get("/v1/nodes").json()["channel"], "open");
    }
}

/// A heartbeat of a node that is none, as a backend would forge it.
const FORGED: &[u8] = br#"{"v":1,"from":"00000bad","kind":"heartbeat","name":"forged","state":"ready"}"#;

#[test]
fn a_backend_with_the_permissions_of_tuning_publishes_into_rooms_and_not_to_nodes() {
    let permissions = include_str!("../../tuning/nats-permissions.conf")
        .replace("$GATEWAY_PASSWORD", "g")
        .replace("$BACKEND_PASSWORD", "b");
    let broker = Nats::start_with(NatsOptions {
        config: Some(String::from("authorization { include 'users.conf' }")),
        files: vec![(String::from("users.conf"), permissions)],
        ..NatsOptions::default()
    });
    let url = broker.url().replace("nats://", "nats://gateway:g@");
    let mut gateways = ["a", "b"].map(|name| node(Driver::Epoll, &url, name));
    for gateway in &mut gateways {
        gateway.wait_for("ws_nodes_alive", 2.0);
    }
    let mut client = Client::connect(gateways[0].port);
    client.join("lobby");
    let login = |user, password| format!(",\"user\":\"{user}\",\"pass\":\"{password}\"");
    let mut backend = PlainClient::connect_as(broker.address(), &login("backend", "b"));
    backend.publish("tidegate.node.all", FORGED);
    backend.publish("tidegate.room.lobby", b"1");
    assert_eq!(client.json()["content"], 1, "what came after the forged heartbeat is here");
    let both = states(&[("a", "ready"), ("b", "ready")]);
    assert_eq!(table(&gateways[0]), both);
    // The same message by a node's own user is a node: the table would have shown the forged one.
    let mut node = PlainClient::connect_as(broker.address(), &login("gateway", "g"));
    node.publish("tidegate.node.all", FORGED);
    gateways[0].wait("the table has the third node", |gateway| table(gateway).len() == 3);
}
