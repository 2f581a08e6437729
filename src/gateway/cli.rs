//! The command line: what may be typed, and nothing of what it means. Values stay text here; [`crate::gateway::config`] reads them
//! together with the environment and the file, so that one place judges and every origin is remembered. The flags of `serve`
//! and `check` come from the table of settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use tidegate_core::setting::{Value, parse_duration};

use crate::gateway::config::{self, SettingFlag};

/// The command line of `tidegate`.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "A WebSocket gateway: backends and clients publish into rooms, every member on every node gets every message.",
    long_about = None,
    args_conflicts_with_subcommands = true,
    max_term_width = 110,
    after_help = AFTER_HELP
)]
pub struct Cli {
    /// What to do; `serve` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

const AFTER_HELP: &str = "\
Try it:
  tidegate --demo                          then open http://127.0.0.1:8080/demo in two tabs
  tidegate --nats-url nats://127.0.0.1:4222 --listen 0.0.0.0:8080
  tidegate sub lobby                       and in another terminal: tidegate pub lobby hello
  tidegate help pub                        what a command takes

Settings: flags win over the environment, it over tidegate.toml, that over the defaults.
--print-config shows every setting, the rare ones too, and where its value comes from.
Any key of the file has a variable: limits.message_bytes is TIDEGATE_LIMITS_MESSAGE_BYTES.

Exit codes: 0 clean, 1 failed at run time, 2 bad arguments or configuration,
3 the host cannot run it (port in use, limits).";

impl Cli {
    /// Reads what was typed. Help and the version are printed, and end the process.
    ///
    /// # Errors
    /// In one line: what was wrong, and what is accepted.
    pub fn read() -> Result<Self, String> {
        match Self::try_parse() {
            Err(error) if !error.use_stderr() => error.exit(),
            outcome => outcome.map_err(|error| offence(&error)),
        }
    }
}

/// An error of the parser as all others are told: `--flag: what was wrong; what to do`, without the parser's layout of several
/// lines.
fn offence(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let (ErrorKind::ValueValidation, Some(flag), Some(source)) =
        (error.kind(), context(ContextKind::InvalidArg), std::error::Error::source(error))
    {
        return format!("{}: {source}", flag.split([' ', '=']).next().unwrap_or(flag));
    }
    if let (ErrorKind::ArgumentConflict, Some(command)) = (error.kind(), context(ContextKind::InvalidSubcommand)) {
        return format!(
            "options stand after the command, as in `tidegate {command} [OPTIONS]`; `tidegate help {command}` lists them"
        );
    }
    let text = error.render().to_string();
    let mut parts: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("For more information"))
    {
        let usage = line.strip_prefix("Usage: ").map(|_| line);
        // How a command is written helps where a part of it is missing.
        match usage {
            Some(line) if error.kind() == ErrorKind::MissingRequiredArgument => parts.push(line),
            Some(_) => {}
            None => parts.push(line.trim_start_matches("error: ").trim_start_matches("tip: ")),
        }
    }
    let told = parts.join("; ").replace(":; ", ": ").replace("; Usage: ", "; usage: ");
    if matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) {
        return format!("{told}; `tidegate help` lists what there is");
    }
    told
}

const NODE_HELP: &str =
    "The node's admin port, as HOST:PORT or http://HOST:PORT [TIDEGATE_NODE] [default: 127.0.0.1:9090]";
const SUB_NODE_HELP: &str = "The node: its public port as HOST:PORT or ws://HOST:PORT/PATH, or its admin port as http://HOST:PORT, \
    which is asked for the public one [TIDEGATE_NODE] [default: 127.0.0.1:8080]";
const ORIGIN_HELP: &str =
    "Origin to connect as, where the node takes certain pages only [default: the first of `origins` in the settings]";
const TOKEN_HELP: &str = "Sent as `Authorization: Bearer TOKEN`; other users of this host can read a flag, and not the variable \
    [TIDEGATE_TOKEN]";
const CONFIG_HELP: &str = "Settings file [TIDEGATE_CONFIG] [default: tidegate.toml, if there is one]";

/// What tidegate can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients; the default
    Serve(ServeArgs),
    /// Show what this host allows: how many connections, which limit binds first, how to raise it
    Check(CheckArgs),
    /// Drain the node on this host, and return when it is empty (for a preStop hook)
    Drain(DrainArgs),
    /// Publish one message into a room, through the admin port
    Pub(PubArgs),
    /// Join a room and print its messages
    Sub(SubArgs),
    /// Print a new secret that signs tokens (auth.secret_file)
    Secret,
    /// Print a token signed with auth.secret, or say what this node would make of one
    Token(TokenArgs),
}

/// `tidegate serve`.
#[derive(Args, Debug, Default)]
pub struct ServeArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingFlags,
    /// Show every setting and where its value comes from, as TOML, and exit
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,
}

/// The daily settings: a flag for each, made of its entry in the table of settings.
#[derive(Debug, Default)]
pub struct SettingFlags {
    /// The settings file, if one was named.
    pub config: Option<PathBuf>,
    typed: Vec<(&'static str, String)>,
}

impl SettingFlags {
    /// What was typed: the setting's name and the text.
    pub fn typed(&self) -> Vec<(&'static str, String)> {
        self.typed.clone()
    }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config").long("config").value_name("FILE").help(CONFIG_HELP);
        let file = file.help_heading("Configuration").value_parser(clap::value_parser!(PathBuf));
        command.arg(file).args(config::flags().map(|SettingFlag { name, long, help, flag }| {
            let arg = Arg::new(name).long(long).value_name(flag.value_name).help(help);
            let arg = arg.help_heading(flag.heading).display_order(flag.place);
            match flag.value_name {
                "BOOL" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg,
            }
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one("config").cloned();
        let text = |flag: SettingFlag| Some((flag.name, matches.get_one::<String>(flag.name)?.clone()));
        self.typed = config::flags().filter_map(text).collect();
        Ok(())
    }
}

/// `tidegate check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Connections that the node should hold; exit code 3 if the host does not allow them
    #[arg(long, value_name = "N", value_parser = positive)]
    pub target: Option<u64>,
    /// One JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// Settings that the arithmetic uses.
    #[command(flatten)]
    pub settings: SettingFlags,
}

/// How to find the node that a command talks to. Tokens come from TIDEGATE_ADMIN_TOKEN, TIDEGATE_PUBLISH_TOKEN or the file: a
/// flag would show them to every user of the host.
#[derive(Args, Debug)]
pub struct NodeArgs {
    /// The node's settings file, if one was named.
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
    /// The node, if it was typed.
    #[arg(long, value_name = "URL", help = NODE_HELP, conflicts_with = "admin")]
    pub node: Option<String>,
    /// The older name of `--node`: an address.
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub admin: Option<String>,
}

impl NodeArgs {
    /// The node that was typed, else the one that the environment names.
    pub fn node(&self) -> Option<String> {
        named_node(self.node.as_ref().or(self.admin.as_ref()))
    }
}

fn named_node(typed: Option<&String>) -> Option<String> {
    let named = || std::env::var("TIDEGATE_NODE").ok().filter(|node| !node.is_empty());
    typed.cloned().or_else(named)
}

/// A whole number from 1.
fn positive(text: &str) -> Result<u64, String> {
    Value::Text(text.to_owned()).integer(1..=u64::MAX)
}

/// `tidegate drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Give up after this time, exit code 1
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// `tidegate pub`.
#[derive(Args, Debug)]
pub struct PubArgs {
    /// The room
    pub room: String,
    /// The message: JSON where it is valid JSON, else text; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    pub message: String,
    /// Print the acknowledgement's level only, `node` or `broker`
    #[arg(short, long)]
    pub quiet: bool,
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `tidegate sub`.
#[derive(Args, Debug)]
pub struct SubArgs {
    /// The room
    pub room: String,
    /// End after N messages
    #[arg(long, value_name = "N", value_parser = positive)]
    pub count: Option<u64>,
    /// Print whole messages as they came, and everything else that the node says
    #[arg(long)]
    pub raw_json: bool,
    /// The node, if it was typed.
    #[arg(long, value_name = "URL", help = SUB_NODE_HELP, conflicts_with = "listen")]
    pub node: Option<String>,
    /// The older name of `--node`: an address.
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub listen: Option<String>,
    /// Origin to connect as, if it was typed.
    #[arg(long, value_name = "ORIGIN", help = ORIGIN_HELP)]
    pub origin: Option<String>,
    /// Bearer token of the handshake.
    #[arg(long, value_name = "TOKEN", env = "TIDEGATE_TOKEN", hide_env = true, help = TOKEN_HELP)]
    pub token: Option<String>,
    /// File that holds the bearer token; it is read anew for each connection
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The node's settings file, if one was named.
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
}

/// `tidegate token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The user that the token names
    #[arg(long, value_name = "NAME", required_unless_present = "check")]
    pub user: Option<String>,
    /// A room, or a pattern such as chat.*, and what the token lets do in it: r, w or rw; may be repeated
    #[arg(long, value_name = "PATTERN=ALLOW")]
    pub room: Vec<String>,
    /// How long it holds
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub ttl: Duration,
    /// Say what this node would make of the token in FILE; `-` reads standard input; exit code 1 where it would refuse
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "room", "ttl"])]
    pub check: Option<PathBuf>,
    /// The node's settings file, if one was named.
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
}

impl SubArgs {
    /// The node that was typed, else the one that the environment names.
    pub fn node(&self) -> Option<String> {
        named_node(self.node.as_ref().or(self.listen.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_and_its_flags_work_without_the_word() {
        let bare = Cli::parse_from(["tidegate", "--listen", "0.0.0.0:80", "--demo"]);
        assert!(bare.command.is_none());
        assert_eq!(bare.serve.settings.typed(), [("listen", "0.0.0.0:80".to_owned()), ("demo", "true".to_owned())]);
        let spelled = Cli::parse_from(["tidegate", "serve", "--demo=false"]);
        let Some(Command::Serve(serve)) = spelled.command else { panic!("serve was asked for") };
        assert_eq!(serve.settings.typed(), [("demo", "false".to_owned())]);
    }

    #[test]
    fn an_error_of_the_command_line_is_told_in_one_line_as_all_others_are() {
        // The parser's own texts had three paragraphs and another form than those of settings.
        for (typed, told) in [
            (&["--lisen", "x"][..], "unexpected argument '--lisen' found; a similar argument exists: '--listen'"),
            (&["pub", "lobby"], "the following required arguments were not provided: <MESSAGE>; usage: tidegate pub"),
            (&["drain", "--timeout", "soon"], "--timeout: \"soon\" is not a duration with its unit"),
            (&["check", "--target", "0"], "--target: 0 is out of range: 1 to "),
            (&["sub", "lobby", "--count", "many"], "--count: \"many\" is not a whole number"),
            (&["publish", "lobby", "x"], "unrecognized subcommand 'publish'"),
            (&["sub", "lobby", "--node", "a", "--listen", "b"], "the argument '--node <URL>' cannot be used with"),
            // It said that 'check' cannot be used with '--config <FILE>', which it can, behind it.
            (
                &["--config", "a.toml", "check"],
                "options stand after the command, as in `tidegate check [OPTIONS]`; `tidegate help check`",
            ),
        ] {
            let error = Cli::try_parse_from([&["tidegate"], typed].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = offence(&error);
            assert!(text.starts_with(told) && !text.contains('\n'), "{typed:?}: {text}");
        }
    }

    #[test]
    fn a_target_may_have_underscores() {
        let Some(Command::Check(check)) = Cli::parse_from(["tidegate", "check", "--target", "1_000_000"]).command
        else {
            panic!("check was asked for")
        };
        assert_eq!(check.target, Some(1_000_000));
    }

    #[test]
    fn the_help_names_the_variable_of_every_flag() {
        let help = Cli::command().render_long_help().to_string();
        for SettingFlag { name, .. } in config::flags() {
            assert!(help.contains(&format!("--{}", name.replace('_', "-"))), "{name}");
            assert!(help.contains(&format!("[TIDEGATE_{}]", name.to_ascii_uppercase())), "{name}");
        }
    }
}
