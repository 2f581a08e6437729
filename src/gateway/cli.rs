//! The command line: what may be typed, and nothing of what it means. Values stay text here; [`crate::gateway::config`] reads them
//! together with the environment and the file, so that one place judges and every origin is remembered. The flags of `serve`
//! and `check` come from the table of settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::gateway::config::{self, SettingFlag};

/// The command line of `tidegate`.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "A WebSocket gateway: backends and clients publish into rooms, every member on every node gets every message.",
    long_about = None,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
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

Settings: flags win over the environment, it over tidegate.toml, that over the defaults.
--print-config shows every setting, the rare ones too, and where its value comes from.
Any key of the file has a variable: limits.message_bytes is TIDEGATE_LIMITS_MESSAGE_BYTES.

Exit codes: 0 clean, 1 failed at run time, 2 bad arguments or configuration,
3 the host cannot run it (port in use, limits).";

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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
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
    /// The node's admin port, if it was typed.
    #[arg(long, value_name = "ADDRESS", help = "The node's admin port [TIDEGATE_ADMIN] [default: 127.0.0.1:9090]")]
    pub admin: Option<String>,
}

/// `tidegate drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Where the node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Give up after this time, exit code 1
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = tidegate_core::setting::parse_duration)]
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
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Print whole messages as they came, and everything else that the node says
    #[arg(long)]
    pub raw_json: bool,
    /// The node's public port, if it was typed.
    #[arg(long, value_name = "ADDRESS", help = "The node's public port [TIDEGATE_LISTEN] [default: 127.0.0.1:8080]")]
    pub listen: Option<String>,
    /// The node's settings file, if one was named.
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
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
    fn an_unknown_flag_names_the_nearest() {
        let error = Cli::try_parse_from(["tidegate", "--lisen", "x"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'--listen'"), "{error}");
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
