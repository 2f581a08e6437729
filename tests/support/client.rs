//! A WebSocket client for tests: tungstenite's, over a blocking socket. It shares no line with the gateway's own protocol.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use super::checker::ABNORMAL_CLOSURE;
use super::http::{self, LONGEST_WAIT};

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// A close frame with this code and reason.
    Closed(u16, String),
    /// No close frame: reset, or an end in the middle.
    Lost,
}

impl End {
    /// The close code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Closed(code, _) => *code,
            Self::Lost => ABNORMAL_CLOSURE,
        }
    }
}

/// What comes from the gateway.
#[derive(Clone, PartialEq, Debug)]
pub enum Said {
    Text(String),
    Binary(Vec<u8>),
    End(End),
}

/// One connection.
pub struct Client {
    socket: WebSocket<TcpStream>,
    /// The connection's id, from `welcome`; empty in the raw dialect.
    pub id: String,
    /// `welcome` itself.
    pub welcome: Value,
    /// Messages that came while something else was awaited.
    waiting: VecDeque<Value>,
    /// Errors that [`Self::answer_or_error`] passed by.
    pub errors: Vec<Value>,
}

impl Client {
    /// Connects to `/` and takes the welcome.
    pub fn connect(port: u16) -> Self {
        Self::connect_at(port, "/")
    }

    /// Connects to a path that speaks the native dialect and takes the welcome.
    pub fn connect_at(port: u16, path: &str) -> Self {
        let mut client = Self::raw(port, path);
        client.welcome = client.json();
        assert_eq!(client.welcome["type"], "welcome", "{}", client.welcome);
        client.id = client.welcome["connectionId"].as_str().unwrap().to_owned();
        client
    }

    /// Connects to a path and expects nothing to be said.
    pub fn raw(port: u16, path: &str) -> Self {
        Self::try_connect(port, path).unwrap_or_else(|status| panic!("{path} answered {status}"))
    }

    /// Connects, or gives the status of the refusal; 0 where there was none.
    pub fn try_connect(port: u16, path: &str) -> Result<Self, u16> {
        Self::over(http::connect(port), path, &[]).map(|(client, _)| client)
    }

    /// Upgrades a socket, with more headers; gives what the 101 says too.
    pub fn over(
        stream: TcpStream,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, tungstenite::http::HeaderMap), u16> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        // Its default reads into 128 KiB for each client; some stories have thousands.
        let config = WebSocketConfig::default().read_buffer_size(4096);
        match tungstenite::client::client_with_config(request, stream, Some(config)) {
            Ok((socket, answer)) => {
                let client = Self {
                    socket,
                    id: String::new(),
                    welcome: Value::Null,
                    waiting: VecDeque::new(),
                    errors: Vec::new(),
                };
                Ok((client, answer.headers().clone()))
            }
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
            Err(_) => Err(0),
        }
    }

    /// The shard that serves it, as its id names it.
    pub fn shard(&self) -> usize {
        usize::from_str_radix(&self.id[8..10], 16).unwrap()
    }

    /// The socket below.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Sends a text message as it is.
    pub fn say_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends a text message as it is, to a node that may be gone.
    pub fn try_say(&mut self, value: &Value) -> bool {
        self.socket.send(Message::text(value.to_string())).is_ok()
    }

    /// Sends a binary message.
    pub fn say_binary(&mut self, payload: &[u8]) {
        self.socket.send(Message::binary(payload.to_vec())).unwrap();
    }

    /// Sends a request.
    pub fn say(&mut self, value: Value) {
        self.say_text(&value.to_string());
    }

    /// Sends a close frame with a code.
    pub fn close(&mut self, code: u16) {
        let frame = tungstenite::protocol::CloseFrame { code: code.into(), reason: "".into() };
        self.socket.close(Some(frame)).unwrap();
        self.socket.flush().ok();
    }

    /// What is said next, pings left out.
    pub fn next(&mut self) -> Said {
        self.next_within(LONGEST_WAIT).expect("nothing was said")
    }

    /// What is said next, or nothing within `longest`.
    pub fn next_within(&mut self, longest: Duration) -> Option<Said> {
        let deadline = Instant::now() + longest;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream().set_read_timeout(Some(left)).unwrap();
            let said = self.read(Some(deadline));
            if said.is_some() || Instant::now() >= deadline {
                return said;
            }
        }
    }

    /// What was said by now. A socket's timeout is as coarse as the kernel's tick, 4 ms or 10: this does not wait at all.
    pub fn said_by_now(&mut self) -> Option<Said> {
        self.stream().set_nonblocking(true).unwrap();
        let said = self.read(None);
        self.stream().set_nonblocking(false).unwrap();
        said
    }

    /// What is said next, pings left out, or nothing where the socket has nothing, as long as it waits. A ping after the deadline ends it
    /// too: pings come more often than the socket's timeout, and it would never end.
    fn read(&mut self, deadline: Option<Instant>) -> Option<Said> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(Said::Text(text.to_string())),
                Ok(Message::Binary(payload)) => return Some(Said::Binary(payload.to_vec())),
                Ok(Message::Close(frame)) => {
                    // What a client has to do: answer, read on until the end, and end its own side.
                    self.stream().set_nonblocking(false).unwrap();
                    while self.socket.read().is_ok() {}
                    let _ = self.stream().shutdown(Shutdown::Both);
                    let end = frame.map_or(End::Closed(1005, String::new()), |frame| {
                        End::Closed(frame.code.into(), frame.reason.to_string())
                    });
                    return Some(Said::End(end));
                }
                Ok(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return None,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(_) => return Some(Said::End(End::Lost)),
            }
        }
    }

    /// The next text message, as JSON.
    pub fn json(&mut self) -> Value {
        if let Some(value) = self.waiting.pop_front() {
            return value;
        }
        self.json_from_the_wire()
    }

    fn json_from_the_wire(&mut self) -> Value {
        match self.next() {
            Said::Text(text) => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
            other => panic!("expected JSON, got {other:?}"),
        }
    }

    /// The next answer of this type; what comes before it is kept for [`Self::json`].
    pub fn answer(&mut self, kind: &str) -> Value {
        loop {
            let value = self.json_from_the_wire();
            if value["type"] == kind {
                return value;
            }
            assert_ne!(value["type"], "error", "waiting for {kind}: {value}");
            self.waiting.push_back(value);
        }
    }

    /// The next answer of this type; errors before it are collected.
    pub fn answer_or_error(&mut self, kind: &str) -> Value {
        loop {
            let value = self.json();
            if value["type"] == kind {
                return value;
            }
            assert_eq!(value["type"], "error", "{value}");
            self.errors.push(value);
        }
    }

    /// The next text message, as it is.
    pub fn text(&mut self) -> String {
        match self.next() {
            Said::Text(text) => text,
            other => panic!("expected text, got {other:?}"),
        }
    }

    /// Joins a room and waits until it is joined.
    pub fn join(&mut self, room: &str) {
        self.say(json!({"type": "join", "roomId": room}));
        assert_eq!(self.answer("joined")["roomId"], room);
    }

    /// Leaves a room and waits until it is left.
    pub fn leave(&mut self, room: &str) {
        self.say(json!({"type": "leave", "roomId": room}));
        assert_eq!(self.answer("left")["roomId"], room);
    }

    /// Publishes.
    pub fn publish(&mut self, room: &str, content: Value) {
        self.say(json!({"type": "message", "roomId": room, "content": content}));
    }

    /// The next thing said must be a message of this room: its content.
    pub fn content(&mut self, room: &str) -> Value {
        let mut value = self.json();
        assert_eq!((&value["type"], &value["roomId"]), (&json!("message"), &json!(room)), "{value}");
        value["content"].take()
    }

    /// The next thing said must be an error: its code.
    pub fn error(&mut self) -> String {
        let value = self.json();
        assert_eq!(value["type"], "error", "{value}");
        assert!(value["message"].as_str().is_some_and(|text| text.len() > 10), "an error says what to do: {value}");
        value["code"].as_str().unwrap().to_owned()
    }

    /// Reads until the end.
    pub fn end(&mut self) -> End {
        loop {
            if let Said::End(end) = self.next() {
                return end;
            }
        }
    }
}
