//! Names of users: what is one.

use std::sync::Arc;

use super::valid_room;
use crate::limits::USER_NAME_BYTES;

/// The name of a user, as its token says it: valid by [`valid_user`].
pub type UserName = Arc<str>;

/// Whether a text names a user: 1 to [`USER_NAME_BYTES`], and otherwise by the rule of rooms' names, so that it can stand in a broker's
/// subject.
pub fn valid_user(name: &str) -> bool {
    name.len() <= USER_NAME_BYTES && valid_room(name).is_ok()
}
