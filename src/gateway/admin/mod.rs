//! The node's admin side, on the main thread, with a monoio runtime of its own.
//!
//! It serves the admin port (metrics, health, publishing, inspection, drain), takes signals, steers the drain and decides
//! with which code the process ends. `node` starts the shards and the relay, hands their mailboxes and counters over as a
//! [`Admin`] and calls [`run`].
//!
//! It asks shards through [`Command`]s, reads what they count, and publishes through a relay port of its own. It never
//! touches a connection, and no shard waits for it on the path of a message: a admin thread that stands still costs scrapes and
//! drains, not deliveries.
//!
//! What decides is pure: [`drain`] (when), `route` (what), `auth` (which peer), `metrics` (how it is written).

mod announce;
mod api;
mod audit;
mod auth;
pub mod drain;
mod in_force;
mod jwks;
mod key_refresh;
mod meter;
mod metrics;
mod nodes;
mod notify;
mod oneshot;
mod places;
mod publication;
mod publish;
mod publish_options;
mod reply;
mod requests;
mod route;
mod run;
mod server;
mod signals;
mod supervisor;
mod systemd;

pub use in_force::InForce;
pub use metrics::table as metrics_table;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::gateway::broker::Port;
use crate::gateway::check::Watch;
use crate::gateway::clock::monotonic_ns;
use crate::gateway::config::Config;
use crate::gateway::mailbox::{Sender, Waker};
use tidegate_core::counters::{RelayCounters, ShardCounters};
use tidegate_core::readiness::NodeState;
use tidegate_core::shard::command::Command;

/// The page that the public port serves at `/demo`: two tabs that talk.
pub const DEMO_PAGE: &str = include_str!("demo.html");

/// Which wire the shards run on.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    /// `io_uring` or `epoll`.
    pub name: &'static str,
    /// Why this one: what the probe said.
    pub why: String,
}

/// Which cores the shards run on.
#[derive(Clone, Debug, Default)]
pub struct Cores {
    /// Those that the process may run on, such as `0-3,8`.
    pub list: String,
    /// Each shard's thread runs on one of them only.
    pub pinned: bool,
}

/// How a shard's thread ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardExit {
    /// After [`Command::Stop`].
    Stopped,
    /// It could not go on; says why.
    Failed(String),
}

/// What the admin thread holds of one shard.
pub struct ShardHandle {
    /// Its mailbox of commands; empty when handed over.
    pub commands: Sender<Command>,
    /// What it counts.
    pub counters: Arc<ShardCounters>,
    /// Its thread.
    thread: JoinHandle<ShardExit>,
    /// Dropped by the thread at its end.
    end: oneshot::Receiver<()>,
}

impl ShardHandle {
    /// Runs a shard on a thread of its own. `waker` is the admin thread's; it is woken when the thread ends, also by a panic.
    ///
    /// # Errors
    /// The limit of threads, or no memory for one.
    pub fn start(
        name: String,
        commands: Sender<Command>,
        counters: Arc<ShardCounters>,
        waker: Arc<Waker>,
        run: impl FnOnce() -> ShardExit + Send + 'static,
    ) -> io::Result<Self> {
        // A thread that never turns is silent from here on.
        counters.turning.show(monotonic_ns(Instant::now()));
        let (at_the_end, end) = oneshot::channel(waker);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _at_the_end = at_the_end;
            run()
        })?;
        Ok(Self { commands, counters, thread, end })
    }
}

/// All that the admin side needs of the node.
pub struct Admin {
    /// The settings.
    pub config: Arc<Config>,
    /// The admin port, bound and listening.
    pub listener: std::net::TcpListener,
    /// Random number of the process; see [`ConnectionId`](tidegate_core::model::ConnectionId).
    pub node_id: u32,
    /// Connections that the node admits, and what binds that number.
    pub capacity: (u64, &'static str),
    /// Looks at the host's memory again; none where the capacity stays.
    pub watch: Option<Watch>,
    /// Where the shards run.
    pub cores: Cores,
    /// Which wire, and why.
    pub driver: DriverInfo,
    /// The shards; `shards[n]` is shard n.
    pub shards: Vec<ShardHandle>,
    /// The admin thread's own port of the relay.
    pub relay: Port,
    /// The admin thread's own waker: the one that `relay.from_relay` was made with. Replies of shards wake it too.
    pub relay_waker: Arc<Waker>,
    /// What the relay counts.
    pub relay_counters: Arc<RelayCounters>,
    /// What shards read of the node.
    pub shared: Arc<NodeState>,
    /// The options that the shards began with, and the keys in them.
    pub in_force: InForce,
}

/// How the node ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Drained; every client was gone.
    Drained,
    /// Drained; the deadline passed with clients left, and they were closed.
    DeadlinePassed,
    /// A second signal came during the drain. Threads of shards may still run.
    Forced,
    /// Threads of shards did not end when told to, and still run.
    Stuck,
    /// A shard's thread ended by itself. The others still run.
    ShardFailed {
        /// Which one.
        shard: usize,
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// The exit code of the process: 0 after a drain, 1 after anything else.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Drained | Self::DeadlinePassed => 0,
            Self::Forced | Self::Stuck | Self::ShardFailed { .. } => 1,
        }
    }
}

/// Serves the admin port and steers the node until it drained, was forced to end, or a shard failed. Takes over SIGTERM,
/// SIGINT and SIGHUP (ignored) of the process.
///
/// # Errors
/// The runtime or the signal handlers could not be set up.
pub fn run(admin: Admin) -> std::io::Result<Outcome> {
    let signals = signals::install()?;
    run_with_signals(admin, signals)
}

/// [`run`] where each byte that `signals` delivers counts as one SIGTERM, and the process's signals stay as they are.
///
/// # Errors
/// The runtime could not be set up.
pub fn run_with_signals(admin: Admin, signals: UnixStream) -> std::io::Result<Outcome> {
    run::run(admin, signals)
}
