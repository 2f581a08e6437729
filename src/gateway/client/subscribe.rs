//! `tidegate sub`: a WebSocket client that joins one room, prints what comes, and comes back when it is sent away.
//!
//! It does what the protocol page asks of clients: it waits with jitter before it comes back, says its attempt, keeps away
//! after the close codes that say so, and takes a silence longer than ping interval and pong timeout for a dead connection.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write, stdout};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::Response;
use tungstenite::http::header::{AUTHORIZATION, HeaderName, HeaderValue, ORIGIN};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

use super::http::Request;
use super::target::{Port, Target};
use super::{failed, misused, nothing_listens, say};
use crate::gateway::config::{AccessTokens, Config};
use tidegate_core::model::valid_room;

/// For the handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest silence until the node has said what it promises.
const FIRST_SILENCE: Duration = Duration::from_secs(60);
/// Longest wait after the first lost connection; it doubles with every attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait of all.
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// Bytes of a refusal's text that are read at most.
const REFUSAL_BYTES: u64 = 4096;
/// Close codes after which coming back would end the same way.
const FINAL_CODES: [u16; 7] = [1002, 1003, 1007, 1008, 1009, 3000, 3003];
/// Of them the one after which another token is let in.
const UNAUTHORIZED: u16 = 3000;

/// What to print, and when to end.
#[derive(Clone, Copy, Default)]
pub struct Subscription<'a> {
    /// Where the node is, if that was typed.
    pub node: Option<&'a str>,
    /// Origin of the handshake; without it the first exact one of the settings.
    pub origin: Option<&'a str>,
    /// Bearer token of the handshake.
    pub token: Option<&'a str>,
    /// File that holds it, read for each connection.
    pub token_file: Option<&'a Path>,
    /// End after this many messages.
    pub count: Option<u64>,
    /// Print whole messages, and all that the node says.
    pub whole: bool,
}

impl Subscription<'_> {
    /// The header that bears the token, as it is now.
    fn bearer(&self) -> Result<Option<HeaderValue>, String> {
        let (name, token) = match (self.token, self.token_file) {
            (Some(token), _) => (String::from("--token"), token.to_owned()),
            (None, Some(file)) => {
                let read = std::fs::read_to_string(file);
                let read = read.map_err(|error| format!("--token-file: {} cannot be read: {error}", file.display()));
                (format!("--token-file: {}", file.display()), read?.trim().to_owned())
            }
            (None, None) => return Ok(None),
        };
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        value.map(Some).map_err(|_| format!("{name}: not printable ASCII, which a header takes"))
    }
}

/// How a connection ended.
enum End {
    /// All that was asked for came, or standard output was closed.
    Done,
    /// Coming back may help; not before this time, if the node gave one.
    Lost(String, Option<Duration>),
    /// Coming back would not help.
    Final(String),
}

/// Joins `room` on the public port and prints its messages, one a line.
pub fn subscribe(config: &Config, room: &str, wanted: Subscription<'_>) -> ExitCode {
    if let Err(offence) = valid_room(room) {
        return misused(format!("{room:?} is not a room: {offence}"));
    }
    let headers = match headers(config, wanted) {
        Ok(headers) => headers,
        Err(text) => return misused(text),
    };
    if let Err(text) = wanted.bearer() {
        return misused(text);
    }
    let node = match Target::public(config, wanted.node) {
        Ok(node) if node.port == Port::Admin => match public_port(config, &node) {
            Ok(node) => node,
            Err(text) => return failed(text),
        },
        Ok(node) => node,
        Err(text) => return misused(text),
    };
    let left = wanted.count.unwrap_or(u64::MAX);
    let mut session = Session { node, headers, room, wanted, left, was_joined: false, attempt: 0 };
    loop {
        match session.run() {
            End::Done => return ExitCode::SUCCESS,
            End::Final(text) => return failed(text),
            End::Lost(text, told) => {
                session.attempt = session.attempt.saturating_add(1);
                let wait = told.unwrap_or_else(|| backoff(session.attempt, random()));
                say(format_args!("{text}; reconnecting in {} ms (attempt {})", wait.as_millis(), session.attempt));
                thread::sleep(wait);
            }
        }
    }
}

/// Headers of the handshake beside those of the protocol.
fn headers(config: &Config, wanted: Subscription<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let value = |flag: &str, text: &str| {
        HeaderValue::from_str(text).map_err(|_| format!("{flag}: not printable ASCII, which a header takes"))
    };
    // A node on this host reads the same settings: one of its own origins is let in.
    let own =
        config.origins.iter().map(ToString::to_string).find(|origin| origin.contains("://") && !origin.contains('*'));
    let mut headers = Vec::new();
    if let Some(origin) = wanted.origin.or(own.as_deref()) {
        headers.push((ORIGIN, value("--origin", origin)?));
    }
    Ok(headers)
}

/// Asks a node's admin port for its public one.
fn public_port(config: &Config, admin: &Target) -> Result<Target, String> {
    let token = config.admin.token.as_ref().map(AccessTokens::first);
    let request = Request { method: "GET", path: "/v1/node", token, kind: None, body: b"" };
    let answer = request.send(admin).map_err(|error| super::unreachable_node(admin, &error))?;
    let node: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let listen = node.as_ref().and_then(|node| node.get("listen")?.as_str()?.parse::<SocketAddr>().ok());
    listen.filter(|_| answer.is_success()).map(|listen| admin.with_public(listen)).ok_or_else(|| {
        super::refusal(
            &answer,
            "the admin port does not say where clients connect (--node ws://HOST:PORT does)",
            "admin",
        )
    })
}

/// A socket that a signal does not interrupt: with a timeout set, the kernel answers EINTR where it would else go on.
struct Patient(TcpStream);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        retried(|| self.0.read(buffer))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retried(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        retried(|| self.0.flush())
    }
}

fn retried<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// One subscription, over all its connections.
struct Session<'a> {
    node: Target,
    headers: Vec<(HeaderName, HeaderValue)>,
    room: &'a str,
    wanted: Subscription<'a>,
    left: u64,
    /// The node was there once: being refused later is a reason to wait, not to give up.
    was_joined: bool,
    attempt: u32,
}

impl Session<'_> {
    fn run(&mut self) -> End {
        if self.left == 0 {
            return End::Done;
        }
        let mut socket = match self.connect() {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let join = json!({ "type": "join", "roomId": self.room }).to_string();
        if let Err(error) = socket.send(Message::text(join)) {
            return End::Lost(format!("the connection failed: {error}"), None);
        }
        let mut told = None;
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => {
                    if let Some(end) = self.handle(text.as_str(), &socket.get_ref().0, &mut told) {
                        let _ = socket.close(None).and_then(|()| socket.flush());
                        return end;
                    }
                }
                Ok(Message::Close(frame)) => {
                    let _ = socket.flush();
                    return closed(frame, told, self.wanted.token_file.is_some());
                }
                Ok(_) => {}
                Err(error) => return End::Lost(lost(&error), told),
            }
        }
    }

    fn connect(&self) -> Result<WebSocket<Patient>, End> {
        let place = &self.node.authority;
        let stream = self.node.connect().map_err(|error| self.unreachable(&error))?;
        let timeouts = stream
            .set_read_timeout(Some(CONNECT_DEADLINE))
            .and_then(|()| stream.set_write_timeout(Some(CONNECT_DEADLINE)));
        timeouts.map_err(|error| End::Final(format!("the socket takes no timeout: {error}")))?;
        // tungstenite gives no socket back after a refusal, and the rest of its text may still be under way.
        let rest = stream.try_clone();
        let mut request = self.request().map_err(|error| End::Final(format!("{place} cannot be asked: {error}")))?;
        let bearer = self.wanted.bearer().map_err(End::Final)?;
        request.headers_mut().extend(bearer.map(|token| (AUTHORIZATION, token)));
        match tungstenite::client(request, Patient(stream)) {
            Ok((socket, _)) => {
                let _ = socket.get_ref().0.set_read_timeout(Some(FIRST_SILENCE));
                Ok(socket)
            }
            Err(HandshakeError::Failure(Error::Http(answer))) => {
                let told = format!("{place} answered {}{}", answer.status(), said(&answer, rest.ok()));
                if answer.status().is_server_error() {
                    let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                    return Err(End::Lost(told, after.map(Duration::from_secs)));
                }
                Err(End::Final(format!("{told}{}", cure(answer.status().as_u16()))))
            }
            Err(error) => Err(End::Lost(format!("{place} did not complete the handshake: {error}"), None)),
        }
    }

    fn request(&self) -> Result<tungstenite::handshake::client::Request, Error> {
        let Target { path, .. } = &self.node;
        let host = self.node.host();
        let mut request = match self.attempt {
            0 => format!("ws://{host}{path}"),
            attempt => format!("ws://{host}{path}{}attempt={attempt}", if path.contains('?') { '&' } else { '?' }),
        }
        .into_client_request()?;
        request.headers_mut().extend(self.headers.iter().cloned());
        Ok(request)
    }

    fn unreachable(&self, error: &io::Error) -> End {
        let place = &self.node.authority;
        match error.kind() {
            _ if self.was_joined => End::Lost(format!("{place} cannot be reached: {error}"), None),
            io::ErrorKind::ConnectionRefused => End::Final(nothing_listens(place)),
            _ => End::Final(format!("{place} cannot be reached: {error}")),
        }
    }

    /// Handles one message of the node; some end the connection.
    fn handle(&mut self, text: &str, stream: &TcpStream, told: &mut Option<Duration>) -> Option<End> {
        let said: Value = match serde_json::from_str(text) {
            Ok(said) => said,
            Err(_) => return Some(End::Final(String::from("the node does not speak JSON; is this path a raw one?"))),
        };
        let kind = said["type"].as_str().unwrap_or_default();
        if self.wanted.whole && print(text).is_err() {
            return Some(End::Done);
        }
        match kind {
            "welcome" => {
                let silence = said["pingInterval"].as_u64().zip(said["pongTimeout"].as_u64());
                let silence = silence.map_or(FIRST_SILENCE, |(ping, pong)| Duration::from_millis((ping + pong).max(1)));
                let _ = stream.set_read_timeout(Some(silence));
            }
            "joined" => {
                (self.was_joined, self.attempt) = (true, 0);
                say(format_args!("joined {}", self.room));
            }
            "message" => {
                if !self.wanted.whole && print(line(&said["content"])).is_err() {
                    return Some(End::Done);
                }
                self.left -= 1;
                return (self.left == 0).then_some(End::Done);
            }
            "gap" => {
                say(format_args!("messages may be missing here ({})", said["reason"].as_str().unwrap_or("unknown")))
            }
            "server-shutdown" => *told = said["reconnectAfter"].as_u64().map(Duration::from_millis),
            // The close that follows it has the same words.
            "error" if said["code"] == "unauthorized" => {}
            "error" => return Some(refused(&said)),
            _ => {}
        }
        None
    }
}

/// The text of an answer that refused the handshake, in one line and behind a colon.
fn said(answer: &Response, rest: Option<TcpStream>) -> String {
    let mut body = answer.body().clone().unwrap_or_default();
    let length = answer.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse().ok());
    let missing = length.unwrap_or(0_u64).min(REFUSAL_BYTES).saturating_sub(body.len() as u64);
    if let Some(stream) = rest.filter(|_| missing > 0) {
        // What did not come is not shown.
        let _ = stream.take(missing).read_to_end(&mut body);
    }
    let text = String::from_utf8_lossy(&body);
    let words: Vec<&str> = text.split_whitespace().collect();
    // An error page of another server says less than its status.
    if words.is_empty() || words[0].starts_with('<') { String::new() } else { format!(": {}", words.join(" ")) }
}

/// What to do after a refusal.
const fn cure(status: u16) -> &'static str {
    match status {
        401 => "; sub sends a token: --token-file FILE, or TIDEGATE_TOKEN",
        403 => "; sub can send one that may: --origin https://app.example",
        _ => "; is this the public port of a tidegate node? --node http://HOST:PORT names its admin port instead",
    }
}

/// A join that failed: for now, or for good.
fn refused(said: &Value) -> End {
    let code = said["code"].as_str().unwrap_or("unknown");
    let text = format!("the node answered {code}: {}", said["message"].as_str().unwrap_or_default());
    match code {
        "unavailable" | "rate-limited" => End::Lost(text, None),
        _ => End::Final(text),
    }
}

/// `renews`: the next connection may have another token.
fn closed(frame: Option<CloseFrame>, told: Option<Duration>, renews: bool) -> End {
    let Some(frame) = frame else { return End::Lost(String::from("the node closed the connection"), told) };
    let code = u16::from(frame.code);
    let text = format!("the node closed the connection: {code} {}", frame.reason);
    if FINAL_CODES.contains(&code) && !(code == UNAUTHORIZED && renews) {
        End::Final(text)
    } else {
        End::Lost(text, told)
    }
}

fn lost(error: &Error) -> String {
    match error {
        Error::Io(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            String::from("nothing was heard for too long")
        }
        error => format!("the connection was lost: {error}"),
    }
}

/// Text as it is where it is one line; anything else as JSON.
fn line(content: &Value) -> String {
    match content.as_str() {
        Some(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => content.to_string(),
    }
}

fn print(line: impl Display) -> io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// A wait between a tenth and the whole of the attempt's longest.
fn backoff(attempt: u32, random: u64) -> Duration {
    let longest = FIRST_BACKOFF.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LAST_BACKOFF);
    longest / 10 + longest.mul_f64(0.9 * (random as f64 / u64::MAX as f64))
}

fn random() -> u64 {
    // The standard library's keys come from the system's randomness, and differ with every call.
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_is_jittered_and_bounded() {
        assert_eq!(backoff(1, 0), Duration::from_millis(50));
        assert_eq!(backoff(1, u64::MAX), FIRST_BACKOFF);
        assert_eq!(backoff(3, u64::MAX), 4 * FIRST_BACKOFF);
        assert_eq!(backoff(u32::MAX, u64::MAX), LAST_BACKOFF);
    }

    #[test]
    fn a_signal_is_no_reason_to_give_up_a_read() {
        let mut answers =
            [Err(io::ErrorKind::Interrupted.into()), Err(io::ErrorKind::Interrupted.into()), Ok(7)].into_iter();
        assert_eq!(retried(|| answers.next().unwrap()).unwrap(), 7);
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(line(&json!("hello")), "hello");
        assert_eq!(line(&json!("two\nlines")), r#""two\nlines""#);
        assert_eq!(line(&json!({"a": 1})), r#"{"a":1}"#);
    }

    #[test]
    fn close_codes_say_whether_to_come_back() {
        let frame = |code: u16| Some(CloseFrame { code: code.into(), reason: "x".into() });
        assert!(matches!(closed(frame(1008), None, true), End::Final(_)));
        let after = Some(Duration::from_millis(7));
        assert!(matches!(closed(frame(1012), after, false), End::Lost(_, told) if told == after));
        assert!(matches!(closed(None, None, false), End::Lost(..)));
        // A file may hold another token by then; one that was typed is the same again.
        assert!(matches!(closed(frame(UNAUTHORIZED), None, true), End::Lost(..)));
        assert!(matches!(closed(frame(UNAUTHORIZED), None, false), End::Final(_)));
        assert!(matches!(closed(frame(3003), None, true), End::Final(_)));
    }
}
