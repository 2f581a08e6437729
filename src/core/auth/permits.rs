//! Whether a connection may do something in a room.

use super::grants::{Access, Rights, Template};

/// What a connection asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// To join the room and hear what is published there.
    Join,
    /// To publish into it.
    Publish,
}

impl Action {
    const fn access(self) -> Access {
        match self {
            Self::Join => Access::READ,
            Self::Publish => Access::WRITE,
        }
    }
}

/// Which connections a rule of rooms allows an action. Backends may do anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Who {
    /// Any, guests too.
    #[default]
    Any,
    /// Any with a token.
    Users,
    /// Those that are in the room.
    Members,
    /// Those whose token, or a grant of the configuration, opens the room.
    Token,
    /// None.
    None,
}

/// What a connection's token says.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The user that it names.
    pub user: Option<&'a str>,
    /// What it opens.
    pub rights: &'a Rights,
    /// What the tokens of single rooms added.
    pub added: &'a [Rights],
}

/// Why something is not permitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// The rule wants a token, and the connection has none.
    NoToken,
    /// The rule wants a member.
    NotMember,
    /// No grant opens the room for this.
    NoGrant,
    /// The rule allows it to backends only.
    BackendsOnly,
}

impl Denied {
    /// What was wrong, and what to do.
    pub fn message(self, action: Action, room: &str) -> String {
        match (self, action) {
            (Self::NoToken, Action::Join) => format!("you have no token, and joining {room} needs one"),
            (Self::NoToken, Action::Publish) => format!("you have no token, and publishing into {room} needs one"),
            (Self::NotMember, _) => format!("only members publish into {room}; join it first"),
            (Self::NoGrant, Action::Join) => {
                format!("your token does not let you join {room}; its `rooms` must list it with r")
            }
            (Self::NoGrant, Action::Publish) => {
                format!("your token does not let you publish into {room}; its `rooms` must list it with w")
            }
            (Self::BackendsOnly, Action::Join) => format!("clients do not join {room} by themselves"),
            (Self::BackendsOnly, Action::Publish) => format!("only backends publish into {room}"),
        }
    }
}

/// Whether the rule of a room allows a connection this. `session` is `None` for a guest; `templates` are the configuration's grants.
///
/// # Errors
/// Why not.
pub fn permits(
    who: Who,
    templates: &[Template],
    session: Option<&Session<'_>>,
    is_member: bool,
    action: Action,
    room: &str,
) -> Result<(), Denied> {
    match (who, session) {
        (Who::Any, _) | (Who::Users, Some(_)) => Ok(()),
        (Who::Members, _) => {
            if is_member {
                Ok(())
            } else {
                Err(Denied::NotMember)
            }
        }
        (Who::None, _) => Err(Denied::BackendsOnly),
        (Who::Users | Who::Token, None) => Err(Denied::NoToken),
        (Who::Token, Some(session)) => {
            if is_granted(templates, session, action.access(), room) {
                Ok(())
            } else {
                Err(Denied::NoGrant)
            }
        }
    }
}

fn is_granted(templates: &[Template], session: &Session<'_>, access: Access, room: &str) -> bool {
    let value = |claim: &str| session.rights.value(claim);
    session.rights.allow(access, room)
        || session.added.iter().any(|rights| rights.allow(access, room))
        || templates.iter().any(|template| template.allows(access, room, value))
}
