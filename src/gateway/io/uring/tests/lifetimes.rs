//! From arming a socket's poll to its last completion: what is told of it, what is sent before its end, when its slot is free.

use super::*;

#[test]
fn a_slot_is_free_only_when_its_poll_has_said_its_last() {
    let mut wire = tiny();
    wire.in_flight.stop_timer();
    let mut sockets = pairs(2);
    let (first, second) = (Handle { index: 7, generation: 1 }, Handle { index: 7, generation: 2 });
    wire.arm(sockets[0].1, first).unwrap();
    turn(&mut wire);
    // The poll has fired, and stays armed, and what it said is not taken yet when the connection is released.
    sockets[0].0.write_all(b"late").unwrap();
    while wire.ring.completions().len() == 0 {
        wire.ring.enter(0).unwrap();
    }
    let mut events = Vec::new();
    wire.release(sockets[0].1, first, &mut events);
    assert!(events.is_empty(), "the poll is still armed");
    let mut told = Vec::new();
    turn_until(&mut wire, |new| {
        told.extend(new.iter().map(|event| format!("{event:?}")));
        released(new, first)
    });
    assert_eq!(told.len(), 1, "nothing but the release is told of a released connection: {told:?}");
    wire.arm(sockets[1].1, second).unwrap();
    sockets[1].0.write_all(b"mine").unwrap();
    let mut seen = Vec::new();
    turn_until(&mut wire, |events| {
        seen.extend(events.iter().filter_map(|event| match event {
            Event::Ready(ready) => Some(ready.handle),
            _ => None,
        }));
        readable(events, 7)
    });
    assert!(seen.iter().all(|handle| *handle == second), "{seen:?}");
}

#[test]
fn a_socket_that_is_finished_and_discarded_beside_queued_sends_keeps_its_number_until_its_fin_is_out() {
    // The FIN waited for the batch and the close did not: the number could be another connection's by then, and its stream ended.
    let mut wire = tiny();
    let mut sockets = pairs(2);
    wire.queue(sockets[0].1, handle(0), &chunk(b"queued"));
    let refused = sockets[1].1;
    wire.finish(refused);
    wire.discard(refused);
    assert!(wire.peer(refused).is_some(), "the number is free for another connection before the FIN is out");
    turn(&mut wire);
    let mut octets = Vec::new();
    assert_eq!(sockets[1].0.read_to_end(&mut octets).unwrap(), 0, "FIN and close, in this order");
    let mut octets = [0; 6];
    sockets[0].0.read_exact(&mut octets).unwrap();
    assert_eq!(&octets, b"queued");
}

#[test]
fn a_connection_released_before_its_poll_was_handed_over_is_released_all_the_same() {
    let mut wire = tiny();
    let (mut client, fd) = pairs(1).remove(0);
    wire.arm(fd, handle(0)).unwrap();
    wire.release(fd, handle(0), &mut Vec::new());
    turn_until(&mut wire, |events| released(events, handle(0)));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_connection_released_while_the_kernel_refuses_the_poll_is_free_at_once_and_until_then_the_driver_sleeps() {
    let mut wire = tiny();
    wire.in_flight.stop_timer();
    let (mut client, fd) = pairs(1).remove(0);
    // No socket has this number; then one gets it, so that it can be closed.
    let later = 9_001;
    wire.arm(later, handle(0)).unwrap();
    turn_until(&mut wire, |events| events.iter().any(|event| matches!(event, Event::Ready(ready) if ready.hangup)));
    let sleeps = (0..50).any(|_| turn(&mut wire).is_empty() && wire.may_sleep());
    assert!(sleeps, "a poll that is refused is not tried in a circle");
    // SAFETY: the number is free; the socket is moved to it and then belongs to the driver.
    assert_eq!(unsafe { libc::dup2(fd, later) }, later);
    socket::close(fd);
    let mut events = Vec::new();
    wire.release(later, handle(0), &mut events);
    assert!(released(&events, handle(0)), "no poll is armed that could say its last");
    turn(&mut wire);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_wire_that_has_something_to_hand_over_does_not_sleep() {
    let mut wire = tiny();
    wire.in_flight.stop_timer();
    let (_client, fd) = pairs(1).remove(0);
    let settles = |wire: &mut Uring| (0..1_000).any(|_| turn(wire).is_empty() && wire.may_sleep());
    assert!(settles(&mut wire));
    wire.arm(fd, handle(0)).unwrap();
    assert!(!wire.may_sleep(), "the poll is to be armed");
    assert!(settles(&mut wire));
    wire.release(fd, handle(0), &mut Vec::new());
    assert!(!wire.may_sleep(), "the poll is to be cancelled and the socket closed");
}

#[test]
fn what_is_queued_goes_before_the_fin_and_before_the_close() {
    let mut wire = tiny();
    let mut sockets = armed_pairs(&mut wire, 2);
    wire.queue(sockets[0].1, handle(0), &chunk(b"bye"));
    wire.queue(sockets[1].1, handle(1), &chunk(b"bye"));
    wire.finish(sockets[0].1);
    wire.release(sockets[1].1, handle(1), &mut Vec::new());
    turn_until(&mut wire, |events| released(events, handle(1)));
    for (client, _) in &mut sockets {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"bye");
    }
}

#[test]
fn a_reset_is_a_reset_although_a_poll_was_armed() {
    let mut wire = tiny();
    let (mut client, fd) = pairs(1).remove(0);
    wire.arm(fd, handle(0)).unwrap();
    turn(&mut wire);
    wire.reset(fd);
    wire.release(fd, handle(0), &mut Vec::new());
    turn_until(&mut wire, |events| released(events, handle(0)));
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_poll_that_the_kernel_refuses_is_tried_again_at_the_next_tick() {
    let mut wire = tiny();
    // No socket has this number now; then one gets it.
    let (mut client, fd) = pairs(1).remove(0);
    let later = 9_000;
    wire.arm(later, handle(0)).unwrap();
    turn_until(&mut wire, |events| events.iter().any(|event| matches!(event, Event::Ready(ready) if ready.hangup)));
    // SAFETY: the number is free; the socket is moved to it and then belongs to the driver.
    assert_eq!(unsafe { libc::dup2(fd, later) }, later);
    socket::close(fd);
    client.write_all(b"here").unwrap();
    turn_until(&mut wire, |events| readable(events, 0));
    wire.release(later, handle(0), &mut Vec::new());
    turn_until(&mut wire, |events| released(events, handle(0)));
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
}
