//! Holds idle connections of a process to itself, so that it is known what one end of a connection, and one end that epoll
//! waits on, costs this kernel: the load side's share of what a measurement finds.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use crate::protocol::{Connected, Event};
use crate::sys::{self, Epoll, Watch};
use crate::worker::{Input, tell};

/// Opens `pairs` connections; tells when they are open, tells again when one end of each is waited on; holds them.
pub(crate) fn hold(pairs: u32, input: &mut Input) -> io::Result<()> {
    let (listener, address) = listen_somewhere()?;
    let mut near: Vec<TcpStream> = Vec::new();
    let mut far = Vec::new();
    for _ in 0..pairs {
        near.push(sys::dial(Ipv4Addr::LOCALHOST, address, None)?);
        while let Some(stream) = sys::accept(&listener)? {
            far.push(stream);
        }
    }
    tell(&Event::Connected(Box::new(Connected { open: far.len() as u32, ..Connected::default() })))?;
    input.wait()?;
    let epoll = Epoll::new(1)?;
    for stream in &near {
        epoll.add(stream, Watch::Read, 0)?;
    }
    tell(&Event::Ready)?;
    input.until_the_end();
    Ok(())
}

/// A listener below the ports that connections are made from, so that the two never meet.
fn listen_somewhere() -> io::Result<(TcpListener, SocketAddrV4)> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in first..first + 100 {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        match sys::listen(address) {
            Ok(listener) => return Ok((listener, address)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
