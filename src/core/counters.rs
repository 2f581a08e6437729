//! What each shard and the relay count, for the admin side to read. A metric is one entry of the tables at the end: its cell, its family
//! and its help text.
//!
//! Every cell has one writer at a time (a plain load and store, no locked instruction) and any reader. A shard's is its thread;
//! the relay's is its thread or, on the local bus, the thread that holds the relay's lock. Values are read one by one: a snapshot is not a
//! transaction.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::auth::Reason;
use crate::close::{CloseReason, Refusal};
use crate::metric::{counter, gauge, histogram, metrics};
use crate::model::GapReason;

/// A number that has one writer at a time.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// A cell that holds `n`.
    pub fn of(n: u64) -> Self {
        Self(AtomicU64::new(n))
    }

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
    /// `auth` in, `authenticated` and `token-expiring` out.
    Auth,
    /// `welcome` and `server-shutdown` out.
    Control,
}

impl MessageType {
    /// Every type, in order.
    pub const ALL: [Self; 9] = [
        Self::Join,
        Self::Leave,
        Self::Message,
        Self::Ping,
        Self::Ack,
        Self::Error,
        Self::Gap,
        Self::Auth,
        Self::Control,
    ];

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
            Self::Auth => "auth",
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
    /// A message over the limit, the node's or the broker's.
    TooLarge,
    /// Lost between the broker and the relay.
    Broker,
    /// A backend's message that it called JSON and that is none.
    BadMessage,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 8] = [
        Self::RateLimited,
        Self::Forbidden,
        Self::Outbox,
        Self::Mailbox,
        Self::Unavailable,
        Self::TooLarge,
        Self::Broker,
        Self::BadMessage,
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
            Self::BadMessage => "bad-message",
        }
    }
}

/// The entry of [`ShardCounters::tokens`] for tokens that were known. The first is for those that were verified, between them are
/// those of the reasons.
pub const TOKEN_CACHED: usize = 1 + Reason::ALL.len();

/// The label of an entry of [`ShardCounters::tokens`].
fn token_result(n: usize) -> &'static str {
    match n {
        0 => "ok",
        TOKEN_CACHED => "cached",
        reason => Reason::ALL[reason - 1].name(),
    }
}

metrics! {
    /// What one shard counts.
    #[derive(Debug, Default)]
    pub struct ShardCounters {
        /// Open WebSocket connections.
        connections: Cell => gauge("ws_connections_active"),
            gauge("ws_connected_clients").help("Open WebSocket connections; the same as ws_connections_active."),
            gauge("ws_shard_connections").help("Open WebSocket connections of one shard.").each_shard();
        /// Sockets of the public port in use, unfinished handshakes included.
        sockets: Cell => gauge("ws_sockets");
        /// Rooms with a member or a join that waits for the broker, added up over the shards.
        rooms: Cell => gauge("ws_rooms_active");
        /// Messages from (inbound) and to (outbound) clients by type; of the type message outbound those that the kernel took.
        messages_in: [Cell; MessageType::ALL.len()] =>
            counter("ws_messages_total").with("direction", "inbound").by("type", |n| MessageType::ALL[n].label());
        /// Messages to clients, by [`MessageType`].
        messages_out: [Cell; MessageType::ALL.len()] =>
            counter("ws_messages_total").with("direction", "outbound").by("type", |n| MessageType::ALL[n].label());
        /// Bytes read from (inbound) and handed to the kernel for (outbound) clients.
        bytes_in: Cell => counter("ws_bytes_total").with("direction", "inbound");
        /// Bytes handed to the kernel.
        bytes_out: Cell => counter("ws_bytes_total").with("direction", "outbound");
        /// Sockets accepted on the public port.
        accepted: Cell => counter("ws_accepted_total");
        /// Ended handshakes by result: upgraded, plain (a page, /health), or the refusal.
        upgraded: Cell => counter("ws_handshakes_total").with("result", "upgraded");
        /// Requests answered without an upgrade on purpose (`/health`, `/demo`).
        plain: Cell => counter("ws_handshakes_total").with("result", "plain");
        /// Refused upgrades, by [`Refusal`].
        refused: [Cell; Refusal::ALL.len()] =>
            counter("ws_handshakes_total").by("result", |n| Refusal::ALL[n].label());
        /// Tokens that were looked at, by result: ok, cached (verified before), or the reason of the refusal.
        tokens: [Cell; TOKEN_CACHED + 1] => counter("ws_auth_total").by("result", token_result);
        /// Verified tokens that are remembered.
        cached_tokens: Cell => gauge("ws_auth_cache_entries");
        /// Bytes of memory that the remembered tokens take.
        cached_token_bytes: Cell => gauge("ws_auth_cache_bytes");
        /// Closed connections by reason.
        closed: [Cell; CloseReason::ALL.len()] =>
            counter("ws_closes_total").by("reason", |n| CloseReason::ALL[n].label());
        /// Messages that went no further, by reason.
        dropped: [Cell; DropReason::ALL.len()] =>
            counter("ws_dropped_total").by("reason", |n| DropReason::ALL[n].label());
        /// Gaps told to clients, by reason.
        gaps: [Cell; GapReason::ALL.len()] => counter("ws_gaps_total").by("reason", |n| GapReason::ALL[n].label());
        /// Upgrades of clients that said they connect again (?attempt=N, N > 0).
        reconnects: Cell => counter("ws_reconnects_total");
        /// Bytes of memory that the outboxes of all clients take; a buffer that several wait for is counted once for each shard.
        outbox_bytes: Cell => gauge("ws_outbox_bytes");
        /// Bytes that wait in outboxes to be sent; what several clients wait for is counted for each of them.
        outbox_unread_bytes: Cell => gauge("ws_outbox_unread_bytes");
        /// Bytes that the largest outbox counts against its cap, as of the last whole sweep.
        outbox_max_bytes: Cell =>
            gauge("ws_outbox_max_bytes").help("Bytes that the largest outbox of a client counts against limits.outbox_bytes.").largest();
        /// Bytes that the unfinished messages of all clients take.
        unfinished_bytes: Cell => gauge("ws_unfinished_bytes");
        /// Longest turn of a shard's loop in the last minute, with how late it began, in seconds.
        loop_lag_ns: Cell => gauge("ws_loop_lag_seconds").seconds().each_shard();
        /// Shown at the end of every turn.
        turning: SignOfLife;
        /// From the last byte read of a client's message to the end of its handling, in seconds.
        message_duration: Histogram => histogram("ws_message_duration_seconds");
        /// From the publisher's time until every member on the shard was sent the message or has it in its outbox, in seconds.
        publish_delivery: Histogram => histogram("ws_publish_delivery_seconds");
        /// How long messages to slow readers waited in an outbox until the kernel took them, in seconds.
        outbox_wait: Histogram => histogram("ws_outbox_wait_seconds");
        /// From the arrival of a connection, with what it waited to be accepted, to the answer 101, in seconds.
        handshake_duration: Histogram => histogram("ws_handshake_duration_seconds");
        /// 1 while the shard's driver is io_uring.
        uring: Cell;
    }
}

metrics! {
    /// What the relay counts.
    #[derive(Debug, Default)]
    pub struct RelayCounters {
        /// 1 while the broker is connected; always 1 on the local bus.
        connected: Cell => gauge("ws_relay_connected");
        /// 1 once the broker was first reached.
        was_connected: Cell;
        /// Rooms that this node subscribed.
        subscriptions: Cell => gauge("ws_relay_subscriptions");
        /// Bytes of the largest message that can be published: the smaller of limits.message_bytes and what the broker takes.
        message_bytes: Cell => gauge("ws_relay_message_bytes");
        /// Round trip through the broker, in seconds; while the broker does not answer, how long it has not.
        rtt_ns: Cell => gauge("ws_relay_rtt_seconds").seconds();
        /// Publications received from (inbound) and sent to (outbound) the broker.
        messages_in: Cell => counter("ws_relay_messages_total").with("direction", "inbound");
        /// Publications sent to the broker.
        messages_out: Cell => counter("ws_relay_messages_total").with("direction", "outbound");
        /// Messages that the relay dropped, by [`DropReason`]; a part of the shards' family.
        dropped: [Cell; DropReason::ALL.len()] =>
            counter("ws_dropped_total").by("reason", |n| DropReason::ALL[n].label());
        /// Nodes whose heartbeats this one hears, itself included; the admin thread writes it.
        nodes_alive: Cell => gauge("ws_nodes_alive");
        /// 1 while the broker forbids the node channel to this node: it knows no other, and all else goes on.
        node_channel_forbidden: Cell => gauge("ws_node_channel_forbidden");
        /// Shown at the end of every turn of the relay's thread, which is woken once a second at least.
        turning: SignOfLife;
        /// Items that wait in a shard's mailbox.
        mailbox_depth: Vec<Cell> => gauge("ws_relay_mailbox_depth").by_number("shard");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_a_counter_is_that_of_the_reason_it_is_indexed_by() {
        assert!(MessageType::ALL.iter().enumerate().all(|(number, kind)| *kind as usize == number));
        assert!(DropReason::ALL.iter().enumerate().all(|(number, reason)| *reason as usize == number));
        assert!(GapReason::ALL.iter().enumerate().all(|(number, reason)| *reason as usize == number));
        assert!(Reason::ALL.iter().enumerate().all(|(number, reason)| *reason as usize == number));
    }
}
