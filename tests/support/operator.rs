//! A nats-server in operator mode, which knows its users by tokens that their account signed, and such tokens.

use std::path::PathBuf;

use nkeys::KeyPair;

use super::nats::{Nats, NatsOptions};

/// A token as an operator-mode broker reads it: claims of `subject`, signed by `issuer`.
fn signed(issuer: &KeyPair, subject: &KeyPair, nats: serde_json::Value) -> String {
    signed_until(issuer, subject, nats, None)
}

/// The same, valid until `expiry`, in seconds since 1970.
fn signed_until(issuer: &KeyPair, subject: &KeyPair, nats: serde_json::Value, expiry: Option<u64>) -> String {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let mut claims = serde_json::json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "test", "nats": nats,
    });
    if let Some(expiry) = expiry {
        claims["exp"] = expiry.into();
    }
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", encode(&signature))
}

/// A broker that knows this account.
pub fn broker(account: &KeyPair) -> Nats {
    let operator = KeyPair::new_operator();
    let unlimited = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let operator_token = signed(&operator, &operator, serde_json::json!({"type": "operator", "version": 2}));
    let account_claims = serde_json::json!({"type": "account", "version": 2, "limits": unlimited});
    let account_token = signed(&operator, account, account_claims);
    let key = account.public_key();
    let config =
        format!("operator: \"{operator_token}\"\nresolver: MEMORY\nresolver_preload: {{ {key}: \"{account_token}\" }}");
    Nats::start_with(NatsOptions { config: Some(config), ..NatsOptions::default() })
}

/// Writes a credentials file of `user`, signed by `issuer`, into the broker's directory.
pub fn credentials_file(broker: &Nats, issuer: &KeyPair, user: &KeyPair, name: &str, expiry: Option<u64>) -> PathBuf {
    let claims = serde_json::json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let file = broker.directory().join(name);
    let content = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        signed_until(issuer, user, claims, expiry),
        user.seed().unwrap(),
    );
    std::fs::write(&file, content).unwrap();
    file
}
