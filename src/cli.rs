//! The command line: what may be typed, and nothing of what it means. Values stay text here; [`crate::config`] reads them
//! together with the environment and the file, so that one place judges and every origin is remembered.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

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

macro_rules! setting_flags {
    ($($(#[$attribute:meta])* $name:ident: $heading:literal $value_name:literal $help:literal;)*) => {
        /// The daily settings. Each is a row of the same name in the table of settings.
        #[derive(Args, Debug, Default)]
        pub struct SettingFlags {
            /// The settings file, if one was named.
            #[arg(long, value_name = "FILE", help_heading = "Configuration", help = CONFIG_HELP)]
            pub config: Option<PathBuf>,
            $(
                #[doc = concat!("The text of `", stringify!($name), "`, if it was typed.")]
                #[arg(long, value_name = $value_name, help_heading = $heading, help = $help)]
                $(#[$attribute])*
                pub $name: Option<String>,
            )*
        }

        impl SettingFlags {
            /// What was typed: the setting's name and the text.
            pub fn typed(&self) -> Vec<(&'static str, String)> {
                [$((stringify!($name), &self.$name)),*]
                    .into_iter()
                    .filter_map(|(name, text)| Some((name, text.clone()?)))
                    .collect()
            }

            /// The names of all settings that are flags.
            #[cfg(test)]
            pub(crate) const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

setting_flags! {
    listen: "Serving" "ADDRESS" "Where clients connect [TIDEGATE_LISTEN] [default: 127.0.0.1:8080]";
    admin: "Serving" "ADDRESS" "Metrics, health, publishing over HTTP [TIDEGATE_ADMIN] [default: 127.0.0.1:9090]";
    nats_url: "Serving" "URL" "Broker that connects the nodes; several with commas; without it this node is alone [TIDEGATE_NATS_URL]";
    node_name: "Serving" "NAME" "This node's name [TIDEGATE_NODE_NAME] [default: the hostname]";
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    share_port: "Serving" "BOOL" "Let other gateways of this host listen at the same address [TIDEGATE_SHARE_PORT]";
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    demo: "Serving" "BOOL" "Also serve a page at /demo where two tabs talk [TIDEGATE_DEMO]";
    profile: "Serving" "PROFILE" "production, or conformance: 16 MiB messages, no rates, /echo [TIDEGATE_PROFILE]";
    shards: "Machine" "N" "Threads that serve clients [TIDEGATE_SHARDS] [default: cores, or the CPU quota]";
    driver: "Machine" "DRIVER" "auto, io_uring or epoll [TIDEGATE_DRIVER] [default: auto]";
    max_connections: "Bounds" "N" "Connections of this node [TIDEGATE_MAX_CONNECTIONS] [default: what the host holds]";
    message_rate: "Bounds" "N" "Messages a second from one connection, 0: no limit [TIDEGATE_MESSAGE_RATE] [default: 100]";
    connection_rate: "Bounds" "N" "New connections a second, 0: no limit [TIDEGATE_CONNECTION_RATE] [default: 5000 a shard]";
    max_connection_age: "Bounds" "TIME" "Ask older connections to reconnect, such as 6h [TIDEGATE_MAX_CONNECTION_AGE] [default: off]";
    drain_window: "Bounds" "TIME" "Time over which a drain closes clients [TIDEGATE_DRAIN_WINDOW] [default: 30s]";
    origins: "Clients" "LIST" "Pages that may connect, such as https://app.example; *: any [TIDEGATE_ORIGINS] [default: same host]";
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compression: "Clients" "BOOL" "Negotiate permessage-deflate [TIDEGATE_COMPRESSION]";
    log: "Logging" "FILTER" "error, warn, info, debug, trace, or such as tidegate=debug [TIDEGATE_LOG] [default: info]";
    log_format: "Logging" "FORMAT" "auto, human or json [TIDEGATE_LOG_FORMAT] [default: human on a terminal, else json]";
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
/// flag would show them to everybody on the host.
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
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = crate::config::parse_duration)]
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
    fn the_command_line_holds_together() {
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
        for name in SettingFlags::NAMES {
            assert!(help.contains(&format!("--{}", name.replace('_', "-"))), "{name}");
            assert!(help.contains(&format!("[TIDEGATE_{}]", name.to_ascii_uppercase())), "{name}");
        }
    }
}
