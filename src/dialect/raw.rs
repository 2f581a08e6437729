//! The raw dialect: no envelope. What a client sends is published as it is, what is published arrives as it is.

use std::borrow::Cow;

use crate::model::{Kind, valid_room};
use crate::percent;
use crate::proto::frame::{BINARY, OpCode, TEXT};

/// Where the rooms of this dialect are.
pub const PATH_PREFIX: &str = "/raw/";

/// The room that `/raw/ROOM` names, percent-decoded; `None` if it names none.
pub fn room_of_path(path: &str) -> Option<Cow<'_, str>> {
    percent::decode(path.strip_prefix(PATH_PREFIX)?).filter(|room| valid_room(room).is_ok())
}

/// The frame that carries a publication of this kind; the payload is the publication's.
pub fn opcode(kind: Kind) -> OpCode {
    match kind {
        Kind::Json | Kind::Text => TEXT,
        Kind::Binary => BINARY,
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

    #[test]
    fn only_binary_goes_out_as_binary() {
        assert_eq!([Kind::Json, Kind::Text, Kind::Binary].map(opcode), [TEXT, TEXT, BINARY]);
    }
}
