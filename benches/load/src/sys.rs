//! Where the load generator touches the system: sockets, epoll, clocks, limits. Nothing here knows WebSockets.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that a process keeps for itself beside its connections.
pub(crate) const SPARE_DESCRIPTORS: u64 = 64;

/// Turns -1 into the error that `errno` names.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the length of the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The monotonic clock in nanoseconds: one clock for all processes of this host.
pub(crate) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of another process, user and system, in nanoseconds: of all its threads, those that have ended too.
pub(crate) fn cpu_ns_of(pid: u32) -> io::Result<u64> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to values that live here.
    unsafe {
        // The first returns its error, the second sets errno.
        match libc::clock_getcpuclockid(pid, &mut clock) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        check(libc::clock_gettime(clock, &mut time))?;
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPU time of this thread, in nanoseconds.
#[cfg(test)]
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of this process, user and system, in nanoseconds.
pub(crate) fn own_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Raises the soft limit of open files to the hard one; returns it.
pub(crate) fn raise_nofile() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for both calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(limit.rlim_cur)
}

/// Pins this process, and what it starts, to one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set; CPU_SET bounds-checks nothing, so the index is checked here.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if core >= 8 * mem::size_of_val(&set) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        libc::CPU_SET(core, &mut set);
        check(libc::sched_setaffinity(0, mem::size_of_val(&set), &set))?;
    }
    Ok(())
}

/// Lets short sleeps end on time: a paced publisher needs microseconds, the default slack is fifty of them.
pub(crate) fn tighten_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    check(unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), mem::size_of::<libc::c_int>() as libc::socklen_t)
    })
    .map(drop)
}

fn address(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn tcp_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket returns a descriptor that has no other owner, or -1.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Starts a non-blocking connection from `source`; it is established, or has failed, when it is first writable.
/// `receive_buffer` in bytes makes a reader that the sender soon fills.
pub(crate) fn dial(source: Ipv4Addr, to: SocketAddrV4, receive_buffer: Option<i32>) -> io::Result<TcpStream> {
    let socket = tcp_socket()?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    // The port is chosen by connect, per destination, so that one address serves 28,000 connections to each server.
    set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    if let Some(bytes) = receive_buffer {
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    let (source, to) = (address(SocketAddrV4::new(source, 0)), address(to));
    let length = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: both addresses are valid for the length of the calls.
    let connected = unsafe {
        check(libc::bind(fd, (&raw const source).cast(), length))?;
        check(libc::connect(fd, (&raw const to).cast(), length))
    };
    match connected {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(socket)),
    }
}

/// A non-blocking listener with the longest backlog that the host allows.
pub(crate) fn listen(at: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = tcp_socket()?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let at = address(at);
    // SAFETY: the address is valid for the length of the call.
    unsafe {
        check(libc::bind(fd, (&raw const at).cast(), mem::size_of::<libc::sockaddr_in>() as libc::socklen_t))?;
        check(libc::listen(fd, 65_535))?;
    }
    Ok(TcpListener::from(socket))
}

/// Accepts one connection, non-blocking; `None` when the queue is empty.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    // SAFETY: no address is asked for; the descriptor returned has no other owner.
    let accepted = unsafe {
        check(libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        ))
        .map(|fd| TcpStream::from(OwnedFd::from_raw_fd(fd)))
    };
    match accepted {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads what is there into `buffer`; `None` when nothing is.
pub(crate) fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the pointer and the length describe `buffer`.
    let count = unsafe { libc::recv(stream.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    transferred(count)
}

/// Sends what the socket takes of `bytes`; `None` when it takes nothing.
pub(crate) fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<Option<usize>> {
    // SAFETY: the pointer and the length describe `bytes`.
    let count = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    transferred(count)
}

fn transferred(count: isize) -> io::Result<Option<usize>> {
    if count >= 0 {
        return Ok(Some(count as usize));
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) }
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watch {
    /// Bytes to read.
    Read,
    /// Bytes to read, and room to write.
    ReadWrite,
    /// Nothing: the peer's bytes pile up.
    Nothing,
}

impl Watch {
    fn mask(self) -> u32 {
        (match self {
            Self::Read => libc::EPOLLIN,
            Self::ReadWrite => libc::EPOLLIN | libc::EPOLLOUT,
            Self::Nothing => 0,
        }) as u32
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// What it was registered as.
    pub(crate) token: u64,
    /// It can be written, or it has failed.
    pub(crate) writable: bool,
}

/// A level-triggered epoll instance.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// One that reports up to `capacity` descriptors a turn.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: epoll_create1 returns a descriptor that has no other owner, or -1.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; capacity] })
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, watch: Watch, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: watch.mask(), u64: token };
        // SAFETY: `event` is valid for the length of the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) }).map(drop)
    }

    /// Begins to watch a descriptor; closing it ends that.
    pub(crate) fn add(&self, fd: &impl AsRawFd, watch: Watch, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), watch, token)
    }

    /// Watches for something else.
    pub(crate) fn change(&self, fd: &impl AsRawFd, watch: Watch, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), watch, token)
    }

    /// Waits until something is ready or `timeout_ns` have passed; returns how many are. Read them with [`Self::ready`].
    pub(crate) fn wait(&mut self, timeout_ns: u64) -> io::Result<usize> {
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: the events buffer is as long as stated; no signal mask is given.
        let count = check(unsafe {
            libc::epoll_pwait2(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &timeout,
                std::ptr::null(),
            )
        });
        match count {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other.map(|count| count as usize),
        }
    }

    /// The `index`th of what the last [`Self::wait`] found.
    pub(crate) fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        let failed = libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLOUT;
        Ready { token: event.u64, writable: event.events & failed as u32 != 0 }
    }
}
