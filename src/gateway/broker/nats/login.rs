//! The log-in: which credentials the broker is given. Files are read at each connection, so that a rotated password, or credentials
//! that expire and are renewed, need no restart.

use std::io;
use std::path::{Path, PathBuf};

use async_nats::Auth;
use nkeys::KeyPair;

use crate::gateway::config::{self, Secret};

/// How the node logs in.
#[derive(Clone)]
pub(super) enum Login {
    None,
    Token(Secret),
    User(String, Secret),
    /// A credentials file: a signed user token (JWT) and its key.
    Credentials(PathBuf),
    /// A seed, whose public key the broker knows.
    Nkey(Secret),
}

impl Login {
    /// From the settings; `None` where they name no way to log in.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be, so that a wrong one is an error at start and not a warning for ever.
    pub(super) fn new(nats: &config::Nats) -> io::Result<Option<Self>> {
        if let Some(file) = &nats.credentials {
            credentials(file).map_err(io::Error::other)?;
            return Ok(Some(Self::Credentials(file.clone())));
        }
        if let Some(seed) = &nats.nkey {
            key_pair("nats.nkey", seed.text()).map_err(io::Error::other)?;
            return Ok(Some(Self::Nkey(seed.clone())));
        }
        let user = nats.user.clone().zip(nats.password.clone()).map(|(user, password)| Self::User(user, password));
        Ok(user.or_else(|| nats.token.clone().map(Self::Token)))
    }

    /// What the broker is given now, with its nonce signed where a key proves the user. It reads files, and blocks.
    ///
    /// # Errors
    /// Which setting, and why its file cannot be used.
    pub(super) fn auth(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::Token(token) => auth.token = Some(named("nats.token_file", token.read())?),
            Self::User(user, password) => {
                auth.username = Some(user.clone());
                auth.password = Some(named("nats.password_file", password.read())?);
            }
            Self::Credentials(file) => {
                let (token, key) = credentials(file)?;
                auth.jwt = Some(token);
                auth.signature = Some(sign("nats.credentials", &key, nonce)?);
            }
            Self::Nkey(seed) => {
                let key = key_pair("nats.nkey_file", &named("nats.nkey_file", seed.read())?)?;
                auth.nkey = Some(key.public_key());
                auth.signature = Some(sign("nats.nkey_file", &key, nonce)?);
            }
        }
        Ok(auth)
    }

    /// What to do where the broker refuses it.
    pub(super) fn cure(&self) -> String {
        let (what, file) = match self {
            Self::None => {
                return String::from(
                    "it asks for a login: set nats.token, nats.user and nats.password, nats.nkey, or nats.credentials",
                );
            }
            Self::Token(token) => ("it does not accept nats.token", token.file()),
            Self::User(_, password) => ("it does not accept nats.user with nats.password", password.file()),
            Self::Credentials(file) => ("it does not accept the user of nats.credentials", Some(file.as_path())),
            Self::Nkey(seed) => ("it does not accept nats.nkey", seed.file()),
        };
        match file {
            Some(file) => format!("{what}; {} is read again at each attempt", file.display()),
            None => format!("{what}; a secret that is rotated should stand in a file (nats.password_file, …)"),
        }
    }
}

fn named(setting: &str, read: Result<String, String>) -> Result<String, String> {
    read.map_err(|error| format!("{setting}: {error}"))
}

/// The signed token and the key of a credentials file: the first two blocks between lines of dashes.
fn credentials(file: &Path) -> Result<(String, KeyPair), String> {
    let setting = "nats.credentials";
    let content =
        std::fs::read_to_string(file).map_err(|error| format!("{setting}: cannot read {}: {error}", file.display()))?;
    let is_fence = |line: &str| line.starts_with("---") && line.ends_with("---");
    let lines: Vec<&str> = content.lines().map(str::trim).collect();
    let mut blocks = lines.windows(3).filter_map(|lines| match lines {
        [begin, body, end] if is_fence(begin) && is_fence(end) && !body.is_empty() => Some(*body),
        _ => None,
    });
    let (Some(token), Some(seed)) = (blocks.next(), blocks.next()) else {
        let shown = file.display();
        return Err(format!("{setting}: {shown} is no credentials file: it holds no user token and key"));
    };
    Ok((token.to_owned(), key_pair(setting, seed)?))
}

fn key_pair(setting: &str, seed: &str) -> Result<KeyPair, String> {
    // The error may hold a part of the seed.
    KeyPair::from_seed(seed).map_err(|_| format!("{setting}: not the seed of a user's key; it begins with SU"))
}

fn sign(setting: &str, key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, String> {
    key.sign(nonce).map_err(|error| format!("{setting}: cannot sign the broker's nonce: {error}"))
}
