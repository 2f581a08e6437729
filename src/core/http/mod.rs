//! The opening handshake (RFC 6455 §4.2): a request head in, a [`Request`] or a [`Refusal`](crate::close::Refusal) out, and
//! the answers.
//!
//! [`parse_from`] is called with all that arrived so far until it decides, which it does at the first octet that can be no part
//! of a request that is served; [`Progress`] keeps what it has verified. It borrows everything from the head and keeps lists as
//! they are: what a request costs is linear in its octets, however many pieces it comes in, and however many headers,
//! subprotocols or extensions it names.
//!
//! It leaves to the caller: which paths exist, deadlines, and what to answer to a [`Request::Plain`].

pub mod forwarded;
mod head;
pub mod network;
mod origin;
pub mod proxy;
mod request;
mod response;

pub use head::Progress;
pub use origin::{OriginPattern, Origins, host_pattern, same_host};
pub use request::{Place, Places, Request, Upgrade, parse, parse_from};
pub use response::{accept, refuse, refuse_token, respond, without_body};
