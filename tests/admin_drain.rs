//! A node's end, as the admin thread steers it: signals, `POST /drain`, shards that do not do what they are told.

mod admin_support;

use std::time::Duration;

use admin_support::{Shard, TestNode, eventually};
use tidegate::gateway::admin::Outcome;
use tidegate::gateway::config::{Config, Drain};
use tidegate_core::limits::Limits;

fn config(window_ms: u64) -> Config {
    let limits = Limits { close_deadline: Duration::from_millis(10), ..Limits::default() };
    Config {
        drain: Drain { window: Some(Duration::from_millis(window_ms)), ..Drain::default() },
        limits,
        ..Config::default()
    }
}

#[test]
fn a_signal_refuses_drains_and_stops_every_shard_and_ends_clean() {
    let (node, _relay) = TestNode::with_fake_relay(config(100), [Shard::Obedient; 2]);
    let log = node.commands.clone();
    node.signal();
    let outcome = node.outcome();
    assert_eq!((outcome.exit_code(), outcome), (0, Outcome::Drained));
    for shard in 0..2 {
        let seen: Vec<_> = log.lock().unwrap().iter().filter(|(n, _)| *n == shard).map(|(_, o)| o.clone()).collect();
        assert_eq!(seen, ["Refuse", "Drain", "Stop"]);
    }
}

#[test]
fn during_the_delay_the_node_is_unready_and_refuses_no_connection() {
    let (node, _relay) = TestNode::with_fake_relay(
        Config { drain: Drain { delay: Duration::from_secs(60), ..config(100).drain }, ..config(100) },
        [Shard::Obedient],
    );
    node.relay_counters.was_connected.set(1);
    assert_eq!(node.get("/ready").status, 200);
    node.signal();
    eventually("it is not ready", || node.get("/ready").status == 503);
    assert_eq!(node.get("/ready").json()["reason"], "draining");
    assert_eq!(node.commands_of(0), [""; 0]);
    assert_eq!(node.get("/v1/node").json()["phase"], "delaying");
    node.signal();
    let outcome = node.outcome();
    assert_eq!((outcome.exit_code(), outcome), (1, Outcome::Forced));
}

#[test]
fn a_requested_drain_empties_the_node_and_waits_for_the_signal() {
    let (node, _relay) = TestNode::with_fake_relay(config(100), [Shard::Obedient; 2]);
    assert_eq!(node.post("/drain", "", "").status, 202);
    eventually("it is drained", || node.post("/drain", "", "").status == 200);
    let answer = node.post("/drain", "", "").json();
    assert_eq!((answer["phase"].as_str(), answer["connections"].as_u64()), (Some("drained"), Some(0)));
    assert_eq!(node.get("/ready").status, 503);
    assert_eq!(node.get("/live").status, 200);
    assert_eq!(node.commands_of(0), ["Refuse", "Drain"], "requested twice, commanded once, and not stopped");
    node.stop();
}

/// A drain that an operator began by mistake had no way back: the node's clients were gone, and the node with them.
#[test]
fn a_requested_drain_is_taken_back_before_and_after_the_node_is_empty() {
    let (node, _relay) = TestNode::with_fake_relay(config(100), [Shard::Obedient; 2]);
    node.relay_counters.was_connected.set(1);
    let undrain = || node.ask("DELETE /drain HTTP/1.1\r\nhost: node\r\n\r\n");
    let state = |state: &str| node.get("/metrics").body.contains(&format!("ws_node_state{{state=\"{state}\"}} 1\n"));
    assert_eq!((undrain().status, undrain().json()["phase"].as_str()), (200, Some("serving")));
    assert!(state("ready") && !state("draining"));
    for again in 1..=2 {
        assert_eq!(node.post("/drain", "", "").status, 202);
        eventually("it is drained", || node.post("/drain", "", "").status == 200);
        assert!(state("drained"));
        assert_eq!((undrain().status, node.get("/ready").status), (200, 200));
        assert_eq!(node.get("/v1/node").json()["phase"], "serving");
        let expected = ["Refuse", "Drain", "Resume"].repeat(again);
        eventually("the shards are told", || node.commands_of(1) == expected);
    }
    node.stop();
}

#[test]
fn after_a_signal_a_drain_is_not_taken_back() {
    let (node, _relay) = TestNode::with_fake_relay(config(60_000), [Shard::Clinging]);
    assert_eq!(node.post("/drain", "", "").status, 202);
    node.signal();
    let undrain = || node.ask("DELETE /drain HTTP/1.1\r\nhost: node\r\n\r\n");
    eventually("the signal came", || undrain().status == 409);
    assert_eq!(undrain().error(), (409, "stopping".into()));
    assert_eq!(node.get("/ready").json()["reason"], "draining");
    node.signal();
    assert_eq!(node.outcome(), Outcome::Forced);
}

#[test]
fn clients_that_stay_are_cut_at_the_deadline_and_the_end_is_still_clean() {
    let (node, _relay) = TestNode::with_fake_relay(config(1), [Shard::Clinging]);
    node.signal();
    let outcome = node.outcome();
    assert_eq!((outcome.exit_code(), outcome), (0, Outcome::DeadlinePassed));
}

#[test]
fn a_shard_that_dies_takes_the_node_with_it() {
    let (node, _relay) = TestNode::with_fake_relay(config(100), [Shard::Obedient, Shard::Fragile]);
    node.signal();
    let outcome = node.outcome();
    assert_eq!(outcome.exit_code(), 1);
    let reason = String::from("it panicked: this shard is fragile");
    assert_eq!(outcome, Outcome::ShardFailed { shard: 1, reason });
}

#[test]
fn a_shard_that_fails_at_the_very_end_is_not_called_a_clean_end() {
    let (node, _relay) = TestNode::with_fake_relay(config(100), [Shard::Sore]);
    node.signal();
    assert_eq!(node.outcome(), Outcome::ShardFailed { shard: 0, reason: String::from("it hurts") });
}
