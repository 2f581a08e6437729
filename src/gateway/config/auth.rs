//! `[auth]`: which tokens open this node, and what they open: the section, `[[auth.issuers]]` and `[[auth.grants]]`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeArray;

use super::Config;
use super::checks::readable;
use super::file::{Contents, Places};
use super::tables::{Item, each};
use tidegate_core::auth::{Access, Cache, Issuer, Jwks, Key, Pattern, Template, Verifier};
use tidegate_core::setting::value::duration;
use tidegate_core::setting::{
    GIB, HOUR, MIB, MINUTE, SECOND, Value, ZERO, boolean, checked, choice, list, optional, quoted, rare, secret,
    settings, size, time,
};
use tidegate_core::shard::AuthOptions;

/// Keys of one kind that a token's signature may be tried with.
const MOST_SECRETS: usize = 4;
/// Octets of the largest file of keys.
const KEY_FILE_BYTES: u64 = 256 * 1024;

/// What a client without a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anonymous {
    /// Refused.
    Refuse,
    /// A guest.
    Allow,
}

settings! {
    /// `[auth]`: which tokens open this node. Without a key every client may connect.
    #[derive(Clone, PartialEq)]
    pub struct Auth in "auth" {
        /// Secret that signs tokens with HS256, at least 32 bytes; `auth.secret_file` may hold several, one a line. From the first key on, a token is required.
        secret: Option<Secrets> = None, optional("none", checked(Secrets::from_value, Secrets::shown)), secret();
        /// Public keys that verify tokens (PEM: RSA, EC on P-256 and P-384, Ed25519).
        public_key_file: Option<KeyFile> = None,
            optional("none", checked(public_keys, |file| quoted(&file.path.display()))), rare();
        /// Public keys that verify tokens, as a JWKS.
        jwks_file: Option<KeyFile> = None, optional("none", checked(jwks, |file| quoted(&file.path.display()))), rare();
        /// Where a provider publishes the public keys that verify tokens, as a JWKS: `https://`, on loopback also `http://`; needs `auth.issuer` and `auth.audience`.
        jwks_url: Option<String> = None, optional("none", checked(jwks_url, quoted)), rare();
        /// Certificates to trust at `auth.jwks_url` (PEM).
        ca_file: Option<PathBuf> = None,
            optional("the system's certificates", checked(readable, |path| quoted(&path.display()))), rare();
        /// `iss` that tokens must have.
        issuer: Option<String> = None, optional("any", checked(Value::filled, quoted)), rare();
        /// One of these must be in a token's `aud`; empty: any.
        audience: Vec<String> = Vec::new(), checked(Value::list, |audience| list(audience)), rare();
        /// Claim that names the user: a name, or a JSON pointer, such as `/https:~1~1app.example~1user`.
        user_claim: String = String::from("sub"), checked(Value::filled, quoted), rare();
        /// Claim that grants rooms.
        rooms_claim: String = String::from("rooms"), checked(Value::filled, quoted), rare();
        /// Claim that presence shows to others.
        info_claim: String = String::from("info"), checked(Value::filled, quoted), rare();
        /// `allow`: a client without a token is a guest, and may do what `[[rooms]]` opens to `any`.
        anonymous: Anonymous = Anonymous::Refuse,
            choice(&[("refuse", Anonymous::Refuse), ("allow", Anonymous::Allow)]), rare();
        /// Take tokens without `exp`; they end after `auth.max_lifetime`.
        no_expiry: bool = false, boolean(), rare();
        /// How far the clocks of this node and of the issuer may differ.
        leeway: Duration = 30 * SECOND, time(ZERO..=24 * HOUR), rare();
        /// How far away a token's `exp` may be.
        max_lifetime: Duration = 24 * HOUR, time(MINUTE..=366 * 24 * HOUR), rare();
        /// How long a token that comes as the first message may take.
        deadline: Duration = 5 * SECOND, time(SECOND..=MINUTE), rare();
        /// Memory for tokens that were verified before, which then cost no signature; 0: none.
        cache_bytes: u64 = 64 * MIB, size(0..=16 * GIB), rare();
        /// Cookie that may hold a token; needs a list of `origins`.
        cookie: Option<String> = None, optional("none", checked(cookie_name, quoted)), rare();
        /// A token may stand in the query, as `?token=`.
        query: bool = false, boolean(), rare();
    }
}

/// Secrets for HS256, one or several.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<String>);

impl Secrets {
    pub(in crate::gateway) fn from_value(value: &Value) -> Result<Self, String> {
        let text = match value {
            Value::InFile(path) => {
                fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?
            }
            Value::Text(text) => text.clone(),
            _ => return Err(String::from("is not text; put it in quotes")),
        };
        // The lines of a public key would be secrets that every client may know.
        if text.contains("-----BEGIN ") {
            return Err(String::from("is a PEM and no secret; name the file of a public key in auth.public_key_file"));
        }
        let secrets: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        match secrets.len() {
            1..=MOST_SECRETS => {}
            0 => return Err(String::from("holds no secret; `tidegate secret` makes one")),
            many => return Err(format!("holds {many} secrets; at most {MOST_SECRETS} may be valid at a time")),
        }
        for secret in &secrets {
            Key::secret(secret.as_bytes()).map_err(|error| error.to_string())?;
        }
        Ok(Self(secrets))
    }

    fn shown(&self) -> Option<String> {
        quoted(&"***")
    }

    /// The secret that signs: the first one.
    pub fn newest(&self) -> &str {
        &self.0[0]
    }
}

/// A file of public keys, as it was when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
    contents: Arc<str>,
}

impl KeyFile {
    fn read(value: &Value) -> Result<Self, String> {
        let path = PathBuf::from(value.filled()?);
        let unreadable = |error| format!("{} cannot be read: {error}", path.display());
        let size = fs::metadata(&path).map_err(unreadable)?.len();
        if size > KEY_FILE_BYTES {
            return Err(format!("{} has {size} bytes; at most {KEY_FILE_BYTES} are read", path.display()));
        }
        let contents = fs::read_to_string(&path).map_err(unreadable)?.into();
        Ok(Self { path, contents })
    }
}

fn public_keys(value: &Value) -> Result<KeyFile, String> {
    let file = KeyFile::read(value)?;
    Key::from_pem(file.contents.as_bytes()).map_err(|error| format!("{}: {error}", file.path.display()))?;
    Ok(file)
}

fn jwks(value: &Value) -> Result<KeyFile, String> {
    let file = KeyFile::read(value)?;
    match Key::from_jwks(&file.contents) {
        Ok(keys) if keys.is_empty() => Err(format!(
            "{} has no public key for signatures: RSA, EC on P-256 or P-384, or Ed25519",
            file.path.display()
        )),
        Ok(_) => Ok(file),
        Err(error) => Err(format!("{}: {error}", file.path.display())),
    }
}

/// A URL that keys may be fetched from. What the network could change on the way would decide who comes in.
fn jwks_url(value: &Value) -> Result<String, String> {
    let text = value.filled()?;
    let wrong = |why: &str| Err(format!("{why}; give a URL such as https://login.example/.well-known/jwks.json"));
    let Ok(url) = text.parse::<http::Uri>() else { return wrong("is no URL") };
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return wrong("is no URL") };
    if authority.as_str().contains('@') {
        return wrong("has a login in it, which is not sent");
    }
    let host = authority.host().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(text),
        "http" if is_loopback => Ok(text),
        "http" => wrong("is not encrypted: keys that others can change on their way let anybody in"),
        _ => wrong("is neither https:// nor http://"),
    }
}

fn cookie_name(value: &Value) -> Result<String, String> {
    let name = value.filled()?;
    // RFC 6265 §4.1.1: a token of RFC 2616.
    let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    if name.bytes().all(is_token) {
        Ok(name)
    } else {
        Err(format!("{name:?} is no cookie's name: letters, digits and !#$%&'*+-.^_`|~"))
    }
}

/// `[[auth.issuers]]`: one of several issuers. What it does not say is as in `[auth]`.
#[derive(Clone, PartialEq)]
pub struct TokenIssuer {
    /// `iss` of its tokens.
    pub issuer: String,
    pub(super) secret: Option<Secrets>,
    pub(super) public_key_file: Option<KeyFile>,
    pub(super) jwks_file: Option<KeyFile>,
    pub(super) jwks_url: Option<String>,
    pub(super) audience: Option<Vec<String>>,
    pub(super) user_claim: Option<String>,
    pub(super) rooms_claim: Option<String>,
    pub(super) info_claim: Option<String>,
    pub(super) leeway: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) no_expiry: Option<bool>,
    /// Its tokens open rooms within these only.
    pub(super) rooms: Vec<String>,
    /// Stands before the names of its users.
    pub(super) user_prefix: Option<String>,
}

impl TokenIssuer {
    fn has_keys(&self) -> bool {
        let has_file = self.public_key_file.is_some() || self.jwks_file.is_some();
        self.secret.is_some() || has_file || self.jwks_url.is_some()
    }

    /// What it says, key by key, as TOML. A secret is a comment, so that the mask never becomes a secret.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let text = |text: &Option<String>| text.as_ref().and_then(quoted);
        let path = |file: &Option<KeyFile>| file.as_ref().and_then(|file| quoted(&file.path.display()));
        let time = |time: Option<Duration>| time.map(duration).and_then(|time| quoted(&time));
        let rows = [
            ("issuer", quoted(&self.issuer)),
            ("# secret", self.secret.as_ref().and_then(Secrets::shown)),
            ("public_key_file", path(&self.public_key_file)),
            ("jwks_file", path(&self.jwks_file)),
            ("jwks_url", text(&self.jwks_url)),
            ("audience", self.audience.as_ref().and_then(|audience| list(audience))),
            ("user_claim", text(&self.user_claim)),
            ("rooms_claim", text(&self.rooms_claim)),
            ("info_claim", text(&self.info_claim)),
            ("leeway", time(self.leeway)),
            ("max_lifetime", time(self.max_lifetime)),
            ("no_expiry", self.no_expiry.map(|yes| yes.to_string())),
            ("rooms", (!self.rooms.is_empty()).then(|| list(&self.rooms)).flatten()),
            ("user_prefix", text(&self.user_prefix)),
        ];
        rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// `[[auth.grants]]`: rooms that every token opens, with its claims in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Patterns, such as `inbox.{sub}.*`.
    pub rooms: Vec<String>,
    /// `r`, `w` or `rw`.
    pub allow: String,
}

impl Grant {
    fn templates(&self) -> Result<Vec<Template>, String> {
        let access = Access::named(&self.allow).ok_or_else(|| format!("{:?} is not r, w or rw", self.allow))?;
        self.rooms.iter().map(|room| Template::new(room, access).map_err(|error| error.to_string())).collect()
    }
}

/// Reads `[[auth.issuers]]`.
pub(super) fn issuers(items: &DeArray<'_>, places: &Places<'_>, contents: &mut Contents) {
    const KEYS: [&str; 15] = [
        "issuer",
        "secret",
        "secret_file",
        "public_key_file",
        "jwks_file",
        "jwks_url",
        "audience",
        "user_claim",
        "rooms_claim",
        "info_claim",
        "leeway",
        "max_lifetime",
        "no_expiry",
        "rooms",
        "user_prefix",
    ];
    for (table, origin) in each("auth.issuers", items, places, &mut contents.problems) {
        let mut item = Item::of("auth.issuers", table, &KEYS, places, &mut contents.problems);
        let in_file = |value: &Value| Secrets::from_value(&Value::InFile(PathBuf::from(value.filled()?)));
        let issuer = item.required("issuer", "https://login.example/", Value::filled);
        let secret = item.read("secret", Secrets::from_value).or_else(|| item.read("secret_file", in_file));
        let read = TokenIssuer {
            issuer: issuer.clone().unwrap_or_default(),
            secret,
            public_key_file: item.read("public_key_file", public_keys),
            jwks_file: item.read("jwks_file", jwks),
            jwks_url: item.read("jwks_url", jwks_url),
            audience: item.read("audience", Value::list),
            user_claim: item.read("user_claim", Value::filled),
            rooms_claim: item.read("rooms_claim", Value::filled),
            info_claim: item.read("info_claim", Value::filled),
            leeway: item.read("leeway", |value| value.duration(ZERO..=24 * HOUR)),
            max_lifetime: item.read("max_lifetime", |value| value.duration(MINUTE..=366 * 24 * HOUR)),
            no_expiry: item.read("no_expiry", Value::boolean),
            rooms: item.read("rooms", patterns).unwrap_or_default(),
            user_prefix: item.read("user_prefix", Value::filled),
        };
        if !read.has_keys() {
            let named = KEYS[1..6].iter().any(|key| item.has(key));
            if !named {
                item.wrong(String::from(
                    "auth.issuers: it has no key; give it secret_file, public_key_file, jwks_file or jwks_url",
                ));
            }
            continue;
        }
        let taken = contents.tables.issuers.iter().find(|(other, _)| Some(&other.issuer) == issuer.as_ref());
        if let Some((other, first)) = taken {
            item.wrong(format!("auth.issuers: \"{}\" is at {first} already", other.issuer));
        } else if issuer.is_some() {
            contents.tables.issuers.push((read, origin));
        }
    }
}

/// Reads `[[auth.grants]]`.
pub(super) fn grants(items: &DeArray<'_>, places: &Places<'_>, contents: &mut Contents) {
    for (table, origin) in each("auth.grants", items, places, &mut contents.problems) {
        let mut item = Item::of("auth.grants", table, &["rooms", "allow"], places, &mut contents.problems);
        let rooms = item.required("rooms", "inbox.{sub}.*", Value::list);
        let allow = item.required("allow", "rw", Value::filled);
        let (Some(rooms), Some(allow)) = (rooms, allow) else { continue };
        let grant = Grant { rooms, allow };
        match grant.templates() {
            Ok(_) => contents.tables.grants.push((grant, origin)),
            Err(offence) => item.wrong(format!("auth.grants: {offence}")),
        }
    }
}

fn patterns(value: &Value) -> Result<Vec<String>, String> {
    let patterns = value.list()?;
    patterns.iter().try_for_each(|pattern| Pattern::new(pattern).map(drop).map_err(|error| error.to_string()))?;
    Ok(patterns)
}

impl Config {
    /// Whether tokens can be verified, so that clients need one.
    pub fn has_keys(&self) -> bool {
        !self.issuers.is_empty() || self.auth.has_keys()
    }

    /// How clients show who they are; `None` where no key is given.
    pub(super) fn auth_options(&self) -> Option<AuthOptions> {
        let grants: Vec<Template> =
            self.grants.iter().flat_map(|grant| grant.templates().unwrap_or_default()).collect();
        self.has_keys().then(|| AuthOptions {
            verifier: Arc::new(self.verifier(&grants)),
            cache: Arc::new(self.auth.cache()),
            grants: grants.into(),
            guests: self.auth.anonymous == Anonymous::Allow,
            key_unknown: None,
            cookie: self.auth.cookie.clone(),
            query: self.auth.query,
            deadline: self.auth.deadline,
        })
    }

    fn verifier(&self, grants: &[Template]) -> Verifier {
        let mut claims: Vec<String> = grants.iter().flat_map(Template::claims).map(str::to_owned).collect();
        claims.sort_unstable();
        claims.dedup();
        let own = self.auth.has_keys().then(|| self.auth.issuer());
        let issuers = self.issuers.iter().map(|issuer| issuer.with_defaults(&self.auth)).chain(own).collect();
        Verifier { issuers, claims }
    }
}

impl Auth {
    fn has_keys(&self) -> bool {
        let has_file = self.public_key_file.is_some() || self.jwks_file.is_some();
        self.secret.is_some() || has_file || self.jwks_url.is_some()
    }

    /// An empty token cache, with a random key. Where the kernel gives none, it keeps nothing.
    fn cache(&self) -> Cache {
        let (bytes, key) = random_key().map_or((0, [0; 32]), |key| (self.cache_bytes, key));
        Cache::new(usize::try_from(bytes).unwrap_or(usize::MAX), &key)
    }

    fn issuer(&self) -> Issuer {
        Issuer {
            name: self.issuer.clone(),
            audience: self.audience.clone(),
            keys: keys(self.secret.as_ref(), self.public_key_file.as_ref()),
            jwks: provided(self.jwks_file.as_ref(), self.jwks_url.as_deref()),
            provider: self.jwks_url.as_deref().map(Arc::from),
            user_claim: self.user_claim.clone(),
            rooms_claim: self.rooms_claim.clone(),
            info_claim: self.info_claim.clone(),
            leeway_ms: self.leeway.as_millis() as i64,
            max_lifetime_ms: self.max_lifetime.as_millis() as i64,
            no_expiry: self.no_expiry,
            rooms: Vec::new(),
            user_prefix: String::new(),
        }
    }
}

impl TokenIssuer {
    fn with_defaults(&self, auth: &Auth) -> Issuer {
        let auth = Auth {
            secret: self.secret.clone(),
            public_key_file: self.public_key_file.clone(),
            jwks_file: self.jwks_file.clone(),
            jwks_url: self.jwks_url.clone(),
            issuer: Some(self.issuer.clone()),
            audience: self.audience.clone().unwrap_or_else(|| auth.audience.clone()),
            user_claim: self.user_claim.clone().unwrap_or_else(|| auth.user_claim.clone()),
            rooms_claim: self.rooms_claim.clone().unwrap_or_else(|| auth.rooms_claim.clone()),
            info_claim: self.info_claim.clone().unwrap_or_else(|| auth.info_claim.clone()),
            leeway: self.leeway.unwrap_or(auth.leeway),
            max_lifetime: self.max_lifetime.unwrap_or(auth.max_lifetime),
            no_expiry: self.no_expiry.unwrap_or(auth.no_expiry),
            ..auth.clone()
        };
        let rooms = self.rooms.iter().filter_map(|pattern| Pattern::new(pattern).ok()).collect();
        Issuer { rooms, user_prefix: self.user_prefix.clone().unwrap_or_default(), ..auth.issuer() }
    }
}

/// A new random key, or a secret, from the kernel.
///
/// # Errors
/// /dev/urandom cannot be read.
pub fn random_key() -> io::Result<[u8; 32]> {
    let mut octets = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut octets)?;
    Ok(octets)
}

/// Keys of the configuration. What was read was checked.
fn keys(secrets: Option<&Secrets>, public: Option<&KeyFile>) -> Vec<Key> {
    let secrets = secrets.into_iter().flat_map(|secrets| &secrets.0);
    let secrets = secrets.filter_map(|secret| Key::secret(secret.as_bytes()).ok());
    let public = public.and_then(|file| Key::from_pem(file.contents.as_bytes()).ok()).unwrap_or_default();
    secrets.chain(public).collect()
}

/// Keys of a provider's file, or those that are still to be fetched.
fn provided(file: Option<&KeyFile>, url: Option<&str>) -> Jwks {
    let keys = file.and_then(|file| Key::from_jwks(&file.contents).ok());
    let awaited = if url.is_some() { Jwks::Awaited } else { Jwks::None };
    keys.map_or(awaited, Jwks::Loaded)
}
