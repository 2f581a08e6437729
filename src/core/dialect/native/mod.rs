//! The native dialect: JSON text messages.
//!
//! [`parse`] reads a request without copying what it carries; the writers append one message each to a buffer. Neither
//! knows frames, rooms' members or policies.

mod request;
mod write;

pub use request::{Refused, Request, parse};
pub use write::{
    Content, Sender, ack, authenticated, error, gap, joined, left, message, pong, shutdown, token_expiring,
    unauthorized, welcome,
};

use super::{Dialect, Intent, LeftReason, Notice, OverRate, Payload, Route, Said};
use crate::limits;
use crate::model::{AckLevel, Kind, Publication};

/// Bytes of a message beside its room, its user and its content, at most, with room for a few escapes.
pub const ENVELOPE_BYTES: usize = 192;

/// See the module.
pub struct Native;

impl Dialect for Native {
    const NAME: &'static str = "native";
    const HAS_ROOM: bool = false;
    const SUBPROTOCOL: Option<&'static str> = Some("tidegate.v1");
    const OVER_RATE: OverRate = OverRate::Tell;
    const TAKES_TOKENS: bool = true;

    fn route(path: &str) -> Option<Route<'_>> {
        matches!(path, "/" | "/ws" | "/socket").then_some(Route { room: None })
    }

    #[inline]
    fn next<'a>(rest: &mut Option<Payload<'a>>) -> Option<Intent<'a>> {
        let text = match rest.take()? {
            Payload::Text(text) => text,
            Payload::Binary(_) => return Some(Intent::Unsupported),
        };
        Some(match parse(text) {
            Ok(Request::Join { room, reference }) => Intent::Join { room, reference },
            Ok(Request::JoinAll { rooms, reference }) => Intent::JoinAll { rooms, reference },
            Ok(Request::Leave { room, reference }) => Intent::Leave { room, reference },
            Ok(Request::Ping { reference }) => Intent::Ping { reference },
            Ok(Request::Auth { token, reference }) => Intent::Authenticate { token, reference },
            Ok(Request::Message { room, content, echo, ack, reference }) => Intent::Publish {
                room: Some(room),
                kind: Kind::Json,
                payload: content.as_bytes(),
                echo,
                ack,
                reference,
            },
            Err(Refused { code, message, reference }) => Intent::Invalid { code, message, reference },
        })
    }

    #[inline]
    fn tell(notice: &Notice<'_>, out: &mut Vec<u8>) -> Said {
        match *notice {
            Notice::Welcome { id, node, ping_ms, pong_ms, limits, identity } => {
                welcome(out, &id.text(), node, [ping_ms, pong_ms], limits, identity);
            }
            Notice::Authenticated { identity, reference } => authenticated(out, identity, reference),
            Notice::TokenExpiring { expires_ms } => token_expiring(out, expires_ms),
            Notice::Unauthorized { reason, message, room, reference } => {
                unauthorized(out, reason.name(), message, room, reference);
            }
            Notice::Joined { room, reference } => joined(out, room, reference),
            Notice::Left { room, reason, reference } => left(out, room, reason.map(LeftReason::name), reference),
            Notice::Acknowledged { level, reference } => ack(out, reference, level_name(level)),
            Notice::Pong { reference } => pong(out, reference),
            Notice::Refused { code, message, room, reference } => error(out, code, message, room, reference),
            Notice::Gap { room, reason, resync_ms } => gap(out, room, reason.label(), resync_ms),
            Notice::Shutdown { reconnect_ms } => shutdown(out, reconnect_ms),
        }
        Said::Text
    }

    /// Text that JSON would make more than twice as long goes as base64: control characters take six bytes each, so that one
    /// message would be more than an outbox takes.
    fn publication<'a>(publication: &'a Publication, out: &'a mut Vec<u8>) -> (Said, &'a [u8]) {
        let payload = &publication.payload;
        let content = match publication.kind {
            Kind::Json => Content::Json(payload),
            Kind::Text => std::str::from_utf8(payload).map_or(Content::Binary(payload), Content::Text),
            Kind::Binary => Content::Binary(payload),
        };
        write_publication(out, publication, content);
        if out.len() > limits::EXPANSION * payload.len() + publication.name_bytes() + ENVELOPE_BYTES {
            out.clear();
            write_publication(out, publication, Content::Binary(payload));
        }
        (Said::Text, out)
    }
}

const fn level_name(level: AckLevel) -> &'static str {
    match level {
        AckLevel::Node => "node",
        AckLevel::Broker => "broker",
    }
}

fn write_publication(out: &mut Vec<u8>, publication: &Publication, content: Content<'_>) {
    let from = publication.from.map(|id| id.text());
    let from = from.as_ref().map(|text| &text[..]);
    let sender = Sender { from, user: publication.user.as_deref() };
    message(out, &publication.room, sender, content, publication.time_unix_ns / 1_000_000);
}
