//! The public port: one listener for each shard, sharing the address through SO_REUSEPORT.
//!
//! What accepted sockets shall have is set on the listener once and inherited: keepalive, no Nagle, a bound on unsent bytes.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use tidegate_core::limits::NOTSENT_LOWAT_BYTES;

/// Connections that the kernel queues for one listener; it takes the smaller of this and net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// Seconds of silence after which the kernel asks whether the peer's host is still there.
const KEEPALIVE_IDLE_S: u32 = 60;
/// Seconds between two such questions.
const KEEPALIVE_INTERVAL_S: u32 = 10;
/// Questions without an answer after which the socket fails.
const KEEPALIVE_PROBES: u32 = 6;

/// Finds out whether another process listens at `address` already: with SO_REUSEPORT alone, a second gateway would take half of
/// the first one's clients without a word.
///
/// # Errors
/// `AddrInUse`, or what else bind(2) says.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = stream_socket(address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    Ok(bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?)
}

/// A non-blocking listener that shares `address` with the node's other shards.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn listen_at(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    set_notsent_lowat(&socket)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // SAFETY: a plain call on a descriptor that is open; nix's own caps the backlog below what the kernel takes.
    Errno::result(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Stream, flags, SockProtocol::Tcp)?)
}

/// TCP_NOTSENT_LOWAT: without it the kernel takes 3 MB for each client that never reads.
fn set_notsent_lowat(socket: &OwnedFd) -> io::Result<()> {
    let value = NOTSENT_LOWAT_BYTES;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &value)
}

fn set_option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// What an attempt to accept came to.
#[derive(Debug)]
pub enum Accepted {
    /// A socket, non-blocking and the caller's, and its peer's address.
    Socket(RawFd, Option<IpAddr>),
    /// No connection waits.
    NoneWaiting,
    /// No descriptor or memory is left, or the kernel cannot; they wait on.
    Exhausted(Errno),
    /// This is no listener any more: no connection will ever be accepted.
    Broken(Errno),
}

/// Accepts one connection.
pub fn accept(listener: &OwnedFd) -> Accepted {
    loop {
        let mut peer =
            Peer { storage: MaybeUninit::zeroed(), length: size_of::<libc::sockaddr_storage>() as libc::socklen_t };
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the kernel writes at most `length` octets, which is what `storage` has.
        let fd = unsafe {
            libc::accept4(listener.as_raw_fd(), peer.storage.as_mut_ptr().cast(), &raw mut peer.length, flags)
        };
        match Errno::result(fd) {
            Ok(fd) => return Accepted::Socket(fd, peer.address()),
            Err(Errno::EAGAIN) => return Accepted::NoneWaiting,
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)) => {
                return Accepted::Exhausted(error);
            }
            // The connection died in the queue, or a signal came (accept(2)): the next one.
            Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO | Errno::EPERM) => {}
            Err(error @ (Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK)) => return Accepted::Broken(error),
            // Whatever else it is, the same call would only say it again.
            Err(error) => return Accepted::Exhausted(error),
        }
    }
}

/// An address as the kernel writes it.
struct Peer {
    storage: MaybeUninit<libc::sockaddr_storage>,
    length: libc::socklen_t,
}

impl Peer {
    fn address(&self) -> Option<IpAddr> {
        let length = Some(self.length);
        // SAFETY: the kernel wrote `length` octets into `storage`, which was zeroed and may hold any octets.
        let storage = unsafe { SockaddrStorage::from_raw(self.storage.as_ptr().cast(), length) }?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    }
}

/// How long a socket that was just accepted had waited for it, in µs, as the kernel tells (tcp(7), TCP_INFO): nothing was sent on it, so
/// that the time of the last sending is still that of its handshake (`tcp_create_openreq_child`, Linux 6.18). In steps of the kernel's
/// clock, 1 to 10 ms; 0 also where it does not tell.
pub fn queued_us(socket: RawFd) -> u32 {
    tcp_info(socket).tcpi_last_data_sent.saturating_mul(1_000)
}

fn tcp_info(socket: RawFd) -> libc::tcp_info {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets, which is what `info` has, and any octets are a `tcp_info`.
    unsafe {
        let into = info.as_mut_ptr().cast();
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length);
        info.assume_init()
    }
}

/// Connections that wait to be accepted, as the kernel tells (tcp(7), TCP_INFO; it is what ss(8) calls Recv-Q of a listener); 0
/// also where it does not tell.
///
/// The question takes a tenth of the time of an accept(2) that finds no connection, which makes a socket and its file before it looks
/// (0.7 and 6.2 µs, Linux 6.18).
pub fn waiting(listener: &OwnedFd) -> usize {
    tcp_info(listener.as_raw_fd()).tcpi_unacked as usize
}

/// Drops new SYNs from here on, so that the queue can be emptied and the listener closed without resetting a connection: a
/// client whose SYN is dropped tries again a second later, on another node or the next process.
///
/// # Errors
/// Those of setsockopt(2), SO_ATTACH_FILTER.
pub fn drop_new_connections(listener: impl AsFd) -> io::Result<()> {
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_AND_ACK: u32 = 0x12;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS_OFFSET),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_AND_ACK),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let listener = listener.as_fd().try_clone_to_owned()?;
    set_option(&listener, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::fd::FromRawFd;
    use std::time::Duration;

    fn local_address(listener: &OwnedFd) -> SocketAddr {
        std::net::TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap()
    }

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn accepted_sockets_inherit_what_was_set_on_the_listener() {
        let listener = listen_at(any_port()).unwrap();
        let _client = TcpStream::connect(local_address(&listener)).unwrap();
        let Accepted::Socket(fd, _) = accept(&listener) else { panic!("no connection waits") };
        // SAFETY: accept handed the number over.
        let server = unsafe { OwnedFd::from_raw_fd(fd) };
        let get = |option| nix::sys::socket::getsockopt(&server, option);
        assert_eq!(get(sockopt::TcpNoDelay), Ok(true));
        assert_eq!(nix::sys::socket::getsockopt(&server, sockopt::KeepAlive), Ok(true));
        let (mut value, mut length) = (0_u32, 4);
        // SAFETY: value and length are valid for writes of what they say.
        let result = unsafe {
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw mut value).cast(), &raw mut length)
        };
        assert_eq!((result, value), (0, NOTSENT_LOWAT_BYTES));
    }

    #[test]
    fn a_port_that_another_process_listens_on_is_in_use_whatever_reuseport_says() {
        let listener = listen_at(any_port()).unwrap();
        let error = probe(local_address(&listener)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_in_the_accept_queue_are_counted_until_they_are_accepted() {
        let listener = listen_at(any_port()).unwrap();
        assert_eq!(waiting(&listener), 0);
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(local_address(&listener)).unwrap()).collect();
        // A client is connected before its last ACK is heard.
        while waiting(&listener) < 3 {
            std::thread::yield_now();
        }
        for left in (0..3).rev() {
            let Accepted::Socket(fd, _) = accept(&listener) else { panic!("no connection waits") };
            // SAFETY: accept handed the number over.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            assert_eq!(waiting(&listener), left);
        }
        let no_listener = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(waiting(&no_listener), 0);
    }

    #[test]
    fn what_a_connection_waited_to_be_accepted_is_told_with_its_peers_address() {
        for loopback in [any_port(), SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0))] {
            let listener = listen_at(loopback).unwrap();
            let client = TcpStream::connect(local_address(&listener)).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            let Accepted::Socket(fd, address) = accept(&listener) else { panic!("no connection waits") };
            // SAFETY: accept handed the number over.
            let server = unsafe { OwnedFd::from_raw_fd(fd) };
            let waited = queued_us(fd);
            assert!((280_000..30_000_000).contains(&waited), "{waited} µs");
            assert_eq!(address, Some(client.local_addr().unwrap().ip()));
            drop((client, server));
        }
    }

    #[test]
    fn a_listener_that_listens_no_more_is_broken_and_not_exhausted() {
        let listener = listen_at(any_port()).unwrap();
        nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        assert!(matches!(accept(&listener), Accepted::Broken(Errno::EINVAL)));
    }

    #[test]
    fn when_new_syns_are_dropped_those_in_the_queue_are_still_served() {
        let listener = listen_at(any_port()).unwrap();
        let address = local_address(&listener);
        let mut early = TcpStream::connect(address).unwrap();
        drop_new_connections(&listener).unwrap();
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err());
        early.write_all(b"hello").unwrap();
        let Accepted::Socket(fd, _) = accept(&listener) else { panic!("the queue was lost") };
        // SAFETY: accept handed the number over.
        let mut server = unsafe { TcpStream::from_raw_fd(fd) };
        server.set_nonblocking(false).unwrap();
        let mut hello = [0; 5];
        server.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello", "its filter lets data pass");
    }
}
