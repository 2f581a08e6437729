//! The core of tidegate, a WebSocket gateway: bytes and time in, values out.
//!
//! Backends and clients publish messages into rooms; tidegate delivers each message to every client that joined the
//! room, on every node. What decides is here; threads, sockets, clocks and the broker's connection are in the package `tidegate`.
//!
//! # Map
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | the words of publish/subscribe: room names, publications, connection ids |
//! | [`http`] | the opening request and its answers, PROXY protocol, addresses of networks |
//! | [`ws`] | RFC 6455 and 7692: frames, masking, UTF-8, reassembly, deflate |
//! | [`auth`] | authentication and permissions: tokens, keys, grants |
//! | [`dialect`] | what clients say inside WebSocket messages: native JSON, raw, echo |
//! | [`connection`] | one client: its 64-byte entry, outbox, deadlines |
//! | [`room`] | many clients: members, passes of a fan-out |
//! | [`directory`] | the nodes of a cluster: their messages, and which of them live |
//! | [`relay`] | between the shards and a broker: interest table, router, what waits to be published |
//! | [`shard`] | one core's connections and rooms, and everything that happens to them |
//! | [`counters`], [`metric`] | what threads count, and the metrics that show it |
//! | [`readiness`] | whether the node wants traffic |
//! | [`setting`] | how the tables of settings are written and read |
//! | [`close`], [`limits`], [`percent`] | why connections end, how much of everything, `%XX` |
//!
//! # The dependency rule
//!
//! `model` depends on the limits only. `http` and `ws` know no connection, `connection` knows no room, `dialect` knows no
//! socket, `auth` knows no connection, `relay` knows no client protocol and no implementation of a broker. `tests/architecture.rs` of the package `tidegate` holds it.
//!
//! # Lexicon
//!
//! One word for each concept, and one concept for each word.
//!
//! - **shard**: one core's thread, with its own listener, connections and rooms.
//! - **connection**: one client's socket, a slab entry from accept to close; a **handle** (slot and
//!   generation) names it on its shard; after the slot is used again, an old handle finds nothing.
//! - **room**: a named set of members; **member**: a connection that joined it.
//! - **message**: what a client or backend sends; **publication**: one message accepted into one room.
//! - **frame**: the octets of a WebSocket frame (RFC 6455 §5).
//! - **dialect**: a client protocol; **form**: a dialect and what was agreed on with it, so that all members of one form get the
//!   same octets.
//! - **driver**: epoll or io_uring, behind a trait.
//! - **admission**: which connections and requests are let in; **credit**: what a rate allows; **token**: a secret; only the
//!   *token bucket*, which counts credits, keeps the field's name.
//! - **outbox**: what a connection could not be sent yet; its bound is the **backpressure** on slow readers.
//! - **batch**: publications that are sent together; **pass**: one walk of a fan-out over a room's members.
//! - **sweep**: the looks at all connections that find timeouts, pings and closes that are due.
//! - **broker**: what carries publications between nodes, or on the local bus between the shards of one.
//! - **relay**: what is between the shards and the broker; its loop runs on a thread, on the local bus also on the shards' own.
//! - **interest**: which shards have members in a room; **router**: gives publications to these shards; **outlet**: the relay's end
//!   of the mailbox to one of them.
//! - **mailbox**: a bounded queue between two threads; **port**: a shard's or the admin thread's end of the relay, no TCP port.
//! - **turn**: one round of a shard's event loop; **tick**: a tenth of a second, which its sweep counts.
//! - **fence**: a message to ourselves through the broker; when it comes back, what was sent before it has arrived (NATS).
//! - **node channel**: what nodes say to each other, and no client or backend hears; **node heartbeat**: "I live", on this channel.
//! - **gap**: a detected loss, and the notice of it: messages of a room may be missing.
//! - **drain**: graceful shutdown: all clients are told and closed, spread over a window.

#![warn(missing_docs)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod auth;
pub mod close;
pub mod connection;
pub mod counters;
pub mod dialect;
pub mod directory;
pub mod http;
pub mod limits;
pub mod metric;
pub mod model;
pub mod percent;
pub mod readiness;
pub mod relay;
pub mod room;
pub mod setting;
pub mod shard;
pub mod ws;
