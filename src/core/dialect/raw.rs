//! The raw dialect: no envelope. What a client sends is published as it is, what is published arrives as it is.

use std::borrow::Cow;

use super::{Dialect, Intent, Notice, OverRate, Payload, Route, Said};
use crate::model::{Kind, Publication, valid_room};
use crate::percent;

/// Where the rooms of this dialect are.
pub const PATH_PREFIX: &str = "/raw/";

/// The room that `/raw/ROOM` names, percent-decoded; `None` if it names none.
pub fn room_of_path(path: &str) -> Option<Cow<'_, str>> {
    percent::decode(path.strip_prefix(PATH_PREFIX)?).filter(|room| valid_room(room).is_ok())
}

/// See the module.
pub struct Raw;

impl Dialect for Raw {
    const NAME: &'static str = "raw";
    const HAS_ROOM: bool = true;
    const SUBPROTOCOL: Option<&'static str> = None;
    const OVER_RATE: OverRate = OverRate::Close;
    const TAKES_TOKENS: bool = false;

    fn route(path: &str) -> Option<Route<'_>> {
        room_of_path(path).map(|room| Route { room: Some(room) })
    }

    #[inline]
    fn next<'a>(rest: &mut Option<Payload<'a>>) -> Option<Intent<'a>> {
        let message = rest.take()?;
        let kind = match message {
            Payload::Text(_) => Kind::Text,
            Payload::Binary(_) => Kind::Binary,
        };
        Some(Intent::Publish { room: None, kind, payload: message.bytes(), echo: true, ack: false, reference: None })
    }

    #[inline]
    fn tell(notice: &Notice<'_>, _: &mut Vec<u8>) -> Said {
        match notice {
            Notice::Welcome { .. }
            | Notice::Joined { .. }
            | Notice::Left { .. }
            | Notice::Acknowledged { .. }
            | Notice::Pong { .. }
            | Notice::Refused { .. }
            | Notice::Unauthorized { .. }
            | Notice::Authenticated { .. }
            | Notice::TokenExpiring { .. }
            | Notice::Gap { .. }
            | Notice::Shutdown { .. } => Said::Nothing,
        }
    }

    fn publication<'a>(publication: &'a Publication, _: &'a mut Vec<u8>) -> (Said, &'a [u8]) {
        let said = match publication.kind {
            Kind::Json | Kind::Text => Said::Text,
            Kind::Binary => Said::Binary,
        };
        (said, &publication.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_room_or_nothing() {
        assert_eq!(room_of_path("/raw/chat.main").as_deref(), Some("chat.main"));
        assert_eq!(room_of_path("/raw/a%2Fb").as_deref(), Some("a/b"));
        for none in
            ["/raw", "/raw/", "/raw/a%20b", "/raw/a%0d%0a", "/raw/*", "/raw/%3E", "/raw/a..b", "/raw/%", "/RAW/a"]
        {
            assert_eq!(room_of_path(none), None, "{none}");
        }
    }
}
