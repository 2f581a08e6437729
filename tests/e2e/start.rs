//! What an operator sees who made a mistake: one line that says what to do, and an exit code.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::nats::free_port;

fn tidegate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).current_dir(std::env::temp_dir()).output().unwrap()
}

/// The one line on stderr, and the exit code.
fn refusal(args: &[&str]) -> (String, i32) {
    let output = tidegate(args);
    let text = String::from_utf8(output.stderr).unwrap();
    (text.trim_end().to_owned(), output.status.code().unwrap())
}

fn file(content: &str) -> String {
    let path = std::env::temp_dir().join(format!("tidegate-start-{}-{}.toml", std::process::id(), free_port()));
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn an_unknown_key_names_the_nearest_one_and_its_line() {
    let path = file("\nlisten = \"127.0.0.1:0\"\nshads = 2\n");
    let (line, code) = refusal(&["--config", &path]);
    assert_eq!(code, 2);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains("shads") && line.contains("shards") && line.contains(":3"), "{line}");
}

#[test]
fn a_wrong_value_says_what_is_accepted() {
    for (args, part) in [
        (&["--shards", "0"][..], "256"),
        (&["--listen", "nonsense"], "127.0.0.1"),
        (&["--driver", "kqueue"], "epoll"),
        (&["--nats-url", "http://broker"], "nats://"),
        (&["--drain-window", "soon"], "30s"),
        (&["--config", "/nonexistent/tidegate.toml"], "/nonexistent/tidegate.toml"),
    ] {
        let (line, code) = refusal(args);
        assert_eq!(code, 2, "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
        assert!(line.contains(part), "{args:?}: {line}");
    }
}

#[test]
fn an_unknown_flag_names_the_nearest_one() {
    let (text, code) = refusal(&["--lissten", "127.0.0.1:1"]);
    assert_eq!(code, 2);
    assert!(text.contains("--listen"), "{text}");
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_3() {
    let taken = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = format!("127.0.0.1:{}", free_port());
    for (listen, admin, flag) in [(&taken, &free, "--listen"), (&free, &taken, "--admin")] {
        let (line, code) = refusal(&["--listen", listen, "--admin", admin, "--log-format", "human"]);
        assert_eq!(code, 3, "{line}");
        let errors: Vec<&str> = line.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors.len(), 1, "{line}");
        assert!(errors[0].contains(&taken) && errors[0].contains("in use") && errors[0].contains(flag), "{line}");
    }
}

#[test]
fn a_second_gateway_on_the_same_port_is_refused_and_the_first_serves_on() {
    let first = Gateway::start(Driver::Epoll, &[]);
    let address = format!("127.0.0.1:{}", first.port);
    let admin = format!("127.0.0.1:{}", free_port());
    let (line, code) = refusal(&["--listen", &address, "--admin", &admin]);
    assert_eq!(code, 3, "{line}");
    assert!(line.contains("in use"), "{line}");
}

#[test]
fn a_broker_that_is_not_there_is_one_line_and_the_node_waits_for_it_unready() {
    let url = format!("nats://127.0.0.1:{}", free_port());
    let mut gateway = Gateway::on(Driver::Epoll).args(&["--nats-url", &url, "--log-format", "human"]).unready().start();
    gateway.wait("the log says so", |gateway| gateway.log().contains(&url["nats://".len()..]));
    let answer = gateway.get("/ready");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("--nats-url"), "{}", answer.text());
    assert_eq!(gateway.get("/live").status, 200);
    let warnings = gateway.log().lines().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "{}", gateway.log());
}

#[test]
fn the_configuration_is_shown_with_where_each_value_came_from() {
    let path = file("message_rate = 7\n");
    let output = tidegate(&["--config", &path, "--listen", "127.0.0.1:1234", "--print-config"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for (key, origin) in [("message_rate = 7", &*path), ("listen = \"127.0.0.1:1234\"", "--listen")] {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {text}"));
        assert!(line.contains(origin), "{line}");
    }
}

#[test]
fn the_check_says_whether_a_target_fits() {
    assert_eq!(tidegate(&["check"]).status.code(), Some(0));
    let output = tidegate(&["check", "--target", "90000000"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!output.stdout.is_empty());
}

#[test]
fn the_driver_that_runs_and_why_is_one_log_line_and_a_metric() {
    let mut gateway = Gateway::start(Driver::Epoll, &["--log-format", "human"]);
    gateway.wait("the last line of the start is written", |gateway| gateway.log().contains("serving"));
    let lines = gateway.log().lines().filter(|line| line.contains("driver=\"epoll\"") && line.contains("why")).count();
    assert_eq!(lines, 1, "{}", gateway.log());
    let sample = format!("tidegate_build_info{{version=\"{}\",driver=\"epoll\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(gateway.metrics().value(&sample), 1.0);
}

#[test]
fn port_0_is_one_port_for_all_shards_and_the_log_says_which() {
    // Each shard got a port of its own from the kernel, and the log said 0.
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2", "--log-format", "json"])
        .current_dir(std::env::temp_dir())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("\"serving\"")).expect("it serves");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let port = |name: &str| line[name].as_str().and_then(|text| text.rsplit(':').next()?.parse::<u16>().ok()).unwrap();
    let (listen, admin) = (port("listen"), port("admin"));
    assert!(listen != 0 && admin != 0 && listen != admin, "{line}");
    let clients: Vec<Client> = (0..40).map(|_| Client::connect(listen)).collect();
    let metrics = http::request(admin, "GET", "/metrics", &[], b"").text();
    let of_shard = |shard: u32| {
        let sample = format!("ws_shard_connections{{shard=\"{shard}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&sample)?.parse::<u32>().ok()).unwrap()
    };
    let connections = [of_shard(0), of_shard(1)];
    assert!(connections.iter().sum::<u32>() == 40 && !connections.contains(&0), "both listen there: {connections:?}");
    drop(clients);
    child.kill().unwrap();
    child.wait().unwrap();
}
