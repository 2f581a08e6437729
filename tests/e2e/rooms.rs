//! Policies of rooms, backends over HTTP, and the operators' view of rooms and connections.

use serde_json::json;

use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};

crate::on_both_drivers! {
    the_first_matching_rule_says_which_clients_may_publish
    one_client_may_be_in_so_many_rooms_and_no_more
    one_node_may_have_so_many_rooms_and_no_more
    backends_publish_over_http_into_one_room_or_several
    operators_see_rooms_and_connections_and_close_one
}

fn the_first_matching_rule_says_which_clients_may_publish(driver: Driver) {
    let config = "[[rooms]]\nmatch = \"news.open\"\npublish = \"any\"\n\
                  [[rooms]]\nmatch = \"news.*\"\npublish = \"none\"\n\
                  [[rooms]]\nmatch = \"team.*\"\npublish = \"members\"\n";
    let gateway = Gateway::on(driver).config(config).start();
    let (mut one, mut two) = (Client::connect(gateway.port), Client::connect(gateway.port));
    for room in ["news.today", "team.red", "free"] {
        one.join(room);
    }
    two.publish("news.today", json!(1));
    assert_eq!(two.error(), "forbidden");
    one.publish("news.today", json!(1));
    assert_eq!(one.error(), "forbidden");
    two.publish("team.red", json!(1));
    assert_eq!(two.error(), "not-joined");
    one.publish("team.red", json!("member"));
    assert_eq!(one.content("team.red"), "member");
    two.publish("free", json!("anybody"));
    assert_eq!(one.content("free"), "anybody");
    // Backends always may.
    assert_eq!(gateway.publish("news.today", "\"backend\""), 202);
    assert_eq!(one.content("news.today"), "backend");
    one.join("news.open");
    two.publish("news.open", json!("the first rule wins"));
    assert_eq!(one.content("news.open"), "the first rule wins");
}

fn one_client_may_be_in_so_many_rooms_and_no_more(driver: Driver) {
    let mut gateway = Gateway::on(driver).config("[limits]\nrooms_per_connection = 3").start();
    let mut client = Client::connect(gateway.port);
    ["a", "b", "c", "c"].iter().for_each(|room| client.join(room));
    client.say(json!({"type": "join", "roomId": "d"}));
    assert_eq!(client.error(), "room-limit");
    client.leave("a");
    client.join("d");
    // The local bus knows at once who is where.
    for (room, heard) in [("a", false), ("b", true), ("d", true)] {
        assert_eq!(gateway.publish(room, "1"), 202);
        if heard {
            client.content(room);
        }
    }
    drop(client);
    gateway.wait_for("ws_rooms_active", 0.0);
}

fn one_node_may_have_so_many_rooms_and_no_more(driver: Driver) {
    let mut gateway = Gateway::on(driver).config("[limits]\nrooms_total = 3").start();
    let (mut one, mut two) = (Client::connect(gateway.port), Client::connect(gateway.port));
    ["a", "b", "c"].iter().for_each(|room| one.join(room));
    two.say(json!({"type": "join", "roomId": "d"}));
    assert_eq!(two.error(), "room-limit");
    two.join("c");
    one.leave("a");
    // The relay hears of the leaving after its client, and maybe after another shard's join.
    gateway.wait("the place of the room that was left", |_| {
        two.say(json!({"type": "join", "roomId": "d"}));
        two.json()["type"] == "joined"
    });
    two.publish("d", json!("at last"));
    assert_eq!(two.content("d"), "at last");
}

fn backends_publish_over_http_into_one_room_or_several(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut native = Client::connect(gateway.port);
    native.join("lobby");
    native.join("hall");
    let post =
        |path: &str, kind: &str, body: &[u8]| gateway.ask("POST", path, &[&format!("Content-Type: {kind}")], body);
    let one = "/v1/rooms/lobby/messages";
    let answer = post(one, "application/json", b"{\"n\":1}");
    assert_eq!((answer.status, answer.json()["level"].as_str()), (202, Some("node")), "{answer:?}");
    assert_eq!(post(one, "text/plain", b"2").status, 202);
    assert_eq!(post(one, "application/octet-stream", b"\x00\xff").status, 202);
    let message = native.json();
    assert!(message.get("from").is_none(), "backends have no connection: {message}");
    assert_eq!(message["content"], json!({"n": 1}));
    assert_eq!(native.content("lobby"), "2");
    assert_eq!(native.json()["encoding"], "base64");
    let answer = post("/v1/messages", "application/json", b"{\"rooms\":[\"lobby\",\"hall\"],\"content\":[3]}");
    assert_eq!(answer.status, 202, "{answer:?}");
    let mut rooms = [native.json(), native.json()].map(|message| message["roomId"].as_str().unwrap().to_owned());
    rooms.sort();
    assert_eq!(rooms, ["hall", "lobby"]);

    assert_eq!(post("/v1/rooms/a%20b/messages", "application/json", b"1").status, 400);
    assert_eq!(post(one, "application/json", b"{not json").status, 400);
    assert_eq!(post(one, "text/plain", &vec![b'x'; 70_000]).status, 413);
    assert_eq!(gateway.ask("GET", one, &[], b"").status, 405);
}

fn operators_see_rooms_and_connections_and_close_one(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    let rooms = gateway.get("/v1/rooms?limit=5").json();
    assert!(rooms.to_string().contains("\"lobby\""), "{rooms}");
    let connections = gateway.get("/v1/connections?sort=outbox&limit=5").json();
    assert!(connections.to_string().contains(&client.id), "{connections}");
    let node = gateway.get("/v1/node").json();
    assert_eq!(node["shards"], 2, "{node}");
    assert!(node.to_string().contains(env!("CARGO_PKG_VERSION")), "{node}");
    let limits = node["limits"].as_object().unwrap();
    assert!(limits.values().all(serde_json::Value::is_number), "automatic ones too are told as they are: {node}");
    assert_eq!(limits["connectionRate"], 10_000, "5,000 for each shard");
    let closed = gateway.ask("DELETE", &format!("/v1/connections/{}", client.id), &[], b"");
    assert!(closed.status < 300, "{closed:?}");
    assert!(matches!(client.end(), End::Closed(1008, _)));
    gateway.wait_for("ws_closes_total{reason=\"operator\"}", 1.0);
    let again = gateway.ask("DELETE", &format!("/v1/connections/{}", client.id), &[], b"");
    assert_eq!(again.status, 404);
}
