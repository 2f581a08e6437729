//! The lowest layer: masking, UTF-8 and frame headers, each against the obvious way to do it.

use std::str::from_utf8;

use arbitrary::Arbitrary;
use tidegate_core::close::CloseReason;
use tidegate_core::ws::frame::{Header, OpCode};
use tidegate_core::ws::mask;
use tidegate_core::ws::utf8::Validator;

use super::{cut, with};

#[derive(Arbitrary)]
struct Masked {
    mask: [u8; 4],
    phase: u8,
    offset: u8,
    bytes: Vec<u8>,
}

/// Unmasking equals the formula of RFC 6455 §5.3, at any alignment, and undoes itself.
pub fn unmask(data: &[u8]) {
    with(data, |Masked { mask, phase, offset, mut bytes }| {
        let start = usize::from(offset).min(bytes.len());
        let before = bytes.clone();
        let phase = usize::from(phase);
        mask::unmask(&mut bytes[start..], mask, phase);
        assert_eq!(bytes[..start], before[..start], "octets outside the payload changed");
        for (i, (now, then)) in bytes[start..].iter().zip(&before[start..]).enumerate() {
            assert_eq!(*now, then ^ mask[(i + phase) % 4], "octet {i}");
        }
        mask::unmask(&mut bytes[start..], mask, phase);
        assert_eq!(bytes, before);
    });
}

/// Text in pieces is judged as std judges all of it, and no later than at its first impossible octet.
pub fn utf8(data: &[u8]) {
    let Some((seed, text)) = data.split_first() else { return };
    let (mut validator, mut seen) = (Validator::default(), 0);
    for piece in cut(text, *seed) {
        seen += piece.len();
        let whole = from_utf8(&text[..seen]);
        let hopeless = whole.is_err_and(|error| error.error_len().is_some());
        assert_eq!(validator.push(piece).is_err(), hopeless, "after {seen} octets");
        if hopeless {
            return;
        }
        assert_eq!(validator.is_complete(), whole.is_ok(), "after {seen} octets");
    }
}

/// A header is what RFC 6455 §5.2 says, and is decided at the first octet that can decide it.
pub fn frame_header(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let rsv1_allowed = flags & 1 == 1;
    let expected = by_the_book(bytes, rsv1_allowed);
    assert_eq!(Header::parse(bytes, rsv1_allowed), expected);
    let decided = (0..=bytes.len().min(16)).find(|len| Header::parse(&bytes[..*len], rsv1_allowed) != Ok(None));
    if let Some(len) = decided {
        let verdict = Header::parse(&bytes[..len], rsv1_allowed);
        assert_eq!(verdict, expected, "another verdict after {len} octets than at the end");
        if let Ok(Some((_, header_len))) = verdict {
            assert_eq!(header_len, len, "complete before its last octet, or after it");
        }
    }
}

/// Reads a header in the order in which its octets come, without regard for speed.
fn by_the_book(bytes: &[u8], rsv1_allowed: bool) -> Result<Option<(Header, usize)>, CloseReason> {
    let mut octets = bytes.iter().copied();
    let Some(first) = octets.next() else { return Ok(None) };
    let (fin, rsv1, code) = (first >> 7 == 1, first >> 6 & 1 == 1, first & 0x0f);
    let (control, continues) = (code >= 8, code == 0);
    if first & 0x30 != 0
        || !matches!(code, 0..=2 | 8..=10)
        || (rsv1 && (control || continues || !rsv1_allowed))
        || (control && !fin)
    {
        return Err(CloseReason::Protocol);
    }
    let Some(second) = octets.next() else { return Ok(None) };
    if second < 128 || (control && second - 128 > 125) {
        return Err(CloseReason::Protocol);
    }
    let digits = match second - 128 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut payload_len = if digits == 0 { u64::from(second - 128) } else { 0 };
    for digit in 0..digits {
        let Some(octet) = octets.next() else { return Ok(None) };
        if digits == 8 && digit == 0 && octet > 127 {
            return Err(CloseReason::Protocol);
        }
        payload_len = payload_len * 256 + u64::from(octet);
    }
    if (digits == 2 && payload_len < 126) || (digits == 8 && payload_len < 65_536) {
        return Err(CloseReason::Protocol);
    }
    let mask: Vec<u8> = octets.take(4).collect();
    let Ok(mask) = <[u8; 4]>::try_from(mask) else { return Ok(None) };
    Ok(Some((Header { fin, rsv1, opcode: OpCode::from(code), mask, payload_len }, 6 + digits)))
}
