//! The commands that talk to a running node: `tidegate drain`, `pub` and `sub`.
//!
//! They are programs of their own and block: nothing here runs inside a node. `drain` and `pub` speak HTTP to the admin
//! port, `sub` is a WebSocket client of the public one.

mod http;
mod subscribe;

use std::fmt::Display;
use std::io::{self, Read, Write, stderr, stdin, stdout};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::http::{Answer, Request};
use crate::gateway::config::Config;
use tidegate_core::model::valid_room;
use tidegate_core::percent;

pub use subscribe::{Subscription, subscribe};

/// Between two looks at a draining node.
const DRAIN_POLL: Duration = Duration::from_millis(250);
/// Bad arguments.
const EXIT_USAGE: u8 = 2;

/// Drains the node at the admin port and waits until it has no connection left, or is gone.
pub fn drain(config: &Config, timeout: Duration) -> ExitCode {
    let admin = reachable(config.admin.listen);
    let began = Instant::now();
    let request =
        Request { method: "POST", path: "/drain", token: config.admin.token.as_deref(), kind: None, body: b"" };
    match request.send(admin) {
        Ok(answer) if answer.is_success() => {}
        Ok(answer) => return failed(refusal(&answer, "the node did not begin to drain", "admin")),
        Err(error) => return failed(unreachable_node(admin, &error)),
    }
    loop {
        let undone = match connections(admin, config.admin.token.as_deref()) {
            Ok(0) | Err(Look::Gone) => return ExitCode::SUCCESS,
            Ok(open) => format!("{open} connections are still open after {timeout:?}; the node goes on draining"),
            Err(Look::Unanswered(error)) => {
                format!("the admin port {admin} does not answer ({error}): clients may be left after {timeout:?}")
            }
            Err(Look::Refused(text)) => return failed(text),
        };
        if began.elapsed() >= timeout {
            return failed(undone);
        }
        thread::sleep(DRAIN_POLL.min(timeout));
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

fn connections(admin: SocketAddr, token: Option<&str>) -> Result<u64, Look> {
    let request = Request { method: "GET", path: "/v1/node", token, kind: None, body: b"" };
    let answer = request.send(admin).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Look::Gone,
        _ => Look::Unanswered(error),
    })?;
    let node: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let open = node.as_ref().and_then(|node| node.get("connections")).and_then(Value::as_u64);
    open.filter(|_| answer.is_success())
        .ok_or_else(|| Look::Refused(refusal(&answer, "the node does not say how many connections it has", "admin")))
}

/// Publishes one message into one room and prints the level of its acknowledgement.
pub fn publish(config: &Config, room: &str, message: &str) -> ExitCode {
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
    let admin = reachable(config.admin.listen);
    let path = format!("/v1/rooms/{}/messages", percent::encode(room));
    let token = config.publish.token.as_deref().or(config.admin.token.as_deref());
    match (Request { method: "POST", path: &path, token, kind: Some(content_type(&body)), body: &body }).send(admin) {
        Ok(answer) if answer.is_success() => {
            let level: Option<Value> = serde_json::from_slice(&answer.body).ok();
            let level = level.as_ref().and_then(|level| level.get("level")?.as_str()).unwrap_or("accepted");
            let _ = writeln!(stdout(), "{level}");
            ExitCode::SUCCESS
        }
        Ok(answer) => failed(refusal(&answer, "the message was not published", "publish")),
        Err(error) => failed(unreachable_node(admin, &error)),
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

/// Where a node that listens on `address` is reached from its own host.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn unreachable_node(admin: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on {admin}; start a node there, or say where one is: --admin IP:PORT")
        }
        _ => format!("the admin port {admin} does not answer: {error}"),
    }
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
    fn a_node_that_listens_everywhere_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:9090".parse().unwrap()), "127.0.0.1:9090".parse().unwrap());
        assert_eq!(reachable("[::]:9090".parse().unwrap()), "[::1]:9090".parse().unwrap());
        assert_eq!(reachable("10.0.0.7:9090".parse().unwrap()), "10.0.0.7:9090".parse().unwrap());
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
