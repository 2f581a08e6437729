//! The words of publish/subscribe that every module shares: rooms, publications, connection ids, what publishers and members
//! are told about delivery. Values only.
//!
//! What may be JSON content is decided here too, because members of all dialects get it.
//!
//! Everything may name this module; it names only the limits. How a publication travels is `relay`'s business, how clients
//! phrase it `dialect`'s.

mod connection_id;
mod delivery;
mod json;
mod publication;
mod room_name;
mod user_name;

pub use connection_id::{ConnectionId, NotAConnectionId};
pub use delivery::{AckLevel, GapReason};
pub use json::{BadJson, readable_json, valid_json};
pub use publication::{Except, Kind, Publication};
pub(crate) use room_name::shrink_table;
pub use room_name::{BadRoom, RoomName, valid_room};
pub use user_name::{UserName, valid_user};
