//! `GET /metrics`: what the shards and the relay count, in Prometheus' text format. Pure but for the process's own figures.
//!
//! Which metrics there are is said where their counters are (`metrics!`). Counters that every shard keeps are summed; what only
//! makes sense per shard has the label `shard`. Every label's values come from a fixed table, so the number of series is fixed
//! from the start, and each is there from the first scrape.

mod exposition;
mod process;

use prometheus::TextEncoder;
use prometheus::proto::{MetricFamily, MetricType};

use super::drain::Phase;
use super::requests::Requests;
use crate::gateway::log::{self, DropReason};
use exposition::Exposition;
use tidegate_core::counters::{Cell, RelayCounters, ShardCounters};
use tidegate_core::metric::{Labelled, counter, gauge, metrics};
use tidegate_core::readiness::Readiness;

/// The content type of the exposition.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

metrics! {
    /// What is known of the node without counting.
    struct NodeFigures {
        /// Connections that this node admits.
        capacity: Option<f64> => gauge("ws_connection_capacity"),
            gauge("pod_connection_capacity")
                .help("Connections that this node admits; the same as ws_connection_capacity.");
        /// Open connections of the admin port.
        admin_connections: Option<f64> => gauge("tidegate_admin_connections");
        /// Connections of the admin port that were closed to make place for new ones.
        admin_given_way: Option<f64> => counter("tidegate_admin_connections_given_way_total");
        /// Answers of the admin port, by route and status; none is what no route serves. Scrapes count too.
        admin_requests: Vec<Labelled> => counter("tidegate_admin_requests_total");
        /// 1 for the state that the node is in, 0 for the others.
        state: [Cell; NodeStateLabel::ALL.len()] =>
            gauge("ws_node_state").by("state", |n| NodeStateLabel::ALL[n].label());
        /// Keys that verify tokens of clients.
        auth_keys: Option<f64> => gauge("ws_auth_keys");
        /// Since the keys of a URL were last fetched, in seconds: of several the longest. 0 where none are fetched.
        auth_keys_age: Option<f64> => gauge("ws_auth_keys_age_seconds");
        /// Fetches of keys, by result.
        auth_key_fetches: [Cell; 2] =>
            counter("ws_auth_key_fetches_total").by("result", |n| ["ok", "failed"][n]);
        /// Log lines that were dropped because the reader of standard error was away or too slow, by reason.
        log_dropped: [Cell; DropReason::ALL.len()] =>
            counter("ws_log_dropped_total").by("reason", |n| DropReason::ALL[n].label());
        /// 1; the labels say what runs.
        build: [(&'static str, &'static str); 2] => gauge("tidegate_build_info");
    }
}

/// What the exposition is made from.
pub(super) struct Sources<'a> {
    pub(super) shards: Vec<&'a ShardCounters>,
    pub(super) relay: &'a RelayCounters,
    /// Connections that the node admits.
    pub(super) capacity: u64,
    pub(super) driver: &'static str,
    /// Open connections of the admin port.
    pub(super) admin_connections: usize,
    /// Connections of the admin port that gave way to others.
    pub(super) admin_given_way: u64,
    /// Answers of the admin port, by `route` and `status`.
    pub(super) admin_requests: Vec<Labelled>,
    pub(super) state: NodeStateLabel,
    pub(super) keys: KeyFigures,
}

/// What is known of the keys that verify tokens.
#[derive(Clone, Copy, Default)]
pub(super) struct KeyFigures {
    /// Keys in force.
    pub(super) count: usize,
    /// Seconds since the keys of a URL were last fetched; of several the longest.
    pub(super) age_s: f64,
    /// Fetches that brought keys, and those that failed.
    pub(super) fetches: [u64; 2],
}

/// The labels of `ws_node_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NodeStateLabel {
    /// It wants traffic.
    Ready,
    /// It does not want traffic, and does not drain: the broker is away.
    Unready,
    /// It drains.
    Draining,
    /// It has drained, and waits for a signal or for the drain to be taken back.
    Drained,
    /// Its threads are told to end.
    Stopping,
}

impl NodeStateLabel {
    const ALL: [Self; 5] = [Self::Ready, Self::Unready, Self::Draining, Self::Drained, Self::Stopping];

    /// The state of a node.
    pub(super) const fn of(phase: Phase, readiness: Readiness) -> Self {
        match (phase, readiness) {
            (Phase::Serving, Readiness::Ready) => Self::Ready,
            (Phase::Serving, _) => Self::Unready,
            (Phase::Delaying(_) | Phase::Draining(_), _) => Self::Draining,
            (Phase::Drained { .. }, _) => Self::Drained,
            (Phase::Stopping { .. } | Phase::Done, _) => Self::Stopping,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Stopping => "stopping",
        }
    }
}

/// The whole exposition.
///
/// # Errors
/// A family that the encoder refuses: a mistake in this module.
pub(super) fn exposition(sources: &Sources<'_>) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&families(sources))
}

fn families(sources: &Sources<'_>) -> Vec<MetricFamily> {
    let node = NodeFigures {
        capacity: Some(sources.capacity as f64),
        admin_connections: Some(sources.admin_connections as f64),
        admin_given_way: Some(sources.admin_given_way as f64),
        admin_requests: sources.admin_requests.clone(),
        state: NodeStateLabel::ALL.map(|state| Cell::of(u64::from(state == sources.state))),
        auth_keys: Some(sources.keys.count as f64),
        auth_keys_age: Some(sources.keys.age_s),
        auth_key_fetches: sources.keys.fetches.map(Cell::of),
        log_dropped: log::dropped().map(Cell::of),
        build: [("version", env!("CARGO_PKG_VERSION")), ("driver", sources.driver)],
    };
    let mut exposition = Exposition::default();
    exposition.add(&sources.shards);
    exposition.add(&[&node]);
    exposition.add(&[sources.relay]);
    exposition.add(&[&process::Figures::now()]);
    exposition.families()
}

/// Every metric as a table in Markdown, for the documentation: a row for each family, in the order of the exposition.
pub fn table() -> String {
    let shard = ShardCounters::default();
    let relay = RelayCounters { mailbox_depth: vec![Cell::default()], ..RelayCounters::default() };
    let requests = Requests::default();
    requests.count("", 200);
    let sources = Sources {
        shards: vec![&shard],
        relay: &relay,
        capacity: 0,
        driver: "",
        admin_connections: 0,
        admin_given_way: 0,
        admin_requests: requests.samples(),
        state: NodeStateLabel::Ready,
        keys: KeyFigures::default(),
    };
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in families(&sources) {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => "gauge",
        };
        let labels = family.get_metric().first().map_or(&[][..], |sample| sample.get_label());
        let labels: Vec<String> = labels.iter().map(|label| format!("`{}`", label.name())).collect();
        text.push_str(&format!("| `{}` | {kind} | {} | {} |\n", family.name(), labels.join(", "), family.help()));
    }
    text
}
