//! The reference driver: edge-triggered epoll, recv, send.
//!
//! The epoll instance itself is what the shard's runtime waits on; the shard's waker and its tick are in it too, so that
//! there is one thing to wait for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll as Instance, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::TimerFd;

use super::socket::{self, borrow, expirations, tick_timer};
use crate::gateway::mailbox::Waker;
use tidegate_core::connection::{Chunk, Handle};
use tidegate_core::shard::driver::{Driver, ErrorKind, Event, Queued, Ready};

const WAKER: u64 = u64::MAX;
const TICK: u64 = u64::MAX - 1;
const EVENTS_PER_WAIT: usize = 512;
/// Waits in one reaping; what is left stays in the kernel, where it costs nothing, for the next turn.
const WAITS: usize = 8;

/// See the module.
pub struct Epoll {
    instance: Instance,
    timer: TimerFd,
    waker: Arc<Waker>,
    ready: Vec<EpollEvent>,
    more: bool,
}

impl Epoll {
    /// An epoll instance that also hears `waker` and ticks.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new(waker: Arc<Waker>) -> io::Result<Self> {
        let instance = Instance::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = tick_timer()?;
        instance.add(&*waker, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKER))?;
        instance.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TICK))?;
        Ok(Self { instance, timer, waker, ready: vec![EpollEvent::empty(); EVENTS_PER_WAIT], more: false })
    }

    fn event(&self, event: EpollEvent) -> Event {
        match event.data() {
            WAKER => {
                self.waker.clear();
                Event::Woken
            }
            TICK => Event::Ticked(expirations(&self.timer)),
            data => {
                let flags = event.events();
                let hangup = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
                Event::Ready(Ready {
                    handle: unpack(data),
                    readable: flags.intersects(EpollFlags::EPOLLIN | hangup),
                    writable: flags.contains(EpollFlags::EPOLLOUT),
                    hangup: flags.intersects(hangup),
                })
            }
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.instance.0.as_fd()
    }
}

impl Driver for Epoll {
    fn arm(&mut self, fd: RawFd, handle: Handle) -> Result<(), ErrorKind> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.instance.add(borrow(&fd), EpollEvent::new(flags, pack(handle))).map_err(socket::kind)
    }

    fn reap(&mut self, events: &mut Vec<Event>) {
        let mut ready = std::mem::take(&mut self.ready);
        self.more = true;
        for _ in 0..WAITS {
            // EINTR is an empty look; the next turn looks again.
            let found = self.instance.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
            events.extend(ready[..found].iter().map(|event| self.event(*event)));
            if found < ready.len() {
                self.more = false;
                break;
            }
        }
        self.ready = ready;
    }

    fn recv(&mut self, fd: RawFd, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        socket::recv(fd, buffer)
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
        socket::send(fd, bytes)
    }

    fn queue(&mut self, fd: RawFd, _: Handle, chunk: &Chunk) -> Queued {
        Queued::Now(socket::send(fd, chunk.bytes()))
    }

    fn batch(&self) -> u32 {
        0
    }

    fn submit(&mut self, _: &mut Vec<Event>) {}

    fn finish(&mut self, fd: RawFd) {
        socket::finish(fd);
    }

    fn release(&mut self, fd: RawFd, handle: Handle, events: &mut Vec<Event>) {
        // Closing the last descriptor of a socket takes it out of the epoll instance.
        socket::close(fd);
        events.push(Event::Released(handle));
    }

    fn reset(&mut self, fd: RawFd) {
        socket::reset(fd);
    }

    fn discard(&mut self, fd: RawFd) {
        socket::close(fd);
    }

    fn peer(&self, fd: RawFd) -> Option<SocketAddr> {
        socket::peer(fd)
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn may_sleep(&mut self) -> bool {
        !self.more
    }

    fn failure(&mut self) -> Option<io::Error> {
        None
    }
}

fn pack(handle: Handle) -> u64 {
    u64::from(handle.generation) << 32 | u64::from(handle.index)
}

fn unpack(data: u64) -> Handle {
    Handle { index: data as u32, generation: (data >> 32) as u32 }
}
