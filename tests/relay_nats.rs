//! The relay on a real nats-server.

mod support;

use support::nats::{Nats, PlainClient};
use support::ports::{TestRelay, json};
use tidegate::config;
use tidegate::limits::Limits;
use tidegate::relay::{AckLevel, Options, ToShard};

fn options(url: String) -> Options {
    let nats = config::Nats { urls: vec![url], prefix: String::from("tidegate"), ..config::Nats::default() };
    Options { nats: Some(nats), limits: Limits::default(), node: 1 }
}

#[test]
fn a_message_crosses_two_nodes_and_comes_back_through_the_broker() {
    let broker = Nats::start();
    let mut here = TestRelay::start(options(broker.url()), 2);
    let mut there = TestRelay::start(options(broker.url()), 1);
    here.ports[0].join("lobby");
    here.ports[1].join("lobby");
    there.ports[0].join("lobby");

    here.ports[0].publish(json("lobby", "{\"n\":1}"), Some(5));

    assert_eq!(there.ports[0].payload(), "{\"n\":1}");
    assert_eq!(here.ports[1].payload(), "{\"n\":1}");
    assert_eq!(here.ports[0].payload(), "{\"n\":1}");
    assert!(matches!(here.ports[0].next(), ToShard::Acked(5, AckLevel::Broker)));
}

#[test]
fn a_backend_needs_no_header() {
    let broker = Nats::start();
    let mut relay = TestRelay::start(options(broker.url()), 1);
    let mut backend = PlainClient::connect(broker.address());
    relay.ports[0].join("lobby");
    backend.publish("tidegate.room.lobby", b"17");
    assert_eq!(relay.ports[0].payload(), "17");
}
