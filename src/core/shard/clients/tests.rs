use super::*;
use crate::conn::ticks;
use crate::shard::test_driver::{open, turn};

const fn readable(token: Token) -> Ready {
    Ready { token, readable: true, writable: false, hangup: false }
}

#[test]
fn a_connection_is_on_the_ready_list_once_however_often_its_socket_is_ready() {
    let turn = turn(1, |_, _| {});
    let (mut clients, tokens) = open(&turn, 2);
    for token in [tokens[0], tokens[1], tokens[0]] {
        assert!(!clients.note_ready(readable(token)), "nothing waits in its outbox");
    }
    clients.read_again(tokens[1]);
    assert_eq!([(); 3].map(|()| clients.next_ready()), [Some(tokens[0]), Some(tokens[1]), None]);
}

#[test]
fn a_connection_over_its_message_rate_is_ready_again_with_the_next_tick() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, tokens) = open(&turn, 1);
    clients.read_with_next_tick(tokens[0]);
    clients.note_ready(readable(tokens[0]));
    assert_eq!(clients.next_ready(), None, "an event in between changes nothing");
    clients.tick(&mut turn, 1, false);
    assert_eq!(clients.next_ready(), Some(tokens[0]));
}

#[test]
fn an_end_is_decided_once_and_a_broken_socket_is_released_whatever_was_decided() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, tokens) = open(&turn, 1);
    let token = tokens[0];
    clients.close(&mut turn, token, CloseReason::SlowReader);
    clients.close(&mut turn, token, CloseReason::Operator);
    clients.refuse(&mut turn, token, Refusal::Timeout);
    clients.gone(&mut turn, token, CloseReason::Reset);
    let endings =
        [Ending::Close(token, CloseReason::SlowReader), Ending::Gone(token, CloseReason::Reset, State::Ending)];
    assert_eq!(turn.endings, endings);
    assert_eq!(clients.find(token).unwrap().reason, Some(CloseReason::SlowReader), "the first reason stays");
    assert!(!clients.is_open(token));
}

#[test]
fn a_look_finds_each_connection_of_a_drain_once_within_its_window() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, tokens) = open(&turn, 100);
    let window = ticks(std::time::Duration::from_secs(5));
    let leaving = Some(Leaving { drain: Some((turn.clock.tick, window)), max_age: 0 });
    let mut left = Vec::new();
    for _ in 0..window {
        clients.tick(&mut turn, 1, true);
        let mut looks = usize::MAX;
        while let Some((token, finding)) = clients.look(&turn, leaving, &mut looks) {
            assert_eq!(finding, Finding::Close(CloseReason::Drain));
            clients.close(&mut turn, token, CloseReason::Drain);
            left.push(token);
        }
        clients.end_round(&turn);
    }
    left.sort_unstable_by_key(|token| token.index);
    assert_eq!(left, tokens);
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
