//! The gateway from outside: the real binary, a real broker, real sockets. Every story that touches the wire runs on both
//! drivers. Nothing is slept for: a story waits for what must come, with patience.
#![cfg(feature = "gateway")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod bad_frames;
mod bad_http;
mod churn;
mod drain;
mod exhaustion;
mod faults_broker;
mod faults_client;
mod faults_shard;
mod foreign;
mod nodes;
mod protocol;
mod raw;
mod rooms;
mod silence;
mod slow;
mod start;
