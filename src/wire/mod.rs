//! Where bytes meet sockets: one small interface, two drivers.
//!
//! [`epoll::Epoll`] is the reference, [`uring::Uring`] the other one. A shard is generic over [`Wire`], so that both drivers (and the simulator's) share
//! every line above it. A wire knows sockets and tokens; it knows no frame and no state of a connection.
//!
//! The contract of [`Event::Ready`] is that of an edge: it is told once, and what it announced must be read until the
//! socket says 0, an error or a short read (after [`Ready::hangup`] also a short read is no end), and must be written until
//! it would block.

pub mod epoll;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::Shutdown;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::conn::{Chunk, Token};
use crate::limits::SWEEP_TICK;

/// That a socket is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Whose.
    pub token: Token,
    /// There is something to read.
    pub readable: bool,
    /// There may be room to write again.
    pub writable: bool,
    /// The peer's end or an error waits behind what is to be read.
    pub hangup: bool,
}

/// What a wire has to tell.
#[derive(Debug)]
pub enum Event {
    /// A socket is ready.
    Ready(Ready),
    /// A queued send was short or failed. Nothing may be sent to the connection before this is handled.
    Unsent {
        /// Whose.
        token: Token,
        /// What was to be sent.
        chunk: Chunk,
        /// Octets of it that are out, or the error.
        result: io::Result<usize>,
    },
    /// The socket is closed and nothing more will be told of it: the slot is free.
    Released(Token),
    /// Somebody rang the shard's waker.
    Rung,
    /// A tenth of a second (or more of them) went by.
    Ticked(u32),
}

/// What became of a queued send.
#[derive(Debug)]
pub enum Queued {
    /// It was done at once, with this result.
    Now(io::Result<usize>),
    /// It will be done by the next [`Wire::submit`]; only a failure is told, as [`Event::Unsent`].
    Later,
}

/// One shard's sockets. All calls come from the shard's thread. What every driver leaves to the system is here.
pub trait Wire {
    /// Starts watching a non-blocking socket.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC; the socket is then the caller's to close.
    fn arm(&mut self, fd: RawFd, token: Token) -> io::Result<()>;

    /// Collects everything that happened; never blocks.
    fn reap(&mut self, events: &mut Vec<Event>);

    /// recv(2), never blocking.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` where nothing is there.
    fn recv(&mut self, fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
        recv(fd, buffer)
    }

    /// send(2), never blocking, never raising SIGPIPE.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` where nothing fits.
    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        send(fd, bytes)
    }

    /// Sends a shared chunk now or with the next [`Wire::submit`]. At most one for each connection between two submits: the
    /// caller compares [`Wire::batch`] with what it noted.
    fn queue(&mut self, fd: RawFd, token: Token, chunk: &Chunk) -> Queued;

    /// The number of the batch that [`Wire::queue`] now fills; 0 where nothing is ever queued.
    fn batch(&self) -> u32;

    /// Does what is queued. Failures are in `events` when it returns.
    fn submit(&mut self, events: &mut Vec<Event>);

    /// Sends our FIN, after what is queued.
    fn finish(&mut self, fd: RawFd);

    /// Stops watching and closes, after what is queued. [`Event::Released`] follows, at once or later.
    fn release(&mut self, fd: RawFd, token: Token, events: &mut Vec<Event>);

    /// Makes the later close a reset: the kernel forgets what the peer never read (SO_LINGER 0).
    fn reset(&mut self, fd: RawFd) {
        reset(fd);
    }

    /// Closes a socket that was never armed.
    fn discard(&mut self, fd: RawFd) {
        close(fd);
    }

    /// The peer's address.
    fn peer(&self, fd: RawFd) -> Option<SocketAddr> {
        peer(fd)
    }

    /// Whether nothing waits for the next [`Wire::reap`] or [`Wire::submit`] that the kernel would not announce.
    fn is_settled(&self) -> bool {
        true
    }

    /// Gets ready to sleep; false where there is more to reap first.
    fn may_sleep(&mut self) -> bool;

    /// The error after which the wire cannot go on, once.
    fn failure(&mut self) -> Option<io::Error> {
        None
    }
}

/// recv(2) without blocking; EINTR is tried again.
///
/// This and [`send`] go straight to the kernel: the C library's are cancellation points, which in a process with threads cost four
/// locked instructions for each message (glibc 2.36), and nothing here is ever cancelled.
fn recv(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let (flags, nobody) = (libc::MSG_DONTWAIT, ptr::null_mut::<libc::sockaddr>());
        // SAFETY: the kernel writes at most `buffer.len()` octets, into `buffer`, and no address.
        let received =
            unsafe { libc::syscall(libc::SYS_recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), flags, nobody, nobody) };
        match Errno::result(received) {
            Err(Errno::EINTR) => {}
            other => return Ok(other? as usize),
        }
    }
}

/// send(2) without blocking or SIGPIPE; EINTR is tried again.
fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let (flags, nobody) = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL, ptr::null::<libc::sockaddr>());
        // SAFETY: the kernel reads `bytes.len()` octets of `bytes`, and no address.
        let sent = unsafe { libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, nobody, 0_usize) };
        match Errno::result(sent) {
            Err(Errno::EINTR) => {}
            other => return Ok(other? as usize),
        }
    }
}

/// shutdown(2) of our direction; a socket that is already gone needs none.
fn finish(fd: RawFd) {
    let _ = nix::sys::socket::shutdown(fd, Shutdown::Write);
}

/// See [`Wire::reset`].
fn reset(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = nix::sys::socket::setsockopt(&borrow(&fd), nix::sys::socket::sockopt::Linger, &linger);
}

/// See [`Wire::peer`].
fn peer(fd: RawFd) -> Option<SocketAddr> {
    let address: nix::sys::socket::SockaddrStorage = nix::sys::socket::getpeername(fd).ok()?;
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::from(std::net::SocketAddrV4::from(*a)));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::from(std::net::SocketAddrV6::from(*a))))
}

/// Closes a socket that the slab owned by its number.
fn close(fd: RawFd) {
    // SAFETY: the slab entry was the only owner of this number, and it gives it up with this call.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// The socket behind a number in the slab, for calls that want a descriptor.
fn borrow(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: numbers in the slab are open until they are released, and the borrow is shorter than the call.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}

/// A timer that fires every [`SWEEP_TICK`] on the monotonic clock.
fn tick_timer() -> io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(SWEEP_TICK)), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// How often a timer fired since it was last asked.
fn expirations(timer: &TimerFd) -> u32 {
    let mut count = [0; 8];
    match nix::unistd::read(timer, &mut count) {
        Ok(8) => u32::try_from(u64::from_ne_bytes(count)).unwrap_or(u32::MAX),
        _ => 0,
    }
}
