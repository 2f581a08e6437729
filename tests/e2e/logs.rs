//! Where the log goes is not the node's concern: its reader may stop reading, or go away, and no client may feel it.

use std::io::{Write, pipe};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::incident::Incident;
use crate::support::nats::Nats;

crate::on_both_drivers! {
    a_node_whose_log_reader_has_gone_serves_delivers_and_drains
    a_node_whose_log_reader_reads_nothing_serves_delivers_and_drains
}

/// The log's collector crashed, or an ssh session was closed: the next line that the node logged ended the process (a failed write
/// made the logging library panic), every client lost its connection without a close frame, and SIGTERM drained nothing.
fn a_node_whose_log_reader_has_gone_serves_delivers_and_drains(driver: Driver) {
    let (reader, writer) = pipe().unwrap();
    let mut node = Node::start(driver, "info", writer.into());
    let incident = Incident::begin("reader of the log has gone", driver);
    drop(reader);
    node.loses_its_broker_for_a_moment();
    incident.recovered();
    node.gateway.wait_for_at_least("ws_log_dropped_total{reason=\"write-failed\"}", 1.0);
    node.drains();
}

/// The collector hung and left the pipe full: the relay's thread slept in its write, so joins were not answered and publications not
/// delivered, while `/live` said 200.
fn a_node_whose_log_reader_reads_nothing_serves_delivers_and_drains(driver: Driver) {
    let (reader, writer) = pipe().unwrap();
    // One page; at the level trace the start alone is more.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut node = Node::start(driver, "trace", writer.into());
    let incident = Incident::begin("reader of the log reads nothing", driver);
    node.loses_its_broker_for_a_moment();
    incident.recovered();
    node.drains();
    drop(reader);
}

/// A node with a broker and a member of a room.
struct Node {
    broker: Nats,
    gateway: Gateway,
    member: Client,
}

impl Node {
    fn start(driver: Driver, level: &str, log: OwnedFd) -> Self {
        let broker = Nats::start();
        let gateway = Gateway::on(driver)
            .args(&["--nats-url", &broker.url(), "--log", level, "--drain-window", "500ms"])
            .log_into(log)
            .start();
        let mut member = Client::connect(gateway.port);
        member.join("lobby");
        Self { broker, gateway, member }
    }

    /// The relay logs that, and tells the room.
    fn loses_its_broker_for_a_moment(&mut self) {
        self.broker.kill();
        self.gateway.wait_for("ws_relay_connected", 0.0);
        self.broker.restart();
        self.member.answer("gap");
        assert_eq!(self.gateway.publish("lobby", "\"again\""), 202);
        assert_eq!(self.member.content("lobby"), "again");
    }

    fn drains(mut self) {
        self.gateway.signal(Signal::SIGTERM);
        self.member.answer("server-shutdown");
        assert_eq!(self.gateway.exit().code(), Some(0));
    }
}

/// `POST /drain` and `DELETE /v1/connections/ID` left no line: after a drain by mistake no log told which peer had asked for it.
#[test]
fn each_admin_call_that_changes_something_or_is_refused_is_a_log_line_without_the_token() {
    let config = "log_format = \"json\"\n[admin]\ntoken = \"correct-horse-battery\"\n[publish]\ntoken = \"only-for-publishing\"\n";
    for (addresses, peer) in [("full", "127.0.0.1:"), ("masked", "127.0.0.0/24")] {
        let config = format!("log_addresses = \"{addresses}\"\n{config}");
        let gateway = Gateway::on(Driver::Epoll).config(&config).start();
        let call = |method: &str, path: &str, token: &str| {
            gateway.ask(method, path, &[&format!("Authorization: Bearer {token}")], b"").status
        };
        assert_eq!(call("DELETE", "/v1/connections/000000000000000000000000?x=y", "correct-horse-battery"), 404);
        assert_eq!(call("POST", "/drain", "only-for-publishing"), 403);
        assert_eq!(call("POST", "/drain", "a-guess-of-a-stranger"), 401);
        assert_eq!(gateway.get("/v1/node").status, 401);
        assert_eq!(call("GET", "/v1/node", "correct-horse-battery"), 200);
        assert_eq!(call("POST", "/drain", "correct-horse-battery"), 202);
        assert_eq!(call("DELETE", "/drain", "correct-horse-battery"), 200);
        let expected = [
            ("DELETE", "/v1/connections/000000000000000000000000", 404, "admin.token"),
            ("POST", "/drain", 403, "publish.token"),
            ("POST", "/drain", 401, "unknown"),
            ("GET", "/v1/node", 401, "none"),
            ("POST", "/drain", 202, "admin.token"),
            ("DELETE", "/drain", 200, "admin.token"),
        ];
        let mut gateway = gateway;
        gateway.wait("the last line", |gateway| gateway.log().contains("\"status\":200"));
        let log = gateway.log();
        let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let calls =
            lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("admin call")));
        let calls: Vec<_> = calls.filter(|line| !(line["path"] == "/v1/rooms" && line["status"] == 401)).collect();
        assert_eq!(calls.len(), expected.len(), "{log}");
        for (line, (method, path, status, token)) in calls.into_iter().zip(expected) {
            assert_eq!((&line["method"], &line["path"]), (&method.into(), &path.into()), "{line}");
            assert_eq!((&line["status"], &line["token"]), (&status.into(), &token.into()), "{line}");
            assert!(line["peer"].as_str().unwrap().starts_with(peer), "{line}");
        }
        for secret in ["correct-horse-battery", "only-for-publishing", "a-guess-of-a-stranger"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

/// docs/logging.md said that no client causes a line at `info`, and no header of a client is ever logged. A refused page is one line, with
/// two of its headers, which carried a second pair of quotation marks that no query of a log store expects.
#[test]
fn a_refused_page_is_one_log_line_with_its_origin_and_host_and_none_of_its_other_headers() {
    let mut gateway = Gateway::on(Driver::Epoll).config("log_format = \"json\"\n").start();
    let refused = |origin: &str| {
        let mut stream = http::connect(gateway.port);
        let headers = [&format!("Origin: {origin}"), "Cookie: a-secret-of-the-visitor", "User-Agent: of-the-visitor"];
        stream.write_all(http::upgrade("/", &headers).as_bytes()).unwrap();
        http::read_answer(&mut stream).unwrap().status
    };
    assert_eq!(
        [refused("https://one.example"), refused("https://one.example"), refused("https://two.example")],
        [403; 3]
    );

    gateway.wait("the last line", |gateway| gateway.log().contains("--origins https://two.example"));
    let log = gateway.log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pages: Vec<_> = lines.iter().filter(|line| !line["origin"].is_null()).collect();
    let told =
        pages.iter().map(|line| [&line["level"], &line["origin"], &line["host"]].map(|field| field.as_str().unwrap()));
    let expected = ["https://one.example", "https://two.example"].map(|origin| ["WARN", origin, "localhost"]);
    assert_eq!(told.collect::<Vec<_>>(), expected, "{log}");
    assert!(!log.contains("of-the-visitor"), "{log}");
}

/// What a command prints may have no reader any more (`| head -1`), and neither may its complaint.
#[test]
fn a_command_whose_output_has_no_reader_ends_with_its_own_exit_code() {
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["check"], 0),
        (&["check", "--json"], 0),
        (&["--print-config"], 0),
        (&["--listen", "nowhere"], 2),
        (&["check", "--shards", "none"], 2),
        (&["drain", "--admin", "127.0.0.1:1"], 1),
        (&["pub", "lobby", "hello", "--admin", "127.0.0.1:1"], 1),
        (&["sub", "lobby", "--listen", "127.0.0.1:1"], 1),
    ] {
        let gone = || pipe().map(|(_, writer)| Stdio::from(writer)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let status = command.args(arguments).stdout(gone()).stderr(gone()).current_dir(std::env::temp_dir()).status();
        assert_eq!(status.unwrap().code(), Some(code), "{arguments:?}");
    }
}
