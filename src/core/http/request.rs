//! What a request asks for (RFC 6455 §4.2.1).

use std::borrow::Cow;

use memchr::memchr;

use super::head::{self, Parts, Progress, octets};
use crate::close::Refusal;
use crate::limits::HEAD_FIELDS;
use crate::percent;

const EMPTY_LINE: &[u8] = b"\r\n";
/// How an offered subprotocol begins that is a credential.
const CREDENTIAL: &str = "bearer.";
/// Headers that are read when they are asked for: lists, addresses of proxies, credentials.
const LOOKED_AT_LATER: [&str; 5] =
    ["sec-websocket-protocol", "sec-websocket-extensions", "x-forwarded-for", "authorization", "cookie"];

/// A request that is served, or answered by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// A valid WebSocket upgrade.
    Upgrade(Upgrade<'a>),
    /// A well-formed GET or HEAD that asks for no upgrade, or for one to another protocol, which is ignored (RFC 9110 §7.8).
    Plain {
        /// The method is HEAD: the answer has no body.
        is_head: bool,
        /// The target's path, as sent.
        path: &'a str,
        /// What follows the `?`, as sent; else empty.
        query: &'a str,
        /// The host that it names; empty in a request of HTTP/1.0 that names none.
        host: &'a str,
    },
}

/// Where a request may bring a token, beside its Authorization header and its subprotocols.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Places<'a> {
    /// In the cookie of this name.
    pub cookie: Option<&'a str>,
    /// As `?token=`.
    pub query: bool,
}

/// Where a request brings its token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// `Authorization: Bearer TOKEN` (RFC 6750 §2.1). Browsers cannot send it: its client reads a status.
    Authorization,
    /// A subprotocol `bearer.TOKEN`.
    Subprotocol,
    /// A cookie.
    Cookie,
    /// `?token=TOKEN`.
    Query,
}

/// A valid WebSocket upgrade request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upgrade<'a> {
    /// The target's path, as sent.
    pub path: &'a str,
    /// What follows the `?`, as sent; else empty.
    pub query: &'a str,
    /// Host and port that it names.
    pub host: &'a str,
    /// The origin of the page that opened it, if a browser sent one.
    pub origin: Option<&'a str>,
    /// Sec-WebSocket-Key.
    pub key: &'a [u8],
    /// The header lines, verified; none where none is asked for later.
    lines: &'a [u8],
}

impl<'a> Upgrade<'a> {
    /// Whether the client offers this subprotocol.
    pub fn offers_protocol(&self, protocol: &str) -> bool {
        values(self.lines, "sec-websocket-protocol").flat_map(elements).any(|offer| offer == protocol.as_bytes())
    }

    /// The first subprotocol that the client offers and that may be answered: a `bearer.TOKEN` is a credential, and what is no token
    /// (RFC 9110 §5.6.2) is no subprotocol.
    pub fn first_protocol(&self) -> Option<&'a str> {
        let mut offers = values(self.lines, "sec-websocket-protocol").flat_map(elements);
        let may_be_answered = |offer: &&[u8]| {
            !offer.is_empty() && offer.iter().copied().all(head::is_token) && !offer.starts_with(CREDENTIAL.as_bytes())
        };
        offers.find(may_be_answered).map(text)
    }

    /// The addresses that X-Forwarded-For names, as sent, the last one first: the nearest proxy wrote that. In one header or more.
    pub fn forwarded_for(&self) -> impl Iterator<Item = &'a str> {
        let lines: Vec<&[u8]> = values(self.lines, "x-forwarded-for").collect();
        lines.into_iter().rev().flat_map(|value| value.rsplit(|octet| *octet == b',')).map(|hop| text(hop.trim_ascii()))
    }

    /// Values of the Sec-WebSocket-Extensions headers, as sent.
    pub fn extensions(&self) -> impl Iterator<Item = &'a str> {
        values(self.lines, "sec-websocket-extensions").map(text)
    }

    /// The token that the request brings, and where it stands: the first place that has one counts.
    pub fn credential(&self, places: Places<'_>) -> Option<(Place, Cow<'a, str>)> {
        let bearer = |value: &'a [u8]| {
            let (scheme, token) = text(value).split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
        };
        if let Some(token) = values(self.lines, "authorization").find_map(bearer) {
            return Some((Place::Authorization, Cow::Borrowed(token)));
        }
        let mut offers = values(self.lines, "sec-websocket-protocol").flat_map(elements).map(text);
        if let Some(token) = offers.find_map(|offer| offer.strip_prefix(CREDENTIAL)) {
            return Some((Place::Subprotocol, Cow::Borrowed(token)));
        }
        let cookies = || values(self.lines, "cookie").flat_map(|value| text(value).split(';'));
        let in_cookie = |name: &str| {
            cookies().find_map(|cookie| {
                cookie.trim().strip_prefix(name)?.strip_prefix('=').map(|value| value.trim_matches('"'))
            })
        };
        if let Some(token) = places.cookie.and_then(in_cookie) {
            return Some((Place::Cookie, Cow::Borrowed(token)));
        }
        let mut pairs = self.query.split('&').filter(|_| places.query);
        let token = pairs.find_map(|pair| pair.strip_prefix("token="))?;
        // What cannot be decoded is no token, and is told so.
        Some((Place::Query, percent::decode(token).unwrap_or(Cow::Borrowed(token))))
    }

    /// How many attempts the client says that this connection took (`?attempt=N`); 0 for a first one.
    pub fn attempt(&self) -> u32 {
        let attempts = self.query.split('&').find_map(|pair| pair.strip_prefix("attempt="));
        attempts.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }
}

/// Reads the request at the start of `bytes`, and says how many octets its head has; `None` while it is not complete.
///
/// # Errors
/// Why it is refused; decided as early as possible, and at `head_bytes` octets at the latest.
pub fn parse(bytes: &[u8], head_bytes: usize) -> Result<Option<(Request<'_>, usize)>, Refusal> {
    parse_from(bytes, head_bytes, &mut Progress::default())
}

/// [`parse`] for a head that arrives in pieces: `progress` is what earlier calls have found of the same head.
///
/// # Errors
/// As [`parse`].
pub fn parse_from<'a>(
    bytes: &'a [u8],
    head_bytes: usize,
    progress: &mut Progress,
) -> Result<Option<(Request<'a>, usize)>, Refusal> {
    // One empty line before the request line is skipped (RFC 9112 §2.2).
    let skipped = if bytes.starts_with(EMPTY_LINE) { EMPTY_LINE.len() } else { 0 };
    let window = &bytes[skipped..bytes.len().min(head_bytes)];
    if window == b"\r" && skipped == 0 {
        return Ok(None);
    }
    let Some(len) = head::end(window, progress)? else {
        return if bytes.len() >= head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(None) };
    };
    let head = head::parts(&window[..len]);
    let mut fields = Fields { lines: head.fields, ..Fields::default() };
    for (number, (name, value)) in each_field(head.fields).enumerate() {
        if number == HEAD_FIELDS {
            return Err(Refusal::HeadTooLarge);
        }
        fields.note(name, value);
    }
    fields.read(&head).map(|request| Some((request, skipped + len)))
}

/// What the header lines say, gathered in one walk over them.
#[derive(Default)]
struct Fields<'a> {
    host: Single<'a>,
    version: Single<'a>,
    key: Single<'a>,
    origin: Single<'a>,
    /// Connection lists `upgrade`.
    upgrades_connection: bool,
    /// There is an Upgrade.
    upgrades: bool,
    /// Upgrade lists `websocket`.
    upgrades_to_websocket: bool,
    expects: bool,
    /// A request to this port has no body: what would be in it must not be taken for frames. A length of 0 announces none
    /// (RFC 9112 §6.3).
    has_body: bool,
    /// There are some of [`LOOKED_AT_LATER`], in one line or more.
    lists_later: bool,
    /// All of the lines.
    lines: &'a [u8],
}

impl<'a> Fields<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let lists = |token: &str| elements(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()));
        if is("host") {
            self.host.note(value);
        } else if is("connection") {
            self.upgrades_connection |= lists("upgrade");
        } else if is("upgrade") {
            self.upgrades = true;
            self.upgrades_to_websocket |= lists("websocket");
        } else if is("sec-websocket-version") {
            self.version.note(value);
        } else if is("sec-websocket-key") {
            self.key.note(value);
        } else if LOOKED_AT_LATER.iter().any(|name| is(name)) {
            self.lists_later = true;
        } else if is("origin") {
            self.origin.note(value);
        } else if is("expect") {
            self.expects = true;
        } else if is("content-length") {
            self.has_body |= value.is_empty() || value.iter().any(|digit| *digit != b'0');
        } else if is("transfer-encoding") {
            self.has_body = true;
        }
    }

    fn read(self, head: &Parts<'a>) -> Result<Request<'a>, Refusal> {
        let host = match self.host.value()? {
            Some(host) => Some(text(host)),
            // HTTP/1.0 knows no Host.
            None if head.is_http_1_0 => None,
            None => return Err(Refusal::BadRequest),
        };
        let (host, path, query) = split_target(text(head.target), host)?;
        if self.expects {
            return Err(Refusal::Expectation);
        }
        if self.has_body {
            return Err(Refusal::BadRequest);
        }
        if !(self.upgrades_connection && self.upgrades_to_websocket) || head.is_http_1_0 {
            // A key without its upgrade is a WebSocket client behind a proxy that does not pass the upgrade on.
            let is_lost = self.upgrades_to_websocket || (self.key.is_some() && !self.upgrades);
            let plain = Request::Plain { is_head: head.is_head, path, query, host };
            return if is_lost { Err(Refusal::UpgradeRequired) } else { Ok(plain) };
        }
        if head.is_head {
            return Err(Refusal::Method);
        }
        if self.version.value()? != Some(b"13") {
            return Err(Refusal::UpgradeRequired);
        }
        let key = self.key.value()?.filter(|key| is_key(key)).ok_or(Refusal::BadRequest)?;
        let origin = self.origin.value()?.map(text);
        let lines = if self.lists_later { self.lines } else { &[] };
        Ok(Request::Upgrade(Upgrade { path, query, host, origin, key, lines }))
    }
}

/// A header that may stand once.
#[derive(Clone, Copy, Default)]
struct Single<'a> {
    first: Option<&'a [u8]>,
    again: bool,
}

impl<'a> Single<'a> {
    fn note(&mut self, value: &'a [u8]) {
        self.again = self.first.is_some();
        self.first = Some(value);
    }

    fn is_some(self) -> bool {
        self.first.is_some()
    }

    /// Its value; twice is a bad request.
    fn value(self) -> Result<Option<&'a [u8]>, Refusal> {
        if self.again { Err(Refusal::BadRequest) } else { Ok(self.first) }
    }
}

/// Host, path and query of an origin-form or absolute-form target; the latter overrules Host (RFC 9112 §3.2.2). No host is an
/// empty one.
fn split_target<'a>(target: &'a str, host: Option<&'a str>) -> Result<(&'a str, &'a str, &'a str), Refusal> {
    let (host, rest) = match absolute(target) {
        Some(rest) => {
            let (host, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(host), rest)
        }
        None => (host, target),
    };
    let legal_host = host.is_none_or(|host| !host.is_empty() && host.bytes().all(|octet| HOST[usize::from(octet)]));
    let host = host.unwrap_or_default();
    let origin_form = rest.is_empty() || rest.starts_with('/') || rest.len() < target.len();
    if !legal_host || !origin_form || target.contains('#') {
        return Err(Refusal::BadRequest);
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((host, if path.is_empty() { "/" } else { path }, query))
}

/// What a host and its port may be made of (RFC 3986 §3.2.2).
const HOST: [bool; 256] = octets(b"-._~:[]%!$&'()*+;=");

fn absolute(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then_some(rest)
}

/// Base64 of 16 octets (§4.1): 22 digits and two pads.
fn is_key(key: &[u8]) -> bool {
    const DIGIT: [bool; 256] = octets(b"+/");
    let is_digit = |so_far: bool, octet: &u8| so_far & DIGIT[usize::from(*octet)];
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().fold(true, is_digit))
}

/// Values of the headers of this name.
fn values<'a>(lines: &'a [u8], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    each_field(lines).filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// Name and value of each header line, without the white space around the value.
fn each_field(mut lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (line, rest) = lines.split_at_checked(memchr(b'\n', lines)? + 1)?;
        lines = rest;
        let colon = line.iter().position(|octet| *octet == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// A value as text. Octets that are no UTF-8 are legal in one, and equal to none that is looked for.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("\u{fffd}")
}

/// The elements of a comma-separated list.
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|octet| *octet == b',').map(<[u8]>::trim_ascii)
}
