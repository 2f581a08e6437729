//! Every bound with its unit and its reason; the relations between them are asserted at compile time.
//!
//! [`Limits`] is the table of those that an operator may change: an entry for each, whose default is a constant above it.

use std::time::Duration;

use crate::setting::{GIB, KIB, MIB, MINUTE, MS, ZERO, auto_or, integer, off_or, rare, settings, size, time};

/// Bytes of a request head; more is 431.
pub const HEAD_BYTES: usize = 8 * 1024;
/// Header fields of a request; more is 431.
pub const HEAD_FIELDS: usize = 64;
/// Bytes of a request target; more is 414.
pub const TARGET_BYTES: usize = 4 * 1024;
/// Bytes of a PROXY protocol header in front of a request head: addresses, and what balancers add (certificates, names).
pub const PROXY_HEADER_BYTES: usize = 4 * 1024;
/// From accept to the end of the request head.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Sockets of one shard that are not upgraded: unfinished handshakes, and answered requests whose peer has not closed yet. One more, and
/// the oldest gives way.
pub const HANDSHAKES_PER_SHARD: usize = 4096;
/// Requests a second of one address on one shard that are mistakes; each takes some 0.1 ms of the shard.
pub const MISTAKES_PER_ADDRESS: u32 = 50;
/// Between two heartbeats of a node to the others.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// A node that misses so many heartbeats is dead.
pub const HEARTBEATS_MISSED: u32 = 3;
/// How long a dead node stays in the table of nodes.
pub const DEAD_NODE_KEPT: Duration = Duration::from_secs(600);
/// Other nodes that a node knows, dead ones included; further ones are left out.
pub const NODES_KNOWN: usize = 1024;
/// Bytes of one message on the node channel; a larger one is not read.
pub const NODE_MESSAGE_BYTES: usize = 64 * 1024;
/// Messages on the node channel that wait to be sent; with one more, the oldest is dropped.
pub const NODE_MESSAGES: usize = 1024;
/// Bytes of one message from a client.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes of one message under the conformance profile: Autobahn's group 9 sends 16 MiB.
pub const CONFORMANCE_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// From a message's first octet to its last.
pub const MESSAGE_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes that one connection's outbox may count: octets unread, and a little for each piece of its queue.
pub const OUTBOX_BYTES: usize = 256 * 1024;
/// Share of the memory limit that all outboxes together may take, in percent.
pub const OUTBOX_MEMORY_PERCENT: u64 = 10;
/// Share of the memory limit that all unfinished messages together may take, in percent.
pub const UNFINISHED_MEMORY_PERCENT: u64 = 5;
/// Memory that these are shares of where the host does not tell how much there is, in bytes: a small host's.
pub const ASSUMED_MEMORY_BYTES: u64 = 1 << 30;
/// Age of the oldest frame in an outbox at which its reader counts as stalled.
pub const WRITE_STALL: Duration = Duration::from_secs(10);
/// Unsent bytes that the kernel takes for one connection (TCP_NOTSENT_LOWAT).
pub const NOTSENT_LOWAT_BYTES: u32 = 64 * 1024;
/// Bytes of one coalesced buffer of a fan-out.
pub const COALESCED_BYTES: usize = 32 * 1024;
/// Between two pings to a silent client.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
/// From a ping to the pong, or anything else that the client says.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// From our close frame to the client's.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two ticks of the sweep; a tenth of the slab each, so every entry is seen once a second.
pub const SWEEP_TICK: Duration = Duration::from_millis(100);
/// Ticks of the sweep that see the whole slab once.
pub const SWEEP_SLICES: u32 = 10;
/// Rooms that one connection may be a member of.
pub const ROOMS_PER_CONNECTION: usize = 128;
/// Rooms' own tokens that hold at the same time, of one connection.
pub const ROOM_TOKENS_PER_CONNECTION: usize = 128;
/// Share of the memory limit that all rooms together may take, in percent.
pub const ROOMS_MEMORY_PERCENT: u64 = 20;
/// Bytes of a room's name.
pub const ROOM_NAME_BYTES: usize = 200;

/// Bytes of a user's name.
pub const USER_NAME_BYTES: usize = 128;
/// Bytes of a `ref` that is a string.
pub const REF_BYTES: usize = 64;
/// Levels of arrays and objects in one another in JSON that is published. Parsers have limits of their own, from about this one up.
pub const JSON_LEVELS: usize = 128;
/// Messages a second from one connection.
pub const MESSAGE_RATE: u16 = 100;
/// Burst of messages from one connection, in seconds of its rate.
pub const MESSAGE_BURST_SECONDS: u16 = 2;
/// Bytes of a message that one credit of the message rate pays for: copying, checking or inflating these costs about as much as the rest of
/// what a message asks for.
pub const CREDIT_BYTES: usize = 4 * 1024;
/// What a byte counts of a compressed message's size where more were sent than came out: blocks that bring a table of codes and nothing
/// else take ten times as long to inflate as as many bytes of text.
pub const WASTED_BYTE_COST: usize = 4;
/// New connections a second for each shard.
pub const CONNECTION_RATE_PER_SHARD: u32 = 5_000;
/// What each client adds to the window of a drain: a hundred a second connect elsewhere, which any other node takes.
pub const DRAIN_WINDOW_PER_CLIENT: Duration = Duration::from_millis(10);
/// Shortest window of a drain that follows from the number of clients.
pub const DRAIN_WINDOW_MIN: Duration = Duration::from_secs(1);
/// Longest window of a drain that follows from the number of clients: what a service manager waits for.
pub const DRAIN_WINDOW_MAX: Duration = Duration::from_secs(30);
/// Window of a drain where standard error is a terminal: a person waits for its end.
pub const DRAIN_WINDOW_TERMINAL: Duration = Duration::from_secs(2);
/// Longest `reconnectAfter` that a drain tells a client.
pub const RECONNECT_AFTER: Duration = Duration::from_secs(5);
/// Longest `resyncAfter` that a gap tells a client.
pub const RESYNC_AFTER: Duration = Duration::from_secs(5);
/// Between a room's last leave on a node and its unsubscription, so that a reconnecting crowd finds it subscribed.
pub const LINGER: Duration = Duration::from_secs(5);
/// Deliveries that one shard's mailbox holds; more are dropped and reported as a gap.
pub const MAILBOX_MESSAGES: usize = 16 * 1024;
/// Bytes of a place in a shard's mailbox and of one in the relay's, together; what they hold is pinned beside.
pub const MAILBOX_ITEM_BYTES: usize = 192;
/// Bytes that the deliveries of one shard's mailbox may pin.
pub const MAILBOX_BYTES: usize = 64 * 1024 * 1024;
/// Room in a mailbox that deliveries never take: confirmations, gaps, acknowledgements.
pub const MAILBOX_RESERVE: usize = 4 * 1024;
/// Joins of one shard that the relay has asked of the broker, or whose answers the shard has not read: half of the reserve, so that
/// acknowledgements have the other.
pub const JOINS_OPEN: usize = MAILBOX_RESERVE / 2;
/// The same of all shards: what the broker confirms within [`FENCE_DEADLINE`] even where it is slow.
pub const JOINS_OPEN_TOTAL: usize = 8 * 1024;
/// Bytes that the requests of one port of the relay may pin before it has taken them.
pub const REQUEST_MAILBOX_BYTES: usize = 16 * 1024 * 1024;
/// Rooms of one `POST /v1/messages`: each costs an acknowledgement in the admin thread's mailbox.
pub const PUBLISH_ROOMS: usize = 100;
/// Connections of the admin port at a time.
pub const ADMIN_CONNECTIONS: usize = 256;
/// Of those, places that only `/live`, `/ready`, `/metrics` and connections without a request may take: probes find one while
/// every other place waits for the broker.
pub const ADMIN_PROBES: usize = 32;
/// Bytes of the publications that a shard's rooms may hold before its mailbox waits.
pub const FANOUT_BYTES: usize = 16 * 1024 * 1024;
/// Publications that wait for the broker on one node while it is away; more fail with `unavailable`.
pub const PUBLISH_QUEUE_MESSAGES: usize = 16 * 1024;
/// Bytes of those publications.
pub const PUBLISH_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// From the order to stop until the relay's thread ends, with what it could not publish by then counted as dropped.
pub const RELAY_STOP_DEADLINE: Duration = Duration::from_secs(2);
/// From a join to the fence that confirms it; then `unavailable`.
pub const FENCE_DEADLINE: Duration = Duration::from_secs(5);

/// How many times its payload a message may be as long where a dialect writes it in another way.
pub const EXPANSION: usize = 2;

/// Bytes of the longest body that the admin port takes, that of `POST /v1/messages`: a message of `message_bytes`, and names with
/// their quotes, commas and escapes.
pub const fn admin_body_bytes(message_bytes: usize) -> usize {
    message_bytes.saturating_add(PUBLISH_ROOMS * (ROOM_NAME_BYTES + 16) + 1024)
}

/// The window of a drain of so many clients, where none is configured.
pub fn drain_window(clients: u64) -> Duration {
    let clients = u32::try_from(clients).unwrap_or(u32::MAX);
    DRAIN_WINDOW_PER_CLIENT.saturating_mul(clients).clamp(DRAIN_WINDOW_MIN, DRAIN_WINDOW_MAX)
}

const _: () = assert!(OUTBOX_BYTES >= 4 * MESSAGE_BYTES, "an outbox holds at least four messages");
const _: () = assert!(EXPANSION * COALESCED_BYTES <= OUTBOX_BYTES / 4, "one coalesced buffer must not fill an outbox");
const _: () = assert!(HEAD_BYTES > TARGET_BYTES, "a target fits its head");
const _: () = assert!(CLOSE_DEADLINE.as_millis() < DRAIN_WINDOW_MAX.as_millis(), "a close fits a drain");
const _: () =
    assert!(DRAIN_WINDOW_MIN.as_millis() < DRAIN_WINDOW_MAX.as_millis(), "the bounds of a window are in order");

settings! {
    /// The bounds that an operator may change: the section `[limits]`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Limits in "limits" {
        /// Bytes of a request's head; more is 431.
        head_bytes: usize = HEAD_BYTES, size(5 * KIB..=64 * KIB), rare();
        /// From accept to a complete request; later is 408.
        handshake_deadline: Duration = HANDSHAKE_DEADLINE, time(100 * MS..=MINUTE), rare();
        /// Sockets of one shard that are not upgraded: unfinished handshakes, and refused ones that the peer has not closed. One more,
        /// and the oldest gives way. One address may have a quarter. Lowered where the host has few file descriptors.
        handshakes_per_shard: usize = HANDSHAKES_PER_SHARD, integer(1..=65_536), rare().restart();
        /// Connections of one address on the node (of IPv6: of one /64); more get 429. Behind `proxies.trusted` the address is the
        /// client's.
        connections_per_address: Option<u32> = None, off_or(integer(1..=100_000_000)), rare();
        /// Requests a second of one address on one shard that are no valid HTTP; after more its connections are dropped unread for
        /// a moment. 0: no limit.
        mistakes_per_address: u32 = MISTAKES_PER_ADDRESS, integer(0..=1_000_000), rare();
        /// Bytes of one message; more is closed with 1009.
        message_bytes: usize = MESSAGE_BYTES, size(KIB..=64 * MIB), rare().restart();
        /// From a message's first octet to its last.
        message_deadline: Duration = MESSAGE_DEADLINE, time(100 * MS..=10 * MINUTE), rare();
        /// Bytes that one client may leave unread.
        outbox_bytes: usize = OUTBOX_BYTES, size(4 * KIB..=GIB), rare();
        /// Bytes of memory that all outboxes may take; what several clients wait for counts once for each shard.
        outbox_total_bytes: Option<u64> = None, auto_or("auto: 10 % of memory", size(4 * KIB..=1024 * GIB)), rare();
        /// Bytes of all clients' unfinished messages together.
        unfinished_total_bytes: Option<u64> = None, auto_or("auto: 5 % of memory", size(4 * KIB..=1024 * GIB)), rare();
        /// Age of the oldest unread frame.
        write_stall: Duration = WRITE_STALL, time(100 * MS..=10 * MINUTE), rare();
        /// From our close frame to the client's.
        close_deadline: Duration = CLOSE_DEADLINE, time(100 * MS..=MINUTE), rare();
        /// Rooms of one client.
        rooms_per_connection: usize = ROOMS_PER_CONNECTION, integer(1..=10_000), rare();
        /// Rooms of the node; a join of one more is refused with `room-limit`.
        rooms_total: Option<u64> = None, auto_or("auto: what 20 % of memory hold", integer(1..=100_000_000)), rare().restart();
        /// Messages that wait for one shard.
        mailbox_messages: usize = MAILBOX_MESSAGES, integer(1..=1_048_576), rare().restart();
        /// Time for the broker to confirm a room; later is `unavailable`.
        fence_deadline: Duration = FENCE_DEADLINE, time(10 * MS..=MINUTE), rare().restart();
        /// Time for which a room stays subscribed after its last member left; less where another room needs its place.
        linger: Duration = LINGER, time(ZERO..=10 * MINUTE), rare().restart();
    }
}
