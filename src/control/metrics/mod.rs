//! `GET /metrics`: what the shards and the relay count, in Prometheus' text format. Pure but for the process's own figures.
//!
//! Counters that every shard keeps are summed; what only makes sense per shard has the label `shard`. Every label's values
//! come from a fixed table, so the number of series is fixed from the start, and each is there from the first scrape.

mod family;
mod process;

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use crate::close::{CloseReason, Refusal};
use crate::counters::{Cell, DropReason, Histogram, MessageType, RelayCounters, ShardCounters};
use crate::model::GapReason;
use family::{counter, gauge, histogram, seconds};

/// The content type of the exposition.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// What the exposition is made from.
pub(super) struct Sources<'a> {
    pub(super) shards: Vec<&'a ShardCounters>,
    pub(super) relay: &'a RelayCounters,
    /// Connections that the node admits.
    pub(super) capacity: u64,
    pub(super) driver: &'static str,
    /// Open connections of the admin port.
    pub(super) admin_connections: usize,
}

/// The whole exposition.
///
/// # Errors
/// A family that the encoder refuses: a mistake in this module.
pub(super) fn exposition(sources: &Sources<'_>) -> prometheus::Result<String> {
    let mut families = connections(sources);
    families.extend(traffic(sources));
    families.extend(outboxes_and_loops(sources));
    families.extend(relay(sources));
    families.extend(process::families());
    // The encoder refuses a family without a sample: a relay that counts no mailboxes must not cost the scrape.
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families)
}

fn connections(sources: &Sources<'_>) -> Vec<MetricFamily> {
    let open = sources.sum(|shard| &shard.connections);
    let capacity = sources.capacity as f64;
    vec![
        gauge("ws_connections_active", "Open WebSocket connections.").value(open),
        gauge("ws_connected_clients", "Open WebSocket connections; the same as ws_connections_active.").value(open),
        gauge("ws_connection_capacity", "Connections that this node admits.").value(capacity),
        gauge("pod_connection_capacity", "Connections that this node admits; the same as ws_connection_capacity.")
            .value(capacity),
        counter("ws_accepted_total", "Sockets accepted on the public port.")
            .value(sources.sum(|shard| &shard.accepted)),
        gauge("ws_sockets", "Sockets of the public port in use, unfinished handshakes included.")
            .value(sources.sum(|shard| &shard.sockets)),
        handshakes(sources),
        sources.histogram("ws_handshake_duration_seconds", "From accept to the answer 101, in seconds.", |shard| {
            &shard.handshake_duration
        }),
        counter("ws_closes_total", "Closed connections by reason.").labelled(
            "reason",
            CloseReason::ALL
                .iter()
                .map(|reason| (reason.label(), sources.sum(|shard| &shard.closed[*reason as usize]))),
        ),
        counter("ws_reconnects_total", "Upgrades of clients that said they connect again (?attempt=N, N > 0).")
            .value(sources.sum(|shard| &shard.reconnects)),
        gauge("ws_shard_connections", "Open WebSocket connections of one shard.")
            .labelled("shard", sources.each(|shard| &shard.connections)),
        gauge("ws_rooms_active", "Rooms with a member or a join that waits for the broker, added up over the shards.")
            .value(sources.sum(|shard| &shard.rooms)),
    ]
}

fn handshakes(sources: &Sources<'_>) -> MetricFamily {
    let refused =
        Refusal::ALL.iter().map(|refusal| (refusal.label(), sources.sum(|shard| &shard.refused[*refusal as usize])));
    let answered = [("upgraded", sources.sum(|shard| &shard.upgraded)), ("plain", sources.sum(|shard| &shard.plain))];
    counter("ws_handshakes_total", "Ended handshakes by result: upgraded, plain (a page, /health), or the refusal.")
        .labelled("result", answered.into_iter().chain(refused))
}

fn traffic(sources: &Sources<'_>) -> Vec<MetricFamily> {
    let messages = counter("ws_messages_total", "Messages from (inbound) and to (outbound) clients by type.");
    let messages = MessageType::ALL.iter().fold(messages, |family, kind| {
        let inbound = sources.sum(|shard| &shard.messages_in[*kind as usize]);
        let outbound = sources.sum(|shard| &shard.messages_out[*kind as usize]);
        family
            .sample(&[("direction", "inbound"), ("type", kind.label())], inbound)
            .sample(&[("direction", "outbound"), ("type", kind.label())], outbound)
    });
    let dropped = DropReason::ALL.iter().map(|reason| {
        let by_shards = sources.sum(|shard| &shard.dropped[*reason as usize]);
        (reason.label(), by_shards + sources.relay.dropped[*reason as usize].value() as f64)
    });
    let gaps = GapReason::ALL
        .iter()
        .enumerate()
        .map(|(number, reason)| (reason.label(), sources.sum(|shard| &shard.gaps[number])));
    vec![
        messages.done(),
        counter("ws_bytes_total", "Bytes read from (inbound) and handed to the kernel for (outbound) clients.")
            .labelled(
                "direction",
                [
                    ("inbound", sources.sum(|shard| &shard.bytes_in)),
                    ("outbound", sources.sum(|shard| &shard.bytes_out)),
                ],
            ),
        sources.histogram(
            "ws_message_duration_seconds",
            "From the last byte read of a client's message to the end of its handling, in seconds.",
            |shard| &shard.message_duration,
        ),
        sources.histogram(
            "ws_publish_delivery_seconds",
            "From the publisher's time to the last send to a client of this node, in seconds.",
            |shard| &shard.publish_delivery,
        ),
        counter("ws_dropped_total", "Messages that went no further, by reason.").labelled("reason", dropped),
        counter("ws_gaps_total", "Gaps told to clients, by reason.").labelled("reason", gaps),
    ]
}

fn outboxes_and_loops(sources: &Sources<'_>) -> Vec<MetricFamily> {
    let largest = sources.shards.iter().map(|shard| shard.outbox_max_bytes.value()).max().unwrap_or(0);
    let lags =
        sources.shards.iter().enumerate().map(|(number, shard)| (number.to_string(), seconds(&shard.loop_lag_ns)));
    vec![
        gauge("ws_outbox_bytes", "Bytes that the outboxes of all clients pin.")
            .value(sources.sum(|shard| &shard.outbox_bytes)),
        gauge("ws_outbox_max_bytes", "Bytes that the largest outbox of a client pins.").value(largest as f64),
        gauge("ws_unfinished_bytes", "Bytes that the unfinished messages of all clients take.")
            .value(sources.sum(|shard| &shard.unfinished_bytes)),
        gauge(
            "ws_loop_lag_seconds",
            "Longest turn of a shard's loop in the last second, with how late it began, in seconds.",
        )
        .labelled("shard", lags),
        gauge("tidegate_admin_connections", "Open connections of the admin port.")
            .value(sources.admin_connections as f64),
        gauge("tidegate_build_info", "1; the labels say what runs.")
            .sample(&[("version", env!("CARGO_PKG_VERSION")), ("driver", sources.driver)], 1.0)
            .done(),
    ]
}

fn relay(sources: &Sources<'_>) -> Vec<MetricFamily> {
    let relay = sources.relay;
    // The last mailbox is control's own.
    let depths = relay.mailbox_depth.iter().take(sources.shards.len()).enumerate();
    let depths = depths.map(|(number, depth)| (number.to_string(), depth.value() as f64));
    vec![
        gauge("ws_relay_connected", "1 while the broker is connected; always 1 on the local bus.")
            .value(relay.connected.value() as f64),
        gauge("ws_relay_subscriptions", "Rooms that this node subscribed.").value(relay.subscriptions.value() as f64),
        gauge("ws_relay_rtt_seconds", "Round trip of the last fence through the broker, in seconds.")
            .value(seconds(&relay.rtt_ns)),
        gauge("ws_relay_mailbox_depth", "Items that wait in a shard's mailbox.").labelled("shard", depths),
        counter("ws_relay_messages_total", "Publications received from (inbound) and sent to (outbound) the broker.")
            .labelled(
                "direction",
                [("inbound", relay.messages_in.value() as f64), ("outbound", relay.messages_out.value() as f64)],
            ),
    ]
}

impl Sources<'_> {
    fn sum(&self, cell: impl Fn(&ShardCounters) -> &Cell) -> f64 {
        self.shards.iter().map(|shard| cell(shard).value()).sum::<u64>() as f64
    }

    fn each(&self, cell: impl Fn(&ShardCounters) -> &Cell) -> Vec<(String, f64)> {
        let values = self.shards.iter().map(|shard| cell(shard).value() as f64);
        values.enumerate().map(|(number, value)| (number.to_string(), value)).collect()
    }

    fn histogram(&self, name: &str, help: &str, of: impl Fn(&ShardCounters) -> &Histogram) -> MetricFamily {
        histogram(name, help, self.shards.iter().map(|shard| of(shard)))
    }
}
