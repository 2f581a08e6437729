//! What the ring's completions are booked in: sockets under poll, sends of the batch, and what waits to be done.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::{cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP};
use nix::sys::timerfd::TimerFd;

use super::ring::poll;
use super::user_data::Name;
use crate::gateway::io::socket::{self, expirations};
use tidegate_core::connection::{Chunk, Handle};
use tidegate_core::shard::driver::{Event, Ready};

/// A slot without a socket.
const EMPTY: RawFd = -1;
/// A slot whose socket was released and whose poll's last completion is not in yet.
const RELEASED: RawFd = -2;

const HANGUP: i16 = POLLRDHUP | POLLHUP | POLLERR;

/// What has to wait until the kernel has taken every entry that names the socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    Finish(RawFd),
    Close(RawFd),
}

pub(super) struct InFlight {
    timer: TimerFd,
    /// The socket of each slot, or [`EMPTY`], or [`RELEASED`].
    sockets: Vec<RawFd>,
    /// Number of the batch that is being filled; never 0.
    pub(super) batch: u32,
    /// Sends of the batch, by place. They keep their chunks until the kernel has taken the entries.
    sends: Vec<(Handle, Chunk)>,
    /// Polls to arm and to cancel, in order, after the sends.
    pub(super) control: VecDeque<Entry>,
    pub(super) after: Vec<After>,
    /// Connections whose poll the kernel refused; the next tick tries again.
    unarmed: Vec<Handle>,
    unsent: Vec<Event>,
    found: Vec<Event>,
}

impl InFlight {
    pub(super) fn new(timer: TimerFd) -> Self {
        let mut in_flight = Self {
            timer,
            sockets: Vec::new(),
            batch: 1,
            sends: Vec::new(),
            control: VecDeque::new(),
            after: Vec::new(),
            unarmed: Vec::new(),
            unsent: Vec::new(),
            found: Vec::new(),
        };
        in_flight.poll_timer();
        in_flight
    }

    fn poll_timer(&mut self) {
        let fd = self.timer.as_fd().as_raw_fd();
        self.control.push_back(poll(fd, POLLIN, Name::Tick.pack()));
    }

    #[cfg(test)]
    pub(super) fn stop_timer(&self) {
        self.timer.unset().unwrap();
    }

    fn poll_socket(&mut self, fd: RawFd, handle: Handle) {
        self.control.push_back(poll(fd, POLLIN | POLLOUT | POLLRDHUP, Name::Poll(handle).pack()));
    }

    pub(super) fn arm(&mut self, fd: RawFd, handle: Handle) {
        let index = handle.index as usize;
        if index >= self.sockets.len() {
            self.sockets.resize(index + 1, EMPTY);
        }
        debug_assert_eq!(self.sockets[index], EMPTY, "a slot that was not told released is not free");
        self.sockets[index] = fd;
        self.poll_socket(fd, handle);
    }

    /// Books the end of a socket; true where no poll is armed, so that it is released at once.
    pub(super) fn release(&mut self, fd: RawFd, handle: Handle) -> bool {
        self.after.push(After::Close(fd));
        let unarmed = self.unarmed.iter().position(|waiting| *waiting == handle);
        let state = if unarmed.is_some() { EMPTY } else { RELEASED };
        if let Some(socket) = self.sockets.get_mut(handle.index as usize) {
            *socket = state;
        }
        match unarmed {
            Some(position) => drop(self.unarmed.swap_remove(position)),
            None => self.cancel(handle),
        }
        unarmed.is_some()
    }

    /// POLL_REMOVE would fail (EALREADY) where the poll has just fired; a cancellation reaches it in any state.
    fn cancel(&mut self, handle: Handle) {
        let entry = opcode::AsyncCancel::new(Name::Poll(handle).pack()).build();
        self.control.push_back(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Name::Cancel(handle).pack()));
    }

    /// What the next send of the batch is called.
    pub(super) fn next_send(&self) -> Name {
        Name::Send { batch: self.batch, place: self.sends.len() as u32 }
    }

    pub(super) fn keep(&mut self, handle: Handle, chunk: Chunk) {
        self.sends.push((handle, chunk));
    }

    pub(super) fn has_sends(&self) -> bool {
        !self.sends.is_empty()
    }

    /// Begins the next batch, also after an empty one: a connection that was noted in a batch is in none after a submit. The chunks go
    /// where the kernel has taken all entries.
    pub(super) fn close_batch(&mut self, all_taken: bool) {
        if all_taken {
            self.sends.clear();
        }
        self.batch = self.batch.wrapping_add(1).max(1);
    }

    /// Shuts and closes what waited for the kernel to take the entries before it.
    pub(super) fn do_after(&mut self) {
        for after in self.after.drain(..) {
            match after {
                After::Finish(fd) => socket::finish(fd),
                After::Close(fd) => socket::close(fd),
            }
        }
    }

    /// Failed sends first: nothing may be sent to their connections before they are handled.
    pub(super) fn hand_out(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.unsent);
        events.append(&mut self.found);
    }

    /// Whether nothing waits to be handed out or over.
    pub(super) fn is_settled(&self) -> bool {
        self.unsent.is_empty() && self.found.is_empty() && self.control.is_empty() && self.after.is_empty()
    }

    pub(super) fn complete(&mut self, completion: &cqueue::Entry) {
        let more = cqueue::more(completion.flags());
        let result = completion.result();
        match Name::unpack(completion.user_data()) {
            Some(Name::Poll(handle)) => self.handle_polled(handle, result, more),
            Some(Name::Send { batch, place }) => self.handle_unsent(batch, place, result),
            Some(Name::Tick) => self.handle_tick(more),
            // The poll had ended by itself: its last completion tells (ENOENT).
            Some(Name::Cancel(_)) | None => {}
        }
    }

    fn handle_polled(&mut self, handle: Handle, result: i32, more: bool) {
        let Some(socket) = self.sockets.get_mut(handle.index as usize) else { return };
        let fd = *socket;
        if fd == RELEASED {
            if !more {
                *socket = EMPTY;
                self.found.push(Event::Released(handle));
            }
            return;
        }
        self.found.push(Event::Ready(ready(handle, result)));
        if more {
            return;
        }
        if result < 0 {
            self.unarmed.push(handle);
        } else {
            self.poll_socket(fd, handle);
        }
    }

    fn handle_unsent(&mut self, batch: u32, place: u32, result: i32) {
        debug_assert_eq!(batch, self.batch, "no send outlives its batch");
        let Some((handle, chunk)) = self.sends.get(place as usize).filter(|_| batch == self.batch) else { return };
        let result = usize::try_from(result).map_err(|_| socket::kind(Errno::from_raw(-result)));
        self.unsent.push(Event::Unsent { handle: *handle, chunk: chunk.clone(), result });
    }

    fn handle_tick(&mut self, more: bool) {
        let count = expirations(&self.timer);
        if count > 0 {
            self.found.push(Event::Ticked(count));
        }
        if !more {
            self.poll_timer();
        }
        for handle in std::mem::take(&mut self.unarmed) {
            if let Some(fd) = self.sockets.get(handle.index as usize).copied() {
                self.poll_socket(fd, handle);
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.do_after();
    }
}

/// What a poll's result says. A poll that failed says everything: reading and writing will tell what is the matter.
fn ready(handle: Handle, result: i32) -> Ready {
    let mask = if result < 0 { POLLIN | POLLOUT | POLLERR } else { result as i16 };
    Ready { handle, readable: mask & (POLLIN | HANGUP) != 0, writable: mask & POLLOUT != 0, hangup: mask & HANGUP != 0 }
}
