//! `tidegate secret` and `tidegate token`: what signs tokens, and what a node would make of one. No node is asked.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::{failed, misused};
use crate::gateway::config::{Config, random_key};
use tidegate_core::auth::{self, Reason, TOKEN_BYTES, Verified};

/// Prints a new secret, in hexadecimal digits.
pub fn secret() -> ExitCode {
    // As many octets as the hash has.
    let octets = match random_key() {
        Ok(octets) => octets,
        Err(error) => return failed(format!("the kernel gives no random octets (/dev/urandom): {error}")),
    };
    let digits = octets.iter().fold(String::new(), |mut digits, octet| {
        let _ = write!(digits, "{octet:02x}");
        digits
    });
    print(&digits)
}

/// Prints a token for a user, signed with `auth.secret`. `rooms` are patterns, each with what it allows, such as `chat.*=rw`.
pub fn make_token(config: &Config, user: &str, rooms: &[String], ttl: Duration) -> ExitCode {
    let Some(secrets) = &config.auth.secret else {
        return misused(
            "token signs with auth.secret, and there is none; `tidegate secret > FILE` makes one for auth.secret_file",
        );
    };
    let mut granted = Map::new();
    for room in rooms {
        let Some((pattern, allow)) = room.rsplit_once('=') else {
            return misused(format!(
                "--room: \"{room}\" says not what it allows; write {room}=r, {room}=w or {room}=rw"
            ));
        };
        granted.insert(pattern.to_owned(), json!(allow));
    }
    let now = now();
    let mut claims = json!({ "iat": now.as_secs(), "exp": (now + ttl).as_secs() });
    let auth = &config.auth;
    for claim in [&auth.user_claim, &auth.rooms_claim] {
        if claim.starts_with('/') {
            return misused(format!("token writes claims at the top only, and this node looks for one at {claim}"));
        }
    }
    claims[&auth.user_claim] = json!(user);
    claims[&auth.rooms_claim] = Value::Object(granted);
    for (claim, value) in [("iss", auth.issuer.as_ref()), ("aud", auth.audience.first())] {
        if let Some(value) = value {
            claims[claim] = json!(value);
        }
    }
    let token = auth::sign(secrets.newest().as_bytes(), &claims.to_string());
    match verify(config, &token) {
        Ok(_) => print(&token),
        Err(text) => misused(format!("this node would refuse the token: {text}")),
    }
}

/// Says what this node would make of the token in a file; `-` is standard input.
pub fn check_token(config: &Config, file: &Path) -> ExitCode {
    let mut text = String::new();
    let read = match file.to_str() {
        // One octet more than a token may have tells a long one from the longest.
        Some("-") => stdin().take(TOKEN_BYTES as u64 + 2).read_to_string(&mut text).map(drop),
        _ => fs::read_to_string(file).map(|read| text = read),
    };
    if let Err(error) = read {
        return misused(format!("--check: {} cannot be read: {error}", file.display()));
    }
    match verify(config, text.trim()) {
        Ok((verified, None)) => print(&format!("this node takes the token{}", told(&verified))),
        Ok((verified, Some(url))) => print(&format!(
            "this node takes the token if a key at {url} signed it; no node and no provider was asked{}",
            told(&verified)
        )),
        Err(text) => failed(format!("this node would refuse the token: {text}")),
    }
}

/// What the token says, and where its key must be if it is none of this node's settings.
fn verify(config: &Config, token: &str) -> Result<(Verified, Option<Arc<str>>), String> {
    let Some(options) = config.shard_options().auth else {
        return Err(String::from(
            "it has no key; give it auth.secret_file, auth.public_key_file, auth.jwks_file or auth.jwks_url",
        ));
    };
    let (verifier, token, now) = (&options.verifier, token.as_bytes(), now().as_millis() as i64);
    let verified = match verifier.verify(token, now, |_| false) {
        Err(refused) if refused.reason == Reason::KeysUnavailable => {
            verifier.read_unverified(token, now).map(|verified| {
                let provider = verifier.issuers[verified.issuer].provider.clone();
                (verified, provider)
            })
        }
        verified => verified.map(|verified| (verified, None)),
    };
    verified.map_err(|refused| format!("{}: {}", refused.reason.name(), refused.message))
}

fn told(verified: &Verified) -> String {
    let user = verified.user.as_deref().map_or_else(|| String::from("none, for a guest"), |user| format!("\"{user}\""));
    let ends = Duration::from_secs(verified.expires_in_ms / 1_000);
    let mut text = format!("\nuser: {user}\nends: in {ends:?}, leeway included");
    for (allow, pattern) in verified.rights.grants() {
        let _ = write!(text, "\nrooms: {pattern} {allow}");
    }
    text
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn print(text: &str) -> ExitCode {
    match writeln!(stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(format!("standard output: {error}")),
        _ => ExitCode::SUCCESS,
    }
}
