//! `tideload`: loads a WebSocket server over loopback and tells what it cost and how long it took.

use std::process::ExitCode;

fn main() -> ExitCode {
    tideload::run()
}
