//! The WebSocket frames of a client (RFC 6455 §5): masked ones out, unmasked ones in. Bytes in, values out.
//!
//! What arrives is not checked like a client must (UTF-8, reserved bits); what is out of form ends the connection.

/// Frame types that a client meets.
pub(crate) mod opcode {
    /// The rest of a fragmented message.
    pub(crate) const CONTINUATION: u8 = 0x0;
    /// UTF-8.
    pub(crate) const TEXT: u8 = 0x1;
    /// Octets.
    pub(crate) const BINARY: u8 = 0x2;
    /// The end, with a code.
    pub(crate) const CLOSE: u8 = 0x8;
    /// Are you there?
    pub(crate) const PING: u8 = 0x9;
    /// I am.
    pub(crate) const PONG: u8 = 0xA;
}

/// One key for all frames: what it hides from proxies does not matter on loopback, and it is not zero, so that the server
/// does its work.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x9e];

/// Appends one final, masked frame.
pub(crate) fn encode(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..]);
}

fn mask(bytes: &mut [u8]) {
    let word = u64::from_ne_bytes([MASK[0], MASK[1], MASK[2], MASK[3], MASK[0], MASK[1], MASK[2], MASK[3]]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ word).to_ne_bytes());
    }
    for (index, byte) in chunks.into_remainder().iter_mut().enumerate() {
        *byte ^= MASK[index & 3];
    }
}

/// What the next bytes hold.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next<'a> {
    /// A whole frame: its opcode, its payload, the bytes that it took.
    Frame(u8, &'a [u8], usize),
    /// Not yet a whole frame.
    Partial,
    /// A masked frame, or a length over 2⁶³: no server sends this.
    Malformed,
}

/// Reads the frame at the start of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Next<'_> {
    let [first, second, rest @ ..] = bytes else { return Next::Partial };
    if second & 0x80 != 0 {
        return Next::Malformed;
    }
    let (length, header) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
        (126 | 127, _) => return Next::Partial,
        (short, _) => (u64::from(short), 2),
    };
    if length >> 63 != 0 {
        return Next::Malformed;
    }
    let end = (length as usize).saturating_add(header);
    match bytes.get(header..end) {
        Some(payload) => Next::Frame(first & 0x0f, payload, end),
        None => Next::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame with its mask undone, as a server would read it.
    fn unmasked(frame: &[u8]) -> Vec<u8> {
        let header = match frame[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let key = &frame[header..header + 4];
        let mut out = vec![frame[0], frame[1] & 0x7f];
        out.extend_from_slice(&frame[2..header]);
        out.extend(frame[header + 4..].iter().enumerate().map(|(i, byte)| byte ^ key[i & 3]));
        out
    }

    #[test]
    fn what_is_encoded_is_read_back_at_every_length_form() {
        for length in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut frame = Vec::new();
            encode(opcode::BINARY, &payload, &mut frame);
            assert_eq!(frame[1] & 0x80, 0x80, "a client masks");
            let frame = unmasked(&frame);
            assert_eq!(decode(&frame), Next::Frame(opcode::BINARY, &payload, frame.len()));
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_partial() {
        let mut frame = Vec::new();
        encode(opcode::TEXT, &[b'x'; 200], &mut frame);
        let frame = unmasked(&frame);
        for end in 0..frame.len() {
            assert_eq!(decode(&frame[..end]), Next::Partial, "cut at {end}");
        }
    }

    #[test]
    fn a_masked_frame_from_a_server_is_malformed() {
        assert_eq!(decode(&[0x81, 0x80]), Next::Malformed);
    }
}
