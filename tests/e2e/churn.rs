//! Coming and going: what was taken is given back.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::Nats;

crate::on_both_drivers! {
    thousands_of_joins_and_leaves_leave_nothing_behind
    connections_that_come_and_go_leave_nothing_behind
}

fn thousands_of_joins_and_leaves_leave_nothing_behind(driver: Driver) {
    const ROOMS: usize = 100;
    const ROUNDS: usize = 5_000;
    let broker = Nats::start();
    let config = "[limits]\nlinger = \"0s\"\nrooms_per_connection = 128";
    let args = ["--nats-url", &broker.url(), "--message-rate", "0"];
    let mut gateway = Gateway::on(driver).args(&args).config(config).start();
    let mut members: Vec<Client> = (0..4).map(|_| Client::connect(gateway.port)).collect();
    let (mut talker, mut witness) = (Client::connect(gateway.port), Client::connect(gateway.port));
    witness.join("witness");
    talker.join("witness");
    let before = gateway.memory_bytes();
    std::thread::scope(|scope| {
        for (number, member) in members.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..ROUNDS / 4 {
                    let room = format!("room.{}", (round * 7 + number) % ROOMS);
                    member.say(json!({"type": "join", "roomId": room, "ref": round}));
                    while member.json()["ref"] != round {}
                    member.publish(&room, json!(round));
                    member.say(json!({"type": "leave", "roomId": room, "ref": "left"}));
                    while member.json()["ref"] != "left" {}
                }
            });
        }
        // Messages flow all the while.
        for number in 0..1_000 {
            talker.publish("witness", json!(number));
            assert_eq!([witness.content("witness"), talker.content("witness")], [number, number]);
        }
    });
    // Their members are still connected: of all rooms the one is left that was not, on each shard that has a member of it.
    let shards = BTreeSet::from([talker.shard(), witness.shard()]);
    gateway.wait_for("ws_rooms_active", shards.len() as f64);
    gateway.wait_for("ws_relay_subscriptions", 1.0);
    drop((members, talker, witness));
    gateway.wait_for("ws_rooms_active", 0.0);
    gateway.wait_for("ws_relay_subscriptions", 0.0);
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "5,000 joins and leaves left {grown} bytes");
}

fn connections_that_come_and_go_leave_nothing_behind(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--connection-rate", "0"]);
    let mut lasting = Client::connect(gateway.port);
    lasting.join("lobby");
    for round in 0..10 {
        let mut crowd: Vec<Client> = (0..100).map(|_| Client::connect(gateway.port)).collect();
        crowd.iter_mut().for_each(|client| client.join("lobby"));
        assert_eq!(gateway.publish("lobby", &round.to_string()), 202);
        // Half of them leave politely, the others just go, with a message on its way to them.
        crowd.iter_mut().step_by(2).for_each(|client| client.close(1000));
        drop(crowd);
        assert_eq!(lasting.content("lobby"), round);
    }
    gateway.wait_for("ws_sockets", 1.0);
    assert_eq!(gateway.metrics().value("ws_connections_active"), 1.0);
}
