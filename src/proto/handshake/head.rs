//! The shape of a request head (RFC 9112): line by line, strict where parsers are usually lenient.
//!
//! Every line ends in CR LF; no other control octet but a tab in a value; no folded header, no space around a name. What is
//! wrong is refused at its first octet, even if its line is not complete.

use memchr::memchr;

use crate::close::Refusal;
use crate::limits::TARGET_BYTES;

/// Where the head ends, once it is complete. `from` is the start of the first line that is not verified yet; it moves.
pub(super) fn end(bytes: &[u8], from: &mut usize) -> Result<Option<usize>, Refusal> {
    loop {
        let rest = bytes.get(*from..).unwrap_or_default();
        let Some(feed) = memchr(b'\n', rest) else {
            return unfinished_line(rest, *from == 0).map(|()| None);
        };
        let Some((b'\r', line)) = rest[..feed].split_last() else { return Err(Refusal::BadRequest) };
        if *from == 0 {
            request_line(line, true)?;
        } else if line.is_empty() {
            return Ok(Some(*from + feed + 1));
        } else {
            field_line(line, true)?;
        }
        *from += feed + 1;
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

/// `GET`, a target, `HTTP/1.1`; `whole` says that nothing follows.
fn request_line(line: &[u8], whole: bool) -> Result<(), Refusal> {
    let mut parts = line.splitn(3, |&octet| octet == b' ');
    let method = parts.next().unwrap_or_default();
    if !method.iter().copied().all(is_token) || (whole && method.is_empty()) {
        return Err(Refusal::BadRequest);
    }
    let Some(target) = parts.next() else { return unfinished_method(method, whole) };
    match method {
        b"GET" => {}
        // What opens HTTP/2 with prior knowledge (RFC 9113 §3.4).
        b"PRI" => return Err(Refusal::HttpVersion),
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
    const SERVED: &[u8] = b"HTTP/1.1";
    if version == SERVED || (!whole && SERVED.starts_with(version)) {
        return Ok(());
    }
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] if version.len() <= SERVED.len() => Err(Refusal::HttpVersion),
        _ => Err(Refusal::BadRequest),
    }
}

/// `name:value`; `whole` says that nothing follows.
fn field_line(line: &[u8], whole: bool) -> Result<(), Refusal> {
    let colon = memchr(b':', line);
    let name = &line[..colon.unwrap_or(line.len())];
    if !name.iter().copied().all(is_token) || (colon.is_none() && whole) || colon == Some(0) {
        return Err(Refusal::BadRequest);
    }
    let value = &line[name.len()..];
    // Without a way out in the middle it is done many octets at once.
    let clean = |octet: u8| (octet == b'\t') | ((octet >= b' ') & (octet != 0x7f));
    if value.iter().fold(true, |so_far, &octet| so_far & clean(octet)) { Ok(()) } else { Err(Refusal::BadRequest) }
}

/// RFC 9110 §5.6.2.
const fn is_token(octet: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let (mut table, marks, mut at) = ([false; 256], b"!#$%&'*+-.^_`|~", 0);
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
    };
    TOKEN[octet as usize]
}
