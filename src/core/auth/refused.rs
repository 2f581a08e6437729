//! Why a token is refused, as a label for metrics and in words for its client.

/// Why a token is refused. Each has one name on the wire and in metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reason {
    /// A token is required, and none came.
    Missing,
    /// It is no token: its parts, its base64url, its JSON or the type of a claim.
    Malformed,
    /// Its algorithm is none that a key of this node has.
    Algorithm,
    /// No key has its `kid`.
    UnknownKey,
    /// No key made its signature.
    Signature,
    /// Its `iss` is another one.
    Issuer,
    /// Its `aud` names another program.
    Audience,
    /// Its `exp` has passed.
    Expired,
    /// Its `nbf` or `iat` is to come.
    NotYetValid,
    /// It has no `exp`.
    NoExpiry,
    /// Its `exp` is too far away.
    Lifetime,
    /// Its user is missing, is no valid name, or is another than the connection's.
    User,
    /// Its `rooms` is no valid map of grants.
    Rooms,
    /// It was revoked.
    Revoked,
    /// It has more octets than a token may have.
    TooLong,
    /// The keys were never loaded.
    KeysUnavailable,
}

impl Reason {
    /// Its name on the wire and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::NoExpiry => "no-expiry",
            Self::Lifetime => "lifetime",
            Self::User => "user",
            Self::Rooms => "rooms",
            Self::Revoked => "revoked",
            Self::TooLong => "too-long",
            Self::KeysUnavailable => "keys-unavailable",
        }
    }

    /// Whether the same token may be taken in a few seconds.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::UnknownKey | Self::KeysUnavailable)
    }

    /// Every reason, for tables.
    pub const ALL: [Self; 16] = [
        Self::Missing,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Issuer,
        Self::Audience,
        Self::Expired,
        Self::NotYetValid,
        Self::NoExpiry,
        Self::Lifetime,
        Self::User,
        Self::Rooms,
        Self::Revoked,
        Self::TooLong,
        Self::KeysUnavailable,
    ];
}

/// A token that is refused. The message names both sides, what came and what is accepted, and never quotes the token's signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unauthorized {
    /// The label.
    pub reason: Reason,
    /// What was wrong, and what to do.
    pub message: String,
}

impl Unauthorized {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
