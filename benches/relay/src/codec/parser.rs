//! A server's stream becomes operations, one after another in the order of the stream.
//!
//! ```text
//!                    message over the bound            its bytes are dropped
//!   Operation ────────────────────────────► Skipping ────────────────────────► LineEnd ──► Operation
//!       ▲  │ anything else
//!       └──┘
//! ```
//!
//! Every step says how many bytes it took, or that more are needed; the bytes stay the caller's. An operation borrows from them and
//! copies nothing.
//!
//! Bounds: a line has at most [`LINE_BYTES`]. A message over the caller's bound is not buffered: its line is an operation
//! ([`ServerOp::Oversized`]), and its content is skipped as it comes. So one such message costs the connection nothing, whatever server
//! of a cluster let it in.

use memchr::{memchr, memchr2};

use super::error::{ProtocolError, ServerError, shown};
use super::headers::Headers;

/// Bytes of a line. The server's `max_control_line` (4 KiB) bounds what clients send; a line from the server may be longer: it adds the
/// subscription's id to the subject and the reply of the publisher, and `INFO` names every server of a cluster.
pub const LINE_BYTES: usize = 64 * 1024;

/// Bytes of the largest message that any nats-server can be set to: its `max_payload` is a signed number of 32 bits. A length over it is
/// an error.
pub const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// What a server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerOp<'a> {
    /// `INFO`: JSON, which [`super::login::Info::parse`] reads. It comes first, and again when the cluster changes.
    Info(&'a [u8]),
    /// `MSG`, `HMSG`: a message.
    Message(Message<'a>),
    /// A message over the bound, whose content is skipped.
    Oversized {
        /// The subscription that it came for.
        sid: u64,
        /// Bytes of its headers and payload.
        bytes: usize,
    },
    /// `PING`: to be answered with `PONG`.
    Ping,
    /// `PONG`: everything before the oldest `PING` without an answer was done.
    Pong,
    /// `+OK`: comes in verbose mode only.
    Ok,
    /// `-ERR`.
    Error(ServerError<'a>),
}

/// A message as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// The subscription that it came for.
    pub sid: u64,
    /// Where it was published to.
    pub subject: &'a [u8],
    /// Where an answer is expected.
    pub reply: Option<&'a [u8]>,
    /// Its header block; empty for `MSG`.
    pub headers: Headers<'a>,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What the next bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// An operation, and how many bytes it took.
    Op(ServerOp<'a>, usize),
    /// So many bytes belong to a message that is skipped.
    Skip(usize),
    /// The operation is not complete: so many bytes are missing at least.
    More(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Operation,
    Skipping(usize),
    LineEnd,
}

/// See the module.
#[derive(Debug)]
pub struct Parser {
    state: State,
    message_bytes: usize,
}

impl Parser {
    /// A parser for a new connection. Messages of more than `message_bytes` (headers and payload) are skipped.
    pub fn new(message_bytes: usize) -> Self {
        Self { state: State::Operation, message_bytes }
    }

    /// The next step. The caller drops what it took, and gives the rest again with what comes after it.
    ///
    /// # Errors
    /// The stream cannot be read any further; the connection is to be closed.
    #[inline]
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, ProtocolError> {
        match self.state {
            State::Operation => self.operation(input),
            State::Skipping(left) => Ok(self.skip(left, input.len())),
            State::LineEnd => {
                let Some(end) = input.first_chunk::<2>() else { return Ok(Step::More(2 - input.len())) };
                self.state = State::Operation;
                if end == b"\r\n" { Ok(Step::Skip(2)) } else { Err(ProtocolError::NoLineEnd) }
            }
        }
    }

    fn skip(&mut self, left: usize, available: usize) -> Step<'static> {
        let skipped = left.min(available);
        self.state = if skipped == left { State::LineEnd } else { State::Skipping(left - skipped) };
        if skipped == 0 && left > 0 { Step::More(1) } else { Step::Skip(skipped) }
    }

    fn operation<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, ProtocolError> {
        let Some(line) = line(input)? else { return Ok(Step::More(1)) };
        let consumed = line.len() + 2;
        match line {
            [b'M', b'S', b'G', b' ' | b'\t', arguments @ ..] => {
                let parsed = Arguments::parse(arguments, false).ok_or_else(|| bad_arguments(line))?;
                self.message(&parsed, input, consumed)
            }
            [b'H', b'M', b'S', b'G', b' ' | b'\t', arguments @ ..] => {
                let parsed = Arguments::parse(arguments, true).ok_or_else(|| bad_arguments(line))?;
                self.message(&parsed, input, consumed)
            }
            _ => Ok(Step::Op(short_operation(line)?, consumed)),
        }
    }

    /// A message, if all of it is there. Its line took `consumed` bytes.
    #[inline]
    fn message<'a>(
        &mut self,
        arguments: &Arguments<'a>,
        input: &'a [u8],
        consumed: usize,
    ) -> Result<Step<'a>, ProtocolError> {
        let Arguments { sid, header_bytes, total_bytes, .. } = *arguments;
        if total_bytes > self.message_bytes {
            self.state = State::Skipping(total_bytes);
            return Ok(Step::Op(ServerOp::Oversized { sid, bytes: total_bytes }, consumed));
        }
        let needed = consumed + total_bytes + 2;
        if input.len() < needed {
            return Ok(Step::More(needed - input.len()));
        }
        let (content, end) = input[consumed..needed].split_at(total_bytes);
        if end != b"\r\n" {
            return Err(ProtocolError::NoLineEnd);
        }
        let (headers, payload) = content.split_at(header_bytes);
        let (subject, reply, headers) = (arguments.subject, arguments.reply, Headers::new(headers));
        Ok(Step::Op(ServerOp::Message(Message { sid, subject, reply, headers, payload }), needed))
    }
}

/// The first line without its end; `None` where its end is not there yet.
#[inline]
fn line(input: &[u8]) -> Result<Option<&[u8]>, ProtocolError> {
    let mut position = 0;
    while let Some(at) = memchr(b'\n', &input[position..]) {
        let end = position + at;
        // A line feed alone ends no line: it may stand in the text of an error.
        if end > 0 && input[end - 1] == b'\r' {
            return if end < LINE_BYTES { Ok(Some(&input[..end - 1])) } else { Err(ProtocolError::LineTooLong) };
        }
        position = end + 1;
    }
    if input.len() < LINE_BYTES { Ok(None) } else { Err(ProtocolError::LineTooLong) }
}

/// An operation that is a line and nothing more.
fn short_operation(line: &[u8]) -> Result<ServerOp<'_>, ProtocolError> {
    let end = memchr2(b' ', b'\t', line).unwrap_or(line.len());
    let (word, rest) = (&line[..end], line[end..].trim_ascii());
    match word {
        b"PING" => Ok(ServerOp::Ping),
        b"PONG" => Ok(ServerOp::Pong),
        b"+OK" => Ok(ServerOp::Ok),
        b"INFO" => Ok(ServerOp::Info(rest)),
        b"-ERR" => {
            // What is no UTF-8 says nothing that is known.
            let text = std::str::from_utf8(rest).unwrap_or("an error that is no UTF-8");
            Ok(ServerOp::Error(ServerError::parse(text.trim_matches('\''))))
        }
        _ => Err(ProtocolError::UnknownOperation(shown(line))),
    }
}

#[cold]
fn bad_arguments(line: &[u8]) -> ProtocolError {
    ProtocolError::BadArguments(shown(line))
}

/// What stands behind `MSG` and `HMSG`.
struct Arguments<'a> {
    subject: &'a [u8],
    sid: u64,
    reply: Option<&'a [u8]>,
    header_bytes: usize,
    total_bytes: usize,
}

impl<'a> Arguments<'a> {
    /// `SUBJECT SID [REPLY] [HEADER_BYTES] TOTAL_BYTES`; the header's length stands in `HMSG` only.
    #[inline]
    fn parse(line: &'a [u8], has_headers: bool) -> Option<Self> {
        let mut words: [&[u8]; 5] = [&[]; 5];
        let (mut count, mut rest) = (0, line);
        while !rest.is_empty() {
            let end = memchr2(b' ', b'\t', rest).unwrap_or(rest.len());
            if end > 0 {
                *words.get_mut(count)? = &rest[..end];
                count += 1;
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        let least = 3 + usize::from(has_headers);
        if count != least && count != least + 1 {
            return None;
        }
        let total_bytes = bytes(words[count - 1])?;
        let header_bytes = if has_headers { bytes(words[count - 2])? } else { 0 };
        let reply = (count > least).then_some(words[2]);
        let sid = number(words[1])?;
        (header_bytes <= total_bytes).then_some(Self { subject: words[0], sid, reply, header_bytes, total_bytes })
    }
}

/// A length in bytes, at most [`MESSAGE_BYTES_MAX`].
#[inline]
fn bytes(text: &[u8]) -> Option<usize> {
    number(text).and_then(|number| usize::try_from(number).ok()).filter(|bytes| *bytes <= MESSAGE_BYTES_MAX)
}

/// A decimal number without a sign.
#[inline]
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let mut value = 0_u64;
    for digit in text {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests;
