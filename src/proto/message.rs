//! Frames to messages (RFC 6455 §5.4, §5.5): resumable at every octet.
//!
//! The connection calls [`decode`] with what arrived, again and again, until it says `None`. A message that is one frame and
//! lies whole in the input is unmasked and handed out where it lies. Everything else waits in a [`Partial`], which exists
//! only while a frame or a message is unfinished.
//!
//! Invariants: every octet of input is consumed exactly once; memory is reserved as octets arrive, never from what a header
//! announces; a [`Partial`] never holds more than a message's limit; what is handed out as text is UTF-8.
//!
//! It leaves to the connection: answering, the deadline of an unfinished message, and a price for messages and control
//! frames that come whole (each is an [`Event`], and events are countable). After [`Event::Close`] or an error nothing more
//! may be decoded.

use std::ops::Range;

use super::frame::{self, CLOSE, CONTINUE, HEADER_BYTES, Header, OpCode, PING, TEXT};
use super::mask::unmask;
use super::utf8::Validator;
use crate::close::CloseReason;

/// Frames inside one message that bring it no octet (empty fragments, control frames); more are a flood.
pub const IDLE_FRAMES: u32 = 1024;

/// What a connection accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Bytes of a message, inflated; more is [`CloseReason::TooBig`].
    pub message_bytes: usize,
    /// permessage-deflate as negotiated.
    pub deflate: Option<Deflate>,
}

/// permessage-deflate as negotiated (RFC 7692).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deflate {
    /// Base-2 logarithm of the window that the server may use, 9 to 15.
    pub server_window_bits: u8,
}

/// What a client said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping; a pong with the same payload is due.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close frame, with code and reason if it has them. Nothing may follow it.
    Close(Option<(u16, &'a str)>),
}

/// A frame or message that is not finished.
#[derive(Debug, Default)]
pub struct Partial {
    /// Octets of a header that is cut.
    head: [u8; HEADER_BYTES],
    /// How many of them are there.
    head_len: u8,
    /// The frame whose payload is cut.
    frame: Option<Unfinished>,
    /// Payload of a control frame that is cut.
    control: Vec<u8>,
    /// The message whose last frame has not come.
    message: Option<Message>,
    /// Its payload.
    payload: Vec<u8>,
    /// What the last call handed out; forgotten by the next.
    handed_out: Option<Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Unfinished {
    header: Header,
    /// Octets of its payload that came.
    seen: u64,
}

#[derive(Debug)]
struct Message {
    text: bool,
    utf8: Validator,
    /// See [`IDLE_FRAMES`].
    idle_frames: u32,
}

/// Which of a [`Partial`]'s buffers an event is in.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Control(OpCode),
    Text,
    Binary,
}

/// Where a finished event lies.
enum Place {
    Input(OpCode, Range<usize>),
    Partial(Kept),
}

impl Partial {
    /// Bytes that it pins.
    pub fn pinned_bytes(&self) -> usize {
        size_of::<Self>() + self.payload.capacity() + self.control.capacity()
    }

    /// Octets that are known to be missing before anything can be handed out: of the header at least, else of the frame.
    pub fn missing_bytes(&self) -> u64 {
        match &self.frame {
            Some(frame) => frame.header.payload_len - frame.seen,
            None => u64::from(6_u8.saturating_sub(self.head_len).max(1)),
        }
    }

    fn is_idle(&self) -> bool {
        self.head_len == 0 && self.frame.is_none() && self.message.is_none()
    }
}

/// Decodes the next event of `bytes` from `position` on, which it moves; `None` when all are consumed.
///
/// `partial` is `Some` afterwards only while something is unfinished, and what it holds began after the last text or binary
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
    forget_handed_out(partial);
    while *position < bytes.len() {
        let Some(frame) = next_frame(partial, bytes, position, rules)? else { continue };
        if let Some(place) = take_payload(partial, frame, bytes, position, rules)? {
            return hand_out(place, partial, bytes).map(Some);
        }
    }
    Ok(None)
}

/// Frees what the last call handed out, and the partial itself if nothing else is in it.
fn forget_handed_out(slot: &mut Option<Box<Partial>>) {
    let Some(partial) = slot else { return };
    match partial.handed_out.take() {
        Some(Kept::Control(_)) => partial.control = Vec::new(),
        Some(Kept::Text | Kept::Binary) => partial.payload = Vec::new(),
        None => {}
    }
    if partial.is_idle() {
        *slot = None;
    }
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
    let open =
        slot.as_mut().and_then(|partial| partial.message.as_mut().map(|message| (message, partial.payload.len())));
    check_order(&header, open, rules)?;
    Ok(Some(Unfinished { header, seen: 0 }))
}

fn next_header(
    slot: &mut Option<Box<Partial>>,
    rest: &[u8],
    position: &mut usize,
    rsv1_allowed: bool,
) -> Result<Option<Header>, CloseReason> {
    let cut = slot.as_ref().map_or(0, |partial| usize::from(partial.head_len));
    if cut == 0 {
        if let Some((header, len)) = Header::parse(rest, rsv1_allowed)? {
            *position += len;
            return Ok(Some(header));
        }
    }
    let partial = slot.get_or_insert_default();
    let taken = rest.len().min(HEADER_BYTES - cut);
    partial.head[cut..cut + taken].copy_from_slice(&rest[..taken]);
    match Header::parse(&partial.head[..cut + taken], rsv1_allowed)? {
        Some((header, len)) => {
            partial.head_len = 0;
            *position += len - cut;
            Ok(Some(header))
        }
        None => {
            partial.head_len = (cut + taken) as u8;
            *position += taken;
            Ok(None)
        }
    }
}

/// The rules between frames: what may come while a message is open and while none is, how large it may get (§5.4).
fn check_order(header: &Header, open: Option<(&mut Message, usize)>, rules: &Rules) -> Result<(), CloseReason> {
    let Some((message, so_far)) = open else {
        return match header.opcode {
            CONTINUE => Err(CloseReason::Protocol),
            _ if header.payload_len > rules.message_bytes as u64 && !header.is_control() => Err(CloseReason::TooBig),
            _ => Ok(()),
        };
    };
    if header.opcode != CONTINUE && !header.is_control() {
        return Err(CloseReason::Protocol);
    }
    if header.is_control() || (header.payload_len == 0 && !header.fin) {
        message.idle_frames += 1;
        if message.idle_frames > IDLE_FRAMES {
            return Err(CloseReason::Flood);
        }
        return Ok(());
    }
    if header.payload_len > (rules.message_bytes - so_far) as u64 { Err(CloseReason::TooBig) } else { Ok(()) }
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
    let payload = &mut bytes[range.clone()];
    unmask(payload, header.mask, (frame.seen % 4) as usize);
    *position = range.end;
    let ends = here as u64 == missing;

    let alone = header.is_control() || (header.fin && header.opcode != CONTINUE);
    if alone && ends && frame.seen == 0 {
        return Ok(Some(Place::Input(header.opcode, range)));
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
    if header.is_control() {
        partial.control.extend_from_slice(payload);
        return Ok(ends.then_some(Place::Partial(Kept::Control(header.opcode))));
    }
    append(partial, &header, payload, (missing as usize).min(rules.message_bytes))?;
    if ends && header.fin { finish(partial).map(|kept| Some(Place::Partial(kept))) } else { Ok(None) }
}

/// Adds a piece of a data frame to the message; `expected` is the most that the frame still brings, the piece included.
fn append(partial: &mut Partial, header: &Header, piece: &[u8], expected: usize) -> Result<(), CloseReason> {
    let message = partial.message.get_or_insert_with(|| Message {
        text: header.opcode == TEXT,
        utf8: Validator::default(),
        idle_frames: 0,
    });
    if message.text {
        message.utf8.push(piece).map_err(|_| CloseReason::InvalidPayload)?;
    }
    let payload = &mut partial.payload;
    if payload.capacity() - payload.len() < piece.len() {
        // Doubling keeps copying linear; more than the frame announces is not needed.
        let more = piece.len().max(expected.min(payload.len().max(64)));
        payload.reserve_exact(more);
    }
    payload.extend_from_slice(piece);
    Ok(())
}

/// The message's last octet is there.
fn finish(partial: &mut Partial) -> Result<Kept, CloseReason> {
    match partial.message.take() {
        Some(message) if message.text && !message.utf8.is_complete() => Err(CloseReason::InvalidPayload),
        Some(message) if message.text => Ok(Kept::Text),
        _ => Ok(Kept::Binary),
    }
}

fn hand_out<'a>(place: Place, slot: &'a mut Option<Box<Partial>>, bytes: &'a [u8]) -> Result<Event<'a>, CloseReason> {
    match place {
        Place::Input(opcode, range) => event(opcode, &bytes[range]),
        Place::Partial(kept) => {
            let partial = slot.get_or_insert_default();
            partial.handed_out = Some(kept);
            match kept {
                Kept::Control(opcode) => event(opcode, &partial.control),
                Kept::Text => event(TEXT, &partial.payload),
                Kept::Binary => Ok(Event::Binary(&partial.payload)),
            }
        }
    }
}

fn event(opcode: OpCode, payload: &[u8]) -> Result<Event<'_>, CloseReason> {
    match opcode {
        TEXT => Ok(Event::Text(text(payload)?)),
        CLOSE => close(payload).map(Event::Close),
        PING => Ok(Event::Ping(payload)),
        OpCode::Control(_) => Ok(Event::Pong(payload)),
        OpCode::Data(_) => Ok(Event::Binary(payload)),
    }
}

/// Code and reason of a close frame (§5.5.1).
fn close(payload: &[u8]) -> Result<Option<(u16, &str)>, CloseReason> {
    match payload {
        [] => Ok(None),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !frame::close_code_allowed(code) {
                return Err(CloseReason::Protocol);
            }
            Ok(Some((code, text(reason)?)))
        }
        _ => Err(CloseReason::Protocol),
    }
}

fn text(payload: &[u8]) -> Result<&str, CloseReason> {
    std::str::from_utf8(payload).map_err(|_| CloseReason::InvalidPayload)
}
