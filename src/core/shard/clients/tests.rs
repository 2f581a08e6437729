use super::*;
use crate::connection::ticks;
use crate::shard::test_driver::{open, turn};

const fn readable(handle: Handle) -> Ready {
    Ready { handle, readable: true, writable: false, hangup: false }
}

#[test]
fn a_connection_is_on_the_ready_list_once_however_often_its_socket_is_ready() {
    let turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 2);
    for handle in [handles[0], handles[1], handles[0]] {
        assert!(!clients.note_ready(readable(handle)), "nothing waits in its outbox");
    }
    clients.read_again(handles[1]);
    assert_eq!([(); 3].map(|()| clients.next_ready()), [Some(handles[0]), Some(handles[1]), None]);
}

#[test]
fn a_connection_over_its_message_rate_is_ready_again_with_the_next_tick() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 1);
    clients.read_with_next_tick(handles[0]);
    clients.note_ready(readable(handles[0]));
    assert_eq!(clients.next_ready(), None, "an event in between changes nothing");
    clients.tick(&mut turn, 1, false);
    assert_eq!(clients.next_ready(), Some(handles[0]));
}

#[test]
fn an_end_is_decided_once_and_a_broken_socket_is_released_whatever_was_decided() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 1);
    let handle = handles[0];
    clients.close(&mut turn, handle, CloseReason::SlowReader);
    clients.close(&mut turn, handle, CloseReason::Operator);
    clients.refuse(&mut turn, handle, Refusal::Timeout);
    clients.gone(&mut turn, handle, CloseReason::Reset);
    let endings =
        [Ending::Close(handle, CloseReason::SlowReader), Ending::Gone(handle, CloseReason::Reset, State::Ending)];
    assert_eq!(turn.endings, endings);
    assert_eq!(clients.find(handle).unwrap().reason, Some(CloseReason::SlowReader), "the first reason stays");
    assert!(!clients.is_open(handle));
}

#[test]
fn a_look_finds_each_connection_of_a_drain_once_within_its_window() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 100);
    let window = ticks(std::time::Duration::from_secs(5));
    let leaving = Some(Leaving { drain: Some((turn.clock.tick, window)), max_age: 0 });
    let mut left = Vec::new();
    for _ in 0..window {
        clients.tick(&mut turn, 1, true);
        let mut looks = usize::MAX;
        while let Some((handle, finding)) = clients.look(&turn, leaving, &mut looks) {
            assert_eq!(finding, Finding::Close(CloseReason::Drain));
            clients.close(&mut turn, handle, CloseReason::Drain);
            left.push(handle);
        }
        clients.end_round(&turn);
    }
    left.sort_unstable_by_key(|handle| handle.index);
    assert_eq!(left, handles);
}

#[test]
fn a_sweep_looks_no_more_often_than_it_may() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, _) = open(&turn, 50);
    clients.tick(&mut turn, 1, true);
    let mut looks = 3;
    assert_eq!(clients.look(&turn, None, &mut looks), None);
    assert!(looks == 0 && clients.is_sweep_due(), "two of the tick's five are still to be looked at");
    assert_eq!(clients.look(&turn, None, &mut 10), None);
    assert!(!clients.is_sweep_due());
}
