//! The load generator behind tidegate's figures, and the bare loops that they are compared with.
//!
//! # Map
//!
//! | module | what it is |
//! |---|---|
//! | `cli` | what the user types |
//! | `modes` | what is measured: idle, echo, fanout, storm, slow, soak; each a scenario over the workers |
//! | `workers` | the worker processes, seen from the one that was started |
//! | `record` | one JSON line and one table for each run |
//! | `worker` | a worker process: one thread, one epoll, one part to play |
//! | `fleet`, `dial`, `lines` | many client connections, when they are dialled, what they say |
//! | `frame`, `stamp`, `ledger`, `scenario`, `target`, `bins`, `protocol` | pure: values in, values out |
//! | `sys`, `proc` | sockets, epoll, clocks; what the kernel tells |
//! | `floor` | the bare loops |
//!
//! # Honesty
//!
//! A latency is counted from the moment at which a message was *meant* to be sent (it stands in the message), so a late
//! publisher hides nothing. The server's CPU is read from the kernel over a span that begins and ends idle, so that all of
//! it belongs to the messages counted. Where the load side itself was the limit the record says `client_bound`, and what
//! could not be measured is listed, not left out.

mod bins;
mod cli;
mod dial;
mod fleet;
mod floor;
mod frame;
mod ledger;
mod lines;
mod modes;
mod proc;
mod protocol;
mod record;
mod scenario;
mod stamp;
mod sys;
mod target;
mod worker;
mod workers;

use std::process::ExitCode;

/// Runs `tideload` with the process's arguments.
pub fn run() -> ExitCode {
    cli::run()
}

/// Runs `floor` with the process's arguments.
pub fn run_floor() -> ExitCode {
    floor::run()
}
