//! The README against the program: its tables name what the binary names, and its browser client does what it says.
#![cfg(feature = "gateway")]
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// The cells of the rows below the header `header`, backquotes removed.
fn table(header: &str) -> Vec<Vec<String>> {
    let text = readme();
    let (_, rows) = text.split_once(header).unwrap_or_else(|| panic!("the README has no table {header}"));
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cell = |cell: &str| cell.trim().replace('`', "");
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
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

/// A running gateway on free ports; killed with the value.
struct Gateway {
    child: Child,
    port: u16,
    admin: u16,
}

impl Gateway {
    fn start(arguments: &[&str]) -> Self {
        let (port, admin) = (free_port(), free_port());
        let (listen, administer) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
        let mut command = tidegate(&["--listen", &listen, "--admin", &administer, "--shards", "2"]);
        let child = command.args(arguments).stderr(Stdio::null()).spawn().unwrap();
        let gateway = Self { child, port, admin };
        let deadline = Instant::now() + PATIENCE;
        while !gateway.answer("/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(Instant::now() < deadline, "the gateway does not get ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway
    }

    /// What the admin port says, head and body; `None` while nobody listens.
    fn answer(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.admin)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port below those that outgoing connections take.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id().wrapping_mul(37) % 9_000;
    let numbers = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    let ports = numbers.take(9_000).map(|number| 11_000 + (first as u16 + number) % 9_000);
    ports.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[test]
fn the_configuration_table_names_every_key_with_its_default_and_its_variable() {
    let rows = table("| key | flag | environment | default | what it is |");
    let shown = print_config(&BTreeMap::new());
    let keys: BTreeSet<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(keys, shown.keys().map(String::as_str).collect(), "the README's table and --print-config differ");

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
    let rows = table("| key | flag | environment | default | what it is |");
    let named: BTreeSet<_> = rows.iter().map(|row| row[1].as_str()).filter(|flag| !flag.is_empty()).collect();
    assert_eq!(named, flags.difference(&other).copied().collect());
}

#[test]
fn the_metrics_table_is_what_a_scrape_says() {
    let gateway = Gateway::start(&[]);
    let scrape = gateway.answer("/metrics").unwrap();
    let described = |prefix: &str| -> BTreeMap<&str, &str> {
        scrape.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(' ')).collect()
    };
    let (help, kinds) = (described("# HELP "), described("# TYPE "));
    let scraped: BTreeSet<_> = help.iter().map(|(name, help)| (*name, kinds[name], *help)).collect();
    let rows = table("| metric | type | labels | meaning |");
    let named = rows.iter().map(|row| (row[0].as_str(), row[1].as_str(), row[3].as_str())).collect();
    assert_eq!(scraped, named, "left: a scrape; right: the README");
    for row in &rows {
        for label in row[2].split(", ").filter(|label| !label.is_empty()) {
            let sample = scrape.lines().find(|line| line.starts_with(&row[0])).unwrap();
            assert!(sample.contains(&format!("{label}=\"")), "{} has no label {label}: {sample}", row[0]);
        }
    }
}

/// The first block of JavaScript after the heading, and what runs it in Node.
fn program(url: &str) -> String {
    let text = readme();
    let (_, client) = text.split_once("## A browser client").unwrap();
    let client = client.split("```js\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(client.lines().count(), 15, "the client has 15 lines");
    format!(
        "globalThis.WebSocket = require('ws');\n{client}\n\
         join('{url}', 'lobby', said => {{\n\
           console.log(said.type);\n\
           if (said.type === 'closed') process.exit(0);\n\
         }});"
    )
}

fn installed(path: &str) -> PathBuf {
    let path = root().join(".deps").join(path);
    assert!(path.exists(), "{} is missing; run scripts/install-test-deps.sh", path.display());
    path
}

/// Runs the README's client until it said `last` for the second time, or ended.
fn hear(url: &str, last: &str) -> Vec<String> {
    use std::io::{BufRead, BufReader};
    let modules = installed("node/node_modules");
    let mut node = Command::new("node");
    let mut node = node.args(["-e", &program(url)]).env("NODE_PATH", modules).stdout(Stdio::piped()).spawn().unwrap();
    let mut heard: Vec<String> = Vec::new();
    for line in BufReader::new(node.stdout.take().unwrap()).lines() {
        heard.push(line.unwrap());
        if heard.iter().filter(|line| *line == last).count() == 2 {
            break;
        }
    }
    let _ = node.kill();
    let _ = node.wait();
    heard
}

#[test]
fn the_browser_client_comes_back_when_it_is_sent_away_and_joins_again() {
    let gateway = Gateway::start(&["--max-connection-age", "1s"]);
    let heard = hear(&format!("ws://127.0.0.1:{}/", gateway.port), "joined");
    assert_eq!(heard, ["welcome", "joined", "server-shutdown", "welcome", "joined"]);
    let metrics = gateway.answer("/metrics").unwrap();
    assert!(metrics.contains("\nws_reconnects_total 1\n"), "it said that it came back");
}
