//! Keys that verify signatures. A key fixes the algorithm; a token never chooses one.
//!
//! The signatures themselves are ring's. A PEM file is read by the crate `pem`, the SubjectPublicKeyInfo in it (RFC 5280 §4.1.2.7) by
//! `spki`; a JSON Web Key is RFC 7517's.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, hmac, signature};
use serde::Deserialize;
use serde_json::value::RawValue;
use spki::SubjectPublicKeyInfoRef;
use spki::der::asn1::UintRef;
use spki::der::{Decode as _, Reader as _, SliceReader};

/// Octets of the shortest secret that HS256 takes: those of its hash (RFC 7518 §3.2).
pub const LEAST_SECRET_BYTES: usize = 32;
/// Bits of the shortest RSA modulus (RFC 7518 §3.3).
const LEAST_RSA_BITS: usize = 2048;
/// Entries of a JWKS that are read; what comes after them is left out.
const MOST_JWKS_KEYS: usize = 64;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";

/// Signature algorithms that are taken (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Hs256, Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name. Names are case-sensitive (RFC 7515 §4.1.1).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Why something is no key for tokens; what is accepted is part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadKey(pub Cow<'static, str>);

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that verifies signatures.
#[derive(Clone)]
pub struct Key {
    /// `kid`, where it has one.
    pub(super) id: Option<Box<str>>,
    /// The one algorithm that a JWK's `alg` allows.
    only: Option<Algorithm>,
    /// The first 128 bits of SHA-256 over its kind and its octets: what it is known by.
    fingerprint: u128,
    material: Material,
}

/// Keys are equal that verify the same signatures of the same tokens.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.fingerprint, &self.id, self.only) == (other.fingerprint, &other.id, other.only)
    }
}

#[derive(Clone)]
enum Material {
    Secret(hmac::Key),
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    /// An uncompressed point.
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

impl fmt::Debug for Key {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms()).finish_non_exhaustive()
    }
}

impl Key {
    /// A secret for HS256.
    ///
    /// # Errors
    /// It is shorter than [`LEAST_SECRET_BYTES`].
    pub fn secret(secret: &[u8]) -> Result<Self, BadKey> {
        if secret.len() < LEAST_SECRET_BYTES {
            let text = format!(
                "the secret has {} bytes; HS256 needs at least {LEAST_SECRET_BYTES}: `tidegate secret` makes one",
                secret.len()
            );
            return Err(BadKey(text.into()));
        }
        let material = Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret));
        Ok(Self { id: None, only: None, fingerprint: fingerprint(b"secret", &[secret]), material })
    }

    /// The public keys of a PEM file, in order.
    ///
    /// # Errors
    /// There is none, or a part of the file is no public key.
    pub fn from_pem(file: &[u8]) -> Result<Vec<Self>, BadKey> {
        let sections = pem::parse_many(file).map_err(|error| BadKey(format!("it is no PEM: {error}").into()))?;
        if sections.is_empty() {
            return Err(BadKey("it has no `-----BEGIN PUBLIC KEY-----`".into()));
        }
        sections.iter().map(Self::of_section).collect()
    }

    fn of_section(section: &pem::Pem) -> Result<Self, BadKey> {
        match section.tag() {
            "PUBLIC KEY" => Self::from_spki(section.contents()),
            "RSA PUBLIC KEY" => rsa_of_der(section.contents()).map(Self::of),
            "CERTIFICATE" => Err(BadKey(
                "it is a certificate; a public key is wanted: `openssl x509 -pubkey -noout -in FILE` prints it".into(),
            )),
            tag if tag.contains("PRIVATE KEY") => Err(BadKey(
                "it is a private key, which belongs to the issuer alone; `openssl pkey -pubout -in FILE` prints the public one"
                    .into(),
            )),
            tag => Err(BadKey(format!("`{tag}` is no public key; `PUBLIC KEY` is accepted").into())),
        }
    }

    /// The key of a DER-encoded SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// It is none, or of a kind that signs no token here.
    pub fn from_spki(der: &[u8]) -> Result<Self, BadKey> {
        let invalid = || BadKey("it is no SubjectPublicKeyInfo in DER".into());
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| invalid())?;
        let octets = info.subject_public_key.as_bytes().ok_or_else(invalid)?;
        let curve = info.algorithm.parameters_oid().map(|oid| oid.to_string()).unwrap_or_default();
        let material = match (info.algorithm.oid.to_string().as_str(), curve.as_str()) {
            (RSA, _) => rsa_of_der(octets)?,
            (EC, P256) => point(octets, 32).map(Material::P256)?,
            (EC, P384) => point(octets, 48).map(Material::P384)?,
            (ED25519, _) => ed25519(octets)?,
            _ => return Err(BadKey("it is neither RSA, nor EC on P-256 or P-384, nor Ed25519".into())),
        };
        Ok(Self::of(material))
    }

    /// The keys of a JWKS (RFC 7517 §5). Entries that are for something else or are not understood are left out: a provider publishes
    /// keys for others too. Symmetric keys are left out: what a provider publishes is no secret.
    ///
    /// # Errors
    /// It is no object with a list `keys`.
    pub fn from_jwks(json: &str) -> Result<Vec<Self>, BadKey> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }

        let set: Set<'_> = serde_json::from_str(json)
            .map_err(|error| BadKey(format!("it is no JWKS, an object with a list `keys`: {error}").into()))?;
        let entries = set.keys.into_iter().take(MOST_JWKS_KEYS);
        Ok(entries.filter_map(|entry| serde_json::from_str::<Jwk>(entry.get()).ok()?.key()).collect())
    }

    fn of(material: Material) -> Self {
        Self { id: None, only: None, fingerprint: material.fingerprint(), material }
    }

    /// The number that sessions know it by: the same wherever and whenever the same key is read, and another for another key.
    pub const fn number(&self) -> u32 {
        self.fingerprint as u32
    }

    /// `kid`, where it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it verifies signatures of this algorithm.
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        let of_its_kind = match self.material {
            Material::Secret(_) => matches!(algorithm, Algorithm::Hs256),
            Material::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
            Material::P256(_) => matches!(algorithm, Algorithm::Es256),
            Material::P384(_) => matches!(algorithm, Algorithm::Es384),
            Material::Ed25519(_) => matches!(algorithm, Algorithm::EdDsa),
        };
        of_its_kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// The algorithms that it takes.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        Algorithm::ALL.into_iter().filter(|algorithm| self.takes(*algorithm)).collect()
    }

    /// Whether this key made the signature of this message. False also where it does not take the algorithm.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], made: &[u8]) -> bool {
        if !self.takes(algorithm) {
            return false;
        }
        let public = |algorithm, key: &[u8]| signature::UnparsedPublicKey::new(algorithm, key).verify(message, made);
        let verified = match &self.material {
            Material::Secret(key) => hmac::verify(key, message, made),
            Material::Rsa { n, e } => {
                let parameters = if algorithm == Algorithm::Ps256 {
                    &signature::RSA_PSS_2048_8192_SHA256
                } else {
                    &signature::RSA_PKCS1_2048_8192_SHA256
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, made)
            }
            Material::P256(point) => public(&signature::ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => public(&signature::ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => public(&signature::ED25519, key),
        };
        verified.is_ok()
    }
}

impl Material {
    fn fingerprint(&self) -> u128 {
        match self {
            // Its octets are not kept: the caller has them.
            Self::Secret(_) => 0,
            Self::Rsa { n, e } => fingerprint(b"rsa", &[n, e]),
            Self::P256(point) => fingerprint(b"p256", &[point]),
            Self::P384(point) => fingerprint(b"p384", &[point]),
            Self::Ed25519(key) => fingerprint(b"ed25519", &[key]),
        }
    }
}

/// Each part goes in with its length, so that no two keys read alike.
fn fingerprint(kind: &[u8], parts: &[&[u8]]) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in std::iter::once(&kind).chain(parts) {
        context.update(&part.len().to_le_bytes());
        context.update(part);
    }
    context.finish().as_ref().first_chunk().map_or(0, |first| u128::from_le_bytes(*first))
}

/// What of a JSON Web Key is read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn key(&self) -> Option<Key> {
        let for_signatures = self.r#use.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|name| name == "verify"));
        if !for_signatures {
            return None;
        }
        let octets = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_deref()?).ok();
        let point = |size| point(&[&[4], &octets(&self.x)?[..], &octets(&self.y)?[..]].concat(), size).ok();
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => rsa(&octets(&self.n)?, &octets(&self.e)?).ok()?,
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => ed25519(&octets(&self.x)?).ok()?,
            _ => return None,
        };
        // An `alg` that is not known is another algorithm than those that this key would take here.
        let only = self.alg.as_deref().map(Algorithm::named);
        if only == Some(None) {
            return None;
        }
        Some(Key { id: self.kid.as_deref().map(Box::from), only: only.flatten(), ..Key::of(material) })
    }
}

/// The key of an RSAPublicKey in DER (RFC 8017 §A.1.1).
fn rsa_of_der(der: &[u8]) -> Result<Material, BadKey> {
    let invalid = |_| BadKey("it is no RSA public key".into());
    let mut reader = SliceReader::new(der).map_err(invalid)?;
    let (n, e) = reader.sequence(|inner| Ok((UintRef::decode(inner)?, UintRef::decode(inner)?))).map_err(invalid)?;
    rsa(n.as_bytes(), e.as_bytes())
}

fn rsa(n: &[u8], e: &[u8]) -> Result<Material, BadKey> {
    let without_zeros = |number: &[u8]| -> Box<[u8]> {
        let zeros = number.iter().take_while(|octet| **octet == 0).count();
        number[zeros..].into()
    };
    let (n, e) = (without_zeros(n), without_zeros(e));
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if bits < LEAST_RSA_BITS {
        let text = format!("the RSA key has {bits} bits; at least {LEAST_RSA_BITS} are accepted");
        return Err(BadKey(text.into()));
    }
    Ok(Material::Rsa { n, e })
}

/// An uncompressed point whose coordinates have `size` octets each.
fn point(octets: &[u8], size: usize) -> Result<Box<[u8]>, BadKey> {
    if octets.len() == 1 + 2 * size && octets[0] == 4 {
        Ok(octets.into())
    } else {
        Err(BadKey("it is no uncompressed point of its curve".into()))
    }
}

fn ed25519(octets: &[u8]) -> Result<Material, BadKey> {
    if octets.len() == 32 { Ok(Material::Ed25519(octets.into())) } else { Err(BadKey("it is no Ed25519 key".into())) }
}
