//! What one connection of the fleet says and hears on its way to being ready, and how its octets become messages.

use std::io;

use super::{Ear, Fleet, Stage};
use crate::frame::{self, Next, opcode};
use crate::lines::{Lines, Upgrade};
use crate::sys::{self, Watch};

impl Fleet {
    /// TCP is connected: ask for the upgrade, or say hello.
    pub(super) fn established(&mut self, client: u32) -> io::Result<()> {
        let room = self.room(client);
        let mut say = Vec::new();
        if let Some(stream) = &self.clients[client as usize].stream {
            self.epoll.change(stream, Watch::Read, u64::from(client))?;
        }
        if self.lines.framed() {
            self.clients[client as usize].stage = Stage::Upgrading;
            self.lines.request(self.plan.first + client, room, &mut say);
        } else {
            self.opened(client, &mut say);
        }
        self.send(client, &say)
    }

    fn room(&self, client: u32) -> u32 {
        (self.plan.first + client) % self.plan.rooms
    }

    /// The connection is open: say hello, and wait to be greeted if the scenario wants that.
    fn opened(&mut self, client: u32, say: &mut Vec<u8>) {
        let entry = &mut self.clients[client as usize];
        self.upgrade.record(sys::now_ns() - entry.since_ns);
        entry.stage = Stage::Greeting;
        self.lines.hello(self.plan.first + client, self.room(client), say);
        if self.lines.greeted.is_none() {
            self.greeted(client, say);
        }
    }

    fn greeted(&mut self, client: u32, say: &mut Vec<u8>) {
        self.clients[client as usize].stage = Stage::Joining;
        let asked = self.lines.join(self.plan.first + client, self.room(client), say);
        if !asked || self.lines.joined.is_none() {
            self.joined(client);
        }
    }

    fn joined(&mut self, client: u32) {
        let entry = &mut self.clients[client as usize];
        (entry.stage, entry.attempts) = (Stage::Ready, 0);
        self.ready += 1;
        self.last_ns = sys::now_ns();
        self.dialer.ended();
        if let Some(cut_ns) = self.cut_ns {
            self.restored.record(self.last_ns.saturating_sub(cut_ns));
        }
    }

    pub(super) fn read(&mut self, client: u32, buffer: &mut [u8], ear: &mut impl Ear) -> io::Result<()> {
        let entry = &mut self.clients[client as usize];
        let Some(stream) = &entry.stream else { return Ok(()) };
        let Some(count) = sys::receive(stream, buffer)? else { return Ok(()) };
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        (self.bytes_in, self.reads) = (self.bytes_in + count as u64, self.reads + 1);
        let mut stash = std::mem::take(&mut entry.stash);
        let mut say = std::mem::take(&mut self.say);
        let heard = if stash.is_empty() {
            let (taken, heard) = self.take_in(client, &buffer[..count], ear, &mut say);
            stash.extend_from_slice(&buffer[taken..count]);
            heard
        } else {
            stash.extend_from_slice(&buffer[..count]);
            let (taken, heard) = self.take_in(client, &stash, ear, &mut say);
            stash.drain(..taken);
            heard
        };
        self.clients[client as usize].stash = if stash.is_empty() { Vec::new() } else { stash };
        let sent = self.send(client, &say);
        say.clear();
        self.say = say;
        sent.and(heard)
    }

    /// Reads whatever is whole off `bytes`; returns how many octets it took.
    fn take_in(&mut self, client: u32, bytes: &[u8], ear: &mut impl Ear, say: &mut Vec<u8>) -> (usize, io::Result<()>) {
        let now_ns = sys::now_ns();
        let mut taken = 0;
        if self.clients[client as usize].stage == Stage::Upgrading {
            match Lines::upgraded(bytes) {
                Upgrade::Partial => return (0, Ok(())),
                Upgrade::Refused(why) => return (bytes.len(), Err(io::Error::other(why))),
                Upgrade::Open(head) => taken = head,
            }
            self.opened(client, say);
        }
        if self.lines.framed() {
            let (framed, heard) = self.take_frames(client, &bytes[taken..], now_ns, ear, say);
            return (taken + framed, heard);
        }
        let end = memchr::memrchr(b'\n', bytes).map_or(0, |last| last + 1);
        if end > 0 {
            self.message(client, &bytes[..end], now_ns, ear, say);
        }
        (end, Ok(()))
    }

    fn take_frames(
        &mut self,
        client: u32,
        bytes: &[u8],
        now_ns: u64,
        ear: &mut impl Ear,
        say: &mut Vec<u8>,
    ) -> (usize, io::Result<()>) {
        let mut taken = 0;
        loop {
            let (opcode, payload) = match frame::decode(&bytes[taken..]) {
                Next::Partial => return (taken, Ok(())),
                Next::Malformed => return (taken, Err(io::Error::other("malformed frame"))),
                Next::Frame(opcode, payload, length) => {
                    taken += length;
                    (opcode, payload)
                }
            };
            match opcode {
                opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => {
                    self.message(client, payload, now_ns, ear, say);
                }
                opcode::PING => {
                    self.pings += 1;
                    frame::encode(opcode::PONG, payload, say);
                }
                opcode::CLOSE => {
                    frame::encode(opcode::CLOSE, payload.get(..2).unwrap_or(b""), say);
                    return (taken, Err(io::Error::other(closed(payload))));
                }
                _ => {}
            }
        }
    }

    fn message(&mut self, client: u32, message: &[u8], now_ns: u64, ear: &mut impl Ear, say: &mut Vec<u8>) {
        if self.lines.answer(message, say) {
            self.pings += 1;
            if !self.lines.stream {
                return;
            }
        }
        let has = |finder: &Option<memchr::memmem::Finder<'static>>| {
            finder.as_ref().is_some_and(|finder| finder.find(message).is_some())
        };
        match self.clients[client as usize].stage {
            Stage::Greeting if has(&self.lines.greeted) => self.greeted(client, say),
            Stage::Joining if has(&self.lines.joined) => self.joined(client),
            Stage::Ready => ear.heard(client, message, now_ns, &self.lines, say),
            _ => {}
        }
    }
}

fn closed(payload: &[u8]) -> String {
    match payload {
        [high, low, ..] => format!("close {}", u16::from_be_bytes([*high, *low])),
        _ => String::from("close without a code"),
    }
}
