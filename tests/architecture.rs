//! The dependency rule: which module may name which, in the core and in the gateway, and that the core depends on no runtime.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules, and the others of their package that each may name.
type Rule = &'static [(&'static str, &'static [&'static str])];

/// The core's modules. One that is not here fails the test: a new one has to say where it stands.
const CORE: Rule = &[
    ("close", &[]),
    ("setting", &[]),
    ("limits", &["setting"]),
    ("percent", &[]),
    ("model", &["limits"]),
    ("auth", &["limits", "model"]),
    ("http", &["close", "limits", "percent", "ws"]),
    ("ws", &["close", "limits"]),
    ("directory", &["limits"]),
    ("dialect", &["auth", "close", "limits", "model", "percent", "ws"]),
    ("connection", &["close", "dialect", "limits", "model", "ws"]),
    ("room", &["close", "dialect", "limits", "model"]),
    ("metric", &["counters"]),
    ("counters", &["auth", "close", "limits", "metric", "model"]),
    ("readiness", &["counters"]),
    ("relay", &["counters", "limits", "model", "percent"]),
    (
        "shard",
        &[
            "auth",
            "close",
            "connection",
            "counters",
            "dialect",
            "http",
            "limits",
            "model",
            "ws",
            "readiness",
            "relay",
            "room",
        ],
    ),
];

/// The gateway's modules. What they may name of the core is in [`NO_DIALECT`].
const GATEWAY: Rule = &[
    ("clock", &[]),
    ("mailbox", &[]),
    ("host", &["io"]),
    ("config", &["host"]),
    ("check", &["config", "host"]),
    ("log", &["config"]),
    ("broker", &["clock", "config", "log", "mailbox"]),
    ("io", &["mailbox"]),
    ("worker", &["admin", "broker", "clock", "mailbox", "io"]),
    ("admin", &["broker", "check", "clock", "config", "log", "mailbox"]),
    ("client", &["config"]),
    ("cli", &["config"]),
    ("node", &["admin", "broker", "check", "config", "host", "log", "mailbox", "worker"]),
];

/// Modules of the gateway that know no client protocol.
const NO_DIALECT: [&str; 4] = ["io", "broker", "worker", "mailbox"];

/// What only the gateway touches.
const SYSTEM: [&str; 14] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::fs",
    "std::thread",
    "std::os",
    "Instant::now",
    "SystemTime",
    "monoio",
    "tokio",
    "async_nats",
    "io_uring",
    "libc::",
    "nix::",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file below a folder of the source, with the module of that folder that it is a part of.
fn files(below: &str) -> Vec<(String, PathBuf)> {
    let root = source().join(below);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
                let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
                found.push((module, path));
            }
        }
    }
    assert!(found.len() > 20, "the sources are not where they are looked for");
    found
}

/// A file's code without its unit tests and comments; tests may reach further, in `tests.rs` too.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Modules that code names behind a prefix, as `crate::a::…` and `crate::{a::…, b::…}`.
fn named(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for character in list.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.extend(first_word(&std::mem::take(&mut item))),
                    _ => {}
                }
                if depth == 0 && character != ',' {
                    item.push(character);
                }
            }
            modules.extend(first_word(&item));
        } else {
            modules.extend(first_word(rest));
        }
    }
    modules
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

/// What the files below a folder name behind `prefix`, beside what the rule allows.
fn offences(below: &str, prefix: &str, rule: Rule) -> Vec<String> {
    let mut offences = Vec::new();
    for (module, path) in files(below).into_iter().filter(|(module, _)| !matches!(module.as_str(), "lib" | "mod")) {
        let (_, allowed) = rule
            .iter()
            .find(|(known, _)| *known == module)
            .unwrap_or_else(|| panic!("the module {module} is new: say in tests/architecture.rs what it may name"));
        for other in named(&code(&path), prefix) {
            let is_module = rule.iter().any(|(known, _)| *known == other);
            if is_module && other != module && !allowed.contains(&other.as_str()) {
                offences.push(format!("{} names {other}", path.display()));
            }
        }
    }
    offences
}

#[test]
fn every_module_names_only_what_the_rule_allows() {
    let mut found = offences("core", "crate::", CORE);
    found.extend(offences("gateway", "crate::gateway::", GATEWAY));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_moves_bytes_or_publications_knows_no_client_protocol() {
    let files = files("gateway").into_iter().filter(|(module, _)| NO_DIALECT.contains(&module.as_str()));
    let offences: Vec<_> =
        files.filter(|(_, path)| named(&code(path), "tidegate_core::").contains("dialect")).collect();
    assert!(offences.is_empty(), "{offences:?}");
}

/// The parts of a shard, from left to right: each names only parts to its right, and none the shard.
const PARTS: [&str; 5] = ["admission", "rooms", "upstream", "writer", "clients"];

#[test]
fn each_part_of_the_shard_names_only_parts_to_its_right() {
    let mut offences = Vec::new();
    let mut seen = BTreeSet::new();
    for (_, path) in files("core").into_iter().filter(|(module, _)| module == "shard") {
        let inside = path.strip_prefix(source().join("core/shard")).unwrap().to_str().unwrap();
        let Some(at) = PARTS.iter().position(|part| inside.split(['/', '.']).next() == Some(part)) else { continue };
        seen.insert(at);
        let code = code(&path);
        let left = PARTS[..at].iter().map(|part| format!("{part}::"));
        let named =
            left.chain(["Shard<", "shard::Shard", "super::Shard"].map(String::from)).filter(|name| code.contains(name));
        offences.extend(named.map(|name| format!("{inside} names {name}")));
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    assert_eq!(seen.len(), PARTS.len(), "a part is not where it is looked for");
}

#[test]
fn the_core_touches_no_system() {
    let mut offences = Vec::new();
    for (_, path) in files("core") {
        let code = code(&path);
        let touched = SYSTEM.iter().filter(|name| code.contains(*name));
        offences.extend(touched.map(|name| format!("{} touches {name}", path.display())));
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_core_depends_on_no_runtime() {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["tree", "--package", "tidegate-core", "--edges", "normal", "--prefix", "none", "--locked"]);
    let output = command.output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(tree.contains("tungstenite"), "{tree}");
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for runtime in ["monoio", "tokio", "async-nats", "io-uring", "mio", "nix", "monoio-http", "tracing"] {
        assert!(!crates.contains(runtime), "the core depends on {runtime}");
    }
}

#[test]
fn the_words_of_a_use_are_found() {
    let code = "use crate::close::A;\nuse crate::{conn::{B, room::C}, ws as p};\nlet x = crate::limits::D;";
    assert_eq!(named(code, "crate::"), BTreeSet::from(["close", "conn", "limits", "ws"].map(String::from)));
}
