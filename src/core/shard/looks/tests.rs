use std::sync::{Arc, Mutex};

use super::*;
use crate::shard::command::Command;
use crate::shard::test_driver::TestDriver;
use crate::shard::tests::rooms::{join, publication, sent};
use crate::shard::tests::{stage_with, turns};

/// What a look has answered, once it has.
type Answer<T> = Arc<Mutex<Option<T>>>;

fn reply<T: Send + 'static>() -> (Answer<T>, Reply<T>) {
    let answer: Answer<T> = Arc::default();
    let place = answer.clone();
    (answer, Box::new(move |value| *place.lock().unwrap() = Some(value)))
}

fn taken<T>(answer: &Answer<T>) -> Option<T> {
    answer.lock().unwrap().take()
}

/// A shard with one client that is in `lobby`, and so many connections beside it.
fn shard_of(others: usize) -> Shard<TestDriver> {
    let (mut shard, handle) = stage_with(|_, budgets| budgets.connections = others as u64 + 1);
    join(&mut shard, handle, "lobby");
    for _ in 0..others {
        shard.clients.insert(&shard.turn, |generation| Entry::new(99, generation, 1, 0));
    }
    shard
}

/// The slot that the look under way is at.
fn place(shard: &Shard<TestDriver>) -> Option<u32> {
    shard.looks.0.front().map(|look| match look {
        Look::Rooms(look) => look.next,
        Look::Connections(look) => look.next,
    })
}

/// One turn of the loop with a publication into `lobby` in it; whether that was delivered.
fn turn_with_delivery(shard: &mut Shard<TestDriver>) -> bool {
    shard.writer.driver().deeds.clear();
    shard.reap();
    shard.serve_ready(10);
    shard.handle_relay(publication("lobby", "1"));
    shard.fan_out(10);
    shard.submit();
    sent(shard).contains(r#""type":"message""#)
}

/// An operator's query for the connections with the largest outboxes looked at all of them in one turn: with a million
/// connections the shard's clients waited for it, each time that a dashboard asked.
#[test]
fn a_look_at_all_connections_takes_a_bounded_part_of_each_turn_and_deliveries_go_on_between() {
    const TURNS: usize = 4;
    for by_outbox in [true, false] {
        let mut shard = shard_of(TURNS * ENTRIES - 1);
        let (answer, reply) = reply();
        // In the order of the slots, a look is through when its list is full.
        let limit = if by_outbox { 3 } else { TURNS * ENTRIES };
        shard.handle_command(Command::Connections { by_outbox, limit, reply });
        let (mut turns, mut before) = (0, 0);
        while let Some(now) = place(&shard) {
            assert!((now - before) as usize <= ENTRIES, "{} slots in one turn", now - before);
            before = now;
            assert!(shard.has_work() && taken(&answer).is_none());
            assert!(turn_with_delivery(&mut shard), "nothing is delivered in turn {turns} of the look");
            turns += 1;
        }
        let listed = taken(&answer).expect("the look is over and was not answered");
        assert_eq!(listed.len(), limit);
        assert!(turns >= TURNS, "{turns} turns for {TURNS} times the slots of one");
    }
}

#[test]
fn a_look_at_all_rooms_takes_a_bounded_part_of_each_turn_and_deliveries_go_on_between() {
    const TURNS: usize = 3;
    let mut shard = shard_of(1);
    let handle = shard.clients.handle_at(1).unwrap();
    let request = || crate::shard::upstream::Request { handle, reference: None };
    for number in 1..TURNS * ENTRIES {
        let Shard { turn, rooms, upstream, writer, clients, .. } = &mut shard;
        clients.find(handle).unwrap().rooms = crate::connection::Rooms::None;
        rooms.join(turn, upstream, writer, clients, &number.to_string(), request());
    }
    let (answer, reply) = reply();
    shard.handle_command(Command::Rooms { limit: 2, reply });
    let (mut turns, mut before) = (0, 0);
    while let Some(now) = place(&shard) {
        assert!((now - before) as usize <= ENTRIES, "{} rooms in one turn", now - before);
        before = now;
        assert!(taken(&answer).is_none() && turn_with_delivery(&mut shard));
        turns += 1;
    }
    assert!(turns >= TURNS, "{turns}");
    let rooms = taken(&answer).unwrap();
    assert_eq!((rooms[0].room.as_str(), rooms[0].members, rooms.len()), ("lobby", 1, 2));
}

#[test]
fn the_largest_outboxes_come_first_and_connections_that_go_before_they_are_described_are_left_out() {
    let mut shard = shard_of(2 * ENTRIES);
    let [small, large, gone] = [5, 6, 2 * ENTRIES as u32].map(|index| shard.clients.handle_at(index).unwrap());
    for (handle, octets) in [(small, 10), (large, 1_000), (gone, 5_000)] {
        shard.clients.find(handle).unwrap().state = State::Open;
        shard.writer.driver().room = 0;
        shard.writer.transmit(&mut shard.turn, &mut shard.clients, handle, &vec![0; octets]);
    }
    let (answer, reply) = reply();
    shard.handle_command(Command::Connections { by_outbox: true, limit: 3, reply });
    shard.reap();
    shard.reap();
    assert!(taken(&answer).is_none());
    let slots = place(&shard).unwrap();
    assert_eq!(slots as usize, 2 * ENTRIES);
    // It has not come by the last one, which goes; one that was looked at goes too, and another takes its slot.
    for handle in [gone, small] {
        shard.clients.remove(&shard.turn, handle);
    }
    shard.clients.insert(&shard.turn, |generation| Entry::new(99, generation, 1, 0));
    turns(&mut shard);
    let listed: Vec<_> = taken(&answer).unwrap().into_iter().map(|info| info.id).collect();
    let id = |index| shard.turn.id(shard.clients.handle_at(index).unwrap()).to_string();
    assert_eq!(listed, [id(large.index), id(0)]);
}

#[test]
fn looks_share_a_turn_and_are_answered_in_order_and_a_few_wait_at_most() {
    let mut shard = shard_of(ENTRIES);
    let answers: Vec<_> = (0..2 * WAITING_LOOKS)
        .map(|_| {
            let (answer, reply) = reply();
            shard.handle_command(Command::Connections { by_outbox: true, limit: 1, reply });
            answer
        })
        .collect();
    let mut answered_in = Vec::new();
    for turn in 0..4 * WAITING_LOOKS {
        shard.reap();
        let now: Vec<_> = (0..answers.len()).filter(|n| taken(&answers[*n]).is_some()).collect();
        assert!(now.len() <= 1, "looks {now:?} were answered in one turn, each at all connections");
        answered_in.extend(now.into_iter().map(|look| (look, turn)));
    }
    let order: Vec<_> = answered_in.iter().map(|(look, _)| *look).collect();
    assert_eq!(order, (0..WAITING_LOOKS).collect::<Vec<_>>(), "those that asked first, and no more");
    assert!(
        answers.iter().skip(WAITING_LOOKS).all(|answer| Arc::strong_count(answer) == 1),
        "their replies are dropped"
    );
}
