//! The native dialect: JSON text messages.
//!
//! [`parse`] reads a request without copying what it carries; the writers append one message each to a buffer. Neither
//! knows frames, rooms' members or policies.

mod request;
mod write;

pub use request::{ErrorCode, Refused, Request, parse};
pub use write::{Content, ack, error, gap, joined, left, message, pong, shutdown, welcome};

/// The subprotocol that is answered if it is offered (RFC 6455 §1.9).
pub const SUBPROTOCOL: &str = "tidegate.v1";
