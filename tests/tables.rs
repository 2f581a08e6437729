//! The tables of the documentation against the tables of the program that they are made of.
//!
//! `UPDATE_DOCS=1 cargo nextest run --test tables` writes them into the documents, between their markers.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate::gateway::admin;
use tidegate::gateway::config;
use tidegate::gateway::host::{Host, ProbeOutcome};
use tidegate_core::close::CloseReason;

/// README.md and the documents in `docs`.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    docs.chain([root.join("README.md")]).collect()
}

/// Compares the table with the text between `<!-- name -->` and `<!-- /name -->` in the one document that has them; writes it
/// there where `UPDATE_DOCS` is set.
fn compare(name: &str, table: &str) {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let with_markers: Vec<_> =
        documents().into_iter().filter(|path| fs::read_to_string(path).unwrap().contains(&begin)).collect();
    let [document] = &with_markers[..] else { panic!("the marker {begin:?} stands in {with_markers:?}") };
    let text = fs::read_to_string(document).unwrap();
    let (before, rest) = text.split_once(&begin).unwrap();
    let (written, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{} has no {end}", document.display()));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(document, format!("{before}{begin}\n{table}\n{end}{after}")).unwrap();
        return;
    }
    for (written, generated) in written.trim().lines().zip(table.lines()) {
        assert_eq!(written, generated, "{} (left) is stale: UPDATE_DOCS=1 writes it", document.display());
    }
    assert_eq!(written.trim().lines().count(), table.lines().count(), "rows of {}", document.display());
}

/// A host that has a name, all of its cores, and nothing else that a default is derived from.
fn plain_host() -> Host {
    let host = Host::read(Path::new("/nowhere"), ProbeOutcome::Works);
    Host { hostname: Some(String::from("node")), ..host }
}

/// Why connections end, by their close codes.
fn close_reasons_table() -> String {
    let mut reasons = CloseReason::ALL.to_vec();
    reasons.sort_by_key(|reason| reason.code());
    let row = |reason: &CloseReason| format!("| {} | `{}` | {} |\n", reason.code(), reason.label(), reason.text());
    let rows: String = reasons.iter().map(row).collect();
    format!("| code | reason | what the close frame says |\n|---|---|---|\n{rows}")
}

/// One test for all: written at the same time, one table would overwrite another's document.
#[test]
fn the_tables_of_settings_metrics_and_close_reasons_in_the_documentation_are_generated_from_the_program() {
    compare("settings", &config::settings_table(&plain_host()));
    compare("metrics", &admin::metrics_table());
    compare("close-reasons", &close_reasons_table());
}

/// The sample of a settings file.
fn sample_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/tidegate.toml")
}

#[test]
fn the_sample_settings_file_is_generated_from_the_program() {
    let sample = config::sample(&plain_host());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(sample_path(), &sample).unwrap();
    }
    let written = fs::read_to_string(sample_path()).unwrap();
    assert_eq!(written, sample, "tuning/tidegate.toml (left) is stale: UPDATE_DOCS=1 writes it");
}

/// The program with these arguments, away from other settings: its exit code and what it printed on standard output.
fn tidegate(arguments: &[&str], config: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.env_clear().args(arguments).arg("--config").arg(config).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("tidegate.toml"), "{error}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_sample_settings_file_is_taken_as_it_is_and_with_every_default_spelled_out() {
    let (code, told) = tidegate(&["check"], &sample_path());
    assert_eq!(code, Some(0), "{told}");
    let (_, printed) = tidegate(&["--print-config"], &sample_path());
    assert!(printed.contains("message_rate = 100") && !printed.contains("tidegate.toml:"), "{printed}");

    // A user removes the # before a key to change its value: with each default spelled out nothing changes.
    let sample = fs::read_to_string(sample_path()).unwrap();
    let is_value = |line: &str| line.starts_with(|first: char| first == '[' || first.is_ascii_lowercase());
    let spelled_out: String = sample
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|rest| is_value(rest)).or(Some(line).filter(|l| is_value(l))))
        .filter(|line| !line.contains('…'))
        .map(|line| format!("{line}\n"))
        .collect();
    let folder = std::env::temp_dir().join(format!("tidegate-sample-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("sample.toml");
    fs::write(&path, spelled_out).unwrap();
    let (code, spelled_out) = tidegate(&["--print-config"], &path);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(code, Some(0), "{spelled_out}");
    let values = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split_once(" # ").map(|(value, _)| value.trim().to_owned())).collect()
    };
    let lists = ["path =", "dialect =", "room =", "subprotocol =", "match =", "publish =", "slow =", "[["];
    let of_settings = |text: &str| -> Vec<String> {
        values(text).into_iter().filter(|line| !lists.iter().any(|list| line.starts_with(list))).collect()
    };
    assert_eq!(of_settings(&spelled_out), of_settings(&printed));
    assert!(spelled_out.matches("sample.toml:").count() > 40, "{spelled_out}");
}
