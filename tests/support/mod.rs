//! What the integration tests share. Each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "no test binary uses all of it"
)]

pub mod checker;
pub mod client;
#[cfg(target_arch = "x86_64")]
pub mod debugger;
pub mod drivers;
pub mod gateway;
pub mod http;
pub mod incident;
pub mod jwks;
pub mod load;
pub mod log;
pub mod nats;
pub mod operator;
pub mod ports;
pub mod proxy;
pub mod tls;
