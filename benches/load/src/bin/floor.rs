//! `floor`: the bare loops that a server's figures are compared with.

use std::process::ExitCode;

fn main() -> ExitCode {
    tideload::run_floor()
}
