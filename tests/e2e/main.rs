//! The gateway from outside: the real binary, a real broker, real sockets. Every story that touches the wire runs on both
//! drivers. Nothing is slept for: a story waits for what must come, with patience.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says on what")]

#[path = "../support/mod.rs"]
mod support;

mod bad_frames;
mod bad_http;
mod bad_requests;
mod churn;
mod cluster;
mod cut_frames;
mod deflate;
mod drain;
mod exhaustion;
mod faults_broker;
mod faults_client;
mod faults_host;
mod faults_queue;
mod faults_shard;
mod foreign;
mod inflating;
mod keys;
mod logs;
mod neighbours;
mod nodes;
mod plain_http;
mod protocol;
mod raw;
mod rolling;
mod rooms;
mod secrets;
mod silence;
mod slow;
mod start;
mod tokens;
mod users;
