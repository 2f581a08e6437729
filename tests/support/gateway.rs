//! The real binary, started as an operator would start it, and held to its accounts at the end (G8).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::ptr::null;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::http::{self, Answer, LONGEST_WAIT};
use super::nats::free_port;

/// Which wire a story runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    Epoll,
    IoUring,
}

impl Driver {
    /// As `--driver` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }
}

/// For stories that are not about heartbeats: a client answers a ping only when it reads, which on a slow host may be late.
const PATIENT: &str = "[heartbeat]\nping_interval = \"10m\"\npong_timeout = \"10m\"\n";

/// How a gateway is started.
#[derive(Clone)]
pub struct Setup {
    driver: Driver,
    args: Vec<String>,
    config: String,
    environment: Vec<(String, String)>,
    memory_group: Option<PathBuf>,
    hidden_proc: bool,
    descriptors: Option<u64>,
    ready: bool,
    log: Option<Arc<OwnedFd>>,
}

impl Setup {
    /// More arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// A configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// One more variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it inside a control group.
    pub fn inside(mut self, group: &Path) -> Self {
        self.memory_group = Some(group.join("cgroup.procs"));
        self
    }

    /// Starts it where no more than so many descriptors may be open.
    pub fn descriptors(mut self, files: u64) -> Self {
        self.descriptors = Some(files);
        self
    }

    /// Starts it where `/proc` is an empty folder, as in a sandbox that hides its host.
    pub fn without_proc(mut self) -> Self {
        self.hidden_proc = true;
        self
    }

    /// Gives it this for its log, instead of a file.
    pub fn log_into(mut self, log: OwnedFd) -> Self {
        self.log = Some(Arc::new(log));
        self
    }

    /// Does not wait for /ready: it will not come.
    pub fn unready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Gateway {
        Gateway::begin(self, free_port(), free_port())
    }
}

/// One running gateway. Ends with the value: asked to, unless the test failed, and then its accounts must be closed.
pub struct Gateway {
    /// The public port.
    pub port: u16,
    /// The admin port.
    pub admin: u16,
    setup: Setup,
    child: Process,
    ended: bool,
    directory: PathBuf,
    descriptors: usize,
}

impl Gateway {
    /// A gateway with two shards and nothing else out of the ordinary.
    pub fn on(driver: Driver) -> Setup {
        let (args, environment) = (Vec::new(), Vec::new());
        let config = String::new();
        Setup {
            driver,
            args,
            config,
            environment,
            memory_group: None,
            hidden_proc: false,
            descriptors: None,
            ready: true,
            log: None,
        }
    }

    /// Starts one with two shards and these arguments.
    pub fn start(driver: Driver, args: &[&str]) -> Self {
        Self::on(driver).args(args).start()
    }

    fn begin(mut setup: Setup, port: u16, admin: u16) -> Self {
        let directory = std::env::temp_dir().join(format!("tidegate-e2e-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let config = directory.join("tidegate.toml");
        let heartbeat = if setup.config.contains("[heartbeat]") { "" } else { PATIENT };
        std::fs::write(&config, format!("{}{heartbeat}", setup.config)).unwrap();
        // Another build of it, or a wrapper around it: scripts/sanitize.sh has the same stories told of those.
        let binary = std::env::var_os("GATEWAY_UNDER_TEST").unwrap_or(env!("CARGO_BIN_EXE_tidegate").into());
        let mut command = Command::new(binary);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin", &format!("127.0.0.1:{admin}")]);
        command.args(["--driver", setup.driver.name(), "--config"]).arg(&config).args(&setup.args);
        if !setup.args.iter().any(|arg| arg == "--shards") {
            command.args(["--shards", "2"]);
        }
        let log = std::fs::OpenOptions::new().append(true).create(true).open(directory.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir(&directory);
        command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
        if let Some(processes) = setup.memory_group.clone() {
            // SAFETY: between fork and exec nothing but open, write and close of a path that was made before.
            unsafe { command.pre_exec(move || std::fs::write(&processes, "0")) };
        }
        if setup.hidden_proc {
            // SAFETY: between fork and exec nothing but system calls.
            unsafe { command.pre_exec(hide_proc) };
        }
        if let Some(files) = setup.descriptors {
            let limit =
                move || nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, files, files);
            // SAFETY: between fork and exec nothing but one system call.
            unsafe { command.pre_exec(move || limit().map_err(Into::into)) };
        }
        if let Some(log) = &setup.log {
            command.stderr(log.try_clone().unwrap());
        }
        let child = Process(command.spawn().unwrap());
        drop(command);
        // Only the gateway holds it from here on.
        setup.log = None;
        let ready = setup.ready;
        let mut gateway = Self { port, admin, setup, child, ended: false, directory, descriptors: 0 };
        gateway.wait("answers", |gateway| gateway.try_get(if ready { "/ready" } else { "/live" }) == Some(200));
        // A shard that answers twice has made all its descriptors.
        for _ in 0..2 {
            gateway.wait("every shard turns", Self::every_shard_turns);
        }
        gateway.descriptors = gateway.open_descriptors();
        gateway
    }

    fn every_shard_turns(&self) -> bool {
        let answer = http::try_request(self.admin, "GET", "/v1/rooms", &[], b"");
        answer.is_ok_and(|answer| match answer.status {
            200 => answer.json()["silentShards"] == 0,
            // It asks for a token, which a scrape does without.
            status => matches!(status, 401 | 403) && self.every_shard_has_turned(),
        })
    }

    /// Each shard's first turn is over: its descriptors were made before it.
    fn every_shard_has_turned(&self) -> bool {
        let metrics = self.metrics();
        (0..2).all(|shard| metrics.value(&format!("ws_loop_lag_seconds{{shard=\"{shard}\"}}")) > 0.0)
    }

    /// Starts it again on the same ports, as a restarted node.
    pub fn restart(&mut self) {
        assert!(self.ended, "end it first");
        let next = Self::begin(self.setup.clone(), self.port, self.admin);
        let mut before = std::mem::replace(self, next);
        // The directory goes on with the new one.
        before.directory = PathBuf::new();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
        self.ended = true;
    }

    /// Waits until it has ended.
    pub fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                self.ended = true;
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and the exit code that follows.
    pub fn terminate(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        let status = self.exit();
        status.code().unwrap_or_else(|| panic!("ended by signal {:?}:\n{}", status.signal(), self.log()))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// What it logged, panics included; it may have panicked. Without this a panic in the log fails the test.
    pub fn take_log_of_a_panic(&mut self) -> String {
        let log = self.log();
        std::fs::write(self.directory.join("log"), "").unwrap();
        log
    }

    /// A request to the admin port.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        http::request(self.admin, method, path, headers, body)
    }

    /// GET on the admin port.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn try_get(&self, path: &str) -> Option<u16> {
        http::try_request(self.admin, "GET", path, &[], b"").ok().map(|answer| answer.status)
    }

    /// Publishes over HTTP; the status.
    pub fn publish(&self, room: &str, body: &str) -> u16 {
        let path = format!("/v1/rooms/{room}/messages");
        self.ask("POST", &path, &["Content-Type: application/json"], body.as_bytes()).status
    }

    /// All metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").text())
    }

    /// Waits until a sample has this value.
    pub fn wait_for(&mut self, sample: &str, value: f64) {
        self.wait(&format!("{sample} = {value}"), |gateway| gateway.metrics().value(sample) == value);
    }

    /// Waits until the counter has at least this value.
    pub fn wait_for_at_least(&mut self, sample: &str, value: f64) {
        self.wait(&format!("{sample} >= {value}"), |gateway| gateway.metrics().value(sample) >= value);
    }

    /// Waits until `/ready` answers so.
    pub fn wait_ready(&mut self, status: u16) {
        self.wait(&format!("/ready = {status}"), |gateway| gateway.try_get("/ready") == Some(status));
    }

    /// Waits until something holds.
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LONGEST_WAIT;
        while !holds(self) {
            let ended = self.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}) while a test waited: {what}; its log:\n{}", self.log());
            assert!(Instant::now() < deadline, "never came: {what}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Descriptors that it has open.
    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Lowers both limits of its open files while it runs (prlimit(2)).
    pub fn limit_descriptors(&self, files: u64) {
        let limit = nix::libc::rlimit { rlim_cur: files, rlim_max: files };
        // SAFETY: `limit` outlives the call, and no old limit is asked for.
        let result = unsafe {
            nix::libc::prlimit(self.pid() as i32, nix::libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Anonymous memory in use, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// CPU time used so far, in ticks of the kernel (USER_HZ, a hundredth of a second).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Nobody is connected, and every socket ever accepted is accounted for: accepted = closed + refused + plain, the
    /// gauges are 0, no descriptor is left.
    pub fn assert_accounts_are_closed(&mut self) {
        self.wait_for("ws_sockets", 0.0);
        let metrics = self.metrics();
        let (closed, handshakes) = (metrics.sum("ws_closes_total"), metrics.sum("ws_handshakes_total"));
        let upgraded = metrics.value("ws_handshakes_total{result=\"upgraded\"}");
        assert_eq!(
            metrics.value("ws_accepted_total"),
            handshakes,
            "accepted = upgraded + refused + plain\n{metrics:?}"
        );
        assert_eq!(upgraded, closed, "every upgraded connection was closed for a reason\n{metrics:?}");
        for gauge in ["ws_connections_active", "ws_connected_clients", "ws_outbox_bytes", "ws_unfinished_bytes"] {
            assert_eq!(metrics.value(gauge), 0.0, "{gauge}");
        }
        let descriptors = self.descriptors;
        self.wait(&format!("{descriptors} descriptors, as at the start"), |gateway| {
            gateway.open_descriptors() <= descriptors
        });
    }
}

/// A child that ends with the value, also where a story fails at its very end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the gateway at port {}:\n{}", self.port, self.log());
        } else if !self.ended {
            self.assert_accounts_are_closed();
            assert_eq!(self.terminate(), 0, "{}", self.log());
        }
        if !self.directory.as_os_str().is_empty() {
            let log = self.log();
            let _ = std::fs::remove_dir_all(&self.directory);
            assert!(std::thread::panicking() || !log.contains("panicked"), "{log}");
        }
    }
}

/// Puts an empty folder over the calling process' `/proc`.
pub fn hide_proc() -> std::io::Result<()> {
    use nix::libc::{CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE, MS_REC, mount, unshare};
    let (root, proc, kind) = (c"/".as_ptr(), c"/proc".as_ptr(), c"tmpfs".as_ptr());
    // SAFETY: every pointer is null where the call takes that, or a literal.
    let done = unsafe {
        (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0)
            && mount(null(), root, null(), MS_REC | MS_PRIVATE, null()) == 0
            && mount(kind, proc, kind, 0, null()) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// One scrape.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// One sample, by name and labels as they are written.
    pub fn value(&self, sample: &str) -> f64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no sample {sample} in {:#?}", self.0.keys()))
    }

    /// All samples of a family.
    pub fn sum(&self, family: &str) -> f64 {
        let labelled = format!("{family}{{");
        self.0.iter().filter(|(name, _)| *name == family || name.starts_with(&labelled)).map(|(_, value)| value).sum()
    }
}
