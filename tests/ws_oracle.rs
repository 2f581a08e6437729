//! Differential tests: tungstenite hears the same masked octets, says the same messages and ends with the same close code.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use tidegate_core::ws::frame::OpCode;
use tidegate_core::ws::mask::unmask;
use tidegate_core::ws::message::{Event, Partial, Rules, decode};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

const LIMIT: usize = 300;
/// The close code that stands for "nothing wrong, nothing closed".
const OPEN: u16 = 0;

/// A client's stream: what it sent can be read, what it is sent is dropped.
struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(out) }
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opcode and payload of what was said before the end, and the code that it ended with.
type Outcome = (Vec<(u8, Vec<u8>)>, u16);

fn tungstenite_hears(bytes: &[u8]) -> Outcome {
    let config = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Client(bytes), Role::Server, Some(config));
    let mut said = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => said.push((1, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => said.push((2, bytes.to_vec())),
            Ok(Message::Ping(bytes)) => said.push((9, bytes.to_vec())),
            Ok(Message::Pong(bytes)) => said.push((10, bytes.to_vec())),
            Ok(Message::Close(frame)) => return (said, frame.map_or(1005, |frame| frame.code.into())),
            Ok(Message::Frame(frame)) => panic!("a raw frame: {frame}"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (said, OPEN),
            Err(Error::Utf8(_)) => return (said, 1007),
            Err(Error::Capacity(_)) => return (said, 1009),
            Err(Error::Protocol(_)) => return (said, 1002),
            Err(error) => panic!("{error}"),
        }
    }
}

fn tidegate_hears<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let rules = Rules { message_bytes: LIMIT, deflate: None };
    let mut partial: Option<Box<Partial>> = None;
    let mut said = Vec::new();
    for piece in pieces {
        let (mut bytes, mut position) = (piece.to_vec(), 0);
        loop {
            match decode(&mut partial, &mut bytes, &mut position, &rules) {
                Ok(None) => break,
                Ok(Some(Event::Text(text) | Event::InflatedText(text, _))) => said.push((1, text.as_bytes().to_vec())),
                Ok(Some(Event::Binary(bytes) | Event::InflatedBinary(bytes, _))) => said.push((2, bytes.to_vec())),
                Ok(Some(Event::Ping(bytes))) => said.push((9, bytes.to_vec())),
                Ok(Some(Event::Pong(bytes))) => said.push((10, bytes.to_vec())),
                Ok(Some(Event::Close(close))) => return (said, close.map_or(1005, |(code, _)| code)),
                Err(reason) => return (said, reason.code()),
            }
        }
    }
    (said, OPEN)
}

/// A frame as a client might write it: mostly legal, sometimes not.
#[derive(Clone, Debug)]
struct Draft {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
}

impl Draft {
    fn write(&self, out: &mut Vec<u8>) {
        let mask = [0x12, 0x34, 0x56, 0x78];
        out.push(self.first);
        let mask_bit = if self.masked { 0x80 } else { 0 };
        if self.payload.len() < 126 {
            out.push(mask_bit | self.payload.len() as u8);
        } else {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(self.payload.len() as u16).to_be_bytes());
        }
        let start = out.len();
        out.extend_from_slice(if self.masked { &mask } else { &[] });
        let start = if self.masked { start + 4 } else { start };
        out.extend_from_slice(&self.payload);
        if self.masked {
            unmask(&mut out[start..], mask, 0);
        }
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let opcode = prop_oneof![6 => Just(0_u8), 6 => Just(1), 4 => Just(2), 2 => Just(9), 1 => Just(10), 1 => Just(8), 1 => 0..16_u8];
    let reserved = prop_oneof![40 => Just(0_u8), 1 => 0..8_u8];
    let head = (opcode, any::<bool>(), reserved, prop::bool::weighted(0.98));
    (head, payload(), close_payload()).prop_map(|((opcode, fin, reserved, masked), data, close)| {
        let payload = if opcode == 8 { close } else { data };
        let fin = fin || matches!(OpCode::from(opcode), OpCode::Control(_)) && payload.len() % 16 != 3;
        Draft { first: if fin { 0x80 } else { 0 } | reserved << 4 | opcode, masked, payload }
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[ -~é€😀]{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..130),
        1 => "€{1,20}".prop_map(|text| text.as_bytes()[1..].to_vec()),
        1 => "€{1,20}".prop_map(|text| text.as_bytes()[..text.len() - 1].to_vec()),
    ]
}

/// At most one thing is wrong with it: where two are, either code is right.
fn close_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (900..5100_u16, "[a-zé]{0,8}").prop_map(|(code, text)| [&code.to_be_bytes()[..], text.as_bytes()].concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..9).prop_map(|reason| [&[3, 0xe8][..], &reason].concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..2),
    ]
}

/// Close codes that tungstenite does not know yet: 1014 is in IANA's registry.
fn newer(outcome: &Outcome) -> bool {
    outcome.1 == 1014
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_hear_the_same_in_any_frames_however_they_are_cut(
        drafts in proptest::collection::vec(draft(), 1..12),
        piece in 1..60_usize,
    ) {
        let mut bytes = Vec::new();
        drafts.iter().for_each(|draft| draft.write(&mut bytes));
        let ours = tidegate_hears(std::iter::once(&bytes[..]));
        prop_assert_eq!(&ours, &tidegate_hears(bytes.chunks(piece)));
        if !newer(&ours) {
            prop_assert_eq!(ours, tungstenite_hears(&bytes));
        }
    }

    #[test]
    fn any_octets_at_all_get_the_same_verdict_whole_and_one_by_one(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(tidegate_hears(std::iter::once(&bytes[..])), tidegate_hears(bytes.chunks(1)));
    }
}
