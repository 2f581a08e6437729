//! What a request asks for (RFC 6455 §4.2.1).

use std::borrow::Cow;
use std::mem::MaybeUninit;

use memchr::memchr;

use super::head::{self, Progress};
use crate::close::Refusal;
use crate::limits::HEAD_FIELDS;

/// A request that is served, or answered by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// A valid WebSocket upgrade.
    Upgrade(Upgrade<'a>),
    /// A well-formed GET that asks for no upgrade.
    Plain {
        /// The target's path, as sent.
        path: &'a str,
        /// What follows the `?`, as sent; else empty.
        query: &'a str,
        /// The host that it names.
        host: &'a str,
    },
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
    /// Who opened the page, if a browser sent it.
    pub origin: Option<&'a str>,
    /// Sec-WebSocket-Key.
    pub key: &'a [u8],
    /// The last X-Forwarded-For, which the nearest proxy wrote.
    pub forwarded_for: Option<&'a str>,
    /// The header lines, verified.
    fields: &'a [u8],
}

impl<'a> Upgrade<'a> {
    /// Whether the client offers this subprotocol.
    pub fn offers_protocol(&self, protocol: &str) -> bool {
        values(self.fields, "sec-websocket-protocol").flat_map(elements).any(|offer| offer == protocol)
    }

    /// Values of the Sec-WebSocket-Extensions headers, as sent.
    pub fn extensions(&self) -> impl Iterator<Item = &'a str> {
        values(self.fields, "sec-websocket-extensions")
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
    let window = &bytes[..bytes.len().min(head_bytes)];
    let Some(len) = head::end(window, progress)? else {
        return if bytes.len() >= head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(None) };
    };
    let head = &bytes[..len];
    let mut fields = [const { MaybeUninit::uninit() }; HEAD_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Refusal::BadRequest),
    }
    let target = request.path.ok_or(Refusal::BadRequest)?;
    let lines = memchr(b'\n', head).map_or(&[][..], |feed| &head[feed + 1..]);
    read(target, lines).map(|request| Some((request, len)))
}

fn read<'a>(target: &'a str, lines: &'a [u8]) -> Result<Request<'a>, Refusal> {
    let fields = Fields::read(lines);
    let host = fields.host.value()?.ok_or(Refusal::BadRequest)?;
    let (host, path, query) = split_target(target, host)?;
    if fields.expects {
        return Err(Refusal::Expectation);
    }
    if fields.has_body {
        return Err(Refusal::BadRequest);
    }
    if !(fields.upgrades_connection && fields.upgrades_to_websocket) {
        let another = fields.upgrades || fields.key.is_some();
        return if another { Err(Refusal::UpgradeRequired) } else { Ok(Request::Plain { path, query, host }) };
    }
    if fields.version.value()? != Some("13") {
        return Err(Refusal::UpgradeRequired);
    }
    let key = fields.key.value()?.filter(|key| is_key(key)).ok_or(Refusal::BadRequest)?.as_bytes();
    let origin = fields.origin.value()?;
    let forwarded_for = fields.forwarded_for;
    Ok(Request::Upgrade(Upgrade { path, query, host, origin, key, forwarded_for, fields: lines }))
}

/// What the header lines say, gathered in one walk over them.
#[derive(Default)]
struct Fields<'a> {
    host: Single<'a>,
    version: Single<'a>,
    key: Single<'a>,
    origin: Single<'a>,
    forwarded_for: Option<&'a str>,
    /// Connection lists `upgrade`.
    upgrades_connection: bool,
    /// There is an Upgrade.
    upgrades: bool,
    /// Upgrade lists `websocket`.
    upgrades_to_websocket: bool,
    expects: bool,
    /// A request to this port has no body: what would be in it must not be taken for frames.
    has_body: bool,
}

impl<'a> Fields<'a> {
    fn read(lines: &'a [u8]) -> Self {
        let mut fields = Self::default();
        each_field(lines).for_each(|(name, value)| fields.note(name, value));
        fields
    }

    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let lists = |token: &str| elements(text(value)).any(|element| element.eq_ignore_ascii_case(token));
        if is("host") {
            self.host.note(text(value));
        } else if is("connection") {
            self.upgrades_connection |= lists("upgrade");
        } else if is("upgrade") {
            self.upgrades = true;
            self.upgrades_to_websocket |= lists("websocket");
        } else if is("sec-websocket-version") {
            self.version.note(text(value));
        } else if is("sec-websocket-key") {
            self.key.note(text(value));
        } else if is("origin") {
            self.origin.note(text(value));
        } else if is("x-forwarded-for") {
            self.forwarded_for = Some(text(value));
        } else if is("expect") {
            self.expects = true;
        } else if is("content-length") {
            // 0 says that there is none (RFC 9110 §8.6), and stands in the requests of some clients and proxies.
            self.has_body |= text(value) != "0";
        } else if is("transfer-encoding") {
            self.has_body = true;
        }
    }
}

/// A header that may stand once.
#[derive(Clone, Copy, Default)]
struct Single<'a> {
    first: Option<&'a str>,
    again: bool,
}

impl<'a> Single<'a> {
    fn note(&mut self, value: &'a str) {
        self.again = self.first.is_some();
        self.first = Some(value);
    }

    fn is_some(self) -> bool {
        self.first.is_some()
    }

    /// Its value; twice is a bad request.
    fn value(self) -> Result<Option<&'a str>, Refusal> {
        if self.again { Err(Refusal::BadRequest) } else { Ok(self.first) }
    }
}

/// Host, path and query of an origin-form or absolute-form target; the latter overrules Host (RFC 9112 §3.2.2).
fn split_target<'a>(target: &'a str, host: &'a str) -> Result<(&'a str, &'a str, &'a str), Refusal> {
    let (host, rest) = match absolute(target) {
        Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
        None => (host, target),
    };
    let legal_host =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&b));
    let origin_form = rest.is_empty() || rest.starts_with('/') || rest.len() < target.len();
    if !legal_host || !origin_form || target.contains('#') {
        return Err(Refusal::BadRequest);
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((host, if path.is_empty() { "/" } else { path }, query))
}

fn absolute(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then_some(rest)
}

/// Base64 of 16 octets (§4.1): 22 digits and two pads.
fn is_key(key: &str) -> bool {
    let digit = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'+' || octet == b'/';
    key.len() == 24 && key.strip_suffix("==").is_some_and(|digits| digits.bytes().all(digit))
}

/// Values of the headers of this name, without the white space around them.
fn values<'a>(lines: &'a [u8], name: &'static str) -> impl Iterator<Item = &'a str> {
    each_field(lines)
        .filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| text(value))
}

/// Name and value of each header line.
fn each_field(mut lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (line, rest) = lines.split_at_checked(memchr(b'\n', lines)? + 1)?;
        lines = rest;
        let colon = memchr(b':', line)?;
        Some((&line[..colon], &line[colon + 1..]))
    })
}

/// A value without the white space around it. Octets that are no UTF-8 are legal in one, and equal to none that is looked for.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("\u{fffd}").trim_matches([' ', '\t', '\r', '\n'])
}

/// The elements of a comma-separated list.
fn elements(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|element| element.trim_matches([' ', '\t']))
}

/// Decodes `%XX`; `None` where two hexadecimal digits are missing or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        decoded.push(match octet {
            b'%' => hex_digit(octets.next()?)? << 4 | hex_digit(octets.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_digit(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).map(|digit| digit as u8)
}
