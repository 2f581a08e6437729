//! `tidegate check`: what the host allows, row by row, and for a target the commands that raise what is too low.

use std::fmt;

use serde::Serialize;

use super::capacity::{
    Capacity, KERNEL_BYTES, MemoryBound, USER_BYTES, capacity, connection_bytes, connections_within, files_for,
    grouped, host_capacity, memory_for, nofile_cure, poll_bytes, shown_bytes,
};
use crate::gateway::config::{Config, Driver};
use crate::gateway::host::Host;
use crate::gateway::host::ProbeOutcome;

/// Accept queue and SYN backlog below which a reconnecting crowd meets dropped SYNs.
const CROWD_BACKLOG: u64 = 4_096;

/// One limit of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub what: &'static str,
    /// Its value, for people.
    pub value: String,
    /// Connections that it leaves room for, if it bounds them.
    pub allows: Option<u64>,
    /// Whether it is enough for the target, or without one for a start.
    pub enough: bool,
    /// How to raise it where it is not enough, or what would be better.
    pub advice: Option<String>,
}

/// The outcome of `tidegate check`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Connections that the host holds.
    pub connections: u64,
    /// The limit that binds first.
    pub binding: &'static str,
    /// What a node admits: without the limits that only bursts and broadcasts meet.
    pub admits: Capacity,
    /// Bytes of one idle connection.
    pub connection_bytes: u64,
    /// What the node can take at most.
    pub memory: MemoryBound,
    /// What was asked for.
    pub target: Option<u64>,
    /// Whether the target fits.
    pub fits: bool,
    /// Every limit.
    pub rows: Vec<Row>,
    /// The arithmetic of one connection, for people.
    #[serde(skip)]
    arithmetic: String,
}

impl Report {
    /// Judges `host` for a node with `config`, and `target` connections if given. Without one, what `max_connections` asks for
    /// and the host does not hold is the target, and a host that holds none is asked for one.
    pub fn of(host: &Host, config: &Config, target: Option<u64>) -> Self {
        let holds = host_capacity(host, config).connections;
        let asked = config.max_connections.map(u64::from).filter(|most| *most > holds);
        let wanted = target.or(asked).or((holds == 0).then_some(1));
        let judge = Judge { host, config, target: wanted };
        let rows = judge.rows();
        let least = rows.iter().filter_map(|row| Some((row.allows?, row.what))).min_by_key(|(allows, _)| *allows);
        let (connections, binding) = least.unwrap_or((0, "nofile"));
        Self {
            connections,
            binding,
            admits: capacity(host, config),
            connection_bytes: connection_bytes(host, config),
            memory: MemoryBound::of(host, config, target.unwrap_or(connections)),
            target,
            fits: wanted.is_none() || (holds > 0 && rows.iter().all(|row| row.enough)),
            rows,
            arithmetic: judge.arithmetic(),
        }
    }

    /// Whether the target fits, or none was given.
    pub fn fits(&self) -> bool {
        self.fits
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

struct Judge<'a> {
    host: &'a Host,
    config: &'a Config,
    target: Option<u64>,
}

impl Judge<'_> {
    fn rows(&self) -> Vec<Row> {
        let optional = [
            self.nr_open(),
            self.file_max(),
            Some(self.memory()),
            self.tcp_mem(),
            self.conntrack(),
            self.max_connections(),
            self.queue("net.core.somaxconn", self.host.somaxconn),
            self.queue("net.ipv4.tcp_max_syn_backlog", self.host.tcp_max_syn_backlog),
            self.orphans(),
            self.local_ports(),
            Some(self.io_uring()),
            Some(self.shards()),
        ];
        std::iter::once(self.nofile()).chain(optional.into_iter().flatten()).collect()
    }

    /// A row that bounds connections; `raise` is asked for only where the target does not fit.
    fn bound(&self, what: &'static str, value: String, allows: u64, raise: impl FnOnce(u64) -> String) -> Row {
        let lacking = self.target.filter(|target| *target > allows);
        Row { what, value, allows: Some(allows), enough: lacking.is_none(), advice: lacking.map(raise) }
    }

    /// A row that bounds no connection.
    fn note(&self, what: &'static str, value: String, advice: Option<String>) -> Row {
        Row { what, value, allows: None, enough: true, advice }
    }

    fn nofile(&self) -> Row {
        let (soft, hard) = (self.host.nofile_soft, self.host.nofile_hard);
        let value = format!("{} soft, {} hard", limit(soft), limit(hard));
        self.bound("nofile", value, connections_within(hard, self.config), |target| {
            format!("{}; the soft limit is raised by tidegate", nofile_cure(files_for(target, self.config)))
        })
    }

    fn nr_open(&self) -> Option<Row> {
        let open = self.host.nr_open?;
        Some(self.bound("fs.nr_open", limit(open), connections_within(open, self.config), |target| {
            format!("sysctl -w fs.nr_open={}", files_for(target, self.config))
        }))
    }

    fn file_max(&self) -> Option<Row> {
        let (max, used) = (self.host.file_max?, self.host.files_in_use);
        let value = format!("{}, {} in use", limit(max), grouped(used));
        let left = max.saturating_sub(used);
        Some(self.bound("fs.file-max", value, connections_within(left, self.config), |target| {
            format!("sysctl -w fs.file-max={}", files_for(target, self.config).saturating_add(used))
        }))
    }

    fn memory(&self) -> Row {
        let Some(bytes) = self.host.memory_bytes() else { return self.unknown_memory() };
        let allows =
            capacity(self.host, self.config).bounds.iter().find(|b| b.what == "memory").map_or(0, |b| b.connections);
        let value = match self.host.cgroup_limit_bytes {
            Some(limit) => format!("{} left of the cgroup's {}", shown_bytes(bytes), shown_bytes(limit)),
            None => format!("{} available", shown_bytes(bytes)),
        };
        self.bound("memory", value, allows, |target| {
            let need = shown_bytes(memory_for(target, self.host, self.config));
            format!("{need} needed: raise the container's memory limit, or take a larger host")
        })
    }

    fn unknown_memory(&self) -> Row {
        let need = self.target.map_or_else(String::new, |target| {
            format!("{} are needed; ", shown_bytes(memory_for(target, self.host, self.config)))
        });
        let advice = format!(
            "{need}it bounds nothing while it cannot be read: make /proc/meminfo readable, or set max_connections, \
             limits.outbox_total_bytes and limits.unfinished_total_bytes"
        );
        self.note("memory", String::from("/proc/meminfo cannot be read"), Some(advice))
    }

    fn tcp_mem(&self) -> Option<Row> {
        let (pages, used) = (self.host.tcp_mem_pages?, self.host.tcp_mem_used_pages);
        let value = format!("{} pages, {} in use", grouped(pages), grouped(used));
        Some(self.bound("net.ipv4.tcp_mem", value, pages.saturating_sub(used), |target| {
            // A broadcast that is not acknowledged yet takes a page of each socket; it must not be under pressure.
            let need = target.saturating_add(used);
            let (least, most) = (need / 4 * 3, need.saturating_add(need / 2));
            format!("sysctl -w net.ipv4.tcp_mem=\"{least} {need} {most}\" (on the host)")
        }))
    }

    fn conntrack(&self) -> Option<Row> {
        let (count, max) = self.host.conntrack?;
        if count == 0 {
            // Loaded, and no rule makes it follow anything.
            return Some(self.note("net.netfilter.nf_conntrack_max", format!("{}, unused", grouped(max)), None));
        }
        let value = format!("{}, {} in use", grouped(max), grouped(count));
        Some(self.bound("net.netfilter.nf_conntrack_max", value, max.saturating_sub(count), |target| {
            format!("sysctl -w net.netfilter.nf_conntrack_max={} (on the host)", target.saturating_add(count))
        }))
    }

    fn max_connections(&self) -> Option<Row> {
        let most = u64::from(self.config.max_connections?);
        Some(self.bound("max_connections", grouped(most), most, |target| {
            format!("--max-connections {target}, or leave it out to admit what the host holds")
        }))
    }

    fn queue(&self, what: &'static str, length: Option<u64>) -> Option<Row> {
        let length = length?;
        let advice = (length < CROWD_BACKLOG)
            .then(|| format!("sysctl -w {what}=65535, or SYNs of a reconnecting crowd are dropped"));
        Some(self.note(what, grouped(length), advice))
    }

    fn orphans(&self) -> Option<Row> {
        let most = self.host.tcp_max_orphans?;
        let advice = self.target.filter(|target| *target > most).map(|target| {
            format!("sysctl -w net.ipv4.tcp_max_orphans={target}, or closing all at once resets some (on the host)")
        });
        Some(self.note("net.ipv4.tcp_max_orphans", grouped(most), advice))
    }

    fn local_ports(&self) -> Option<Row> {
        let (first, last) = self.host.local_ports?;
        let taken = |port: &u16| {
            (first..=last).contains(port)
                && !self.host.reserved_ports.iter().any(|(from, to)| (from..=to).contains(&port))
        };
        let ports: Vec<String> = [self.config.listen.port(), self.config.admin.listen.port()]
            .iter()
            .filter(|p| taken(p))
            .map(u16::to_string)
            .collect();
        let advice = (!ports.is_empty()).then(|| {
            let ports = ports.join(",");
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={ports}, or an outgoing connection may take the port")
        });
        Some(self.note("net.ipv4.ip_local_port_range", format!("{first} to {last}"), advice))
    }

    fn io_uring(&self) -> Row {
        let outcome = self.host.io_uring;
        let setting = match self.host.io_uring_disabled {
            Some(disabled) if disabled > 0 => format!(" (sysctl kernel.io_uring_disabled={disabled})"),
            _ => String::new(),
        };
        let must = self.config.driver == Driver::IoUring;
        let advice = match outcome {
            ProbeOutcome::Works => None,
            ProbeOutcome::Refused(_) if must => Some(String::from("allow it, or set driver = \"auto\"")),
            ProbeOutcome::Refused(_) => Some(String::from("epoll is used instead")),
            ProbeOutcome::Lacking(_) => Some(String::from("the node would not start: every shard needs a ring")),
        };
        let enough = match outcome {
            ProbeOutcome::Works => true,
            ProbeOutcome::Refused(_) => !must,
            ProbeOutcome::Lacking(_) => self.config.driver == Driver::Epoll,
        };
        Row { what: "io_uring", value: format!("{outcome}{setting}"), allows: None, enough, advice }
    }

    fn shards(&self) -> Row {
        let quota = self.host.cpu_quota_cores.map_or_else(String::new, |quota| format!(", CPU quota {quota:.2}"));
        let list = Some(&self.host.core_list).filter(|list| !list.is_empty());
        let list = list.map_or_else(String::new, |list| format!(" ({list})"));
        let pinned = if self.config.is_pinned(self.host) { ", pinned" } else { "" };
        self.note("shards", format!("{} on {} cores{list}{pinned}{quota}", self.config.shards, self.host.cores), None)
    }

    fn arithmetic(&self) -> String {
        let poll = poll_bytes(self.host, self.config);
        format!(
            "One idle connection takes about {} B: {} kernel + {} poll + {} tidegate; three quarters of memory are for them.",
            grouped(connection_bytes(self.host, self.config)),
            grouped(KERNEL_BYTES),
            poll,
            USER_BYTES,
        )
    }
}

/// A limit, or "unlimited" where the kernel means that.
fn limit(value: u64) -> String {
    if value >= 1 << 62 { String::from("unlimited") } else { grouped(value) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |cell: fn(&Row) -> usize| self.rows.iter().map(cell).max().unwrap_or(0);
        let (what, value) = (width(|row| row.what.len()).max(5), width(|row| row.value.len()).max(5));
        writeln!(f, "{:what$}  {:value$}  {:>13}", "limit", "value", "connections")?;
        for row in &self.rows {
            let allows = row.allows.map_or_else(String::new, |n| if n >= 1 << 62 { "any".into() } else { grouped(n) });
            let mark = if row.enough { "" } else { "  too low" };
            let line = format!("{:what$}  {:value$}  {allows:>13}{mark}", row.what, row.value);
            writeln!(f, "{}", line.trim_end())?;
        }
        writeln!(f, "\n{}", self.arithmetic)?;
        writeln!(f, "This host holds {} connections; {} binds first.", grouped(self.connections), self.binding)?;
        writeln!(f, "A node admits {}.", self.admits)?;
        writeln!(f, "With every queue full: {}.", self.memory)?;
        let advised: Vec<&Row> = self.rows.iter().filter(|row| row.advice.is_some()).collect();
        match self.target {
            Some(target) if self.fits => write!(f, "\nA target of {} connections fits.", grouped(target))?,
            Some(target) => write!(f, "\nA target of {} connections does not fit.", grouped(target))?,
            None if self.admits.connections == 0 => write!(f, "\nA node cannot run here: no connection fits.")?,
            None if !self.fits => write!(f, "\nmax_connections asks for more than this host holds.")?,
            None => {}
        }
        for row in advised {
            let weight = if row.enough { "better" } else { "raise" };
            write!(f, "\n  {weight} {}: {}", row.what, row.advice.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}
