//! Readiness: whether the node wants traffic. One answer for `/ready` on the admin port and `/health` on the public one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::counters::RelayCounters;

/// Why a node is ready, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It wants connections.
    Ready,
    /// It closes its clients, and they connect to other nodes.
    Draining,
    /// Keys of a provider were not loaded yet: its tokens cannot be verified.
    KeysNeverLoaded,
    /// The broker was not reached yet: no join could be confirmed.
    NeverConnected,
    /// The broker is away, and `ready.require_broker` makes that a reason.
    Disconnected,
}

impl Readiness {
    /// The HTTP status.
    pub const fn status(self) -> u16 {
        if matches!(self, Self::Ready) { 200 } else { 503 }
    }

    /// In a few words, for the service manager's status line.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "the node drains",
            Self::KeysNeverLoaded => "the keys at auth.jwks_url were not loaded yet",
            Self::NeverConnected => "the broker was not reached yet",
            Self::Disconnected => "the broker is away",
        }
    }

    /// The JSON body, one line: says why not, and what to do.
    pub const fn body(self) -> &'static str {
        match self {
            Self::Ready => "{\"ready\":true}\n",
            Self::Draining => {
                "{\"ready\":false,\"reason\":\"draining\",\"message\":\"the node drains; use another one\"}\n"
            }
            Self::KeysNeverLoaded => {
                "{\"ready\":false,\"reason\":\"keys-never-loaded\",\"message\":\"the keys at auth.jwks_url were not loaded yet; \
                 the log names the error\"}\n"
            }
            Self::NeverConnected => {
                "{\"ready\":false,\"reason\":\"broker-never-reached\",\"message\":\"the broker was not reached yet; \
                 check --nats-url, its credentials and the network\"}\n"
            }
            Self::Disconnected => {
                "{\"ready\":false,\"reason\":\"broker-away\",\"message\":\"the broker is away and \
                 ready.require_broker is set; reconnecting\"}\n"
            }
        }
    }
}

/// What shards and the admin side know of the node together. The admin side writes, every thread reads.
#[derive(Debug)]
pub struct NodeState {
    draining: AtomicBool,
    /// Keys are to be fetched that were never loaded.
    awaits_keys: AtomicBool,
    /// Connections that the node admits now; it follows the host's memory.
    capacity: AtomicU64,
    require_broker: bool,
    relay: Arc<RelayCounters>,
}

impl NodeState {
    /// A node that serves; `require_broker` is `ready.require_broker`.
    pub fn new(relay: Arc<RelayCounters>, require_broker: bool) -> Arc<Self> {
        Arc::new(Self {
            draining: AtomicBool::new(false),
            awaits_keys: AtomicBool::new(false),
            capacity: AtomicU64::new(u64::MAX),
            require_broker,
            relay,
        })
    }

    /// Whether the node wants traffic, as of now.
    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Relaxed) {
            Readiness::Draining
        } else if self.relay.was_connected.value() == 0 && self.relay.connected.value() == 0 {
            Readiness::NeverConnected
        } else if self.require_broker && self.relay.connected.value() == 0 {
            Readiness::Disconnected
        } else if self.awaits_keys.load(Relaxed) {
            Readiness::KeysNeverLoaded
        } else {
            Readiness::Ready
        }
    }

    /// Bytes of the largest message that can be published now: the smaller of `limits.message_bytes` and what the broker takes. It
    /// changes when the node comes to another broker. `None` before the relay has started.
    pub fn message_bytes(&self) -> Option<usize> {
        usize::try_from(self.relay.message_bytes.value()).ok().filter(|bytes| *bytes > 0)
    }

    /// Connections that the node admits now, beside what its budgets allow.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Relaxed)
    }

    /// From now on the node admits so many connections; those that are open stay.
    pub fn set_capacity(&self, connections: u64) {
        self.capacity.store(connections, Relaxed);
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// A drain begins, or is taken back.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
    }

    /// Whether keys are to be fetched that were never loaded.
    pub fn set_awaits_keys(&self, awaits: bool) {
        self.awaits_keys.store(awaits, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_the_broker_was_reached_and_stays_so_while_it_is_away() {
        let relay = Arc::new(RelayCounters::default());
        let state = NodeState::new(relay.clone(), false);
        assert_eq!(state.readiness(), Readiness::NeverConnected);
        relay.connected.set(1);
        relay.was_connected.set(1);
        assert_eq!(state.readiness(), Readiness::Ready);
        relay.connected.set(0);
        assert_eq!(state.readiness(), Readiness::Ready);
    }

    #[test]
    fn a_lost_broker_counts_where_it_is_required() {
        let relay = Arc::new(RelayCounters::default());
        relay.was_connected.set(1);
        let state = NodeState::new(relay, true);
        assert_eq!(state.readiness(), Readiness::Disconnected);
    }

    #[test]
    fn a_node_whose_keys_were_never_loaded_is_not_ready() {
        let relay = Arc::new(RelayCounters::default());
        relay.connected.set(1);
        let state = NodeState::new(relay, false);
        state.set_awaits_keys(true);
        assert_eq!(state.readiness(), Readiness::KeysNeverLoaded);
        state.set_awaits_keys(false);
        assert_eq!(state.readiness(), Readiness::Ready);
    }

    #[test]
    fn a_drain_is_the_first_reason_to_say() {
        let state = NodeState::new(Arc::new(RelayCounters::default()), true);
        state.set_draining(true);
        assert_eq!(state.readiness(), Readiness::Draining);
        assert!(state.is_draining());
    }

    #[test]
    fn every_body_is_json_that_agrees_with_its_status() {
        let all = [Readiness::Ready, Readiness::Draining, Readiness::KeysNeverLoaded, Readiness::NeverConnected];
        for readiness in all.into_iter().chain([Readiness::Disconnected]) {
            let body: serde_json::Value = serde_json::from_str(readiness.body()).unwrap();
            assert_eq!(body["ready"], readiness.status() == 200);
        }
    }
}
