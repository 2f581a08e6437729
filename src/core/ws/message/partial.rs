//! What waits for the rest of a frame or message.

use super::{Event, OpCode, TEXT};
use crate::close::CloseReason;
use crate::ws::deflate;
use crate::ws::frame::{BINARY, HEADER_BYTES, Header};
use crate::ws::utf8::Validator;

/// A frame or message that is not finished.
#[derive(Debug, Default)]
pub struct Partial {
    /// Octets of a header that is cut.
    head: [u8; HEADER_BYTES],
    /// How many of them are there.
    head_len: u8,
    /// The frame whose payload is cut.
    pub(super) frame: Option<Unfinished>,
    /// Payload of a control frame that is cut.
    control: Vec<u8>,
    /// The message whose last frame has not come.
    pub(super) message: Option<Message>,
    /// Its payload, as sent.
    payload: Vec<u8>,
    /// What the last call handed out; forgotten by the next.
    handed_out: Option<OpCode>,
}

/// A frame of which the header came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished {
    pub(super) header: Header,
    /// Octets of its payload that came.
    pub(super) seen: u64,
}

/// A message of which at least the first frame's header came.
#[derive(Debug)]
pub(super) struct Message {
    text: bool,
    pub(super) compressed: bool,
    utf8: Validator,
    /// See [`super::IDLE_FRAMES`].
    pub(super) idle_frames: u32,
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

    /// Whether a message has begun that is not finished.
    pub fn is_message_open(&self) -> bool {
        self.message.is_some()
    }

    /// Octets of the open message that came.
    pub(super) fn message_len(&self) -> usize {
        self.payload.len()
    }

    /// Octets of a header that is cut.
    pub(super) fn head_len(&self) -> usize {
        usize::from(self.head_len)
    }

    /// Goes on with a header that is cut. Says what it is, once it is complete, and how many octets of `rest` it took.
    pub(super) fn continue_head(
        &mut self,
        rest: &[u8],
        rsv1_allowed: bool,
    ) -> Result<(Option<Header>, usize), CloseReason> {
        let cut = self.head_len();
        let taken = rest.len().min(HEADER_BYTES - cut);
        self.head[cut..cut + taken].copy_from_slice(&rest[..taken]);
        match Header::parse(&self.head[..cut + taken], rsv1_allowed)? {
            Some((header, len)) => {
                self.head_len = 0;
                Ok((Some(header), len - cut))
            }
            None => {
                self.head_len = (cut + taken) as u8;
                Ok((None, taken))
            }
        }
    }

    /// Adds a piece of a control frame.
    pub(super) fn append_control(&mut self, piece: &[u8]) {
        self.control.extend_from_slice(piece);
    }

    /// Adds a piece of a data frame; `expected` is the most that the frame still brings, the piece included.
    pub(super) fn append(&mut self, header: &Header, piece: &[u8], expected: usize) -> Result<(), CloseReason> {
        let message = self.message.get_or_insert_with(|| Message {
            text: header.opcode == TEXT,
            compressed: header.rsv1,
            utf8: Validator::default(),
            idle_frames: 0,
        });
        if message.text && !message.compressed {
            message.utf8.push(piece).map_err(|_| CloseReason::InvalidPayload)?;
        }
        let payload = &mut self.payload;
        if payload.capacity() - payload.len() < piece.len() {
            // Doubling keeps copying linear; more than the frame announces is not needed.
            payload.reserve_exact(piece.len().max(expected.min(payload.len().max(64))));
        }
        payload.extend_from_slice(piece);
        Ok(())
    }

    /// The message's last octet is there: what kind of message it is.
    pub(super) fn finish(&mut self, message_bytes: usize) -> Result<OpCode, CloseReason> {
        let Some(message) = self.message.take() else { return Err(CloseReason::Internal) };
        let opcode = if message.text { TEXT } else { BINARY };
        if message.compressed {
            let compressed = std::mem::take(&mut self.payload);
            return self.inflate(opcode, &compressed, message_bytes).map(|()| opcode);
        }
        if message.utf8.is_complete() { Ok(opcode) } else { Err(CloseReason::InvalidPayload) }
    }

    /// Makes what `compressed` inflates to its payload.
    pub(super) fn inflate(
        &mut self,
        opcode: OpCode,
        compressed: &[u8],
        message_bytes: usize,
    ) -> Result<(), CloseReason> {
        self.payload = deflate::inflate(compressed, opcode == TEXT, message_bytes)?;
        Ok(())
    }

    /// Hands out what was just finished.
    pub(super) fn hand_out(&mut self, opcode: OpCode) -> Result<Event<'_>, CloseReason> {
        self.handed_out = Some(opcode);
        let buffer = if matches!(opcode, OpCode::Control(_)) { &self.control } else { &self.payload };
        Event::read(opcode, buffer)
    }

    /// Frees what was handed out; says whether nothing else is left.
    pub(super) fn forget(&mut self) -> bool {
        // A message that was handed out leaves nothing open: its payload goes with the partial.
        if self.handed_out.take().is_some() {
            self.control = Vec::new();
        }
        self.head_len == 0 && self.frame.is_none() && self.message.is_none()
    }
}
