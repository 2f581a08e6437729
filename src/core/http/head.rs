//! The shape of a request head (RFC 9112): line by line, strict where parsers are usually lenient.
//!
//! Every line ends in CR LF; no other control octet but a tab in a value; no folded header, no space around a name. What is
//! wrong is refused at its first octet, even if its line is not complete.

use memchr::memchr;

use crate::close::Refusal;
use crate::limits::TARGET_BYTES;

/// What stands before the target, a space included.
const GET: &[u8] = b"GET ";
/// The same of a GET whose answer has no body (RFC 9110 §9.3.2).
const HEAD: &[u8] = b"HEAD ";
/// What stands behind the target and a space; the digit of the minor version follows.
const SERVED: &[u8] = b"HTTP/1.";

/// How far a head that arrives in pieces is verified, so that what it costs is linear in its octets, however small the pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Where the line begins whose end is not there.
    line: usize,
    /// Octets that need not be looked at again.
    verified: usize,
    within: Within,
}

/// What the octets of an unfinished line go on with.
#[derive(Clone, Copy, Debug, Default)]
enum Within {
    /// Something short: the whole line is looked at again.
    #[default]
    Short,
    /// The target of the request line.
    Target,
    /// A field's name.
    Name,
    /// A field's value.
    Value,
}

impl Progress {
    /// Octets at the start of the head that are not looked at again.
    pub fn verified(&self) -> usize {
        self.verified
    }
}

/// Where the head ends, once it is complete.
pub(super) fn end(bytes: &[u8], progress: &mut Progress) -> Result<Option<usize>, Refusal> {
    while let Some(feed) = memchr(b'\n', &bytes[progress.verified..]) {
        let next = progress.verified + feed + 1;
        let Some((b'\r', line)) = bytes[progress.line..next - 1].split_last() else { return Err(Refusal::BadRequest) };
        if progress.line == 0 {
            request_line(line, true)?;
        } else if line.is_empty() {
            return Ok(Some(next));
        } else {
            field_line(line, true)?;
        }
        *progress = Progress { line: next, verified: next, within: Within::Short };
    }
    go_on(bytes, progress).map(|()| None)
}

/// The parts of a head that [`end`] has verified.
pub(super) struct Parts<'a> {
    /// The method is HEAD, else GET.
    pub(super) is_head: bool,
    pub(super) target: &'a [u8],
    /// The version is HTTP/1.0, else 1.1 or a later minor version, which is served as 1.1 (RFC 9110 §2.5).
    pub(super) is_http_1_0: bool,
    /// The header lines.
    pub(super) fields: &'a [u8],
}

/// Takes a head apart that [`end`] has verified.
pub(super) fn parts(head: &[u8]) -> Parts<'_> {
    let (line, fields) = head.split_at(memchr(b'\n', head).map_or(0, |feed| feed + 1));
    let is_head = line.starts_with(HEAD);
    let target = if is_head { HEAD.len() } else { GET.len() };
    let minor = line.len().saturating_sub(b"1\r\n".len());
    let version = minor.saturating_sub(SERVED.len() + b" ".len());
    Parts {
        is_head,
        target: line.get(target..version).unwrap_or_default(),
        is_http_1_0: line.get(minor) == Some(&b'0'),
        fields,
    }
}

/// What follows the method in a request line whose method is served.
fn after_method(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(GET).or_else(|| line.strip_prefix(HEAD))
}

/// Verifies what is new of a line whose end is not there.
fn go_on(bytes: &[u8], progress: &mut Progress) -> Result<(), Refusal> {
    let (line, new) = (&bytes[progress.line..], &bytes[progress.verified..]);
    let more_of_the_same = match progress.within {
        Within::Short => false,
        // A HEAD's target of the last octet that fits is looked at once more, as a whole line.
        Within::Target => new.iter().all(u8::is_ascii_graphic) && line.len() <= GET.len() + TARGET_BYTES,
        Within::Name => new.iter().copied().all(is_token),
        Within::Value => is_clean(new),
    };
    if !more_of_the_same {
        unfinished_line(line, progress.line == 0)?;
        progress.within = within(line, progress.line == 0);
    }
    // What follows a CR says whether it was one too many.
    progress.verified = bytes.len() - usize::from(line.ends_with(b"\r"));
    Ok(())
}

/// Where an unfinished and so far legal line stands.
fn within(line: &[u8], first: bool) -> Within {
    match first {
        true if after_method(line).is_some_and(|target| memchr(b' ', target).is_none()) => Within::Target,
        false if memchr(b':', line).is_some() => Within::Value,
        false if !line.is_empty() => Within::Name,
        _ => Within::Short,
    }
}

/// A line whose end is not there; its last octet may be the CR.
fn unfinished_line(line: &[u8], first: bool) -> Result<(), Refusal> {
    let (line, whole) = match line {
        [line @ .., b'\r'] => (line, true),
        line => (line, false),
    };
    match first {
        true => request_line(line, whole),
        false if line.is_empty() => Ok(()),
        false => field_line(line, whole),
    }
}

/// `GET` or `HEAD`, a target, `HTTP/1.` and a digit; `whole` says that nothing follows.
fn request_line(line: &[u8], whole: bool) -> Result<(), Refusal> {
    let mut parts = line.splitn(3, |&octet| octet == b' ');
    let method = parts.next().unwrap_or_default();
    if !method.iter().copied().all(is_token) || (whole && method.is_empty()) {
        return Err(Refusal::BadRequest);
    }
    let Some(target) = parts.next() else { return unfinished_method(method, whole) };
    match method {
        b"GET" | b"HEAD" => {}
        // What opens HTTP/2 with prior knowledge (RFC 9113 §3.4).
        b"PRI" => return Err(Refusal::HttpVersion),
        // Version 1 of the PROXY protocol (proxy-protocol.txt §2.1).
        b"PROXY" => return Err(Refusal::ProxyUnexpected),
        b"" => return Err(Refusal::BadRequest),
        _ => return Err(Refusal::Method),
    }
    if target.len() > TARGET_BYTES {
        return Err(Refusal::UriTooLong);
    }
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::BadRequest);
    }
    match parts.next() {
        Some(_) if target.is_empty() => Err(Refusal::BadRequest),
        Some(version) => http_version(version, whole),
        // HTTP/0.9 names no version.
        None if whole => Err(if target.is_empty() { Refusal::BadRequest } else { Refusal::HttpVersion }),
        None => Ok(()),
    }
}

fn unfinished_method(method: &[u8], whole: bool) -> Result<(), Refusal> {
    const LONGEST_METHOD: usize = 32;
    if whole || method.len() > LONGEST_METHOD { Err(Refusal::BadRequest) } else { Ok(()) }
}

fn http_version(version: &[u8], whole: bool) -> Result<(), Refusal> {
    match version.strip_prefix(SERVED) {
        Some([b'0'..=b'9']) => return Ok(()),
        Some([]) if !whole => return Ok(()),
        None if !whole && SERVED.starts_with(version) => return Ok(()),
        _ => {}
    }
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] if version.len() <= SERVED.len() + 1 => {
            Err(Refusal::HttpVersion)
        }
        _ => Err(Refusal::BadRequest),
    }
}

/// `name:value`; `whole` says that nothing follows.
fn field_line(line: &[u8], whole: bool) -> Result<(), Refusal> {
    // Names are short: one walk over theirs is a quarter of what a search for the colon and a walk cost.
    let name = line.iter().position(|octet| !is_token(*octet)).unwrap_or(line.len());
    let is_name = match line.get(name) {
        Some(b':') => name > 0,
        Some(_) => false,
        None => !whole,
    };
    if is_name && is_clean(&line[name..]) { Ok(()) } else { Err(Refusal::BadRequest) }
}

/// Whether all of it may stand in a value. Without a way out in the middle it is done many octets at once.
fn is_clean(value: &[u8]) -> bool {
    let clean = |octet: u8| (octet == b'\t') | ((octet >= b' ') & (octet != 0x7f));
    value.iter().fold(true, |so_far, &octet| so_far & clean(octet))
}

/// What names are made of (RFC 9110 §5.6.2).
pub(super) const fn is_token(octet: u8) -> bool {
    const TOKEN: [bool; 256] = octets(b"!#$%&'*+-.^_`|~");
    TOKEN[octet as usize]
}

/// The letters and digits of ASCII, and `marks`.
pub(super) const fn octets(marks: &[u8]) -> [bool; 256] {
    let (mut table, mut at) = ([false; 256], 0);
    while at < 256 {
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
}
