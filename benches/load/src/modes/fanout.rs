//! `fanout`: what one delivery costs the server, how many it makes, and when they arrive. The rooms, their members and the
//! publisher are what `idle`, `slow` and `soak` are made of too.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bins::Bins;
use crate::cli::{Common, FanoutArgs, Outcome, Publishing};
use crate::ledger::Range;
use crate::modes::{Merged, as_connected, as_ready, as_report, as_sent, hint, merge, plan, server_cpu_ns, shares};
use crate::protocol::{Command, Connected, Counts, Pace, Plan, Report, Role};
use crate::record::{Record, duration};
use crate::scenario::{Dialect, Scenario, Template, dialect_of};
use crate::sys;
use crate::target::{Scheme, Target};
use crate::workers::Workers;

/// Publications of which the last member's moment is noted, at most.
const SAMPLES: f64 = 10_000.0;
/// How long nothing new must arrive for everything to count as arrived.
const QUIET: Duration = Duration::from_secs(5);

/// Rooms with members, and a publisher.
pub(crate) struct Stage {
    pub(crate) workers: Workers,
    /// Workers whose deliveries are measured.
    pub(crate) listeners: Vec<usize>,
    /// Workers whose members stop reading.
    pub(crate) stalled: Vec<usize>,
    publisher: usize,
    rooms: u64,
    members: u64,
    pids: Vec<u32>,
    pace: Pace,
    /// What the publisher says and where, for hints.
    publishing: Plan,
    /// Publications of the run so far.
    pub(crate) published: u64,
}

/// What one round of publishing brought.
pub(crate) struct Round {
    pub(crate) merged: Merged,
    /// Publications of this round.
    pub(crate) published: u64,
    pub(crate) server_ns: Option<u64>,
}

impl Stage {
    /// Starts the workers; no connection is open yet. `stalled` members beside the others have small receive buffers.
    pub(crate) fn set(common: &Common, publishing: &Publishing, stalled: Option<(u32, i32)>) -> Result<Self, String> {
        Self::set_with(common, publishing, stalled, false)
    }

    /// The same with members that come back when they lose their connections.
    pub(crate) fn set_with(
        common: &Common,
        publishing: &Publishing,
        stalled: Option<(u32, i32)>,
        retry: bool,
    ) -> Result<Self, String> {
        if publishing.rooms == 0 {
            return Err(String::from("--rooms is at least 1"));
        }
        let pace = match (publishing.rate, publishing.window) {
            (Some(rate), _) if rate > 0.0 => Pace::Rate(rate),
            (Some(_), _) => return Err(String::from("--rate is above 0")),
            (None, Some(window)) => Pace::Window(window.max(1)),
            (None, None) => Pace::Rate(10.0),
        };
        let stride = match pace {
            Pace::Rate(rate) => (rate * publishing.span.seconds / SAMPLES).ceil().max(1.0) as u64,
            Pace::Window(_) => 64,
        };
        let mut common = common.clone();
        if common.url.starts_with("tcp://") {
            // Lines that are sent back know no rooms.
            common.dialect = common.dialect.or(Some(Dialect::Rooms));
        }
        let common = &common;
        let mut listening = plan(common, Role::Listen { stride }, publishing.rooms)?;
        listening.retry = retry;
        let mut plans = shares(&listening, common.processes);
        let listeners = (0..plans.len()).collect();
        let mut members = common.connections;
        let mut slow = Vec::new();
        if let Some((clients, buffer)) = stalled {
            slow.push(plans.len());
            let mut share = listening.clone();
            (share.first, share.clients, share.receive_buffer) = (members, clients, Some(buffer));
            members += clients;
            plans.push(share);
        }
        let plan = publisher(common, publishing, &listening, pace)?;
        plans.push(plan.clone());
        let publisher = plans.len() - 1;
        Ok(Self {
            workers: Workers::start(&plans, common.timeout(), common.quiet)?,
            listeners,
            stalled: slow,
            publisher,
            rooms: u64::from(publishing.rooms),
            members: u64::from(members),
            pids: common.server_pid.clone(),
            pace,
            publishing: plan,
            published: 0,
        })
    }

    /// Says in the record what to do about publications that were refused or lost.
    pub(crate) fn hint(&self, merged: &Merged, record: &mut Record) {
        self.hint_of(&merged.counts, merged.refusal.as_deref(), &merged.ended, record);
    }

    /// The same of several rounds.
    pub(crate) fn hint_of(
        &self,
        counts: &Counts,
        refusal: Option<&str>,
        ended: &BTreeMap<String, u64>,
        record: &mut Record,
    ) {
        hint(counts, refusal, ended, std::slice::from_ref(&self.publishing), record);
    }

    /// Connects all; returns how it went for the listeners.
    pub(crate) fn connect(&mut self) -> Result<Vec<Connected>, String> {
        let others: Vec<usize> = self.stalled.iter().copied().chain([self.publisher]).collect();
        self.workers.send(&self.listeners, &Command::Connect)?;
        let connected = self.workers.gather(&self.listeners, "connecting", Duration::ZERO, as_connected)?;
        self.workers.send(&others, &Command::Connect)?;
        self.workers.gather(&others, "connecting", Duration::ZERO, as_connected)?;
        Ok(connected)
    }

    /// Deliveries that so many publications of the run make.
    fn deliveries(&self, published: u64) -> u64 {
        let (rounds, rest) = (published / self.rooms, published % self.rooms);
        let in_first_rooms =
            (0..rest).map(|room| self.members / self.rooms + u64::from(room < self.members % self.rooms));
        rounds * self.members + in_first_rooms.sum::<u64>()
    }

    /// Publishes for so long and waits until all has arrived. The server's CPU is read from idle to idle.
    pub(crate) fn round(&mut self, seconds: f64) -> Result<Round, String> {
        let pace = self.pace;
        self.round_at(seconds, pace)
    }

    /// The same at another pace.
    pub(crate) fn round_at(&mut self, seconds: f64, pace: Pace) -> Result<Round, String> {
        let all = self.workers.all();
        let before = self.published;
        self.workers.send(&all, &Command::Begin { published: before })?;
        self.workers.gather(&all, "preparing", Duration::ZERO, as_ready)?;
        let cpu_before = server_cpu_ns(&self.pids);
        let at_ns = sys::now_ns() + 20_000_000;
        self.workers.send(&[self.publisher], &Command::Send { at_ns, seconds, pace })?;
        let sent = self.workers.gather(&[self.publisher], "publishing", Duration::from_secs_f64(seconds), as_sent)?;
        self.published = sent.first().copied().unwrap_or(before);
        let expected = self.deliveries(self.published) - self.deliveries(before);
        let hearing: Vec<usize> = self.listeners.iter().chain(&self.stalled).copied().collect();
        // Of rooms that differ by a member, the smaller number: what is refused must not end the wait for what is not.
        self.workers.settle(&hearing, expected, (self.publisher, self.members / self.rooms), QUIET)?;
        let cpu_after = server_cpu_ns(&self.pids);
        let mut reports = self.reports(&[self.publisher], &[])?;
        let refused = reports.iter().flat_map(|report| report.refused.clone()).collect::<Vec<_>>();
        let listeners = self.listeners.clone();
        reports.extend(self.reports(&listeners, &refused)?);
        let mut merged = merge(&reports);
        merged.least_seconds = seconds;
        Ok(Round {
            merged,
            published: self.published - before,
            server_ns: cpu_before.zip(cpu_after).map(|(before, after)| after - before),
        })
    }

    /// What these workers counted since the round began; what was `refused` is not counted as lost.
    pub(crate) fn reports(&mut self, workers: &[usize], refused: &[Range]) -> Result<Vec<Report>, String> {
        self.workers.send(workers, &Command::Report { published: self.published, refused: refused.to_vec() })?;
        self.workers.gather(workers, "counting", Duration::ZERO, as_report)
    }
}

/// The publisher's plan.
fn publisher(common: &Common, publishing: &Publishing, listening: &Plan, pace: Pace) -> Result<Plan, String> {
    let mut plan = Plan { role: Role::Publish, first: 0, retry: false, ..listening.clone() };
    if let Some(url) = &publishing.publish_url {
        plan.target = Target::parse(url)?;
        plan.target.publishes(url)?;
        let spoken = common.dialect.filter(|_| plan.target.scheme == Scheme::WebSocket);
        let dialect = spoken.unwrap_or_else(|| dialect_of(plan.target.scheme, &plan.target.path));
        let words = if plan.target.scheme == Scheme::WebSocket { common.words.clone() } else { Scenario::default() };
        plan.scenario = words.or(Scenario::preset(dialect));
        if dialect == Dialect::Nats {
            broker(&mut plan.scenario, pace);
        }
    }
    if let Some(name) = &publishing.publish_room {
        plan.room_name = name.replace("{room}", &common.room_name);
    }
    if plan.scenario.publish.is_none() {
        return Err(String::from(
            "nothing is known to say for publishing here: give --publish TEMPLATE or --publish-url",
        ));
    }
    // As fast as acknowledged, a publisher without acknowledgements takes its own deliveries for it, so it is a member.
    let member = matches!(pace, Pace::Window(_)) && plan.scenario.acknowledged.is_none();
    let framed = plan.target.scheme == Scheme::WebSocket;
    let room_in_path = framed && Template::new(&plan.target.path).names_room();
    if !member && !room_in_path {
        (plan.scenario.join, plan.scenario.joined) = (None, None);
    }
    let connections = if room_in_path || member { publishing.rooms } else { publishing.publishers.unwrap_or(1) };
    plan.clients = connections.min(publishing.rooms);
    Ok(plan)
}

/// Of NATS' scenario a publisher over TCP needs no subscription, and acknowledgements only where it waits for them.
fn broker(scenario: &mut Scenario, pace: Pace) {
    (scenario.join, scenario.joined) = (None, None);
    if matches!(pace, Pace::Window(_)) {
        scenario.hello = Some(String::from(r#"CONNECT {"verbose":true,"pedantic":false}\r\nPING\r\n"#));
        scenario.acknowledged = Some(String::from("+OK"));
    }
}

/// Puts a round's figures into the record; true when every message came once and in order.
pub(crate) fn describe(round: &Round, common: &Common, record: &mut Record) -> bool {
    let merged = &round.merged;
    let delivered = merged.counts.delivered;
    let rate = delivered as f64 / merged.seconds();
    let publications = round.published as f64 / merged.seconds();
    record.put("published", round.published, "published", format!("{} ({publications:.0}/s)", round.published));
    record.put("delivered", delivered, "delivered", format!("{delivered}"));
    record.put("deliveries_per_s", rate, "deliveries", format!("{rate:.0}/s"));
    merged.cpu(record, round.server_ns, &common.server_pid, delivered, "delivery");
    record.distribution("latency", &merged.latency, "publish to delivery");
    let mut lasts = Bins::new();
    merged.lasts.iter().filter(|ns| **ns > 0).for_each(|ns| lasts.record(*ns));
    record.distribution("last_member", &lasts, "publish to last member");
    let late = merged.lateness.summary();
    record.keep("lateness", &late);
    if late.count > 0 {
        record.put("late_p99_us", late.p99_us, "published late by", format!("p99 {}", duration(late.p99_us)));
    }
    record.keep("reads", merged.counts.reads);
    record.keep("bytes_in", merged.counts.bytes_in);
    record.client_bound = merged.client_bound(common.pin.is_some());
    merged.account(record)
}

/// Measures as the arguments say.
pub(crate) fn measure(args: &FanoutArgs) -> Result<Outcome, String> {
    let mut stage = Stage::set(&args.common, &args.publishing, None)?;
    stage.connect()?;
    let mut exact = true;
    if args.publishing.span.warmup > 0.0 {
        let counts = stage.round(args.publishing.span.warmup)?.merged.counts;
        exact = counts.exact();
    }
    let round = stage.round(args.publishing.span.seconds)?;
    let mut record = Record::default();
    exact &= describe(&round, &args.common, &mut record);
    stage.hint(&round.merged, &mut record);
    Ok(Outcome { record, held: exact || !args.publishing.span.exactly_once })
}
