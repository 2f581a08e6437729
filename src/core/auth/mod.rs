//! Authentication and permissions: tokens, keys, grants; which user a connection belongs to, and what it may do.
//!
//! [`Verifier::verify`] takes a JSON Web Token (RFC 7519, signed as RFC 7515 says, in compact form), the keys of the configuration
//! and the time, and gives what the token says or why it is refused. [`permits`] takes that, the rule of a room and a room's name, and
//! says whether an action is allowed. Both are pure: no clock, no network, no lock.
//!
//! [`Cache`] remembers the tokens that were verified, [`Schedule`] says when a provider's keys are fetched. It leaves to others: where a token comes from ([`crate::http`], the dialects), and
//! what is told.

mod cache;
mod claims;
mod grants;
mod keys;
mod permits;
mod refresh;
mod refused;
#[cfg(test)]
mod tests;
mod token;

pub use cache::Cache;
pub use grants::{Access, BadPattern, Pattern, Rights, Template};
pub use keys::{Algorithm, BadKey, Key, LEAST_SECRET_BYTES};
pub use permits::{Action, Denied, Session, Who, permits};
pub use refresh::{Schedule, max_age_s};
pub use refused::{Reason, Unauthorized};
pub use token::{Issuer, Jwks, TOKEN_BYTES, Verified, Verifier, sign};
