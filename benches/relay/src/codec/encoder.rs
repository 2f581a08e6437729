//! What a client sends, appended to a buffer that the connection's owner writes.
//!
//! Subjects are checked: one with a blank or a line end would be another operation. So is the length of a line: the server closes the
//! connection over one that is longer than its `max_control_line`, of which [`CONTROL_LINE_BYTES`] is the default.

use memchr::memchr3;

use std::fmt;

/// Bytes of a line that every nats-server takes: its `max_control_line`, unless it is set to less. Without the line end.
pub const CONTROL_LINE_BYTES: usize = 4096;

/// Why nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadSubject {
    /// It is empty, or has a blank or a control character.
    Character,
    /// The line would have more than [`CONTROL_LINE_BYTES`].
    Length,
}

impl fmt::Display for BadSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character => f.write_str("a subject has 1 or more characters, without blanks and control characters"),
            Self::Length => write!(f, "subject and reply are longer than the {CONTROL_LINE_BYTES} bytes of a line"),
        }
    }
}

impl std::error::Error for BadSubject {}

/// `SUB`: messages of the subject come with this id from now on. It is the caller's choice, but free it must be: nats-server ignores a
/// `SUB` with an id in use and says nothing (2.9.10, 2.15.1). An id is free once its `UNSUB` was written; messages of the earlier
/// subject that were under way then still come with it, so a receiver compares the subject too.
///
/// # Errors
/// The subject cannot be sent.
pub fn subscribe(out: &mut Vec<u8>, subject: [&str; 2], sid: u64) -> Result<(), BadSubject> {
    let begin = begin(out, b"SUB ", subject)?;
    out.push(b' ');
    decimal(out, sid);
    end_line(out, begin)
}

/// `UNSUB`: no more messages with this id; those that are under way still come.
pub fn unsubscribe(out: &mut Vec<u8>, sid: u64) {
    out.extend_from_slice(b"UNSUB ");
    decimal(out, sid);
    out.extend_from_slice(b"\r\n");
}

/// `PUB`, or with a header block `HPUB`: the whole message. `headers` is a block as [`super::envelope::Envelope::write`] makes it, or
/// empty. The server's `max_payload` bounds block and payload together, and is the caller's to hold.
///
/// # Errors
/// The subject or the reply cannot be sent.
pub fn publish(
    out: &mut Vec<u8>,
    subject: [&str; 2],
    reply: Option<&str>,
    headers: &[u8],
    payload: &[u8],
) -> Result<(), BadSubject> {
    let begin = begin(out, if headers.is_empty() { b"PUB " } else { b"HPUB " }, subject)?;
    out.push(b' ');
    if let Some(reply) = reply {
        if let Err(error) = checked([reply, ""]) {
            out.truncate(begin);
            return Err(error);
        }
        out.extend_from_slice(reply.as_bytes());
        out.push(b' ');
    }
    if !headers.is_empty() {
        decimal(out, headers.len() as u64);
        out.push(b' ');
    }
    decimal(out, (headers.len() + payload.len()) as u64);
    end_line(out, begin)?;
    out.reserve(headers.len() + payload.len() + 2);
    out.extend_from_slice(headers);
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// `PING`: its `PONG` comes after the answers to everything before it.
pub fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// `PONG`: the answer to a server's `PING`.
pub fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

/// Appends the word and the subject, which comes in two parts: a prefix and a room. Gives the line's position.
fn begin(out: &mut Vec<u8>, word: &[u8], subject: [&str; 2]) -> Result<usize, BadSubject> {
    checked(subject)?;
    let begin = out.len();
    out.extend_from_slice(word);
    subject.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    Ok(begin)
}

fn checked(subject: [&str; 2]) -> Result<(), BadSubject> {
    let is_bad = |part: &str| {
        memchr3(b' ', b'\r', b'\n', part.as_bytes()).is_some() || part.bytes().any(|byte| byte < b' ' || byte == 0x7f)
    };
    let empty = subject.iter().all(|part| part.is_empty());
    if empty || subject.iter().any(|part| is_bad(part)) { Err(BadSubject::Character) } else { Ok(()) }
}

/// Ends the line that began at `begin`, or takes it back where it is too long.
fn end_line(out: &mut Vec<u8>, begin: usize) -> Result<(), BadSubject> {
    if out.len() - begin > CONTROL_LINE_BYTES {
        out.truncate(begin);
        return Err(BadSubject::Length);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a number in decimal digits.
pub(super) fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[begin..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), BadSubject>) -> Result<String, BadSubject> {
        let mut out = b"before\r\n".to_vec();
        let result = write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let added = text.strip_prefix("before\r\n").unwrap().to_owned();
        assert!(result.is_ok() || added.is_empty(), "what was refused left {added:?}");
        result.map(|()| added)
    }

    #[test]
    fn each_operation_is_written_as_the_protocol_says() {
        let sub = written(|out| subscribe(out, ["tidegate.room.", "lobby"], 17));
        assert_eq!(sub, Ok("SUB tidegate.room.lobby 17\r\n".into()));
        let unsub = written(|out| {
            unsubscribe(out, u64::MAX);
            Ok(())
        });
        assert_eq!(unsub, Ok("UNSUB 18446744073709551615\r\n".into()));
        let plain = written(|out| publish(out, ["a", ""], None, b"", b""));
        assert_eq!(plain, Ok("PUB a 0\r\n\r\n".into()));
        let all = written(|out| publish(out, ["a.", "b"], Some("r"), b"NATS/1.0\r\n\r\n", b"hello"));
        assert_eq!(all, Ok("HPUB a.b r 12 17\r\nNATS/1.0\r\n\r\nhello\r\n".into()));
    }

    #[test]
    fn a_subject_that_would_be_another_operation_is_refused() {
        for subject in ["", " ", "a b", "a\r\nPUB b 0\r\n", "a\tb", "a\nb", "a\0", "a\x7f"] {
            assert_eq!(written(|out| subscribe(out, [subject, ""], 1)), Err(BadSubject::Character), "{subject:?}");
            assert_eq!(written(|out| publish(out, ["a", subject], None, b"", b"")).is_err(), !subject.is_empty());
            assert_eq!(written(|out| publish(out, ["a", ""], Some(subject), b"", b"")), Err(BadSubject::Character));
        }
    }

    #[test]
    fn a_line_that_the_server_would_close_the_connection_over_is_refused() {
        let longest = "a".repeat(CONTROL_LINE_BYTES - "SUB  1".len());
        assert!(written(|out| subscribe(out, [&longest, ""], 1)).is_ok());
        assert_eq!(written(|out| subscribe(out, [&longest, ""], 10)), Err(BadSubject::Length));
        assert_eq!(written(|out| publish(out, ["a", ""], Some(&longest), b"", b"12345")), Err(BadSubject::Length));
    }
}
