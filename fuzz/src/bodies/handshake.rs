//! What comes before the first frame: the PROXY header, the request head, and who may connect.

use std::net::IpAddr;

use arbitrary::Arbitrary;
use tidegate_core::dialect::{DialectId, Route};
use tidegate_core::http::proxy::parse_v2;
use tidegate_core::http::{OriginPattern, Origins, Progress, Request, Upgrade, accept, parse, parse_from, same_host};
use tidegate_core::limits::{HEAD_BYTES, HEAD_FIELDS, TARGET_BYTES};
use tidegate_core::model::valid_room;
use tidegate_core::percent;
use tidegate_core::ws::deflate::agree;

use super::{cut, with};

/// A request head in pieces is decided as it is whole; what is served keeps every rule that smuggling needs broken.
pub fn request_head(data: &[u8]) {
    let Some((seed, bytes)) = data.split_first() else { return };
    let whole = parse(bytes, HEAD_BYTES);
    let (mut progress, mut len, mut in_pieces) = (Progress::default(), 0, Ok(None));
    for piece in cut(bytes, *seed) {
        len += piece.len();
        in_pieces = parse_from(&bytes[..len], HEAD_BYTES, &mut progress);
        if in_pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(in_pieces.is_err(), whole.is_err(), "in pieces {in_pieces:?}, whole {whole:?}");
    let Ok(Some((request, head_len))) = whole else { return };
    assert_eq!(in_pieces, whole, "in pieces, it asks for something else");
    assert!(head_len <= HEAD_BYTES);
    let head = &bytes[..head_len];
    served_head(head.strip_prefix(b"\r\n").unwrap_or(head));
    served_request(&request);
}

/// What must be true of any head that is served, looked at line by line.
fn served_head(head: &[u8]) {
    let lines: Vec<&[u8]> = head.split(|octet| *octet == b'\n').collect();
    assert!(head.ends_with(b"\r\n\r\n") && (head.starts_with(b"GET ") || head.starts_with(b"HEAD ")));
    assert!(lines.len() <= HEAD_FIELDS + 3, "too many fields");
    assert!(lines.iter().take(lines.len() - 1).all(|line| line.ends_with(b"\r")), "a bare LF");
    assert_eq!(head.iter().filter(|octet| **octet == b'\r').count(), lines.len() - 1, "a bare CR");
    assert!(!head.contains(&0));
    let fields = &lines[1..lines.len() - 2];
    assert!(fields.iter().all(|line| !name_of(line).is_empty()), "a line without a name was served");
    let named = |name: &str| fields.iter().filter(|line| name_of(line).eq_ignore_ascii_case(name.as_bytes())).count();
    let is_http_1_0 = lines[0].ends_with(b" HTTP/1.0\r");
    assert!(named("host") == 1 || (named("host") == 0 && is_http_1_0));
    for smuggled in ["transfer-encoding", "expect"] {
        assert_eq!(named(smuggled), 0, "a line named {smuggled:?} was served");
    }
    let mut lengths = fields.iter().filter(|line| name_of(line).eq_ignore_ascii_case(b"content-length"));
    let is_zero = |line: &&[u8]| !line.is_empty() && line.iter().all(|octet| *octet == b'0');
    assert!(
        lengths.all(|line| is_zero(&line[b"content-length:".len()..].trim_ascii())),
        "a request with a body was served"
    );
}

/// A field's name, whatever stands behind it: who takes `Content-Length :` for no Content-Length opens a gap.
fn name_of(line: &[u8]) -> &[u8] {
    let token = |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
    &line[..line.iter().take_while(|octet| token(octet)).count()]
}

fn served_request(request: &Request<'_>) {
    let (path, query, host) = match request {
        Request::Upgrade(upgrade) => (upgrade.path, upgrade.query, upgrade.host),
        Request::Plain { path, query, host, .. } => (*path, *query, *host),
    };
    assert!(path.starts_with('/') && path.len() + query.len() <= TARGET_BYTES);
    assert!(!host.is_empty() || matches!(request, Request::Plain { .. }));
    for text in [path, query, host] {
        assert!(
            text.bytes().all(|octet| octet.is_ascii_graphic()),
            "{text:?} could break a line of a log or an answer"
        );
    }
    if let Some((_, Route { room: Some(room) })) = DialectId::route(path) {
        assert_eq!(valid_room(&room), Ok(()), "the path names a room that is none");
    }
    if let Request::Upgrade(upgrade) = request {
        served_upgrade(upgrade);
    }
}

fn served_upgrade(upgrade: &Upgrade<'_>) {
    assert_eq!(upgrade.key.len(), 24);
    let _ = (upgrade.attempt(), upgrade.offers_protocol("tidegate.v1"), upgrade.forwarded_for().count());
    if let Some(protocol) = upgrade.first_protocol() {
        assert!(
            upgrade.offers_protocol(protocol)
                && protocol.bytes().all(|octet| octet.is_ascii_graphic() && octet != b',')
        );
        assert!(!protocol.starts_with("bearer."), "a credential is answered");
    }
    let deflate = agree(upgrade.extensions()).ok().flatten();
    let offered = upgrade.extensions().any(|value| value.contains("permessage-deflate"));
    assert!(deflate.is_none() || offered, "an extension was agreed on that nobody offered");
    let mut answer = Vec::new();
    accept(&mut answer, upgrade.key, None, deflate.map(|deflate| deflate.answer()));
    let ends = answer.windows(4).filter(|octets| octets == b"\r\n\r\n").count();
    assert!(ends == 1 && answer.ends_with(b"\r\n\r\n"), "the answer ends before its end");
}

#[derive(Arbitrary, Debug)]
struct Policy {
    allowed: Vec<String>,
    origin: Option<String>,
    host: String,
    extensions: Vec<String>,
    path: String,
}

/// Who may connect: exactly the listed, else the same host and who names no page; near misses of any kind are foreign.
pub fn handshake_policy(data: &[u8]) {
    with(data, |policy: Policy| {
        let _ = agree(policy.extensions.iter().map(String::as_str));
        if let Some(decoded) = percent::decode(&policy.path) {
            assert!(decoded.len() <= policy.path.len());
            assert!(policy.path.contains('%') || decoded == policy.path);
        }
        if let Some((_, Route { room: Some(room) })) = DialectId::route(&policy.path) {
            assert_eq!(valid_room(&room), Ok(()));
        }
        if let Some(origin) = &policy.origin {
            same_host_is_symmetric_enough(origin, &policy.host);
        }
        let head = head_of(&policy);
        if let Ok(Some((Request::Upgrade(upgrade), _))) = parse(head.as_bytes(), HEAD_BYTES) {
            let patterns: Vec<OriginPattern> = policy.allowed.iter().filter_map(|text| text.parse().ok()).collect();
            for pattern in &patterns {
                assert_eq!(pattern.to_string().parse().as_ref(), Ok(pattern), "what is shown is not what was meant");
            }
            let any = patterns.contains(&OriginPattern::Any);
            let listed = |text: &str| patterns.iter().any(|allowed| allowed.to_string() == text);
            let empty = patterns.is_empty();
            let allowed = Origins { listed: patterns.clone(), ..Origins::default() }.check(&upgrade).is_ok();
            match upgrade.origin {
                None => assert_eq!(allowed, empty || any),
                Some(origin) if empty => assert!(!allowed || same_host(origin, upgrade.host)),
                Some(origin) => assert!(allowed || !(any || listed(origin)), "{origin:?} is listed and refused"),
            }
        }
    });
}

fn head_of(policy: &Policy) -> String {
    let origin = policy.origin.as_ref().map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
    format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{origin}\r\n",
        policy.host
    )
}

/// The same host needs the same name to the letter, and loses it with any letter that is put before or after it.
fn same_host_is_symmetric_enough(origin: &str, host: &str) {
    if same_host(origin, host) {
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority).to_ascii_lowercase();
        let name = |text: &str| text.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':').to_owned();
        let host_name = host.to_ascii_lowercase();
        assert!(authority == host_name || name(&authority) == name(&host_name), "{origin:?} and {host:?}");
        assert!(!same_host(&origin.replacen("://", "://x", 1), host), "a prefix is another host");
    }
    let plain = !host.is_empty() && host.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'.');
    if plain {
        assert!(same_host(&format!("https://{host}"), host) && same_host(&format!("http://{host}:80"), host));
        assert!(!same_host(&format!("https://{host}.evil"), host) && !same_host(&format!("ftp://{host}"), host));
    }
}

/// A PROXY header is decided once and for all, never longer than what came, and names what its octets say.
pub fn proxy_header(data: &[u8]) {
    let whole = parse_v2(data);
    let decided = (0..=data.len()).find(|len| parse_v2(&data[..*len]) != Ok(None));
    let Some(len) = decided else { return assert_eq!(whole, Ok(None)) };
    assert_eq!(parse_v2(&data[..len]), whole, "another verdict after {len} octets than at the end");
    let Ok(Some((source, header_len))) = whole else { return };
    assert_eq!(header_len, len, "complete before its last octet, or after it");
    match source {
        Some(IpAddr::V4(address)) => assert_eq!(address.octets(), data[16..20]),
        Some(IpAddr::V6(address)) => assert_eq!(address.octets(), data[16..32]),
        None => {}
    }
}
