//! The client protocols: one module for each, behind one interface.
//!
//! A dialect is pure. It reads a client's message into [`Intent`]s, and writes [`Notice`]s and publications. Frames are
//! [`crate::ws`]'s; rooms, policies and sockets are the shard's, which drives it and compares no dialect with another. A new
//! dialect is a module that implements [`Dialect`] and a line in the table below: see `docs/new-dialect.md`.

pub mod echo;
mod form;
mod interface;
pub mod native;
pub mod raw;

pub use form::Form;
pub use interface::{
    ClientLimits, Dialect, ErrorCode, Identity, Intent, InvalidRoom, LeftReason, ListedRoom, Notice, OverRate, Payload,
    RequestedRoom, RoomList, Route, Said,
};

use crate::model::Publication;

macro_rules! dialects {
    ($($(#[$doc:meta])* $variant:ident => $dialect:ty),* $(,)?) => {
        /// Names a dialect in one byte. Calls on it go to the dialect's implementation of [`Dialect`].
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum DialectId { $($(#[$doc])* $variant),* }

        impl DialectId {
            /// Every dialect, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// See [`Dialect::NAME`].
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => <$dialect as Dialect>::NAME),* }
            }

            /// See [`Dialect::HAS_ROOM`].
            pub const fn has_room(self) -> bool {
                match self { $(Self::$variant => <$dialect as Dialect>::HAS_ROOM),* }
            }

            /// See [`Dialect::SUBPROTOCOL`].
            pub const fn subprotocol(self) -> Option<&'static str> {
                match self { $(Self::$variant => <$dialect as Dialect>::SUBPROTOCOL),* }
            }

            /// See [`Dialect::OVER_RATE`].
            pub const fn over_rate(self) -> OverRate {
                match self { $(Self::$variant => <$dialect as Dialect>::OVER_RATE),* }
            }

            /// See [`Dialect::TAKES_TOKENS`].
            pub const fn takes_tokens(self) -> bool {
                match self { $(Self::$variant => <$dialect as Dialect>::TAKES_TOKENS),* }
            }

            /// The first dialect of the table that has a built-in route for the path.
            pub fn route(path: &str) -> Option<(Self, Route<'_>)> {
                $(if let Some(route) = <$dialect as Dialect>::route(path) { return Some((Self::$variant, route)); })*
                None
            }

            /// See [`Dialect::next`].
            #[inline]
            pub fn next<'a>(self, rest: &mut Option<Payload<'a>>) -> Option<Intent<'a>> {
                match self { $(Self::$variant => <$dialect as Dialect>::next(rest)),* }
            }

            /// See [`Dialect::tell`].
            #[inline]
            pub fn tell(self, notice: &Notice<'_>, out: &mut Vec<u8>) -> Said {
                match self { $(Self::$variant => <$dialect as Dialect>::tell(notice, out)),* }
            }

            /// See [`Dialect::publication`].
            #[inline]
            pub fn publication<'a>(self, publication: &'a Publication, out: &'a mut Vec<u8>) -> (Said, &'a [u8]) {
                match self { $(Self::$variant => <$dialect as Dialect>::publication(publication, out)),* }
            }
        }
    };
}

// One line for each dialect. Names in `[[routes]]`, error texts and forms of encoding follow from it.
dialects! {
    /// JSON requests, any number of rooms.
    Native => native::Native,
    /// Messages without an envelope, one room.
    Raw => raw::Raw,
    /// Every message goes back to its sender.
    Echo => echo::Echo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_paths_are_served_and_no_others() {
        for path in ["/", "/ws", "/socket"] {
            assert_eq!(DialectId::route(path), Some((DialectId::Native, Route { room: None })), "{path}");
        }
        assert_eq!(DialectId::route("/raw/lobby"), Some((DialectId::Raw, Route { room: Some("lobby".into()) })));
        for path in ["", "/ws/", "/echo", "/health", "/raw/", "//"] {
            assert_eq!(DialectId::route(path), None, "{path}");
        }
    }

    #[test]
    fn names_of_dialects_are_unique_because_the_configuration_uses_them() {
        for (index, dialect) in DialectId::ALL.iter().enumerate() {
            assert!(
                DialectId::ALL[..index].iter().all(|earlier| earlier.name() != dialect.name()),
                "{}",
                dialect.name()
            );
        }
    }

    #[test]
    fn every_dialect_takes_a_message_to_its_end() {
        for dialect in DialectId::ALL {
            for payload in [Payload::Text(""), Payload::Text("{}"), Payload::Text("[1,2]"), Payload::Binary(&[0, 255])]
            {
                let (mut rest, mut calls) = (Some(payload), 0);
                while rest.is_some() {
                    let _ = dialect.next(&mut rest);
                    calls += 1;
                    assert!(calls <= 1 + payload.bytes().len(), "{} never ends with {payload:?}", dialect.name());
                }
            }
        }
    }

    #[test]
    fn a_form_takes_two_bytes_of_the_entry() {
        assert_eq!(size_of::<DialectId>(), 1);
        assert_eq!(size_of::<Form>(), 2);
    }
}
