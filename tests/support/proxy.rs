//! A TCP proxy that does to connections what networks do: delay, thin pipes, silence, resets, one byte at a time, garbage.
//! All of it can be switched while connections are open.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How often a thread that waits for its socket looks at the switches.
const TICK: Duration = Duration::from_millis(10);
/// Chunks in flight in one direction; then the sender is held back.
const CHUNKS: usize = 4096;
/// Bytes that the kernel takes from a sender while the proxy does not.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The proxy. Ends with the value, and its connections with it.
pub struct Proxy {
    address: SocketAddr,
    switches: Arc<Switches>,
}

#[derive(Default)]
struct Switches {
    delay_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    blackhole: AtomicBool,
    one_byte_slices: AtomicBool,
    /// Counts resets: a connection of an earlier number ends.
    generation: AtomicU64,
    /// The number of the connection that was accepted last, the first being 1.
    newest: AtomicU64,
    /// For the client, and for the server.
    garbage: [Mutex<Vec<u8>>; 2],
    stopped: AtomicBool,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Listens on a free port of the loopback address and passes everything on to `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, super::nats::free_port())).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let switches = Arc::new(Switches::default());
        let shared = switches.clone();
        thread::spawn(move || accept(&listener, upstream, &shared));
        Self { address, switches }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delays what comes from now on, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.switches.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Lets so many bytes a second through, in each direction; 0 is no limit.
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.switches.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Nothing passes while it is on, new connections included, and nobody is told.
    pub fn blackhole(&self, on: bool) {
        self.switches.blackhole.store(on, Ordering::Relaxed);
    }

    /// One byte to a segment.
    pub fn one_byte_slices(&self, on: bool) {
        self.switches.one_byte_slices.store(on, Ordering::Relaxed);
    }

    /// Resets every open connection.
    pub fn reset(&self) {
        self.switches.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts bytes that the server never sent before what it sends next on the newest connection.
    pub fn inject_garbage(&self, bytes: &[u8]) {
        self.switches.inject(Direction::ToClient, bytes);
    }

    /// Puts bytes that the client never sent after what the server has got so far on the newest connection.
    pub fn inject_garbage_upstream(&self, bytes: &[u8]) {
        self.switches.inject(Direction::ToServer, bytes);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.switches.stopped.store(true, Ordering::Relaxed);
    }
}

impl Switches {
    fn inject(&self, direction: Direction, bytes: &[u8]) {
        self.garbage[direction as usize].lock().unwrap().extend_from_slice(bytes);
    }

    /// Only for the newest connection: on an older one, whose client may have left it, garbage could end nowhere.
    fn take_garbage(&self, direction: Direction, connection: u64) -> Vec<u8> {
        if self.newest.load(Ordering::Relaxed) != connection {
            return Vec::new();
        }
        std::mem::take(&mut *self.garbage[direction as usize].lock().unwrap())
    }

    fn ended(&self, generation: u64) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.generation.load(Ordering::Relaxed) != generation
    }

    fn wait_while_blackholed(&self, generation: u64) {
        while self.blackhole.load(Ordering::Relaxed) && !self.ended(generation) {
            thread::sleep(TICK);
        }
    }
}

fn accept(listener: &TcpListener, upstream: SocketAddr, switches: &Arc<Switches>) {
    while !switches.stopped.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                let connection = switches.newest.fetch_add(1, Ordering::Relaxed) + 1;
                let switches = switches.clone();
                thread::spawn(move || join(client, upstream, &switches, connection));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TICK / 10),
            Err(error) => panic!("the proxy cannot accept: {error}"),
        }
    }
}

/// Connects one client with the server: two directions, each a reader and a writer, so that delay does not cost throughput.
fn join(client: TcpStream, upstream: SocketAddr, switches: &Arc<Switches>, connection: u64) {
    let generation = switches.generation.load(Ordering::Relaxed);
    switches.wait_while_blackholed(generation);
    let Ok(server) = TcpStream::connect(upstream) else { return };
    for stream in [&client, &server] {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TICK)).unwrap();
        stream.set_write_timeout(Some(TICK)).unwrap();
        nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::RcvBuf, &RECEIVE_BYTES).unwrap();
    }
    let ways = [(&client, &server, Direction::ToServer), (&server, &client, Direction::ToClient)];
    for (from, to, direction) in ways {
        let (chunks, outlet) = sync_channel(CHUNKS);
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (for_reader, for_writer) = (switches.clone(), switches.clone());
        let in_flight = Arc::new(AtomicU64::new(0));
        let counted = in_flight.clone();
        thread::spawn(move || read(from, &chunks, &for_reader, generation, &counted));
        thread::spawn(move || write(to, &outlet, &for_writer, generation, (connection, direction), &in_flight));
    }
    while !switches.ended(generation) {
        thread::sleep(TICK);
    }
    // With this a close is a reset; the last of the threads closes.
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    for stream in [&client, &server] {
        let _ = nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::Linger, &linger);
    }
}

fn read(
    mut from: TcpStream,
    chunks: &SyncSender<(Instant, Vec<u8>)>,
    switches: &Switches,
    generation: u64,
    in_flight: &AtomicU64,
) {
    let mut buffer = vec![0; 16 * 1024];
    while !switches.ended(generation) {
        switches.wait_while_blackholed(generation);
        // A thin pipe holds its sender back.
        let bytes_per_second = switches.bytes_per_second.load(Ordering::Relaxed);
        if bytes_per_second > 0 && in_flight.load(Ordering::Relaxed) > bytes_per_second {
            thread::sleep(TICK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                in_flight.fetch_add(length as u64, Ordering::Relaxed);
                let due = Instant::now() + Duration::from_millis(switches.delay_ms.load(Ordering::Relaxed));
                if chunks.send((due, buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn write(
    mut to: TcpStream,
    chunks: &Receiver<(Instant, Vec<u8>)>,
    switches: &Switches,
    generation: u64,
    (connection, direction): (u64, Direction),
    in_flight: &AtomicU64,
) {
    // Ends when the reader has ended and everything it read has been passed on.
    loop {
        let (due, mut chunk) = match chunks.recv_timeout(TICK) {
            Ok(chunk) => chunk,
            // A client may have nothing to say.
            Err(RecvTimeoutError::Timeout) if direction == Direction::ToServer => (Instant::now(), Vec::new()),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let length = chunk.len() as u64;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        switches.wait_while_blackholed(generation);
        let mut garbage = switches.take_garbage(direction, connection);
        garbage.append(&mut chunk);
        if !write_chunk(&mut to, &garbage, switches, generation) {
            return;
        }
        in_flight.fetch_sub(length, Ordering::Relaxed);
    }
    if !switches.ended(generation) {
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn write_chunk(to: &mut TcpStream, chunk: &[u8], switches: &Switches, generation: u64) -> bool {
    let mut rest = chunk;
    while !rest.is_empty() {
        if switches.ended(generation) {
            return false;
        }
        let slices = switches.one_byte_slices.load(Ordering::Relaxed);
        let bytes_per_second = switches.bytes_per_second.load(Ordering::Relaxed);
        let share = if bytes_per_second > 0 { (bytes_per_second / 100).max(1) as usize } else { usize::MAX };
        let length = rest.len().min(if slices { 1 } else { share });
        match to.write(&rest[..length]) {
            Ok(written) => rest = &rest[written..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return false,
        }
        if bytes_per_second > 0 {
            thread::sleep(Duration::from_secs(1).mul_f64(length as f64 / bytes_per_second as f64));
        }
    }
    true
}
