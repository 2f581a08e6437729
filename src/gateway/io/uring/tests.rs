//! The conditions under which a ring loses or mixes up what it is given, on rings so small that they are met.

mod lifetimes;

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::*;
use tidegate_core::connection::Tag;
use tidegate_core::shard::driver::Ready;

const TINY: Sizes = Sizes { submissions: 8, completions: 16 };
/// When a test that waits for something gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn tiny() -> Uring {
    Uring::with_sizes(Waker::new().unwrap(), TINY).unwrap()
}

fn pairs(count: usize) -> Vec<(TcpStream, RawFd)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pair = |_| {
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, server.into_raw_fd())
    };
    (0..count).map(pair).collect()
}

/// Pairs whose server sides are watched, with nothing left to hear of their arming.
fn armed_pairs(wire: &mut Uring, count: usize) -> Vec<(TcpStream, RawFd)> {
    let sockets = pairs(count);
    for (index, (_, fd)) in sockets.iter().enumerate() {
        wire.arm(*fd, handle(index as u32)).unwrap();
    }
    turn(wire);
    sockets
}

fn handle(index: u32) -> Handle {
    Handle { index, generation: index + 1 }
}

fn chunk(bytes: &[u8]) -> Chunk {
    Chunk::whole(Rc::from(bytes), Tag::Control, 1)
}

/// Submits and reaps once.
fn turn(wire: &mut Uring) -> Vec<Event> {
    let mut events = Vec::new();
    wire.submit(&mut events);
    wire.reap(&mut events);
    events
}

/// Turns until `done` says so; the hang is the failure.
fn turn_until(wire: &mut Uring, mut done: impl FnMut(&[Event]) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let events = turn(wire);
        if done(&events) {
            return;
        }
        assert!(Instant::now() < end, "it never came");
        std::thread::yield_now();
    }
}

fn readable(events: &[Event], index: u32) -> bool {
    events
        .iter()
        .any(|event| matches!(event, Event::Ready(Ready { handle, readable: true, .. }) if handle.index == index))
}

fn released(events: &[Event], wanted: Handle) -> bool {
    events.iter().any(|event| matches!(event, Event::Released(handle) if *handle == wanted))
}

/// Fills a socket until it takes nothing more; returns what it took.
fn stuff(fd: RawFd) -> usize {
    let block = [b'x'; 16 * 1024];
    let mut taken = 0;
    while let Ok(length) = socket::send(fd, &block) {
        taken += length;
    }
    taken
}

#[test]
fn a_short_send_whose_completion_overflowed_is_told_before_anything_else() {
    // An unreaped completion in the kernel's overflow list let the next frame be spliced into the unfinished one.
    let mut wire = tiny();
    let mut sockets = armed_pairs(&mut wire, 40);
    let slow = sockets[0].1;
    stuff(slow);
    for (client, _) in &mut sockets[1..] {
        client.write_all(b"news").unwrap();
    }
    // Completions pile up unreaped: the queue is full, the rest overflows.
    while !wire.ring.has_overflowed() {
        wire.ring.enter(0).unwrap();
    }
    assert!(matches!(wire.queue(slow, handle(0), &chunk(b"frame")), Queued::Later));
    let mut events = Vec::new();
    wire.submit(&mut events);
    assert!(matches!(&events[0], Event::Unsent { handle: unsent, result: Err(ErrorKind::WouldBlock), .. }
        if *unsent == handle(0)));
    wire.reap(&mut events);
    for index in 1..40 {
        assert!(readable(&events, index), "the news of {index} came out of the overflow list");
    }
}

/// Has more sockets speak than the completion queue holds, and takes nothing from it.
fn overflow(wire: &mut Uring, sockets: &mut [(TcpStream, RawFd)]) {
    for (client, _) in sockets {
        client.write_all(b"again").unwrap();
    }
    while !wire.ring.has_overflowed() {
        wire.ring.enter(0).unwrap();
    }
}

#[test]
fn a_poll_that_an_overflow_ended_is_armed_again() {
    let mut wire = tiny();
    let mut sockets = armed_pairs(&mut wire, 100);
    for round in 0..3 {
        overflow(&mut wire, &mut sockets);
        let mut heard = [false; 100];
        turn_until(&mut wire, |events| {
            for (index, heard) in heard.iter_mut().enumerate() {
                *heard |= readable(events, index as u32);
            }
            heard.iter().all(|heard| *heard)
        });
        for (_, fd) in &sockets {
            assert_eq!(wire.recv(*fd, &mut [0; 64]).unwrap(), 5, "in round {round}");
        }
    }
}

#[test]
fn the_tick_goes_on_after_an_overflow_ended_its_poll() {
    let mut wire = tiny();
    let mut sockets = armed_pairs(&mut wire, 100);
    overflow(&mut wire, &mut sockets);
    // The timer fires where nothing can be posted.
    let fired = Instant::now() + 3 * tidegate_core::limits::SWEEP_TICK;
    while Instant::now() < fired {
        wire.ring.enter(0).unwrap();
    }
    for _ in 0..3 {
        turn_until(&mut wire, |events| events.iter().any(|event| matches!(event, Event::Ticked(_))));
    }
}

#[test]
fn a_broken_entry_in_a_batch_does_not_strand_the_rest() {
    let mut wire = tiny();
    let mut sockets = pairs(3);
    assert!(matches!(wire.queue(sockets[0].1, handle(0), &chunk(b"first")), Queued::Later));
    // Refused when it is prepared, before it is tried: a no-op with a buffer group.
    let broken = opcode::Nop::new().build().flags(squeue::Flags::BUFFER_SELECT);
    // SAFETY: it points to nothing.
    assert!(unsafe { wire.ring.push(&broken) });
    // And one that fails when it is tried: no socket has this number.
    assert!(matches!(wire.queue(100_000, handle(1), &chunk(b"nothing")), Queued::Later));
    assert!(matches!(wire.queue(sockets[2].1, handle(2), &chunk(b"last")), Queued::Later));
    let mut events = Vec::new();
    // One enter: what it leaves behind would keep a pointer to a chunk that may be gone.
    let pending = wire.ring.pending();
    wire.ring.enter(pending).unwrap();
    assert_eq!(wire.ring.pending(), 0);
    wire.submit(&mut events);
    assert!(matches!(&events[0], Event::Unsent { handle: unsent, result: Err(ErrorKind::Broken), .. }
        if *unsent == handle(1)));
    let mut bytes = [0; 8];
    assert_eq!(sockets[0].0.read(&mut bytes).unwrap(), 5);
    assert_eq!(sockets[2].0.read(&mut bytes).unwrap(), 4);
    assert_eq!(&bytes[..4], b"last");
}

/// io_uring_enter(2) says EAGAIN where the kernel has no memory for requests. The shard's thread asked again and again, without an
/// end and without a pause.
#[test]
fn a_kernel_without_memory_for_entries_is_waited_for_and_nothing_is_overtaken() {
    let mut wire = tiny();
    let mut sockets = pairs(1);
    wire.queue(sockets[0].1, handle(0), &chunk(b"first "));
    wire.ring.refusals = 3;
    turn(&mut wire);
    assert_eq!((wire.ring.refusals, wire.ring.pending()), (0, 0), "the submit waits until all is taken");
    wire.send(sockets[0].1, b"second").unwrap();
    let mut bytes = [0; 12];
    sockets[0].0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"first second");
    assert!(wire.failure().is_none());
}

/// See the test before. What never ends is told, so that the node ends with a cause in place of clients that hear nothing.
#[test]
fn a_kernel_that_never_has_memory_for_entries_is_a_failure_of_the_ring() {
    let mut wire = tiny();
    let (_client, fd) = pairs(1).remove(0);
    wire.queue(fd, handle(0), &chunk(b"never"));
    wire.ring.refusals = u32::MAX;
    turn(&mut wire);
    assert!(!wire.is_settled());
    let failure = wire.failure().expect("it is told");
    assert_eq!(failure.kind(), io::ErrorKind::OutOfMemory);
}

#[test]
fn a_short_send_tells_how_much_is_out() {
    // Without MSG_WAITALL a short send counts as a success, and its completion is skipped.
    let mut wire = tiny();
    let (mut client, fd) = pairs(1).remove(0);
    let frame = vec![b'f'; 16 << 20];
    assert!(matches!(wire.queue(fd, handle(0), &chunk(&frame)), Queued::Later));
    let mut events = Vec::new();
    wire.submit(&mut events);
    let Some(Event::Unsent { result: Ok(sent), chunk, .. }) = events.first() else { panic!("nothing was short") };
    assert!(*sent > 0 && *sent < frame.len());
    assert_eq!(chunk.bytes().len(), frame.len());
    wire.discard(fd);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), *sent);
}

#[test]
fn a_chunk_is_kept_until_its_batch_is_out_and_no_longer() {
    let mut wire = tiny();
    let sockets = pairs(2);
    let frame = chunk(b"shared");
    let batch = wire.batch();
    for (index, (_, fd)) in sockets.iter().enumerate() {
        wire.queue(*fd, handle(index as u32), &frame);
    }
    assert_eq!((Rc::strong_count(&frame.buffer), wire.batch()), (3, batch));
    turn(&mut wire);
    assert_eq!(Rc::strong_count(&frame.buffer), 1);
    assert_ne!(wire.batch(), batch);
}

#[test]
fn the_number_of_a_batch_is_never_the_one_that_means_none() {
    let mut wire = tiny();
    wire.in_flight.batch = u32::MAX;
    let (_client, fd) = pairs(1).remove(0);
    wire.queue(fd, handle(0), &chunk(b"x"));
    turn(&mut wire);
    assert_eq!(wire.batch(), 1);
}

#[test]
fn a_thousand_connections_on_a_tiny_ring_lose_nothing() {
    const CONNECTIONS: u32 = 1000;
    let mut wire = tiny();
    let mut sockets = pairs(CONNECTIONS as usize);
    for (index, (_, fd)) in sockets.iter().enumerate() {
        wire.arm(*fd, handle(index as u32)).unwrap();
    }
    turn(&mut wire);
    for (index, (client, _)) in sockets.iter_mut().enumerate() {
        client.write_all(&(index as u32).to_be_bytes()).unwrap();
    }
    let mut answered = 0;
    turn_until(&mut wire, |events| {
        // Each is read at its event and never again.
        for event in events {
            if let Event::Ready(Ready { handle, readable: true, .. }) = event {
                let mut bytes = [0; 8];
                answered += u32::from(matches!(socket::recv(sockets[handle.index as usize].1, &mut bytes), Ok(4)));
            }
        }
        answered == CONNECTIONS
    });
    for (index, (_, fd)) in sockets.iter().enumerate() {
        match wire.queue(*fd, handle(index as u32), &chunk(&(index as u32).to_be_bytes())) {
            Queued::Later => {}
            Queued::Now(result) => assert_eq!(result.unwrap(), 4),
        }
    }
    let events = turn(&mut wire);
    assert!(!events.iter().any(|event| matches!(event, Event::Unsent { .. })));
    for (index, (client, _)) in sockets.iter_mut().enumerate() {
        let mut bytes = [0; 4];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_be_bytes(bytes), index as u32);
    }
    let mut free = 0;
    for (index, (_, fd)) in sockets.iter().enumerate() {
        wire.release(*fd, handle(index as u32), &mut Vec::new());
    }
    turn_until(&mut wire, |events| {
        free += events.iter().filter(|event| matches!(event, Event::Released(_))).count();
        free == CONNECTIONS as usize
    });
}

#[test]
fn nothing_that_comes_while_the_shard_falls_asleep_is_slept_through() {
    const ROUNDS: u32 = 10_000;
    /// Looks after which it sleeps although nothing came.
    const LOOKS: u32 = 64;
    let waker = Waker::new().unwrap();
    let mut wire = Uring::with_sizes(waker.clone(), TINY).unwrap();
    wire.in_flight.stop_timer();
    let (mut client, fd) = pairs(1).remove(0);
    wire.arm(fd, handle(0)).unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..ROUNDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            for _ in 0..random % 2_000 {
                std::hint::spin_loop();
            }
            client.write_all(b"!").unwrap();
            // Never two under way: a lost one cannot hide behind the next.
            heard.recv().unwrap();
        }
        client.shutdown(Shutdown::Both).unwrap();
    });
    let (mut count, mut looks) = (0, 0);
    while count < ROUNDS {
        let events = turn(&mut wire);
        if readable(&events, 0) && matches!(wire.recv(fd, &mut [0; 8]), Ok(1..)) {
            count += 1;
            said.send(()).unwrap();
        }
        waker.will_sleep();
        // Falling asleep again and again, so that something comes in the midst of it: then it must have been notified.
        while wire.may_sleep() && count < ROUNDS {
            looks += 1;
            if looks % LOOKS != 0 && wire.ring.is_quiet() {
                continue;
            }
            let mut fds = [nix::poll::PollFd::new(wire.as_fd(), nix::poll::PollFlags::POLLIN)];
            // The timer alone would end the sleep, and hide a lost wake-up: it is stopped above.
            assert_eq!(nix::poll::poll(&mut fds, 60_000u16).unwrap(), 1, "slept through round {count}");
            break;
        }
        waker.stay_awake();
    }
    writer.join().unwrap();
    wire.discard(fd);
}
