//! A node from start to stop.

use std::process::ExitCode;

use crate::config::Config;

/// Runs a node until it has drained or failed.
pub fn serve(config: Config) -> ExitCode {
    tracing::info!(listen = %config.listen, admin = %config.admin, "configured");
    ExitCode::SUCCESS
}
