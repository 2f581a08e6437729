//! The commands that talk to a running node: `tidegate drain`, `pub` and `sub`; and `secret` and `token`, which need none.
//!
//! They are programs of their own and block: nothing here runs inside a node. `drain` and `pub` speak HTTP to the admin
//! port, `sub` is a WebSocket client of the public one.

mod http;
mod subscribe;
mod target;
mod token;

use std::fmt::Display;
use std::io::{self, Read, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::http::{Answer, Request};
use self::target::Target;
use crate::gateway::config::{AccessTokens, Config};
use tidegate_core::model::valid_room;
use tidegate_core::percent;

pub use subscribe::{Subscription, subscribe};
pub use token::{check_token, make_token, secret};

/// Between two looks at a draining node.
const DRAIN_POLL: Duration = Duration::from_millis(250);
/// Rooms that the node lists at most.
const ROOMS_LISTED: usize = 1000;
/// Bad arguments.
const EXIT_USAGE: u8 = 2;

/// Drains `node`, or the one of the settings, and waits until it has no connection left, or is gone. Fails where that takes longer
/// than `timeout`, and where another request takes the drain back.
pub fn drain(config: &Config, node: Option<&str>, timeout: Duration) -> ExitCode {
    let admin = match Target::admin(config, node) {
        Ok(admin) => admin,
        Err(text) => return misused(text),
    };
    let began = Instant::now();
    let token = config.admin.token.as_ref().map(AccessTokens::first);
    let request = Request { method: "POST", path: "/drain", token, kind: None, body: b"" };
    match request.send(&admin) {
        Ok(answer) if answer.is_success() => {}
        Ok(answer) => return failed(refusal(&answer, "the node did not begin to drain", "admin")),
        Err(error) => return failed(unreachable_node(&admin, &error)),
    }
    loop {
        let undone = match progress(&admin, token) {
            Ok(Progress::Empty) | Err(Look::Gone) => return ExitCode::SUCCESS,
            Ok(Progress::TakenBack(open)) => return failed(taken_back(open)),
            Ok(Progress::Open(open)) => {
                format!("{open} connections are still open after {timeout:?}; the node goes on draining")
            }
            Err(Look::Unanswered(error)) => {
                format!(
                    "the admin port {} does not answer ({error}): clients may be left after {timeout:?}",
                    admin.authority
                )
            }
            Err(Look::Refused(text)) => return failed(text),
        };
        if began.elapsed() >= timeout {
            return failed(undone);
        }
        thread::sleep(DRAIN_POLL.min(timeout));
    }
}

fn taken_back(open: u64) -> String {
    format!("the drain was taken back (DELETE /drain): the node serves again, with {open} connections; do not stop it")
}

/// How far a drain is, with the node's connections.
enum Progress {
    Open(u64),
    /// No connection is left, and none is let in.
    Empty,
    /// Another request ended the drain.
    TakenBack(u64),
}

impl Progress {
    /// Of a node that says this phase; versions that say none only count.
    fn of(phase: Option<&str>, open: u64) -> Self {
        match (phase, open) {
            (Some("serving"), open) => Self::TakenBack(open),
            // It still lets clients in until the balancer has noticed.
            (Some("delaying"), open) => Self::Open(open),
            (_, 0) => Self::Empty,
            (_, open) => Self::Open(open),
        }
    }
}

/// Why a look at the node found no number.
enum Look {
    /// Nothing listens any more.
    Gone,
    /// No whole answer: a node that is busy, out of descriptors or just ending. The next look will tell.
    Unanswered(io::Error),
    Refused(String),
}

fn progress(admin: &Target, token: Option<&str>) -> Result<Progress, Look> {
    let request = Request { method: "GET", path: "/v1/node", token, kind: None, body: b"" };
    let answer = request.send(admin).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Look::Gone,
        _ => Look::Unanswered(error),
    })?;
    let node: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let field = |name| node.as_ref().and_then(|node| node.get(name));
    let open = field("connections").and_then(Value::as_u64).filter(|_| answer.is_success());
    let phase = field("phase").and_then(Value::as_str);
    open.map(|open| Progress::of(phase, open))
        .ok_or_else(|| Look::Refused(refusal(&answer, "the node does not say how many connections it has", "admin")))
}

/// A message to publish.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// The room.
    pub room: &'a str,
    /// The message; `-` reads it from standard input.
    pub message: &'a str,
    /// Print the level only.
    pub quiet: bool,
}

/// Publishes one message into one room of `node`, or of the one of the settings. Prints the level of its acknowledgement, and on
/// standard error what that means.
pub fn publish(config: &Config, node: Option<&str>, publication: Publication<'_>) -> ExitCode {
    let Publication { room, message, quiet } = publication;
    if let Err(offence) = valid_room(room) {
        return misused(format!("{room:?} is not a room: {offence}"));
    }
    let body = match message {
        "-" => {
            let mut body = Vec::new();
            match stdin().lock().read_to_end(&mut body) {
                Ok(_) => body,
                Err(error) => return failed(format!("standard input cannot be read: {error}")),
            }
        }
        text => text.as_bytes().to_vec(),
    };
    let admin = match Target::admin(config, node) {
        Ok(admin) => admin,
        Err(text) => return misused(text),
    };
    let path = format!("/v1/rooms/{}/messages", percent::encode(room));
    let tokens = config.publish.token.as_ref().or(config.backend.token.as_ref()).or(config.admin.token.as_ref());
    let token = tokens.map(AccessTokens::first);
    // Before the message, which may be what a member waits for to leave.
    let members = if quiet { None } else { members(config, &admin, room) };
    match (Request { method: "POST", path: &path, token, kind: Some(content_type(&body)), body: &body }).send(&admin) {
        Ok(answer) if answer.is_success() => {
            let level: Option<Value> = serde_json::from_slice(&answer.body).ok();
            let level = level.as_ref().and_then(|level| level.get("level")?.as_str()).unwrap_or("accepted");
            let _ = writeln!(stdout(), "{level}");
            if !quiet {
                say(format_args!("published to {room}: {}", in_words(level, members)));
            }
            ExitCode::SUCCESS
        }
        Ok(answer) => failed(refusal(&answer, "the message was not published", "publish")),
        Err(error) => failed(unreachable_node(&admin, &error)),
    }
}

/// What an acknowledgement's level means, with the members of the room on the node where they are known.
fn in_words(level: &str, members: Option<u64>) -> String {
    let members = members.map(|members| match members {
        0 => String::from("no client of this node is a member"),
        1 => String::from("1 client of this node is a member"),
        members => format!("{members} clients of this node are members"),
    });
    let (meaning, known) = match (level, members) {
        ("node", Some(members)) => ("the node accepted it, and there is no broker", members),
        ("node", None) => ("the node accepted it", String::from("there is no broker, so only its own clients get it")),
        ("broker", Some(members)) => ("the broker accepted it for all nodes", members),
        ("broker", None) => return String::from("the broker accepted it for all nodes"),
        _ => return String::from("the node accepted it"),
    };
    format!("{meaning}; {known}")
}

/// Members of the room on the node; `None` where the node does not say, or lists other rooms only.
fn members(config: &Config, admin: &Target, room: &str) -> Option<u64> {
    let token = config.backend.token.as_ref().or(config.admin.token.as_ref()).map(AccessTokens::first);
    // With a publish token alone the list is not for us.
    if token.is_none() && config.publish.token.is_some() {
        return None;
    }
    let path = format!("/v1/rooms?limit={ROOMS_LISTED}");
    let answer = Request { method: "GET", path: &path, token, kind: None, body: b"" }.send(admin).ok()?;
    let list: Value = serde_json::from_slice(&answer.body).ok().filter(|_| answer.is_success())?;
    let rooms = list.get("rooms")?.as_array()?;
    match rooms.iter().find(|listed| listed.get("room").and_then(Value::as_str) == Some(room)) {
        Some(listed) => listed.get("members")?.as_u64(),
        // All of them are listed, and it is not among them.
        None => (rooms.len() < ROOMS_LISTED && list.get("silentShards")?.as_u64()? == 0).then_some(0),
    }
}

fn content_type(body: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else if std::str::from_utf8(body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

fn unreachable_node(admin: &Target, error: &io::Error) -> String {
    let place = &admin.authority;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => nothing_listens(place),
        _ => format!("the admin port {place} does not answer: {error}"),
    }
}

fn nothing_listens(place: &str) -> String {
    format!("nothing listens on {place}; start a node there, or say where one is: --node HOST:PORT")
}

/// What the node said, and what to do where that is known. `token` is the section that holds it.
fn refusal(answer: &Answer, what: &str, token: &str) -> String {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let said = said
        .as_ref()
        .and_then(|said| said.pointer("/error/message")?.as_str())
        .map_or_else(|| String::from_utf8_lossy(&answer.body).trim().to_owned(), str::to_owned);
    let cure = match answer.status {
        401 | 403 => format!("; set {token}.token, or TIDEGATE_{}_TOKEN, to the node's", token.to_ascii_uppercase()),
        404 | 405 => String::from("; is this the admin port of a tidegate node?"),
        _ => String::new(),
    };
    format!("{what}: {} {said}{cure}", answer.status)
}

fn failed(text: impl Display) -> ExitCode {
    say(text);
    ExitCode::FAILURE
}

fn misused(text: impl Display) -> ExitCode {
    say(text);
    ExitCode::from(EXIT_USAGE)
}

/// Tells the person at the terminal; a closed stderr is no reason to stop.
fn say(text: impl Display) {
    let _ = writeln!(stderr(), "tidegate: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_is_what_the_message_is() {
        assert_eq!(content_type(b"{\"a\":1}"), "application/json");
        assert_eq!(content_type(b"hello"), "text/plain; charset=utf-8");
        assert_eq!(content_type(&[0xff]), "application/octet-stream");
    }

    #[test]
    fn a_level_is_told_in_words_with_the_members_where_they_are_known() {
        // `pub` printed "node", which reads like the name of something, and nothing when nobody had joined the room.
        assert_eq!(
            in_words("node", Some(2)),
            "the node accepted it, and there is no broker; 2 clients of this node are members"
        );
        assert!(in_words("node", Some(0)).ends_with("no client of this node is a member"));
        assert!(in_words("node", None).contains("only its own clients"));
        assert_eq!(
            in_words("broker", Some(1)),
            "the broker accepted it for all nodes; 1 client of this node is a member"
        );
        assert_eq!(in_words("broker", None), "the broker accepted it for all nodes");
    }

    #[test]
    fn a_refusal_tells_what_the_node_said_and_what_to_do() {
        // The object around the sentence was shown, as JSON.
        let text = |status, body: &str| refusal(&Answer { status, body: body.into() }, "not published", "publish");
        let told = text(401, r#"{"error":{"code":"unauthorized","message":"a token is needed"}}"#);
        assert!(told.contains("401 a token is needed; set publish.token"), "{told}");
        assert!(told.ends_with("TIDEGATE_PUBLISH_TOKEN, to the node's"), "{told}");
        let told = text(413, r#"{"error":{"code":"message-too-large","message":"send less"}}"#);
        assert_eq!(told, "not published: 413 send less");
        // What another server says, or the public port, is shown as it is.
        assert_eq!(text(500, "out of order\n"), "not published: 500 out of order");
        assert_eq!(text(500, r#"{"error":"out of order"}"#), r#"not published: 500 {"error":"out of order"}"#);
        for (status, body) in [(404, "not found"), (405, "only GET is served here")] {
            let told = text(status, body);
            assert_eq!(told, format!("not published: {status} {body}; is this the admin port of a tidegate node?"));
        }
    }
}
