//! The tables of the documentation against the tables of the program that they are made of.
//!
//! `UPDATE_DOCS=1 cargo nextest run --test tables` writes them into the documents, between their markers.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::gateway::admin;
use tidegate::gateway::config;
use tidegate::gateway::host::{Host, ProbeOutcome};

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

/// One test for both: written at the same time, one table would overwrite the other's document.
#[test]
fn the_tables_of_settings_and_metrics_in_the_documentation_are_generated_from_the_program() {
    // A host that has a name, all of its cores, and nothing else that a default is derived from.
    let host = Host::read(Path::new("/nowhere"), ProbeOutcome::Works);
    compare("settings", &config::settings_table(&Host { hostname: Some(String::from("node")), ..host }));
    compare("metrics", &admin::metrics_table());
}
