//! The driver on io_uring: readiness by multishot polls, a fan-out's sends in batches, on a ring of the shard's own.
//!
//! The shard's thread drives it, beside the ring of its runtime. Completions, and work that the kernel has deferred, ring
//! the shard's [`Waker`], whose eventfd is registered with the ring: mailboxes and sockets are one thing to wait for.
//!
//! Invariants:
//! - After every enter the whole completion queue and its overflow list are taken. Sends complete within the enter that
//!   hands them over, so that none is under way when [`Driver::submit`] returns, and no buffer is needed any more.
//! - What a failed send left unsent is told before anything else, so that nothing is spliced into it.
//! - A socket's number stays open until the kernel has taken every entry that names it.
//! - A slot is told released when its poll's last completion (one without MORE) is in, and not before. So a slot has one
//!   poll at most.
//! - A poll that the kernel ended by itself (it does so where it cannot post) is armed again.
//!
//! recv(2) and send(2) stay plain calls: as operations they cost as much. So does a multishot RECV with provided buffers, which
//! takes 864 octets of the kernel's memory for an idle socket where a poll takes 256.

mod in_flight;
pub mod ring;
#[cfg(test)]
mod tests;
mod user_data;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use nix::libc;

use super::socket::{self, tick_timer};
use crate::gateway::mailbox::Waker;
use in_flight::{After, InFlight};
use ring::{Ring, SIZES, Sizes};
use tidegate_core::connection::{Chunk, Handle};
use tidegate_core::shard::driver::{Driver, ErrorKind, Event, Queued};

/// Enters in one reap. Each runs 20 pieces of deferred work or more; what is left is the next turn's.
const ENTERS_PER_REAP: usize = 256;

/// Enters in a row of which the kernel takes no entry, a millisecond apart, before the ring has failed.
const MOST_REFUSALS: u32 = 5_000;

/// Never wait, never raise SIGPIPE; and a short send is a failed one, or its completion would be skipped like a whole one's.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// See the module.
pub struct Uring {
    ring: Ring,
    in_flight: InFlight,
    waker: Arc<Waker>,
    failure: Option<io::Error>,
}

impl Uring {
    /// A ring whose completions ring `waker`. It belongs to the thread that makes it.
    ///
    /// # Errors
    /// Those of io_uring_setup(2) and of timerfd_create(2).
    pub fn new(waker: Arc<Waker>) -> io::Result<Self> {
        Self::with_sizes(waker, SIZES)
    }

    /// The same with queues of these sizes.
    ///
    /// # Errors
    /// Those of [`Uring::new`].
    pub fn with_sizes(waker: Arc<Waker>, sizes: Sizes) -> io::Result<Self> {
        let ring = Ring::new(sizes, waker.raw_fd())?;
        Ok(Self { ring, in_flight: InFlight::new(tick_timer()?), waker, failure: None })
    }

    /// Enters; false where the ring is of no more use.
    fn enter(&mut self, submissions: u32) -> bool {
        if let Err(error) = self.ring.enter(submissions) {
            self.failure = Some(error);
        }
        self.failure.is_none()
    }

    /// Takes every completion there is, those in the overflow list included.
    fn drain(&mut self) {
        loop {
            for completion in self.ring.completions() {
                self.in_flight.complete(&completion);
            }
            if !self.ring.has_overflowed() || !self.enter(0) {
                return;
            }
        }
    }

    /// Hands everything that is queued to the kernel, then does what had to wait for that.
    ///
    /// A send that stayed in the ring would be overtaken by the next one of its connection, and a socket closed that an entry still
    /// names. So a kernel that has no memory for the entries is waited for, [`MOST_REFUSALS`] milliseconds, and then the ring has failed.
    fn flush(&mut self) {
        // What completions add meanwhile (polls to arm again) is the next submit's: this loop ends.
        let mut left = self.in_flight.control.len();
        let mut refusals = 0;
        loop {
            while left > 0 && self.push_control() {
                left -= 1;
            }
            let pending = self.ring.pending();
            if pending == 0 || !self.enter(pending) {
                break;
            }
            self.drain();
            refusals = if self.ring.pending() < pending { 0 } else { refusals + 1 };
            if refusals > 0 && !self.wait_for_memory(refusals) {
                break;
            }
        }
        self.in_flight.do_after();
    }

    /// Sleeps a millisecond after the kernel took no entry, so that a thread that waits for memory takes no core; false where it took
    /// none for too long.
    #[cold]
    fn wait_for_memory(&mut self, refusals: u32) -> bool {
        if refusals < MOST_REFUSALS {
            std::thread::sleep(Duration::from_millis(1));
            return true;
        }
        let text = format!("the kernel took no entry of the ring in {refusals} tries: it has no memory for them");
        self.failure = Some(io::Error::new(io::ErrorKind::OutOfMemory, text));
        false
    }

    /// Moves one entry from the in_flight to the ring.
    fn push_control(&mut self) -> bool {
        let Some(entry) = self.in_flight.control.front() else { return false };
        // SAFETY: polls and their cancellations point to nothing.
        let pushed = unsafe { self.ring.push(entry) };
        if pushed {
            self.in_flight.control.pop_front();
        }
        pushed
    }
}

impl AsFd for Uring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Driver for Uring {
    fn arm(&mut self, fd: RawFd, handle: Handle) -> Result<(), ErrorKind> {
        self.in_flight.arm(fd, handle);
        Ok(())
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        for _ in 0..ENTERS_PER_REAP {
            self.drain();
            if !self.ring.wants_enter() || !self.enter(0) {
                break;
            }
        }
        self.drain();
        self.in_flight.hand_out(events);
    }

    fn recv(&mut self, fd: RawFd, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        socket::recv(fd, buffer)
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        socket::send(fd, bytes)
    }

    fn queue(&mut self, fd: RawFd, handle: Handle, chunk: &Chunk) -> Queued {
        let bytes = chunk.bytes();
        let entry = opcode::Send::new(types::Fd(fd), bytes.as_ptr(), bytes.len() as u32)
            .flags(SEND_FLAGS)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(self.in_flight.next_send().pack());
        // SAFETY: the in_flight keeps the chunk until nothing is pending.
        if unsafe { self.ring.push(&entry) } {
            self.in_flight.keep(handle, chunk.clone());
            return Queued::Later;
        }
        // The queue is full. This connection has nothing in it (one send each in a batch), so that nothing is overtaken.
        Queued::Now(socket::send(fd, bytes))
    }

    fn batch(&self) -> u32 {
        self.in_flight.batch
    }

    fn submit(&mut self, events: &mut Vec<Event>) {
        self.flush();
        let all_taken = self.ring.pending() == 0;
        self.in_flight.close_batch(all_taken);
        self.in_flight.hand_out(events);
    }

    fn finish(&mut self, fd: RawFd) {
        if self.in_flight.has_sends() {
            self.in_flight.after.push(After::Finish(fd));
        } else {
            socket::finish(fd);
        }
    }

    /// No shutdown: the poll is cancelled before the close, in the same submit, and then the close sends what is due, FIN
    /// or, after [`Driver::reset`], RST alone.
    fn release(&mut self, fd: RawFd, handle: Handle, events: &mut Vec<Event>) {
        if self.in_flight.release(fd, handle) {
            events.push(Event::Released(handle));
        }
    }

    fn reset(&mut self, fd: RawFd) {
        socket::reset(fd);
    }

    fn discard(&mut self, fd: RawFd) {
        if self.in_flight.has_sends() {
            self.in_flight.after.push(After::Close(fd));
        } else {
            socket::close(fd);
        }
    }

    fn peer(&self, fd: RawFd) -> Option<SocketAddr> {
        socket::peer(fd)
    }

    fn is_settled(&self) -> bool {
        self.in_flight.is_settled() && self.failure.is_none()
    }

    /// The notifications are taken first and the ring looked at after: what the kernel adds later notifies again.
    fn may_sleep(&mut self) -> bool {
        self.waker.clear();
        self.ring.is_quiet() && self.is_settled()
    }

    fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}
