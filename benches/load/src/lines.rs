//! A scenario made ready for use: what each connection says, as octets, and what is listened for.

use memchr::memmem::Finder;

use crate::frame::{self, opcode};
use crate::protocol::Plan;
use crate::scenario::{Template, Values, literal};
use crate::target::Scheme;

/// RFC 6455's sample key: loopback has no caches to fool, and its answer is known.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The `Sec-WebSocket-Accept` that belongs to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Everything that connections of one plan say and listen for.
pub(crate) struct Lines {
    framed: bool,
    binary: bool,
    host: String,
    headers: String,
    path: Template,
    rooms: Template,
    hello: Option<Template>,
    join: Option<Template>,
    publish: Option<Template>,
    answer: Option<(Vec<u8>, Vec<u8>)>,
    /// See [`crate::scenario::Scenario::stream`].
    pub(crate) stream: bool,
    pub(crate) greeted: Option<Finder<'static>>,
    pub(crate) joined: Option<Finder<'static>>,
    pub(crate) acknowledged: Option<Finder<'static>>,
    pub(crate) refused: Option<Finder<'static>>,
    refused_ref: Option<Finder<'static>>,
    pub(crate) matching: Option<Finder<'static>>,
    pub(crate) gap: Option<Finder<'static>>,
}

/// How a server answered the upgrade.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Upgrade {
    /// Not all of the answer is here.
    Partial,
    /// Open; the head took so many octets.
    Open(usize),
    /// The status line, or what else was wrong.
    Refused(String),
}

impl Lines {
    pub(crate) fn new(plan: &Plan) -> Self {
        let scenario = &plan.scenario;
        let template = |text: &Option<String>| text.as_deref().map(Template::new);
        let finder = |text: &Option<String>| text.as_deref().map(|text| Finder::new(&literal(text)).into_owned());
        Self {
            framed: plan.target.scheme == Scheme::WebSocket,
            binary: scenario.binary,
            host: plan.target.address.to_string(),
            headers: plan.headers.iter().map(|header| format!("{header}\r\n")).collect(),
            path: Template::new(&plan.target.path),
            rooms: Template::new(&plan.room_name),
            hello: template(&scenario.hello),
            join: template(&scenario.join),
            publish: template(&scenario.publish),
            answer: scenario
                .answer
                .as_deref()
                .and_then(|text| text.split_once("=>"))
                .map(|(heard, said)| (literal(heard), literal(said))),
            stream: scenario.stream,
            greeted: finder(&scenario.greeted),
            joined: finder(&scenario.joined),
            acknowledged: finder(&scenario.acknowledged),
            refused: finder(&scenario.refused),
            refused_ref: finder(&scenario.refused_ref),
            matching: finder(&scenario.matching),
            gap: finder(&scenario.gap),
        }
    }

    /// Whether WebSocket frames are spoken, rather than plain octets.
    pub(crate) fn framed(&self) -> bool {
        self.framed
    }

    fn values<'a>(&'a self, client: u32, room: u32, content: &'a [u8], reference: u64) -> Values<'a> {
        Values { rooms: &self.rooms, room, client, content, reference, path: Some(&self.path) }
    }

    /// Appends the upgrade request.
    pub(crate) fn request(&self, client: u32, room: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"GET ");
        self.path.render(self.values(client, room, b"", 0), out);
        out.extend_from_slice(
            format!(
                " HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
                 Sec-WebSocket-Version: 13\r\n{}\r\n",
                self.host, self.headers
            )
            .as_bytes(),
        );
    }

    /// Appends a message: a frame, or the octets as they are.
    pub(crate) fn message(&self, payload: &[u8], out: &mut Vec<u8>) {
        match (self.framed, self.binary) {
            (false, _) => out.extend_from_slice(payload),
            (true, false) => frame::encode(opcode::TEXT, payload, out),
            (true, true) => frame::encode(opcode::BINARY, payload, out),
        }
    }

    fn say(&self, template: Option<&Template>, values: Values<'_>, out: &mut Vec<u8>) -> bool {
        let Some(template) = template else { return false };
        let mut text = Vec::with_capacity(values.content.len() + 128);
        template.render(values, &mut text);
        self.message(&text, out);
        true
    }

    /// Appends the first words, if the scenario has any.
    pub(crate) fn hello(&self, client: u32, room: u32, out: &mut Vec<u8>) {
        self.say(self.hello.as_ref(), self.values(client, room, b"", 0), out);
    }

    /// Appends the wish to join `room`; tells whether the scenario has one.
    pub(crate) fn join(&self, client: u32, room: u32, out: &mut Vec<u8>) -> bool {
        self.say(self.join.as_ref(), self.values(client, room, b"", 0), out)
    }

    /// Appends a publication of `content` into `room`; `reference` is its number, by which a refusal names it.
    pub(crate) fn publish(&self, client: u32, room: u32, content: &[u8], reference: u64, out: &mut Vec<u8>) {
        self.say(self.publish.as_ref(), self.values(client, room, content, reference), out);
    }

    /// The number of the publication that `refusal` is about, where the server tells it.
    pub(crate) fn refused_reference(&self, refusal: &[u8]) -> Option<u64> {
        let finder = self.refused_ref.as_ref()?;
        let rest = &refusal[finder.find(refusal)? + finder.needle().len()..];
        let end = rest.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }

    /// Appends the answer where `message` is a server's own heartbeat; tells whether it is.
    pub(crate) fn answer(&self, message: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((heard, said)) = &self.answer else { return false };
        let found = if self.stream { memchr::memmem::find(message, heard).is_some() } else { message == heard };
        if found {
            self.message(said, out);
        }
        found
    }

    /// Reads the answer to [`Self::request`].
    pub(crate) fn upgraded(bytes: &[u8]) -> Upgrade {
        let status = || String::from_utf8_lossy(bytes.split(|b| *b == b'\r').next().unwrap_or(bytes)).into_owned();
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            return if bytes.starts_with(b"HTTP/1.1"[..bytes.len().min(8)].as_ref()) {
                Upgrade::Partial
            } else {
                Upgrade::Refused(String::from("not an HTTP answer"))
            };
        };
        if !bytes.starts_with(b"HTTP/1.1 101") {
            return Upgrade::Refused(status());
        }
        match memchr::memmem::find(&bytes[..end], ACCEPT.as_bytes()) {
            Some(_) => Upgrade::Open(end + 4),
            None => Upgrade::Refused(String::from("101 with a wrong Sec-WebSocket-Accept")),
        }
    }
}

/// The beginning of a message, for people.
pub(crate) fn beginning(message: &[u8]) -> String {
    const SHOWN: usize = 200;
    let first = message.split(|octet| matches!(octet, b'\r' | b'\n')).next().unwrap_or(message);
    String::from_utf8_lossy(&first[..first.len().min(SHOWN)]).into_owned()
}

/// How often `finder` finds something in `bytes`.
pub(crate) fn occurrences(finder: Option<&Finder<'static>>, bytes: &[u8]) -> u64 {
    finder.map_or(0, |finder| finder.find_iter(bytes).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_open_only_with_101_and_the_right_accept() {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        assert_eq!(Lines::upgraded(format!("{head}xy").as_bytes()), Upgrade::Open(head.len()));
        assert_eq!(Lines::upgraded(&head.as_bytes()[..head.len() - 1]), Upgrade::Partial);
        let refused = Lines::upgraded(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n");
        assert_eq!(refused, Upgrade::Refused(String::from("HTTP/1.1 503 Service Unavailable")));
        assert!(matches!(Lines::upgraded(b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: no\r\n\r\n"), Upgrade::Refused(_)));
        assert!(matches!(Lines::upgraded(b"-ERR wrong protocol\r\n"), Upgrade::Refused(_)));
    }
}
