//! tidegate, from start to stop: read the command line, merge the settings, start the log, run the command, say how it ended.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use tidegate::gateway::check;
use tidegate::gateway::cli::{CheckArgs, Cli, Command, NodeArgs, ServeArgs};
use tidegate::gateway::config::{self, Problem, Settings};
use tidegate::gateway::host::Host;
use tidegate::gateway::{client, log, node};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad arguments or configuration.
const EXIT_USAGE: u8 = 2;
/// The host cannot run it.
const EXIT_HOST: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Check(args)) => check(args),
        Some(Command::Drain(args)) => {
            for_client(args.node).map(|settings| client::drain(&settings.config, args.timeout))
        }
        Some(Command::Pub(args)) => {
            for_client(args.node).map(|settings| client::publish(&settings.config, &args.room, &args.message))
        }
        Some(Command::Sub(args)) => {
            let listen = args.listen.map(|address| ("listen", address)).into_iter().collect();
            config::load(listen, args.config, &Host::this()).map(|settings| {
                client::subscribe(
                    &settings.config,
                    &args.room,
                    client::Subscription { count: args.count, whole: args.raw_json },
                )
            })
        }
    };
    outcome.unwrap_or_else(|problems| refused(&problems))
}

fn serve(args: ServeArgs) -> Result<ExitCode, Vec<Problem>> {
    let settings = config::load(args.settings.typed(), args.settings.config, &Host::this())?;
    if args.print_config {
        // A closed pipe is no failure: the reader has seen enough.
        let _ = stdout().write_all(settings.to_toml().as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = log::start(&settings.config) {
        let _ = writeln!(stderr(), "tidegate: cannot start a thread: {error}; raise the limit of threads");
        return Ok(ExitCode::from(EXIT_HOST));
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let code = node::serve(settings.config);
    log::flush();
    Ok(code)
}

fn check(args: CheckArgs) -> Result<ExitCode, Vec<Problem>> {
    let host = Host::this();
    let settings = config::load(args.settings.typed(), args.settings.config, &host)?;
    let report = check::Report::of(&host, &settings.config, args.target);
    let text = if args.json { report.to_json() } else { report.to_string() };
    let _ = writeln!(stdout(), "{text}");
    Ok(if report.fits() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_HOST) })
}

fn for_client(node: NodeArgs) -> Result<Settings, Vec<Problem>> {
    let admin = node.admin.map(|address| ("admin", address)).into_iter().collect();
    config::load(admin, node.config, &Host::this())
}

fn refused(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        let _ = writeln!(stderr(), "tidegate: {problem}");
    }
    ExitCode::from(EXIT_USAGE)
}
