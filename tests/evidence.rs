//! The claims in the documentation have their evidence: each test that docs/reliability.md and SECURITY.md name exists, each row of
//! theirs names one or a reason, and the figures in docs/benchmarks.md are those of the published runs.
#![expect(clippy::unwrap_used, reason = "a page of another form is a failed test")]

use std::path::Path;
use std::process::Command;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a file has a test function of this name, in Rust or in Python.
fn has_test(file: &str, function: &str) -> bool {
    let text = read(file);
    ["(", "<"]
        .iter()
        .any(|next| text.contains(&format!("fn {function}{next}")) || text.contains(&format!("def {function}{next}")))
}

/// The rows of all tables of a page, without their headings.
fn table_rows(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().chain([""]).collect();
    let rows = lines.windows(2).filter(|pair| pair[0].starts_with("| ") && !pair[1].starts_with("|--"));
    rows.map(|pair| pair[0]).collect()
}

/// In each row of the tables of `page`: the last cell names what shows it, tests behind the file that they stand in, or begins with
/// "not" and a reason. The number of tests.
fn tests_named_in(page: &str) -> usize {
    let text = read(page);
    let mut tests = 0;
    for row in table_rows(&text) {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut file = None;
        for name in shown_by.split('`').skip(1).step_by(2).map(|name| name.split(' ').next().unwrap()) {
            if name.contains('/') {
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "{page}: no {name}: {row}");
                file = Some(name);
            } else if name != "cargo" {
                let file = file.unwrap_or_else(|| panic!("{page}: no file before {name}: {row}"));
                assert!(has_test(file, name), "{page}: {file} has no test {name}: {row}");
                tests += 1;
            }
        }
        assert!(shown_by.contains('`') || shown_by.starts_with("not "), "{page}: neither a test nor a reason: {row}");
    }
    tests
}

#[test]
fn every_promise_in_reliability_md_names_tests_and_scripts_that_exist() {
    let tests = tests_named_in("docs/reliability.md");
    assert!(tests > 150, "the tables were read: {tests} tests");
}

#[test]
fn every_threat_in_security_md_names_tests_and_scripts_that_exist() {
    let tests = tests_named_in("SECURITY.md");
    assert!(tests > 60, "the tables were read: {tests} tests");
}

#[test]
fn every_guarantee_has_its_line() {
    let map = read("docs/reliability.md");
    for number in 1..=12 {
        assert!(map.lines().any(|line| line.starts_with(&format!("| G{number}: "))), "G{number}");
    }
}

/// A run's outcome belongs to target/: in the page it would be out of date with the next commit.
#[test]
fn reliability_md_holds_no_outcome_of_a_run() {
    let map = read("docs/reliability.md");
    for outcome in ["passed", "FAILED", "not run", "1×", "2×"] {
        assert!(!map.contains(outcome), "docs/reliability.md says {outcome}");
    }
}

#[test]
fn the_benchmark_report_and_the_plots_say_what_the_published_runs_measured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = Command::new("python3").arg(root.join("benches/report/report.py")).arg("--check").output();
    let checked =
        checked.unwrap_or_else(|error| panic!("python3 does not run ({error}): install Python 3.10 or newer"));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // Without runs both would be empty and agree.
    let page = read("docs/benchmarks.md");
    for script in ["bench.sh", "bench-peers.sh", "million.sh"] {
        assert!(page.contains(&format!("`{script}` at commit ")), "no run of scripts/{script} is published");
    }
}

/// All other plots belong to target/.
#[test]
fn the_only_plots_in_the_documentation_are_the_two_that_the_readme_shows() {
    let readme = read("README.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/plots");
    let mut plots: Vec<_> = std::fs::read_dir(folder).unwrap().map(|plot| plot.unwrap().file_name()).collect();
    plots.sort();
    assert_eq!(plots, ["delivery.svg", "echo.svg"]);
    for plot in plots {
        assert!(
            readme.contains(&format!("(docs/plots/{})", plot.display())),
            "README does not show {}",
            plot.display()
        );
    }
}
