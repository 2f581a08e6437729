//! One HTTP/1.1 request on one connection (RFC 9112): enough for the admin port, and nothing more.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use super::target::Target;

/// For every read and write on the connection.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read at most, its head apart.
const BODY_BYTES: u64 = 1 << 20;
/// Bytes of an answer's head that are read at most.
const HEAD_BYTES: u64 = 16 << 10;

/// A request.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Bearer token.
    pub(super) token: Option<&'a str>,
    /// Content-Type.
    pub(super) kind: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Request<'_> {
    /// Sends the request and reads the whole answer.
    pub(super) fn send(&self, to: &Target) -> io::Result<Answer> {
        let mut stream = to.connect()?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(&self.bytes(to))?;
        Answer::read(stream)
    }

    fn bytes(&self, to: &Target) -> Vec<u8> {
        // A balancer may serve the node below a path of its own.
        let path = format!("{}{}", to.path.trim_end_matches('/'), self.path);
        let mut head = format!("{} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.method, to.host());
        if let Some(token) = self.token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if let Some(kind) = self.kind {
            head.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        [head.as_bytes(), self.body].concat()
    }
}

impl Answer {
    fn read(stream: impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut head = reader.by_ref().take(HEAD_BYTES);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).filter(|_| line.starts_with("HTTP/1."));
        let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that was no HTTP answer"))?;
        let (mut length, mut chunked) = (None, false);
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok(),
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        let body = if chunked { chunks(&mut reader)? } else { plain(&mut reader, length)? };
        Ok(Self { status, body })
    }
}

fn plain(reader: &mut impl Read, length: Option<u64>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    reader.by_ref().take(length.unwrap_or(BODY_BYTES).min(BODY_BYTES)).read_to_end(&mut body)?;
    Ok(body)
}

fn chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.by_ref().take(64).read_line(&mut line)?;
        let size = line.split([';', '\r', '\n']).next().and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        let size = size.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that was no chunk"))?;
        if size == 0 || body.len() as u64 + size > BODY_BYTES {
            return Ok(body);
        }
        if reader.by_ref().take(size).read_to_end(&mut body)? as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.clear();
        reader.by_ref().take(2).read_line(&mut line)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<(u16, String)> {
        Answer::read(bytes).map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()))
    }

    #[test]
    fn the_body_ends_where_its_length_says_or_its_chunks_or_the_connection() {
        assert_eq!(read(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nokXX").unwrap(), (202, "ok".into()));
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n").unwrap(),
            (200, "abcd".into())
        );
        assert_eq!(read(b"HTTP/1.1 503 Full\r\n\r\nlater").unwrap(), (503, "later".into()));
    }

    #[test]
    fn an_answer_that_is_not_http_is_an_error() {
        assert!(read(b"SSH-2.0-x\r\n").is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 1").is_err());
        assert!(read(b"").is_err());
    }
}
