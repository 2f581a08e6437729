//! What the integration tests share. Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod log;
pub mod nats;
pub mod ports;
pub mod proxy;
pub mod tls;
