//! A node from start to stop: what the host allows, listeners, relay, shards, then the admin thread until the end.
//!
//! It starts everything in the order in which it is needed and stops it in reverse. What fails before the first client could
//! connect is one line that says what to do, and exit code 3.

use std::io::{self, IsTerminal, stderr};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::gateway::admin::{self, Admin, Cores, DriverInfo, InForce, Outcome, ShardExit, ShardHandle};
use crate::gateway::broker;
use crate::gateway::check;
use crate::gateway::config::{Config, Driver};
use crate::gateway::host::{self, Host, ProbeOutcome};
use crate::gateway::log;
use crate::gateway::mailbox::{Sender, Waker, mailbox};
use crate::gateway::worker::{self, ShardContext, listener};
use tidegate_core::counters::{Cell, RelayCounters, ShardCounters};
use tidegate_core::limits;
use tidegate_core::readiness::NodeState;
use tidegate_core::shard::command::Command;
use tidegate_core::shard::{self, Budgets, Settings};

/// The host cannot run the node.
const EXIT_HOST: u8 = 3;
/// Something failed at run time.
const EXIT_FAILURE: u8 = 1;
/// Commands that wait for one shard.
const COMMANDS: usize = 64;
/// How long a port may be in use before that is an error: the kernel lets go of an io_uring's sockets a moment after the
/// end of their process, and a node that is restarted at once would not start.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Why a node does not start.
struct CannotStart(String);

/// Runs a node until it has drained or failed.
pub fn serve(config: Config) -> ExitCode {
    match start(config) {
        Ok(node) => node.steer(),
        Err(CannotStart(why)) => {
            tracing::error!("{why}");
            ExitCode::from(EXIT_HOST)
        }
    }
}

/// Everything that was started.
struct Node {
    admin: Admin,
    relay: broker::Handle,
}

impl Node {
    fn steer(self) -> ExitCode {
        let outcome = match admin::run(self.admin) {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%error, "the admin thread cannot run");
                return ExitCode::from(EXIT_FAILURE);
            }
        };
        match &outcome {
            Outcome::Drained => tracing::info!("drained: every client is gone"),
            Outcome::DeadlinePassed => {
                tracing::warn!("drained: the deadline passed, and the connections that were left were closed")
            }
            Outcome::Forced => tracing::warn!("ended at once by a second signal"),
            Outcome::Stuck => tracing::error!("ended although a shard did not stop"),
            Outcome::ShardFailed { shard, reason } => tracing::error!(shard, %reason, "a shard failed"),
        }
        if outcome.exit_code() == 0 {
            self.relay.stop();
        }
        log::flush();
        // Not a return: threads of shards that did not stop must not keep the process.
        std::process::exit(i32::from(outcome.exit_code()));
    }
}

/// What the node changes of its own process.
fn prepare_process() {
    if let Err(error) = host::raise_nofile() {
        tracing::warn!(%error, "cannot raise the soft limit of open files to the hard one");
    }
    // The allocator asks for huge pages: a node of a thousand clients then takes 20 MiB where 2 would do.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::warn!(%error, "cannot do without transparent huge pages; memory comes in steps of 2 MiB");
    }
}

fn start(mut config: Config) -> Result<Node, CannotStart> {
    prepare_process();
    let host = Host::this();
    let driver = choose_driver(&config, host.io_uring)?;
    let capacity = check::capacity(&host, &config);
    if let Some(why) = capacity.refusal(&host, &config) {
        return Err(CannotStart(why));
    }
    warn_if_the_host_holds_less(&host, &config);
    // What was to be found out is found out: from here on, and at /v1/node, the limits are those in force.
    config.limits.handshakes_per_shard = check::handshakes_per_shard(&host, &config);
    let memory = check::MemoryBound::of(&host, &config, capacity.connections);
    config.limits.outbox_total_bytes = Some(memory.outbox_bytes);
    config.limits.unfinished_total_bytes = Some(memory.unfinished_bytes);
    config.limits.rooms_total = Some(memory.rooms);
    if stderr().is_terminal() {
        config.drain.window.get_or_insert(limits::DRAIN_WINDOW_TERMINAL);
    }
    let listeners = bind(&mut config)?;
    let admin_listener = bind_admin(&mut config)?;
    let config = Arc::new(config);
    let node_id = random() as u32;
    let counters: Vec<Arc<ShardCounters>> = (0..config.shards).map(|_| Arc::default()).collect();
    let relay_counters = Arc::new(RelayCounters {
        mailbox_depth: (0..config.shards).map(|_| Cell::default()).collect(),
        ..RelayCounters::default()
    });
    let wakers: Vec<Arc<Waker>> =
        (0..=config.shards).map(|_| Waker::new()).collect::<Result<_, _>>().map_err(no_descriptors)?;
    let (mut ports, relay) =
        broker::start(broker::Options::new(Config::clone(&config), node_id), wakers.clone(), relay_counters.clone())
            .map_err(|error| CannotStart(format!("the relay cannot start: {error}")))?;
    let admin_port =
        ports.pop().ok_or_else(|| CannotStart(String::from("the relay has no port for the admin thread")))?;
    let shared = NodeState::new(relay_counters.clone(), config.ready.require_broker);
    shared.set_capacity(capacity.connections);
    let pinned = config.is_pinned(&host);
    warn_if_memory_is_unknown(&host);
    tracing::debug!(%capacity, %memory, "bounds");
    let budgets = Budgets {
        connections: check::most_connections(&host, &config),
        outbox_bytes: memory.outbox_bytes,
        unfinished_bytes: memory.unfinished_bytes,
    };
    let demo_page = config.demo.then_some(admin::DEMO_PAGE);
    let options = shard::Options { demo_page, ..config.shard_options() };
    let in_force = InForce::new(options, config.auth.ca_file.clone());
    shared.set_awaits_keys(in_force.awaits_keys());
    let options = in_force.options();
    let common = Common { config, options, node_id, budgets, counters, state: shared, driver, pinned };
    let shards = start_shards(&common, listeners, ports, &wakers)?;
    let Common { config, driver, state, .. } = common;
    tracing::info!(
        listen = %config.listen, admin = %config.admin.listen, driver = driver.name, why = %driver.why, shards = config.shards,
        cores = host.core_list, pinned, connections = capacity.connections, bound_by = capacity.binding, demo = config.demo, "serving"
    );
    let relay_waker = wakers[config.shards].clone();
    let admin = Admin {
        listener: admin_listener,
        node_id,
        capacity: (capacity.connections, capacity.binding),
        cores: Cores { list: host.core_list.clone(), pinned },
        watch: Some(check::Watch::new(host, config.clone())),
        driver,
        shards,
        relay: admin_port,
        relay_waker,
        relay_counters,
        shared: state,
        in_force,
        config,
    };
    Ok(Node { admin, relay })
}

/// io_uring or epoll, and why: the one line that tells.
fn choose_driver(config: &Config, probe: ProbeOutcome) -> Result<DriverInfo, CannotStart> {
    let info = |name, why: String| Ok(DriverInfo { name, why });
    match (config.driver, probe) {
        (Driver::Epoll, _) => info("epoll", String::from("configured")),
        (_, ProbeOutcome::Lacking(_)) => Err(CannotStart(format!("io_uring: {probe}; or run with --driver epoll"))),
        (Driver::IoUring, ProbeOutcome::Works) => info("io_uring", String::from("configured")),
        (Driver::IoUring, ProbeOutcome::Refused(_)) => {
            Err(CannotStart(format!("io_uring is configured and {probe}; allow it, or run with --driver auto")))
        }
        (Driver::Auto, ProbeOutcome::Works) => info("io_uring", String::from("the probe succeeded")),
        (Driver::Auto, ProbeOutcome::Refused(_)) => info("epoll", format!("io_uring is {probe}")),
    }
}

/// A listener for each shard, all at one address. With port 0 the kernel chooses one for all, which the configuration then names.
fn bind(config: &mut Config) -> Result<Vec<OwnedFd>, CannotStart> {
    let asked = config.listen;
    let cannot = |error: io::Error| CannotStart(explain_bind("listen", asked, &error));
    if !config.share_port && asked.port() != 0 {
        probe_patiently(asked).map_err(cannot)?;
    }
    let first = listener::listen_at(asked).map_err(cannot)?;
    config.listen = listener::local_address(&first).map_err(cannot)?;
    let others = (1..config.shards).map(|_| listener::listen_at(config.listen));
    std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>().map_err(cannot)
}

/// Finds out whether another process listens at the address, and keeps listening: the node that this one replaces may just have
/// ended.
fn probe_patiently(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        match listener::probe(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(PORT_PATIENCE / 40);
            }
            outcome => return outcome,
        }
    }
}

fn bind_admin(config: &mut Config) -> Result<TcpListener, CannotStart> {
    let asked = config.admin.listen;
    let cannot = |error: io::Error| CannotStart(explain_bind("admin", asked, &error));
    let listener = TcpListener::bind(asked).map_err(cannot)?;
    config.admin.listen = listener.local_addr().map_err(cannot)?;
    Ok(listener)
}

fn explain_bind(flag: &str, address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another process: stop it, or choose another address with --{flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{address} is no address of this host: choose another one with --{flag}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{address} may not be bound by this user: choose a port above 1023 with --{flag}")
        }
        _ => format!("cannot listen at {address}: {error}; choose another address with --{flag}"),
    }
}

/// What all shards are given.
struct Common {
    config: Arc<Config>,
    options: Arc<shard::Options>,
    node_id: u32,
    budgets: Budgets,
    counters: Vec<Arc<ShardCounters>>,
    state: Arc<NodeState>,
    driver: DriverInfo,
    /// Each shard's thread runs on one core only.
    pinned: bool,
}

impl Common {
    fn settings(&self, shard: usize) -> Settings {
        let (options, counters, state) = (self.options.clone(), self.counters.clone(), self.state.clone());
        Settings::new(options, self.node_id, shard as u8, self.budgets, counters, state)
    }
}

/// A shard for each listener, with its port of the relay and its waker.
fn start_shards(
    common: &Common,
    listeners: Vec<OwnedFd>,
    ports: Vec<broker::Port>,
    wakers: &[Arc<Waker>],
) -> Result<Vec<ShardHandle>, CannotStart> {
    let mut shards = Vec::new();
    for (number, ((listener, port), waker)) in listeners.into_iter().zip(ports).zip(wakers).enumerate() {
        let (commands, inbox) = mailbox(COMMANDS, waker.clone());
        let context = ShardContext {
            settings: Arc::new(common.settings(number)),
            counters: common.counters[number].clone(),
            listener,
            port,
            commands: inbox,
            waker: waker.clone(),
            seed: random(),
        };
        let admin = wakers[common.config.shards].clone();
        shards.push(start_shard(number, context, commands, admin, common)?);
    }
    Ok(shards)
}

fn start_shard(
    number: usize,
    context: ShardContext,
    commands: Sender<Command>,
    admin: Arc<Waker>,
    common: &Common,
) -> Result<ShardHandle, CannotStart> {
    let counters = context.counters.clone();
    let (uring, pin) = (common.driver.name == "io_uring", common.pinned);
    let run = move || {
        if pin {
            pin_to_core(number);
        }
        worker::run(context, uring).unwrap_or_else(|error| ShardExit::Failed(error.to_string()))
    };
    ShardHandle::start(format!("shard-{number}"), commands, counters, admin, run)
        .map_err(|error| CannotStart(format!("cannot start a thread: {error}; raise the limit of threads")))
}

/// Pins the calling thread to the `number`th core that the process may run on.
fn pin_to_core(number: usize) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let this = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this) else { return };
    let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
    let Some(core) = cores.nth(number) else { return };
    let mut own = CpuSet::new();
    if own.set(core).and_then(|()| sched_setaffinity(this, &own)).is_err() {
        tracing::warn!(core, "cannot pin a shard to its core");
    }
}

fn warn_if_the_host_holds_less(host: &Host, config: &Config) {
    let holds = check::host_capacity(host, config);
    if let Some(most) = config.max_connections.filter(|most| u64::from(*most) > holds.connections) {
        tracing::warn!(
            max_connections = most,
            holds = holds.connections,
            bound_by = holds.binding,
            "max_connections is more than this host holds; `tidegate check` says how to raise it"
        );
    }
}

fn warn_if_memory_is_unknown(host: &Host) {
    if host.memory_bytes().is_none() {
        tracing::warn!(
            "memory cannot be read (/proc/meminfo) and bounds no connections: set max_connections, and \
             limits.outbox_total_bytes and limits.unfinished_total_bytes where {} MiB of memory are not what there is",
            limits::ASSUMED_MEMORY_BYTES >> 20
        );
    }
}

fn no_descriptors(error: nix::errno::Errno) -> CannotStart {
    CannotStart(format!("cannot make an eventfd: {error}; raise nofile"))
}

/// A random number, from the kernel, or from the clock where it gives none.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the pointer and the length describe `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 {
        return u64::from_ne_bytes(bytes);
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}
