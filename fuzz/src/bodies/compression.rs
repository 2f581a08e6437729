//! permessage-deflate: what is inflated stays within its limit, what is deflated comes back.

use arbitrary::Arbitrary;
use tidegate_core::close::CloseReason;
use tidegate_core::ws::deflate::{Deflate, compress_once, inflate as inflate_message};

use super::with;

/// Any octets inflate to something within the limit, or are refused, and leave nothing behind for the next message.
pub fn inflate(data: &[u8]) {
    let [flags, compressed @ ..] = data else { return };
    let (text, limit) = (flags & 1 == 1, 1 << (flags >> 4));
    let inflated = inflate_message(compressed, text, limit);
    match &inflated {
        Ok(payload) => {
            assert!(payload.len() <= limit, "{} octets where {limit} are allowed", payload.len());
            assert!(payload.capacity() <= limit.max(1024) + 1, "{} octets reserved", payload.capacity());
            assert!(!text || std::str::from_utf8(payload).is_ok());
            assert_eq!(inflate_message(compressed, text, payload.len()).as_ref(), Ok(payload));
        }
        Err(reason) => assert!(matches!(reason, CloseReason::TooBig | CloseReason::InvalidPayload)),
    }
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(inflate_message(&hello, true, 5).as_deref(), Ok(&b"Hello"[..]), "the next message suffers");
    assert_eq!(inflate_message(compressed, text, limit), inflated, "the second time it is something else");
}

#[derive(Arbitrary)]
struct Message {
    large: bool,
    repeats: u16,
    payload: Vec<u8>,
}

/// Most octets of a small message and of a large one: beyond the small window's 512, beyond the full one's 32 KiB.
const MOST_BYTES: [usize; 2] = [2 * 1024, 48 * 1024];

/// A message comes back from either window; a bomb is refused at its limit.
pub fn deflate(data: &[u8]) {
    with(data, |message: Message| {
        let most = MOST_BYTES[usize::from(message.large)] / message.payload.len().max(1);
        let payload = message.payload.repeat((1 + usize::from(message.repeats)).min(most).max(1));
        for window in [Deflate::Full, Deflate::Small] {
            let compressed = compress_once(&payload, window);
            let stored = payload.len() + payload.len() / 64 + 64;
            assert!(!compressed.is_empty() && compressed.len() <= stored, "more octets than a receiver must take");
            let back = inflate_message(&compressed, false, payload.len());
            assert!(back.is_ok_and(|back| back == payload), "something else came back");
            if let Some(limit) = payload.len().checked_sub(1) {
                assert_eq!(inflate_message(&compressed, false, limit), Err(CloseReason::TooBig));
            }
        }
        narrow(&payload);
    });
}

/// What is deflated for the small window inflates where no more than its 512 octets are kept.
fn narrow(payload: &[u8]) {
    let mut compressed = compress_once(payload, Deflate::Small);
    compressed.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut inflater = flate2::Decompress::new_with_window_bits(false, 9);
    let mut out = Vec::with_capacity(payload.len() + 1);
    let status = inflater.decompress_vec(&compressed, &mut out, flate2::FlushDecompress::Sync);
    assert!(status.is_ok() && out == payload, "it looks back further than 512 octets: {status:?}");
}
