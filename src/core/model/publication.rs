//! A publication: one message accepted into one room.

use bytes::Bytes;

use super::{ConnectionId, RoomName, UserName};

/// What a payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Valid JSON text.
    Json,
    /// UTF-8 that need not be JSON.
    Text,
    /// Any bytes.
    Binary,
}

/// One message accepted into one room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// The room.
    pub room: RoomName,
    /// What the payload is. Text and Json payloads are valid UTF-8, Json payloads valid JSON: checked at the border.
    pub kind: Kind,
    /// The message.
    pub payload: Bytes,
    /// The connection that is shown as the sender; absent for backends.
    pub from: Option<ConnectionId>,
    /// The user that is shown as the sender: the one that the connection's token names, or the one that a backend says.
    pub user: Option<UserName>,
    /// Whether the sender gets it too (`echo`).
    pub echo: bool,
    /// Which members a backend left out. In a box: few publications leave any out.
    pub except: Option<Box<Except>>,
    /// When the first gateway (or backend) took it, in ns since 1970.
    pub time_unix_ns: u64,
}

/// Members that do not get a publication. One that is not there leaves none out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Except {
    /// This connection.
    pub connection: Option<ConnectionId>,
    /// Every connection of this user.
    pub user: Option<UserName>,
}

impl Except {
    /// Both, or `None` where neither leaves any member out.
    pub fn new(connection: Option<ConnectionId>, user: Option<UserName>) -> Option<Box<Self>> {
        (connection.is_some() || user.is_some()).then(|| Box::new(Self { connection, user }))
    }
}

impl Publication {
    /// A backend's, for every member.
    pub const fn of_backend(room: RoomName, kind: Kind, payload: Bytes, time_unix_ns: u64) -> Self {
        Self { room, kind, payload, from: None, user: None, echo: true, except: None, time_unix_ns }
    }

    /// Whether some members may be left out.
    #[inline]
    pub const fn is_selective(&self) -> bool {
        !self.echo || self.except.is_some()
    }

    /// Whether a member gets it: the connection and its user.
    pub fn is_for(&self, connection: ConnectionId, user: Option<&str>) -> bool {
        if !self.echo && self.from == Some(connection) {
            return false;
        }
        self.except.as_ref().is_none_or(|except| {
            except.connection != Some(connection) && (except.user.is_none() || except.user.as_deref() != user)
        })
    }

    /// Bytes of the names that its members are told: the room and the user.
    #[inline]
    pub fn name_bytes(&self) -> usize {
        self.room.len() + self.user.as_ref().map_or(0, |user| user.len())
    }

    /// Bytes that the publication keeps allocated while it waits in a mailbox.
    pub fn pinned_bytes(&self) -> usize {
        let user = self.user.as_ref().map_or(0, |user| user.len());
        let except = self
            .except
            .as_ref()
            .map_or(0, |except| size_of::<Except>() + except.user.as_ref().map_or(0, |user| user.len()));
        size_of::<Self>() + self.payload.len() + user + except
    }
}
