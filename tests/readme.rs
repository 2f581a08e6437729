//! The documentation against the program: its tables name what the binary names, and its browser client does what it says.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::gateway::{Driver, Gateway};

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

/// The blocks of JavaScript in docs/protocol.md: the client, and the example of its use.
fn blocks_of_javascript() -> [String; 2] {
    let text = page("protocol.md");
    let (_, section) = text.split_once("## A browser client").unwrap();
    let blocks: Vec<_> =
        section.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    blocks.try_into().unwrap()
}

fn installed(path: &str) -> PathBuf {
    let path = root().join(".deps").join(path);
    assert!(path.exists(), "{} is missing; run scripts/install-test-deps.sh", path.display());
    path
}

/// Runs a program in Node, with a browser's `WebSocket`, until it printed `last` so many times, or ended: what it printed.
fn run(program: &str, last: &str, times: usize) -> Vec<String> {
    use std::io::{BufRead, BufReader};
    let program = format!("globalThis.WebSocket = require('ws');\n{program}");
    let modules = installed("node/node_modules");
    let mut node = Command::new("node");
    let mut node = node.args(["-e", &program]).env("NODE_PATH", modules).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed: Vec<String> = Vec::new();
    for line in BufReader::new(node.stdout.take().unwrap()).lines() {
        printed.push(line.unwrap());
        if printed.iter().filter(|line| *line == last).count() == times {
            break;
        }
    }
    let _ = node.kill();
    let _ = node.wait();
    printed
}

#[test]
fn the_browser_client_connects_again_after_a_shutdown_notice_and_joins_again() {
    let gateway = Gateway::start(Driver::Epoll, &["--max-connection-age", "1s"]);
    let [client, _] = blocks_of_javascript();
    assert_eq!(client.lines().count(), 15, "the client has 15 lines");
    let use_of_it = format!(
        "join('ws://127.0.0.1:{}/', 'lobby', message => {{\n\
           console.log(message.type);\n\
           if (message.type === 'closed') process.exit(0);\n\
         }});",
        gateway.port
    );
    let printed = run(&format!("{client}\n{use_of_it}"), "joined", 2);
    assert_eq!(printed, ["welcome", "joined", "server-shutdown", "welcome", "joined"]);
    assert_eq!(gateway.metrics().value("ws_reconnects_total"), 1.0, "it said that it came back");
}

#[test]
fn the_example_of_the_browser_client_gets_its_own_message() {
    let gateway = Gateway::start(Driver::Epoll, &[]);
    let [client, example] = blocks_of_javascript();
    let here = format!("ws://127.0.0.1:{}/", gateway.port);
    assert!(example.contains("ws://127.0.0.1:8080/"), "it names the default address");
    let example = example.replace("ws://127.0.0.1:8080/", &here);
    assert_eq!(run(&format!("{client}\n{example}"), "hello", 1), ["hello"]);
}
