//! How many connections a host holds, and what they cost: arithmetic over a [`Host`] and a [`Config`], nothing else.
//!
//! The node admits no more than [`Capacity::connections`] and prints [`MemoryBound`] at start; `tidegate check` shows both.

use std::fmt;

use serde::Serialize;

use crate::gateway::config::{Config, Driver};
use crate::gateway::host::Host;
use crate::gateway::host::ProbeOutcome;
use tidegate_core::limits;

/// Bytes of kernel memory of an idle TCP connection: sock, inode, file, dentry, with packing (Linux 6.18, x86-64).
pub const KERNEL_BYTES: u64 = 3_830;
/// Bytes of an epoll registration.
pub const EPOLL_BYTES: u64 = 200;
/// Bytes of an armed multishot poll.
pub const URING_POLL_BYTES: u64 = 256;
/// Bytes that tidegate keeps for an idle connection in one room.
pub const USER_BYTES: u64 = 130;
/// Bytes of a room on each shard that has a member of it: its name, the tables, its queue.
const SHARD_ROOM_BYTES: u64 = 512;
/// Bytes of a room in the relay: the interest table.
const RELAY_ROOM_BYTES: u64 = 512;
/// Bytes of a room's subscription at the broker: the client's queue begins with a block of 32 messages.
const SUBSCRIPTION_BYTES: u64 = 5 * 1024;
/// Bytes of a node without connections, its shards apart: program, relay, admin thread.
const BASE_BYTES: u64 = 16 << 20;
/// Bytes of a shard without connections: stack, rings, scratch buffer.
const SHARD_BYTES: u64 = 4 << 20;
/// Times its longest body that a connection of the admin port may take: chunks are read at up to twice the bytes that they
/// carry, into buffers that double, and put together after that.
const ADMIN_BODY_FACTOR: u64 = 6;
/// Share of memory that idle connections may take; the rest is for what they say.
const CONNECTIONS_PERCENT: u64 = 75;
/// Descriptors for the connections of the admin port, and for the log, the broker and what is opened for a moment.
const RESERVED_DESCRIPTORS: u64 = limits::ADMIN_CONNECTIONS as u64 + 64;
/// Descriptors of a shard: listener, rings, eventfd, and sockets between accept(2) and close(2).
const DESCRIPTORS_PER_SHARD: u64 = 16;
/// Share of the descriptors that sockets without an upgrade may take: a part in so many.
const UNSERVED_SHARE: u64 = 8;
/// Where there are few descriptors such a share would be none: of so many, a quarter.
const UNSERVED_FROM: u64 = 1024;

/// One limit in connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// The limit's name.
    pub what: &'static str,
    /// Connections that it leaves room for.
    pub connections: u64,
}

/// How many connections a node admits, and why no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Connections that the node admits.
    pub connections: u64,
    /// The limit that binds first.
    pub binding: &'static str,
    /// All limits that were looked at.
    pub bounds: Vec<Bound>,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections; {} binds", grouped(self.connections), self.binding)
    }
}

/// What a node on `host` admits with `config`: the least of what descriptors, memory and the configuration allow.
///
/// Limits that only a burst or a broadcast meets (`tcp_mem`, conntrack) are not among them; `tidegate check` shows those too.
pub fn capacity(host: &Host, config: &Config) -> Capacity {
    let mut bounds = vec![Bound { what: "nofile", connections: connections_within(host.nofile_hard, config) }];
    if let Some(bytes) = host.memory_bytes() {
        bounds.push(Bound { what: "memory", connections: connections_in(bytes, host, config) });
    }
    if let Some(files) = host.file_max {
        let left = files.saturating_sub(host.files_in_use);
        bounds.push(Bound { what: "fs.file-max", connections: connections_within(left, config) });
    }
    if let Some(most) = config.max_connections {
        bounds.push(Bound { what: "max_connections", connections: u64::from(most) });
    }
    let (connections, binding) =
        bounds.iter().map(|bound| (bound.connections, bound.what)).min_by_key(|(n, _)| *n).unwrap_or((0, "nofile"));
    Capacity { connections, binding, bounds }
}

impl Capacity {
    /// Why a node that admits no connection cannot run, and what to do; `None` where it admits some.
    pub fn refusal(&self, host: &Host, config: &Config) -> Option<String> {
        if self.connections > 0 {
            return None;
        }
        let cure = match self.binding {
            "memory" => format!(
                "{} of memory are left, and a node without connections takes {}; raise the container's memory limit, or \
                 take a larger host",
                shown_bytes(host.memory_bytes().unwrap_or(0)),
                shown_bytes(base_bytes(config)),
            ),
            "fs.file-max" => format!("too few files may be opened on this host; sysctl -w fs.file-max={}", 1 << 20),
            _ => format!(
                "nofile is {} and the node needs {} descriptors beside those of its clients; {}",
                host.nofile_hard,
                own_descriptors(config),
                nofile_cure(files_for(1_000, config)),
            ),
        };
        Some(format!("this host holds no connection: {cure}"))
    }
}

/// How the limit of open files is raised to `files`.
pub(super) fn nofile_cure(files: u64) -> String {
    format!(
        "LimitNOFILE={files} in the systemd unit, --ulimit nofile={files}:{files} for a container, or as root \
         `ulimit -Hn {files}` before the start"
    )
}

/// What a node on `host` could admit with `config` if no other process took memory.
pub fn most_connections(host: &Host, config: &Config) -> u64 {
    let free = Host { memory_available_bytes: host.memory_total_bytes, cgroup_used_bytes: 0, ..host.clone() };
    capacity(&free, config).connections.max(capacity(host, config).connections)
}

/// What a node on `host` could admit with `config`, whatever `max_connections` says.
pub fn host_capacity(host: &Host, config: &Config) -> Capacity {
    capacity(host, &Config { max_connections: None, ..config.clone() })
}

/// Bytes that one idle connection costs, kernel and user space together.
pub fn connection_bytes(host: &Host, config: &Config) -> u64 {
    KERNEL_BYTES + poll_bytes(host, config) + USER_BYTES
}

/// Bytes that waiting for one connection costs.
pub(super) fn poll_bytes(host: &Host, config: &Config) -> u64 {
    match config.driver {
        Driver::IoUring => URING_POLL_BYTES,
        Driver::Auto if host.io_uring == ProbeOutcome::Works => URING_POLL_BYTES,
        Driver::Auto | Driver::Epoll => EPOLL_BYTES,
    }
}

/// Descriptors that are not for the public port's sockets.
fn own_descriptors(config: &Config) -> u64 {
    RESERVED_DESCRIPTORS + DESCRIPTORS_PER_SHARD * config.shards as u64
}

/// Sockets that may have no upgrade, unfinished handshakes and refused ones, where `files` descriptors may be open: as configured, but
/// no more than a share, or they would leave no room for clients.
fn unserved_sockets(files: u64, config: &Config) -> u64 {
    let left = files.saturating_sub(own_descriptors(config));
    let share = (left / UNSERVED_SHARE).max(left.min(UNSERVED_FROM) / 4);
    share.min((config.limits.handshakes_per_shard as u64).saturating_mul(config.shards as u64))
}

/// Sockets without an upgrade that each shard of a node on `host` may have: as configured, or fewer where there are few descriptors.
/// With the clients of [`capacity`] they leave the descriptors of the admin port and of the broker's connection alone.
pub fn handshakes_per_shard(host: &Host, config: &Config) -> usize {
    let share = unserved_sockets(host.nofile_hard, config) / config.shards.max(1) as u64;
    config.limits.handshakes_per_shard.min(share.max(1) as usize)
}

/// Connections that `files` descriptors leave room for.
pub(super) fn connections_within(files: u64, config: &Config) -> u64 {
    files.saturating_sub(own_descriptors(config)).saturating_sub(unserved_sockets(files, config))
}

/// Descriptors that are enough for so many connections.
pub(super) fn files_for(connections: u64, config: &Config) -> u64 {
    connections.saturating_add(own_descriptors(config)).saturating_add(unserved_sockets(u64::MAX, config))
}

/// Bytes of a node without connections.
pub(super) fn base_bytes(config: &Config) -> u64 {
    BASE_BYTES + SHARD_BYTES * config.shards as u64
}

fn connections_in(memory_bytes: u64, host: &Host, config: &Config) -> u64 {
    let above_base = memory_bytes.saturating_sub(base_bytes(config));
    above_base / 100 * CONNECTIONS_PERCENT / connection_bytes(host, config)
}

/// Bytes of memory that `connections` need, by the same arithmetic.
pub(super) fn memory_for(connections: u64, host: &Host, config: &Config) -> u64 {
    let idle = connections.saturating_mul(connection_bytes(host, config));
    base_bytes(config).saturating_add(idle.div_ceil(CONNECTIONS_PERCENT).saturating_mul(100))
}

/// Bytes that all outboxes of the node may pin: as configured, else a tenth of memory, and at least one outbox.
pub fn outbox_total_bytes(host: &Host, config: &Config) -> u64 {
    let share = shared_bytes(host) / 100 * limits::OUTBOX_MEMORY_PERCENT;
    config.limits.outbox_total_bytes.unwrap_or(share).max(config.limits.outbox_bytes as u64)
}

/// Bytes that all unfinished messages of the node may take: as configured, else a twentieth of memory, and at least one
/// message.
pub fn unfinished_total_bytes(host: &Host, config: &Config) -> u64 {
    let share = shared_bytes(host) / 100 * limits::UNFINISHED_MEMORY_PERCENT;
    config.limits.unfinished_total_bytes.unwrap_or(share).max(config.limits.message_bytes as u64)
}

/// Rooms that the node may have: as configured, else what a fifth of memory holds.
pub fn rooms_total(host: &Host, config: &Config) -> u64 {
    let share = shared_bytes(host) / 100 * limits::ROOMS_MEMORY_PERCENT;
    config.limits.rooms_total.unwrap_or(share / room_bytes(config)).max(1)
}

/// Bytes that a room costs, with a member on every shard; its members are counted with their connections.
fn room_bytes(config: &Config) -> u64 {
    let subscription = if config.nats.url.is_empty() { 0 } else { SUBSCRIPTION_BYTES };
    SHARD_ROOM_BYTES * config.shards as u64 + RELAY_ROOM_BYTES + subscription
}

/// The memory that clients' buffers have their share of, in bytes.
fn shared_bytes(host: &Host) -> u64 {
    host.memory_bytes().unwrap_or(limits::ASSUMED_MEMORY_BYTES)
}

/// Bytes of one shard's two mailboxes, full: what their items pin, and the items.
fn mailboxes_bytes(config: &Config) -> u64 {
    let places = config.limits.mailbox_messages.saturating_add(limits::MAILBOX_RESERVE);
    let items = places.saturating_mul(limits::MAILBOX_ITEM_BYTES);
    items.saturating_add(limits::MAILBOX_BYTES + limits::REQUEST_MAILBOX_BYTES) as u64
}

/// Bytes of the admin thread's two mailboxes, full: no delivery goes to it.
fn admin_mailboxes_bytes(config: &Config) -> u64 {
    mailboxes_bytes(config).saturating_sub(limits::MAILBOX_BYTES as u64)
}

/// Bytes of the requests that the admin port reads.
fn admin_bytes(config: &Config) -> u64 {
    let body = limits::admin_body_bytes(config.limits.message_bytes) as u64;
    let request = body.saturating_mul(ADMIN_BODY_FACTOR).saturating_add(2 * limits::HEAD_BYTES as u64);
    request.saturating_mul(limits::ADMIN_CONNECTIONS as u64)
}

/// What a node can take at most in its caps (G6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryBound {
    /// Without connections, in bytes.
    pub base_bytes: u64,
    /// Connections that are admitted.
    pub connections: u64,
    /// Bytes of one of them.
    pub connection_bytes: u64,
    /// Rooms that the node may have.
    pub rooms: u64,
    /// Bytes of one of them.
    pub room_bytes: u64,
    /// All outboxes, in bytes.
    pub outbox_bytes: u64,
    /// All unfinished messages, in bytes.
    pub unfinished_bytes: u64,
    /// All mailboxes between shards or the admin thread and the relay, both ways, in bytes.
    pub mailbox_bytes: u64,
    /// What waits for the broker, in each shard and in the relay, in bytes.
    pub publish_queue_bytes: u64,
    /// What waits in the shards' rooms for its fan-out, in bytes.
    pub fanout_bytes: u64,
    /// Request heads of unfinished handshakes, in bytes.
    pub handshake_bytes: u64,
    /// Requests of the admin port, in bytes.
    pub admin_bytes: u64,
    /// The token cache, in bytes.
    pub token_bytes: u64,
    /// What this process may take, in bytes, if that can be read.
    pub available_bytes: Option<u64>,
}

impl MemoryBound {
    /// The bound of a node that admits `connections`.
    pub fn of(host: &Host, config: &Config, connections: u64) -> Self {
        let shards = config.shards as u64;
        let proxy = if config.proxies.protocol_v2 { limits::PROXY_HEADER_BYTES } else { 0 };
        let heads = config.limits.handshakes_per_shard.saturating_mul(config.limits.head_bytes + proxy) as u64;
        Self {
            base_bytes: base_bytes(config),
            connections,
            connection_bytes: connection_bytes(host, config),
            rooms: rooms_total(host, config),
            room_bytes: room_bytes(config),
            outbox_bytes: outbox_total_bytes(host, config),
            unfinished_bytes: unfinished_total_bytes(host, config),
            mailbox_bytes: shards.saturating_mul(mailboxes_bytes(config)).saturating_add(admin_mailboxes_bytes(config)),
            publish_queue_bytes: (shards + 1) * limits::PUBLISH_QUEUE_BYTES as u64,
            fanout_bytes: shards * limits::FANOUT_BYTES as u64,
            handshake_bytes: shards.saturating_mul(heads),
            admin_bytes: admin_bytes(config),
            token_bytes: if config.has_keys() { config.auth.cache_bytes } else { 0 },
            available_bytes: host.memory_bytes(),
        }
    }

    /// The sum, in bytes.
    pub fn total_bytes(&self) -> u64 {
        let caps = [
            self.outbox_bytes,
            self.unfinished_bytes,
            self.mailbox_bytes,
            self.publish_queue_bytes,
            self.fanout_bytes,
            self.handshake_bytes,
            self.admin_bytes,
            self.token_bytes,
        ];
        let idle = self.connections.saturating_mul(self.connection_bytes);
        let rooms = self.rooms.saturating_mul(self.room_bytes);
        let base = self.base_bytes.saturating_add(idle).saturating_add(rooms);
        caps.iter().fold(base, |sum, cap| sum.saturating_add(*cap))
    }

    /// Whether it fits what this process may take even with every cap full, as far as can be read.
    pub fn fits(&self) -> bool {
        self.available_bytes.is_none_or(|available| self.total_bytes() <= available)
    }
}

impl fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory bound {} of {}: base {} + {} connections × {} B + {} rooms × {} B + outboxes {} + unfinished messages {} + mailboxes {} + publish queues {} + fan-out {} + handshakes {} + admin requests {}",
            shown_bytes(self.total_bytes()),
            self.available_bytes.map_or_else(|| String::from("an unknown amount"), shown_bytes),
            shown_bytes(self.base_bytes),
            grouped(self.connections),
            grouped(self.connection_bytes),
            grouped(self.rooms),
            grouped(self.room_bytes),
            shown_bytes(self.outbox_bytes),
            shown_bytes(self.unfinished_bytes),
            shown_bytes(self.mailbox_bytes),
            shown_bytes(self.publish_queue_bytes),
            shown_bytes(self.fanout_bytes),
            shown_bytes(self.handshake_bytes),
            shown_bytes(self.admin_bytes),
        )?;
        if self.token_bytes > 0 {
            write!(f, " + token cache {}", shown_bytes(self.token_bytes))?;
        }
        Ok(())
    }
}

/// A number with commas between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with one decimal, in the largest binary unit that is not above them.
pub(super) fn shown_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_bytes_rounded() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_048_576), "1,048,576");
        assert_eq!(shown_bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(shown_bytes(900), "900 B");
    }
}
