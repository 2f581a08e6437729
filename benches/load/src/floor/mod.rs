//! The bare loops: what the kernel alone costs for an echo, a delivery, an upgrade, and what a bare client of the broker
//! needs to hear a message. `tideload` loads them like any server, so that ratios compare like with like.

mod serve;
mod subscribe;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The arguments of `floor`.
#[derive(Parser)]
#[command(name = "floor", version, about = "Bare loops to compare a server's figures with", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// epoll, recv, send the same octets back: load it with `tideload echo tcp://127.0.0.1:PORT`
    Echo { port: u16 },
    /// accept, setsockopt, arm, recv, send a ready 101: load it with `tideload storm ws://127.0.0.1:PORT/`
    Handshake { port: u16 },
    /// the same, and a ping to every connection once in 25 s: load it with `tideload idle ws://127.0.0.1:PORT/ --dialect raw`
    Idle { port: u16 },
    /// send the same octets to every member of a room, one send each: load it with `tideload fanout tcp://127.0.0.1:PORT`
    Fanout { port: u16 },
    /// A bare async-nats subscriber: publish-to-delivery latency of what `tideload` publishes meanwhile
    Subscribe {
        /// nats://HOST:PORT
        url: String,
        /// The subject that is published to
        subject: String,
        /// Seconds to listen
        #[arg(short = 't', long, default_value_t = 10.0)]
        seconds: f64,
        /// A name for the run in the JSON line
        #[arg(long)]
        label: Option<String>,
        /// Append a JSON line to this file (- for standard output)
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// Parses the arguments and runs until it is killed, or for as long as was said.
pub(crate) fn run() -> ExitCode {
    let ran = match Cli::parse().what {
        What::Echo { port } => serve::run(loopback(port), serve::Echo),
        What::Handshake { port } => serve::run(loopback(port), serve::Handshake),
        What::Idle { port } => serve::run(loopback(port), serve::Idle::default()),
        What::Fanout { port } => serve::run(loopback(port), serve::Fanout::default()),
        What::Subscribe { url, subject, seconds, label, json } => {
            subscribe::run(&url, &subject, seconds, label.as_deref(), json.as_deref())
        }
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Where standard error is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "floor: {why}");
            ExitCode::from(3)
        }
    }
}

fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}
