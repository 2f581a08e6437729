//! The bare servers: one epoll, one loop, no state that the task does not force on them. The price of any real server is
//! what it costs beyond these.

use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;

use crate::lines::ACCEPT;
use crate::sys::{self, Epoll, Watch};

const LISTENER: u64 = u64::MAX;
const READ_BYTES: usize = 64 * 1024;
const FOREVER_NS: u64 = 3_600_000_000_000;

/// Connections by their descriptor's number.
type Sockets = Vec<Option<TcpStream>>;

/// What a bare server does with octets that came.
pub(crate) trait Task {
    /// Between two calls of [`Task::tick`]; a task without ticks never reads the clock.
    const TICK_NS: u64 = FOREVER_NS;
    /// `bytes` came from the connection with this descriptor.
    fn came(&mut self, fd: usize, bytes: &[u8], sockets: &Sockets);
    /// The connection with this descriptor is no more.
    fn gone(&mut self, fd: usize) {
        let _ = fd;
    }
    /// [`Task::TICK_NS`] went by.
    fn tick(&mut self, sockets: &Sockets) {
        let _ = sockets;
    }
}

/// Serves until the process is killed.
pub(crate) fn run(at: SocketAddrV4, mut task: impl Task) -> Result<(), String> {
    sys::raise_nofile().map_err(|error| format!("the limit of open files cannot be raised: {error}"))?;
    let listener = sys::listen(at).map_err(|error| format!("{at} cannot be listened on: {error}"))?;
    serve(&listener, &mut task).map_err(|error| format!("the loop ended: {error}"))
}

fn serve<T: Task>(listener: &TcpListener, task: &mut T) -> std::io::Result<()> {
    let mut epoll = Epoll::new(1024)?;
    epoll.add(listener, Watch::Read, LISTENER)?;
    let mut sockets: Sockets = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut next_ns = sys::now_ns();
    loop {
        let mut wait_ns = FOREVER_NS;
        if T::TICK_NS < FOREVER_NS {
            let now_ns = sys::now_ns();
            if now_ns >= next_ns {
                task.tick(&sockets);
                next_ns += T::TICK_NS;
            }
            wait_ns = next_ns.saturating_sub(now_ns);
        }
        for index in 0..epoll.wait(wait_ns)? {
            let token = epoll.ready(index).token;
            if token == LISTENER {
                accept_all(listener, &epoll, &mut sockets)?;
                continue;
            }
            let fd = token as usize;
            let Some(stream) = &sockets[fd] else { continue };
            match sys::receive(stream, &mut buffer) {
                Ok(Some(count)) if count > 0 => task.came(fd, &buffer[..count], &sockets),
                Ok(None) => {}
                _ => {
                    task.gone(fd);
                    sockets[fd] = None;
                }
            }
        }
    }
}

/// Until the queue is empty, as servers do: the look at an empty queue is part of the floor.
fn accept_all(listener: &TcpListener, epoll: &Epoll, sockets: &mut Sockets) -> std::io::Result<()> {
    while let Some(stream) = sys::accept(listener)? {
        stream.set_nodelay(true)?;
        let fd = stream.as_raw_fd() as usize;
        epoll.add(&stream, Watch::Read, fd as u64)?;
        if fd >= sockets.len() {
            sockets.resize_with(fd + 1, || None);
        }
        sockets[fd] = Some(stream);
    }
    Ok(())
}

fn send(sockets: &Sockets, fd: usize, bytes: &[u8]) {
    if let Some(stream) = sockets.get(fd).and_then(Option::as_ref) {
        // A bare loop has no outbox: what a socket does not take is lost, and the load's account tells.
        let _ = sys::send(stream, bytes);
    }
}

/// Sends back what came.
pub(crate) struct Echo;

impl Task for Echo {
    fn came(&mut self, fd: usize, bytes: &[u8], sockets: &Sockets) {
        send(sockets, fd, bytes);
    }
}

/// The 101 that `tideload` waits for.
static ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const HEAD: &str =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    [HEAD, ACCEPT, "\r\n\r\n"].concat().into_bytes()
});

/// Answers whatever came with a ready 101.
pub(crate) struct Handshake;

impl Task for Handshake {
    fn came(&mut self, fd: usize, _bytes: &[u8], sockets: &Sockets) {
        send(sockets, fd, &ANSWER);
    }
}

/// Answers requests with a ready 101, and pings every connection once in 25 s, spread evenly.
#[derive(Default)]
pub(crate) struct Idle {
    tick: usize,
    /// Which descriptors have their 101: a ping before it would be no WebSocket.
    open: Vec<bool>,
}

/// Ticks of a tenth of a second in a ping interval.
const PING_TICKS: usize = 250;

impl Task for Idle {
    const TICK_NS: u64 = 100_000_000;

    fn came(&mut self, fd: usize, bytes: &[u8], sockets: &Sockets) {
        // What begins otherwise is a pong, which no side waits for.
        if bytes.starts_with(b"GET ") {
            send(sockets, fd, &ANSWER);
            self.open.resize(self.open.len().max(fd + 1), false);
            self.open[fd] = true;
        }
    }

    fn gone(&mut self, fd: usize) {
        if let Some(open) = self.open.get_mut(fd) {
            *open = false;
        }
    }

    fn tick(&mut self, sockets: &Sockets) {
        const PING: &[u8] = &[0x89, 0];
        for fd in (self.tick % PING_TICKS..self.open.len()).step_by(PING_TICKS).filter(|fd| self.open[*fd]) {
            send(sockets, fd, PING);
        }
        self.tick += 1;
    }
}

/// `J<room>` joins; `P<room> <octets>` sends the octets, as one line, to every member.
#[derive(Default)]
pub(crate) struct Fanout {
    rooms: Vec<Vec<usize>>,
    line: Vec<u8>,
}

impl Fanout {
    fn obey(&mut self, fd: usize, line: &[u8], sockets: &Sockets) {
        let Some((verb, rest)) = line.split_first() else { return };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let room = rest[..digits].iter().fold(0, |room, digit| room * 10 + usize::from(digit - b'0'));
        if room >= self.rooms.len() {
            self.rooms.resize_with(room + 1, Vec::new);
        }
        match verb {
            b'J' => self.rooms[room].push(fd),
            b'P' => {
                self.line.clear();
                self.line.extend_from_slice(rest.get(digits + 1..).unwrap_or(b""));
                self.line.push(b'\n');
                for member in &self.rooms[room] {
                    send(sockets, *member, &self.line);
                }
            }
            _ => {}
        }
    }
}

impl Task for Fanout {
    fn came(&mut self, fd: usize, bytes: &[u8], sockets: &Sockets) {
        // A line is always sent whole and is far below a segment: none is torn.
        for line in bytes.split(|byte| *byte == b'\n') {
            self.obey(fd, line, sockets);
        }
    }

    fn gone(&mut self, fd: usize) {
        self.rooms.iter_mut().for_each(|members| members.retain(|member| *member != fd));
    }
}
