//! An identity provider: keys that sign tokens, and a server that publishes them, or lies, stalls and is down.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

/// `iss` and `aud` of the tokens.
pub const ISSUER: &str = "https://login.example/";
pub const AUDIENCE: &str = "gateway";

/// A key pair (EdDSA).
pub struct SigningKey {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Its `kid` makes the key: the same name is the same key.
    pub fn new(kid: &'static str) -> Self {
        let mut seed = [0; 32];
        seed[..kid.len()].copy_from_slice(kid.as_bytes());
        Self { kid, pair: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap() }
    }

    /// The public key as a JWK (RFC 8037).
    pub fn jwk(&self) -> Value {
        let public = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.kid, "x": public})
    }

    /// A token of a user that holds for ten minutes and opens `chat.*`.
    pub fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"sub": user, "iss": ISSUER, "aud": [AUDIENCE, "another"], "iat": now, "exp": now + 600,
            "rooms": {"chat.*": "rw"}});
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": self.kid, "typ": "JWT"})), part(claims));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// What the server does with a request.
#[derive(Clone)]
pub enum Answer {
    /// Answers with these octets and closes.
    Octets(Vec<u8>),
    /// Closes without an answer.
    Nothing,
    /// Says nothing for longer than a node waits.
    Stall,
}

impl Answer {
    /// A JWKS.
    pub fn keys(keys: &[&SigningKey]) -> Self {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        Self::body("200 OK", &json!({ "keys": keys }).to_string())
    }

    /// An answer with a body.
    pub fn body(status: &str, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::Octets([head.as_bytes(), body.as_bytes()].concat())
    }
}

/// The server. Its thread ends with the test's process.
pub struct Provider {
    pub port: u16,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    /// Starts it on a free port.
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (answers, asks) = (answer.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                asks.fetch_add(1, Ordering::Relaxed);
                let answer = answers.lock().unwrap().clone();
                std::thread::spawn(move || serve(stream.unwrap(), answer));
            }
        });
        Self { port, answer, asked }
    }

    /// Where its keys are.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/keys", self.port)
    }

    /// What it does from now on.
    pub fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Requests so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// The settings of a node that takes its tokens.
    pub fn settings(&self) -> String {
        format!("[auth]\njwks_url = \"{}\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n", self.url())
    }
}

fn serve(mut stream: TcpStream, answer: Answer) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        if stream.read(&mut octet).unwrap_or(0) == 0 {
            return;
        }
        request.push(octet[0]);
    }
    match answer {
        // The peer may have gone, after too many octets.
        Answer::Octets(octets) => drop(stream.write_all(&octets)),
        Answer::Nothing => {}
        Answer::Stall => std::thread::sleep(Duration::from_secs(30)),
    }
}
