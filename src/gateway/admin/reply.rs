//! What the admin port answers: JSON bodies, and problems that say what to do.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Value, json};

/// One answer, before HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    /// One more header.
    pub(super) header: Option<(&'static str, &'static str)>,
}

/// Why a request is not served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    pub(super) status: u16,
    /// For programs.
    pub(super) code: &'static str,
    /// For people: what was wrong, and what to do.
    pub(super) message: Cow<'static, str>,
    /// What this status is to be sent with: `Allow`, `Retry-After`, `WWW-Authenticate`.
    pub(super) header: Option<(&'static str, &'static str)>,
}

impl Reply {
    /// A JSON body, ended with a newline for reading it in a terminal.
    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::text(status, "application/json", format!("{value}\n"))
    }

    /// Any other body.
    pub(super) fn text(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into(), header: None }
    }
}

impl Problem {
    /// A problem without a header of its own.
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), header: None }
    }

    /// 400.
    pub(super) fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, message)
    }

    /// 413: a body or message over its limit.
    pub(super) fn too_large(what: &str, limit_bytes: usize) -> Self {
        let message =
            format!("{what} is larger than {limit_bytes} bytes; send less, or raise the node's message limit");
        Self::new(413, "message-too-large", message)
    }

    /// 413: a message that the broker does not take, now or later.
    pub(super) fn too_large_for_the_broker(limit_bytes: usize) -> Self {
        let message = format!(
            "the message is larger than the broker takes, {limit_bytes} bytes; send less, or raise max_payload of nats-server"
        );
        Self::new(413, "message-too-large", message)
    }

    /// 503, to be tried again.
    pub(super) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(503, "unavailable", message).with("retry-after", "1")
    }

    /// Adds the header.
    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        let body = json!({"error": {"code": problem.code, "message": problem.message}});
        Self { header: problem.header, ..Self::json(problem.status, &body) }
    }
}
