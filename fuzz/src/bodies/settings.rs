//! The configuration: any file, variables and flags are merged or told what is wrong with them.

use std::path::Path;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use tidegate::gateway::config::{Sources, merge};
use tidegate::gateway::host::{Host, ProbeOutcome};

#[derive(Arbitrary)]
struct Typed<'a> {
    variables: Vec<(u8, &'a str)>,
    flags: Vec<(u8, &'a str)>,
    file: &'a str,
}

/// Settings of every kind: number, duration, choice, list, address, secret.
const NAMES: &[&str] = &[
    "listen",
    "admin",
    "shards",
    "driver",
    "profile",
    "message_rate",
    "drain_window",
    "origins",
    "max_connections",
    "nats_url",
    "nats_password",
    "compression",
    "limits_message_bytes",
    "ping_interval",
    "log_level",
    "node_name",
];

/// Nothing that is typed panics; what is wrong is told, and what is right prints as TOML that is merged again.
pub fn config(data: &[u8]) {
    // A file alone is what most inputs are: TOML that begins with a letter is easily written down and mutated.
    if let Ok(file) = std::str::from_utf8(data) {
        judge(Typed { variables: Vec::new(), flags: Vec::new(), file });
    }
    if let Ok(typed) = Typed::arbitrary_take_rest(arbitrary::Unstructured::new(data)) {
        judge(typed);
    }
}

fn judge(typed: Typed<'_>) {
    if names_a_file(typed.file) {
        return;
    }
    let name = |number: u8| NAMES[usize::from(number) % NAMES.len()];
    let variable = |(number, text): &(u8, &str)| {
        let name = format!("TIDEGATE_{}", name(*number).to_ascii_uppercase());
        (name, (*text).to_owned())
    };
    let sources = Sources {
        flags: typed.flags.iter().map(|(number, text)| (name(*number), (*text).to_owned())).collect(),
        environment: typed.variables.iter().map(variable).collect(),
        file: Some((String::from("tidegate.toml"), typed.file.to_owned())),
        host: host(),
    };
    match merge(sources) {
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            assert!(problems.iter().all(|problem| !problem.text.is_empty()));
        }
        Ok(settings) => {
            let printed = settings.to_toml();
            assert!(printed.parse::<toml::Table>().is_ok(), "printed settings are no TOML:\n{printed}");
        }
    }
}

/// Files that settings name are read: an input must not make the fuzzer read `/dev/zero`.
fn names_a_file(text: &str) -> bool {
    fn any(table: &toml::Table) -> bool {
        table.iter().any(|(key, value)| {
            key.ends_with("_file")
                || key.contains("credentials")
                || value.as_table().is_some_and(any)
                || value.as_array().is_some_and(|items| items.iter().filter_map(toml::Value::as_table).any(any))
        })
    }
    text.parse::<toml::Table>().is_ok_and(|table| any(&table))
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    let nowhere = || Host { cores: 4, ..Host::read(Path::new("/nowhere"), ProbeOutcome::Refused(1)) };
    HOST.get_or_init(nowhere)
}
