//! What clients say inside WebSocket messages, and which dialect a path speaks.
//!
//! The connection drives it: a message's payload in, a request out; what to tell in, a payload out. Framing is
//! [`crate::proto`]'s, rooms and their policies are the shard's.

pub mod native;
pub mod raw;

/// How a connection's messages are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Dialect {
    /// JSON requests, any number of rooms.
    Native,
    /// Messages as they are, one room.
    Raw,
    /// Every message goes back to its sender.
    Echo,
}

impl Dialect {
    /// The name in the admin endpoints.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Raw => "raw",
            Self::Echo => "echo",
        }
    }
}

/// What a built-in path serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Served {
    /// The native dialect.
    Native,
    /// The raw dialect, in this room.
    Raw(String),
}

/// The table of built-in paths; `None`: nothing is served there.
pub fn built_in(path: &str) -> Option<Served> {
    match path {
        "/" | "/ws" | "/socket" => Some(Served::Native),
        _ => raw::room_of_path(path).map(|room| Served::Raw(room.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_paths_are_served_and_no_others() {
        for path in ["/", "/ws", "/socket"] {
            assert_eq!(built_in(path), Some(Served::Native), "{path}");
        }
        assert_eq!(built_in("/raw/lobby"), Some(Served::Raw("lobby".into())));
        for path in ["", "/ws/", "/echo", "/health", "/raw/", "//"] {
            assert_eq!(built_in(path), None, "{path}");
        }
    }

    #[test]
    fn a_dialect_fits_the_entrys_one_byte() {
        assert_eq!(size_of::<Dialect>(), 1);
        assert_eq!(size_of::<Option<Dialect>>(), 1);
    }
}
