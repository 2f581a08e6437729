//! A scenario: what is said to a server, and what is listened for: templates with placeholders, and presets for servers that are known.
//!
//! Placeholders: `{room}` the room's name, `{number}` its number (`{n}` in short), `{content}` the stamped content, `{len}` the
//! content's octets, `{client}` the connection's number, `{ref}` the publication's number. `\r`, `\n` and `\\` are understood, so that
//! line protocols fit into a shell's quotes. A help text must not hold `{n}`: clap breaks the line there.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::target::Scheme;

/// Servers whose language is built in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Dialect {
    /// tidegate's JSON messages.
    Native,
    /// One room in the path; messages as they are (tidegate's /raw/ROOM, and echo servers).
    Raw,
    /// NATS' protocol, over TCP or over nats-server's own WebSocket listener.
    Nats,
    /// HTTP: tidegate's publish endpoint.
    Http,
    /// Socket.IO 4 over WebSocket: an event "join" and an event "publish".
    SocketIo,
    /// Pusher's protocol: a public channel each room.
    Pusher,
    /// Centrifugo's JSON protocol.
    Centrifugo,
    /// Lines over TCP, as `floor echo` sends them back.
    Lines,
    /// Lines over TCP: `J` and a room's number joins, `P` and a room's number publishes, as `floor fanout` understands.
    Rooms,
}

/// What is said and listened for, as typed.
///
/// Placeholders: {room} {number} {client} {content} {len} {ref}; \r and \n are understood.
#[derive(Args, Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[command(
    next_help_heading = "Templates, for servers that are not built in; an empty text takes a preset's words away"
)]
pub(crate) struct Scenario {
    /// Said as soon as a connection is open
    #[arg(long, value_name = "TEXT")]
    pub(crate) hello: Option<String>,
    /// Heard before a client joins
    #[arg(long, value_name = "TEXT")]
    pub(crate) greeted: Option<String>,
    /// Said to join a room
    #[arg(long, value_name = "TEXT")]
    pub(crate) join: Option<String>,
    /// Heard once a client has joined
    #[arg(long, value_name = "TEXT")]
    pub(crate) joined: Option<String>,
    /// Said to publish; {content} stands for what is measured, {ref} for the publication's number
    #[arg(long, value_name = "TEXT")]
    pub(crate) publish: Option<String>,
    /// Heard for each publication that was taken
    #[arg(long, value_name = "TEXT")]
    pub(crate) acknowledged: Option<String>,
    /// Heard for each publication that was refused
    #[arg(long, value_name = "TEXT")]
    pub(crate) refused: Option<String>,
    /// What stands before the publication's {ref} in a refusal; with it, refused publications are not counted as lost
    #[arg(long, value_name = "TEXT")]
    pub(crate) refused_ref: Option<String>,
    /// Only messages that contain this are deliveries; the stamp is found anywhere in them
    #[arg(long = "match", value_name = "TEXT")]
    pub(crate) matching: Option<String>,
    /// The server's own heartbeats, as HEARD=>SAID
    #[arg(long, value_name = "HEARD=>SAID")]
    pub(crate) answer: Option<String>,
    /// Heard where the server tells that messages may be missing
    #[arg(long, value_name = "TEXT")]
    pub(crate) gap: Option<String>,
    /// Send binary messages
    #[arg(long)]
    pub(crate) binary: bool,
    /// One message may hold several deliveries, or one delivery stand over two
    #[arg(long)]
    pub(crate) stream: bool,
}

impl Scenario {
    /// The language of a server that is known.
    pub(crate) fn preset(dialect: Dialect) -> Self {
        let said = |text: &str| Some(String::from(text));
        match dialect {
            Dialect::Lines => Self { publish: said(r"{content}\n"), stream: true, ..Self::default() },
            Dialect::Rooms => {
                Self { join: said(r"J{n}\n"), publish: said(r"P{n} {content}\n"), stream: true, ..Self::default() }
            }
            Dialect::Raw => Self { publish: said("{content}"), ..Self::default() },
            Dialect::Native => Self {
                greeted: said(r#""type":"welcome""#),
                join: said(r#"{"type":"join","roomId":"{room}"}"#),
                joined: said(r#""type":"joined""#),
                publish: said(r#"{"type":"message","roomId":"{room}","content":"{content}","ref":{ref}}"#),
                matching: said(r#""type":"message""#),
                refused: said(r#""type":"error""#),
                refused_ref: said(r#""ref":"#),
                gap: said(r#""type":"gap""#),
                ..Self::default()
            },
            Dialect::Nats => Self {
                hello: said(r#"CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n"#),
                greeted: said("PONG"),
                join: said(r"SUB {room} 1\r\nPING\r\n"),
                joined: said("PONG"),
                publish: said(r"PUB {room} {len}\r\n{content}\r\n"),
                refused: said("-ERR"),
                answer: said(r"PING\r\n=>PONG\r\n"),
                binary: true,
                stream: true,
                ..Self::default()
            },
            Dialect::Http => Self {
                publish: said(
                    r"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{content}",
                ),
                acknowledged: said("HTTP/1.1 2"),
                refused: said("HTTP/1.1 "),
                stream: true,
                ..Self::default()
            },
            Dialect::SocketIo => Self {
                hello: said("40"),
                greeted: said("40{"),
                join: said(r#"420["join","{room}"]"#),
                joined: said("430["),
                publish: said(r#"42["publish","{room}","{content}"]"#),
                answer: said("2=>3"),
                ..Self::default()
            },
            Dialect::Pusher => Self {
                greeted: said("pusher:connection_established"),
                join: said(r#"{"event":"pusher:subscribe","data":{"channel":"{room}"}}"#),
                joined: said("subscription_succeeded"),
                ..Self::default()
            },
            Dialect::Centrifugo => Self {
                hello: said(r#"{"id":1,"connect":{}}"#),
                greeted: said(r#""connect""#),
                join: said(r#"{"id":2,"subscribe":{"channel":"{room}"}}"#),
                joined: said(r#""subscribe""#),
                publish: said(r#"{"id":3,"publish":{"channel":"{room}","data":"{content}"}}"#),
                matching: said(r#""push""#),
                answer: said("{}=>{}"),
                ..Self::default()
            },
        }
    }

    /// What is wrong with the templates, in one line.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong = |flag: &str, text: &str, why: &str| Err(format!("{flag} '{text}' {why}"));
        for (flag, text) in [("--publish", &self.publish), ("--join", &self.join), ("--hello", &self.hello)] {
            let Some(unknown) = text.as_deref().and_then(unknown_placeholder) else { continue };
            return Err(format!("{flag} names {unknown}, which stands for nothing: {PLACEHOLDERS}"));
        }
        if let Some(text) = self.publish.as_deref().filter(|text| !text.is_empty() && !text.contains("{content}")) {
            return wrong("--publish", text, "holds no {content}: without it no delivery can be recognised");
        }
        if let Some(text) = self.answer.as_deref().filter(|text| !text.is_empty() && !text.contains("=>")) {
            return wrong("--answer", text, "has no =>: write what is heard, =>, and what is said, as in '2=>3'");
        }
        Ok(())
    }

    /// What `self` says, else what `preset` says. An empty text takes the preset's words away.
    pub(crate) fn or(self, preset: Self) -> Self {
        let first = |typed: Option<String>, preset| typed.or(preset).filter(|text| !text.is_empty());
        Self {
            hello: first(self.hello, preset.hello),
            greeted: first(self.greeted, preset.greeted),
            join: first(self.join, preset.join),
            joined: first(self.joined, preset.joined),
            publish: first(self.publish, preset.publish),
            acknowledged: first(self.acknowledged, preset.acknowledged),
            refused: first(self.refused, preset.refused),
            refused_ref: first(self.refused_ref, preset.refused_ref),
            matching: first(self.matching, preset.matching),
            answer: first(self.answer, preset.answer),
            gap: first(self.gap, preset.gap),
            binary: self.binary || preset.binary,
            stream: self.stream || preset.stream,
        }
    }
}

/// The dialect that a scheme speaks when none is named.
pub(crate) fn dialect_of(scheme: Scheme, path: &str) -> Dialect {
    match scheme {
        Scheme::Nats => Dialect::Nats,
        Scheme::Http => Dialect::Http,
        Scheme::Tcp => Dialect::Lines,
        Scheme::WebSocket if ["{room}", "{number}", "{n}"].iter().any(|name| path.contains(name)) => Dialect::Raw,
        Scheme::WebSocket => Dialect::Native,
    }
}

/// What a placeholder stands for.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    /// The template of rooms' names.
    pub(crate) rooms: &'a Template,
    /// The room's number.
    pub(crate) room: u32,
    /// The connection's number.
    pub(crate) client: u32,
    /// The stamped content.
    pub(crate) content: &'a [u8],
    /// The publication's number.
    pub(crate) reference: u64,
    /// The target's path, itself a template.
    pub(crate) path: Option<&'a Template>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(Vec<u8>),
    Room,
    Number,
    Client,
    Content,
    Length,
    Reference,
    Path,
}

/// A text with placeholders, read once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Reads a template. A brace that begins no placeholder stands for itself: JSON is full of them.
    pub(crate) fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (piece, taken) = match placeholder(rest) {
                Some(found) => found,
                None => {
                    let taken = unescape(rest, first, &mut plain);
                    rest = &rest[taken..];
                    continue;
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
            rest = &rest[taken..];
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Self(pieces)
    }

    /// Whether the outcome depends on the room.
    pub(crate) fn names_room(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Room | Piece::Number | Piece::Client))
    }

    /// Appends the text with every placeholder filled in.
    pub(crate) fn render(&self, values: Values<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Room => values.rooms.render(values, out),
                Piece::Number => decimal(values.room.into(), out),
                Piece::Client => decimal(values.client.into(), out),
                Piece::Content => out.extend_from_slice(values.content),
                Piece::Length => decimal(values.content.len() as u64, out),
                Piece::Reference => decimal(values.reference, out),
                Piece::Path => values.path.iter().for_each(|path| path.render(Values { path: None, ..values }, out)),
            }
        }
    }
}

const PLACEHOLDERS: &str = "use {room}, {number}, {client}, {content}, {len}, {ref} or {path}";

/// The first word in braces that is no placeholder. JSON's braces hold more than a word.
fn unknown_placeholder(text: &str) -> Option<&str> {
    text.match_indices('{').find_map(|(start, _)| {
        let length = text[start + 1..].find(|letter: char| !letter.is_ascii_lowercase())?;
        let name = &text[start..start + length + 2];
        (length > 0 && name.ends_with('}') && placeholder(name).is_none()).then_some(name)
    })
}

fn placeholder(text: &str) -> Option<(Piece, usize)> {
    [
        ("{room}", Piece::Room),
        ("{number}", Piece::Number),
        ("{n}", Piece::Number),
        ("{client}", Piece::Client),
        ("{content}", Piece::Content),
        ("{len}", Piece::Length),
        ("{ref}", Piece::Reference),
        ("{path}", Piece::Path),
    ]
    .into_iter()
    .find(|(name, _)| text.starts_with(name))
    .map(|(name, piece)| (piece, name.len()))
}

/// Appends the next character, an escape undone; returns the octets of the template that it took.
fn unescape(text: &str, first: char, out: &mut Vec<u8>) -> usize {
    for (escape, octet) in [(r"\r", b'\r'), (r"\n", b'\n'), (r"\\", b'\\')] {
        if text.starts_with(escape) {
            out.push(octet);
            return escape.len();
        }
    }
    let mut octets = [0; 4];
    out.extend_from_slice(first.encode_utf8(&mut octets).as_bytes());
    first.len_utf8()
}

fn decimal(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = value;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// The octets of a text to listen for.
pub(crate) fn literal(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[unescape(rest, first, &mut out)..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> String {
        let rooms = Template::new("load.{n}");
        let path = Template::new("/v1/rooms/{room}/messages");
        let values = Values { rooms: &rooms, room: 17, client: 4, content: b"abc", reference: 9, path: Some(&path) };
        let mut out = Vec::new();
        Template::new(template).render(values, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        assert_eq!(rendered(r#"{"join":"{room}","c":{client}}"#), r#"{"join":"load.17","c":4}"#);
        assert_eq!(rendered(r"PUB {room} {len}\r\n{content}\r\n"), "PUB load.17 3\r\nabc\r\n");
        assert_eq!(rendered(r#"{"n":{number},"ref":{ref}}"#), r#"{"n":17,"ref":9}"#);
        assert_eq!(rendered("POST {path} {unknown}"), "POST /v1/rooms/load.17/messages {unknown}");
        assert_eq!(rendered(r"a\\b"), r"a\b");
    }

    #[test]
    fn a_wrong_template_is_reported_in_one_line() {
        let publish = |text: &str| Scenario { publish: Some(String::from(text)), ..Scenario::default() };
        for (scenario, part) in [
            (publish("hello"), "no {content}"),
            (publish(r#"{"to":"{rooom}","text":"{content}"}"#), "{rooom}"),
            (Scenario { join: Some(String::from("J {romm}")), ..Scenario::default() }, "{romm}"),
            (Scenario { answer: Some(String::from("2")), ..Scenario::default() }, "=>"),
        ] {
            let told = scenario.check().unwrap_err();
            assert!(told.contains(part) && !told.contains('\n'), "{told}");
        }
        assert_eq!(publish(r#"{"a":{},"to":"{room}","text":"{content}"}"#).check(), Ok(()));
    }

    #[test]
    fn what_is_typed_wins_over_the_preset() {
        let typed = Scenario { join: Some(String::from("J")), greeted: Some(String::new()), ..Scenario::default() };
        let scenario = typed.or(Scenario::preset(Dialect::Native));
        assert_eq!(scenario.join.as_deref(), Some("J"));
        assert_eq!(scenario.greeted, None, "an empty text takes the preset's away");
        assert_eq!(scenario.joined.as_deref(), Some(r#""type":"joined""#));
    }

    #[test]
    fn every_preset_can_publish_or_says_that_it_does_not() {
        for dialect in Dialect::value_variants() {
            assert_eq!(Scenario::preset(*dialect).check(), Ok(()), "{dialect:?}");
            let publish = Scenario::preset(*dialect).publish;
            assert_eq!(publish.is_none(), *dialect == Dialect::Pusher, "{dialect:?}");
            assert!(publish.is_none_or(|text| text.contains("{content}")), "{dialect:?}");
        }
    }
}
