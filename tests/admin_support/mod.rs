//! An admin thread over fake shards, and an HTTP client that says exactly what a test wants said. Each test binary uses a
//! part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "no test binary uses all of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use tidegate::gateway::admin::{self, Admin, Cores, DriverInfo, InForce, Outcome, ShardExit, ShardHandle};
use tidegate::gateway::broker::{self, Port};
use tidegate::gateway::config::Config;
use tidegate::gateway::mailbox::{Receiver, Sender, Waker, mailbox};
use tidegate_core::counters::{Cell, RelayCounters, ShardCounters};
use tidegate_core::readiness::NodeState;
use tidegate_core::relay::{ToRelay, ToShard};
use tidegate_core::shard::command::{Command, ConnectionInfo, RoomInfo};

/// How long a test waits for what must come.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The node's number in the tests.
pub const NODE: u32 = 0xfeed_beef;

/// A node with fake shards.
pub struct TestNode {
    pub admin: SocketAddr,
    pub relay_counters: Arc<RelayCounters>,
    pub counters: Vec<Arc<ShardCounters>>,
    /// What the shards were ordered, in order, with the shard's number.
    pub commands: Arc<Mutex<Vec<(usize, String)>>>,
    signals: UnixStream,
    thread: JoinHandle<Outcome>,
}

/// How a fake shard behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shard {
    /// Closes all connections when told to drain.
    Obedient,
    /// Keeps its clients whatever it is told.
    Clinging,
    /// Panics when told to drain.
    Fragile,
    /// Fails when told to stop.
    Sore,
}

/// The relay's end of the admin thread's port, in a test's hands.
pub struct FakeRelay {
    pub from_admin: Receiver<ToRelay>,
    pub to_admin: Sender<ToShard>,
}

impl TestNode {
    /// Two obedient shards with 3 connections each, on the local bus.
    pub fn start(config: Config) -> (Self, broker::Handle, Subscriber) {
        let (subscriber_waker, admin_waker) = (Waker::new().unwrap(), Waker::new().unwrap());
        let counters = relay_counters();
        let options = broker::Options::new(config.clone(), NODE);
        let wakers = vec![subscriber_waker.clone(), admin_waker.clone()];
        let (mut ports, handle) = broker::start(options, wakers, counters.clone()).unwrap();
        let admin_port = ports.pop().unwrap();
        let subscriber = Subscriber { port: ports.pop().unwrap(), waker: subscriber_waker };
        let node = Self::over(config, [Shard::Obedient; 2], admin_port, admin_waker, counters);
        (node, handle, subscriber)
    }

    /// Shards of these kinds, and a relay that the test plays.
    pub fn with_fake_relay<const N: usize>(config: Config, shards: [Shard; N]) -> (Self, FakeRelay) {
        let waker = Waker::new().unwrap();
        let (port, relay) = fake_relay(&waker);
        (Self::over(config, shards, port, waker, relay_counters()), relay)
    }

    /// One obedient shard, and the signals are the process's own: a test binary can have one such node only.
    pub fn with_real_signals(config: Config) -> (Self, FakeRelay) {
        let waker = Waker::new().unwrap();
        let (port, relay) = fake_relay(&waker);
        let run = |admin, _| admin::run(admin).unwrap();
        (Self::run_by(run, config, [Shard::Obedient], port, waker, relay_counters()), relay)
    }

    fn over<const N: usize>(
        config: Config,
        shards: [Shard; N],
        relay: Port,
        relay_waker: Arc<Waker>,
        relay_counters: Arc<RelayCounters>,
    ) -> Self {
        let run = |admin, signals| admin::run_with_signals(admin, signals).unwrap();
        Self::run_by(run, config, shards, relay, relay_waker, relay_counters)
    }

    fn run_by<const N: usize>(
        run: impl FnOnce(Admin, UnixStream) -> Outcome + Send + 'static,
        config: Config,
        shards: [Shard; N],
        relay: Port,
        relay_waker: Arc<Waker>,
        relay_counters: Arc<RelayCounters>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let start = |(number, kind)| start_shard(number, kind, relay_waker.clone(), commands.clone());
        let shards: Vec<_> = shards.into_iter().enumerate().map(start).collect();
        let counters = shards.iter().map(|shard| shard.counters.clone()).collect();
        let (signals, admin_signals) = UnixStream::pair().unwrap();
        let shared = NodeState::new(relay_counters.clone(), config.ready.require_broker);
        let in_force = InForce::new(config.shard_options(), config.auth.ca_file.clone());
        let admin = Admin {
            in_force,
            config: Arc::new(config),
            listener,
            node_id: NODE,
            capacity: (1000, "nofile"),
            watch: None,
            cores: Cores { list: String::from("0-1"), pinned: false },
            driver: DriverInfo { name: "epoll", why: String::from("the test says so") },
            shards,
            relay,
            relay_waker,
            relay_counters: relay_counters.clone(),
            shared,
        };
        let thread = std::thread::spawn(move || run(admin, admin_signals));
        Self { admin: address, relay_counters, counters, commands, signals, thread }
    }

    /// As SIGTERM.
    pub fn signal(&self) {
        (&self.signals).write_all(b"x").unwrap();
    }

    /// What one shard was ordered.
    pub fn commands_of(&self, shard: usize) -> Vec<String> {
        let commands = self.commands.lock().unwrap();
        commands.iter().filter(|(number, _)| *number == shard).map(|(_, command)| command.clone()).collect()
    }

    /// How the node ended.
    pub fn outcome(self) -> Outcome {
        eventually("the node ended", || self.thread.is_finished());
        self.thread.join().unwrap()
    }

    /// Ends it.
    pub fn stop(self) {
        self.signal();
        assert_eq!(self.outcome(), Outcome::Drained);
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.say(request);
        client.hear()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nhost: node\r\n\r\n"))
    }

    /// A POST; `headers` are whole lines.
    pub fn post(&self, target: &str, headers: &str, body: &str) -> Answer {
        self.ask(&post(target, headers, body))
    }
}

fn fake_relay(waker: &Arc<Waker>) -> (Port, FakeRelay) {
    let (to_relay, from_admin) = mailbox(8, Waker::new().unwrap());
    let (to_admin, from_relay) = mailbox(8, waker.clone());
    (Port::new(to_relay, from_relay), FakeRelay { from_admin, to_admin })
}

/// Counters of a relay with mailboxes of two shards and of the admin thread.
fn relay_counters() -> Arc<RelayCounters> {
    let mailbox_depth = (0..3).map(|_| Cell::default()).collect();
    Arc::new(RelayCounters { mailbox_depth, ..RelayCounters::default() })
}

/// The text of a POST.
pub fn post(target: &str, headers: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: node\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Waits for what must come true.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < TIMEOUT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn wait_for(waker: &Waker) {
    let mut fds = [PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, 20u16).unwrap();
    waker.clear();
}

fn start_shard(number: usize, kind: Shard, admin: Arc<Waker>, log: Arc<Mutex<Vec<(usize, String)>>>) -> ShardHandle {
    let waker = Waker::new().unwrap();
    let (commands, mut inbox) = mailbox(16, waker.clone());
    let counters = Arc::new(ShardCounters::default());
    let ours = counters.clone();
    let run = move || {
        ours.connections.set(3);
        loop {
            while let Some(command) = inbox.pop() {
                let text = format!("{command:?}");
                let name = text.split(' ').next().unwrap_or_default().to_owned();
                log.lock().unwrap().push((number, name));
                match command {
                    Command::Stop if kind == Shard::Sore => return ShardExit::Failed(String::from("it hurts")),
                    Command::Stop => return ShardExit::Stopped,
                    command => obey(number, kind, command, &ours),
                }
            }
            waker.will_sleep();
            if inbox.is_empty() {
                wait_for(&waker);
            }
            waker.stay_awake();
        }
    };
    ShardHandle::start(format!("shard-{number}"), commands, counters, admin, run).unwrap()
}

fn obey(number: usize, kind: Shard, command: Command, counters: &ShardCounters) {
    match command {
        Command::Drain { .. } if kind == Shard::Fragile => panic!("this shard is fragile"),
        Command::Drain { .. } if kind != Shard::Clinging => counters.connections.set(0),
        Command::Refuse | Command::Resume | Command::Stop | Command::Options(_) | Command::Drain { .. } => {}
        Command::Rooms { limit, reply } => {
            let room = |name: &str, publications| RoomInfo { room: name.to_owned(), members: 2, publications };
            let mut rooms = vec![room("lobby", 9), room(&format!("shard-{number}"), 1)];
            rooms.truncate(limit);
            reply(rooms);
        }
        Command::Connections { by_outbox, limit, reply } => {
            let info = |index: usize| ConnectionInfo {
                id: format!("{NODE:08x}{number:02x}{index:06x}00000001"),
                state: "open",
                dialect: "native",
                rooms: 1,
                outbox_bytes: if by_outbox { 100 * index + number } else { 0 },
                peer: String::from("127.0.0.1:5000"),
            };
            reply((0..3).map(info).rev().take(limit).collect());
        }
        Command::Close { id, reply } => reply(id.index == 1),
    }
}

/// A shard's end of the real relay.
pub struct Subscriber {
    port: Port,
    waker: Arc<Waker>,
}

impl Subscriber {
    pub fn join(&mut self, room: &str) {
        assert!(self.port.ask(ToRelay::Subscribe(room.into())).is_ok());
        self.port.flush(Instant::now());
        assert!(matches!(self.next(), ToShard::Joined(_)));
    }

    pub fn next(&mut self) -> ToShard {
        let began = Instant::now();
        loop {
            self.waker.will_sleep();
            if let Some(item) = self.port.from_relay.pop() {
                return item;
            }
            assert!(began.elapsed() < TIMEOUT, "the relay said nothing");
            wait_for(&self.waker);
        }
    }
}

/// One HTTP connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Client {
    pub fn say(&mut self, text: impl AsRef<[u8]>) {
        // The node may have answered and closed before it heard all.
        let _ = self.reader.get_mut().write_all(text.as_ref());
    }

    pub fn shut(&mut self) {
        self.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub fn hear(&mut self) -> Answer {
        self.try_hear().expect("the node closed without an answer")
    }

    /// The answer to HEAD: its length is that of a body that does not come.
    pub fn hear_head(&mut self) -> Answer {
        self.next_head().expect("the node closed without an answer")
    }

    /// `None` where the node closed.
    pub fn try_hear(&mut self) -> Option<Answer> {
        let mut answer = self.next_head()?;
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        self.reader.by_ref().take(length as u64).read_to_string(&mut answer.body).unwrap();
        Some(answer)
    }

    fn next_head(&mut self) -> Option<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1)?.parse().unwrap();
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Answer { status, headers, body: String::new() })
    }

    /// Whether nothing but the end comes.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).is_err() || rest.is_empty()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.reader.read_line(&mut line).unwrap_or(0);
        (bytes > 0).then(|| line.trim_end().to_owned())
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| seen == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status and error code; every error must also say what to do.
    pub fn error(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{self:?}");
        (self.status, json["error"]["code"].as_str().unwrap().to_owned())
    }
}
