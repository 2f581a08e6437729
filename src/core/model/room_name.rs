//! Room names: what is one, and why another text is not.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::ROOM_NAME_BYTES;

/// A table of so few places is kept: rooms come and go.
const LEAST_CAPACITY: usize = 1024;

/// A room's name: valid by [`valid_room`].
pub type RoomName = Arc<str>;

/// Why a room's name is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRoom {
    /// No bytes, or more than [`ROOM_NAME_BYTES`].
    Length,
    /// A byte that is not printable ASCII, or space, `*`, `>`, `"`, `\`.
    Character,
    /// An empty token: a leading, trailing or double dot.
    EmptyToken,
    /// A leading `$`.
    Dollar,
}

impl BadRoom {
    /// The rule that is broken, in words.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Length => "a room's name has 1 to 200 bytes",
            Self::Character => "a room's name is printable ASCII without space, *, >, \" and \\",
            Self::EmptyToken => "a room's name has no leading, trailing or double dot",
            Self::Dollar => "a room's name does not begin with $",
        }
    }
}

impl std::fmt::Display for BadRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.rule())
    }
}

/// Checks a room's name: always a valid broker subject token list, with nothing to inject.
///
/// # Errors
/// What is wrong with it.
pub fn valid_room(name: &str) -> Result<(), BadRoom> {
    if name.is_empty() || name.len() > ROOM_NAME_BYTES {
        return Err(BadRoom::Length);
    }
    if !name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'>' | b'"' | b'\\')) {
        return Err(BadRoom::Character);
    }
    if name.starts_with('$') {
        return Err(BadRoom::Dollar);
    }
    if name.split('.').any(str::is_empty) {
        return Err(BadRoom::EmptyToken);
    }
    Ok(())
}

/// Gives memory back where less than a quarter of a table by room names is used: after a crowd of rooms has ended, the table would
/// keep its size until the node's next start. Fewer entries move then than were removed since the table was last twice as large.
pub(crate) fn shrink_table<V>(map: &mut HashMap<RoomName, V>) {
    if map.capacity() > LEAST_CAPACITY && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}
