//! The protocol between the process that was started and its workers: one JSON value a line, over the workers' standard
//! input and output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bins::Recorded;
use crate::ledger::Range;
use crate::scenario::Scenario;
use crate::target::Target;

/// What a worker is to do: the first line that it reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Tells this run's stamps from those of others.
    pub(crate) run: u32,
    pub(crate) role: Role,
    pub(crate) target: Target,
    pub(crate) scenario: Scenario,
    /// Lines for the upgrade request.
    pub(crate) headers: Vec<String>,
    /// Rooms of all workers together; connection `i` is in room `i % rooms`.
    pub(crate) rooms: u32,
    /// Template of the rooms' names.
    pub(crate) room_name: String,
    /// Octets of each content.
    pub(crate) size: usize,
    /// Number of this worker's first connection among all.
    pub(crate) first: u32,
    /// This worker's connections.
    pub(crate) clients: u32,
    /// Handshakes under way at a time.
    pub(crate) window: u32,
    /// Dials a second.
    pub(crate) connect_rate: Option<f64>,
    /// Octets of the sockets' receive buffers.
    pub(crate) receive_buffer: Option<i32>,
    /// Lost and refused connections are dialled again.
    pub(crate) retry: bool,
}

/// The part that a worker plays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Joins rooms and listens. Of every `stride`th publication it notes when its last member had it.
    Listen { stride: u64 },
    /// Sends to itself: `pipeline` messages under way on each connection, or `rate` a second over all.
    Echo { pipeline: u32, rate: Option<f64> },
    /// Publishes; what its own connections are members of, they hear, and take for acknowledgements.
    Publish,
    /// Only connects.
    Storm,
    /// Holds connections to itself, to learn what the load side costs the kernel.
    Calibrate,
}

/// What a worker is told to do next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Connect all; answered by [`Event::Connected`].
    Connect,
    /// Forget what was counted so far, after so many publications; answered by [`Event::Ready`].
    Begin { published: u64 },
    /// Send for so long, from a moment of the monotonic clock on; answered by [`Event::Sent`].
    Send { at_ns: u64, seconds: f64, pace: Pace },
    /// Do not read on the first connections any more; answered by [`Event::Ready`].
    Stall { clients: u32 },
    /// Close all at this moment and come back; answered by [`Event::Connected`].
    Cut { at_ns: u64 },
    /// Close and re-open so many connections a second from now on.
    Churn { rate: f64 },
    /// Tell what was counted; `published` is the number of publications of the whole run, `refused` are those since
    /// [`Command::Begin`], counted from 0, that the server refused. Answered by [`Event::Report`].
    Report { published: u64, refused: Vec<Range> },
}

/// How a publisher paces itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// So many a second, whatever happens.
    Rate(f64),
    /// As fast as the server takes them, with so many not yet acknowledged.
    Window(u64),
}

/// What a worker tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// Several times a second; and while connecting, what a connection that is not ready waits for.
    Progress { open: u32, heard: u64, refused: u64, waits_for: Option<String> },
    /// All connections are open and joined; or, of a storm, restored.
    Connected(Box<Connected>),
    /// The last command is carried out.
    Ready,
    /// All has been sent, and its answers are in.
    Sent { published: u64 },
    /// See [`Command::Report`].
    Report(Box<Report>),
    /// It cannot go on: one line for the user.
    Failed(String),
}

/// How connecting went.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Connected {
    pub(crate) open: u32,
    /// First dial and last connection ready, on the monotonic clock.
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// From dial to 101.
    pub(crate) upgrade: Recorded,
    /// From the cut to being ready again.
    pub(crate) restored: Recorded,
    /// Attempts that failed, by what was told.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// What a worker counted since [`Command::Begin`].
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    /// From the intended moment of sending to delivery.
    pub(crate) latency: Recorded,
    /// From the intended moment of sending to sending.
    pub(crate) lateness: Recorded,
    /// By sampled publication: latency of the last member of this worker, 0 where none had it.
    pub(crate) lasts: Vec<u64>,
    /// Number of the first sampled publication in `lasts`.
    pub(crate) first_sample: u64,
    /// First intended moment and last delivery, on the monotonic clock.
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// CPU and time that this worker spent since [`Command::Begin`].
    pub(crate) cpu_ns: u64,
    pub(crate) wall_ns: u64,
    /// Publications that the server refused by their number, counted from 0 over the whole run.
    pub(crate) refused: Vec<Range>,
    /// What the server said with the first refusal.
    pub(crate) refusal: Option<String>,
    /// Connections that ended, by how.
    pub(crate) ended: BTreeMap<String, u64>,
}

/// Plain sums.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) delivered: u64,
    /// Sent, not refused, and not delivered.
    pub(crate) lost: u64,
    pub(crate) duplicate: u64,
    pub(crate) reordered: u64,
    /// Deliveries of another room than the connection's, or of an echo that is not its own.
    pub(crate) misdirected: u64,
    /// Gaps that the server told.
    pub(crate) gaps: u64,
    pub(crate) pings: u64,
    pub(crate) bytes_in: u64,
    pub(crate) reads: u64,
}

impl Counts {
    /// Whether every message came once, in order, and where it belongs.
    pub(crate) fn exact(&self) -> bool {
        self.lost + self.duplicate + self.reordered + self.misdirected + self.refused == 0
    }

    /// Adds what another worker counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicate += other.duplicate;
        self.reordered += other.reordered;
        self.misdirected += other.misdirected;
        self.gaps += other.gaps;
        self.pings += other.pings;
        self.bytes_in += other.bytes_in;
        self.reads += other.reads;
    }
}
