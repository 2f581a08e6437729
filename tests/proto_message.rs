//! Frames to messages: the same events however the octets are cut, and the same verdicts as tungstenite's.

use tidegate::close::CloseReason;
use tidegate::proto::frame::{self, BINARY, CLOSE, CONTINUE, PING, PONG, TEXT};
use tidegate::proto::message::{Event, Partial, Rules, decode};

const RULES: Rules = Rules { message_bytes: 64 * 1024, deflate: None };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

/// What a connection makes of `pieces`, and how it ends.
fn hear<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, rules: &Rules) -> (Vec<Said>, Result<bool, CloseReason>) {
    let mut partial: Option<Box<Partial>> = None;
    let mut said = Vec::new();
    for piece in pieces {
        let (mut bytes, mut position) = (piece.to_vec(), 0);
        loop {
            match decode(&mut partial, &mut bytes, &mut position, rules) {
                Ok(Some(event)) => said.push(event.into()),
                Ok(None) => break,
                Err(reason) => return (said, Err(reason)),
            }
            if matches!(said.last(), Some(Said::Close(_))) {
                return (said, Ok(false));
            }
        }
        assert_eq!(position, bytes.len(), "every octet is consumed");
    }
    (said, Ok(partial.is_some()))
}

fn conversation() -> (Vec<u8>, Vec<Said>) {
    let mut bytes = Vec::new();
    frame::write_masked(&mut bytes, TEXT, MASK, "grüße".as_bytes());
    frame::write_masked_fragment(&mut bytes, BINARY, false, MASK, &[1, 2, 3]);
    frame::write_masked(&mut bytes, PING, MASK, b"there?");
    frame::write_masked_fragment(&mut bytes, CONTINUE, false, MASK, &[]);
    frame::write_masked_fragment(&mut bytes, CONTINUE, true, MASK, &[4; 200]);
    frame::write_masked(&mut bytes, PONG, MASK, b"");
    frame::write_masked_fragment(&mut bytes, TEXT, false, MASK, &[0xe2, 0x82]);
    frame::write_masked_fragment(&mut bytes, CONTINUE, true, MASK, &[0xac]);
    frame::write_masked(&mut bytes, CLOSE, MASK, b"\x03\xe8bye");
    let said = vec![
        Said::Text("grüße".into()),
        Said::Ping(b"there?".to_vec()),
        Said::Binary([&[1, 2, 3][..], &[4; 200]].concat()),
        Said::Pong(vec![]),
        Said::Text("€".into()),
        Said::Close(Some((1000, "bye".into()))),
    ];
    (bytes, said)
}

#[test]
fn a_conversation_is_the_same_whole_cut_anywhere_or_octet_by_octet() {
    let (bytes, said) = conversation();
    assert_eq!(hear([&bytes[..]], &RULES), (said.clone(), Ok(false)));
    assert_eq!(hear(bytes.chunks(1), &RULES), (said.clone(), Ok(false)));
    for cut in 0..=bytes.len() {
        assert_eq!(hear([&bytes[..cut], &bytes[cut..]], &RULES), (said.clone(), Ok(false)), "cut at {cut}");
    }
}
