//! What a shard needs of the system: sockets that become ready, sends, ticks. A trait, so that epoll, io_uring and the
//! simulator share every line above it.
//!
//! A driver knows sockets and [`Handle`]s; it knows no frame and no state of a connection. All calls come from the shard's thread.
//!
//! The contract of [`Event::Ready`] is that of an edge: it is told once, and what it announced must be read until the
//! socket says 0, an error or a short read (after [`Ready::hangup`] a short read is not the end), and must be written until
//! it would block.

use std::io;
use std::net::SocketAddr;

use crate::connection::{Chunk, Handle};

/// The number of an open socket.
pub type Fd = i32;

/// That a socket is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The connection.
    pub handle: Handle,
    /// There is something to read.
    pub readable: bool,
    /// There may be room to write again.
    pub writable: bool,
    /// The peer's end or an error waits behind what is to be read.
    pub hangup: bool,
}

/// Why a call on a socket failed, as far as a shard acts on it: the driver maps the system's errors to these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// Nothing to read, or no room to write. An event tells when that changes.
    WouldBlock,
    /// The host has no memory for the call; the socket itself is usable (ENOBUFS, ENOMEM).
    NoMemory,
    /// The socket is of no more use.
    Broken,
}

/// What a driver has to tell.
#[derive(Debug)]
pub enum Event {
    /// A socket is ready.
    Ready(Ready),
    /// A queued send was short or failed. Nothing may be sent to the connection before this is handled.
    Unsent {
        /// The connection.
        handle: Handle,
        /// What was to be sent.
        chunk: Chunk,
        /// Octets of it that are out, or the error.
        result: Result<usize, ErrorKind>,
    },
    /// The socket is closed and nothing more will be told of it: the slot is free.
    Released(Handle),
    /// The shard's waker was notified.
    Woken,
    /// So many tenths of a second went by.
    Ticked(u32),
}

/// What became of a queued send.
#[derive(Debug)]
pub enum Queued {
    /// It was done at once, with this result.
    Now(Result<usize, ErrorKind>),
    /// It will be done by the next [`Driver::submit`]; only a failure is told, as [`Event::Unsent`].
    Later,
}

/// The sockets of one shard.
pub trait Driver {
    /// Starts watching a non-blocking socket.
    ///
    /// # Errors
    /// The system has no memory or room for one more; the socket is then the caller's to close.
    fn arm(&mut self, fd: Fd, handle: Handle) -> Result<(), ErrorKind>;

    /// Collects everything that happened; never blocks.
    fn reap(&mut self, events: &mut Vec<Event>);

    /// Reads what is there, never blocking. 0 is the peer's FIN.
    ///
    /// # Errors
    /// Those of the socket.
    fn recv(&mut self, fd: Fd, buffer: &mut [u8]) -> Result<usize, ErrorKind>;

    /// Sends what fits, never blocking.
    ///
    /// # Errors
    /// Those of the socket.
    fn send(&mut self, fd: Fd, bytes: &[u8]) -> Result<usize, ErrorKind>;

    /// Sends a shared chunk now or with the next [`Driver::submit`]. At most one for each connection between two submits: the
    /// caller compares [`Driver::batch`] with what it noted.
    fn queue(&mut self, fd: Fd, handle: Handle, chunk: &Chunk) -> Queued;

    /// The number of the batch that [`Driver::queue`] now fills; 0 where nothing is ever queued.
    fn batch(&self) -> u32;

    /// Does what is queued. Failures are in `events` when it returns.
    fn submit(&mut self, events: &mut Vec<Event>);

    /// Sends our FIN, after what is queued.
    fn finish(&mut self, fd: Fd);

    /// Stops watching and closes, after what is queued. [`Event::Released`] follows, at once or later.
    fn release(&mut self, fd: Fd, handle: Handle, events: &mut Vec<Event>);

    /// Makes the later close a reset: the kernel forgets what the peer never read.
    fn reset(&mut self, fd: Fd);

    /// Closes a socket that was never armed.
    fn discard(&mut self, fd: Fd);

    /// The peer's address.
    fn peer(&self, fd: Fd) -> Option<SocketAddr>;

    /// Whether nothing waits for the next [`Driver::reap`] or [`Driver::submit`] that the kernel would not announce.
    fn is_settled(&self) -> bool;

    /// Gets ready to sleep; false where there is more to reap first.
    fn may_sleep(&mut self) -> bool;

    /// The error after which the driver cannot go on, once.
    fn failure(&mut self) -> Option<io::Error>;
}
