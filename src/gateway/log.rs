//! Where log lines go and how they look: to stderr, for people on a terminal, as JSON lines elsewhere.
//!
//! Nothing secret is logged: the configuration's `Debug` masks secrets, and messages of clients are never logged.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::gateway::config::{Config, LogFormat};

/// The broker's client, as log lines call it.
const BROKER_CLIENT: &str = "async_nats";

/// Starts logging as the configuration says. A second call changes nothing.
pub fn start(config: &Config) {
    let filter = EnvFilter::builder().parse_lossy(directives(&config.log));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // `try_init` fails only where a subscriber is set already.
    let started = if is_human(config.log_format, stderr().is_terminal()) {
        lines.with_ansi(stderr().is_terminal()).with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    drop(started);
}

/// The filter as configured; at the level `info` without what the broker's client says of its connection: the relay tells
/// that itself. A filter that names that client, or asks for more than `info`, shows it.
fn directives(filter: &str) -> String {
    let is_info = filter.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("info"));
    if is_info && !filter.contains(BROKER_CLIENT) {
        format!("{filter},{BROKER_CLIENT}=warn")
    } else {
        filter.to_owned()
    }
}

fn is_human(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Where a test's lines go.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn at_info_the_brokers_client_says_warnings_only_unless_it_is_named() {
        let heard = |filter: &str, level: tracing::Level| {
            let filter = EnvFilter::builder().parse_lossy(directives(filter));
            let lines = Lines::default();
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines.clone()).finish();
            tracing::subscriber::with_default(subscriber, || match level {
                tracing::Level::INFO => tracing::info!(target: "async_nats", "event: connected"),
                _ => tracing::warn!(target: "async_nats", "event: slow consumer"),
            });
            !lines.0.lock().unwrap().is_empty()
        };
        assert!(!heard("info", tracing::Level::INFO) && heard("info", tracing::Level::WARN));
        assert!(!heard("tidegate=debug, INFO", tracing::Level::INFO));
        assert!(heard("info,async_nats=info", tracing::Level::INFO));
        assert!(heard("debug", tracing::Level::INFO));
        assert!(!heard("error", tracing::Level::WARN) && !heard("tidegate=debug", tracing::Level::WARN));
    }

    #[test]
    fn people_get_lines_and_programs_get_json_unless_told_otherwise() {
        assert!(is_human(LogFormat::Auto, true));
        assert!(!is_human(LogFormat::Auto, false));
        assert!(is_human(LogFormat::Human, false));
        assert!(!is_human(LogFormat::Json, true));
    }
}
