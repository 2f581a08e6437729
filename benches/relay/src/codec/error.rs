//! What ends a connection from this side, and what a server's `-ERR` says.

use std::fmt;

/// The stream is no NATS stream, or one that this side does not take. The connection is of no use any more: what follows cannot be told
/// apart from a message's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolError {
    /// A line that begins with none of the protocol's words; its first bytes, escaped.
    UnknownOperation(String),
    /// A `MSG` or `HMSG` line without the numbers that it must have; its first bytes, escaped.
    BadArguments(String),
    /// A line over [`super::parser::LINE_BYTES`].
    LineTooLong,
    /// A message that does not end with a line end: its length was wrong, or bytes were lost.
    NoLineEnd,
    /// `INFO` is not the JSON that it must be: why.
    BadInfo(String),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOperation(start) => write!(f, "the server sent \"{start}\", which is no NATS operation"),
            Self::BadArguments(start) => {
                write!(f, "the server sent \"{start}\", without the numbers that belong to it")
            }
            Self::LineTooLong => write!(f, "the server sent a line of more than {} bytes", super::parser::LINE_BYTES),
            Self::NoLineEnd => f.write_str("a message of the server is not as long as it was announced"),
            Self::BadInfo(why) => write!(f, "the server's INFO cannot be read: {why}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The beginning of a line, for an error's text: bounded and printable.
pub(super) fn shown(line: &[u8]) -> String {
    line[..line.len().min(40)].escape_ascii().to_string()
}

/// What `-ERR` says. The texts are the server's and no part of the protocol: one that is not known is [`ServerError::Other`].
///
/// A subject is given as the server writes it, which is Go's `%q`: `"` and `\` have a backslash before them, and what cannot be printed
/// is an escape such as `\u2028`. A subject without such characters, as each room's is, stands as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerError<'a> {
    /// The user may not subscribe this subject: a `SUB` was refused, or a subscription in force was revoked.
    SubscribeViolation(&'a str),
    /// The user may not publish to this subject: a message was not taken.
    PublishViolation(&'a str),
    /// The user may not ask for answers at this subject: a message was not taken. The text does not say where it was published to.
    ReplyViolation(&'a str),
    /// A `SUB` was refused, because the connection or its account has as many as it may have. The text names none.
    MaxSubscriptions,
    /// The log-in is refused, or is valid no more. The server closes the connection.
    Unauthorized(&'a str),
    /// The connection is closed for another reason: too slow, too many, a `PING` without an answer, a line or message over a limit.
    Closing(&'a str),
    /// Anything else, in the server's words.
    Other(&'a str),
}

impl<'a> ServerError<'a> {
    /// From the text between the quotes of `-ERR '…'`.
    pub fn parse(text: &'a str) -> Self {
        const UNAUTHORIZED: [&str; 6] = [
            "authorization violation",
            "authentication timeout",
            "user authentication expired",
            "user authentication revoked",
            "account authentication expired",
            "authentication expired",
        ];
        const CLOSING: [&str; 10] = [
            "stale connection",
            "slow consumer",
            "maximum connections exceeded",
            "maximum account active connections exceeded",
            "maximum payload violation",
            "maximum control line exceeded",
            "unknown protocol operation",
            "parser error",
            "connection throttling is active",
            "secure connection - tls required",
        ];
        let begins = |words: &&str| text.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words));
        if let Some(rest) = strip_prefix(text, "permissions violation for ") {
            Self::violation(text, rest)
        } else if begins(&"maximum subscriptions exceeded") {
            Self::MaxSubscriptions
        } else if UNAUTHORIZED.iter().any(&begins) {
            Self::Unauthorized(text)
        } else if CLOSING.iter().any(&begins) {
            Self::Closing(text)
        } else {
            Self::Other(text)
        }
    }

    /// `Subscription to "SUBJECT"`, with what follows it; `Publish to "SUBJECT"`; `Publish with Reply of "REPLY"`.
    fn violation(text: &'a str, rest: &'a str) -> Self {
        let quoted = rest.split_once('"').and_then(|(what, rest)| Some((what, until_quote(rest)?)));
        match quoted {
            Some((what, subject)) if what.eq_ignore_ascii_case("subscription to ") => Self::SubscribeViolation(subject),
            Some((what, subject)) if what.eq_ignore_ascii_case("publish to ") => Self::PublishViolation(subject),
            Some((what, reply)) if what.eq_ignore_ascii_case("publish with reply of ") => Self::ReplyViolation(reply),
            _ => Self::Other(text),
        }
    }
}

/// What stands before the next quote that has no backslash before it.
fn until_quote(text: &str) -> Option<&str> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some(&text[..end])
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix)).map(|start| &text[start.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permissions_violation_names_its_subject() {
        for (text, error) in [
            (
                r#"Permissions Violation for Subscription to "tidegate.room.a""#,
                ServerError::SubscribeViolation("tidegate.room.a"),
            ),
            (
                r#"Permissions Violation for Subscription to "a.b" using queue "q" (sid "7")"#,
                ServerError::SubscribeViolation("a.b"),
            ),
            (r#"Permissions Violation for Publish to "a""#, ServerError::PublishViolation("a")),
            (r#"permissions violation for subscription to "a""#, ServerError::SubscribeViolation("a")),
            (r#"Permissions Violation for Publish to "no.\"a\\b""#, ServerError::PublishViolation(r#"no.\"a\\b"#)),
            (r#"Permissions Violation for Publish to "\\" "b""#, ServerError::PublishViolation(r"\\")),
        ] {
            assert_eq!(ServerError::parse(text), error, "{text}");
        }
    }

    /// nats-server 2.9.10 and 2.15.1 say this of a message with a reply to `_R_.>`. The reply was read as the subject: the publication
    /// that the server had refused would have been acknowledged, and one to another subject would have failed.
    #[test]
    fn a_refused_reply_subject_is_no_subject_that_was_published_to() {
        let text = r#"Permissions Violation for Publish with Reply of "_R_.x""#;
        assert_eq!(ServerError::parse(text), ServerError::ReplyViolation("_R_.x"));
    }

    #[test]
    fn an_error_that_is_not_known_keeps_the_servers_words() {
        for text in [
            "",
            "Permissions Violation for ",
            "Permissions Violation for Publish to a",
            "Permissions Violation for Publish to \"a",
            "Permissions Violation for Publish to \"a\\\"",
            "Permissions Violation for Reply to \"a\"",
            "Permissions\u{e4} Violation",
            "something new",
        ] {
            assert_eq!(ServerError::parse(text), ServerError::Other(text));
        }
    }

    #[test]
    fn an_error_that_ends_the_connection_is_told_apart() {
        assert_eq!(ServerError::parse("maximum subscriptions exceeded"), ServerError::MaxSubscriptions);
        assert_eq!(ServerError::parse("Stale Connection"), ServerError::Closing("Stale Connection"));
        let text = "User Authentication Expired";
        assert_eq!(ServerError::parse(text), ServerError::Unauthorized(text));
    }
}
