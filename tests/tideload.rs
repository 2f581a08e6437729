//! The load generator against the real gateway: what its help shows works against the defaults, and what the gateway refuses is not
//! reported as lost.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

mod support;

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::gateway::{Driver, Gateway};
use support::nats::{Nats, free_port};
use tungstenite::{Message, WebSocket};

/// The load generator, which cargo builds beside the gateway.
fn tideload() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("tideload");
    assert!(path.exists(), "{} is missing; run cargo build -p tideload", path.display());
    path
}

/// The examples of its help, each one line.
fn examples() -> Vec<String> {
    let help = Command::new(tideload()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, rest) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("no examples: {help}"));
    let mut examples: Vec<String> = Vec::new();
    for line in rest.lines() {
        match examples.last_mut() {
            Some(last) if last.ends_with('\\') => {
                last.pop();
                last.push_str(line);
            }
            _ if line.starts_with("  tideload ") => examples.push(line.trim_start().to_owned()),
            _ => {}
        }
    }
    examples
}

/// A server of its own kind: `JOIN ROOM` is answered with `OK`, `TO ROOM TEXT` goes to all of the room.
fn start_another_server() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = listener.local_addr().unwrap().port();
    let rooms: Arc<Mutex<HashMap<String, Vec<TcpStream>>>> = Arc::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let rooms = Arc::clone(&rooms);
            std::thread::spawn(move || serve(stream, &rooms));
        }
    });
    port
}

fn serve(stream: TcpStream, rooms: &Mutex<HashMap<String, Vec<TcpStream>>>) {
    let writer = stream.try_clone().unwrap();
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    while let Ok(message) = socket.read() {
        let Ok(text) = message.to_text() else { continue };
        let mut rooms = rooms.lock().unwrap();
        let say = |member: &TcpStream, text: &str| {
            let role = tungstenite::protocol::Role::Server;
            let mut member = WebSocket::from_raw_socket(member, role, None);
            // A member that is gone hears nothing.
            member.send(Message::text(text)).ok();
        };
        if let Some(room) = text.strip_prefix("JOIN ") {
            rooms.entry(room.to_owned()).or_default().push(writer.try_clone().unwrap());
            say(&writer, "OK");
        } else if let Some((room, text)) = text.strip_prefix("TO ").and_then(|rest| rest.split_once(' ')) {
            rooms.entry(room.to_owned()).or_default().iter().for_each(|member| say(member, text));
        }
    }
}

#[test]
fn every_example_in_the_help_of_the_load_generator_runs_against_a_default_gateway() {
    // The first example reported "lost 400": it published faster than the gateway takes from one connection.
    let nats = Nats::start();
    let alone = Gateway::start(Driver::Epoll, &[]);
    let with_broker = Gateway::start(Driver::Epoll, &["--nats-url", &nats.url()]);
    let other = start_another_server();
    let examples = examples();
    assert_eq!(examples.len(), 6, "{examples:?}");
    for example in examples {
        let gateway = if example.contains("nats://") { &with_broker } else { &alone };
        let mut command = example
            .replace("tideload", tideload().to_str().unwrap())
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", gateway.port))
            .replace("127.0.0.1:9090", &format!("127.0.0.1:{}", gateway.admin))
            .replace("nats://127.0.0.1:4222", &nats.url())
            .replace("127.0.0.1:9000", &format!("127.0.0.1:{other}"))
            .replace("$(pidof tidegate)", &gateway.pid().to_string());
        command.push_str(" --json - -q");
        if !command.contains(" storm ") {
            command.push_str(" --seconds 1 --warmup 0.1 --exactly-once");
        }
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{command}\n{told}\n{}", String::from_utf8_lossy(&output.stdout));
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(record["hints"], Value::Array(Vec::new()), "{command}");
        let results = &record["results"];
        let measured =
            results["messages"].as_u64().or(results["delivered"].as_u64()).or(results["connections"].as_u64());
        assert!(measured.is_some_and(|count| count > 0), "{command}: {record}");
    }
}

#[test]
fn publications_over_the_message_rate_are_reported_as_refused_with_the_flag_that_lifts_the_rate() {
    // A user's first run said "lost 7800 … refused 2", and nothing in it named the rate.
    let gateway = Gateway::start(Driver::Epoll, &[]);
    let url = format!("ws://127.0.0.1:{}/", gateway.port);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(tideload());
        command.args(arguments).args([&url, "-c", "20", "-t", "1", "--exactly-once"]).args(["--json", "-", "-q"]);
        let output = command.output().unwrap();
        let record: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(output.status.code(), Some(1), "not every message arrived: {record}");
        assert!(record["hints"][0].as_str().unwrap().contains("--message-rate 0"), "{record}");
        record["results"].clone()
    };
    let number = |results: &Value, key: &str| results[key].as_u64().unwrap();
    let results = run(&["fanout", "--rate", "3000", "--warmup", "0.3"]);
    let refused = number(&results, "refused");
    assert!(refused > 0, "{results}");
    assert_eq!((number(&results, "lost"), number(&results, "reordered")), (0, 0), "{results}");
    assert_eq!(number(&results, "delivered"), (number(&results, "published") - refused) * 20);

    let results = run(&["echo", "--rate", "20000", "--warmup", "0"]);
    assert!(number(&results, "refused") > 0, "{results}");
    assert_eq!((number(&results, "lost"), number(&results, "reordered")), (0, 0), "{results}");
}
