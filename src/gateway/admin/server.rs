//! The admin port: connections, and the story of one request over monoio-http.
//!
//! One task per connection; [`places`](super::places) says how many and which gives way. A request is decided on its head alone
//! (framing, route, peer) before a byte of its body is read; the body then is bounded by what its route may take. What the decoder
//! cannot answer for is guarded from outside: see [`meter`](super::meter), and [`framing`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
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
use super::audit::{Call, Kind};
use super::auth::{Credential, Peer, Tokens, authorize, names_a_site};
use super::meter::{Cut, IDLE_DEADLINE, Meter, Metered, REQUEST_DEADLINE};
use super::places::{Place, Stage};
use super::reply::{Problem, Reply};
use super::requests::NO_ROUTE;
use super::route::{Route, route};
use super::supervisor::Supervisor;
use crate::gateway::config::AccessTokens;
use crate::gateway::log;
use tidegate_core::limits::HEAD_BYTES;

/// What a connection gets where none gives way for it.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
/// Before the next accept where the last one failed: descriptors that ran out come back with time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two log lines about accepts that failed.
const ACCEPT_WARNING: Duration = Duration::from_secs(30);
/// How long, and how many bytes, a peer is listened to after the last answer, so that the answer is not lost to a reset.
const LINGER_DEADLINE: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

type Requests = RequestDecoder<Metered<OwnedReadHalf<TcpStream>>>;

/// One admin connection.
struct Connection {
    /// The first field: it goes before the socket is closed.
    place: Rc<Place>,
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
    /// The answer is to HEAD: it has no body.
    bodyless: bool,
}

/// Accepts for as long as the process lives.
pub(super) async fn accept(listener: TcpListener, supervisor: Rc<Supervisor>) {
    let places = &supervisor.places;
    let mut warned: Option<Instant> = None;
    loop {
        places.keep_descriptors(&supervisor.waker);
        match listener.accept().await {
            Ok((stream, peer)) => match places.take(stream.as_raw_fd()) {
                Some(place) => {
                    monoio::spawn(serve(stream, peer, place, supervisor.clone()));
                }
                None => refuse(&stream),
            },
            Err(error) if is_out_of_descriptors(&error) && places.free_descriptor() => {}
            Err(error) => {
                if warned.is_none_or(|warned| warned.elapsed() >= ACCEPT_WARNING) {
                    tracing::warn!(%error, "cannot accept on the admin port; trying again");
                    warned = Some(Instant::now());
                }
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn refuse(stream: &TcpStream) {
    // A new socket takes this many bytes at once or is dead.
    let _ = send(stream.as_raw_fd(), FULL, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

async fn serve(stream: TcpStream, peer: SocketAddr, place: Place, supervisor: Rc<Supervisor>) {
    // Answers are written whole: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let fd = stream.as_raw_fd();
    let (reader, writer) = stream.into_split();
    let meter = Meter::new();
    let connection = Connection {
        place: Rc::new(place),
        supervisor,
        peer,
        fd,
        requests: RequestDecoder::new(Metered::new(reader, meter.clone())),
        replies: GenericEncoder::new(writer),
        meter,
    };
    connection.run().await;
}

impl Connection {
    async fn run(mut self) {
        let mut wait = REQUEST_DEADLINE;
        loop {
            self.meter.grant_request(HEAD_BYTES, wait);
            let Some(verdict) = self.next().await else { return };
            let keep = verdict.keep;
            self.place.enter(Stage::Answering);
            if self.write(verdict).await.is_none() {
                return;
            }
            if !keep {
                return linger(self).await;
            }
            self.place.enter(Stage::Idle);
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
        let (mut kind, mut route) = (Kind::Read, NO_ROUTE);
        let verdict = self.decide(&head, payload, &mut kind, &mut route).await;
        self.supervisor.requests.count(route, verdict.reply.status);
        let call = Call {
            kind,
            peer: self.peer,
            credential: Credential::of(self.tokens(), self.credentials(&head.headers)),
            method: head.method.as_str(),
            path: head.uri.path(),
            status: verdict.reply.status,
        };
        self.supervisor.audit.record(&call, Instant::now());
        Verdict { bodyless: head.method == Method::HEAD, ..verdict }
    }

    async fn decide(&mut self, head: &Parts, payload: Payload, kind: &mut Kind, label: &mut &'static str) -> Verdict {
        let keep = head.version == Version::HTTP_11 && !has_token(&head.headers, header::CONNECTION, "close");
        if let Err(problem) = framing(head.version, &head.headers) {
            return Verdict::last(problem);
        }
        let found = route(head.method.as_str(), head.uri.path(), head.uri.query().unwrap_or(""));
        // An unread body would be taken for the next request.
        let keep_refused = keep && matches!(payload, Payload::None);
        let found = found.inspect(|route| *label = route.label());
        let route = match found.and_then(|route| self.admit(route, &head.headers, kind)) {
            Ok(route) => route,
            Err(problem) => return Verdict { keep: keep_refused, ..Verdict::last(problem) },
        };
        match self.body(&route, &head.headers, payload).await {
            Ok(body) => {
                let reply = api::answer(&self.supervisor, route, &head.headers, body).await;
                Verdict { reply, keep, bodyless: false }
            }
            Err(problem) => Verdict::last(problem),
        }
    }

    /// Lets a request in, if its peer may send it and there is a place for its work.
    fn admit(&self, route: Route, headers: &HeaderMap, kind: &mut Kind) -> Result<Route, Problem> {
        *kind = Kind::Refused;
        authorize(route.need(), self.tokens(), self.credentials(headers))?;
        *kind = route.kind();
        if !route.is_probe() && !self.place.begin_work() {
            return Err(Problem::unavailable("too many requests are in progress on this port; try again"));
        }
        Ok(route)
    }

    fn tokens(&self) -> Tokens<'_> {
        let config = &self.supervisor.config;
        let [admin, backend, publish] = [&config.admin.token, &config.backend.token, &config.publish.token]
            .map(|list| AccessTokens::all(list.as_ref()));
        Tokens { admin, backend, publish }
    }

    fn credentials<'a>(&self, headers: &'a HeaderMap) -> Peer<'a> {
        Peer {
            is_loopback: self.peer.ip().to_canonical().is_loopback(),
            authorization: headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()),
            is_page: headers.contains_key(header::ORIGIN)
                || headers.get(header::HOST).is_some_and(|host| names_a_site(host.as_bytes())),
        }
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
                tracing::debug!(peer = %log::address(self.peer), %error, "undecodable request on the admin port");
                Problem::bad("bad-request", "this is no HTTP/1.1 request that this port takes; see RFC 9112")
            }
        }
    }

    async fn write(&mut self, verdict: Verdict) -> Option<()> {
        let Verdict { reply, keep, bodyless } = verdict;
        if bodyless {
            return self.write_head(&reply, keep);
        }
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

    /// The answer to HEAD: what GET would be answered, its length included, without the body. The encoder writes no length
    /// but that of the body that it sends. `None` where the socket does not take so few bytes at once: its peer reads nothing.
    fn write_head(&self, reply: &Reply, keep: bool) -> Option<()> {
        let status = StatusCode::from_u16(reply.status).ok()?;
        let mut head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: {}\r\ncache-control: no-store\r\n",
            reply.body.len(),
            reply.content_type
        );
        reply.header.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str(if keep { "\r\n" } else { "connection: close\r\n\r\n" });
        // Every earlier answer was handed to the kernel.
        let sent = send(self.fd, head.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        (sent == Ok(head.len())).then_some(())
    }
}

impl Verdict {
    /// The connection ends with this.
    fn last(problem: Problem) -> Self {
        Self { reply: problem.into(), keep: false, bodyless: false }
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
    let place = connection.place.clone();
    place.linger_on(rest.as_raw_fd());
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
    // Before the socket is closed.
    drop(place);
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
