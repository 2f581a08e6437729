//! The raw dialect: a room on a path, messages as they are.

use serde_json::json;

use crate::support::client::{Client, End, Said};
use crate::support::gateway::{Driver, Gateway};

crate::on_both_drivers! {
    text_stays_text_and_binary_stays_binary_for_every_member_of_the_room
    raw_and_native_clients_of_one_room_hear_each_other
    a_room_in_the_path_is_percent_decoded
    a_route_maps_a_path_to_a_room_so_that_plain_broadcast_programs_work
    a_raw_client_that_goes_on_over_the_rate_is_closed_with_1008
    a_raw_message_over_the_limit_is_closed_with_1009_and_reaches_no_member
}

/// A raw client that is a member for certain: it has heard itself.
fn member(gateway: &Gateway, path: &str) -> Client {
    let mut client = Client::raw(gateway.port, path);
    client.say_text("am I in?");
    while client.text() != "am I in?" {}
    client
}

fn text_stays_text_and_binary_stays_binary_for_every_member_of_the_room(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut first = member(&gateway, "/raw/lobby");
    let mut second = member(&gateway, "/raw/lobby");
    assert_eq!(first.text(), "am I in?");
    first.say_text("no envelope, {not json");
    first.say_binary(&[0, 159, 146, 150]);
    first.say_text("");
    for client in [&mut first, &mut second] {
        assert_eq!(client.next(), Said::Text("no envelope, {not json".into()));
        assert_eq!(client.next(), Said::Binary(vec![0, 159, 146, 150]));
        assert_eq!(client.next(), Said::Text(String::new()));
    }
}

fn raw_and_native_clients_of_one_room_hear_each_other(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut raw = member(&gateway, "/raw/lobby");
    let mut native = Client::connect(gateway.port);
    native.join("lobby");
    raw.say_text("{\"a\": 1}");
    raw.say_text("plain");
    raw.say_binary(b"\xff\x00");
    let text = native.json();
    assert!(text["content"] == "{\"a\": 1}" || text["content"] == json!({"a": 1}), "{text}");
    assert_eq!(native.content("lobby"), "plain");
    let binary = native.json();
    assert_eq!((&binary["content"], &binary["encoding"]), (&json!("/wA="), &json!("base64")));
    native.publish("lobby", json!({"b": 2}));
    assert_eq!(native.content("lobby"), json!({"b": 2}));
    assert_eq!([raw.text(), raw.text()], ["{\"a\": 1}", "plain"]);
    assert_eq!(raw.next(), Said::Binary(b"\xff\x00".to_vec()));
    assert_eq!(raw.text(), "{\"b\":2}");
}

fn a_room_in_the_path_is_percent_decoded(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut raw = member(&gateway, "/raw/team%2Da");
    let mut native = Client::connect(gateway.port);
    native.join("team-a");
    native.publish("team-a", json!(1));
    assert_eq!(raw.text(), "1");
    for path in ["/raw/a%20b", "/raw/a%2A", "/raw/%24SYS", "/raw/a%0d%0ab", "/raw/a..b"] {
        assert!(matches!(Client::try_connect(gateway.port, path), Err(404)), "{path} names no room");
    }
    for path in ["/raw/", "/raw", "/nowhere"] {
        assert!(matches!(Client::try_connect(gateway.port, path), Err(404)), "{path}");
    }
}

fn a_route_maps_a_path_to_a_room_so_that_plain_broadcast_programs_work(driver: Driver) {
    let config = "[[routes]]\npath = \"/ws\"\ndialect = \"raw\"\nroom = \"chat_channel\"\n";
    let gateway = Gateway::on(driver).config(config).start();
    let mut raw = member(&gateway, "/ws");
    let mut native = Client::connect_at(gateway.port, "/socket");
    native.join("chat_channel");
    raw.say_text("hello");
    assert_eq!(native.content("chat_channel"), "hello");
    assert_eq!(raw.text(), "hello");
}

fn a_raw_client_that_goes_on_over_the_rate_is_closed_with_1008(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--message-rate", "5"]);
    let mut client = Client::raw(gateway.port, "/raw/lobby");
    let end = loop {
        if !client.try_say(&json!("more")) {
            break client.end();
        }
        if let Some(Said::End(end)) = client.next_within(std::time::Duration::from_millis(5)) {
            break end;
        }
    };
    assert!(matches!(end, End::Closed(1008, _)), "{end:?}");
    gateway.wait_for("ws_closes_total{reason=\"rate-limited\"}", 1.0);
}

/// The protocol page told of 1009 for native clients only, and no test sent a raw client's message over the limit.
fn a_raw_message_over_the_limit_is_closed_with_1009_and_reaches_no_member(driver: Driver) {
    // The gateway reads no close frame behind a message that it refused to read.
    let mut gateway = Gateway::on(driver).config("[limits]\nclose_deadline = \"1s\"").start();
    let mut other = member(&gateway, "/raw/lobby");
    let mut large = Client::raw(gateway.port, "/raw/lobby");
    large.try_say(&json!("x".repeat(64 * 1024)));
    assert!(matches!(large.end(), End::Closed(1009, _)), "two quotes over the limit");
    gateway.wait_for("ws_closes_total{reason=\"too-big\"}", 1.0);
    other.say_text("marker");
    assert_eq!(other.text(), "marker");
}
