//! What each shard and the relay count, for control to read.
//!
//! Every cell has one writer at a time (a plain load and store, no locked instruction) and any reader. A shard's is its thread;
//! the relay's is its thread or, on the local bus, the thread that holds the relay's lock. Values are read one by one: a snapshot is not a
//! transaction.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::close::{CloseReason, Refusal};
use crate::model::GapReason;

/// A number that has one writer at a time.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds; only its writer may.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts; only its writer may.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets; only its writer may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Raises to at least `n`; only the owning thread may.
    pub fn raise(&self, n: u64) {
        if n > self.value() {
            self.set(n);
        }
    }

    /// Reads, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// When a thread last showed that it is alive. It is not asked for, so that no thread is woken to answer.
#[derive(Debug, Default)]
pub struct SignOfLife {
    /// Monotonic ns; 0 before the first.
    shown_ns: Cell,
}

impl SignOfLife {
    /// Shows it; only its writer may.
    pub fn show(&self, mono_ns: u64) {
        self.shown_ns.set(mono_ns);
    }

    /// How long ago it was last shown; `None` where it never was.
    pub fn silence(&self, mono_ns: u64) -> Option<Duration> {
        let shown_ns = self.shown_ns.value();
        (shown_ns != 0).then(|| Duration::from_nanos(mono_ns.saturating_sub(shown_ns)))
    }
}

/// Upper bounds of the histograms' buckets in ns: 0.1 ms to 10 s; one more bucket is above.
pub const BUCKETS_NS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// A histogram over [`BUCKETS_NS`] that one thread writes.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one is above every bound.
    pub buckets: [Cell; BUCKETS_NS.len() + 1],
    /// Sum of the values in ns.
    pub sum_ns: Cell,
}

impl Histogram {
    /// Records `n` values of `ns` each.
    pub fn record(&self, ns: u64, n: u64) {
        let bucket = BUCKETS_NS.partition_point(|bound| *bound < ns);
        self.buckets[bucket].add(n);
        self.sum_ns.add(ns.saturating_mul(n));
    }
}

/// The type label of `ws_messages_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MessageType {
    /// `join` in, `joined` out.
    Join,
    /// `leave` in, `left` out.
    Leave,
    /// Messages of rooms, raw ones too.
    Message,
    /// `ping` in, `pong` out, and the frames of those names.
    Ping,
    /// `ack` out.
    Ack,
    /// What was not understood in, `error` out.
    Error,
    /// `gap` out.
    Gap,
    /// `welcome` and `server-shutdown` out.
    Control,
}

impl MessageType {
    /// Every type, in order.
    pub const ALL: [Self; 8] =
        [Self::Join, Self::Leave, Self::Message, Self::Ping, Self::Ack, Self::Error, Self::Gap, Self::Control];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Message => "message",
            Self::Ping => "ping",
            Self::Ack => "ack",
            Self::Error => "error",
            Self::Gap => "gap",
            Self::Control => "control",
        }
    }
}

/// Why a message that was accepted or offered went no further: the labels of `ws_dropped_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// A client's message over its rate.
    RateLimited,
    /// A client's message into a room whose policy does not let it publish.
    Forbidden,
    /// A delivery that did not fit an outbox whose policy drops the oldest.
    Outbox,
    /// A delivery that did not fit a mailbox.
    Mailbox,
    /// A publish that the relay could not take.
    Unavailable,
    /// A backend's message over the limit.
    TooLarge,
    /// Lost between the broker and the relay.
    Broker,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 7] = [
        Self::RateLimited,
        Self::Forbidden,
        Self::Outbox,
        Self::Mailbox,
        Self::Unavailable,
        Self::TooLarge,
        Self::Broker,
    ];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RateLimited => "rate-limited",
            Self::Forbidden => "forbidden",
            Self::Outbox => "outbox",
            Self::Mailbox => "mailbox",
            Self::Unavailable => "unavailable",
            Self::TooLarge => "too-large",
            Self::Broker => "broker",
        }
    }
}

/// What one shard counts.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Open connections (upgraded and not yet closed).
    pub connections: Cell,
    /// Slab entries in use, handshakes included.
    pub sockets: Cell,
    /// Rooms with a member, or with a join that waits for the broker.
    pub rooms: Cell,
    /// Messages from clients, by [`MessageType`].
    pub messages_in: [Cell; MessageType::ALL.len()],
    /// Messages to clients, by [`MessageType`].
    pub messages_out: [Cell; MessageType::ALL.len()],
    /// Octets read from clients.
    pub bytes_in: Cell,
    /// Octets handed to the kernel.
    pub bytes_out: Cell,
    /// Accepted sockets.
    pub accepted: Cell,
    /// Upgrades that were answered with 101.
    pub upgraded: Cell,
    /// Requests answered without an upgrade on purpose (`/health`, `/demo`).
    pub plain: Cell,
    /// Refused upgrades, by [`Refusal`].
    pub refused: [Cell; Refusal::ALL.len()],
    /// Closed connections, by [`CloseReason`].
    pub closed: [Cell; CloseReason::ALL.len()],
    /// Dropped messages, by [`DropReason`].
    pub dropped: [Cell; DropReason::ALL.len()],
    /// Gaps told to connections, by [`GapReason`].
    pub gaps: [Cell; GapReason::ALL.len()],
    /// Upgrades with `?attempt=N`, N > 0.
    pub reconnects: Cell,
    /// Bytes that all outboxes pin.
    pub outbox_bytes: Cell,
    /// Bytes of the largest outbox, as of the last whole sweep.
    pub outbox_max_bytes: Cell,
    /// Bytes that all unfinished messages take.
    pub unfinished_bytes: Cell,
    /// Longest turn of the loop, with how late it began, as of the last second, in ns.
    pub loop_lag_ns: Cell,
    /// Shown at the end of every turn.
    pub turning: SignOfLife,
    /// From a message's last octet read to the end of its handling.
    pub message_duration: Histogram,
    /// From the publisher's time to the last local send.
    pub publish_delivery: Histogram,
    /// From accept to 101.
    pub handshake_duration: Histogram,
    /// 1 while the shard's driver is io_uring.
    pub uring: Cell,
}

/// What the relay counts.
#[derive(Debug, Default)]
pub struct RelayCounters {
    /// 1 while the broker is connected; always 1 on the local bus.
    pub connected: Cell,
    /// 1 once the broker was first reached.
    pub was_connected: Cell,
    /// Rooms subscribed on this node.
    pub subscriptions: Cell,
    /// Round trip of the last fence in ns.
    pub rtt_ns: Cell,
    /// Publications received.
    pub messages_in: Cell,
    /// Publications sent.
    pub messages_out: Cell,
    /// Dropped, by [`DropReason`].
    pub dropped: [Cell; DropReason::ALL.len()],
    /// Items waiting in each shard's mailbox.
    pub mailbox_depth: Vec<Cell>,
}
