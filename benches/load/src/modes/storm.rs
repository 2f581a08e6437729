//! `storm`: all clients connect at once; then all connections are cut at once and come back.

use std::time::{Duration, Instant};

use crate::bins::Bins;
use crate::cli::{Outcome, StormArgs};
use crate::modes::{as_connected, as_ready, as_report, merge, plan, server_cpu_ns, shares, without_server};
use crate::protocol::{Command, Connected, Role};
use crate::record::{Record, duration};
use crate::sys;
use crate::workers::Workers;

/// Puts how connecting went into the record; returns the time from the first dial to the last connection ready, in seconds.
pub(crate) fn describe_connecting(connected: &[Connected], record: &mut Record) -> f64 {
    let open: u32 = connected.iter().map(|worker| worker.open).sum();
    let first_ns = connected.iter().map(|worker| worker.first_ns).min().unwrap_or(0);
    let last_ns = connected.iter().map(|worker| worker.last_ns).max().unwrap_or(0);
    let seconds = last_ns.saturating_sub(first_ns).max(1) as f64 / 1e9;
    let mut upgrade = Bins::new();
    connected.iter().for_each(|worker| upgrade.add(&worker.upgrade));
    record.put("connections", open, "connections", format!("{open}"));
    let rate = f64::from(open) / seconds;
    record.put("connections_per_s", rate, "connect rate", format!("{rate:.0}/s over {seconds:.2} s"));
    record.distribution("upgrade", &upgrade, "dial to 101");
    let failures: u64 = connected.iter().flat_map(|worker| worker.failures.values()).sum();
    record.keep("failures", connected.iter().map(|worker| &worker.failures).collect::<Vec<_>>());
    if failures > 0 {
        record.put("failed_attempts", failures, "failed attempts", format!("{failures}"));
    }
    seconds
}

/// Measures as the arguments say.
pub(crate) fn measure(args: &StormArgs) -> Result<Outcome, String> {
    let common = &args.common;
    let pids = &common.server_pid;
    let mut plan = plan(common, Role::Storm, args.rooms)?;
    plan.retry = true;
    let plans = shares(&plan, common.processes);
    let mut record = Record::default();
    let mut figures = Vec::new();
    for _ in 0..args.repeat.max(1) {
        // The table and the distributions are the last time's; the CPU figure is of all.
        record = Record::default();
        let mut workers = Workers::start(&plans, common.timeout(), common.quiet)?;
        let all = workers.all();
        workers.send(&all, &Command::Begin { published: 0 })?;
        workers.gather(&all, "preparing", Duration::ZERO, as_ready)?;
        let before = when_idle(pids, common.timeout());
        workers.send(&all, &Command::Connect)?;
        let connected = workers.gather(&all, "connecting", Duration::ZERO, as_connected)?;
        let cpu = before.zip(server_cpu_ns(pids)).map(|(before, after)| after - before);
        let merged = merge(&{
            workers.send(&all, &Command::Report { published: 0, refused: Vec::new() })?;
            workers.gather(&all, "counting", Duration::ZERO, as_report)?
        });
        let seconds = describe_connecting(&connected, &mut record);
        let used = if common.pin.is_some() { merged.cpu_ns } else { merged.busiest_ns };
        record.client_bound = used as f64 / 1e9 >= 0.95 * seconds;
        figures.extend(cpu.map(|ns| ns as f64 / 1e3 / f64::from(common.connections)));
        if args.cut {
            cut(&mut workers, &mut record)?;
        }
    }
    match figures.iter().copied().reduce(f64::min) {
        Some(best) => {
            let mean = figures.iter().sum::<f64>() / figures.len() as f64;
            record.put("server_cpu_us_per_upgrade", mean, "server CPU per upgrade", duration(mean));
            record.keep("server_cpu_us_per_upgrade_best", best);
            record.keep("server_cpu_us_per_upgrade_each", &figures);
        }
        None => without_server(&mut record, pids, "server CPU per upgrade"),
    }
    Ok(Outcome { record, held: true })
}

/// The servers' CPU time once they are idle: what they still do for the connections of the time before is no upgrade's.
fn when_idle(pids: &[u32], timeout: Duration) -> Option<u64> {
    const LOOK: Duration = Duration::from_millis(100);
    const IDLE_NS: u64 = 2_000_000;
    let give_up = Instant::now() + timeout;
    let mut last = server_cpu_ns(pids)?;
    loop {
        std::thread::sleep(LOOK);
        let now = server_cpu_ns(pids)?;
        if now - last < IDLE_NS || Instant::now() >= give_up {
            return Some(now);
        }
        last = now;
    }
}

/// All are cut off at once and come back.
fn cut(workers: &mut Workers, record: &mut Record) -> Result<(), String> {
    let all = workers.all();
    workers.send(&all, &Command::Cut { at_ns: sys::now_ns() + 50_000_000 })?;
    let restored = workers.gather(&all, "coming back", Duration::ZERO, as_connected)?;
    let mut back = Bins::new();
    restored.iter().for_each(|worker| back.add(&worker.restored));
    record.distribution("restored", &back, "cut to restored");
    let complete = back.summary().max_us;
    record.put("all_restored_us", complete, "all restored after", duration(complete));
    let failures: u64 = restored.iter().flat_map(|worker| worker.failures.values()).sum();
    record.put("failed_while_restoring", failures, "failed attempts meanwhile", format!("{failures}"));
    Ok(())
}
