//! The gateway around the core: threads, sockets, clocks, files, the broker's connection, HTTP.
//!
//! | module | what it is |
//! |---|---|
//! | [`node`] | a node from start to stop |
//! | [`worker`], [`io`] | a shard's thread and event loop; epoll and io_uring |
//! | [`broker`] | the relay's loop; the local bus and NATS |
//! | [`admin`] | the admin thread: HTTP, metrics, supervisor |
//! | [`config`], [`cli`] | settings, command line |
//! | [`check`], [`host`] | what the host allows, what the host is |
//! | [`client`] | the commands that talk to a running node |
//! | [`clock`], [`log`], [`mailbox`] | time, log lines, bounded queues between threads |
//!
//! `io` and `broker` know no client protocol, `admin` sees commands and counters only, and only `main` names `node`.

pub mod admin;
pub mod broker;
pub mod check;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod host;
pub mod io;
pub mod log;
pub mod mailbox;
pub mod node;
pub mod worker;
