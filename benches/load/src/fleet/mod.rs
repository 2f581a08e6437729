//! Many client connections on one epoll: dialled, upgraded, greeted, joined, read and answered. Driven by a worker's loop
//! through [`Fleet::turn`]; what is said on the way to being ready is in `handshake`, what is done with what is heard then the
//! [`Ear`]'s.
//!
//! ```text
//! Resting ─dial→ Dialling ─writable→ Upgrading ─101→ Greeting ─greeted→ Joining ─joined→ Ready
//!    ▲                                   (plain protocols skip the upgrade)               │
//!    └───────────── retry after a back-off ◄────────── ended, cut, refused ◄──────────────┘
//! ```
//!
//! Invariants: a connection that is `Resting` has no socket; answers to what one read brought leave in one send.

mod handshake;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;

use crate::bins::Bins;
use crate::dial::{Dialer, source};
use crate::lines::Lines;
use crate::protocol::{Connected, Plan};
use crate::sys::{self, Epoll, Watch};

/// The token of the worker's commands among the connections' numbers.
const COMMANDS: u64 = u64::MAX;
const READ_BYTES: usize = 256 * 1024;
const EVENTS: usize = 1024;

/// What is done with what connections hear. `say` takes what they answer.
pub(crate) trait Ear {
    /// A message of a connection that is ready (plain protocols: whole lines).
    fn heard(&mut self, client: u32, message: &[u8], now_ns: u64, lines: &Lines, say: &mut Vec<u8>);
    /// A connection that was ready is no more.
    fn ended(&mut self, client: u32);
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Stage {
    #[default]
    Closed,
    Dialling,
    Upgrading,
    Greeting,
    Joining,
    Ready,
}

#[derive(Default)]
struct Client {
    stream: Option<TcpStream>,
    stage: Stage,
    attempts: u32,
    since_ns: u64,
    /// The start of a frame whose end is not here.
    stash: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
}

/// The connections of one worker.
pub(crate) struct Fleet {
    plan: Plan,
    lines: Lines,
    epoll: Epoll,
    dialer: Dialer,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    say: Vec<u8>,
    ready: u32,
    cut_ns: Option<u64>,
    first_ns: u64,
    last_ns: u64,
    upgrade: Bins,
    restored: Bins,
    failures: BTreeMap<String, u64>,
    ended: BTreeMap<String, u64>,
    pings: u64,
    bytes_in: u64,
    reads: u64,
}

impl Fleet {
    /// Not yet dialled.
    pub(crate) fn new(plan: Plan) -> io::Result<Self> {
        Ok(Self {
            lines: Lines::new(&plan),
            epoll: Epoll::new(EVENTS)?,
            dialer: Dialer::new(plan.window, plan.connect_rate, u64::from(plan.run) << 20 | u64::from(plan.first)),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            buffer: vec![0; READ_BYTES],
            say: Vec::new(),
            ready: 0,
            cut_ns: None,
            first_ns: 0,
            last_ns: 0,
            upgrade: Bins::new(),
            restored: Bins::new(),
            failures: BTreeMap::new(),
            ended: BTreeMap::new(),
            pings: 0,
            bytes_in: 0,
            reads: 0,
            plan,
        })
    }

    /// What the connections say and listen for.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Watches the worker's commands too: [`Self::turn`] tells when some are there.
    pub(crate) fn watch_commands(&self, commands: &impl std::os::fd::AsRawFd) -> io::Result<()> {
        self.epoll.add(commands, Watch::Read, COMMANDS)
    }

    /// Begins to dial.
    pub(crate) fn connect(&mut self, now_ns: u64) {
        (self.first_ns, self.last_ns) = (now_ns, now_ns);
        self.dialer.begin(self.plan.clients, now_ns);
    }

    /// Connections that are ready.
    pub(crate) fn open(&self) -> u32 {
        self.ready
    }

    /// Whether all are.
    pub(crate) fn complete(&self) -> bool {
        self.ready == self.plan.clients
    }

    /// How connecting went since the last [`Self::connect`] or [`Self::cut`].
    pub(crate) fn connected(&mut self) -> Connected {
        let connected = Connected {
            open: self.ready,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            upgrade: self.upgrade.recorded(),
            restored: self.restored.recorded(),
            failures: std::mem::take(&mut self.failures),
        };
        self.upgrade.clear();
        self.restored.clear();
        connected
    }

    /// Ended connections by how, pings answered, octets and reads, since the last time.
    pub(crate) fn tally(&mut self) -> (BTreeMap<String, u64>, [u64; 3]) {
        let counts = [self.pings, self.bytes_in, self.reads];
        (self.pings, self.bytes_in, self.reads) = (0, 0, 0);
        (std::mem::take(&mut self.ended), counts)
    }

    /// What the first connection that is not ready waits for: a hint at a template that the server never answers.
    pub(crate) fn waits_for(&self) -> Option<&'static str> {
        self.clients.iter().find_map(|client| match client.stage {
            Stage::Upgrading => Some("the answer to the upgrade request"),
            Stage::Greeting => Some("what --greeted says"),
            Stage::Joining => Some("what --joined says"),
            Stage::Closed | Stage::Dialling | Stage::Ready => None,
        })
    }

    /// Why no connection could be made, if that is so.
    pub(crate) fn failure(&self) -> Option<String> {
        let (what, count) = self.failures.first_key_value()?;
        Some(format!("{} connections to {} failed: {what}", count, self.plan.target.address))
    }

    /// One turn: dials what is due, waits up to `timeout_ns`, reads and answers. True when commands are waiting.
    pub(crate) fn turn(&mut self, ear: &mut impl Ear, timeout_ns: u64) -> io::Result<bool> {
        let now_ns = sys::now_ns();
        while let Some(client) = self.dialer.due(now_ns) {
            self.dial(client, ear);
        }
        let wait_ns = self.dialer.wait_ns(now_ns).unwrap_or(u64::MAX).min(timeout_ns);
        let count = self.epoll.wait(wait_ns)?;
        let mut commands = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        for index in 0..count {
            let ready = self.epoll.ready(index);
            if ready.token == COMMANDS {
                commands = true;
            } else if let Err(error) = self.step(ready.token as u32, ready.writable, &mut buffer, ear) {
                self.end(ready.token as u32, &summary(&error), ear);
            }
        }
        self.buffer = buffer;
        Ok(commands)
    }

    fn dial(&mut self, client: u32, ear: &mut impl Ear) {
        let number = self.plan.first + client;
        let dialled = sys::dial(source(number), self.plan.target.address, self.plan.receive_buffer);
        let entry = &mut self.clients[client as usize];
        (entry.stage, entry.since_ns) = (Stage::Dialling, sys::now_ns());
        let watched = dialled.and_then(|stream| {
            self.epoll.add(&stream, Watch::ReadWrite, u64::from(client))?;
            entry.stream = Some(stream);
            Ok(())
        });
        if let Err(error) = watched {
            self.end(client, &summary(&error), ear);
        }
    }

    fn step(&mut self, client: u32, writable: bool, buffer: &mut [u8], ear: &mut impl Ear) -> io::Result<()> {
        let entry = &mut self.clients[client as usize];
        let Some(stream) = &entry.stream else { return Ok(()) };
        if entry.stage == Stage::Dialling {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            return if writable { self.established(client) } else { Ok(()) };
        }
        if writable && !entry.unsent.is_empty() {
            let unsent = std::mem::take(&mut entry.unsent);
            self.epoll.change(stream, Watch::Read, u64::from(client))?;
            self.send(client, &unsent)?;
        }
        self.read(client, buffer, ear)
    }

    /// Sends, and keeps what the socket does not take.
    pub(crate) fn send(&mut self, client: u32, bytes: &[u8]) -> io::Result<()> {
        let entry = &mut self.clients[client as usize];
        let Some(stream) = &entry.stream else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        if !entry.unsent.is_empty() {
            entry.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = sys::send(stream, bytes)?.unwrap_or(0);
        if sent < bytes.len() {
            entry.unsent.extend_from_slice(&bytes[sent..]);
            self.epoll.change(stream, Watch::ReadWrite, u64::from(client))?;
        }
        Ok(())
    }

    /// Stops reading on a connection; its peer is not told.
    pub(crate) fn stall(&mut self, client: u32) -> io::Result<()> {
        match &self.clients[client as usize].stream {
            Some(stream) => self.epoll.change(stream, Watch::Nothing, u64::from(client)),
            None => Ok(()),
        }
    }

    /// Closes all connections at once; they come back after their back-offs.
    pub(crate) fn cut(&mut self, ear: &mut impl Ear, now_ns: u64) {
        (self.cut_ns, self.first_ns) = (Some(now_ns), now_ns);
        for client in 0..self.plan.clients {
            self.hang_up(client, ear);
        }
    }

    /// Closes one connection, which comes back after a back-off.
    pub(crate) fn hang_up(&mut self, client: u32, ear: &mut impl Ear) {
        if self.clients[client as usize].stage == Stage::Ready {
            self.release(client, ear);
            self.dialer.retry(client, 0, sys::now_ns());
        }
    }

    fn release(&mut self, client: u32, ear: &mut impl Ear) {
        let entry = &mut self.clients[client as usize];
        let stage = std::mem::replace(&mut entry.stage, Stage::Closed);
        entry.stream = None;
        entry.stash = Vec::new();
        entry.unsent = Vec::new();
        if stage == Stage::Ready {
            self.ready -= 1;
            ear.ended(client);
        } else {
            self.dialer.ended();
        }
    }

    /// A connection has ended, not by our will.
    fn end(&mut self, client: u32, why: &str, ear: &mut impl Ear) {
        let entry = &mut self.clients[client as usize];
        let book = if entry.stage == Stage::Ready { &mut self.ended } else { &mut self.failures };
        *book.entry(String::from(why)).or_insert(0) += 1;
        entry.attempts += 1;
        let attempts = entry.attempts;
        self.release(client, ear);
        if self.plan.retry {
            self.dialer.retry(client, attempts, sys::now_ns());
        }
    }
}

/// An error in few words that do not depend on the connection, so that equal ones count together.
fn summary(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => String::from("closed without a close frame"),
        io::ErrorKind::ConnectionRefused => String::from("connection refused: nothing listens there"),
        io::ErrorKind::ConnectionReset => String::from("connection reset"),
        _ => error.to_string(),
    }
}
