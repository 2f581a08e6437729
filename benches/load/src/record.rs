//! What a run leaves behind: one JSON line for scripts, one table for people, from the same figures.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bins::{Bins, Summary};
use crate::proc;

/// The figures of one run.
#[derive(Default)]
pub(crate) struct Record {
    results: Map<String, Value>,
    rows: Vec<(String, String)>,
    /// The load side was the limit: rates are its own, not the server's.
    pub(crate) client_bound: bool,
    not_measured: Vec<String>,
    hints: Vec<String>,
}

impl Record {
    /// Adds a figure that stands in the table too.
    pub(crate) fn put(&mut self, key: &str, value: impl Serialize, label: &str, shown: impl Into<String>) {
        self.keep(key, value);
        self.rows.push((String::from(label), shown.into()));
    }

    /// Adds a figure for scripts only.
    pub(crate) fn keep(&mut self, key: &str, value: impl Serialize) {
        self.results.insert(String::from(key), serde_json::to_value(value).unwrap_or(Value::Null));
    }

    /// Adds a distribution, and its curve for plots.
    pub(crate) fn distribution(&mut self, key: &str, bins: &Bins, label: &str) {
        let summary = bins.summary();
        let shown = percentiles(&summary);
        self.put(key, &summary, label, shown);
        self.keep(&format!("{key}_curve"), bins.curve());
    }

    /// Adds a distribution without its curve.
    pub(crate) fn distribution_summary(&mut self, key: &str, summary: &Summary, label: &str) {
        self.put(key, summary, label, percentiles(summary));
    }

    /// Says that something was not measured, and why.
    pub(crate) fn not_measured(&mut self, what: &str) {
        self.not_measured.push(String::from(what));
    }

    /// Says what the user may do about the outcome.
    pub(crate) fn hint(&mut self, what: &str) {
        self.hints.push(String::from(what));
    }

    /// The value of a figure.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.results.get(key)
    }

    /// The line for scripts.
    pub(crate) fn line(&self, mode: &str, label: Option<&str>, parameters: &Value) -> Value {
        json!({
            "tool": "tideload",
            "version": env!("CARGO_PKG_VERSION"),
            "at": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            "mode": mode,
            "label": label,
            "command": std::env::args().collect::<Vec<_>>(),
            "host": host(),
            "parameters": parameters,
            "results": self.results,
            "client_bound": self.client_bound,
            "not_measured": self.not_measured,
            "hints": self.hints,
        })
    }

    /// The table for people.
    pub(crate) fn table(&self, title: &str) -> String {
        let width = self.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let mut table = format!("{title}\n");
        for (label, shown) in &self.rows {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "  {label:<width$}  {shown}");
        }
        if self.client_bound {
            table.push_str("  client_bound: the load side used a whole core, so rates are not the server's limit\n");
        }
        for what in &self.not_measured {
            let _ = writeln!(table, "  not measured: {what}");
        }
        for hint in &self.hints {
            let _ = writeln!(table, "  hint: {hint}");
        }
        table
    }
}

/// A distribution in one row.
pub(crate) fn percentiles(summary: &Summary) -> String {
    format!(
        "p50 {}  p99 {}  p99.9 {}  max {}",
        duration(summary.p50_us),
        duration(summary.p99_us),
        duration(summary.p999_us),
        duration(summary.max_us)
    )
}

/// Microseconds in the unit that fits.
pub(crate) fn duration(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.1} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn host() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": model,
        "cpus": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "scheduled": proc::scheduled(&read("/proc/self/stat")),
    })
}

/// Appends a line to the file, or writes it to standard output where the path is `-`.
///
/// # Errors
/// One line for the user.
pub(crate) fn append(path: &Path, line: &Value) -> Result<(), String> {
    let text = format!("{line}\n");
    let written = if path == Path::new("-") {
        io::stdout().lock().write_all(text.as_bytes())
    } else {
        OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
    };
    written.map_err(|error| format!("the record does not go into {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_and_the_table_tell_the_same_and_what_is_not_known() {
        let mut record = Record::default();
        record.put("cpu_us", 3.25, "CPU per message", "3.25 µs");
        record.client_bound = true;
        record.not_measured("kernel memory: /proc/slabinfo is root's");
        let line = record.line("echo", Some("a"), &json!({}));
        assert_eq!(line["results"]["cpu_us"], 3.25);
        assert_eq!(line["client_bound"], true);
        assert_eq!(line["not_measured"][0], "kernel memory: /proc/slabinfo is root's");
        let table = record.table("echo");
        assert!(table.contains("CPU per message  3.25 µs"));
        assert!(table.contains("client_bound") && table.contains("not measured: kernel memory"));
    }

    #[test]
    fn durations_are_shown_in_the_unit_that_fits() {
        assert_eq!([duration(12.34), duration(12_340.0), duration(1.5e6)], ["12.3 µs", "12.34 ms", "1.50 s"]);
    }
}
