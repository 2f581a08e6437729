//! The interface between a dialect and the shard: what a client asks ([`Intent`]), what it is told ([`Notice`]), and the
//! trait that every client protocol implements ([`Dialect`]).

use std::borrow::Cow;

use crate::auth::Reason;
use crate::model::{AckLevel, ConnectionId, GapReason, Kind, Publication};

/// The content of one WebSocket message, in either direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    /// UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// What a built-in path of a dialect names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route<'a> {
    /// The room that the connection joins when it opens; `None` where clients name their rooms in messages.
    pub room: Option<Cow<'a, str>>,
}

/// Several rooms, as a client lists them: read when they are asked for. It owns nothing, so that the intents of all other messages are
/// not to be freed.
#[derive(Clone, Copy, Debug)]
pub struct RoomList<'a> {
    text: &'a str,
    read: fn(&str) -> Vec<ListedRoom<'_>>,
}

impl<'a> RoomList<'a> {
    /// A list that `read` takes apart.
    pub fn new(text: &'a str, read: fn(&str) -> Vec<ListedRoom<'_>>) -> Self {
        Self { text, read }
    }

    /// The rooms, in order.
    pub fn rooms(self) -> Vec<ListedRoom<'a>> {
        (self.read)(self.text)
    }
}

impl PartialEq for RoomList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RoomList<'_> {}

/// A room of a [`RoomList`].
pub type ListedRoom<'a> = Result<RequestedRoom<'a>, InvalidRoom<'a>>;

/// A room that a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestedRoom<'a> {
    /// Its name, which is valid.
    pub room: Cow<'a, str>,
    /// The room's own token, not verified.
    pub token: Option<Cow<'a, str>>,
}

/// An element of a list of rooms that names none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidRoom<'a> {
    /// Which rule it breaks.
    pub code: ErrorCode,
    /// What was wrong, and what is accepted.
    pub message: Cow<'static, str>,
    /// What the client wrote for a name, where that could be read and is no longer than a name may be.
    pub room: Option<Cow<'a, str>>,
}

/// One request of a client. Room names are valid. `reference` is the client's name for the answer, as the dialect wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intent<'a> {
    /// Become a member of a room.
    Join {
        /// The room.
        room: Cow<'a, str>,
        /// Comes back in the answer.
        reference: Option<&'a str>,
    },
    /// Become a member of several rooms, or of one with a token of its own. Each is answered on its own.
    JoinAll {
        /// The rooms.
        rooms: RoomList<'a>,
        /// Comes back in each answer.
        reference: Option<&'a str>,
    },
    /// Stop being a member.
    Leave {
        /// The room.
        room: Cow<'a, str>,
        /// Comes back in the answer.
        reference: Option<&'a str>,
    },
    /// Publish a message.
    Publish {
        /// The room; `None` is the room that the connection's path names.
        room: Option<Cow<'a, str>>,
        /// What the payload is.
        kind: Kind,
        /// The message.
        payload: &'a [u8],
        /// Whether the publisher receives it too.
        echo: bool,
        /// Whether the publisher wants an acknowledgement.
        ack: bool,
        /// Comes back in the answer.
        reference: Option<&'a str>,
    },
    /// Authenticate with a token.
    Authenticate {
        /// The token.
        token: Cow<'a, str>,
        /// Comes back in the answer.
        reference: Option<&'a str>,
    },
    /// An application-level ping, answered by [`Notice::Pong`].
    Ping {
        /// Comes back in the answer.
        reference: Option<&'a str>,
    },
    /// Send the same message back.
    Echo(Payload<'a>),
    /// The message is not a valid request.
    Invalid {
        /// Which rule it breaks.
        code: ErrorCode,
        /// What was wrong, and what is accepted.
        message: Cow<'static, str>,
        /// Comes back in the answer, where it could be read.
        reference: Option<&'a str>,
    },
    /// A kind of message that the dialect does not take: the connection is closed with 1003.
    Unsupported,
}

impl<'a> Intent<'a> {
    /// The client's name for the answer, where it gave one.
    pub fn reference(&self) -> Option<&'a str> {
        match self {
            Self::Join { reference, .. }
            | Self::JoinAll { reference, .. }
            | Self::Leave { reference, .. }
            | Self::Publish { reference, .. }
            | Self::Authenticate { reference, .. }
            | Self::Ping { reference }
            | Self::Invalid { reference, .. } => *reference,
            Self::Echo(_) | Self::Unsupported => None,
        }
    }
}

/// What one connection may do, told when it opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientLimits {
    /// Bytes of one message.
    pub message_bytes: u64,
    /// Messages a second; 0 is no limit.
    pub message_rate: u64,
    /// Rooms that it may be a member of.
    pub rooms: u64,
}

/// The identity of a connection, as its client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity<'a> {
    /// A guest: no token, and none is required.
    Guest,
    /// Nothing yet: a token is required, as the first message.
    Awaited,
    /// What its token says.
    Token {
        /// The user, where it names one.
        user: Option<&'a str>,
        /// When the token ends, in ms from now.
        expires_ms: u64,
    },
}

/// Why a membership ended that its client did not end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftReason {
    /// The client's token, or the room's rule, no longer lets it in.
    Permission,
}

impl LeftReason {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
        }
    }
}

/// What one client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice<'a> {
    /// The connection is open.
    Welcome {
        /// The connection.
        id: ConnectionId,
        /// The node's name.
        node: &'a str,
        /// Silence of the client after which the node pings, in ms.
        ping_ms: u64,
        /// How long the node waits for the pong, in ms.
        pong_ms: u64,
        /// What the connection may do.
        limits: ClientLimits,
        /// Its identity.
        identity: Identity<'a>,
    },
    /// The token that the client sent is taken.
    Authenticated {
        /// The connection's identity, and for how long it holds.
        identity: Identity<'a>,
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// The client's token ends soon: it should send another one.
    TokenExpiring {
        /// When, in ms from now.
        expires_ms: u64,
    },
    /// The client is a member: every message that is published from now on comes.
    Joined {
        /// The room.
        room: &'a str,
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// The client is not a member any more: no message of the room comes from now on.
    Left {
        /// The room.
        room: &'a str,
        /// Why, where the client did not ask for it.
        reason: Option<LeftReason>,
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// A publication was taken.
    Acknowledged {
        /// How far it got.
        level: AckLevel,
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// The answer to [`Intent::Ping`].
    Pong {
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// A request was not granted.
    Refused {
        /// Why.
        code: ErrorCode,
        /// What was wrong, and what to do.
        message: &'a str,
        /// The room, where a membership is refused or ended.
        room: Option<&'a str>,
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// A token is refused, or one is required.
    Unauthorized {
        /// Why.
        reason: Reason,
        /// What was wrong, and what to do.
        message: &'a str,
        /// The room, where its own token is refused.
        room: Option<&'a str>,
        /// Of the request.
        reference: Option<&'a str>,
    },
    /// Messages may be missing.
    Gap {
        /// The room concerned; `None` is all rooms of the client.
        room: Option<&'a str>,
        /// Why.
        reason: GapReason,
        /// When the client should load the state again, in ms from now: another moment for each client.
        resync_ms: u64,
    },
    /// The node drains: the client should connect again, and will reach another node.
    Shutdown {
        /// When to connect again, in ms from now: another moment for each client.
        reconnect_ms: u64,
    },
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// Not a valid request.
    BadMessage,
    /// Not a valid room name.
    BadRoom,
    /// The room's policy lets members publish only.
    NotJoined,
    /// Too many rooms.
    RoomLimit,
    /// The content is over the limit.
    MessageTooLarge,
    /// Over the message rate.
    RateLimited,
    /// The room's policy forbids it.
    Forbidden,
    /// Authentication is missing or wrong.
    Unauthorized,
    /// The broker did not confirm it.
    Unavailable,
}

impl ErrorCode {
    /// Its name on the wire, for dialects that name errors in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadMessage => "bad-message",
            Self::BadRoom => "bad-room",
            Self::NotJoined => "not-joined",
            Self::RoomLimit => "room-limit",
            Self::MessageTooLarge => "message-too-large",
            Self::RateLimited => "rate-limited",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Whether a dialect can express a notice or a publication, and in which kind of message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// As a text message.
    Text,
    /// As a binary message.
    Binary,
    /// The dialect has no words for it: nothing is sent.
    Nothing,
}

/// What happens to messages over the message rate. They are dropped and counted in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OverRate {
    /// The client is told: of each request with a reference, of the others once a second.
    Tell,
    /// The client cannot be told: it is closed when the next second has an excess too.
    Close,
    /// Nothing more.
    Drop,
}

/// One client protocol. No item has a default, so that each implementation decides everything. It is pure: bytes in, values out.
pub trait Dialect {
    /// Its name in the configuration, the admin endpoints and metrics.
    const NAME: &'static str;
    /// Whether a configured route has to name a room.
    const HAS_ROOM: bool;
    /// The WebSocket subprotocol that is chosen where the client offers it (RFC 6455 §1.9); `None` takes any, as plain broadcast
    /// servers do.
    const SUBPROTOCOL: Option<&'static str>;
    /// What happens over the message rate.
    const OVER_RATE: OverRate;
    /// Whether a client can send its token as a message ([`Intent::Authenticate`]).
    const TAKES_TOKENS: bool;

    /// Where a request's percent-encoded path leads, if it is a built-in path of this dialect.
    fn route(path: &str) -> Option<Route<'_>>;

    /// Takes the next request out of a message. `rest` is what is left of the message: the dialect replaces it with what comes
    /// after this request, `None` at the end. Called until `rest` is `None`, because one message may hold several requests.
    fn next<'a>(rest: &mut Option<Payload<'a>>) -> Option<Intent<'a>>;

    /// Appends a notice to `out` in the dialect's words.
    fn tell(notice: &Notice<'_>, out: &mut Vec<u8>) -> Said;

    /// The message that carries a publication: in `out`, which is empty before, or in the publication itself. It depends on
    /// nothing but the publication, because it is encoded once for all members of one [form](super::Form).
    fn publication<'a>(publication: &'a Publication, out: &'a mut Vec<u8>) -> (Said, &'a [u8]);
}
