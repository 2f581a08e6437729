//! What a client is told. Each writer appends one JSON object.
//!
//! Tokens that a client chose (`reference`, [`Content::Json`]) are valid JSON, checked when they came in, and go out as they
//! are; everything else is escaped here.

use std::cell::RefCell;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::dialect::{ClientLimits, ErrorCode, Identity};

/// What a publication's payload becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// Valid JSON, written as it is.
    Json(&'a [u8]),
    /// Written as a JSON string.
    Text(&'a str),
    /// Written in base64, with `"encoding":"base64"`.
    Binary(&'a [u8]),
}

/// What a `welcome` says beside the connection's id: the same for all connections of a node, until its broker takes other messages.
#[derive(Clone, PartialEq, Eq, Default)]
struct Greeting {
    node: String,
    heartbeat_ms: [u64; 2],
    limits: ClientLimits,
}

impl Greeting {
    fn write(&self, out: &mut Vec<u8>) {
        raw(out, r#"","node":"#);
        string(out, &self.node);
        raw(out, r#","pingInterval":"#);
        number(out, self.heartbeat_ms[0]);
        raw(out, r#","pongTimeout":"#);
        number(out, self.heartbeat_ms[1]);
        raw(out, r#","limits":{"messageBytes":"#);
        number(out, self.limits.message_bytes);
        raw(out, r#","messageRate":"#);
        number(out, self.limits.message_rate);
        raw(out, r#","rooms":"#);
        number(out, self.limits.rooms);
        raw(out, "}");
    }
}

thread_local! {
    /// The greeting that was written last, and its text: crowds that connect are welcomed with one copy each.
    static LAST_GREETING: RefCell<(Greeting, Vec<u8>)> = RefCell::default();
}

/// `welcome`: the client's id, how silence is judged (milliseconds until a ping, and until its pong is overdue), and what
/// the connection may do.
pub fn welcome(
    out: &mut Vec<u8>,
    connection_id: &[u8],
    node: &str,
    heartbeat_ms: [u64; 2],
    limits: ClientLimits,
    identity: Identity<'_>,
) {
    raw(out, r#"{"type":"welcome","connectionId":""#);
    out.extend_from_slice(connection_id);
    LAST_GREETING.with_borrow_mut(|(last, text)| {
        let is_same = last.limits == limits && last.heartbeat_ms == heartbeat_ms && last.node == node;
        if !is_same || text.is_empty() {
            *last = Greeting { node: node.to_owned(), heartbeat_ms, limits };
            text.clear();
            last.write(text);
        }
        out.extend_from_slice(text);
    });
    write_identity(out, identity);
    raw(out, "}");
}

/// `authenticated`: the connection's identity from now on.
pub fn authenticated(out: &mut Vec<u8>, identity: Identity<'_>, reference: Option<&str>) {
    raw(out, r#"{"type":"authenticated""#);
    write_identity(out, identity);
    end(out, reference);
}

/// `token-expiring`: send another token before this one ends.
pub fn token_expiring(out: &mut Vec<u8>, expires_ms: u64) {
    raw(out, r#"{"type":"token-expiring","expiresIn":"#);
    number(out, expires_ms);
    raw(out, "}");
}

/// `error` of a token, with the reason.
pub fn unauthorized(out: &mut Vec<u8>, reason: &str, message: &str, room: Option<&str>, reference: Option<&str>) {
    raw(out, r#"{"type":"error","code":"unauthorized","reason":"#);
    string(out, reason);
    raw(out, r#","message":"#);
    string(out, message);
    if let Some(room) = room {
        raw(out, r#","roomId":"#);
        string(out, room);
    }
    end(out, reference);
}

/// Nothing for a guest.
fn write_identity(out: &mut Vec<u8>, identity: Identity<'_>) {
    match identity {
        Identity::Guest => {}
        Identity::Awaited => raw(out, r#","auth":"required""#),
        Identity::Token { user, expires_ms } => {
            if let Some(user) = user {
                raw(out, r#","user":"#);
                string(out, user);
            }
            raw(out, r#","expiresIn":"#);
            number(out, expires_ms);
        }
    }
}

/// `joined`: messages of the room come from now on.
pub fn joined(out: &mut Vec<u8>, room: &str, reference: Option<&str>) {
    raw(out, r#"{"type":"joined","roomId":"#);
    string(out, room);
    end(out, reference);
}

/// `left`: no message of the room comes from now on; with a reason where the client did not ask for it.
pub fn left(out: &mut Vec<u8>, room: &str, reason: Option<&str>, reference: Option<&str>) {
    raw(out, r#"{"type":"left","roomId":"#);
    string(out, room);
    if let Some(reason) = reason {
        raw(out, r#","reason":"#);
        string(out, reason);
    }
    end(out, reference);
}

/// `ack`: what is promised of a message.
pub fn ack(out: &mut Vec<u8>, reference: Option<&str>, level: &str) {
    raw(out, r#"{"type":"ack""#);
    if let Some(reference) = reference {
        raw(out, r#","ref":"#);
        raw(out, reference);
    }
    raw(out, r#","level":"#);
    string(out, level);
    raw(out, "}");
}

/// `pong`: the node is there.
pub fn pong(out: &mut Vec<u8>, reference: Option<&str>) {
    raw(out, r#"{"type":"pong""#);
    end(out, reference);
}

/// `error`: what was wrong, and what is accepted; with `room` where a membership of it is refused or ended.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, message: &str, room: Option<&str>, reference: Option<&str>) {
    raw(out, r#"{"type":"error","code":"#);
    string(out, code.name());
    raw(out, r#","message":"#);
    string(out, message);
    if let Some(room) = room {
        raw(out, r#","roomId":"#);
        string(out, room);
    }
    end(out, reference);
}

/// `gap`: messages of the room, or of all of the client's rooms, may be missing.
pub fn gap(out: &mut Vec<u8>, room: Option<&str>, reason: &str, resync_ms: u64) {
    raw(out, r#"{"type":"gap""#);
    if let Some(room) = room {
        raw(out, r#","roomId":"#);
        string(out, room);
    }
    raw(out, r#","reason":"#);
    string(out, reason);
    raw(out, r#","resyncAfter":"#);
    number(out, resync_ms);
    raw(out, "}");
}

/// `server-shutdown`: come back after a moment.
pub fn shutdown(out: &mut Vec<u8>, reconnect_ms: u64) {
    raw(out, r#"{"type":"server-shutdown","reconnectAfter":"#);
    number(out, reconnect_ms);
    raw(out, "}");
}

/// What a member is told of a publication's sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender<'a> {
    /// The connection; absent for backends.
    pub from: Option<&'a [u8]>,
    /// The user, where it is known.
    pub user: Option<&'a str>,
}

/// `message`: a publication.
pub fn message(out: &mut Vec<u8>, room: &str, sender: Sender<'_>, content: Content<'_>, timestamp_ms: u64) {
    raw(out, r#"{"type":"message","roomId":"#);
    string(out, room);
    if let Some(from) = sender.from {
        raw(out, r#","from":""#);
        out.extend_from_slice(from);
        raw(out, "\"");
    }
    if let Some(user) = sender.user {
        raw(out, r#","user":"#);
        string(out, user);
    }
    raw(out, r#","content":"#);
    match content {
        Content::Json(json) => out.extend_from_slice(json),
        Content::Text(text) => string(out, text),
        Content::Binary(bytes) => {
            base64_string(out, bytes);
            raw(out, r#","encoding":"base64""#);
        }
    }
    raw(out, r#","timestamp":"#);
    number(out, timestamp_ms);
    raw(out, "}");
}

fn raw(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

fn end(out: &mut Vec<u8>, reference: Option<&str>) {
    if let Some(reference) = reference {
        raw(out, r#","ref":"#);
        raw(out, reference);
    }
    raw(out, "}");
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[start..]);
        }
    }
}

/// A JSON string (RFC 8259 §7): runs that need no escape are copied whole.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&octet| octet < b' ' || octet == b'"' || octet == b'\\') {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, octet: u8) {
    let short = match octet {
        b'"' | b'\\' => octet,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(octet >> 4), digit(octet)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn base64_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The buffer has exactly the length of padded base64: encoding into it cannot fail.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}
