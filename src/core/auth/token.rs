//! A token: three parts, a header, claims, a signature (RFC 7515 §7.1, RFC 7519), and the checks of it, cheapest first.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::claims::{Claims, WrongType};
use super::grants::{Pattern, Rights, is_value};
use super::keys::{Algorithm, Key};
use super::refused::{Reason, Unauthorized};
use crate::limits::USER_NAME_BYTES;
use crate::model::valid_user;

/// Octets of the longest token.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Octets of the longest `info`.
const INFO_BYTES: usize = 1024;
/// Keys that one signature is tried with.
const MOST_TRIES: usize = 4;

type Checked<T> = Result<T, Unauthorized>;

/// The keys that a provider publishes.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Jwks {
    /// No provider is configured.
    #[default]
    None,
    /// One is, and no keys came yet.
    Awaited,
    /// What it publishes.
    Loaded(Vec<Key>),
}

/// One issuer of tokens, with its keys and rules.
#[derive(Clone, PartialEq, Debug)]
pub struct Issuer {
    /// `iss` of its tokens; any where it is `None`.
    pub name: Option<String>,
    /// One of these must be in `aud`; any where there is none.
    pub audience: Vec<String>,
    /// Secrets and public keys of the configuration.
    pub keys: Vec<Key>,
    /// Keys of its provider.
    pub jwks: Jwks,
    /// The URL that they are fetched from; `None`: they come from a file.
    pub provider: Option<Arc<str>>,
    /// Name or JSON pointer of the claim that names the user.
    pub user_claim: String,
    /// Of the claim that holds the grants.
    pub rooms_claim: String,
    /// Of the claim that presence shows.
    pub info_claim: String,
    /// How far clocks may differ, in ms.
    pub leeway_ms: i64,
    /// How far away `exp` may be, in ms.
    pub max_lifetime_ms: i64,
    /// Tokens without `exp` are taken.
    pub no_expiry: bool,
    /// Its tokens open rooms within these only; any where there is none.
    pub rooms: Vec<Pattern>,
    /// Stands before the names of its users.
    pub user_prefix: String,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            name: None,
            audience: Vec::new(),
            keys: Vec::new(),
            jwks: Jwks::None,
            provider: None,
            user_claim: String::from("sub"),
            rooms_claim: String::from("rooms"),
            info_claim: String::from("info"),
            leeway_ms: 30_000,
            max_lifetime_ms: 24 * 60 * 60 * 1_000,
            no_expiry: false,
            rooms: Vec::new(),
            user_prefix: String::new(),
        }
    }
}

/// Everything that tokens are verified with. It never changes: other keys are another one.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Verifier {
    /// Those whose tokens are taken. One alone need not have a name.
    pub issuers: Vec<Issuer>,
    /// Claims that the configuration's grants name: their values are kept.
    pub claims: Vec<String>,
}

/// What a token says that was verified.
#[derive(Clone, PartialEq, Debug)]
pub struct Verified {
    /// The user; `None` in a room's own token for a guest.
    pub user: Option<Arc<str>>,
    /// What it opens.
    pub rights: Rights,
    /// `info`, as JSON.
    pub info: Option<Arc<str>>,
    /// How long it holds, leeway included, in ms from now.
    pub expires_in_ms: u64,
    /// Whether its `exp` says so. Else it holds for `auth.max_lifetime` from each time that it is verified.
    pub has_exp: bool,
    /// `iat`, in ms of Unix time.
    pub issued_unix_ms: Option<i64>,
    /// `jti`.
    pub id: Option<Arc<str>>,
    /// The issuer, by its place in [`Verifier::issuers`].
    pub issuer: usize,
    /// The key that made its signature; see [`Key::number`].
    pub key: u32,
}

/// The parts of a token, decoded.
struct Parts<'a> {
    header: String,
    claims: String,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl Verifier {
    /// Reads a token and checks all but its signature and its key: what can be said of one whose keys are elsewhere. It proves nothing.
    ///
    /// # Errors
    /// Why it would be refused whatever its key.
    pub fn read_unverified(&self, token: &[u8], now_unix_ms: i64) -> Checked<Verified> {
        let parts = Parts::of(token)?;
        let header = Claims::read(&parts.header).map_err(|error| malformed(format_args!("its header: {error}")))?;
        read_header(&header)?;
        let claims = Claims::read(&parts.claims).map_err(|error| malformed(format_args!("its claims: {error}")))?;
        let (place, issuer) = self.issuer(&claims)?;
        Ok(Verified { issuer: place, ..issuer.check(&claims, now_unix_ms, &self.claims)? })
    }

    /// Verifies a token at a time, in ms of Unix time. `is_revoked` is asked before the signature, which is the dearest check.
    ///
    /// # Errors
    /// Why it is refused: the reason, and a message that names what came and what is accepted.
    pub fn verify(&self, token: &[u8], now_unix_ms: i64, is_revoked: impl Fn(&Verified) -> bool) -> Checked<Verified> {
        let parts = Parts::of(token)?;
        let header = Claims::read(&parts.header).map_err(|error| malformed(format_args!("its header: {error}")))?;
        let (named, kid) = read_header(&header)?;
        let claims = Claims::read(&parts.claims).map_err(|error| malformed(format_args!("its claims: {error}")))?;
        let (place, issuer) = self.issuer(&claims)?;
        let algorithm = Algorithm::named(&named).filter(|algorithm| issuer.takes(*algorithm));
        let algorithm = algorithm.ok_or_else(|| issuer.other_algorithm(&named))?;
        let keys = issuer.candidates(algorithm, kid.as_deref())?;
        let mut verified = issuer.check(&claims, now_unix_ms, &self.claims)?;
        verified.issuer = place;
        if is_revoked(&verified) {
            return Err(Unauthorized::new(Reason::Revoked, "the token was revoked; get another one"));
        }
        let Some(key) = keys.iter().find(|key| key.verifies(algorithm, parts.signed, &parts.signature)) else {
            let text = "the signature fits none of this node's keys; sign with auth.secret or publish the key at auth.jwks_url";
            return Err(Unauthorized::new(Reason::Signature, text));
        };
        verified.key = key.number();
        Ok(verified)
    }

    /// The same with the keys that were fetched from a URL, for each issuer that has them from there.
    pub fn with_provided(&self, url: &str, keys: &[Key]) -> Self {
        let mut verifier = self.clone();
        for issuer in verifier.issuers.iter_mut().filter(|issuer| issuer.provider.as_deref() == Some(url)) {
            issuer.jwks = Jwks::Loaded(keys.to_vec());
        }
        verifier
    }

    /// The URLs that keys are to be fetched from, each once.
    pub fn providers(&self) -> Vec<Arc<str>> {
        let mut urls: Vec<_> = self.issuers.iter().filter_map(|issuer| issuer.provider.clone()).collect();
        urls.sort_unstable();
        urls.dedup();
        urls
    }

    /// Whether keys are still to come that were never loaded.
    pub fn awaits_keys(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.jwks == Jwks::Awaited)
    }

    /// All keys that signatures are tried with.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.issuers.iter().flat_map(|issuer| issuer.keys.iter().chain(issuer.provided()))
    }

    /// The issuer of a token.
    fn issuer(&self, claims: &Claims<'_>) -> Checked<(usize, &Issuer)> {
        let iss = claims.text("iss").map_err(|WrongType| wrong_type("iss", "a string"))?;
        let is_it = |issuer: &&Issuer| issuer.name.as_deref().is_none_or(|name| iss.as_deref() == Some(name));
        let found = self.issuers.iter().enumerate().find(|(_, issuer)| is_it(issuer));
        found.ok_or_else(|| {
            let known: Vec<&str> = self.issuers.iter().filter_map(|issuer| issuer.name.as_deref()).collect();
            let known = known.join("\", \"");
            let text = match iss {
                Some(iss) => format!("the token is of \"{iss}\"; this node takes those of \"{known}\" (auth.issuer)"),
                None => format!("the token has no iss; this node takes those of \"{known}\" (auth.issuer)"),
            };
            Unauthorized::new(Reason::Issuer, text)
        })
    }
}

impl<'a> Parts<'a> {
    fn of(token: &'a [u8]) -> Checked<Self> {
        if token.len() > TOKEN_BYTES {
            let text = format!("the token has {} bytes; at most {TOKEN_BYTES} are accepted", token.len());
            return Err(Unauthorized::new(Reason::TooLong, text));
        }
        let mut parts = token.split(|octet| *octet == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it must have three parts, with dots between them"));
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let octets = |part: &[u8], what: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(part);
            decoded.map_err(|_| malformed(format_args!("{what} must be base64url without padding")))
        };
        let text = |part: &[u8], what: &str| {
            String::from_utf8(octets(part, what)?).map_err(|_| malformed(format_args!("{what} must be UTF-8")))
        };
        Ok(Self {
            header: text(header, "its header")?,
            claims: text(claims, "its claims")?,
            signed,
            signature: octets(signature, "its signature")?,
        })
    }
}

/// `alg` and `kid`. Keys that a header brings or points to (`jwk`, `jku`, `x5c`, `x5u`) are ignored like all that is not known.
fn read_header<'a>(header: &Claims<'a>) -> Checked<(Cow<'a, str>, Option<Cow<'a, str>>)> {
    let text = |name| header.text(name).map_err(|WrongType| wrong_type(name, "a string"));
    let algorithm = text("alg")?.ok_or_else(|| malformed("its header has no alg"))?;
    // RFC 7515 §4.1.11: what is not understood and must be makes a token invalid. Nothing is understood here.
    if header.get("crit").is_some() {
        return Err(malformed("its header has crit, and this node knows no extension that could be critical"));
    }
    if header.get("b64").is_some() {
        return Err(malformed("its header has b64 (RFC 7797), which no token may have"));
    }
    Ok((algorithm, text("kid")?))
}

impl Issuer {
    fn provided(&self) -> &[Key] {
        match &self.jwks {
            Jwks::Loaded(keys) => keys,
            Jwks::None | Jwks::Awaited => &[],
        }
    }

    /// Whether a key takes the algorithm, or one that is still to come may.
    fn takes(&self, algorithm: Algorithm) -> bool {
        let may_come = matches!(self.jwks, Jwks::Awaited) && algorithm != Algorithm::Hs256;
        may_come || self.keys.iter().chain(self.provided()).any(|key| key.takes(algorithm))
    }

    fn other_algorithm(&self, named: &str) -> Unauthorized {
        let taken: Vec<&str> = Algorithm::ALL.into_iter().filter(|one| self.takes(*one)).map(Algorithm::name).collect();
        let text = format!("the token is signed with \"{named}\"; the keys of this node take {}", taken.join(", "));
        Unauthorized::new(Reason::Algorithm, text)
    }

    /// The keys that the signature is tried with. `kid` chooses among those of the provider; all others of the algorithm are tried.
    fn candidates(&self, algorithm: Algorithm, kid: Option<&str>) -> Checked<Vec<&Key>> {
        let is_meant = |key: &&Key| kid.is_none() || key.id.is_none() || key.id.as_deref() == kid;
        let own = self.keys.iter().filter(|key| key.takes(algorithm));
        let provided = self.provided().iter().filter(|key| key.takes(algorithm)).filter(is_meant);
        let found: Vec<&Key> = provided.chain(own).take(MOST_TRIES).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        if matches!(self.jwks, Jwks::Awaited) {
            return Err(Unauthorized::new(
                Reason::KeysUnavailable,
                "this node has not loaded its keys yet; come back in a few seconds with the same token",
            ));
        }
        let text = "no key at auth.jwks_url has the token's kid; the keys are loaded anew, come back in a few seconds";
        Err(Unauthorized::new(Reason::UnknownKey, text))
    }

    /// The checks of the claims; the issuer's place is the caller's to set.
    fn check(&self, claims: &Claims<'_>, now_ms: i64, kept: &[String]) -> Checked<Verified> {
        let expires_in_ms = self.check_times(claims, now_ms)?;
        self.check_audience(claims)?;
        let user = self.user(claims)?;
        let values: Vec<(&str, Cow<'_, str>)> = kept
            .iter()
            .filter_map(|name| Some((name.as_str(), claims.text(name).ok()??)))
            .filter(|(_, value)| is_value(value))
            .collect();
        let rights = Rights::of_claim(claims.get(&self.rooms_claim), &self.confines(), &values)
            .map_err(|error| Unauthorized::new(Reason::Rooms, format!("the token's {}: {error}", self.rooms_claim)))?;
        let info = claims.get(&self.info_claim).map(|info| info.get());
        if info.is_some_and(|info| info.len() > INFO_BYTES) {
            return Err(malformed(format_args!("its {} has more than {INFO_BYTES} bytes", self.info_claim)));
        }
        Ok(Verified {
            user,
            rights,
            info: info.map(Arc::from),
            expires_in_ms,
            has_exp: claims.time_ms("exp").ok().flatten().is_some(),
            issued_unix_ms: claims.time_ms("iat").ok().flatten(),
            id: claims.text("jti").map_err(|WrongType| wrong_type("jti", "a string"))?.map(Arc::from),
            issuer: 0,
            key: 0,
        })
    }

    /// How long the token holds, in ms.
    fn check_times(&self, claims: &Claims<'_>, now_ms: i64) -> Checked<u64> {
        let time = |name| claims.time_ms(name).map_err(|WrongType| wrong_type(name, "a number of seconds"));
        let (issued, begins, ends) = (time("iat")?, time("nbf")?, time("exp")?);
        for from in [begins, issued].into_iter().flatten() {
            if from > now_ms.saturating_add(self.leeway_ms) {
                let (from, now) = (clock(from), clock(now_ms));
                let text =
                    format!("the token is valid from {from}, and this node's clock says {now}; check the clocks");
                return Err(Unauthorized::new(Reason::NotYetValid, text));
            }
        }
        let longest = || format!("at most {} s away (auth.max_lifetime)", self.max_lifetime_ms / 1_000);
        let Some(ends) = ends else {
            if self.no_expiry {
                return Ok(self.max_lifetime_ms as u64);
            }
            let text = format!("the token has no exp; give it one, {}", longest());
            return Err(Unauthorized::new(Reason::NoExpiry, text));
        };
        if ends.saturating_add(self.leeway_ms) <= now_ms {
            let text = format!("the token ended at {}, and this node's clock says {}", clock(ends), clock(now_ms));
            return Err(Unauthorized::new(Reason::Expired, text));
        }
        if ends > now_ms.saturating_add(self.max_lifetime_ms).saturating_add(self.leeway_ms) {
            let text = format!("the token's exp is too far away; it may be {}", longest());
            return Err(Unauthorized::new(Reason::Lifetime, text));
        }
        Ok((ends + self.leeway_ms - now_ms) as u64)
    }

    fn check_audience(&self, claims: &Claims<'_>) -> Checked<()> {
        let told = claims.texts("aud").map_err(|WrongType| wrong_type("aud", "a string or a list of strings"))?;
        if self.audience.is_empty() || told.iter().any(|one| self.audience.iter().any(|own| own == one)) {
            return Ok(());
        }
        let own = self.audience.join("\", \"");
        let text = match told.as_slice() {
            [] => format!("the token has no aud; this node takes \"{own}\" (auth.audience)"),
            _ => format!("the token is for \"{}\"; this node takes \"{own}\" (auth.audience)", told.join("\", \"")),
        };
        Err(Unauthorized::new(Reason::Audience, text))
    }

    fn user(&self, claims: &Claims<'_>) -> Checked<Option<Arc<str>>> {
        let name = claims.text(&self.user_claim).map_err(|WrongType| wrong_type(&self.user_claim, "a string"))?;
        let Some(name) = name else { return Ok(None) };
        let name = format!("{}{name}", self.user_prefix);
        if !valid_user(&name) {
            let text = format!(
                "the token's {} is no valid user: 1 to {USER_NAME_BYTES} bytes of printable ASCII without space, *, >, \" and \\, \
                 no empty part between dots, no leading $",
                self.user_claim
            );
            return Err(Unauthorized::new(Reason::User, text));
        }
        Ok(Some(name.into()))
    }

    /// Where its grants hold: its rooms, and the users that bear its prefix.
    fn confines(&self) -> Vec<Pattern> {
        let mut confines = self.rooms.clone();
        if !confines.is_empty() && !self.user_prefix.is_empty() {
            confines.extend(Pattern::new(&format!("$user.{}*", self.user_prefix)));
        }
        confines
    }
}

/// A token with these claims, a JSON object, signed with HS256.
pub fn sign(secret: &[u8], claims: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn malformed(what: impl std::fmt::Display) -> Unauthorized {
    Unauthorized::new(Reason::Malformed, format!("the token is malformed: {what}"))
}

fn wrong_type(claim: &str, wanted: &str) -> Unauthorized {
    malformed(format_args!("{claim} must be {wanted}"))
}

/// A Unix time in ms as RFC 3339 writes it, in UTC.
fn clock(unix_ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1_000)).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{} s of Unix time", unix_ms / 1_000))
}
