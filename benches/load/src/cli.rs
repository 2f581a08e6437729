//! What the user types. Nothing is measured here.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::record::{self, Record};
use crate::scenario::{Dialect, Scenario};
use crate::{modes, sys, worker, workers};

const ABOUT: &str = "Loads a WebSocket server over loopback and tells what it cost and how long it took.";

const EXAMPLES: &str = "Examples:
  tideload echo ws://127.0.0.1:8080/raw/{room} -c 100 --rate 5000
  tideload fanout ws://127.0.0.1:8080/ --rate 10 --server-pid $(pidof tidegate)
  tideload fanout ws://127.0.0.1:8080/ -c 100 --rate 200 \\
    --publish-url http://127.0.0.1:9090/v1/rooms/{room}/messages
  tideload storm ws://127.0.0.1:8080/ -c 2000 --cut
With a broker, tidegate --nats-url nats://127.0.0.1:4222:
  tideload fanout ws://127.0.0.1:8080/ -c 100 \\
    --publish-url nats://127.0.0.1:4222 --publish-room tidegate.room.{room}
Another server, in its own words:
  tideload fanout ws://127.0.0.1:9000/chat -c 100 \\
    --join 'JOIN {room}' --joined OK --publish 'TO {room} {content}'

tidegate takes 100 messages a second from one connection: above that, start it
with --message-rate 0. Both sides run on this host: for figures, give each its
own cores (taskset, --pin).

Exit codes: 0 measured; 1 measured, and --exactly-once did not hold; 2 wrong arguments; 3 could not measure.";

/// The arguments of `tideload`.
#[derive(Parser)]
#[command(name = "tideload", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Hold idle connections: memory of the server and of the kernel, CPU while idle with heartbeats answered
    Idle(IdleArgs),
    /// Send to oneself and time the way back: CPU and latency per message
    Echo(EchoArgs),
    /// Publish into rooms: deliveries a second, CPU per delivery, latency, lost, duplicate and reordered messages
    Fanout(FanoutArgs),
    /// Connect as fast as possible; with --cut, lose all connections at once and come back
    Storm(StormArgs),
    /// What readers that stopped reading do to the others
    Slow(SlowArgs),
    /// Publish for long while connections come and go, with an account of every message
    Soak(SoakArgs),
    #[command(name = workers::WORKER, hide = true)]
    Worker,
}

/// What all modes take.
#[derive(Args, Clone, Serialize)]
pub(crate) struct Common {
    /// ws://HOST:PORT/PATH on this host; {room}, {number} (the room's number) and {client} may stand in the path
    pub(crate) url: String,
    /// Connections
    #[arg(short = 'c', long, default_value_t = 1000)]
    pub(crate) connections: u32,
    /// What the server speaks [default: raw where the path names a room, or with --join or --publish; else native]
    #[arg(long, value_enum)]
    pub(crate) dialect: Option<Dialect>,
    /// Names of the rooms; {number} is the room's number
    #[arg(long, default_value = "load.{number}")]
    pub(crate) room_name: String,
    /// Octets of each content (at least 50: a stamp stands in it)
    #[arg(short = 's', long, default_value_t = 128)]
    pub(crate) size: usize,
    /// The server's process; several for several processes. CPU and memory are read from /proc
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Vec<u32>,
    /// Pin the load side to this core
    #[arg(long, value_name = "CORE")]
    pub(crate) pin: Option<usize>,
    /// Worker processes [default: one for every 19,000 connections]
    #[arg(long)]
    pub(crate) processes: Option<u32>,
    /// Append the run's JSON line to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// A name for the run in the JSON line
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// No table, no progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Handshakes under way at a time, over all processes
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) connecting: u32,
    /// New connections a second, over all processes [default: as fast as it goes]
    #[arg(long, value_name = "N")]
    pub(crate) connect_rate: Option<f64>,
    /// A line for the upgrade request, such as 'Origin: http://localhost'
    #[arg(long, value_name = "LINE")]
    pub(crate) header: Vec<String>,
    /// Seconds that any step may take before the run is given up
    #[arg(long, alias = "patience", default_value_t = 60.0, value_name = "SECONDS")]
    pub(crate) timeout: f64,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) words: Scenario,
}

/// For how long is measured, and whether the account is held against the server.
#[derive(Args, Clone, Serialize)]
pub(crate) struct Span {
    /// Seconds to measure
    #[arg(short = 't', long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Seconds of the same before, not measured
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Exit with 1 unless every message arrived once and in order
    #[arg(long)]
    pub(crate) exactly_once: bool,
}

/// How publications are made.
#[derive(Args, Clone, Serialize)]
pub(crate) struct Publishing {
    /// Rooms; connection i is in room i modulo this
    #[arg(short = 'r', long, default_value_t = 1)]
    pub(crate) rooms: u32,
    /// Where to publish, if not where the listeners are: ws://, nats:// or http:// (with the path of the publish endpoint)
    #[arg(long, value_name = "URL")]
    pub(crate) publish_url: Option<String>,
    /// Names of the rooms on the publishing side, where they differ: tidegate.room.{room}
    #[arg(long, value_name = "NAME")]
    pub(crate) publish_room: Option<String>,
    /// Connections to publish over [default: 1; one for each room where the room stands in the path]
    #[arg(long, value_name = "N")]
    pub(crate) publishers: Option<u32>,
    /// Publications a second, over all rooms, whatever happens
    #[arg(long, value_name = "N", conflicts_with = "window")]
    pub(crate) rate: Option<f64>,
    /// As fast as they are acknowledged, with so many under way
    #[arg(long, value_name = "N")]
    pub(crate) window: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) span: Span,
}

#[derive(Args, Clone, Serialize)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) publishing: Publishing,
    /// Seconds to settle before memory is read
    #[arg(long, default_value_t = 2.0)]
    pub(crate) settle: f64,
    /// Then publish so many messages into every room, one a second
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) broadcasts: u32,
    /// Dial refused and lost connections again, after a back-off; without it the first refusal ends the run
    #[arg(long)]
    pub(crate) retry: bool,
}

#[derive(Args, Clone, Serialize)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages under way on each connection
    #[arg(short = 'p', long, default_value_t = 1)]
    pub(crate) pipeline: u32,
    /// Messages a second over all connections, whatever comes back, instead of a fixed number under way
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) span: Span,
}

#[derive(Args, Clone, Serialize)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) publishing: Publishing,
}

#[derive(Args, Clone, Serialize)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rooms to join
    #[arg(short = 'r', long, default_value_t = 1)]
    pub(crate) rooms: u32,
    /// Connect anew so many times
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) repeat: u32,
    /// Then close all at once; each comes back after a random part of 100 ms, doubled with each failure, up to 5 s
    #[arg(long)]
    pub(crate) cut: bool,
}

#[derive(Args, Clone, Serialize)]
pub(crate) struct SlowArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) publishing: Publishing,
    /// Members beside --connections that stop reading
    #[arg(short = 'k', long, default_value_t = 10)]
    pub(crate) stalled: u32,
    /// Octets of their receive buffers
    #[arg(long, default_value_t = 4096)]
    pub(crate) stalled_buffer: i32,
}

#[derive(Args, Clone, Serialize)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) publishing: Publishing,
    /// Connections a second that close and come back
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub(crate) churn: f64,
    /// Minutes in all; --seconds is the length of one round of the account
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Rounds of the account, however long they take, instead of minutes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "minutes")]
    pub(crate) rounds: Option<u64>,
}

/// What a mode found: the record, and whether what was asserted held.
pub(crate) struct Outcome {
    pub(crate) record: Record,
    pub(crate) held: bool,
}

/// Parses the arguments and measures.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().mode {
        Mode::Worker => {
            worker::run();
            ExitCode::SUCCESS
        }
        Mode::Idle(args) => conclude("idle", &args.common.clone(), &args, || modes::idle::measure(&args)),
        Mode::Echo(args) => conclude("echo", &args.common.clone(), &args, || modes::echo::measure(&args)),
        Mode::Fanout(args) => conclude("fanout", &args.common.clone(), &args, || modes::fanout::measure(&args)),
        Mode::Storm(args) => conclude("storm", &args.common.clone(), &args, || modes::storm::measure(&args)),
        Mode::Slow(args) => conclude("slow", &args.common.clone(), &args, || modes::slow::measure(&args)),
        Mode::Soak(args) => conclude("soak", &args.common.clone(), &args, || modes::soak::measure(&args)),
    }
}

fn conclude(
    mode: &str,
    common: &Common,
    parameters: &impl Serialize,
    measure: impl FnOnce() -> Result<Outcome, String>,
) -> ExitCode {
    if let Err(wrong) = check(common) {
        Cli::command().error(clap::error::ErrorKind::ValueValidation, wrong).print().ok();
        return ExitCode::from(2);
    }
    let told = measure().and_then(|outcome| {
        let parameters = serde_json::to_value(parameters).map_err(|error| error.to_string())?;
        tell(mode, common, &outcome, &parameters)?;
        Ok(outcome.held)
    });
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            // Where standard error is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "tideload: {why}");
            ExitCode::from(3)
        }
    }
}

fn check(common: &Common) -> Result<(), String> {
    let shortest = crate::stamp::LENGTH;
    if common.size < shortest {
        return Err(format!(
            "--size {} is too short: a stamp of {shortest} octets stands in each content",
            common.size
        ));
    }
    if common.connections == 0 || common.connecting == 0 || common.processes == Some(0) {
        return Err(String::from("--connections, --connecting and --processes are at least 1"));
    }
    common.words.check()?;
    if let Some(core) = common.pin {
        sys::pin(core).map_err(|error| format!("--pin {core} does not work here: {error}"))?;
    }
    crate::target::Target::parse(&common.url)?.listens(&common.url)
}

fn tell(mode: &str, common: &Common, outcome: &Outcome, parameters: &serde_json::Value) -> Result<(), String> {
    let line = outcome.record.line(mode, common.label.as_deref(), parameters);
    if let Some(path) = &common.json {
        record::append(path, &line)?;
    }
    if !common.quiet {
        let title =
            format!("{mode} {}{}", common.url, common.label.as_ref().map_or(String::new(), |l| format!(" ({l})")));
        let table = outcome.record.table(&title);
        let to_stdout = common.json.as_deref() != Some(std::path::Path::new("-"));
        let written = if to_stdout {
            std::io::stdout().write_all(table.as_bytes())
        } else {
            std::io::stderr().write_all(table.as_bytes())
        };
        written.map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Common {
    /// How long any step may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
