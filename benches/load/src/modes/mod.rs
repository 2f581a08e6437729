//! What is measured, each mode a scenario over the workers. What they share is here: plans, rounds, the server's figures.

pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod slow;
pub(crate) mod soak;
pub(crate) mod storm;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bins::Bins;
use crate::cli::Common;
use crate::proc;
use crate::protocol::{Connected, Counts, Event, Plan, Report, Role};
use crate::record::{Record, duration};
use crate::scenario::{self, Dialect, Scenario};
use crate::target::{Scheme, Target};

/// Connections of one worker: nofile is 20,000 on many hosts, and a worker needs a few descriptors for itself.
const PER_WORKER: u32 = 19_000;

/// A number for the run, so that messages of an earlier one are not taken for its own.
fn run_number() -> u32 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    (time / 1_000) as u32 ^ std::process::id().rotate_left(16)
}

/// A plan for all connections of the command line; workers' shares are cut from it.
fn plan(common: &Common, role: Role, rooms: u32) -> Result<Plan, String> {
    let target = Target::parse(&common.url)?;
    // Words of one's own are another server's, which does not greet as a tidegate does.
    let own = target.scheme == Scheme::WebSocket && (common.words.join.is_some() || common.words.publish.is_some());
    let usual = || if own { Dialect::Raw } else { scenario::dialect_of(target.scheme, &target.path) };
    let dialect = common.dialect.unwrap_or_else(usual);
    Ok(Plan {
        run: run_number(),
        role,
        scenario: common.words.clone().or(Scenario::preset(dialect)),
        target,
        headers: common.header.clone(),
        rooms: rooms.max(1),
        room_name: common.room_name.clone(),
        size: common.size,
        first: 0,
        clients: common.connections,
        window: common.connecting,
        connect_rate: common.connect_rate,
        receive_buffer: None,
        retry: false,
    })
}

/// Cuts a plan into one for each worker.
fn shares(plan: &Plan, processes: Option<u32>) -> Vec<Plan> {
    let workers = processes.unwrap_or(plan.clients.div_ceil(PER_WORKER)).clamp(1, plan.clients);
    let mut first = plan.first;
    (0..workers)
        .map(|worker| {
            let clients = plan.clients / workers + u32::from(worker < plan.clients % workers);
            let mut share = plan.clone();
            (share.first, share.clients) = (first, clients);
            share.window = (plan.window / workers).max(1);
            share.connect_rate = plan.connect_rate.map(|rate| rate / f64::from(workers));
            first += clients;
            share
        })
        .collect()
}

/// CPU of all the server's processes so far, in nanoseconds.
fn server_cpu_ns(pids: &[u32]) -> Option<u64> {
    if pids.is_empty() { None } else { pids.iter().map(|pid| proc::cpu_ns(*pid)).sum() }
}

/// Anonymous memory of all the server's processes, in bytes.
fn server_bytes(pids: &[u32]) -> Option<u64> {
    if pids.is_empty() { None } else { pids.iter().map(|pid| proc::anonymous_bytes(*pid)).sum() }
}

/// Says what is missing without `--server-pid`, or why the server's processes do not tell it.
fn without_server(record: &mut Record, pids: &[u32], what: &str) {
    let why = match pids.iter().find_map(|pid| proc::silence(*pid)) {
        _ if pids.is_empty() => String::from("give --server-pid"),
        Some(why) => why,
        None => String::from("the server's process could not be read all along"),
    };
    record.not_measured(&format!("{what} ({why})"));
}

fn as_connected(event: Event) -> Option<Connected> {
    if let Event::Connected(connected) = event { Some(*connected) } else { None }
}

fn as_ready(event: Event) -> Option<()> {
    matches!(event, Event::Ready).then_some(())
}

fn as_sent(event: Event) -> Option<u64> {
    if let Event::Sent { published } = event { Some(published) } else { None }
}

fn as_report(event: Event) -> Option<Report> {
    if let Event::Report(report) = event { Some(*report) } else { None }
}

/// What all workers of a round counted.
pub(crate) struct Merged {
    counts: Counts,
    latency: Bins,
    lateness: Bins,
    lasts: Vec<u64>,
    first_ns: u64,
    last_ns: u64,
    /// CPU of all workers, and of the busiest.
    cpu_ns: u64,
    busiest_ns: u64,
    /// For how long was sent. Rates count over at least this where not all came back: what stalls is not fast.
    least_seconds: f64,
    refusal: Option<String>,
    ended: BTreeMap<String, u64>,
}

fn merge(reports: &[Report]) -> Merged {
    let mut merged = Merged {
        counts: Counts::default(),
        latency: Bins::new(),
        lateness: Bins::new(),
        lasts: Vec::new(),
        first_ns: reports.iter().map(|report| report.first_ns).filter(|ns| *ns > 0).min().unwrap_or(0),
        last_ns: reports.iter().map(|report| report.last_ns).max().unwrap_or(0),
        cpu_ns: reports.iter().map(|report| report.cpu_ns).sum(),
        busiest_ns: reports.iter().map(|report| report.cpu_ns).max().unwrap_or(0),
        least_seconds: 0.0,
        refusal: reports.iter().find_map(|report| report.refusal.clone()),
        ended: BTreeMap::new(),
    };
    for report in reports {
        merged.counts.add(&report.counts);
        merged.latency.add(&report.latency);
        merged.lateness.add(&report.lateness);
        let longest = merged.lasts.len().max(report.lasts.len());
        merged.lasts.resize(longest, 0);
        merged.lasts.iter_mut().zip(&report.lasts).for_each(|(last, other)| *last = (*last).max(*other));
        for (how, count) in &report.ended {
            *merged.ended.entry(how.clone()).or_insert(0) += count;
        }
    }
    merged
}

impl Merged {
    /// From the first intended moment to the last delivery, in seconds.
    fn seconds(&self) -> f64 {
        let seconds = self.last_ns.saturating_sub(self.first_ns).max(1) as f64 / 1e9;
        if self.counts.lost + self.counts.refused > 0 { seconds.max(self.least_seconds) } else { seconds }
    }

    /// Whether the load side used up a core: one that all share when pinned, else the busiest worker's.
    fn client_bound(&self, pinned: bool) -> bool {
        let used = if pinned { self.cpu_ns } else { self.busiest_ns };
        used as f64 / 1e9 >= 0.95 * self.seconds()
    }

    /// Puts the account of messages into the record; true when every one came once and in order.
    fn account(&self, record: &mut Record) -> bool {
        let counts = &self.counts;
        record.keep("lost", counts.lost);
        record.keep("duplicate", counts.duplicate);
        record.keep("reordered", counts.reordered);
        record.keep("misdirected", counts.misdirected);
        record.keep("gaps_told", counts.gaps);
        record.keep("refused", counts.refused);
        let shown = format!(
            "lost {}  duplicate {}  reordered {}  misdirected {}  refused {}  gaps told {}",
            counts.lost, counts.duplicate, counts.reordered, counts.misdirected, counts.refused, counts.gaps
        );
        record.put("ended", &self.ended, "account", shown);
        for (how, count) in &self.ended {
            record.put(&format!("ended {how}"), count, "connections ended", format!("{count} × {how}"));
        }
        counts.exact()
    }

    /// Puts the CPU of both sides into the record; `unit` is what the server's CPU is counted per.
    fn cpu(&self, record: &mut Record, server_ns: Option<u64>, pids: &[u32], units: u64, unit: &str) {
        match server_ns {
            Some(ns) => {
                let us = ns as f64 / 1e3 / units.max(1) as f64;
                record.put(&format!("server_cpu_us_per_{unit}"), us, &format!("server CPU per {unit}"), duration(us));
                let cores = ns as f64 / 1e9 / self.seconds();
                record.put("server_cores", cores, "server CPU", format!("{cores:.2} cores"));
            }
            None => without_server(record, pids, "server CPU"),
        }
        let cores = self.cpu_ns as f64 / 1e9 / self.seconds();
        record.put("client_cores", cores, "load side CPU", format!("{cores:.2} cores"));
    }
}

/// What lets a tidegate take everything, and what publishes without that limit.
const RATE_CURE: &str = "Start tidegate with --message-rate 0 (in tidegate.toml: message_rate = 0), send less with --rate, or \
                         spread it over more connections";

/// Says in the record why publications were refused, or may have been lost, and what to do; `plans` are the senders'.
fn hint(counts: &Counts, refusal: Option<&str>, ended: &BTreeMap<String, u64>, plans: &[Plan], record: &mut Record) {
    if let Some(refusal) = refusal {
        let refused = counts.refused;
        record.hint(&if refusal.contains("rate-limited") {
            format!("{refused} publications were over the server's message rate for one connection. {RATE_CURE}.")
        } else {
            format!("The server refused {refused} publications; it said first: {refusal}")
        });
    }
    let raw = |plan: &Plan| plan.target.scheme == Scheme::WebSocket && plan.scenario.refused.is_none();
    let over_rate = ended.contains_key("close 1008");
    if over_rate || counts.lost > 0 && plans.iter().any(raw) {
        let why = if over_rate { "were closed with 1008" } else { "lost messages" };
        record.hint(&format!(
            "Connections {why}. A raw client is not told which of its messages were over the server's message rate (tidegate: 100 a \
             second for one connection). {RATE_CURE}."
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(clients: u32) -> Plan {
        Plan {
            run: 1,
            role: Role::Storm,
            target: Target { scheme: Scheme::WebSocket, address: "127.0.0.1:1".parse().unwrap(), path: "/".into() },
            scenario: Scenario::default(),
            headers: Vec::new(),
            rooms: 1,
            room_name: String::new(),
            size: 64,
            first: 0,
            clients,
            window: 256,
            connect_rate: Some(100.0),
            receive_buffer: None,
            retry: false,
        }
    }

    #[test]
    fn shares_are_whole_and_follow_each_other() {
        for (clients, processes, workers) in
            [(1, None, 1), (19_000, None, 1), (19_001, None, 2), (10, Some(4), 4), (2, Some(8), 2)]
        {
            let shares = shares(&example(clients), processes);
            assert_eq!(shares.len(), workers);
            assert_eq!(shares.iter().map(|share| share.clients).sum::<u32>(), clients);
            assert!(shares.windows(2).all(|pair| pair[0].first + pair[0].clients == pair[1].first));
        }
    }

    #[test]
    fn the_last_member_of_a_publication_is_found_over_all_workers() {
        let one = Report { lasts: vec![5, 0, 9], ..Report::default() };
        let other = Report { lasts: vec![7, 3], ..Report::default() };
        assert_eq!(merge(&[one, other]).lasts, [7, 3, 9]);
    }
}
