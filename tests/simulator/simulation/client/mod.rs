//! A client: what it wants, what it says, what it makes of the octets that come back.

use std::collections::HashMap;
use std::os::fd::RawFd;

use serde_json::Value;
use tidegate::model::ConnectionId;
use tidegate::proto::frame;

use crate::oracle::{Oracle, View};
use crate::socket::Dice;

/// See the module.
pub struct Client {
    pub fd: RawFd,
    pub shard: usize,
    pub id: Option<ConnectionId>,
    pub slow: bool,
    /// A close frame or the end of the stream was seen.
    pub over: bool,
    pub close_code: Option<u16>,
    pub views: HashMap<String, View>,
    inbox: Vec<u8>,
    upgraded: bool,
}

pub const REQUEST: &str = "GET / HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Client {
    pub fn new(fd: RawFd, shard: usize, slow: bool) -> Self {
        Self {
            fd,
            shard,
            id: None,
            slow,
            over: false,
            close_code: None,
            views: HashMap::new(),
            inbox: Vec::new(),
            upgraded: false,
        }
    }

    /// A text message as octets, sometimes in fragments with a ping between them.
    pub fn text(dice: &mut Dice, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mask = [dice.below(256) as u8, 2, 3, 4];
        if dice.percent(80) {
            frame::write_masked(&mut out, frame::TEXT, mask, text.as_bytes());
            return out;
        }
        let (head, tail) = text.as_bytes().split_at(dice.below(text.len()));
        frame::write_masked_fragment(&mut out, frame::TEXT, false, mask, head);
        frame::write_masked(&mut out, frame::PING, mask, b"?");
        frame::write_masked_fragment(&mut out, frame::CONTINUE, true, mask, tail);
        out
    }

    /// Takes octets in and checks what they say. Returns what the client answers.
    pub fn hear(&mut self, octets: &[u8], oracle: &mut Oracle) -> Vec<u8> {
        self.inbox.extend_from_slice(octets);
        if !self.upgraded {
            let Some(end) = self.inbox.windows(4).position(|w| w == b"\r\n\r\n") else { return Vec::new() };
            self.upgraded = self.inbox.starts_with(b"HTTP/1.1 101");
            self.over |= !self.upgraded;
            self.inbox.drain(..end + 4);
        }
        let mut answers = Vec::new();
        while let Some((opcode, payload)) = self.next_frame() {
            assert!(!self.over, "octets after the close frame");
            match opcode {
                1 => self.message(&payload, oracle),
                8 => {
                    self.over = true;
                    self.close_code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    frame::write_masked(&mut answers, frame::CLOSE, [1, 2, 3, 4], &payload);
                }
                9 => frame::write_masked(&mut answers, frame::PONG, [1, 2, 3, 4], &payload),
                10 => {}
                other => panic!("a frame of opcode {other}"),
            }
        }
        answers
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        if !self.upgraded || self.inbox.len() < 2 {
            return None;
        }
        assert_eq!(self.inbox[0] & 0x70, 0, "a reserved bit: the stream is out of step");
        assert_eq!(self.inbox[1] & 0x80, 0, "a masked frame from the server: the stream is out of step");
        let (head, length) = match self.inbox[1] {
            126 => (4, usize::from(u16::from_be_bytes([*self.inbox.get(2)?, *self.inbox.get(3)?]))),
            127 => panic!("no message of the simulation is that long"),
            short => (2, usize::from(short)),
        };
        if self.inbox.len() < head + length {
            return None;
        }
        let opcode = self.inbox[0] & 0x0f;
        let payload = self.inbox[head..head + length].to_vec();
        self.inbox.drain(..head + length);
        Some((opcode, payload))
    }

    fn message(&mut self, payload: &[u8], oracle: &mut Oracle) {
        let message: Value = serde_json::from_slice(payload).expect("whole JSON in every text message");
        let room = || message["roomId"].as_str().expect("a room").to_owned();
        match message["type"].as_str().expect("a type") {
            "welcome" => self.id = message["connectionId"].as_str().and_then(|id| id.parse().ok()),
            "joined" => {
                let view = oracle.joined(&room());
                self.views.entry(room()).or_insert(view);
            }
            "left" => drop(self.views.remove(&room())),
            "message" => {
                let me = self.id.expect("a welcome before any message");
                let view = self.views.get_mut(&room()).expect("a message of a room that was not joined, or was left");
                oracle.received(view, &room(), message["content"].as_u64().expect("content"), me);
            }
            "gap" => {
                let told: Option<String> = message["roomId"].as_str().map(str::to_owned);
                for (name, view) in &mut self.views {
                    if told.as_ref().is_none_or(|told| told == name) {
                        oracle.gap(view);
                    }
                }
            }
            "error" | "ack" | "pong" | "server-shutdown" => {}
            other => panic!("an unknown type {other}"),
        }
    }
}
