//! Other options while the shard runs: what is there already is held to them.

use super::rooms::{join, publication, say, sent};
use super::tokens::{ALICE, asks_for_tokens, told, upgrade, with_header};
use super::*;
use crate::shard::command::Command;

/// Puts other options in force.
fn change(shard: &mut Shard<TestDriver>, change: impl FnOnce(&mut Options)) {
    let mut options = Options::clone(&shard.turn.settings.options);
    change(&mut options);
    shard.handle_command(Command::Options(Arc::new(options)));
}

fn rule(pattern: &str, join: Option<Who>, publish: Option<Who>) -> RoomRule {
    RoomRule { pattern: pattern.into(), join, publish, slow: SlowPolicy::Close }
}

#[test]
fn a_member_whom_a_new_rule_keeps_out_is_told_left_and_hears_nothing_after_it() {
    let (mut shard, handle) = stage();
    join(&mut shard, handle, "lobby");
    join(&mut shard, handle, "news");
    for room in ["lobby", "news"] {
        shard.handle_relay(publication(room, r#""before""#));
    }
    change(&mut shard, |options| options.rooms = vec![rule("lobby", Some(Who::None), None)]);
    assert!(shard.has_work(), "no event brings the turn that looks");
    for room in ["lobby", "news"] {
        shard.handle_relay(publication(room, r#""while it is looked""#));
    }
    turns(&mut shard);
    let text = sent(&shard);
    let left = text.find(r#""reason":"permission""#).unwrap_or_else(|| panic!("{text}"));
    assert!(!text[left..].contains(r#""roomId":"lobby""#), "{text}");
    shard.writer.driver().deeds.clear();
    for room in ["lobby", "news"] {
        shard.handle_relay(publication(room, r#""after""#));
    }
    turns(&mut shard);
    let text = sent(&shard);
    assert!(text.contains(r#""roomId":"news""#) && !text.contains("lobby"), "{text}");
    assert!(shard.clients.is_open(handle));
    say(&mut shard, handle, r#"{"type":"join","roomId":"lobby"}"#);
    assert!(sent(&shard).contains(r#""code":"forbidden""#), "{}", sent(&shard));
}

#[test]
fn a_rule_about_publishing_holds_in_rooms_that_are_there() {
    let (mut shard, handle) = stage();
    join(&mut shard, handle, "lobby");
    change(&mut shard, |options| options.rooms = vec![rule("*", None, Some(Who::None))]);
    turns(&mut shard);
    assert_eq!(sent(&shard), "", "a member that may stay is told nothing");
    say(&mut shard, handle, r#"{"type":"message","roomId":"lobby","content":1}"#);
    assert!(sent(&shard).contains("only backends publish"), "{}", sent(&shard));
    change(&mut shard, |options| options.rooms.clear());
    turns(&mut shard);
    shard.writer.driver().deeds.clear();
    while shard.poll_relay().is_some() {}
    say(&mut shard, handle, r#"{"type":"message","roomId":"lobby","content":1}"#);
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Publish(..))), "{}", sent(&shard));
}

#[test]
fn guests_are_closed_when_they_are_refused_from_now_on_and_users_stay() {
    let request = with_header(&format!("Authorization: Bearer {}", super::tokens::token(ALICE)));
    for (request, stays) in [(REQUEST, false), (&*request, true)] {
        let (mut shard, handle) = upgrade(request, |options| options.auth.as_mut().unwrap().guests = true);
        told(&mut shard);
        change(&mut shard, |options| options.auth.as_mut().unwrap().guests = false);
        turns(&mut shard);
        assert_eq!(shard.clients.is_open(handle), stays, "{request}");
        let text = told(&mut shard);
        assert_eq!(text.contains(r#""code":"unauthorized","reason":"missing""#), !stays, "{text}");
    }
}

#[test]
fn a_node_that_begins_to_ask_for_tokens_closes_guests_and_one_that_ends_it_keeps_users_as_guests() {
    let (mut shard, handle) = stage();
    change(&mut shard, asks_for_tokens);
    turns(&mut shard);
    assert!(!shard.clients.is_open(handle));
    let request = with_header(&format!("Authorization: Bearer {}", super::tokens::token(ALICE)));
    let (mut shard, handle) = upgrade(&request, |_| {});
    join(&mut shard, handle, "chat.a");
    change(&mut shard, |options| options.auth = None);
    turns(&mut shard);
    assert_eq!(told(&mut shard), "");
    // Long after the end of its token.
    super::tokens::pass(&mut shard, 150);
    assert!(shard.clients.is_open(handle) && !told(&mut shard).contains("token"));
}

#[test]
fn a_crowd_is_looked_at_in_shares_so_that_no_client_waits_for_a_reload() {
    const CROWD: u32 = 60;
    let (mut shard, _) = stage_with(|_, budgets| budgets.connections = u64::from(CROWD));
    for handle in crowd(&mut shard, CROWD) {
        join(&mut shard, handle, "lobby");
    }
    change(&mut shard, |options| options.rooms = vec![rule("*", Some(Who::None), None)]);
    let told = |shard: &Shard<TestDriver>| sent(shard).matches(r#""reason":"permission""#).count();
    shard.reap();
    let first = told(&shard);
    assert!((1..CROWD as usize).contains(&first), "{first} in one turn");
    assert!(shard.has_work());
    turns(&mut shard);
    assert_eq!(told(&shard), CROWD as usize);
    assert!(!shard.has_work());
}

#[test]
fn limits_and_rates_of_a_reload_hold_for_connections_that_are_there() {
    let (mut shard, handle) = stage();
    change(&mut shard, |options| {
        options.limits.rooms_per_connection = 1;
        options.limits.outbox_total_bytes = Some(12_345);
    });
    turns(&mut shard);
    assert_eq!(shard.turn.settings.budgets.outbox_bytes, 12_345);
    join(&mut shard, handle, "one");
    say(&mut shard, handle, r#"{"type":"join","roomId":"two"}"#);
    assert!(sent(&shard).contains(r#""code":"room-limit""#), "{}", sent(&shard));
    change(&mut shard, |options| options.connection_rate = 1);
    for fd in 0..3 {
        shard.writer.driver().incoming.extend(REQUEST.bytes());
        shard.handle_accepted(FD + 1 + fd, Arrival::default());
        let handle = shard.clients.handle_at(1 + fd as u32).unwrap();
        ready(&mut shard, handle, false);
        turns(&mut shard);
    }
    assert_eq!(shard.turn.counters.refused[Refusal::ConnectionRate as usize].value(), 2);
}
