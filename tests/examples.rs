//! The examples in the documentation, run against the real gateway. A page's code blocks are examples of these kinds:
//!
//! - `toml`: a settings file. `tidegate --print-config` must take it, and the gateway of the same section runs with it. With the word
//!   `invalid` behind `toml` it is only written, for a `console` block that shows the error.
//! - `console`: lines behind `$` are commands, run beside the settings file; the other lines are what they print.
//! - `websocket`: a conversation. `connect PATH`, `> TEXT` that the client sends, `< TEXT` that it receives, `< close CODE`; `0x>` and `0x<`
//!   for binary messages. A word before that names the client, where there are several.
//! - `http`: a request, its headers and body, then the status and body of the answer.
//! - a program of docs/backends.md, in one of `LANGUAGES`, has a test of its own.
//! - `sh`: commands for a host of its own, such as root's or a cluster's. `tests/deploy` runs what it can of them.
//! - `LANGUAGE PATH`: an excerpt; its lines stand in that file, in this order.
//!
//! `…` in an expected text stands for anything, and as a JSON value too. A section's blocks share one gateway and its clients.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step of an example is a failed test, which says where"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::client::{Client, End, Said};
use support::gateway::{Driver, Gateway};
use support::http;

/// The addresses that the examples name.
const PUBLIC: &str = "http://127.0.0.1:8080";
const ADMIN: &str = "http://127.0.0.1:9090";

/// A code block: where it stands, the words behind its fence, its text.
struct Block<'a> {
    line: usize,
    info: &'a str,
    text: String,
}

/// The code blocks of a page, by section: a heading of the second level or below begins one.
fn sections(page: &str) -> Vec<Vec<Block<'_>>> {
    let (mut sections, mut open) = (vec![Vec::new()], None::<Block<'_>>);
    for (number, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => sections.last_mut().unwrap().extend(open.take()),
            (Some(block), None) => block.text.push_str(&format!("{line}\n")),
            (None, Some(info)) => open = Some(Block { line: number + 1, info, text: String::new() }),
            (None, None) if line.starts_with("##") => sections.push(Vec::new()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a code block is not closed");
    sections
}

/// What the blocks of a section share.
struct Section {
    folder: PathBuf,
    settings: String,
    clients: BTreeMap<String, Client>,
    gateway: Option<Gateway>,
}

impl Section {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-examples-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder, settings: String::new(), clients: BTreeMap::new(), gateway: None }
    }

    /// The gateway, started when the first block needs it.
    fn gateway(&mut self) -> &Gateway {
        // The tests' own gateways wait longer for a pong; an example shows the defaults.
        let heartbeat = if self.settings.contains("[heartbeat]") { "" } else { "[heartbeat]\n" };
        let settings = format!("{}{heartbeat}", self.settings);
        self.gateway.get_or_insert_with(|| Gateway::on(Driver::Epoll).config(&settings).start())
    }

    fn run(&mut self, block: &Block<'_>) {
        match block.info.split_once(' ').unwrap_or((block.info, "")) {
            ("toml", word) => {
                self.settings.clone_from(&block.text);
                std::fs::write(self.folder.join("tidegate.toml"), &block.text).unwrap();
                if word != "invalid" {
                    self.takes_the_settings();
                }
            }
            ("console", _) => self.run_commands(&block.text),
            ("websocket", _) => block.text.lines().filter(|line| !line.is_empty()).for_each(|line| self.converse(line)),
            ("http", _) => self.request(&block.text),
            ("js", _) => {} // tests/readme.rs runs it
            ("sh", _) => {} // for a host of its own: tests/deploy runs what it can
            (_, path) if path.contains('/') => is_excerpt(&block.text, path),
            _ => panic!("no test runs a block of this kind: {}", block.info),
        }
    }

    /// The settings file is valid, and read.
    fn takes_the_settings(&self) {
        let printed = self.print("tidegate --print-config || echo FAILED");
        assert!(!printed.contains("FAILED"), "{printed}");
        let only_lists = self.settings.trim_start().starts_with("[[");
        assert!(only_lists || printed.contains("tidegate.toml"), "nothing comes from the file:\n{printed}");
    }

    /// What a command prints, on either output.
    fn print(&self, command: &str) -> String {
        let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("({command}) 2>&1")]).current_dir(&self.folder).env_clear();
        let output = shell.env("PATH", format!("{}:/usr/bin:/bin", binary.display())).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn run_commands(&self, text: &str) {
        let mut printed = String::new();
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                printed = self.print(command);
            } else {
                let at = printed.lines().position(|found| fits(line, found.trim_end()));
                let at = at.unwrap_or_else(|| panic!("no line {line:?} in:\n{printed}"));
                printed = printed.lines().skip(at + 1).map(|line| format!("{line}\n")).collect();
            }
        }
    }

    fn converse(&mut self, line: &str) {
        let words = ["connect", ">", "<", "0x>", "0x<"];
        let (first, rest) = line.split_once(' ').unwrap();
        let (name, verb, rest) = match words.contains(&first) {
            true => ("", first, rest),
            false => {
                let (verb, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("what does {first} do? {line}"));
                (first, verb, rest)
            }
        };
        if verb == "connect" {
            let port = self.gateway().port;
            self.clients.insert(name.to_owned(), Client::raw(port, rest));
            return;
        }
        let client = self.clients.get_mut(name).unwrap_or_else(|| panic!("it did not connect: {line}"));
        match verb {
            ">" => client.say_text(rest),
            "0x>" => client.say_binary(&octets(rest)),
            "<" => expect(line, rest, &client.next()),
            "0x<" => assert_eq!(client.next(), Said::Binary(octets(rest)), "{line}"),
            _ => panic!("neither connect nor a message: {line}"),
        }
    }

    fn request(&mut self, text: &str) {
        let parts: Vec<&str> = text.trim_end().split("\n\n").collect();
        let (answer, body) = (parts.last().unwrap(), if parts.len() == 3 { parts[1] } else { "" });
        let (line, headers) = parts[0].split_once('\n').unwrap_or((parts[0], ""));
        let (method, url) = line.split_once(' ').unwrap();
        let gateway = self.gateway();
        let (port, path) = match (url.strip_prefix(PUBLIC), url.strip_prefix(ADMIN)) {
            (Some(path), _) => (gateway.port, path),
            (_, Some(path)) => (gateway.admin, path),
            _ => panic!("not a URL of the gateway: {url}"),
        };
        let headers: Vec<&str> = headers.lines().collect();
        let found = http::request(port, method, path, &headers, body.as_bytes());
        let (status, wanted) = answer.split_once('\n').unwrap_or((answer, ""));
        assert_eq!(found.status.to_string(), status, "{line}: {}", found.text());
        match json(wanted) {
            Some(wanted) => assert!(json_fits(&wanted, &found.json()), "{line}:\n{wanted}\n{}", found.json()),
            None => wanted.lines().for_each(|wanted| {
                assert!(found.text().lines().any(|line| fits(wanted, line)), "{line}: no {wanted} in {}", found.text());
            }),
        }
    }
}

/// How the programs of docs/backends.md are run: the word behind their fence, the interpreter with its arguments, the file's name.
const LANGUAGES: [(&str, &[&str], &str); 6] = [
    ("python", &["python3"], "program.py"),
    ("js", &["node"], "program.mjs"),
    ("php", &["php"], "program.php"),
    ("ruby", &["ruby"], "program.rb"),
    ("go", &["go", "run"], "program.go"),
    ("bash", &["bash"], "program.sh"),
];

const AUTH_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Runs a backend's program against this admin port: whether it succeeded, and what it printed on its outputs.
fn run_program(language: &str, text: &str, admin: u16, publish_token: &str) -> (bool, String, String) {
    let known = LANGUAGES.iter().find(|(word, ..)| *word == language);
    let (_, interpreter, name) = known.unwrap_or_else(|| panic!("no program of a backend is run in {language}"));
    let folder = std::env::temp_dir().join(format!("tidegate-program-{}-{language}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    let tidegate = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().display();
    let mut command = Command::new(interpreter[0]);
    command.args(&interpreter[1..]).arg(folder.join(name)).current_dir(&folder);
    command.env("PATH", format!("{tidegate}:{}", std::env::var("PATH").unwrap()));
    command.envs([("TIDEGATE_NODE", format!("http://127.0.0.1:{admin}").as_str())]);
    command.envs([("TIDEGATE_AUTH_SECRET", AUTH_SECRET), ("TIDEGATE_PUBLISH_TOKEN", publish_token)]);
    let output = command.output().unwrap_or_else(|error| {
        panic!("{}: {error}; scripts/install-test-deps.sh installs it, or says how", interpreter[0])
    });
    std::fs::remove_dir_all(&folder).unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

impl Drop for Section {
    fn drop(&mut self) {
        self.clients.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|octet| *octet != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A message that a client got is the one that the line shows.
fn expect(line: &str, wanted: &str, said: &Said) {
    let fitting = match said {
        Said::Text(text) => match (json(wanted), json(text)) {
            (Some(wanted), Some(text)) => json_fits(&wanted, &text),
            _ => fits(wanted, text),
        },
        Said::End(End::Closed(code, _)) => wanted == format!("close {code}"),
        Said::End(End::Lost) | Said::Binary(_) => false,
    };
    assert!(fitting, "{line}\nthe client got {said:?}");
}

/// Whether a text is the wanted one, in which `…` stands for anything.
fn fits(wanted: &str, found: &str) -> bool {
    let Some((first, rest)) = wanted.split_once('…') else { return wanted == found };
    let Some(mut found) = found.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('…').collect();
    let (last, between) = parts.split_last().unwrap();
    for part in between {
        let Some(at) = found.find(part) else { return false };
        found = &found[at + part.len()..];
    }
    found.ends_with(last)
}

/// A JSON object or list in which `…` may stand for a value.
fn json(text: &str) -> Option<Value> {
    let text = text.trim().replace(":…", ":\"…\"");
    text.starts_with(['{', '[']).then(|| serde_json::from_str(&text).ok())?
}

/// Whether a JSON value is the wanted one; a member named `…` stands for more of them.
fn json_fits(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::String(wanted), _) if wanted == "…" => true,
        (Value::String(wanted), Value::String(found)) => fits(wanted, found),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| json_fits(wanted, found))
        }
        (Value::Object(wanted), Value::Object(found)) => {
            let all = wanted.iter().filter(|(key, _)| *key != "…");
            let known = all.clone().all(|(key, value)| found.get(key).is_some_and(|found| json_fits(value, found)));
            known && (wanted.contains_key("…") || all.count() == found.len())
        }
        _ => wanted == found,
    }
}

/// Every line of an excerpt stands in the file, in this order. Indentation and a patch's `+` do not count.
fn is_excerpt(text: &str, path: &str) {
    fn bare(line: &str) -> &str {
        line.strip_prefix('+').unwrap_or(line).trim()
    }
    let file = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let mut lines = file.lines();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        assert!(lines.any(|found| bare(found) == line.trim()), "{path} has no line {line:?} there");
    }
}

/// Runs the examples of a page; there are at least so many.
fn run(page: &str, least: usize) {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let mut examples = 0;
    for (number, blocks) in sections(&text).iter().enumerate() {
        let mut section = Section::new(&format!("{}-{number}", page.replace('/', "-")));
        for block in blocks {
            println!("{page}:{}: {}", block.line, block.info);
            section.run(block);
            examples += 1;
        }
    }
    assert!(examples >= least, "{page} has {examples} examples");
}

#[test]
fn the_examples_of_the_protocol_run() {
    run("docs/protocol.md", 20);
}

/// A backend's programs were to be written by each user, and the first ones took every answer for success: the node refused a message,
/// and nothing told.
#[test]
fn a_backend_in_each_language_signs_a_token_publishes_and_tells_why_the_node_refused_a_message() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md")).unwrap();
    let blocks: Vec<_> = sections(&page).into_iter().flatten().collect();
    let settings = &blocks[0];
    assert_eq!(settings.info, "toml");
    let token = "a-long-secret-of-your-own";
    let gateway = Gateway::on(Driver::Epoll).config(&settings.text).start();
    let programs = blocks.iter().skip(1);
    assert!(
        programs.clone().map(|block| block.info).eq(LANGUAGES.map(|(word, ..)| word)),
        "a program in each language"
    );
    for Block { info, text, .. } in programs {
        let run = |text: &str, publish_token| run_program(info, text, gateway.admin, publish_token);
        let (succeeded, printed, complaints) = run(text, token);
        assert!(succeeded, "{info}: {complaints}");
        let signed = printed.lines().last().unwrap();
        let credential = [("Authorization", format!("Bearer {signed}"))];
        let credential = credential.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (mut alice, _) = Client::over(http::connect(gateway.port), "/", &credential).unwrap();
        assert_eq!(alice.answer("welcome")["user"], "alice", "{info}");
        alice.join("chat.1");
        let (_, printed, _) = run(text, token);
        assert_eq!(alice.content("chat.1"), serde_json::json!({"id": 7, "state": "paid"}), "{info}");
        let level = printed.lines().next().unwrap();
        assert!(level == "node" || level == r#"{"level":"node"}"#, "{info}: {printed}");

        let bad_room =
            text.replace("publish(\"chat.1\"", "publish(\"a b\"").replace("publish('chat.1'", "publish('a b'");
        let bad_room = bad_room.replace("publish chat.1", "publish a%20b");
        for (text, token, told) in [(text, "another-token", "unauthorized"), (&bad_room, token, "bad-room")] {
            let (succeeded, printed, complaints) = run(text, token);
            assert!(!succeeded && format!("{printed}{complaints}").contains(told), "{info}: {printed}{complaints}");
        }
    }
}

#[test]
fn the_examples_of_the_configuration_run() {
    run("docs/configuration.md", 10);
}

#[test]
fn the_examples_of_the_tokens_run() {
    run("docs/tokens.md", 12);
}

#[test]
fn the_examples_of_the_metrics_run() {
    run("docs/metrics.md", 3);
}

#[test]
fn the_examples_of_the_operations_run() {
    run("docs/operations.md", 10);
}

#[test]
fn the_examples_of_the_logs_run() {
    run("docs/logging.md", 6);
}

#[test]
fn the_excerpts_in_the_guide_to_a_new_dialect_stand_in_the_source() {
    run("docs/new-dialect.md", 3);
}

#[test]
fn an_expected_text_leaves_open_only_what_it_elides() {
    assert!(fits("a…c", "abc") && fits("…", "") && fits("a…b…c", "a1b2c") && !fits("a…c", "ab") && !fits("ab", "abc"));
    let wanted = json(r#"{"type":"gap","resyncAfter":…}"#).unwrap();
    assert!(json_fits(&wanted, &json(r#"{"type":"gap","resyncAfter":7}"#).unwrap()));
    for wrong in
        [r#"{"type":"gap"}"#, r#"{"type":"left","resyncAfter":7}"#, r#"{"type":"gap","resyncAfter":7,"more":1}"#]
    {
        assert!(!json_fits(&wanted, &json(wrong).unwrap()), "{wrong}");
    }
    assert!(json_fits(&json(r#"{"…":…}"#).unwrap(), &json(r#"{"a":1,"b":2}"#).unwrap()));
}
