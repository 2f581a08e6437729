//! permessage-deflate (RFC 7692): agreed on, inflated, deflated. Off unless the node's configuration turns it on.
//!
//! Both sides are always told to forget the window after each message (`no_context_takeover`, which a server may decide
//! alone, §7.1.1). So a connection holds neither compressor nor decompressor, whether idle or in the middle of a message;
//! a message for many members is compressed once for all of them; and one each per thread serves all connections.
//!
//! A compressed message waits as it was sent until its last frame is there, and is inflated in one go: what an unfinished one
//! pins is what arrived, not what it might become. Invariant: inflating never reserves more than the message's limit.
//!
//! What inflating costs is bounded by the octets that were sent, and the message rate counts these. The dearest of them, about ten times
//! as dear as those of text, are blocks with a code table of their own and nothing in it. So a message of which hardly anything comes
//! out is refused early. The number of blocks, final ones among them (BFINAL), is not bounded: a sender may use any number in one
//! message (§7.2.1), and a final one costs less for its octets than an empty one with a table.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::utf8::Validator;
use crate::close::{CloseReason, Refusal};

/// What was agreed on: how far the server's compressor may look back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deflate {
    /// 32 KiB.
    Full,
    /// 512 bytes, for clients that offer less than the full window.
    Small,
}

/// What a sender removes from the end of a message (§7.2.1), and a final empty block. Only a stream that is complete ends
/// there and says nothing more on the way: one that was cut takes them for data.
const TAIL: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];
/// The first of them.
const SYNC: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// First step of the growth of an inflated message, in bytes.
const STEP_BYTES: usize = 1024;
/// Octets that are inflated between two looks at what came out of them.
const PIECE_BYTES: usize = 4 * 1024;
/// Octets that are sent for each one that comes out; more than this, beyond the first [`PIECE_BYTES`], are waste. A message that its sender
/// flushes after each character takes seven.
const WASTE: usize = 8;

impl Deflate {
    /// The value of Sec-WebSocket-Extensions that agrees to it.
    pub const fn answer(self) -> &'static str {
        match self {
            Self::Full => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            Self::Small => {
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9"
            }
        }
    }

    const fn window_bits(self) -> u8 {
        match self {
            Self::Full => 15,
            Self::Small => 9,
        }
    }
}

/// Takes the first offer that can be taken, of all the values of Sec-WebSocket-Extensions. An offer with an unknown, repeated
/// or impossible parameter is declined (§7.1), other extensions are ignored.
///
/// # Errors
/// [`Refusal::BadRequest`] for what is no list of extensions (RFC 6455 §9.1).
pub fn agree<'a>(values: impl Iterator<Item = &'a str>) -> Result<Option<Deflate>, Refusal> {
    let mut agreed = None;
    for extension in values.flat_map(|value| value.split(',')).map(trim).filter(|extension| !extension.is_empty()) {
        let offer = Offer::read(extension)?;
        agreed = agreed.or(offer.taken());
    }
    Ok(agreed)
}

/// One element of the list.
#[derive(Default)]
struct Offer {
    declined: bool,
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: bool,
}

impl Offer {
    fn read(extension: &str) -> Result<Self, Refusal> {
        let mut parts = extension.split(';').map(trim);
        let name = parts.next().unwrap_or_default();
        let mut offer = Self { declined: name != "permessage-deflate", ..Self::default() };
        if !is_token(name) {
            return Err(Refusal::BadRequest);
        }
        for part in parts {
            let (parameter, value) = match part.split_once('=') {
                Some((parameter, value)) => (trim(parameter), Some(unquoted(trim(value)))),
                None => (part, None),
            };
            if !is_token(parameter) || !value.is_none_or(is_token) {
                return Err(Refusal::BadRequest);
            }
            offer.declined |= !offer.set(parameter, value);
        }
        Ok(offer)
    }

    /// Notes a parameter; says whether it is known, new and possible.
    fn set(&mut self, parameter: &str, value: Option<&str>) -> bool {
        match (parameter, value) {
            ("server_no_context_takeover", None) => !std::mem::replace(&mut self.server_no_context_takeover, true),
            ("client_no_context_takeover", None) => !std::mem::replace(&mut self.client_no_context_takeover, true),
            ("client_max_window_bits", value) => {
                let possible = value.is_none_or(|value| window_bits(value).is_some());
                possible && !std::mem::replace(&mut self.client_max_window_bits, true)
            }
            ("server_max_window_bits", Some(value)) => {
                let bits = window_bits(value);
                bits.is_some() && std::mem::replace(&mut self.server_max_window_bits, bits).is_none()
            }
            _ => false,
        }
    }

    fn taken(&self) -> Option<Deflate> {
        match self.server_max_window_bits {
            _ if self.declined => None,
            None | Some(15) => Some(Deflate::Full),
            // zlib has no raw stream with a window of 256 bytes.
            Some(8) => None,
            Some(_) => Some(Deflate::Small),
        }
    }
}

/// 8 to 15, without leading zeros (§7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    value.parse().ok().filter(|bits| (8..=15).contains(bits) && !value.starts_with(['0', '+']))
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet))
}

/// Octets that a message of `message_bytes` has at most when it is sent in stored blocks of a reasonable size.
pub(super) fn bound(message_bytes: usize) -> usize {
    message_bytes.saturating_add(message_bytes / 64).saturating_add(64)
}

thread_local! {
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    static DEFLATERS: RefCell<[Option<Compress>; 2]> = const { RefCell::new([None, None]) };
}

/// Inflates a whole message.
///
/// # Errors
/// [`CloseReason::TooBig`] as soon as it is larger than `limit`; [`CloseReason::InvalidPayload`] for what does not inflate or
/// is cut, for text that is no UTF-8, and as soon as more than 4 KiB were sent and less than an eighth as much came out.
pub fn inflate(compressed: &[u8], text: bool, limit: usize) -> Result<Vec<u8>, CloseReason> {
    INFLATER.with_borrow_mut(|slot| {
        let inflater = slot.get_or_insert_with(|| Decompress::new(false));
        inflater.reset(false);
        let mut message = Inflated { payload: Vec::new(), utf8: text.then(Validator::default), limit, taken: 0 };
        // A sender may end a message with a final block (§7.2.3.4), and then needs no tail.
        if let Rest::Unfinished = message.stream(inflater, compressed)? {
            let len = message.payload.len();
            let rest = message.stream(inflater, &TAIL)?;
            if matches!(rest, Rest::Unfinished) || message.payload.len() != len {
                return Err(CloseReason::InvalidPayload);
            }
        }
        if message.utf8.is_some_and(|utf8| !utf8.is_complete()) {
            return Err(CloseReason::InvalidPayload);
        }
        Ok(message.payload)
    })
}

/// Whether a stream ended with the last octet that was put in.
enum Rest {
    Ended,
    Unfinished,
}

/// A message while it is inflated.
struct Inflated {
    payload: Vec<u8>,
    utf8: Option<Validator>,
    limit: usize,
    /// Compressed octets that were put in.
    taken: usize,
}

impl Inflated {
    /// Puts `input` in. Where a final block ends inside it, another stream begins.
    fn stream(&mut self, inflater: &mut Decompress, mut input: &[u8]) -> Result<Rest, CloseReason> {
        loop {
            let ended = self.step(inflater, &mut input)?;
            if self.taken >= PIECE_BYTES && !input.is_empty() && self.payload.len() < self.taken / WASTE {
                return Err(CloseReason::InvalidPayload);
            }
            let full = self.payload.len() == self.payload.capacity();
            match (ended, input.is_empty()) {
                (true, true) => return Ok(Rest::Ended),
                (true, false) => inflater.reset(false),
                (false, true) if !full => return Ok(Rest::Unfinished),
                (false, _) => {}
            }
        }
    }

    /// One call of the inflater, which makes progress or fails; says whether its stream ended.
    fn step(&mut self, inflater: &mut Decompress, input: &mut &[u8]) -> Result<bool, CloseReason> {
        let len = self.payload.len();
        if len == self.payload.capacity() {
            // One octet of room over the limit, so that a message of exactly the limit is told from a larger one.
            self.payload.reserve_exact(len.max(STEP_BYTES).min((self.limit - len).saturating_add(1)));
        }
        let before = inflater.total_in();
        let piece = &input[..input.len().min(PIECE_BYTES)];
        let status = inflater
            .decompress_vec(piece, &mut self.payload, FlushDecompress::Sync)
            .map_err(|_| CloseReason::InvalidPayload)?;
        let taken = (inflater.total_in() - before) as usize;
        *input = &input[taken..];
        self.taken += taken;
        if let Some(utf8) = &mut self.utf8 {
            utf8.push(&self.payload[len..]).map_err(|_| CloseReason::InvalidPayload)?;
        }
        if self.payload.len() > self.limit {
            return Err(CloseReason::TooBig);
        }
        let stuck = taken == 0 && self.payload.len() == len && !input.is_empty();
        if stuck && status != Status::StreamEnd {
            Err(CloseReason::InvalidPayload)
        } else {
            Ok(status == Status::StreamEnd)
        }
    }
}

/// Compresses a message for all members that have agreed on it: the payload of a frame with RSV1. Where it is not
/// shorter, the message may as well be sent as it is.
pub fn compress_once(payload: &[u8], deflate: Deflate) -> Vec<u8> {
    DEFLATERS.with_borrow_mut(|slots| {
        let make = || Compress::new_with_window_bits(Compression::fast(), false, deflate.window_bits());
        let deflater = slots[deflate as usize].get_or_insert_with(make);
        deflater.reset();
        let mut out = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let taken = deflater.total_in() as usize;
            // The only error is a misused stream; a deflater that was just reset is not one.
            let failed = deflater.compress_vec(&payload[taken..], &mut out, FlushCompress::Sync).is_err();
            let flushed = deflater.total_in() as usize == payload.len() && out.len() < out.capacity();
            if failed || flushed {
                break;
            }
            out.reserve(out.len());
        }
        let len = out.strip_suffix(&SYNC).map_or(out.len(), <[u8]>::len);
        out.truncate(len);
        out
    })
}
