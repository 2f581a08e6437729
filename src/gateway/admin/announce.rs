//! What a person at a terminal reads once the node is ready: where to open it, and how it ends. Programs read the log's line
//! `serving` and `GET /v1/node` instead.

use std::io::{IsTerminal, stderr};

use crate::gateway::config::{Config, LogFormat, reachable};
use crate::gateway::log;

/// Writes the line where standard error is a terminal, log lines are for people, and `log` lets lines of this level through.
pub(super) fn ready(config: &Config) {
    if stderr().is_terminal() && config.log_format != LogFormat::Json && tracing::enabled!(tracing::Level::INFO) {
        // Behind the lines that were logged before, and without waiting for a terminal that stands still.
        log::line(&ready_line(config));
    }
}

fn ready_line(config: &Config) -> String {
    let public = match (config.demo, reachable(config.listen)) {
        (true, address) => format!("http://{address}/demo"),
        (false, address) => format!("ws://{address}/"),
    };
    let admin = reachable(config.admin.listen);
    format!("ready: {public} · admin http://{admin} · Ctrl-C drains, twice ends at once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_an_address_that_can_be_opened() {
        let end = "· admin http://127.0.0.1:9090 · Ctrl-C drains, twice ends at once";
        let demo = Config { demo: true, ..Config::default() };
        assert_eq!(ready_line(&demo), format!("ready: http://127.0.0.1:8080/demo {end}"));
        let everywhere = Config { listen: "[::]:80".parse().unwrap(), ..Config::default() };
        assert_eq!(ready_line(&everywhere), format!("ready: ws://[::1]:80/ {end}"));
    }
}
