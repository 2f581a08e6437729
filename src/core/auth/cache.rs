//! The token cache: tokens that were verified, until they end. Clients that connect again with a known token cost a hash each, and no
//! signature.
//!
//! All shards of a node share it. A call never waits for a lock: if another shard holds it, the token is verified again. Tokens are
//! found by a keyed hash, so that no client can construct two that collide; the tokens themselves are not kept.
//!
//! It belongs to one set of keys ([`Verifier`]): other keys come with another cache, so that no hit outlives its key. What may have
//! changed since (the end of the token, revocations) is checked on each hit.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::hmac;

use super::refused::{Reason, Unauthorized};
use super::token::{TOKEN_BYTES, Verified, Verifier};

/// Parts of the cache, each with a lock of its own.
const STRIPES: usize = 64;
/// Refused tokens that are remembered, in number: only those with a wrong signature, which is the most expensive refusal.
const MOST_FORGED: usize = 4_096;
/// Bytes of an entry beyond the value: the place of digest and pointer in the table, which is seven sixteenths full after it has
/// grown, and the digest in the queue, which may be half full.
const PLACE_BYTES: usize = (size_of::<(Digest, Box<Known>)>() + 1) * 16 / 7 + 2 * size_of::<Digest>();

/// The first 128 bits of HMAC-SHA256 (RFC 2104) of a token.
type Digest = u128;

/// See the module.
pub struct Cache {
    key: hmac::Key,
    stripes: Box<[Mutex<Stripe>]>,
    /// Bytes that the verified tokens of one stripe may take.
    stripe_bytes: usize,
    entries: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Stripe {
    verified: HashMap<Digest, Box<Known>>,
    /// Their digests, the oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
    forged: HashMap<Digest, Unauthorized>,
    forged_order: VecDeque<Digest>,
}

struct Known {
    verified: Verified,
    /// When it was verified.
    since_unix_ms: i64,
    /// When it ends; `None`: it has no `exp`.
    ends_unix_ms: Option<i64>,
}

impl Known {
    fn new(verified: Verified, now_unix_ms: i64) -> Self {
        let ends_unix_ms = now_unix_ms.saturating_add_unsigned(verified.expires_in_ms);
        Self { since_unix_ms: now_unix_ms, ends_unix_ms: verified.has_exp.then_some(ends_unix_ms), verified }
    }

    fn has_ended(&self, now_unix_ms: i64) -> bool {
        self.ends_unix_ms.is_some_and(|ends| ends <= now_unix_ms)
    }

    /// What it says at another time, if it still holds. A clock that was set back may stand before its `nbf`: it is not known then.
    fn at(&self, now_unix_ms: i64) -> Option<Verified> {
        if now_unix_ms < self.since_unix_ms || self.has_ended(now_unix_ms) {
            return None;
        }
        let left_ms = self.ends_unix_ms.map(|ends| ends.abs_diff(now_unix_ms));
        Some(Verified { expires_in_ms: left_ms.unwrap_or(self.verified.expires_in_ms), ..self.verified.clone() })
    }

    /// Bytes that it takes, its place in the tables included. Texts that tokens share are counted for each.
    fn bytes(&self) -> usize {
        // An `Arc<str>` has two counts before its text, and the allocator rounds up.
        let text = |text: Option<&str>| text.map_or(0, |text| (16 + text.len()).next_multiple_of(16));
        let Verified { user, rights, info, id, .. } = &self.verified;
        let texts = [user.as_deref(), Some(&**rights.as_text()), info.as_deref(), id.as_deref()];
        PLACE_BYTES + size_of::<Self>() + texts.into_iter().map(text).sum::<usize>()
    }
}

impl fmt::Debug for Cache {
    /// Without what is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache for at most `bytes` of verified tokens; with 0 it keeps nothing. `key` is the random key of the hash: a new one
    /// for each cache.
    pub fn new(bytes: usize, key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            stripe_bytes: bytes / STRIPES,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// An empty one for as many bytes.
    pub fn emptied(&self, key: &[u8; 32]) -> Self {
        Self::new(self.stripe_bytes.saturating_mul(STRIPES), key)
    }

    /// Verifies a token as [`Verifier::verify`] does, or knows it. `verifier` is always the same. Returns also whether it was known.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(
        &self,
        verifier: &Verifier,
        token: &[u8],
        now_unix_ms: i64,
        is_revoked: impl Fn(&Verified) -> bool,
    ) -> (Result<Verified, Unauthorized>, bool) {
        if self.stripe_bytes == 0 || token.len() > TOKEN_BYTES {
            return (verifier.verify(token, now_unix_ms, is_revoked), false);
        }
        let digest = self.digest(token);
        match self.find(digest, now_unix_ms) {
            // The verifier says it in its own words.
            Some(Ok(verified)) if is_revoked(&verified) => {}
            Some(known) => return (known, true),
            None => {}
        }
        let result = verifier.verify(token, now_unix_ms, is_revoked);
        self.remember(digest, &result, now_unix_ms);
        (result, false)
    }

    /// Verified tokens in it.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn digest(&self, token: &[u8]) -> Digest {
        let tag = hmac::sign(&self.key, token);
        tag.as_ref().first_chunk().map_or(0, |first| Digest::from_le_bytes(*first))
    }

    fn stripe(&self, digest: Digest) -> &Mutex<Stripe> {
        &self.stripes[digest as usize % STRIPES]
    }

    fn find(&self, digest: Digest, now_unix_ms: i64) -> Option<Result<Verified, Unauthorized>> {
        let stripe = self.stripe(digest).try_lock().ok()?;
        if let Some(known) = stripe.verified.get(&digest) {
            return known.at(now_unix_ms).map(Ok);
        }
        stripe.forged.get(&digest).cloned().map(Err)
    }

    fn remember(&self, digest: Digest, result: &Result<Verified, Unauthorized>, now_unix_ms: i64) {
        let Ok(mut stripe) = self.stripe(digest).try_lock() else { return };
        match result {
            Ok(verified) => {
                let known = Box::new(Known::new(verified.clone(), now_unix_ms));
                let before = (stripe.verified.len(), stripe.bytes);
                stripe.insert(digest, known, self.stripe_bytes, now_unix_ms);
                // It may be fewer than before: the addition wraps.
                self.entries.fetch_add((stripe.verified.len() as u64).wrapping_sub(before.0 as u64), Relaxed);
                self.bytes.fetch_add((stripe.bytes as u64).wrapping_sub(before.1 as u64), Relaxed);
            }
            Err(refused) if refused.reason == Reason::Signature => stripe.insert_forged(digest, refused.clone()),
            Err(_) => {}
        }
    }
}

impl Stripe {
    /// Adds a token unless it is larger than the stripe may be. The oldest are removed until it fits, and those at the front of the
    /// queue that have ended.
    fn insert(&mut self, digest: Digest, known: Box<Known>, most_bytes: usize, now_unix_ms: i64) {
        let bytes = known.bytes();
        if bytes > most_bytes || self.verified.contains_key(&digest) {
            return;
        }
        while let Some(oldest) = self.order.front().copied() {
            let has_ended = self.verified.get(&oldest).is_none_or(|known| known.has_ended(now_unix_ms));
            if !has_ended && self.bytes + bytes <= most_bytes {
                break;
            }
            self.order.pop_front();
            if let Some(gone) = self.verified.remove(&oldest) {
                self.bytes -= gone.bytes();
            }
        }
        self.bytes += bytes;
        self.order.push_back(digest);
        self.verified.insert(digest, known);
    }

    fn insert_forged(&mut self, digest: Digest, refused: Unauthorized) {
        if self.forged.insert(digest, refused).is_some() {
            return;
        }
        self.forged_order.push_back(digest);
        if self.forged_order.len() > MOST_FORGED / STRIPES
            && let Some(oldest) = self.forged_order.pop_front()
        {
            self.forged.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Issuer, Key, sign};

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
    const NOW_MS: i64 = 1_000_000;
    const PLENTY: usize = 1 << 20;

    fn verifier(keys: Vec<Key>) -> Verifier {
        Verifier { issuers: vec![Issuer { keys, leeway_ms: 0, ..Issuer::default() }], claims: Vec::new() }
    }

    fn with_the_key() -> Verifier {
        verifier(vec![Key::secret(SECRET).unwrap()])
    }

    /// One that refuses every signature: what it takes was known.
    fn with_another_key() -> Verifier {
        verifier(vec![Key::secret(&[7; 32]).unwrap()])
    }

    fn token(user: &str) -> String {
        sign(SECRET, &format!(r#"{{"sub":"{user}","exp":1100,"rooms":{{"chat.*":"rw"}}}}"#))
    }

    fn cache(bytes: usize) -> Cache {
        Cache::new(bytes, &[1; 32])
    }

    fn verify(cache: &Cache, verifier: &Verifier, token: &str, now_ms: i64) -> (Result<Verified, Reason>, bool) {
        let (result, known) = cache.verify(verifier, token.as_bytes(), now_ms, |_| false);
        (result.map_err(|refused| refused.reason), known)
    }

    #[test]
    fn a_token_that_was_verified_is_known_with_the_time_that_is_left() {
        let (cache, token) = (cache(PLENTY), token("alice"));
        let (first, known) = verify(&cache, &with_the_key(), &token, NOW_MS);
        let first = first.unwrap();
        assert_eq!((first.expires_in_ms, known), (100_000, false));
        let (again, known) = verify(&cache, &with_another_key(), &token, NOW_MS + 40_000);
        assert_eq!((again, known), (Ok(Verified { expires_in_ms: 60_000, ..first.clone() }), true));
        assert_eq!(cache.entries(), 1);
    }

    /// A provider's tokens without `exp` would have ended for good a day after the first of their connections.
    #[test]
    fn a_known_token_without_exp_holds_as_long_each_time() {
        let (cache, token) = (cache(PLENTY), sign(SECRET, r#"{"sub":"alice"}"#));
        let without_expiry = |mut verifier: Verifier| {
            verifier.issuers[0].no_expiry = true;
            verifier
        };
        let (first, _) = verify(&cache, &without_expiry(with_the_key()), &token, NOW_MS);
        let months_later = NOW_MS + 100 * 24 * 60 * 60 * 1_000;
        let again = verify(&cache, &without_expiry(with_another_key()), &token, months_later);
        assert_eq!(again, (first, true));
    }

    #[test]
    fn a_token_is_verified_again_by_a_clock_that_was_set_back() {
        let (cache, token) = (cache(PLENTY), sign(SECRET, r#"{"sub":"alice","exp":1100,"nbf":1000}"#));
        assert!(verify(&cache, &with_the_key(), &token, NOW_MS).0.is_ok());
        assert_eq!(verify(&cache, &with_the_key(), &token, NOW_MS - 1_000), (Err(Reason::NotYetValid), false));
        assert!(verify(&cache, &with_another_key(), &token, NOW_MS).1);
    }

    #[test]
    fn a_token_with_another_signature_is_not_known() {
        let (cache, token) = (cache(PLENTY), token("alice"));
        verify(&cache, &with_the_key(), &token, NOW_MS).0.unwrap();
        let (rest, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{rest}.{}{}", if signature.starts_with('A') { "B" } else { "A" }, &signature[1..]);
        assert_eq!(verify(&cache, &with_the_key(), &forged, NOW_MS), (Err(Reason::Signature), false));
        assert_eq!(verify(&cache, &with_the_key(), &forged, NOW_MS), (Err(Reason::Signature), true), "remembered");
    }

    #[test]
    fn a_known_token_that_has_ended_or_is_revoked_is_refused_in_the_verifiers_words() {
        let (cache, token) = (cache(PLENTY), token("alice"));
        verify(&cache, &with_the_key(), &token, NOW_MS).0.unwrap();
        assert_eq!(verify(&cache, &with_the_key(), &token, 1_100_000), (Err(Reason::Expired), false));
        let (revoked, known) = cache.verify(&with_the_key(), token.as_bytes(), NOW_MS, |_| true);
        assert_eq!((revoked.unwrap_err().reason, known), (Reason::Revoked, false));
        assert!(verify(&cache, &with_the_key(), &token, NOW_MS).0.is_ok(), "a revocation may be taken back");
    }

    /// What a later moment may judge otherwise is judged anew.
    #[test]
    fn of_refusals_only_that_of_a_signature_is_remembered() {
        let cache = cache(PLENTY);
        let early = sign(SECRET, r#"{"sub":"alice","exp":1100,"nbf":1050}"#);
        assert_eq!(verify(&cache, &with_the_key(), &early, NOW_MS), (Err(Reason::NotYetValid), false));
        assert!(verify(&cache, &with_the_key(), &early, 1_050_000).0.is_ok());
    }

    #[test]
    fn the_oldest_go_first_and_all_stay_within_the_bound() {
        let (cache, verifier) = (cache(STRIPES * 2_000), with_the_key());
        for user in 0..2_000 {
            assert!(verify(&cache, &verifier, &token(&user.to_string()), NOW_MS).0.is_ok());
            assert!(cache.bytes() <= STRIPES as u64 * 2_000);
        }
        let entries = usize::try_from(cache.entries()).unwrap();
        assert!((STRIPES..1_000).contains(&entries), "{entries}");
        assert!(verify(&cache, &with_another_key(), &token("1999"), NOW_MS).1, "the newest");
        assert!(verify(&cache, &with_another_key(), &token("0"), NOW_MS).0.is_err(), "the oldest");
    }

    #[test]
    fn tokens_that_have_ended_make_room_first() {
        let (cache, verifier) = (cache(PLENTY), with_the_key());
        for user in 0..500 {
            verify(&cache, &verifier, &token(&user.to_string()), NOW_MS).0.unwrap();
        }
        for user in 0..500 {
            let later = sign(SECRET, &format!(r#"{{"sub":"{user}","exp":2100}}"#));
            verify(&cache, &verifier, &later, 2_000_000).0.unwrap();
        }
        assert!(cache.entries() < 600, "{}", cache.entries());
    }

    #[test]
    fn forged_tokens_are_bounded_in_number() {
        let (cache, verifier) = (cache(PLENTY), with_another_key());
        for user in 0..2 * MOST_FORGED {
            assert_eq!(verify(&cache, &verifier, &token(&user.to_string()), NOW_MS).0, Err(Reason::Signature));
        }
        let remembered: usize = cache.stripes.iter().map(|stripe| stripe.lock().unwrap().forged.len()).sum();
        assert!((MOST_FORGED / 2..=MOST_FORGED).contains(&remembered), "{remembered}");
        assert_eq!(cache.entries(), 0);
    }

    /// A shard that waited for another one would be as slow as the slowest.
    #[test]
    fn a_stripe_that_another_shard_uses_is_not_waited_for() {
        let (cache, token) = (cache(PLENTY), token("alice"));
        let others: Vec<_> = cache.stripes.iter().map(|stripe| stripe.lock().unwrap()).collect();
        assert!(verify(&cache, &with_the_key(), &token, NOW_MS).0.is_ok());
        drop(others);
        assert_eq!(cache.entries(), 0);
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let (cache, token) = (cache(0), token("alice"));
        for _ in 0..2 {
            assert!(!verify(&cache, &with_the_key(), &token, NOW_MS).1);
        }
        assert_eq!((cache.entries(), cache.bytes()), (0, 0));
    }
}
