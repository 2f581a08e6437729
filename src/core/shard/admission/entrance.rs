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
    let message = "the token names no user; give it a sub (auth.user_claim)";
    checked(turn, auth, token, |user| user.is_some().then_some(()).ok_or(message))
}

/// Verifies a room's own token. It must name the same user as the connection's, and none for a guest.
///
/// # Errors
/// Why it is refused.
pub(in crate::shard) fn verified_for_room(
    turn: &Turn,
    auth: &AuthOptions,
    token: &[u8],
    connected: Option<&str>,
) -> Result<Verified, Unauthorized> {
    checked(turn, auth, token, |user| match (user, connected) {
        (None, Some(_)) => Err("the room's token names no user; give it the sub of the connection's token"),
        (Some(_), None) => {
            Err("the room's token names a user, and you are a guest; send `auth` first, or leave sub out")
        }
        _ if user == connected => Ok(()),
        _ => Err("the room's token is another user's; its sub must be that of the connection's token"),
    })
}

fn checked(
    turn: &Turn,
    auth: &AuthOptions,
    token: &[u8],
    check_user: impl FnOnce(Option<&str>) -> Result<(), &'static str>,
) -> Result<Verified, Unauthorized> {
    let now_unix_ms = (turn.clock.unix_ns / 1_000_000) as i64;
    let (verified, is_known) = auth.cache.verify(&auth.verifier, token, now_unix_ms, |_| false);
    let verified = verified.and_then(|verified| match check_user(verified.user.as_deref()) {
        Ok(()) => Ok(verified),
        Err(message) => Err(Unauthorized { reason: Reason::User, message: String::from(message) }),
    });
    let result = match &verified {
        Ok(_) if is_known => TOKEN_CACHED,
        Ok(_) => 0,
        Err(refused) => 1 + refused.reason as usize,
    };
    turn.counters.tokens[result].add(1);
    if let (Err(Unauthorized { reason: Reason::UnknownKey, .. }), Some(signal)) = (&verified, &auth.key_unknown) {
        signal.give();
    }
    // The cache is the node's: its figures are kept once.
    if let Some(first) = turn.settings.node_counters.first() {
        first.cached_tokens.set(auth.cache.entries());
        first.cached_token_bytes.set(auth.cache.bytes());
    }
    verified
}
