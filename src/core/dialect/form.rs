//! The form of a connection's messages.

use super::DialectId;
use crate::ws::deflate::Deflate;

/// How messages to a connection look on the wire: the key under which a publication is encoded once for all members that
/// share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// The client protocol.
    pub dialect: DialectId,
    /// permessage-deflate as negotiated (RFC 7692).
    pub deflate: Option<Deflate>,
}

impl Form {
    /// Before the upgrade, when no message is written: a placeholder that is not read.
    pub const UNDECIDED: Self = Self { dialect: DialectId::ALL[0], deflate: None };
}
