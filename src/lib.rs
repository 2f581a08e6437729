//! tidegate: a WebSocket gateway.
//!
//! Backends and clients publish messages into rooms; tidegate delivers each message to every client that joined the
//! room, on every node.
//!
//! # Map
//!
//! | module | kind | what it is |
//! |---|---|---|
//! | [`model`] | pure | the words of publish/subscribe: room names, publications, connection ids |
//! | [`proto`] | pure | RFC 6455 and 7692: handshake, frames, masking, UTF-8, reassembly, deflate |
//! | [`dialect`] | pure | what clients say inside WebSocket messages: native JSON, raw |
//! | [`conn`] | pure | one client: its 64-byte entry, outbox, deadlines |
//! | [`room`] | pure | many clients: members, passes of a fan-out |
//! | [`shard`] | pure | one core's connections and rooms, and everything that happens to them |
//! | [`counters`], [`readiness`] | pure | what threads count, whether the node wants traffic |
//! | [`relay`] | pure | between the shards and a broker: interest table, router, what waits to be published |
//! | [`close`], [`limits`], [`percent`] | pure | why connections end, how much of everything, `%XX` |
//! | `broker` | shell | the relay's loop; the local bus and NATS |
//! | [`setting`], [`metric`] | pure | how the tables of settings and of metrics are written and read |
//! | `worker`, `wire` | shell | a shard's thread and event loop; epoll and io_uring |
//! | `admin` | shell | admin HTTP, metrics |
//! | `node`, `config`, `cli`, `check`, `host` | shell | start to stop, settings, command line, what the host allows, what the host is |
//! | `client`, `log` | shell | the commands that talk to a running node; log lines |
//!
//! # The dependency rule
//!
//! Shell → core, never back. `model` is below everything but the limits. `proto` knows no connection, `conn` knows no room,
//! `dialect` knows no socket, `relay` knows no client protocol and no broker, `admin` reads snapshots only; only `main` imports
//! `node`. `tests/architecture.rs` holds it. The pure modules take bytes and `now` in and give values out: no
//! socket, no clock, no thread. They build alone with `--no-default-features`.
//!
//! # Lexicon
//!
//! - **shard**: one core's thread, with its own listener, connections and rooms.
//! - **connection**: one client's socket, a slab entry from accept to close.
//! - **room**: a named set of members; **member**: a connection that joined it.
//! - **message**: what a client or backend says; **publication**: one message accepted into one room.
//! - **frame**: the octets of a WebSocket frame (RFC 6455 §5).
//! - **dialect**: how clients phrase requests and messages.
//! - **driver**: epoll or io_uring, behind a trait; in `wire` bytes meet sockets.
//! - **pass**: one walk of a fan-out over a room's members.
//! - **outbox**: what a connection could not be sent yet.
//! - **broker**: what carries publications between nodes, or on the local bus between the shards of one.
//! - **relay**: what is between the shards and the broker; its loop runs on a thread, on the local bus also on the shards' own.
//! - **mailbox**: a bounded queue between two threads.
//! - **interest**: that a shard has members in a room.
//! - **gap**: the notice that messages of a room may be missing.
//! - **drain**: sending everybody away in an orderly manner.

pub mod close;
pub mod conn;
pub mod counters;
pub mod dialect;
pub mod limits;
pub mod metric;
pub mod model;
pub mod percent;
pub mod proto;
pub mod readiness;
pub mod relay;
pub mod room;
pub mod setting;
pub mod shard;

#[cfg(feature = "gateway")]
pub mod admin;
#[cfg(feature = "gateway")]
pub mod broker;
#[cfg(feature = "gateway")]
pub mod check;
#[cfg(feature = "gateway")]
pub mod cli;
#[cfg(feature = "gateway")]
pub mod client;
#[cfg(feature = "gateway")]
pub mod clock;
#[cfg(feature = "gateway")]
pub mod config;
#[cfg(feature = "gateway")]
pub mod host;
#[cfg(feature = "gateway")]
pub mod log;
#[cfg(feature = "gateway")]
pub mod mailbox;
#[cfg(feature = "gateway")]
pub mod node;
#[cfg(feature = "gateway")]
pub mod wire;
#[cfg(feature = "gateway")]
pub mod worker;
