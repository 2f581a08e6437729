//! The raw dialect: no envelope. What a client sends is published as it is, what is published arrives as it is.

use std::borrow::Cow;

use crate::proto::frame::{BINARY, OpCode, TEXT};
use crate::proto::handshake::percent_decode;
use crate::relay::{Kind, valid_room};

/// Where the rooms of this dialect are.
pub const PATH_PREFIX: &str = "/raw/";

/// The room that `/raw/ROOM` names, percent-decoded; `None` if it names none.
pub fn room_of_path(path: &str) -> Option<Cow<'_, str>> {
    percent_decode(path.strip_prefix(PATH_PREFIX)?).filter(|room| valid_room(room).is_ok())
}

/// The frame that carries a publication of this kind; the payload is the publication's.
pub fn opcode(kind: Kind) -> OpCode {
    match kind {
        Kind::Json | Kind::Text => TEXT,
        Kind::Binary => BINARY,
    }
}
