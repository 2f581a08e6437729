//! The other end: a server that replays messages as fast as the socket takes them.
//!
//! It is no NATS server: it accepts every log-in, takes every `SUB`, answers every `PING`, and sends a message back where it was published
//! to an inbox that is subscribed, which is what a fence is. Unless it is told to, it keeps no room, so that the memory of the process is
//! the relay's.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;
const INFO: &[u8] =
    b"INFO {\"server_id\":\"replay\",\"version\":\"2.15.1\",\"proto\":1,\"headers\":true,\"max_payload\":67108864}\r\n";

/// One connection of the relay.
pub struct Feed {
    stream: TcpStream,
    unread: Vec<u8>,
    read: Vec<u8>,
    /// Answers that are not written yet. They go between two messages.
    answers: Vec<u8>,
    /// Subscription ids by subject: of inboxes, and of rooms where they are to be kept.
    sids: HashMap<Vec<u8>, Vec<u8>>,
    keeps_rooms: bool,
    /// `SUB`s taken so far.
    pub subscriptions: usize,
    /// Where in the messages the socket stopped taking.
    position: usize,
}

impl Feed {
    /// Waits for the relay to connect. The gateway looks at a server before it connects ([`ErrorKind::UnexpectedEof`] here): the
    /// connection that stays is the one that counts.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn accept(listener: &TcpListener, keeps_rooms: bool) -> io::Result<Self> {
        loop {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            stream.write_all(INFO)?;
            let mut first = vec![0; READ_BYTES];
            let read = stream.read(&mut first).unwrap_or(0);
            if read == 0 {
                continue;
            }
            stream.set_nonblocking(true)?;
            let (unread, answers, sids) = (first[..read].to_vec(), Vec::new(), HashMap::new());
            let mut feed =
                Self { stream, unread, read: first, answers, sids, keeps_rooms, subscriptions: 0, position: 0 };
            feed.parse();
            return Ok(feed);
        }
    }

    /// A client of a real server, which publishes: the messages are `PUB`s and `HPUB`s then.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn publisher(server: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(
            b"CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1,\"lang\":\"bench\",\"version\":\"0\"}\r\n",
        )?;
        stream.set_nonblocking(true)?;
        let (read, sids) = (vec![0; READ_BYTES], HashMap::new());
        let (unread, answers) = (Vec::new(), Vec::new());
        Ok(Self { stream, unread, read, answers, sids, keeps_rooms: false, subscriptions: 0, position: 0 })
    }

    /// The subscription id of a subject that was subscribed.
    pub fn sid(&self, subject: &str) -> Option<&[u8]> {
        self.sids.get(subject.as_bytes()).map(Vec::as_slice)
    }

    /// Reads what came, and answers it. Says whether anything came.
    ///
    /// # Errors
    /// The relay has closed the connection.
    pub fn serve(&mut self) -> io::Result<bool> {
        let read = match self.stream.read(&mut self.read) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if read > 0 {
            self.unread.extend_from_slice(&self.read[..read]);
            self.parse();
        }
        if self.position == 0 && !self.answers.is_empty() {
            let written = self.write_some(&self.answers.clone())?;
            self.answers.drain(..written);
        }
        Ok(read > 0)
    }

    /// Writes a part of `messages`, from where it stopped. Says whether all of them are written now.
    ///
    /// # Errors
    /// The relay has closed the connection.
    pub fn send(&mut self, messages: &[u8]) -> io::Result<bool> {
        if self.position == 0 && !self.answers.is_empty() {
            self.serve()?;
            return Ok(false);
        }
        self.position += self.write_some(&messages[self.position..])?;
        let done = self.position == messages.len();
        if done {
            self.position = 0;
        }
        Ok(done)
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match (&self.stream).write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn parse(&mut self) {
        let mut position = 0;
        while let Some(end) = memchr::memchr(b'\n', &self.unread[position..]) {
            let line = self.unread[position..position + end].trim_ascii_end();
            let mut words = line.split(|byte| *byte == b' ');
            let mut next = position + end + 1;
            match words.next() {
                Some(b"PING") => self.answers.extend_from_slice(b"PONG\r\n"),
                Some(b"SUB") => {
                    let (subject, sid) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
                    if self.keeps_rooms || memchr::memmem::find(subject, b"inbox").is_some() {
                        self.sids.insert(subject.to_vec(), sid.to_vec());
                    }
                    self.subscriptions += 1;
                }
                Some(b"PUB" | b"HPUB") => {
                    let (subject, length) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
                    let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                    let Some(payload) = self.unread.get(next..next + length + 2) else { break };
                    if let Some(sid) = self.sids.get(subject) {
                        let line = [b"MSG ", subject, b" ", sid, format!(" {length}\r\n").as_bytes()].concat();
                        self.answers.extend_from_slice(&line);
                        self.answers.extend_from_slice(payload);
                    }
                    next += length + 2;
                }
                _ => {}
            }
            position = next;
        }
        self.unread.drain(..position);
    }
}
