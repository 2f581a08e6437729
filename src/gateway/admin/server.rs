//! The admin port: connections, and the story of one request over monoio-http.
//!
//! One task per connection, at most [`ADMIN_CONNECTIONS`]. A request is decided on its head alone (framing, route, peer)
//! before a byte of its body is read; the body then is bounded by what its route may take. What the decoder cannot answer
//! for is guarded from outside: see [`meter`](super::meter), and [`framing`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, Version};
use monoio::io::sink::SinkExt;
use monoio::io::stream::Stream;
use monoio::io::{AsyncReadRent, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpListener, TcpStream};
use monoio_http::common::error::HttpError;
use monoio_http::h1::codec::decoder::{FillPayload, RequestDecoder};
use monoio_http::h1::codec::encoder::GenericEncoder;
use monoio_http::h1::payload::{FixedPayload, Payload};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

use super::api;
use super::auth::{Peer, Tokens, authorize, names_a_site};
use super::meter::{Cut, IDLE_DEADLINE, Meter, Metered, REQUEST_DEADLINE};
use super::reply::{Problem, Reply};
use super::route::{Route, route};
use super::supervisor::Supervisor;
use tidegate_core::limits::{ADMIN_CONNECTIONS, HEAD_BYTES};

/// What a connection above [`ADMIN_CONNECTIONS`] gets.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
/// Before the next accept where the last one failed: descriptors that ran out come back with time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long, and how many bytes, a peer is listened to after the last answer, so that the answer is not lost to a reset.
const LINGER_DEADLINE: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

type Requests = RequestDecoder<Metered<OwnedReadHalf<TcpStream>>>;

/// One admin connection.
struct Connection {
    supervisor: Rc<Supervisor>,
    peer: SocketAddr,
    /// The socket that the two halves own.
    fd: RawFd,
    meter: Rc<Meter>,
    requests: Requests,
    replies: GenericEncoder<OwnedWriteHalf<TcpStream>>,
}

/// An answer, and whether the connection goes on after it.
struct Verdict {
    reply: Reply,
    keep: bool,
}

/// Accepts for as long as the process lives.
pub(super) async fn accept(listener: TcpListener, supervisor: Rc<Supervisor>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if supervisor.admin_connections.get() >= ADMIN_CONNECTIONS => refuse(&stream),
            Ok((stream, peer)) => {
                monoio::spawn(serve(stream, peer, supervisor.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin port; trying again");
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn refuse(stream: &TcpStream) {
    // A new socket takes this many bytes at once or is dead.
    let _ = send(stream.as_raw_fd(), FULL, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

async fn serve(stream: TcpStream, peer: SocketAddr, supervisor: Rc<Supervisor>) {
    supervisor.admin_connections.set(supervisor.admin_connections.get() + 1);
    // Answers are written whole: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let fd = stream.as_raw_fd();
    let (reader, writer) = stream.into_split();
    let meter = Meter::new();
    let connection = Connection {
        supervisor: supervisor.clone(),
        peer,
        fd,
        requests: RequestDecoder::new(Metered::new(reader, meter.clone())),
        replies: GenericEncoder::new(writer),
        meter,
    };
    connection.run().await;
    supervisor.admin_connections.set(supervisor.admin_connections.get() - 1);
}

impl Connection {
    async fn run(mut self) {
        let mut wait = REQUEST_DEADLINE;
        loop {
            self.meter.grant_request(HEAD_BYTES, wait);
            let Some(verdict) = self.next().await else { return };
            if self.write(verdict.reply, verdict.keep).await.is_none() {
                return;
            }
            if !verdict.keep {
                return linger(self).await;
            }
            wait = IDLE_DEADLINE;
        }
    }

    /// The next request and its answer; `None` where the peer is gone.
    async fn next(&mut self) -> Option<Verdict> {
        let meter = self.meter.clone();
        match meter.in_time(self.requests.next()).await {
            Some(Some(Ok(request))) => Some(self.answer(request).await),
            Some(Some(Err(error))) => Some(Verdict::last(self.undecodable(&error))),
            None if !meter.is_idle() => Some(Verdict::last(late())),
            // The peer is done, or said nothing for too long.
            Some(None) | None => None,
        }
    }

    async fn answer(&mut self, request: Request<Payload>) -> Verdict {
        let (head, payload) = request.into_parts();
        let keep = head.version == Version::HTTP_11 && !has_token(&head.headers, header::CONNECTION, "close");
        if let Err(problem) = framing(head.version, &head.headers) {
            return Verdict::last(problem);
        }
        let decided = route(head.method.as_str(), head.uri.path(), head.uri.query().unwrap_or(""))
            .and_then(|route| self.authorize(&route, &head.headers).map(|()| route));
        let bodyless = matches!(payload, Payload::None);
        let route = match decided {
            Ok(route) => route,
            // An unread body would be taken for the next request; the answer to HEAD has none to tell apart.
            Err(problem) => {
                return Verdict { reply: problem.into(), keep: keep && bodyless && head.method != Method::HEAD };
            }
        };
        match self.body(&route, &head.headers, payload).await {
            Ok(body) => Verdict { reply: api::answer(&self.supervisor, route, &head.headers, body).await, keep },
            Err(problem) => Verdict::last(problem),
        }
    }

    fn authorize(&self, route: &Route, headers: &HeaderMap) -> Result<(), Problem> {
        let config = &self.supervisor.config;
        let tokens = Tokens { admin: config.admin.token.as_deref(), publish: config.publish.token.as_deref() };
        let peer = Peer {
            is_loopback: self.peer.ip().to_canonical().is_loopback(),
            authorization: headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()),
            is_page: headers.contains_key(header::ORIGIN)
                || headers.get(header::HOST).is_some_and(|host| names_a_site(host.as_bytes())),
        };
        authorize(route.need(), tokens, peer)
    }

    async fn body(&mut self, route: &Route, headers: &HeaderMap, payload: Payload) -> Result<Bytes, Problem> {
        if matches!(payload, Payload::None) {
            return Ok(Bytes::new());
        }
        let limit = api::body_limit(route, &self.supervisor.config);
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > limit) {
            return Err(Problem::too_large("the body", limit));
        }
        if has_token(headers, header::EXPECT, "100-continue") {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            // Every earlier answer was handed to the kernel: these bytes cannot land inside one. A peer that does not
            // get them sends its body after a moment anyway.
            let _ = send(self.fd, go_on, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
        // Chunks bring their own framing: the same again for it, and the data is measured below.
        self.meter.grant(announced.unwrap_or(limit.saturating_mul(2)).saturating_add(1));
        let meter = self.meter.clone();
        match meter.in_time(self.requests.fill_payload()).await {
            Some(Ok(())) => collected(payload, limit).await,
            Some(Err(_)) if meter.cut() == Some(Cut::TooLong) => Err(Problem::too_large("the body", limit)),
            Some(Err(error)) => Err(self.undecodable(&error)),
            None => Err(late()),
        }
    }

    fn undecodable(&self, error: &HttpError) -> Problem {
        match self.meter.cut() {
            Some(Cut::TooLong) => Problem::new(
                431,
                "too-large",
                format!("the head is longer than {HEAD_BYTES} bytes; send fewer headers"),
            ),
            Some(Cut::TooLate) => late(),
            None => {
                tracing::debug!(peer = %self.peer, %error, "undecodable request on the admin port");
                Problem::bad("bad-request", "this is no HTTP/1.1 request that this port takes; see RFC 9112")
            }
        }
    }

    async fn write(&mut self, reply: Reply, keep: bool) -> Option<()> {
        let mut response = Response::builder()
            .status(reply.status)
            .header(header::CONTENT_TYPE, reply.content_type)
            .header(header::CACHE_CONTROL, "no-store");
        if let Some((name, value)) = reply.header {
            response = response.header(name, value);
        }
        if !keep {
            response = response.header(header::CONNECTION, "close");
        }
        let response: Response<Payload> = response.body(Payload::Fixed(FixedPayload::new(reply.body))).ok()?;
        self.meter.grant(0);
        let sent = self.replies.send_and_flush(response);
        self.meter.in_time(sent).await?.ok()
    }
}

impl Verdict {
    /// The connection ends with this.
    fn last(problem: Problem) -> Self {
        Self { reply: problem.into(), keep: false }
    }
}

fn late() -> Problem {
    Problem::new(408, "timeout", format!("the request was not complete within {} s", REQUEST_DEADLINE.as_secs()))
}

/// What the decoder lets pass and must not: two ways to say where the body ends (RFC 9112 §6.3), and requests without the
/// one Host that HTTP/1.1 asks for (§3.2).
fn framing(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let count = |name| headers.get_all(name).iter().count();
    let (lengths, encodings) = (count(header::CONTENT_LENGTH), count(header::TRANSFER_ENCODING));
    if lengths + encodings > 1 {
        return Err(Problem::bad("bad-request", "send one Content-Length or one Transfer-Encoding, not both or two"));
    }
    if count(header::HOST) > 1 || (version == Version::HTTP_11 && count(header::HOST) == 0) {
        return Err(Problem::bad("bad-request", "send exactly one Host header"));
    }
    Ok(())
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// All of a body that has been read.
async fn collected(payload: Payload, limit: usize) -> Result<Bytes, Problem> {
    let broken = |_: HttpError| Problem::bad("bad-request", "the body ended before it was complete");
    let body = match payload {
        Payload::None => Bytes::new(),
        Payload::Fixed(mut fixed) => fixed.next().await.transpose().map_err(broken)?.unwrap_or_default(),
        Payload::Stream(mut chunks) => {
            let mut body = BytesMut::new();
            while let Some(chunk) = chunks.next().await {
                body.extend_from_slice(&chunk.map_err(broken)?);
            }
            body.freeze()
        }
    };
    if body.len() > limit { Err(Problem::too_large("the body", limit)) } else { Ok(body) }
}

/// Closes so that the last answer arrives: a socket closed over unread bytes is reset, and the reset may overtake it.
async fn linger(connection: Connection) {
    let Ok(mut rest) = last_look(&connection) else { return };
    drop(connection);
    let listen = async {
        let mut buffer = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            let (read, back) = rest.read(buffer).await;
            buffer = back;
            match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => left = left.saturating_sub(bytes),
            }
        }
    };
    let _ = monoio::time::timeout(LINGER_DEADLINE, listen).await;
}

/// The socket, ours to read from without the decoder, and with its writing side shut down.
fn last_look(connection: &Connection) -> io::Result<TcpStream> {
    // SAFETY: the halves in `connection` own the descriptor and outlive this borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(connection.fd) };
    let copy = std::net::TcpStream::from(fd.try_clone_to_owned()?);
    shutdown(connection.fd, Shutdown::Write)?;
    TcpStream::from_std(copy)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_body_has_one_end_and_a_request_one_host() {
        let status =
            |pairs: &[_]| framing(Version::HTTP_11, &headers(pairs)).map_or_else(|problem| problem.status, |()| 200);
        assert_eq!(status(&[("host", "a")]), 200);
        assert_eq!(status(&[("host", "a"), ("content-length", "3")]), 200);
        assert_eq!(status(&[("host", "a"), ("content-length", "3"), ("transfer-encoding", "chunked")]), 400);
        assert_eq!(status(&[("host", "a"), ("content-length", "3"), ("content-length", "4")]), 400);
        assert_eq!(status(&[("host", "a"), ("transfer-encoding", "identity"), ("transfer-encoding", "chunked")]), 400);
        assert_eq!(status(&[]), 400);
        assert_eq!(status(&[("host", "a"), ("host", "b")]), 400);
        assert!(framing(Version::HTTP_10, &headers(&[])).is_ok());
    }

    #[test]
    fn tokens_are_found_in_lists_and_in_any_case() {
        let connection = headers(&[("connection", "keep-alive, Close")]);
        assert!(has_token(&connection, header::CONNECTION, "close"));
        assert!(!has_token(&connection, header::CONNECTION, "clo"));
    }
}
