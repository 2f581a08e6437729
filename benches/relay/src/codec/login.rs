//! The beginning of a connection: the server's `INFO`, and the client's `CONNECT`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use super::error::ProtocolError;

/// What a server says of itself. What it leaves out is empty, zero or false; what it says beyond is not read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Info {
    /// The server's id, another one each time that it starts.
    pub server_id: String,
    /// Its name.
    pub server_name: String,
    /// Its version.
    pub version: String,
    /// The protocol's version: 1 and more sends `INFO` again when the cluster changes.
    pub proto: i32,
    /// The number of this connection on the server.
    pub client_id: u64,
    /// Whether it takes messages with headers (from version 2.2 on).
    pub headers: bool,
    /// Bytes of the largest message that it takes, headers and payload together.
    pub max_payload: usize,
    /// Whether it asks for a log-in.
    pub auth_required: bool,
    /// Whether the client has to begin TLS before it goes on.
    pub tls_required: bool,
    /// Whether the client may.
    pub tls_available: bool,
    /// What a key signs to log in.
    pub nonce: Option<String>,
    /// Other servers of the cluster, as `HOST:PORT`.
    pub connect_urls: Vec<String>,
    /// Lame duck mode: the server closes its connections soon.
    #[serde(rename = "ldm")]
    pub lame_duck_mode: bool,
    /// Whether it has JetStream.
    pub jetstream: bool,
}

impl Info {
    /// From what stands behind `INFO`.
    ///
    /// # Errors
    /// It is no JSON, or a field has another type.
    pub fn parse(json: &[u8]) -> Result<Self, ProtocolError> {
        serde_json::from_slice(json).map_err(|error| ProtocolError::BadInfo(error.to_string()))
    }
}

/// How the client logs in.
pub enum Credentials {
    /// Not at all.
    None,
    /// With a token.
    Token(String),
    /// With a user's name and password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// With a key whose public half the server knows: it signs the server's nonce.
    Nkey(KeyPair),
    /// With a signed user token (JWT) and its key.
    Jwt {
        /// The token.
        token: String,
        /// The key.
        key: KeyPair,
    },
}

/// Says which kind it is, and no secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token",
            Self::User { .. } => "User",
            Self::Nkey(_) => "Nkey",
            Self::Jwt { .. } => "Jwt",
        })
    }
}

/// Why the client cannot log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginError {
    /// A key is to prove the user, and the server sent no nonce to sign: it is not set up for keys.
    NoNonce,
    /// The key cannot sign: it is a public one.
    CannotSign,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNonce => "the server sent no nonce: it knows no user with a key or a signed token",
            Self::CannotSign => "the key has no secret half: a seed begins with SU",
        })
    }
}

impl std::error::Error for LoginError {}

#[derive(Serialize)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    echo: bool,
    headers: bool,
    no_responders: bool,
    protocol: u8,
    lang: &'a str,
    version: &'a str,
    name: &'a str,
    #[serde(flatten)]
    proof: Proof<'a>,
}

/// The part of `CONNECT` that proves the user; what is absent is not written.
#[derive(Default, Serialize)]
struct Proof<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// Appends `CONNECT`, the answer to `INFO`. `name` is shown in the server's lists of connections; `over_tls` says whether TLS was begun.
/// The answer is `-ERR` and the connection's end, or nothing: a `PING` behind it finds out.
///
/// # Errors
/// The credentials do not fit the server; nothing was appended.
pub fn connect(
    out: &mut Vec<u8>,
    name: &str,
    credentials: &Credentials,
    info: &Info,
    over_tls: bool,
) -> Result<(), LoginError> {
    let connect = Connect {
        verbose: false,
        pedantic: false,
        tls_required: over_tls,
        // The node's own messages come back, so that all its members see one order.
        echo: true,
        headers: info.headers,
        no_responders: false,
        protocol: 1,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        name,
        proof: credentials.proof(info.nonce.as_deref())?,
    };
    // Strings, numbers and booleans in a struct: this cannot fail.
    let json = serde_json::to_vec(&connect).unwrap_or_default();
    out.extend_from_slice(b"CONNECT ");
    out.extend_from_slice(&json);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

impl Credentials {
    fn proof(&self, nonce: Option<&str>) -> Result<Proof<'_>, LoginError> {
        let none = Proof::default();
        Ok(match self {
            Self::None => none,
            Self::Token(token) => Proof { auth_token: Some(token), ..none },
            Self::User { name, password } => Proof { user: Some(name), pass: Some(password), ..none },
            Self::Nkey(key) => Proof { nkey: Some(key.public_key()), sig: Some(sign(key, nonce)?), ..none },
            Self::Jwt { token, key } => Proof { jwt: Some(token), sig: Some(sign(key, nonce)?), ..none },
        })
    }
}

fn sign(key: &KeyPair, nonce: Option<&str>) -> Result<String, LoginError> {
    let nonce = nonce.filter(|nonce| !nonce.is_empty()).ok_or(LoginError::NoNonce)?;
    let signature = key.sign(nonce.as_bytes()).map_err(|_| LoginError::CannotSign)?;
    Ok(URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(credentials: &Credentials, info: &Info) -> Result<serde_json::Value, LoginError> {
        let mut out = Vec::new();
        connect(&mut out, "tidegate 0001", credentials, info, false)?;
        let json = out.strip_prefix(b"CONNECT ").unwrap().strip_suffix(b"\r\n").unwrap();
        Ok(serde_json::from_slice(json).unwrap())
    }

    #[test]
    fn what_a_server_leaves_out_or_adds_is_no_error() {
        let info = Info::parse(br#"{"version":"2.15.1","max_payload":1048576,"headers":true,"ldm":true,"later":[1]}"#)
            .unwrap();
        assert_eq!((&info.version[..], info.max_payload, info.lame_duck_mode), ("2.15.1", 1_048_576, true));
        assert_eq!((info.nonce, info.connect_urls), (None, Vec::new()));
        assert_eq!(Info::parse(b"{}"), Ok(Info::default()));
        for json in [&b""[..], b"1", b"{", br#"{"max_payload":"1"}"#, b"\xff"] {
            assert!(matches!(Info::parse(json), Err(ProtocolError::BadInfo(_))), "{json:?}");
        }
    }

    #[test]
    fn a_login_says_what_it_needs_and_nothing_else() {
        let info = Info { headers: true, ..Info::default() };
        let none = connected(&Credentials::None, &info).unwrap();
        let keys: Vec<_> = none.as_object().unwrap().keys().map(String::as_str).collect();
        let all = [
            "echo",
            "headers",
            "lang",
            "name",
            "no_responders",
            "pedantic",
            "protocol",
            "tls_required",
            "verbose",
            "version",
        ];
        assert_eq!(keys, all);
        let token = connected(&Credentials::Token("s\"3cret\r\n".into()), &info).unwrap();
        assert_eq!(token["auth_token"], "s\"3cret\r\n", "a token cannot end the line");
        let user = connected(&Credentials::User { name: "u".into(), password: "p".into() }, &info).unwrap();
        assert_eq!((&user["user"], &user["pass"]), (&"u".into(), &"p".into()));
    }

    #[test]
    fn a_key_signs_the_servers_nonce_and_is_refused_without_one() {
        let key = KeyPair::new_user();
        let (public, verifier) = (key.public_key(), KeyPair::from_public_key(&key.public_key()).unwrap());
        let info = Info { nonce: Some("abc".into()), ..Info::default() };
        for (credentials, field) in [
            (Credentials::Nkey(KeyPair::from_seed(&key.seed().unwrap()).unwrap()), "nkey"),
            (Credentials::Jwt { token: public.clone(), key }, "jwt"),
        ] {
            let said = connected(&credentials, &info).unwrap();
            assert_eq!(said[field], public);
            let signature = URL_SAFE_NO_PAD.decode(said["sig"].as_str().unwrap()).unwrap();
            assert!(verifier.verify(b"abc", &signature).is_ok());
            assert_eq!(connected(&credentials, &Info::default()).unwrap_err(), LoginError::NoNonce);
        }
        let public = Credentials::Nkey(verifier);
        assert_eq!(connected(&public, &info).unwrap_err(), LoginError::CannotSign);
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?}", [Credentials::Token("s3cret".into()), Credentials::Nkey(KeyPair::new_user())]);
        assert_eq!(shown, "[Token, Nkey]");
    }
}
