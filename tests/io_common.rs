//! What a shard may rely on, held for both wires by the same stories on real sockets.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use tidegate::gateway::io::epoll::Epoll;
use tidegate::gateway::io::uring::Uring;
use tidegate::gateway::mailbox::Waker;
use tidegate_core::connection::{Chunk, Handle, Tag};
use tidegate_core::shard::driver::{Driver, ErrorKind, Event, Queued, Ready};

/// When a test that waits for something gives up.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const FIRST: Handle = Handle { index: 3, generation: 11 };
const SECOND: Handle = Handle { index: 4, generation: 12 };

/// Runs each story on each wire.
macro_rules! on_both_wires {
    ($($story:ident),* $(,)?) => {
        mod epoll {
            $(#[test] fn $story() { super::$story(super::Bench::new(super::Epoll::new)); })*
        }
        mod io_uring {
            $(#[test] fn $story() { super::$story(super::Bench::new(super::Uring::new)); })*
        }
    };
}

on_both_wires!(
    an_idle_socket_says_that_it_can_be_written_and_then_nothing,
    data_is_told_to_whom_it_is_for,
    what_a_short_read_left_is_there_although_no_event_tells_it_again,
    data_and_fin_in_one_event_come_with_the_hangup_that_makes_reading_go_on,
    a_peers_reset_is_a_hangup_and_an_error,
    a_peer_that_only_listens_still_gets_its_answer,
    a_reader_that_was_slow_can_be_written_again,
    what_is_queued_arrives_and_in_order,
    a_send_that_does_not_fit_is_told_with_what_is_out,
    released_means_fin_for_the_peer_and_a_free_slot,
    released_after_a_reset_means_rst_for_the_peer,
    the_successor_in_a_slot_hears_nothing_of_its_predecessor,
    ticks_come_one_after_another,
    the_waker_wakes_and_once_looked_at_sleep_is_possible_again,
    the_peers_address_is_the_clients,
);

/// A wire under test, driven as a shard's loop drives it.
struct Bench<D> {
    wire: D,
    waker: Arc<Waker>,
    listener: TcpListener,
}

impl<D: Driver + AsFd> Bench<D> {
    fn new(make: fn(Arc<Waker>) -> std::io::Result<D>) -> Self {
        let waker = Waker::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { wire: make(waker.clone()).unwrap(), waker, listener }
    }

    fn connect(&self) -> (TcpStream, RawFd) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(LONGEST_WAIT)).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server.into_raw_fd())
    }

    /// A connection that is under watch and has said all that it says on arming.
    fn armed(&mut self, handle: Handle) -> (TcpStream, RawFd) {
        let (client, fd) = self.connect();
        self.wire.arm(fd, handle).unwrap();
        self.until(|event| matches!(event, Event::Ready(ready) if ready.handle == handle && ready.writable));
        (client, fd)
    }

    /// One turn: what there is, without waiting.
    fn look(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.wire.submit(&mut events);
        self.wire.reap(&mut events);
        events
    }

    /// Turns and sleeps as a shard does, until an event is the wanted one; returns it and what came with it.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            seen.extend(self.look());
            if seen.iter().any(&wanted) {
                return seen;
            }
            self.waker.will_sleep();
            if self.wire.may_sleep() {
                assert!(self.sleep(LONGEST_WAIT), "nothing came: {seen:?}");
            }
            self.waker.stay_awake();
        }
    }

    fn until_readable(&mut self, wanted: Handle) -> Ready {
        let is_it = |event: &Event| matches!(event, Event::Ready(ready) if ready.handle == wanted && ready.readable);
        let seen = self.until(is_it);
        match seen.into_iter().find(is_it) {
            Some(Event::Ready(ready)) => ready,
            _ => unreachable!("it was just seen"),
        }
    }

    fn until_released(&mut self, fd: RawFd, handle: Handle) {
        let mut events = Vec::new();
        self.wire.release(fd, handle, &mut events);
        let is_it = |event: &Event| matches!(event, Event::Released(released) if *released == handle);
        if !events.iter().any(is_it) {
            self.until(is_it);
        }
        self.look();
    }

    /// Waits for what the shard's task waits for; false where nothing came in time.
    fn sleep(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, u16::try_from(time.as_millis()).unwrap()).unwrap() == 1
    }
}

fn chunk(bytes: &[u8]) -> Chunk {
    Chunk::whole(Rc::from(bytes), Tag::Control, 1)
}

fn connection_events(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Ready(_))).count()
}

fn an_idle_socket_says_that_it_can_be_written_and_then_nothing<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (_client, _) = bench.armed(FIRST);
    for _ in 0..2 {
        let seen = bench.until(|event| matches!(event, Event::Ticked(_)));
        assert_eq!(connection_events(&seen), 0, "{seen:?}");
    }
}

fn data_is_told_to_whom_it_is_for<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    let _other = bench.armed(SECOND);
    client.write_all(b"hello").unwrap();
    let ready = bench.until_readable(FIRST);
    assert!(!ready.hangup);
    let mut buffer = [0; 16];
    assert_eq!(bench.wire.recv(fd, &mut buffer).unwrap(), 5);
    assert_eq!(&buffer[..5], b"hello");
    assert_eq!(bench.wire.recv(fd, &mut buffer).unwrap_err(), ErrorKind::WouldBlock);
}

fn what_a_short_read_left_is_there_although_no_event_tells_it_again<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    client.write_all(&[b'x'; 1000]).unwrap();
    bench.until_readable(FIRST);
    let mut buffer = [0; 100];
    assert_eq!(bench.wire.recv(fd, &mut buffer).unwrap(), 100);
    let seen = bench.until(|event| matches!(event, Event::Ticked(_)));
    assert_eq!(connection_events(&seen), 0, "an edge: whoever waits for a second event waits for ever");
    let mut left = 0;
    while let Ok(length) = bench.wire.recv(fd, &mut buffer) {
        left += length;
    }
    assert_eq!(left, 900);
}

fn data_and_fin_in_one_event_come_with_the_hangup_that_makes_reading_go_on<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.connect();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    bench.wire.arm(fd, FIRST).unwrap();
    let ready = bench.until_readable(FIRST);
    assert!(ready.hangup, "the read of the four bytes is short, and no event tells the end");
    let mut buffer = [0; 16];
    assert_eq!(bench.wire.recv(fd, &mut buffer).unwrap(), 4);
    assert_eq!(bench.wire.recv(fd, &mut buffer).unwrap(), 0);
}

fn a_peers_reset_is_a_hangup_and_an_error<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (client, fd) = bench.armed(FIRST);
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(client);
    assert!(bench.until_readable(FIRST).hangup);
    let error = bench.wire.recv(fd, &mut [0; 16]).unwrap_err();
    assert_eq!(error, ErrorKind::Broken);
    bench.until_released(fd, FIRST);
}

fn a_peer_that_only_listens_still_gets_its_answer<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(bench.until_readable(FIRST).hangup);
    assert_eq!(bench.wire.recv(fd, &mut [0; 16]).unwrap(), 0);
    assert_eq!(bench.wire.send(fd, b"answer").unwrap(), 6);
    bench.wire.finish(fd);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
}

fn a_reader_that_was_slow_can_be_written_again<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    let block = [b'x'; 64 * 1024];
    let mut taken = 0;
    while let Ok(length) = bench.wire.send(fd, &block) {
        taken += length;
    }
    bench.look();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; taken];
        client.read_exact(&mut got).unwrap();
        client
    });
    bench.until(|event| matches!(event, Event::Ready(ready) if ready.handle == FIRST && ready.writable));
    assert!(bench.wire.send(fd, b"more").is_ok());
    let mut client = reader.join().unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
}

fn what_is_queued_arrives_and_in_order<D: Driver + AsFd>(mut bench: Bench<D>) {
    const FRAMES: u32 = 5_000;
    let (mut client, fd) = bench.armed(FIRST);
    for number in 0..FRAMES {
        match bench.wire.queue(fd, FIRST, &chunk(&number.to_be_bytes())) {
            Queued::Now(result) => assert_eq!(result.unwrap(), 4),
            Queued::Later => {
                let batch = bench.wire.batch();
                assert_ne!(batch, 0);
                let events = bench.look();
                assert!(!events.iter().any(|event| matches!(event, Event::Unsent { .. })), "{events:?}");
                assert_ne!(bench.wire.batch(), batch, "the next send of the connection is of another batch");
            }
        }
    }
    let mut bytes = [0; 4];
    for number in 0..FRAMES {
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_be_bytes(bytes), number);
    }
}

fn a_send_that_does_not_fit_is_told_with_what_is_out<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    let frame = chunk(&vec![b'f'; 16 << 20]);
    let sent = match bench.wire.queue(fd, FIRST, &frame) {
        Queued::Now(result) => result.unwrap(),
        Queued::Later => {
            let mut events = Vec::new();
            bench.wire.submit(&mut events);
            match events.into_iter().next() {
                Some(Event::Unsent { handle: FIRST, result: Ok(sent), .. }) => sent,
                _ => panic!("a short send was not told first"),
            }
        }
    };
    assert!(sent > 0 && sent < frame.bytes().len());
    bench.wire.finish(fd);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), sent);
}

fn released_means_fin_for_the_peer_and_a_free_slot<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    bench.until_released(fd, FIRST);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "closing under a watch that goes on would send nothing");
    let (mut client, fd) = bench.armed(Handle { generation: 99, ..FIRST });
    client.write_all(b"x").unwrap();
    bench.until_readable(Handle { generation: 99, ..FIRST });
    assert_eq!(bench.wire.recv(fd, &mut [0; 8]).unwrap(), 1);
}

fn released_after_a_reset_means_rst_for_the_peer<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (mut client, fd) = bench.armed(FIRST);
    bench.wire.reset(fd);
    bench.until_released(fd, FIRST);
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

fn the_successor_in_a_slot_hears_nothing_of_its_predecessor<D: Driver + AsFd>(mut bench: Bench<D>) {
    for generation in 1..200 {
        let handle = Handle { index: 0, generation };
        let (mut client, fd) = bench.connect();
        bench.wire.arm(fd, handle).unwrap();
        // What it says is with the kernel, or on its way, when the connection ends.
        client.write_all(b"late").unwrap();
        let mut events = Vec::new();
        if generation % 2 == 0 {
            bench.wire.submit(&mut events);
        }
        bench.wire.release(fd, handle, &mut events);
        while !events.iter().any(|event| matches!(event, Event::Released(_))) {
            events.extend(bench.look());
        }
        for event in events {
            match event {
                Event::Ready(ready) => assert_eq!(ready.handle, handle),
                Event::Released(released) => assert_eq!(released, handle),
                _ => {}
            }
        }
    }
}

fn ticks_come_one_after_another<D: Driver + AsFd>(mut bench: Bench<D>) {
    for _ in 0..3 {
        bench.until(|event| matches!(event, Event::Ticked(1..)));
    }
}

fn the_waker_wakes_and_once_looked_at_sleep_is_possible_again<D: Driver + AsFd>(mut bench: Bench<D>) {
    for _ in 0..3 {
        let other = bench.waker.clone();
        bench.waker.will_sleep();
        let thread = std::thread::spawn(move || other.wake());
        assert!(bench.sleep(LONGEST_WAIT));
        thread.join().unwrap();
        bench.waker.stay_awake();
    }
    // Looking takes the ring away: else the shard would never sleep again.
    let slept = (0..50).any(|_| {
        bench.look();
        bench.wire.may_sleep() && !bench.sleep(Duration::ZERO)
    });
    assert!(slept);
}

fn the_peers_address_is_the_clients<D: Driver + AsFd>(mut bench: Bench<D>) {
    let (client, fd) = bench.armed(FIRST);
    assert_eq!(bench.wire.peer(fd), Some(client.local_addr().unwrap()));
}
