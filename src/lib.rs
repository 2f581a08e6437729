//! tidegate: a WebSocket gateway.
//!
//! Two packages: [`tidegate_core`] decides, from bytes and time alone; [`gateway`] is the threads, sockets and files around it.
//! This library is what the binary, the tests, the benchmarks and the fuzzers use; nothing is published.

pub mod gateway;
