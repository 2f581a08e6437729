//! How a client comes in: with which token, if one is required.

use crate::auth::{Reason, Unauthorized, Verified};
use crate::counters::TOKEN_CACHED;
use crate::dialect::DialectId;
use crate::http::{Place, Places, Upgrade};
use crate::shard::settings::AuthOptions;
use crate::shard::turn::Turn;

/// What became of the token of an upgrade.
pub(in crate::shard) enum Entrance {
    /// There is none, and none is required.
    Guest,
    /// There is none yet: it may come as a message.
    Awaited,
    /// It holds.
    Verified(Verified),
    /// It is refused. The client is told after the upgrade, because a page cannot read the answer to a refused one.
    Refused(Unauthorized),
}

/// Looks at the token of an upgrade.
///
/// # Errors
/// The token of an Authorization header is refused: its client reads a status.
pub(super) fn entrance(turn: &Turn, dialect: DialectId, upgrade: &Upgrade<'_>) -> Result<Entrance, Unauthorized> {
    let Some(auth) = &turn.settings.options.auth else { return Ok(Entrance::Guest) };
    let places = Places { cookie: auth.cookie.as_deref(), query: auth.query };
    match upgrade.credential(places) {
        None if auth.guests => Ok(Entrance::Guest),
        None if dialect.takes_tokens() => Ok(Entrance::Awaited),
        None => {
            turn.counters.tokens[1 + Reason::Missing as usize].add(1);
            let message = String::from("a token is required; send it as the subprotocol bearer.TOKEN");
            Ok(Entrance::Refused(Unauthorized { reason: Reason::Missing, message }))
        }
        Some((place, token)) => match (verified(turn, auth, token.as_bytes()), place) {
            (Ok(verified), _) => Ok(Entrance::Verified(verified)),
            (Err(refused), Place::Authorization) => Err(refused),
            (Err(refused), Place::Subprotocol | Place::Cookie | Place::Query) => Ok(Entrance::Refused(refused)),
        },
    }
}

/// Verifies the token of a connection, which names a user.
///
/// # Errors
/// Why it is refused.
pub(in crate::shard) fn verified(turn: &Turn, auth: &AuthOptions, token: &[u8]) -> Result<Verified, Unauthorized> {
    let now_unix_ms = (turn.clock.unix_ns / 1_000_000) as i64;
    let (verified, is_known) = auth.cache.verify(&auth.verifier, token, now_unix_ms, |_| false);
    let verified = verified.and_then(|verified| match verified.user {
        Some(_) => Ok(verified),
        None => Err(Unauthorized {
            reason: Reason::User,
            message: String::from("the token names no user; give it a sub (auth.user_claim)"),
        }),
    });
    let result = match &verified {
        Ok(_) if is_known => TOKEN_CACHED,
        Ok(_) => 0,
        Err(refused) => 1 + refused.reason as usize,
    };
    turn.counters.tokens[result].add(1);
    // The cache is the node's: its figures are kept once.
    if let Some(first) = turn.settings.node_counters.first() {
        first.cached_tokens.set(auth.cache.entries());
        first.cached_token_bytes.set(auth.cache.bytes());
    }
    verified
}
