//! This node among the others: its heartbeats, and what the admin port tells of the table of nodes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use serde_json::{Value, json};

use super::metrics::NodeStateLabel;
use super::supervisor::Supervisor;
use tidegate_core::directory::{Body, Heartbeat, Message, Nodes};
use tidegate_core::limits::HEARTBEAT_INTERVAL;
use tidegate_core::relay::NodeTarget;

/// The other nodes.
pub(super) struct Cluster {
    nodes: RefCell<Nodes>,
    /// This node's number.
    own: u32,
}

impl Cluster {
    pub(super) fn new(own: u32, now: Instant) -> Self {
        Self { nodes: RefCell::new(Nodes::new(own, now)), own }
    }

    /// A message arrived on the node channel.
    fn handle_message(&self, octets: &[u8], now: Instant) {
        let Some(Message { from, body, .. }) = Message::read(octets) else {
            return tracing::debug!("a message on the node channel that this version does not read");
        };
        match body {
            Body::Heartbeat(heartbeat) => {
                let name = heartbeat.name.clone();
                if self.nodes.borrow_mut().handle_heartbeat(from, heartbeat, now) {
                    tracing::info!(name, id = %format_args!("{from:08x}"), "another node is alive");
                }
            }
            Body::Unknown => {}
        }
    }

    /// Finds the nodes that have died. Says how many are alive.
    fn look(&self, now: Instant) -> usize {
        let mut nodes = self.nodes.borrow_mut();
        let died = nodes.handle_timeout(now);
        for (node, known) in nodes.iter().filter(|(node, _)| died.contains(node)) {
            tracing::warn!(name = known.heartbeat.name, id = %format_args!("{node:08x}"), "a node missed its heartbeats and counts as dead");
        }
        nodes.alive()
    }
}

impl Supervisor {
    /// What this node says of itself.
    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            name: self.config.node_name.clone(),
            version: String::from(env!("CARGO_PKG_VERSION")),
            admin: self.config.admin.listen.to_string(),
            connections: self.connections(),
            capacity: self.capacity.get().0,
            state: String::from(NodeStateLabel::of(self.phase(), self.state.readiness()).label()),
        }
    }

    /// Takes what arrived on the node channel.
    pub(super) fn handle_node_messages(&self) {
        let now = Instant::now();
        for octets in self.publisher.take_node_messages() {
            self.cluster.handle_message(&octets, now);
        }
    }
}

/// Tells the others every [`HEARTBEAT_INTERVAL`] that this node lives, and finds out which of them do.
pub(super) async fn beat(supervisor: Rc<Supervisor>) {
    let is_alone = supervisor.config.nats.url.is_empty();
    loop {
        let alive = supervisor.cluster.look(Instant::now());
        supervisor.relay_counters.nodes_alive.set(alive as u64);
        if is_alone {
            return;
        }
        let message = Message::new(supervisor.cluster.own, Body::Heartbeat(supervisor.heartbeat()));
        supervisor.publisher.send_to_nodes(NodeTarget::All, message.write());
        monoio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

/// `GET /v1/nodes`: this node, then the others by their ids.
pub(super) fn list(supervisor: &Supervisor) -> Value {
    let own = entry(supervisor.cluster.own, &supervisor.heartbeat(), None, 0);
    let (nodes, now) = (supervisor.cluster.nodes.borrow(), Instant::now());
    let others = nodes.iter().map(|(node, known)| {
        let state = known.is_dead.then_some("dead");
        entry(node, &known.heartbeat, state, known.silence(now).as_millis() as u64)
    });
    json!({"channel": channel(supervisor), "nodes": std::iter::once(own).chain(others).collect::<Vec<_>>()})
}

/// Whether this node can hear the others.
fn channel(supervisor: &Supervisor) -> &'static str {
    let counters = &supervisor.relay_counters;
    if supervisor.config.nats.url.is_empty() {
        "none"
    } else if counters.connected.value() == 0 {
        "disconnected"
    } else if counters.node_channel_forbidden.value() == 1 {
        "forbidden"
    } else {
        "open"
    }
}

fn entry(node: u32, heartbeat: &Heartbeat, state: Option<&str>, heard_ms: u64) -> Value {
    json!({
        "node": heartbeat.name,
        "id": format!("{node:08x}"),
        "version": heartbeat.version,
        "admin": heartbeat.admin,
        "connections": heartbeat.connections,
        "capacity": heartbeat.capacity,
        "state": state.unwrap_or(&heartbeat.state),
        "lastHeardMs": heard_ms,
    })
}
