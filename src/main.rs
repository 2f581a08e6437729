//! tidegate, from start to stop: read the command line, merge the settings, start the log, run the command, say how it ended.

use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use tidegate::gateway::check;
use tidegate::gateway::cli::{CheckArgs, Cli, Command, PubArgs, ServeArgs, SubArgs, TokenArgs};
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
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(offence) => {
            let _ = writeln!(stderr(), "tidegate: {offence}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let outcome = match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Check(args)) => check(args),
        Some(Command::Drain(args)) => {
            let node = args.node.node();
            for_client(args.node.config).map(|settings| client::drain(&settings.config, node.as_deref(), args.timeout))
        }
        Some(Command::Pub(args)) => publish(args),
        Some(Command::Sub(args)) => subscribe(args),
        Some(Command::Secret) => Ok(client::secret()),
        Some(Command::Token(args)) => token(args),
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

fn publish(args: PubArgs) -> Result<ExitCode, Vec<Problem>> {
    let node = args.node.node();
    let settings = for_client(args.node.config)?;
    let publication = client::Publication { room: &args.room, message: &args.message, quiet: args.quiet };
    Ok(client::publish(&settings.config, node.as_deref(), publication))
}

fn subscribe(args: SubArgs) -> Result<ExitCode, Vec<Problem>> {
    let node = args.node();
    let settings = for_client(args.config)?;
    let wanted = client::Subscription {
        node: node.as_deref(),
        origin: args.origin.as_deref(),
        token: args.token.as_deref(),
        token_file: args.token_file.as_deref(),
        count: args.count,
        whole: args.raw_json,
    };
    Ok(client::subscribe(&settings.config, &args.room, wanted))
}

fn token(args: TokenArgs) -> Result<ExitCode, Vec<Problem>> {
    let settings = for_client(args.config)?;
    Ok(match (args.check, args.user) {
        (Some(file), _) => client::check_token(&settings.config, &file),
        (None, user) => client::make_token(&settings.config, user.as_deref().unwrap_or_default(), &args.room, args.ttl),
    })
}

/// The settings of a node on this host, which a command looks for the node and its tokens in.
fn for_client(file: Option<PathBuf>) -> Result<Settings, Vec<Problem>> {
    config::load(Vec::new(), file, &Host::this())
}

fn refused(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        let _ = writeln!(stderr(), "tidegate: {problem}");
    }
    ExitCode::from(EXIT_USAGE)
}
