//! Clients, backends and a browser that nobody here wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::Nats;

/// scripts/two-nodes.sh is what a newcomer runs first.
#[test]
fn the_script_starts_two_nodes_that_hear_each_other_and_ends_them_on_ctrl_c() {
    let first = crate::support::nats::free_port();
    let mut script = Command::new(root().join("scripts/two-nodes.sh"))
        .env("GATEWAY", env!("CARGO_BIN_EXE_tidegate"))
        .env("FIRST_PORT", first.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(script.stdout.take().unwrap()));
    assert!(lines.map(Result::unwrap).any(|line| line.starts_with("Ctrl-C")), "it says what to try");
    let mut members = [first, first + 1].map(Client::connect);
    members.iter_mut().for_each(|member| member.join("lobby"));
    members[0].publish("lobby", serde_json::json!("across"));
    members.iter_mut().for_each(|member| assert_eq!(member.content("lobby"), "across"));
    let pid = nix::unistd::Pid::from_raw(script.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    members.iter_mut().for_each(|member| assert!(matches!(member.end(), End::Closed(1012, _))));
    assert!(script.wait().unwrap().success());
    for port in [first, first + 1, first + 20] {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody still listens at {port}");
    }
}

crate::on_both_drivers! {
    python_websockets_talk_on_one_node_and_across_two
    a_plain_node_ws_program_works_unchanged
    a_nats_py_backend_publishes_json_text_bytes_and_headers
    curl_is_told_what_to_do
    a_browser_on_each_node_sees_a_message_cross_and_comes_back_after_a_restart
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What scripts/install-test-deps.sh installed, or a reason to fail that says what to do.
fn installed(path: &str) -> PathBuf {
    let path = root().join(".deps").join(path);
    assert!(path.exists(), "{} is missing: run scripts/install-test-deps.sh", path.display());
    path
}

/// Runs a program to its end; it must succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.trim().to_owned()
}

fn python(arguments: &[&str]) -> String {
    let script = root().join("tests/e2e/python_client.py");
    run(Command::new(installed("venv/bin/python")).arg(script).args(arguments))
}

fn node(script: &str, arguments: &[&str]) -> String {
    let modules = installed("node/node_modules");
    let script = root().join("tests/e2e").join(script);
    run(Command::new("node").env("NODE_PATH", modules).arg(script).args(arguments))
}

/// Two nodes over one broker.
fn two_nodes(driver: Driver, more: &[&str]) -> (Nats, [Gateway; 2]) {
    let broker = Nats::start();
    let node = || Gateway::on(driver).args(&["--nats-url", &broker.url()]).args(more).start();
    let nodes = [node(), node()];
    (broker, nodes)
}

fn python_websockets_talk_on_one_node_and_across_two(driver: Driver) {
    let single = Gateway::start(driver, &[]);
    let port = single.port.to_string();
    assert_eq!(python(&["websockets", &port, &port]), "ok");
    let (_broker, [one, two]) = two_nodes(driver, &[]);
    assert_eq!(python(&["websockets", &one.port.to_string(), &two.port.to_string()]), "ok");
}

fn a_plain_node_ws_program_works_unchanged(driver: Driver) {
    let single = Gateway::start(driver, &[]);
    let port = single.port.to_string();
    assert_eq!(node("node_client.js", &[&port, &port]), "ok");
    let (_broker, [one, two]) = two_nodes(driver, &[]);
    assert_eq!(node("node_client.js", &[&one.port.to_string(), &two.port.to_string()]), "ok");
}

fn a_nats_py_backend_publishes_json_text_bytes_and_headers(driver: Driver) {
    let broker = Nats::start();
    let gateway = Gateway::start(driver, &["--nats-url", &broker.url()]);
    assert_eq!(python(&["backend", &gateway.port.to_string(), &broker.url()]), "ok");
}

fn curl_is_told_what_to_do(driver: Driver) {
    let gateway = Gateway::start(driver, &["--max-connections", "1000"]);
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", gateway.port);
        run(Command::new("curl").args(["-s", "-S", "-i", "--max-time", "30"]).args(arguments).arg(url))
    };
    let answer = curl(&[], "/");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("WebSocket client"), "{answer}");
    let answer = curl(&[], "/ws");
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("WebSocket client"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("sec-websocket-version: 13"), "{answer}");
    assert!(curl(&[], "/nowhere").starts_with("HTTP/1.1 404 "));
    assert!(curl(&["-X", "DELETE"], "/").starts_with("HTTP/1.1 405 "));
    assert!(curl(&["-d", "body"], "/").starts_with("HTTP/1.1 405 "));
    assert!(curl(&["--http1.0"], "/").starts_with("HTTP/1.1 200 "));
    assert!(curl(&["--http2"], "/").starts_with("HTTP/1.1 200 "), "an offer of h2c is ignored");
    assert!(curl(&["-I"], "/").starts_with("HTTP/1.1 200 "));
    assert!(curl(&[], "/health").starts_with("HTTP/1.1 200 "));
    let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"];
    assert!(curl(&upgrade, "/").starts_with("HTTP/1.1 400 "), "no key");
    let metrics = run(Command::new("curl").args(["-s", "-f", &format!("http://127.0.0.1:{}/metrics", gateway.admin)]));
    assert!(metrics.contains("\nws_connections_active 0"), "{metrics}");
}

/// A script that drives Chromium, and says how far it is.
struct Browser {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    input: std::process::ChildStdin,
}

impl Browser {
    /// Starts the script; `None`, and a word about it, where no Chromium is installed.
    fn start(script: &str, arguments: &[String]) -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let browser =
            std::env::split_paths(&paths).flat_map(|path| names.map(|name| path.join(name))).find(|path| path.exists());
        let Some(browser) = browser else {
            println!("skipped: no Chromium on the PATH (Debian: apt-get install chromium)");
            return None;
        };
        let mut command = Command::new("node");
        command.env("NODE_PATH", installed("node/node_modules")).arg(root().join("tests/e2e").join(script));
        command.arg(browser).args(arguments);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let input = child.stdin.take().unwrap();
        Some(Self { child, lines, input })
    }

    fn says(&mut self, expected: &str) {
        assert_eq!(self.lines.next().map(Result::unwrap).as_deref(), Some(expected));
    }

    fn goes_on(&mut self) {
        std::io::Write::write_all(&mut self.input, b"go on\n").unwrap();
    }

    fn succeeds(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

fn a_browser_on_each_node_sees_a_message_cross_and_comes_back_after_a_restart(driver: Driver) {
    let (_broker, [one, mut two]) = two_nodes(driver, &["--demo", "--drain-window", "0s"]);
    let ports = [one.port.to_string(), two.port.to_string()];
    let Some(mut browser) = Browser::start("demo_page.js", &ports) else { return };
    browser.says("crossed");
    assert_eq!(two.terminate(), 0);
    browser.says("disconnected");
    two.restart();
    browser.goes_on();
    browser.says("crossed again");
    browser.succeeds();
    assert!(two.metrics().value("ws_reconnects_total") >= 1.0, "the page said its attempt");
}

/// A bad name left the room that the page was in and stood on "joining" for ever; a page that an operator had closed needed a reload,
/// and one that a full node refused did not say why.
#[test]
fn the_demo_page_tells_of_a_bad_room_name_a_close_and_a_full_node_and_goes_on() {
    let mut gateway = Gateway::start(Driver::Epoll, &["--demo", "--max-connections", "2"]);
    let Some(mut browser) = Browser::start("demo_errors.js", &[gateway.port.to_string()]) else { return };
    browser.says("a bad name in the address");
    browser.says("a bad name in the field");
    browser.says("cut");
    let listed = gateway.get("/v1/connections").json();
    let [page] = &listed["connections"].as_array().unwrap()[..] else { panic!("not one connection: {listed}") };
    let path = format!("/v1/connections/{}", page["id"].as_str().unwrap());
    assert!(gateway.ask("DELETE", &path, &[], b"").status < 300);
    browser.goes_on();
    browser.says("full");
    gateway.wait_for("ws_sockets", 0.0);
    let fill = [Client::connect(gateway.port), Client::connect(gateway.port)];
    browser.goes_on();
    browser.says("free");
    drop(fill);
    browser.goes_on();
    browser.says("joined again");
    browser.succeeds();
}

/// A newcomer's page came from a file or from the port of a development server. It got 403 for ever, and nothing told why.
#[test]
fn the_browser_client_in_a_page_of_another_port_or_a_file_is_let_in_by_demo_or_origins_and_else_the_log_says_how() {
    let pages = crate::support::nats::free_port();
    let origin = format!("http://localhost:{pages}");
    let demo = Gateway::start(Driver::Epoll, &["--demo"]);
    let named = Gateway::start(Driver::Epoll, &["--origins", &format!("{origin},file://")]);
    let plain = Gateway::start(Driver::Epoll, &[]);
    let tried = [(&demo, "localhost"), (&demo, "file"), (&named, "localhost"), (&plain, "localhost")];
    let url = |gateway: &Gateway| format!("ws://127.0.0.1:{}/", gateway.port);
    let pairs = tried.iter().flat_map(|(gateway, origin)| [url(gateway), String::from(*origin)]);
    let arguments: Vec<_> = std::iter::once(pages.to_string()).chain(pairs).collect();
    let Some(mut browser) = Browser::start("page_of_another_port.js", &arguments) else { return };
    for said in ["localhost: hello", "file: hello", "localhost: hello", "localhost: 403"] {
        browser.says(said);
    }
    browser.succeeds();
    let log = plain.log();
    assert!(log.contains(&origin) && log.contains("--origins"), "{log}");
}
