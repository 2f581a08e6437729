//! What a client says.

use tidegate_core::close::CloseReason;
use tidegate_core::model::Kind;
use tidegate_core::ws::frame;

use super::super::dice::Dice;
use super::super::oracle::Oracle;
use super::super::plan::Plan;
use super::frames::{self, Window};
use super::{Asked, Client, Dialect, Membership};

/// What padding is cut from: letters that repeat themselves after 700 bytes and hardly before, so that a compressor refers
/// further back than a small window reaches.
const PADDING: [u8; 1_400] = {
    let (mut letters, mut state, mut at) = ([0; 1_400], 7_u32, 0);
    while at < letters.len() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        letters[at] = if at < 700 { b'a' + ((state >> 16) % 26) as u8 } else { letters[at - 700] };
        at += 1;
    }
    letters
};

impl Client {
    /// The upgrade request.
    pub fn request(&self) -> Vec<u8> {
        let path = match self.dialect {
            Dialect::Native => String::from("/"),
            Dialect::Raw(room) => format!("/raw/room.{room}"),
        };
        let offer = match self.offer {
            None => "",
            Some(Window::Full) => "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
            Some(Window::Small) => "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n",
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        request.into_bytes()
    }

    /// Whether it may say something: not before its upgrade, and nothing after what ends its stream.
    pub fn may_speak(&self) -> bool {
        self.upgraded && (self.is_raw() || self.id.is_some()) && !self.over && self.deeds.is_empty()
    }

    /// Says something: the octets. `number` numbers what it publishes.
    pub fn speak(&mut self, dice: &mut Dice, number: &mut u64, oracle: &mut Oracle, plan: &Plan) -> Vec<u8> {
        let choice = dice.below(200);
        match (self.dialect, choice) {
            (_, 0..3) => self.say_goodbye(),
            (_, 3..5) => self.break_the_protocol(dice),
            (Dialect::Raw(room), _) => self.publish_raw(dice, room, number, oracle, plan),
            (Dialect::Native, 5..8) => {
                self.nonsense += 1;
                frames::write(dice, frame::TEXT, br#"{"type":"nonsense"}"#, self.stream.window)
            }
            (Dialect::Native, 8..16) => self.join_all(dice, plan),
            (Dialect::Native, 16..70) => {
                let room = dice.below(plan.rooms);
                let mut octets = self.join(dice, room);
                if dice.percent(30) {
                    octets.extend(self.publish(dice, room, number, oracle, plan));
                }
                octets
            }
            (Dialect::Native, 70..90) => self.leave(dice, plan),
            (Dialect::Native, _) => {
                let room = dice.below(plan.rooms);
                self.publish(dice, room, number, oracle, plan)
            }
        }
    }

    fn say_goodbye(&mut self) -> Vec<u8> {
        self.deeds.push(CloseReason::ClosedByPeer);
        let mut out = Vec::new();
        frame::write_masked(&mut out, frame::CLOSE, [9; 4], &1_000_u16.to_be_bytes());
        out
    }

    /// Something for which the client, and no other, is closed.
    fn break_the_protocol(&mut self, dice: &mut Dice) -> Vec<u8> {
        let mut out = Vec::new();
        let deed = match dice.below(3) {
            0 => {
                frame::write_frame(&mut out, frame::TEXT, b"a frame without a mask");
                CloseReason::Protocol
            }
            1 => {
                frame::write_masked(&mut out, frame::TEXT, [1, 2, 3, 4], b"\xff\xfe");
                CloseReason::InvalidPayload
            }
            _ if self.is_raw() => return self.say_goodbye(),
            _ => {
                frame::write_masked(&mut out, frame::BINARY, [1, 2, 3, 4], b"octets");
                CloseReason::Unsupported
            }
        };
        self.deeds.push(deed);
        out
    }

    fn reference(&mut self, asked: Asked) -> u64 {
        let reference = self.next_reference;
        self.next_reference += 1;
        self.awaited.insert(reference, asked);
        reference
    }

    fn join(&mut self, dice: &mut Dice, room: usize) -> Vec<u8> {
        let reference = self.reference(Asked::Join(room));
        let membership = self.memberships.entry(room).or_insert(Membership::Asked(reference));
        if let Membership::Asked(latest) = membership {
            *latest = reference;
        }
        let text = format!(r#"{{"type":"join","roomId":"room.{room}","ref":{reference}}}"#);
        frames::write(dice, frame::TEXT, text.as_bytes(), self.stream.window)
    }

    /// Joins some rooms by one message, which one `ref` stands for.
    fn join_all(&mut self, dice: &mut Dice, plan: &Plan) -> Vec<u8> {
        let first = dice.below(plan.rooms);
        let rooms: Vec<usize> = (0..1 + dice.below(plan.rooms)).map(|n| (first + n) % plan.rooms).collect();
        let reference = self.reference(Asked::JoinAll(rooms.clone()));
        let mut listed = Vec::new();
        for room in rooms {
            let membership = self.memberships.entry(room).or_insert(Membership::Asked(reference));
            if let Membership::Asked(latest) = membership {
                *latest = reference;
            }
            let name = format!(r#""room.{room}""#);
            listed.push(if dice.percent(50) { name } else { format!(r#"{{"roomId":{name}}}"#) });
        }
        let text = format!(r#"{{"type":"join","rooms":[{}],"ref":{reference}}}"#, listed.join(","));
        frames::write(dice, frame::TEXT, text.as_bytes(), self.stream.window)
    }

    fn leave(&mut self, dice: &mut Dice, plan: &Plan) -> Vec<u8> {
        let room = dice.below(plan.rooms);
        let reference = self.reference(Asked::Leave);
        self.forget(room);
        let text = format!(r#"{{"type":"leave","roomId":"room.{room}","ref":{reference}}}"#);
        frames::write(dice, frame::TEXT, text.as_bytes(), self.stream.window)
    }

    fn publish(&mut self, dice: &mut Dice, room: usize, number: &mut u64, oracle: &mut Oracle, plan: &Plan) -> Vec<u8> {
        let (number, body) = body(dice, number, plan);
        let (echo, ack) = (dice.percent(70), dice.percent(30));
        let content = if dice.percent(50) { format!("\"{body}\"") } else { number.to_string() };
        oracle.said(number, room, Kind::Json, content.as_bytes(), echo);
        self.said.push(number);
        if echo && self.memberships.contains_key(&room) {
            self.wanted.insert(number, room);
        }
        // Without a `ref` an error could not be told from another's; where nothing fails there is none.
        let reference = (ack || plan.broker.is_some() || plan.message_rate > 0 || dice.percent(50))
            .then(|| self.reference(Asked::Publish { number, ack }))
            .map_or_else(String::new, |reference| format!(r#","ref":{reference}"#));
        let text = format!(
            r#"{{"type":"message","roomId":"room.{room}","content":{content},"echo":{echo},"ack":{ack}{reference}}}"#
        );
        frames::write(dice, frame::TEXT, text.as_bytes(), self.stream.window)
    }

    fn publish_raw(
        &mut self,
        dice: &mut Dice,
        room: usize,
        number: &mut u64,
        oracle: &mut Oracle,
        plan: &Plan,
    ) -> Vec<u8> {
        let (number, body) = body(dice, number, plan);
        let (kind, opcode) = [(Kind::Text, frame::TEXT), (Kind::Binary, frame::BINARY)][dice.below(2)];
        oracle.said(number, room, kind, body.as_bytes(), true);
        self.said.push(number);
        self.wanted.insert(number, room);
        frames::write(dice, opcode, body.as_bytes(), self.stream.window)
    }
}

/// The next number, and the text of a message with it.
fn body(dice: &mut Dice, number: &mut u64, plan: &Plan) -> (u64, String) {
    *number += 1;
    let length = dice.below(plan.padding + 1).min(PADDING.len());
    let start = dice.below(PADDING.len() - length + 1);
    let padding = String::from_utf8_lossy(&PADDING[start..start + length]);
    (*number, if padding.is_empty() { number.to_string() } else { format!("{number} {padding}") })
}
