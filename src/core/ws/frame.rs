//! Frames (RFC 6455 §5.2): headers read, whole frames written.
//!
//! [`Header::parse`] refuses what no client may send as soon as the octet that decides it is there. The rules between frames
//! (continuations, the size of a message) are [`super::message`]'s.

use tungstenite::protocol::frame::coding::Control;
pub use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

use super::mask;
use crate::close::CloseReason;

/// Octets of the longest header that a client sends: two, eight of length, four of mask.
pub const HEADER_BYTES: usize = 14;
/// Octets of the largest payload of a control frame (§5.5).
pub const CONTROL_BYTES: usize = 125;

/// Text.
pub const TEXT: OpCode = OpCode::Data(Data::Text);
/// Binary.
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
/// Continuation.
pub const CONTINUE: OpCode = OpCode::Data(Data::Continue);
/// Close.
pub const CLOSE: OpCode = OpCode::Control(Control::Close);
/// Ping.
pub const PING: OpCode = OpCode::Control(Control::Ping);
/// Pong.
pub const PONG: OpCode = OpCode::Control(Control::Pong);

/// The header of a frame from a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The message's last frame.
    pub fin: bool,
    /// The message is compressed (RFC 7692 §6).
    pub rsv1: bool,
    /// Never a reserved one.
    pub opcode: OpCode,
    /// The masking key.
    pub mask: [u8; 4],
    /// Octets of payload, as announced.
    pub payload_len: u64,
}

impl Header {
    /// Reads the header at the start of `bytes`, and says how many octets it has; `None` if it is not complete.
    ///
    /// # Errors
    /// [`CloseReason::Protocol`] for RSV bits that were not negotiated, reserved opcodes, control frames that are fragmented or
    /// over 125 octets, frames that are not masked, and lengths that are not minimal or have the top bit set; each as soon
    /// as its octet is there.
    #[inline]
    pub fn parse(bytes: &[u8], rsv1_allowed: bool) -> Result<Option<(Self, usize)>, CloseReason> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (fin, rsv1, opcode) = first_octet(first, rsv1_allowed)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let short = second & 0x7f;
        let control = matches!(opcode, OpCode::Control(_));
        if second & 0x80 == 0 || (control && usize::from(short) > CONTROL_BYTES) {
            return Err(CloseReason::Protocol);
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(length) = bytes.get(2..2 + extended) else {
            // The top bit is in the first octet of the length; the rest of it need not be awaited.
            let over = extended == 8 && bytes.get(2).is_some_and(|octet| octet & 0x80 != 0);
            return if over { Err(CloseReason::Protocol) } else { Ok(None) };
        };
        let payload_len = payload_len(short, length)?;
        let Some(&[a, b, c, d]) = bytes.get(2 + extended..6 + extended) else { return Ok(None) };
        Ok(Some((Self { fin, rsv1, opcode, mask: [a, b, c, d], payload_len }, 6 + extended)))
    }

    /// Whether it is a control frame.
    pub fn is_control(&self) -> bool {
        matches!(self.opcode, OpCode::Control(_))
    }
}

/// FIN, RSV1 and the opcode, where a client may send them together.
fn first_octet(octet: u8, rsv1_allowed: bool) -> Result<(bool, bool, OpCode), CloseReason> {
    let (fin, rsv1, rsv23) = (octet & 0x80 != 0, octet & 0x40 != 0, octet & 0x30);
    let (opcode, legal) = match octet & 0x0f {
        0x0 => (CONTINUE, !rsv1),
        0x1 => (TEXT, !rsv1 || rsv1_allowed),
        0x2 => (BINARY, !rsv1 || rsv1_allowed),
        0x8 => (CLOSE, fin && !rsv1),
        0x9 => (PING, fin && !rsv1),
        0xa => (PONG, fin && !rsv1),
        _ => return Err(CloseReason::Protocol),
    };
    if legal && rsv23 == 0 { Ok((fin, rsv1, opcode)) } else { Err(CloseReason::Protocol) }
}

/// The length that `short` and its extension say, if it is written in the fewest octets (§5.2).
fn payload_len(short: u8, extension: &[u8]) -> Result<u64, CloseReason> {
    let long = extension.iter().fold(0, |value, octet| value << 8 | u64::from(*octet));
    match short {
        126 if long < 126 => Err(CloseReason::Protocol),
        127 if long <= u64::from(u16::MAX) || long >> 63 != 0 => Err(CloseReason::Protocol),
        126 | 127 => Ok(long),
        _ => Ok(u64::from(short)),
    }
}

/// Whether a close frame may carry this code (§7.4, and the registry that it opens).
pub fn close_code_allowed(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Writes the header of an unfragmented frame from the server.
pub fn write_header(out: &mut Vec<u8>, opcode: OpCode, rsv1: bool, payload_len: usize) {
    write_head(out, 0x80 | if rsv1 { 0x40 } else { 0 } | u8::from(opcode), 0, payload_len);
}

/// Writes an unfragmented frame from the server.
pub fn write_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    write_header(out, opcode, false, payload.len());
    out.extend_from_slice(payload);
}

/// Writes a close frame. Code 0 writes one without a code; the reason is cut to what a control frame holds.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    if code == 0 {
        return write_header(out, CLOSE, false, 0);
    }
    let reason = start_of(reason, CONTROL_BYTES - 2);
    write_header(out, CLOSE, false, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Writes an unfragmented frame from a client.
pub fn write_masked(out: &mut Vec<u8>, opcode: OpCode, mask: [u8; 4], payload: &[u8]) {
    write_masked_fragment(out, opcode, true, mask, payload);
}

/// Writes a frame from a client, which may be a fragment.
pub fn write_masked_fragment(out: &mut Vec<u8>, opcode: OpCode, fin: bool, mask: [u8; 4], payload: &[u8]) {
    write_head(out, if fin { 0x80 } else { 0 } | u8::from(opcode), 0x80, payload.len());
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::unmask(&mut out[start..], mask, 0);
}

fn write_head(out: &mut Vec<u8>, first: u8, mask_bit: u8, payload_len: usize) {
    out.push(first);
    match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(short @ 0..=125), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
}

/// The longest start of `text` that has at most `most` octets and cuts no character.
fn start_of(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_written_in_the_fewest_octets_and_read_back() {
        for (len, octets) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut server = Vec::new();
            write_header(&mut server, BINARY, true, len);
            assert_eq!((server.len(), server[0]), (octets, 0xc2), "{len}");

            let mut client = Vec::new();
            write_masked_fragment(&mut client, TEXT, false, [1, 2, 3, 4], &vec![0; len]);
            let header = Header { fin: false, rsv1: false, opcode: TEXT, mask: [1, 2, 3, 4], payload_len: len as u64 };
            assert_eq!(Header::parse(&client, false), Ok(Some((header, octets + 4))));
            (0..octets + 4)
                .for_each(|cut| assert_eq!(Header::parse(&client[..cut], false), Ok(None), "{len} cut at {cut}"));
        }
    }

    #[test]
    fn a_close_frame_fits_a_control_frame_and_cuts_no_character() {
        let mut out = Vec::new();
        write_close(&mut out, 1012, &"ß".repeat(100));
        assert_eq!((out[0], out[1], &out[2..4]), (0x88, 124, &1012_u16.to_be_bytes()[..]));
        assert_eq!(std::str::from_utf8(&out[4..]), Ok(&*"ß".repeat(61)));
        out.clear();
        write_close(&mut out, 0, "unsaid");
        assert_eq!(out, [0x88, 0]);
    }
}
