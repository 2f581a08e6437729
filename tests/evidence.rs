//! What the reliability report and SECURITY.md call shown by a test, is: the test is there, and every line has one or a reason. And
//! what the benchmark report and the README say was measured, was.

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

#[test]
fn every_line_of_the_reports_maps_names_tests_that_are_there_or_says_why_not() {
    for map in ["guarantees", "limits", "faults", "bad-inputs"] {
        let file = format!("scripts/reliability/{map}.txt");
        for line in read(&file).lines().filter(|line| !line.starts_with('#')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert!(cells.len() > 1, "{file}: neither a test nor a reason: {line}");
            for cell in cells[1..].iter().filter(|cell| !cell.starts_with("- ")) {
                let (test_file, function) = cell.split_once(' ').unwrap_or_else(|| panic!("{file}: {cell}"));
                assert!(has_test(test_file, function), "{file}: {test_file} has no test {function}");
            }
        }
    }
}

#[test]
fn every_guarantee_has_its_line() {
    let map = read("scripts/reliability/guarantees.txt");
    for number in 1..=12 {
        assert!(map.lines().any(|line| line.starts_with(&format!("G{number} "))), "G{number}");
    }
}

/// In each row of the tables: what stops a threat, and which tests show it, each behind the file that it stands in.
#[test]
fn every_threat_in_security_md_names_tests_and_scripts_that_are_there() {
    let text = read("SECURITY.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| threat"));
    let mut tests = 0;
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut file = None;
        for name in shown_by.split('`').skip(1).step_by(2).map(|name| name.split(' ').next().unwrap()) {
            if name.contains('/') {
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "no {name}: {row}");
                file = Some(name);
            } else if name != "cargo" {
                let file = file.unwrap_or_else(|| panic!("no file before {name}: {row}"));
                assert!(has_test(file, name), "{file} has no test {name}: {row}");
                tests += 1;
            }
        }
        assert!(shown_by.contains('`') || shown_by.starts_with("not "), "neither a test nor a reason: {row}");
    }
    assert!(tests > 60, "the tables were read: {tests} tests");
}

#[test]
fn the_benchmark_report_and_the_readme_say_what_the_published_runs_measured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = Command::new("python3").arg(root.join("benches/report/report.py")).arg("--check").output();
    let checked =
        checked.unwrap_or_else(|error| panic!("python3 does not run ({error}): install Python 3.10 or newer"));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // Without runs both would be empty and agree.
    assert!(read("docs/benchmarks.md").contains("## bench.sh"), "no run of scripts/bench.sh is published");
}
