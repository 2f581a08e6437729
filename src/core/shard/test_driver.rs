//! A driver for tests, with sockets that the test plays: what is queued is done by the next submit, before a FIN or a close, as
//! io_uring's driver does it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::clients::Clients;
use super::driver::{Driver, ErrorKind, Event, Fd, Queued};
use super::settings::{Budgets, Options, Settings};
use super::turn::Turn;
use crate::connection::{Chunk, Entry, Flags, Handle, State};
use crate::counters::ShardCounters;
use crate::readiness::NodeState;

/// A valid upgrade of the native dialect.
pub(super) const REQUEST: &str = "GET / HTTP/1.1\r\nHost: stage\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What the shard had its driver do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Sent(Vec<u8>),
    Fin,
    Closed,
}

/// See the module.
pub(super) struct TestDriver {
    pub(super) incoming: VecDeque<u8>,
    /// Octets that one read brings at most.
    pub(super) piece: usize,
    pub(super) peer_ended: bool,
    pub(super) events: Vec<Event>,
    pub(super) batch: u32,
    pub(super) queued: Vec<(Fd, Handle, Chunk)>,
    /// Octets that the socket still takes.
    pub(super) room: usize,
    /// A socket whose peer has reset it.
    pub(super) broken: Option<Fd>,
    pub(super) after: Vec<Deed>,
    pub(super) deeds: Vec<Deed>,
    /// What the next submit tells beside failed sends.
    pub(super) told_by_submit: Vec<Event>,
    /// What the next release tells beside its own connection.
    pub(super) told_by_release: Vec<Event>,
}

impl TestDriver {
    /// Sockets that take everything; the first read brings `incoming`.
    pub(super) fn new(incoming: &str) -> Self {
        Self {
            incoming: incoming.bytes().collect(),
            piece: usize::MAX,
            peer_ended: false,
            events: Vec::new(),
            batch: 1,
            queued: Vec::new(),
            room: usize::MAX,
            broken: None,
            after: Vec::new(),
            deeds: Vec::new(),
            told_by_submit: Vec::new(),
            told_by_release: Vec::new(),
        }
    }

    /// All octets that were sent.
    pub(super) fn sent_octets(&self) -> Vec<u8> {
        let sent = self.deeds.iter().filter_map(|deed| match deed {
            Deed::Sent(octets) => Some(octets.as_slice()),
            Deed::Fin | Deed::Closed => None,
        });
        sent.collect::<Vec<_>>().concat()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        if taken == 0 {
            return Err(ErrorKind::WouldBlock);
        }
        self.deeds.push(Deed::Sent(bytes[..taken].to_vec()));
        Ok(taken)
    }

    fn do_or_wait(&mut self, deed: Deed) {
        if self.queued.is_empty() { self.deeds.push(deed) } else { self.after.push(deed) }
    }
}

impl Driver for TestDriver {
    fn arm(&mut self, _: Fd, _: Handle) -> Result<(), ErrorKind> {
        Ok(())
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }

    fn recv(&mut self, _: Fd, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let length = buffer.len().min(self.incoming.len()).min(self.piece);
        for (place, octet) in buffer.iter_mut().zip(self.incoming.drain(..length)) {
            *place = octet;
        }
        if length == 0 && !self.peer_ended { Err(ErrorKind::WouldBlock) } else { Ok(length) }
    }

    fn send(&mut self, fd: Fd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        assert!(!self.queued.iter().any(|(queued, ..)| *queued == fd), "a send overtakes a queued one");
        if self.broken == Some(fd) {
            return Err(ErrorKind::Broken);
        }
        self.take(bytes)
    }

    fn queue(&mut self, fd: Fd, handle: Handle, chunk: &Chunk) -> Queued {
        assert!(!chunk.bytes().is_empty(), "an empty chunk is sent");
        self.queued.push((fd, handle, chunk.clone()));
        Queued::Later
    }

    fn batch(&self) -> u32 {
        self.batch
    }

    fn submit(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.told_by_submit);
        self.batch += 1;
        for (_, handle, chunk) in std::mem::take(&mut self.queued) {
            let result = self.take(chunk.bytes());
            if !matches!(result, Ok(sent) if sent == chunk.bytes().len()) {
                events.push(Event::Unsent { handle, chunk, result });
            }
        }
        self.deeds.append(&mut self.after);
    }

    fn finish(&mut self, _: Fd) {
        self.do_or_wait(Deed::Fin);
    }

    fn release(&mut self, _: Fd, handle: Handle, events: &mut Vec<Event>) {
        self.do_or_wait(Deed::Closed);
        events.append(&mut self.told_by_release);
        self.events.push(Event::Released(handle));
    }

    fn reset(&mut self, _: Fd) {}

    fn discard(&mut self, _: Fd) {}

    fn peer(&self, _: Fd) -> Option<SocketAddr> {
        None
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn may_sleep(&mut self) -> bool {
        self.events.is_empty()
    }

    fn failure(&mut self) -> Option<std::io::Error> {
        None
    }
}

/// A turn of a shard with these settings.
pub(super) fn turn(seed: u64, configure: impl FnOnce(&mut Options, &mut Budgets)) -> Turn {
    let mut options = Options { message_rate: 0, ..Options::default() };
    let mut budgets = Budgets { connections: 10, outbox_bytes: 1 << 30, unfinished_bytes: 1 << 30 };
    configure(&mut options, &mut budgets);
    let counters: Arc<ShardCounters> = Arc::default();
    let state = NodeState::new(Arc::default(), false);
    let settings = Settings::new(Arc::new(options), 1, 0, budgets, vec![counters.clone()], state);
    Turn::new(Arc::new(settings), counters, seed)
}

/// `count` connections that are upgraded and open.
pub(super) fn open(turn: &Turn, count: u32) -> (Clients, Vec<Handle>) {
    let mut clients = Clients::new(count as usize);
    let mut insert = |number: u32| {
        let fd = 3 + number as Fd;
        let handle = clients.insert(turn, |generation| Entry::new(fd, generation, turn.clock.tick, 0));
        let entry = clients.find(handle).unwrap();
        entry.state = State::Open;
        entry.flags.set(Flags::UPGRADED);
        handle
    };
    let handles = (0..count).map(&mut insert).collect();
    (clients, handles)
}
