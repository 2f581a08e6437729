//! System calls on one socket, and the timer of ticks: what both drivers leave to the system.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::Shutdown;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use tidegate_core::limits::SWEEP_TICK;
use tidegate_core::shard::driver::ErrorKind;

/// What an error of recv(2) or send(2) means to a shard.
pub(super) fn kind(error: Errno) -> ErrorKind {
    match error {
        Errno::EAGAIN => ErrorKind::WouldBlock,
        Errno::ENOBUFS | Errno::ENOMEM => ErrorKind::NoMemory,
        _ => ErrorKind::Broken,
    }
}

/// recv(2) without blocking; EINTR is tried again.
///
/// This and [`send`] go straight to the kernel: the C library's are cancellation points, which in a process with threads cost four
/// locked instructions for each message (glibc 2.36), and nothing here is ever cancelled.
pub(super) fn recv(fd: RawFd, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
    loop {
        let (flags, no_address) = (libc::MSG_DONTWAIT, ptr::null_mut::<libc::sockaddr>());
        // SAFETY: the kernel writes at most `buffer.len()` octets, into `buffer`, and no address.
        let received = unsafe {
            libc::syscall(libc::SYS_recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), flags, no_address, no_address)
        };
        match Errno::result(received) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(kind(error)),
            Ok(octets) => return Ok(octets as usize),
        }
    }
}

/// send(2) without blocking or SIGPIPE; EINTR is tried again.
pub(super) fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, ErrorKind> {
    loop {
        let (flags, no_address) = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL, ptr::null::<libc::sockaddr>());
        // SAFETY: the kernel reads `bytes.len()` octets of `bytes`, and no address.
        let sent =
            unsafe { libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, no_address, 0_usize) };
        match Errno::result(sent) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(kind(error)),
            Ok(octets) => return Ok(octets as usize),
        }
    }
}

/// shutdown(2) of our direction; a socket that is already gone needs none.
pub(super) fn finish(fd: RawFd) {
    let _ = nix::sys::socket::shutdown(fd, Shutdown::Write);
}

/// See [`Driver::reset`].
pub(super) fn reset(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = nix::sys::socket::setsockopt(&borrow(&fd), nix::sys::socket::sockopt::Linger, &linger);
}

/// See [`Driver::peer`].
pub(super) fn peer(fd: RawFd) -> Option<SocketAddr> {
    let address: nix::sys::socket::SockaddrStorage = nix::sys::socket::getpeername(fd).ok()?;
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::from(std::net::SocketAddrV4::from(*a)));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::from(std::net::SocketAddrV6::from(*a))))
}

/// Closes a socket that the slab owned by its number.
pub(super) fn close(fd: RawFd) {
    // SAFETY: the slab entry was the only owner of this number, and it gives it up with this call.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// The socket behind a number in the slab, for calls that want a descriptor.
pub(super) fn borrow(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: numbers in the slab are open until they are released, and the borrow is shorter than the call.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}

/// A timer that fires every [`SWEEP_TICK`] on the monotonic clock.
pub(super) fn tick_timer() -> io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(SWEEP_TICK)), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// How often a timer fired since it was last asked.
pub(super) fn expirations(timer: &TimerFd) -> u32 {
    let mut count = [0; 8];
    match nix::unistd::read(timer, &mut count) {
        Ok(8) => u32::try_from(u64::from_ne_bytes(count)).unwrap_or(u32::MAX),
        _ => 0,
    }
}
