//! What a client said, read from the payload that carries it.

use super::{CLOSE, OpCode, PING, TEXT};
use crate::close::CloseReason;
use crate::ws::frame;

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

impl<'a> Event<'a> {
    /// Whether it came in a control frame, which may stand between the frames of a message (§5.4).
    pub fn is_control(&self) -> bool {
        matches!(self, Self::Ping(_) | Self::Pong(_) | Self::Close(_))
    }

    pub(super) fn read(opcode: OpCode, payload: &'a [u8]) -> Result<Self, CloseReason> {
        match opcode {
            TEXT => Ok(Self::Text(text(payload)?)),
            CLOSE => close(payload).map(Self::Close),
            PING => Ok(Self::Ping(payload)),
            OpCode::Control(_) => Ok(Self::Pong(payload)),
            OpCode::Data(_) => Ok(Self::Binary(payload)),
        }
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
