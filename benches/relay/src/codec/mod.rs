//! The NATS client protocol: what a server sends, and what a client sends. Pure: bytes in, values out; no socket, no clock.
//!
//! | module | what it is |
//! |---|---|
//! | [`parser`] | a server's stream becomes operations, in its order |
//! | [`buffer`] | the bytes that were read and are not parsed yet |
//! | [`error`] | what `-ERR` says, and what ends a connection |
//! | [`headers`] | a message's header block, whatever client wrote it |
//! | [`envelope`] | the gateway's own header, at fixed offsets |
//! | [`encoder`] | `SUB`, `UNSUB`, `PUB`, `HPUB`, `PING`, `PONG` |
//! | [`login`] | `INFO` and `CONNECT` |
//!
//! The connection's owner drives it: it reads into a [`buffer::ReadBuffer`], asks the [`parser::Parser`] for one step after another,
//! and writes what the encoder appended to a buffer. Pings, fences, subscription ids and reconnecting are the owner's.
//!
//! What it relies on, which `benches/nats-order.py` shows for nats-server 2.9.10 and 2.15.1: a server answers in the order in which it
//! was asked. So the `-ERR` of a `SUB` or `PUB` stands before the `PONG` of the next `PING`, and a message that was published before
//! it too.
//!
//! The protocol: "Client Protocol" in NATS' documentation, and ADR-4 for headers. The bounds are in [`parser`] and [`encoder`].

pub mod buffer;
pub mod encoder;
pub mod envelope;
pub mod error;
pub mod headers;
pub mod login;
pub mod parser;
