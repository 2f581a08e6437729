//! The process's own signals. Alone in its binary: handlers belong to the process.

mod admin_support;

use std::time::Duration;

use admin_support::{TestNode, eventually};
use nix::sys::signal::{Signal, raise};
use tidegate::gateway::admin::Outcome;
use tidegate::gateway::config::{Config, Drain};

#[test]
fn a_hangup_is_ignored_a_sigterm_drains_and_a_sigint_after_it_ends_at_once() {
    let config = Config { drain: Drain { delay: Duration::from_secs(600), ..Drain::default() }, ..Config::default() };
    let (node, _relay) = TestNode::with_real_signals(config);
    node.relay_counters.was_connected.set(1);
    assert_eq!(node.get("/ready").status, 200, "it serves, so its handlers are in place");

    raise(Signal::SIGHUP).unwrap();
    raise(Signal::SIGPIPE).unwrap();
    assert_eq!(node.get("/ready").status, 200);

    raise(Signal::SIGTERM).unwrap();
    eventually("it is not ready", || node.get("/ready").status == 503);

    raise(Signal::SIGINT).unwrap();
    let outcome = node.outcome();
    assert_eq!((outcome.exit_code(), outcome), (1, Outcome::Forced));
}
