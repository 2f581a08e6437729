//! Where log lines go and how they look: to stderr, for people on a terminal, as JSON lines elsewhere.
//!
//! A thread that logs formats its line and puts it into a [bounded queue](queue); a thread of its own writes it. So no reader
//! of the log can stop or end the node: lines are dropped and counted instead ([`dropped`]). Panics are logged the same way.
//!
//! Nothing secret is logged: the configuration's `Debug` masks secrets, and messages of clients are never logged.

mod queue;

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal, Write, stderr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::gateway::config::{Config, LogAddresses, LogFormat};
pub use queue::DropReason;
use queue::Queue;

/// The broker's client, as log lines call it.
const BROKER_CLIENT: &str = "async_nats";
/// How long the end of the process waits for its last lines to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Whether addresses are masked.
static IS_MASKED: AtomicBool = AtomicBool::new(false);
/// The queue of this process; none before [`start`].
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts logging as the configuration says, panics included. A second call changes nothing.
///
/// # Errors
/// The limit of threads, or no memory for one.
pub fn start(config: &Config) -> io::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    IS_MASKED.store(config.log_addresses == LogAddresses::Masked, Relaxed);
    let queue = Arc::new(Queue::default());
    let ours = queue.clone();
    thread::Builder::new().name(String::from("log")).spawn(move || ours.write_to(stderr(), recovered))?;
    let queue = QUEUE.get_or_init(|| queue).clone();
    let filter = EnvFilter::builder().parse_lossy(directives(&config.log));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || Line(queue.clone()));
    // `try_init` fails only where a subscriber is set already.
    let started = if is_human(config.log_format, stderr().is_terminal()) {
        lines.with_ansi(stderr().is_terminal()).with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    drop(started);
    panic::set_hook(Box::new(panicked));
    Ok(())
}

/// Log lines that were dropped so far, by [`DropReason`].
pub fn dropped() -> [u64; DropReason::ALL.len()] {
    QUEUE.get().map_or_else(Default::default, |queue| queue.dropped())
}

/// Writes a line as it is behind those so far, without waiting for a reader. Nothing before [`start`].
pub fn line(text: &str) {
    if let Some(queue) = QUEUE.get() {
        queue.push(format!("{text}\n").as_bytes());
    }
}

/// Waits until the lines so far are written, for a second at most; called before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        // What is not written by then has no reader.
        let _ = queue.flush(FLUSH_DEADLINE);
    }
}

/// A peer's or client's address as log lines show it; see [`LogAddresses`].
pub fn address(address: SocketAddr) -> Address {
    Address { address, is_masked: IS_MASKED.load(Relaxed) }
}

/// An address in a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    address: SocketAddr,
    is_masked: bool,
}

/// `203.0.113.7:5000`; masked, `203.0.113.0/24` or `2001:db8:1::/48`: a network that many clients share, and no port.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.ip().to_canonical() {
            _ if !self.is_masked => self.address.fmt(f),
            IpAddr::V4(ip) => write!(f, "{}/24", Ipv4Addr::from_bits(ip.to_bits() & !0xff)),
            IpAddr::V6(ip) => write!(f, "{}/48", Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> 48))),
        }
    }
}

/// One line on its way into the queue. The formatter hands each line over as a whole.
struct Line(Arc<Queue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn recovered(lines: u64) {
    tracing::warn!(lines, "log lines were dropped; the reader of standard error was away or too slow");
}

/// What a panic says.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Logs a panic. The standard library's hook writes to stderr itself, and would wait there for a reader that takes nothing.
fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let reason = panic_text(panic.payload());
    let place = panic.location().map(ToString::to_string);
    tracing::error!(thread = thread.name(), reason, place, backtrace, "a thread panicked; this is a bug, report it");
    if cfg!(panic = "abort") {
        flush();
    }
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
    use std::sync::Mutex;

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
    fn a_masked_address_is_a_network_of_24_or_48_bits_without_a_port() {
        let shown = |address: &str, is_masked| Address { address: address.parse().unwrap(), is_masked }.to_string();
        for address in ["203.0.113.7:5000", "[2001:db8:1:2::7]:5000"] {
            assert_eq!(shown(address, false), address);
        }
        assert_eq!(shown("203.0.113.7:5000", true), "203.0.113.0/24");
        assert_eq!(shown("[2001:db8:1:2::7]:5000", true), "2001:db8:1::/48");
        assert_eq!(shown("[::ffff:203.0.113.7]:5000", true), "203.0.113.0/24", "an IPv4 client of an IPv6 port");
    }

    #[test]
    fn people_get_lines_and_programs_get_json_unless_told_otherwise() {
        assert!(is_human(LogFormat::Auto, true));
        assert!(!is_human(LogFormat::Auto, false));
        assert!(is_human(LogFormat::Human, false));
        assert!(!is_human(LogFormat::Json, true));
    }
}
