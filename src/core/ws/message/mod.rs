//! Frames to messages (RFC 6455 §5.4, §5.5): resumable at every octet.
//!
//! The connection calls [`decode`] with what arrived, again and again, until it says `None`. A message that is one frame and
//! lies whole in the input is unmasked and handed out where it lies. Everything else waits in a [`Partial`], which exists
//! only while a frame or a message is unfinished, and for as long as the caller looks at what came out of it.
//!
//! Invariants: every octet of input is consumed exactly once; memory is reserved as octets arrive, never from what a header
//! announces; a [`Partial`] never holds more than a message's limit; what is handed out as text is UTF-8.
//!
//! It leaves to the connection: answering, the deadline of an unfinished message, and a price for messages and control
//! frames that come whole (each is an [`Event`], and events are countable). After [`Event::Close`] or an error nothing more
//! may be decoded.

mod event;
mod partial;

use std::ops::Range;

pub use event::Event;
pub use partial::Partial;
use partial::{Message, Unfinished};

pub use super::deflate::Deflate;
use super::frame::{CLOSE, CONTINUE, Header, OpCode, PING, TEXT};
use super::{deflate, mask};
use crate::close::CloseReason;

/// Frames inside one message that bring it no octet (empty fragments, control frames); more are a flood.
pub const IDLE_FRAMES: u32 = 1024;

/// What a connection accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Bytes of a message, inflated; more is [`CloseReason::TooBig`].
    pub message_bytes: usize,
    /// permessage-deflate, if it was agreed on.
    pub deflate: Option<Deflate>,
}

impl Rules {
    /// Octets of a message as sent.
    fn sent_bytes(&self, compressed: bool) -> usize {
        if compressed { deflate::bound(self.message_bytes) } else { self.message_bytes }
    }
}

/// Where a finished event lies.
enum Place {
    Input(OpCode, Range<usize>),
    Partial(OpCode),
}

/// Decodes the next event of `bytes` from `position` on, which it moves; `None` when all are consumed.
///
/// After `None`, `partial` is `Some` only while something is unfinished, and what it holds began after the last text or binary
/// event: a deadline for unfinished messages starts anew there.
///
/// # Errors
/// [`CloseReason::Protocol`], [`CloseReason::InvalidPayload`], [`CloseReason::TooBig`] or [`CloseReason::Flood`].
pub fn decode<'a>(
    partial: &'a mut Option<Box<Partial>>,
    bytes: &'a mut [u8],
    position: &mut usize,
    rules: &Rules,
) -> Result<Option<Event<'a>>, CloseReason> {
    if partial.as_mut().is_some_and(|partial| partial.forget()) {
        *partial = None;
    }
    if partial.is_none()
        && let Some((opcode, range)) = whole_message(bytes, *position, rules)?
    {
        *position = range.end;
        return Event::read(opcode, &bytes[range]).map(Some);
    }
    while *position < bytes.len() {
        let Some(frame) = next_frame(partial, bytes, position, rules)? else { continue };
        match take_payload(partial, frame, bytes, position, rules)? {
            None => {}
            Some(Place::Input(opcode, range)) => return Event::read(opcode, &bytes[range]).map(Some),
            Some(Place::Partial(opcode)) => return partial.get_or_insert_default().hand_out(opcode).map(Some),
        }
    }
    Ok(None)
}

/// The usual case, at no more than its own cost: nothing is open, and what comes is one frame that lies whole in the input.
#[inline]
fn whole_message(
    bytes: &mut [u8],
    position: usize,
    rules: &Rules,
) -> Result<Option<(OpCode, Range<usize>)>, CloseReason> {
    let Some((header, len)) = Header::parse(&bytes[position..], rules.deflate.is_some())? else { return Ok(None) };
    let start = position + len;
    let there = header.payload_len <= (bytes.len() - start) as u64;
    if !there || !header.fin || header.rsv1 {
        return Ok(None);
    }
    check_first(&header, rules)?;
    let range = start..start + header.payload_len as usize;
    mask::unmask(&mut bytes[range.clone()], header.mask, 0);
    Ok(Some((header.opcode, range)))
}

/// The frame whose payload comes next: the one that is cut, or a new one. `None`: its header is not complete.
fn next_frame(
    slot: &mut Option<Box<Partial>>,
    bytes: &[u8],
    position: &mut usize,
    rules: &Rules,
) -> Result<Option<Unfinished>, CloseReason> {
    if let Some(frame) = slot.as_mut().and_then(|partial| partial.frame.take()) {
        return Ok(Some(frame));
    }
    let Some(header) = next_header(slot, &bytes[*position..], position, rules.deflate.is_some())? else {
        return Ok(None);
    };
    let so_far = slot.as_ref().map_or(0, |partial| partial.message_len());
    match slot.as_mut().and_then(|partial| partial.message.as_mut()) {
        Some(message) => check_inside(&header, message, so_far, rules)?,
        None => check_first(&header, rules)?,
    }
    Ok(Some(Unfinished { header, seen: 0 }))
}

fn next_header(
    slot: &mut Option<Box<Partial>>,
    rest: &[u8],
    position: &mut usize,
    rsv1_allowed: bool,
) -> Result<Option<Header>, CloseReason> {
    if slot.as_ref().is_none_or(|partial| partial.head_len() == 0)
        && let Some((header, len)) = Header::parse(rest, rsv1_allowed)?
    {
        *position += len;
        return Ok(Some(header));
    }
    let (header, taken) = slot.get_or_insert_default().continue_head(rest, rsv1_allowed)?;
    *position += taken;
    Ok(header)
}

/// What may come while no message is open, and how large it may be (§5.4).
fn check_first(header: &Header, rules: &Rules) -> Result<(), CloseReason> {
    if header.opcode == CONTINUE {
        return Err(CloseReason::Protocol);
    }
    let fits = header.is_control() || header.payload_len <= rules.sent_bytes(header.rsv1) as u64;
    if fits { Ok(()) } else { Err(CloseReason::TooBig) }
}

/// What may come while a message is open, of which `so_far` octets came.
fn check_inside(header: &Header, message: &mut Message, so_far: usize, rules: &Rules) -> Result<(), CloseReason> {
    if header.opcode != CONTINUE && !header.is_control() {
        return Err(CloseReason::Protocol);
    }
    if header.is_control() || (header.payload_len == 0 && !header.fin) {
        message.idle_frames += 1;
        return if message.idle_frames > IDLE_FRAMES { Err(CloseReason::Flood) } else { Ok(()) };
    }
    let left = rules.sent_bytes(message.compressed).saturating_sub(so_far);
    if header.payload_len > left as u64 { Err(CloseReason::TooBig) } else { Ok(()) }
}

/// Takes what is there of the frame's payload; says where the event lies that it finishes.
fn take_payload(
    slot: &mut Option<Box<Partial>>,
    mut frame: Unfinished,
    bytes: &mut [u8],
    position: &mut usize,
    rules: &Rules,
) -> Result<Option<Place>, CloseReason> {
    let header = frame.header;
    let missing = header.payload_len - frame.seen;
    let here = (bytes.len() - *position).min(usize::try_from(missing).unwrap_or(usize::MAX));
    let range = *position..*position + here;
    *position = range.end;
    let piece = &mut bytes[range.clone()];
    mask::unmask(piece, header.mask, (frame.seen % 4) as usize);

    let ends = here as u64 == missing;
    if ends && frame.seen == 0 && (header.is_control() || (header.fin && header.opcode != CONTINUE)) {
        if !header.rsv1 {
            return Ok(Some(Place::Input(header.opcode, range)));
        }
        slot.get_or_insert_default().inflate(header.opcode, piece, rules.message_bytes)?;
        return Ok(Some(Place::Partial(header.opcode)));
    }
    let partial = slot.get_or_insert_default();
    frame.seen += here as u64;
    if !ends {
        partial.frame = Some(frame);
    }
    if here == 0 && !ends {
        // Only the header is there: the frame may still be handed out where it will lie.
        return Ok(None);
    }
    keep(partial, &header, piece, missing, ends, rules)
}

/// Adds a piece to what waits; says what it finishes.
fn keep(
    partial: &mut Partial,
    header: &Header,
    piece: &[u8],
    missing: u64,
    ends: bool,
    rules: &Rules,
) -> Result<Option<Place>, CloseReason> {
    if header.is_control() {
        partial.append_control(piece);
        return Ok(ends.then_some(Place::Partial(header.opcode)));
    }
    partial.append(header, piece, usize::try_from(missing).unwrap_or(usize::MAX))?;
    if !ends || !header.fin {
        return Ok(None);
    }
    partial.finish(rules.message_bytes).map(|opcode| Some(Place::Partial(opcode)))
}
