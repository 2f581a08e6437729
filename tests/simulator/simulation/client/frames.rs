//! From octets to messages, as strictly as a client can read them: RFC 6455 §5, and RFC 7692 where it was negotiated.

use std::collections::HashMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tidegate_core::ws::frame;

use super::super::dice::Dice;
use super::distance::farthest;

/// permessage-deflate, as the node's answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// 32 KiB.
    Full,
    /// 512 bytes.
    Small,
}

/// Inflated payloads by their compressed octets, for each window: all members with one window get the same octets.
#[derive(Default)]
pub struct Inflated([HashMap<Vec<u8>, Vec<u8>>; 2]);

/// A frame from the node, which never fragments.
pub enum Frame {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Close(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
}

/// What a client has read and not understood yet.
#[derive(Default)]
pub struct Stream {
    inbox: Vec<u8>,
    /// Octets of `inbox` that are understood.
    at: usize,
    pub window: Option<Window>,
    /// Messages that came compressed.
    pub inflated: u64,
}

impl Stream {
    pub fn push(&mut self, octets: &[u8]) {
        if self.at == self.inbox.len() {
            self.inbox.clear();
            self.at = 0;
        }
        self.inbox.extend_from_slice(octets);
    }

    /// Takes the answer to the upgrade request, once it is whole: its lines.
    pub fn head(&mut self) -> Option<String> {
        let end = self.inbox.windows(4).position(|octets| octets == b"\r\n\r\n")?;
        self.at = end + 4;
        Some(String::from_utf8_lossy(&self.inbox[..end]).into_owned())
    }

    /// Takes the next frame, once it is whole.
    pub fn next(&mut self, inflated: &mut Inflated) -> Option<Frame> {
        let octets = &self.inbox[self.at..];
        let [first, second, rest @ ..] = octets else { return None };
        assert_eq!(first & 0x80, 0x80, "a fragment, or the stream is out of step");
        assert_eq!(second & 0x80, 0, "a masked frame from the server, or the stream is out of step");
        assert_eq!(first & 0x30, 0, "a reserved bit, or the stream is out of step");
        let (head, length) = match (second, rest) {
            (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            (126, _) => return None,
            (127, _) => panic!("no message of the simulation is that long"),
            (short, _) => (2, usize::from(*short)),
        };
        let payload = octets.get(head..head + length)?;
        let (compressed, opcode) = (first & 0x40 != 0, first & 0x0f);
        let payload = if compressed {
            let window = self.window.expect("RSV1 on a connection without permessage-deflate");
            assert!(opcode < 8, "RSV1 on a control frame (RFC 7692 §6)");
            self.inflated += 1;
            inflated.payload(payload, window)
        } else {
            payload.to_vec()
        };
        self.at += head + length;
        Some(match opcode {
            1 => Frame::Text(payload),
            2 => Frame::Binary(payload),
            8 => Frame::Close(payload),
            9 => Frame::Ping(payload),
            10 => Frame::Pong,
            other => panic!("a frame of opcode {other}"),
        })
    }
}

impl Inflated {
    fn payload(&mut self, compressed: &[u8], window: Window) -> Vec<u8> {
        let known = &mut self.0[window as usize];
        if let Some(payload) = known.get(compressed) {
            return payload.clone();
        }
        let payload = inflate(compressed, window);
        known.insert(compressed.to_vec(), payload.clone());
        payload
    }
}

/// Inflates a message on its own (`server_no_context_takeover`) that refers no further back than the window.
fn inflate(compressed: &[u8], window: Window) -> Vec<u8> {
    let whole = [compressed, &[0, 0, 0xff, 0xff]].concat();
    // The inflater keeps the largest window whatever it is told.
    let (bytes, farthest) = (if window == Window::Small { 512 } else { 32 * 1024 }, farthest(&whole));
    assert!(farthest <= bytes, "a reference {farthest} bytes back, further back than the window of {bytes}");
    let mut inflater = Decompress::new(false);
    let mut payload = Vec::with_capacity(4 * 1024);
    loop {
        let taken = inflater.total_in() as usize;
        let status = inflater.decompress_vec(&whole[taken..], &mut payload, FlushDecompress::Sync);
        assert_eq!(status.ok(), Some(Status::Ok), "it inflates, and the node ends no message with a final block");
        if payload.len() < payload.capacity() {
            assert_eq!(inflater.total_in() as usize, whole.len(), "the message is cut");
            return payload;
        }
        payload.reserve(4 * 1024);
    }
}

/// A message as a client sends it: whole, or in two fragments with a ping between them; compressed where that was negotiated.
pub fn write(dice: &mut Dice, opcode: frame::OpCode, payload: &[u8], window: Option<Window>) -> Vec<u8> {
    let mut out = Vec::new();
    let mask = [dice.below(256) as u8, 2, 3, 4];
    let compressed = window.filter(|_| dice.percent(20)).map(|_| deflate(payload));
    let payload = compressed.as_deref().unwrap_or(payload);
    if dice.percent(80) {
        frame::write_masked(&mut out, opcode, mask, payload);
    } else {
        let (head, tail) = payload.split_at(dice.below(payload.len()));
        frame::write_masked_fragment(&mut out, opcode, false, mask, head);
        frame::write_masked(&mut out, frame::PING, mask, b"?");
        frame::write_masked_fragment(&mut out, frame::CONTINUE, true, mask, tail);
    }
    if compressed.is_some() {
        out[0] |= 0x40;
    }
    out
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut deflater = Compress::new(Compression::fast(), false);
    let mut out = Vec::with_capacity(payload.len() + 64);
    deflater.compress_vec(payload, &mut out, FlushCompress::Sync).expect("a fresh stream");
    assert_eq!(deflater.total_in() as usize, payload.len(), "the buffer is large enough");
    out.truncate(out.strip_suffix(&[0, 0, 0xff, 0xff]).map_or(out.len(), <[u8]>::len));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "further back than the window"]
    fn a_message_that_refers_further_back_than_the_small_window_does_not_inflate() {
        let text: Vec<u8> = (0..700_u32).map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26).collect();
        let twice = [&text[..], &text[..]].concat();
        let compressed = deflate(&twice);
        assert_eq!(inflate(&compressed, Window::Full), twice);
        inflate(&compressed, Window::Small);
    }
}
