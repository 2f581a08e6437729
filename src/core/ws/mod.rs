//! RFC 6455 and 7692 for a server: bytes in, values out. No socket, no clock, and nothing allocated for a message that arrives whole.
//!
//! | module | what it is |
//! |---|---|
//! | [`frame`] | frame headers, and whole frames for both directions (§5.2) |
//! | [`mask`] | masking, in place (§5.3) |
//! | [`utf8`] | validation that fails at the first impossible octet (§8.1) |
//! | [`message`] | frames to messages, resumable at every octet (§5.4, §5.5) |
//! | [`deflate`] | permessage-deflate: agreed on, inflated, deflated (RFC 7692) |
//!
//! The connection drives it: [`http::parse_from`](crate::http::parse_from) until there is a request, then [`message::decode`]
//! for what arrives. What
//! to answer to a ping or a close, and when to give up waiting, is the connection's business.

pub mod deflate;
pub mod frame;
pub mod mask;
pub mod message;
pub mod utf8;
