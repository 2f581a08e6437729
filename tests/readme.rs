//! The documentation against the program: its tables name what the binary names, and its browser client does what it says.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use support::gateway::{Driver, Gateway};
use support::http::LONGEST_WAIT;
use support::nats::free_port;
use support::proxy::Proxy;
use tidegate_core::close::{CloseReason, Refusal};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The cells of the rows of the table between `<!-- name -->` and `<!-- /name -->` in a page, backquotes removed.
fn table(file: &str, name: &str) -> Vec<Vec<String>> {
    let text = page(file);
    let (_, rest) = text.split_once(&format!("<!-- {name} -->\n")).unwrap_or_else(|| panic!("{file} has no {name}"));
    let (rows, _) = rest.split_once(&format!("<!-- /{name} -->")).unwrap_or_else(|| panic!("{name} has no end"));
    let cell = |cell: &str| cell.trim().replace('`', "");
    rows.trim().lines().skip(2).map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

/// The binary in an empty environment and a folder without a settings file.
fn tidegate(arguments: &[&str]) -> Command {
    let folder = std::env::temp_dir().join(format!("tidegate-readme-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A setting as `--print-config` shows it: its value, if it has one, and where that came from.
struct Shown {
    value: Option<String>,
    origin: String,
}

fn print_config(variables: &BTreeMap<String, String>) -> BTreeMap<String, Shown> {
    let text = output(tidegate(&["--print-config"]).envs(variables));
    let mut section = String::new();
    let mut shown = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            continue;
        }
        let (setting, origin) = line.rsplit_once(" # ").unwrap();
        let (key, value) = setting.split_once('=').unwrap();
        let absent = key.starts_with("# ");
        let key = format!("{section}{}", key.trim_start_matches("# ").trim());
        let value = (!absent).then(|| value.trim().to_owned());
        shown.insert(key, Shown { value, origin: origin.trim().to_owned() });
    }
    shown
}

#[test]
fn the_configuration_table_names_every_key_with_its_default_and_its_variable() {
    let rows = table("configuration.md", "settings");
    let shown = print_config(&BTreeMap::new());
    let keys: BTreeSet<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(keys, shown.keys().map(String::as_str).collect(), "the table and --print-config differ");

    // Each default, given by its variable, is said to come from that variable.
    let mut variables = BTreeMap::new();
    for row in &rows {
        let Shown { value, origin } = &shown[&row[0]];
        let of_the_host = matches!(row[0].as_str(), "node_name" | "shards");
        match value {
            Some(value) if !of_the_host => assert_eq!(*value, row[3], "the default of {}", row[0]),
            _ => assert_eq!(origin.strip_prefix("default: "), Some(row[3].as_str()), "the default of {}", row[0]),
        }
        if let Some(value) = value {
            variables.insert(row[2].clone(), value.trim_matches(['"', '[', ']']).to_owned());
        }
    }
    variables.retain(|_, value| !value.is_empty());
    let from_variables = print_config(&variables);
    for row in rows.iter().filter(|row| variables.contains_key(&row[2])) {
        let origin = &from_variables[&row[0]].origin;
        assert!(origin.contains(&row[2]), "{} does not come from {} but from {origin}", row[0], row[2]);
    }
}

#[test]
fn the_configuration_table_names_every_flag() {
    let help = output(&mut tidegate(&["--help"]));
    let words = help.split_whitespace().filter(|word| word.starts_with("--"));
    let flags: BTreeSet<_> = words.map(|word| word.split(['[', '=']).next().unwrap()).collect();
    let other = BTreeSet::from(["--config", "--print-config", "--help", "--version"]);
    let rows = table("configuration.md", "settings");
    let named: BTreeSet<_> = rows.iter().map(|row| row[1].as_str()).filter(|flag| !flag.is_empty()).collect();
    assert_eq!(named, flags.difference(&other).copied().collect());
}

#[test]
fn the_metrics_table_is_what_a_scrape_says() {
    let gateway = Gateway::start(Driver::Epoll, &[]);
    let scrape = gateway.get("/metrics").text();
    let described = |prefix: &str| -> BTreeMap<&str, &str> {
        scrape.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(' ')).collect()
    };
    let (help, kinds) = (described("# HELP "), described("# TYPE "));
    let scraped: BTreeSet<_> = help.iter().map(|(name, help)| (*name, kinds[name], *help)).collect();
    let rows = table("metrics.md", "metrics");
    let named = rows.iter().map(|row| (row[0].as_str(), row[1].as_str(), row[3].as_str())).collect();
    assert_eq!(scraped, named, "left: a scrape; right: docs/metrics.md");
    for row in &rows {
        for label in row[2].split(", ").filter(|label| !label.is_empty()) {
            let sample = scrape.lines().find(|line| line.starts_with(&row[0])).unwrap();
            assert!(sample.contains(&format!("{label}=\"")), "{} has no label {label}: {sample}", row[0]);
        }
    }
}

/// The text of a section of docs/protocol.md.
fn section(heading: &str) -> String {
    let text = page("protocol.md");
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The numbers in the first cell of each row of a section's table, with the last cell.
fn numbered_rows(heading: &str) -> BTreeMap<u16, String> {
    let section = section(heading);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    rows.flat_map(|(numbers, rest)| {
        let last = rest.rsplit(" | ").next().unwrap().to_owned();
        numbers.split(", ").filter_map(|n| n.parse().ok()).map(|n| (n, last.clone())).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_close_code_and_http_status_that_the_gateway_sends_has_a_row_in_the_protocol_page() {
    // A client was written from the table, which lacked 1001: a connection whose pong was late never came back.
    let sent = |numbers: Vec<u16>| numbers.into_iter().filter(|number| *number != 0).collect::<BTreeSet<_>>();
    let mut codes = sent(CloseReason::ALL.iter().map(|reason| reason.code()).collect());
    // What a client sees where no close frame came (RFC 6455 §7.1.5).
    codes.insert(1006);
    assert_eq!(numbered_rows("Close codes").into_keys().collect::<BTreeSet<_>>(), codes);
    let statuses = sent(Refusal::ALL.iter().map(|refusal| refusal.status()).collect());
    let named: BTreeSet<u16> = numbered_rows("HTTP statuses before the upgrade").into_keys().collect();
    assert!(named.is_superset(&statuses), "the page has {named:?}, the gateway sends {statuses:?}");
}

#[test]
fn all_clients_here_keep_away_after_the_close_codes_that_the_protocol_page_says_no_to() {
    let told: BTreeSet<u16> =
        numbered_rows("Close codes").into_iter().filter(|(_, again)| again == "no").map(|(code, _)| code).collect();
    for (file, before) in [
        ("docs/protocol.md", "if (["),
        ("src/gateway/admin/demo.html", "NO_RETRY = ["),
        ("src/gateway/client/subscribe.rs", "FINAL_CODES: [u16; 7] = ["),
    ] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{file} has no {before}"));
        let codes = rest.split(']').next().unwrap().split(", ").map(|code| code.parse().unwrap());
        assert_eq!(codes.collect::<BTreeSet<u16>>(), told, "{file}");
    }
}

/// The blocks of JavaScript in docs/protocol.md: the client, and the example of its use.
fn blocks_of_javascript() -> [String; 2] {
    let section = section("A browser client");
    let blocks: Vec<_> =
        section.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    blocks.try_into().unwrap()
}

fn installed(path: &str) -> PathBuf {
    let path = root().join(".deps").join(path);
    assert!(path.exists(), "{} is missing; run scripts/install-test-deps.sh", path.display());
    path
}

/// A browser's `WebSocket` in Node. It prints each address that it connects to; a failed connection is no exception, as in browsers.
const BROWSER: &str = "globalThis.WebSocket = class extends require('ws') {
    constructor(address) { super(address); console.log(`connect ${new URL(address).search}`); this.on('error', () => {}); }
};\n";

/// A program that runs in Node, and what it prints.
struct Program {
    node: std::process::Child,
    lines: Receiver<String>,
}

impl Program {
    /// The documentation's client, then `use_of_it`.
    fn start(use_of_it: &str) -> Self {
        let [client, _] = blocks_of_javascript();
        let mut node = Command::new("node");
        let node = node.args(["-e", &format!("{BROWSER}{client}\n{use_of_it}")]);
        let node = node.env("NODE_PATH", installed("node/node_modules")).stdout(Stdio::piped());
        let mut node = node.spawn().unwrap();
        let printed = BufReader::new(node.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || printed.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { node, lines }
    }

    /// A client of this address that prints the type of each message.
    fn that_joins(address: &str) -> Self {
        Self::start(&format!("const stop = join('{address}', 'lobby', message => console.log(message.type));"))
    }

    /// The next lines are these.
    fn prints(&self, expected: &[&str]) {
        for line in expected {
            let next = self.lines.recv_timeout(LONGEST_WAIT);
            assert_eq!(next.as_deref(), Ok(*line), "of {expected:?}");
        }
    }

    /// It ends by itself, and prints no more.
    fn ends(mut self) {
        assert_eq!(self.lines.recv_timeout(LONGEST_WAIT), Err(RecvTimeoutError::Disconnected));
        assert!(self.node.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

fn address_of(gateway: &Gateway) -> String {
    format!("ws://127.0.0.1:{}/", gateway.port)
}

#[test]
fn the_browser_client_connects_again_after_a_shutdown_notice_and_joins_again() {
    let gateway = Gateway::start(Driver::Epoll, &["--max-connection-age", "1s"]);
    let client = Program::that_joins(&address_of(&gateway));
    client.prints(&["connect ", "welcome", "joined", "server-shutdown", "connect ?attempt=1", "welcome", "joined"]);
    assert_eq!(gateway.metrics().value("ws_reconnects_total"), 1.0, "it said that it came back");
}

#[test]
fn the_example_of_the_browser_client_gets_its_own_message() {
    let gateway = Gateway::start(Driver::Epoll, &[]);
    let [_, example] = blocks_of_javascript();
    assert!(example.contains("ws://127.0.0.1:8080/"), "it names the default address");
    Program::start(&example.replace("ws://127.0.0.1:8080/", &address_of(&gateway))).prints(&["connect ", "hello"]);
}

#[test]
fn the_browser_client_notices_a_dead_line_by_a_ping_in_a_message() {
    // A laptop changed its network: nothing arrived any more, no close frame either, and the page waited for ever, because a
    // browser shows no pings and a dead line looks like a quiet room.
    let heartbeat = "[heartbeat]\nping_interval = \"1s\"\npong_timeout = \"1s\"";
    let gateway = Gateway::on(Driver::Epoll).config(heartbeat).start();
    let proxy = Proxy::start(([127, 0, 0, 1], gateway.port).into());
    let client = Program::that_joins(&format!("ws://{}/", proxy.address()));
    // While the line lives each ping is answered, and nothing is given up.
    client.prints(&["connect ", "welcome", "joined", "pong", "pong", "pong"]);
    proxy.blackhole(true);
    let given_up = std::iter::from_fn(|| client.lines.recv_timeout(LONGEST_WAIT).ok()).find(|line| line != "pong");
    assert_eq!(given_up.as_deref(), Some("connect ?attempt=1"));
    proxy.blackhole(false);
    client.prints(&["welcome", "joined"]);
}

#[test]
fn the_browser_client_counts_attempts_until_a_connection_was_up_for_a_while() {
    // Each `joined` set the attempts back to 0: clients of a node that closes at once came back at full speed.
    let listener = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let client = Program::that_joins(&format!("ws://{}/?page=7", listener.local_addr().unwrap()));
    for attempt in 0..4 {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        for said in [r#"{"type":"welcome","pingInterval":25000,"pongTimeout":10000}"#, r#"{"type":"joined"}"#] {
            socket.send(tungstenite::Message::text(said)).unwrap();
        }
        let frame = tungstenite::protocol::CloseFrame { code: 1013.into(), reason: "".into() };
        socket.close(Some(frame)).unwrap();
        let query = if attempt == 0 { String::from("?page=7") } else { format!("?page=7&attempt={attempt}") };
        client.prints(&[&format!("connect {query}"), "welcome", "joined"]);
    }
}

#[test]
fn the_browser_client_can_be_stopped_and_leaves_no_timer_behind() {
    let gateway = Gateway::start(Driver::Epoll, &[]);
    let use_of_it = format!(
        "const stop = join('{}', 'lobby', ({{ type }}) => {{ console.log(type); if (type === 'joined') stop(); }});",
        address_of(&gateway)
    );
    let client = Program::start(&use_of_it);
    client.prints(&["connect ", "welcome", "joined"]);
    client.ends();
}
