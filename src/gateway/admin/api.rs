//! The endpoints: a [`Route`] and a body in, a [`Reply`] out.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use super::drain::Phase;
use super::metrics::{self, NodeStateLabel};
use super::nodes;
use super::publication::{self, Publish};
use super::reply::{Problem, Reply};
use super::route::Route;
use super::supervisor::{SILENCE_DEADLINE, Supervisor};
use crate::gateway::config::Config;
use tidegate_core::limits::admin_body_bytes;
use tidegate_core::model::AckLevel;
use tidegate_core::model::ConnectionId;
use tidegate_core::relay::PublishError;
use tidegate_core::shard::command::{Command, ConnectionInfo, RoomInfo};

/// What the admin port serves, for programs (OpenAPI 3.1).
pub(super) const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// Bytes of a body that no route takes and that is read only to find its end.
const UNWANTED_BODY_BYTES: usize = 4 * 1024;

/// Bytes of a body that the route takes.
pub(super) fn body_limit(route: &Route, config: &Config) -> usize {
    match route {
        Route::PublishRoom(..) => config.limits.message_bytes,
        Route::PublishRooms => admin_body_bytes(config.limits.message_bytes),
        _ => UNWANTED_BODY_BYTES,
    }
}

/// Serves the request.
pub(super) async fn answer(supervisor: &Rc<Supervisor>, route: Route, headers: &HeaderMap, body: Bytes) -> Reply {
    let served = match route {
        Route::Metrics => exposition(supervisor),
        Route::Live => Ok(live(supervisor)),
        Route::Ready => {
            let readiness = supervisor.state.readiness();
            Ok(Reply::text(readiness.status(), "application/json", readiness.body()))
        }
        Route::Openapi => Ok(Reply::text(200, "application/json", OPENAPI)),
        Route::Drain => Ok(drain(supervisor)),
        Route::Undrain => undrain(supervisor),
        Route::Node => Ok(Reply::json(200, &node(supervisor))),
        Route::Nodes => Ok(Reply::json(200, &nodes::list(supervisor))),
        Route::Rooms { limit } => Ok(rooms(supervisor, limit).await),
        Route::Connections { by_outbox, limit } => Ok(connections(supervisor, by_outbox, limit).await),
        Route::Close(id) => close(supervisor, id).await,
        Route::PublishRoom(room, options) => match publication::of_room(room, options, headers, body) {
            Ok(publish) => publish_into(supervisor, publish).await,
            Err(problem) => Err(problem),
        },
        Route::PublishRooms => match publication::of_rooms(headers, &body, supervisor.config.limits.message_bytes) {
            Ok(publish) => publish_into(supervisor, publish).await,
            Err(problem) => Err(problem),
        },
    };
    served.unwrap_or_else(Reply::from)
}

fn exposition(supervisor: &Supervisor) -> Result<Reply, Problem> {
    let sources = metrics::Sources {
        shards: supervisor.shards.iter().map(|shard| shard.counters.as_ref()).collect(),
        relay: &supervisor.relay_counters,
        capacity: supervisor.capacity.get().0,
        driver: supervisor.driver.name,
        admin_connections: supervisor.places.open(),
        admin_given_way: supervisor.places.given_way(),
        admin_requests: supervisor.requests.samples(),
        keys: supervisor.key_figures(),
        state: NodeStateLabel::of(supervisor.phase(), supervisor.state.readiness()),
    };
    match metrics::exposition(&sources) {
        Ok(text) => Ok(Reply::text(200, metrics::CONTENT_TYPE, text)),
        Err(error) => Err(Problem::new(500, "internal", format!("the metrics cannot be written: {error}; report it"))),
    }
}

fn live(supervisor: &Supervisor) -> Reply {
    let seconds = SILENCE_DEADLINE.as_secs();
    match supervisor.silent_shard() {
        None if supervisor.is_relay_silent() => {
            let message = format!("the relay's thread stands still, for {seconds} s and more; restart the node");
            Reply::json(503, &json!({"live": false, "reason": "silent-relay", "message": message}))
        }
        None => Reply::json(200, &json!({"live": true})),
        Some(shard) => {
            let message = format!("shard {shard} stands still, for {seconds} s and more; restart the node");
            Reply::json(503, &json!({"live": false, "reason": "silent-shard", "message": message}))
        }
    }
}

/// Idempotent: a second request is told how far the drain is. 202 while it goes on, 200 when no connection is left.
fn drain(supervisor: &Supervisor) -> Reply {
    supervisor.handle_drain_request();
    let phase = supervisor.phase();
    let status = if matches!(phase, Phase::Drained { .. }) { 200 } else { 202 };
    Reply::json(status, &json!({"phase": phase.label(), "connections": supervisor.connections()}))
}

/// Takes a drain back. Idempotent too; after a signal the node ends, and it is too late.
fn undrain(supervisor: &Supervisor) -> Result<Reply, Problem> {
    if !supervisor.handle_drain_cancel() {
        let message = "a signal ends this node; its drain cannot be taken back: start another node";
        return Err(Problem::new(409, "stopping", message));
    }
    Ok(Reply::json(200, &json!({"phase": supervisor.phase().label(), "connections": supervisor.connections()})))
}

fn node(supervisor: &Supervisor) -> Value {
    let config = &supervisor.config;
    let (capacity, bound_by) = supervisor.capacity.get();
    let broker = if config.nats.url.is_empty() { "local" } else { "nats" };
    json!({
        "node": config.node_name,
        "id": format!("{:08x}", supervisor.node_id),
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": supervisor.started.elapsed().as_secs(),
        "driver": {"name": supervisor.driver.name, "why": supervisor.driver.why},
        "shards": supervisor.shards.len(),
        "cores": {"allowed": supervisor.cores.list, "pinned": supervisor.cores.pinned},
        "listen": config.listen.to_string(),
        "admin": config.admin.listen.to_string(),
        "connections": supervisor.connections(),
        "capacity": {"connections": capacity, "boundBy": bound_by},
        "phase": supervisor.phase().label(),
        "draining": supervisor.state.is_draining(),
        "ready": supervisor.state.readiness().status() == 200,
        "broker": {"kind": broker, "connected": supervisor.relay_counters.connected.value() == 1},
        "limits": limits(supervisor),
    })
}

fn limits(supervisor: &Supervisor) -> Value {
    let config = &supervisor.config;
    let limits = &config.limits;
    json!({
        "messageBytes": supervisor.state.message_bytes().unwrap_or(limits.message_bytes),
        "messageRate": config.message_rate,
        "connectionRate": config.connection_rate(),
        "roomsPerConnection": limits.rooms_per_connection,
        "roomsTotal": limits.rooms_total,
        "outboxBytes": limits.outbox_bytes,
        "outboxTotalBytes": limits.outbox_total_bytes,
        "unfinishedTotalBytes": limits.unfinished_total_bytes,
        "writeStallMs": limits.write_stall.as_millis() as u64,
        "handshakeDeadlineMs": limits.handshake_deadline.as_millis() as u64,
        "handshakesPerShard": limits.handshakes_per_shard,
        "pingIntervalMs": config.heartbeat.ping_interval.as_millis() as u64,
        "pongTimeoutMs": config.heartbeat.pong_timeout.as_millis() as u64,
        "drainDelayMs": config.drain.delay.as_millis() as u64,
        "drainWindowMs": config.drain.window_of(supervisor.connections()).as_millis() as u64,
    })
}

async fn rooms(supervisor: &Supervisor, limit: usize) -> Reply {
    let replies = supervisor.ask_all(|reply| Command::Rooms { limit, reply }).await;
    let missing = supervisor.shards.len() - replies.len();
    Reply::json(200, &json!({"rooms": merged(replies, limit), "silentShards": missing}))
}

/// One list of rooms out of one per shard. Every shard with a member gets every publication, so members add up and
/// publications do not.
fn merged(replies: Vec<Vec<RoomInfo>>, limit: usize) -> Vec<RoomInfo> {
    let mut by_name: HashMap<String, RoomInfo> = HashMap::new();
    for info in replies.into_iter().flatten() {
        match by_name.get_mut(&info.room) {
            Some(room) => {
                room.members += info.members;
                room.publications = room.publications.max(info.publications);
            }
            None => {
                by_name.insert(info.room.clone(), info);
            }
        }
    }
    let mut rooms: Vec<_> = by_name.into_values().collect();
    rooms.sort_by(|a, b| {
        b.publications.cmp(&a.publications).then(b.members.cmp(&a.members)).then_with(|| a.room.cmp(&b.room))
    });
    rooms.truncate(limit);
    rooms
}

async fn connections(supervisor: &Supervisor, by_outbox: bool, limit: usize) -> Reply {
    let replies = supervisor.ask_all(|reply| Command::Connections { by_outbox, limit, reply }).await;
    let missing = supervisor.shards.len() - replies.len();
    let mut connections: Vec<ConnectionInfo> = replies.into_iter().flatten().collect();
    if by_outbox {
        connections.sort_by(|a, b| b.outbox_bytes.cmp(&a.outbox_bytes).then_with(|| a.id.cmp(&b.id)));
    }
    connections.truncate(limit);
    Reply::json(200, &json!({"connections": connections, "silentShards": missing}))
}

async fn close(supervisor: &Supervisor, id: ConnectionId) -> Result<Reply, Problem> {
    let gone = || {
        let message = "there is no such connection on this node; it may have closed, or live on another node";
        Problem::new(404, "no-connection", message)
    };
    if id.node != supervisor.node_id {
        return Err(gone());
    }
    let shard = supervisor.shards.get(usize::from(id.shard)).ok_or_else(gone)?;
    match supervisor.ask(shard, |reply| Command::Close { id, reply }).await {
        Some(true) => Ok(Reply::json(200, &json!({"closed": id.to_string()}))),
        Some(false) => Err(gone()),
        None => Err(Problem::unavailable("the connection's shard did not answer in time; try again")),
    }
}

async fn publish_into(supervisor: &Supervisor, publish: Publish) -> Result<Reply, Problem> {
    let deadline = supervisor.config.limits.fence_deadline + publication::ACKNOWLEDGEMENT_MARGIN;
    let levels = supervisor.publisher.publish(&publish, &supervisor.notify, deadline).await;
    let rooms = publish.rooms;
    if levels.contains(&Err(PublishError::TooLarge)) {
        let limit = supervisor.state.message_bytes().unwrap_or(supervisor.config.limits.message_bytes);
        return Err(Problem::too_large_for_the_broker(limit));
    }
    let failed: Vec<&str> =
        rooms.iter().zip(&levels).filter(|(_, level)| level.is_err()).map(|(room, _)| room.as_ref()).collect();
    if failed.is_empty() {
        let level = if levels.contains(&Ok(AckLevel::Node)) { "node" } else { "broker" };
        return Ok(Reply::json(202, &json!({"level": level})));
    }
    let message = if failed.len() == rooms.len() {
        String::from(
            "no broker acknowledged it: members may or may not get it; publish again if twice is better than never",
        )
    } else {
        let rooms = failed.join(" ");
        format!("not acknowledged for every room; publish again, if twice is better than never, into: {rooms}")
    };
    Err(Problem::unavailable(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str, members: usize, publications: u64) -> RoomInfo {
        RoomInfo { room: name.to_owned(), members, publications }
    }

    #[test]
    fn rooms_of_several_shards_become_one_list_with_the_busiest_first() {
        let replies = vec![vec![room("b", 2, 5), room("a", 1, 9)], vec![room("b", 3, 4), room("c", 1, 5)]];
        assert_eq!(merged(replies, 2), [room("a", 1, 9), room("b", 5, 5)]);
    }
}
