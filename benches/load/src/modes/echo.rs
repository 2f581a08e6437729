//! `echo`: what one message costs the server, and how long its way is.

use std::time::Duration;

use crate::cli::{EchoArgs, Outcome};
use crate::modes::{Merged, as_connected, as_ready, as_report, as_sent, hint, merge, plan, server_cpu_ns, shares};
use crate::protocol::{Command, Pace, Role};
use crate::record::Record;
use crate::sys;
use crate::workers::Workers;

/// Measures as the arguments say.
pub(crate) fn measure(args: &EchoArgs) -> Result<Outcome, String> {
    let common = &args.common;
    let count = shares(&plan(common, Role::Storm, 1)?, common.processes).len() as f64;
    let role = Role::Echo { pipeline: args.pipeline, rate: args.rate.map(|rate| rate / count) };
    // Each connection has a room of its own, so that what it publishes comes back to it alone.
    let plans = shares(&plan(common, role, common.connections)?, common.processes);
    let mut workers = Workers::start(&plans, common.timeout(), common.quiet)?;
    let all = workers.all();
    workers.send(&all, &Command::Connect)?;
    workers.gather(&all, "connecting", Duration::ZERO, as_connected)?;
    if args.span.warmup > 0.0 {
        round(&mut workers, args, args.span.warmup)?;
    }
    let (merged, cpu_ns) = round(&mut workers, args, args.span.seconds)?;
    let mut record = Record::default();
    let messages = merged.counts.delivered;
    let rate = messages as f64 / merged.seconds();
    record.put("messages", messages, "messages", format!("{messages}"));
    record.put("messages_per_s", rate, "rate", format!("{rate:.0} messages/s"));
    merged.cpu(&mut record, cpu_ns, &common.server_pid, messages, "message");
    record.distribution("latency", &merged.latency, "there and back");
    if args.rate.is_some() {
        record.distribution("lateness", &merged.lateness, "sent late by");
    }
    record.client_bound = merged.client_bound(common.pin.is_some());
    let exact = merged.account(&mut record);
    hint(&merged.counts, merged.refusal.as_deref(), &merged.ended, &plans, &mut record);
    Ok(Outcome { record, held: exact || !args.span.exactly_once })
}

/// Sends for so long; returns what was counted and the server's CPU, from idle to idle.
fn round(workers: &mut Workers, args: &EchoArgs, seconds: f64) -> Result<(Merged, Option<u64>), String> {
    let all = workers.all();
    workers.send(&all, &Command::Begin { published: 0 })?;
    workers.gather(&all, "preparing", Duration::ZERO, as_ready)?;
    let before = server_cpu_ns(&args.common.server_pid);
    let at_ns = sys::now_ns() + 20_000_000;
    workers.send(&all, &Command::Send { at_ns, seconds, pace: Pace::Window(0) })?;
    workers.gather(&all, "echoing", Duration::from_secs_f64(seconds), as_sent)?;
    let after = server_cpu_ns(&args.common.server_pid);
    workers.send(&all, &Command::Report { published: 0, refused: Vec::new() })?;
    let reports = workers.gather(&all, "counting", Duration::ZERO, as_report)?;
    let mut merged = merge(&reports);
    merged.least_seconds = seconds;
    Ok((merged, before.zip(after).map(|(before, after)| after - before)))
}
