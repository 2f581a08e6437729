//! Frames to messages: the same however the octets are cut, and what a naive reader would make of them.

use arbitrary::Arbitrary;
use tidegate_core::close::CloseReason;
use tidegate_core::ws::frame::{self, BINARY, CLOSE, CONTINUE, OpCode, PING, PONG, TEXT};
use tidegate_core::ws::message::{Deflate, IDLE_FRAMES, Partial, Rules, decode};

use super::said::Said;
use super::{cut, with};

/// Everything that was said, and the error that ended it, if one did.
type Heard = (Vec<Said>, Option<CloseReason>);

/// What a connection makes of pieces of octets.
fn hear(pieces: &[&[u8]], rules: &Rules) -> Heard {
    let (mut partial, mut said): (Option<Box<Partial>>, Vec<Said>) = (None, Vec::new());
    for piece in pieces {
        let (mut bytes, mut position) = (piece.to_vec(), 0);
        loop {
            match decode(&mut partial, &mut bytes, &mut position, rules) {
                Ok(Some(event)) => said.push(event.into()),
                Ok(None) => break,
                Err(reason) => return (said, Some(reason)),
            }
            if matches!(said.last(), Some(Said::Close(_))) {
                return (said, None);
            }
        }
        assert_eq!(position, bytes.len(), "an octet was not consumed");
        if let Some(partial) = &partial {
            // A message as sent, doubled at most while it grows, and a control frame.
            let bound = size_of::<Partial>() + 2 * (rules.message_bytes + rules.message_bytes / 64 + 64) + 256;
            assert!(partial.pinned_bytes() <= bound, "{} bytes are pinned", partial.pinned_bytes());
            assert!(partial.missing_bytes() > 0 || partial.pinned_bytes() > 0);
        }
    }
    (said, None)
}

/// Any octets, whole and cut at random, say the same and end the same; nothing is pinned beyond the limit.
pub fn frame_stream(data: &[u8]) {
    let [seed, flags, stream @ ..] = data else { return };
    let deflate = (flags & 1 == 1).then_some(Deflate::Full);
    let rules = Rules { message_bytes: 1 << (flags >> 4), deflate };
    let whole = hear(&[stream], &rules);
    assert_eq!(hear(&cut(stream, *seed), &rules), whole, "cut, it says something else");
    for said in &whole.0 {
        match said {
            Said::Text(text) => assert!(text.len() <= rules.message_bytes),
            Said::Binary(bytes) => assert!(bytes.len() <= rules.message_bytes),
            Said::Ping(bytes) | Said::Pong(bytes) => assert!(bytes.len() <= frame::CONTROL_BYTES),
            Said::Close(close) => assert!(close.as_ref().is_none_or(|(code, _)| frame::close_code_allowed(*code))),
        }
    }
}

#[derive(Arbitrary, Clone, Copy)]
enum Opcode {
    Text,
    Binary,
    Continue,
    Ping,
    Pong,
    Close,
}

impl From<Opcode> for OpCode {
    fn from(opcode: Opcode) -> Self {
        match opcode {
            Opcode::Text => TEXT,
            Opcode::Binary => BINARY,
            Opcode::Continue => CONTINUE,
            Opcode::Ping => PING,
            Opcode::Pong => PONG,
            Opcode::Close => CLOSE,
        }
    }
}

#[derive(Arbitrary)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    mask: [u8; 4],
    /// Empty frames are sent again and again, so that short inputs reach the budgets.
    repeats: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn times(&self) -> u32 {
        if self.payload.is_empty() { 1 + u32::from(self.repeats).pow(2) / 32 } else { 1 }
    }
}

#[derive(Arbitrary)]
struct Conversation {
    seed: u8,
    message_bytes: u16,
    frames: Vec<Frame>,
}

/// Frames in any order are put together as a naive reader would, and refused where the standard says so.
pub fn reassembly(data: &[u8]) {
    with(data, |conversation: Conversation| {
        let mut stream = Vec::new();
        let mut naive = Naive { limit: usize::from(conversation.message_bytes), ..Naive::default() };
        for frame in &conversation.frames {
            for _ in 0..frame.times() {
                frame::write_masked_fragment(&mut stream, frame.opcode.into(), frame.fin, frame.mask, &frame.payload);
                naive.take(frame);
            }
        }
        let rules = Rules { message_bytes: naive.limit, deflate: None };
        assert_eq!(hear(&cut(&stream, conversation.seed), &rules), (naive.said, naive.error));
    });
}

/// Reads whole frames, one after the other.
#[derive(Default)]
struct Naive {
    limit: usize,
    open: Option<Open>,
    said: Vec<Said>,
    error: Option<CloseReason>,
}

struct Open {
    text: bool,
    payload: Vec<u8>,
    idle_frames: u32,
}

impl Naive {
    fn take(&mut self, frame: &Frame) {
        if self.error.is_none() && !matches!(self.said.last(), Some(Said::Close(_))) {
            match self.read(frame) {
                Ok(said) => self.said.extend(said),
                Err(reason) => self.error = Some(reason),
            }
        }
    }

    fn read(&mut self, frame: &Frame) -> Result<Option<Said>, CloseReason> {
        match frame.opcode {
            Opcode::Ping | Opcode::Pong | Opcode::Close => self.control(frame).map(Some),
            Opcode::Text | Opcode::Binary | Opcode::Continue => self.data(frame),
        }
    }

    fn idle(&mut self) -> Result<(), CloseReason> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.idle_frames += 1;
        if open.idle_frames > IDLE_FRAMES { Err(CloseReason::Flood) } else { Ok(()) }
    }

    fn control(&mut self, frame: &Frame) -> Result<Said, CloseReason> {
        if !frame.fin || frame.payload.len() > frame::CONTROL_BYTES {
            return Err(CloseReason::Protocol);
        }
        self.idle()?;
        let payload = frame.payload.clone();
        match frame.opcode {
            Opcode::Ping => Ok(Said::Ping(payload)),
            Opcode::Pong => Ok(Said::Pong(payload)),
            _ => close(&payload).map(Said::Close),
        }
    }

    fn data(&mut self, frame: &Frame) -> Result<Option<Said>, CloseReason> {
        match (frame.opcode, &self.open) {
            (Opcode::Continue, None) | (Opcode::Text | Opcode::Binary, Some(_)) => return Err(CloseReason::Protocol),
            (Opcode::Continue, Some(_)) if frame.payload.is_empty() && !frame.fin => self.idle()?,
            _ => {}
        }
        let text = matches!(frame.opcode, Opcode::Text);
        let open = self.open.get_or_insert_with(|| Open { text, payload: Vec::new(), idle_frames: 0 });
        open.payload.extend_from_slice(&frame.payload);
        if open.payload.len() > self.limit {
            return Err(CloseReason::TooBig);
        }
        let judged = open.text && (frame.fin || !frame.payload.is_empty());
        let hopeless = |error: std::str::Utf8Error| error.error_len().is_some() || frame.fin;
        if judged && std::str::from_utf8(&open.payload).is_err_and(hopeless) {
            return Err(CloseReason::InvalidPayload);
        }
        let Some(whole) = self.open.take_if(|_| frame.fin) else { return Ok(None) };
        Ok(Some(match String::from_utf8(whole.payload) {
            Ok(text) if whole.text => Said::Text(text),
            Ok(text) => Said::Binary(text.into_bytes()),
            Err(error) => Said::Binary(error.into_bytes()),
        }))
    }
}

fn close(payload: &[u8]) -> Result<Option<(u16, String)>, CloseReason> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(CloseReason::Protocol),
        [high, low, reason @ ..] => (u16::from(*high) * 256 + u16::from(*low), reason),
    };
    if !(1000..=4999).contains(&code) || matches!(code, 1004..=1006 | 1015..=2999) {
        return Err(CloseReason::Protocol);
    }
    String::from_utf8(reason.to_vec()).map(|reason| Some((code, reason))).map_err(|_| CloseReason::InvalidPayload)
}
