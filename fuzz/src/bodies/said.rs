//! What a client said, kept beyond the buffer that it was decoded in. `tests/ws_message.rs` uses it too.

use tidegate_core::ws::message::Event;

/// What a client said, on its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) | Event::InflatedText(text, _) => Self::Text(text.to_owned()),
            Event::Binary(bytes) | Event::InflatedBinary(bytes, _) => Self::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}
