//! `idle`: what a connection costs while nothing is said: memory of the server and of the kernel, CPU with heartbeats
//! answered. Then, if wished, broadcasts to all of them.

use std::time::Duration;

use crate::cli::{IdleArgs, Outcome};
use crate::modes::fanout::{Stage, describe};
use crate::modes::{as_connected, as_ready, merge, plan, server_bytes, server_cpu_ns, storm, without_server};
use crate::proc::{self, KernelMemory};
use crate::protocol::{Command, Pace, Role};
use crate::record::Record;
use crate::workers::Workers;

/// Connections of a process to itself that show what one end costs the kernel.
const CALIBRATION: u32 = 4_000;

/// Connections from which the CPU of a million is extrapolated, at least: of fewer the server's own ticking is the most.
const EXTRAPOLATED: u32 = 10_000;

/// Memory at one moment.
struct Memory {
    server: Option<u64>,
    kernel: Result<KernelMemory, String>,
}

impl Memory {
    fn read(pids: &[u32]) -> Self {
        Self { server: server_bytes(pids), kernel: KernelMemory::read() }
    }
}

/// Measures as the arguments say.
pub(crate) fn measure(args: &IdleArgs) -> Result<Outcome, String> {
    let common = &args.common;
    let pids = &common.server_pid;
    fits(common.connections)?;
    let mut record = Record::default();
    let mut stage = Stage::set_with(common, &args.publishing, None, args.retry)?;
    stage.workers.watch(Duration::from_millis(500), "waiting")?;
    let before = Memory::read(pids);
    let connected = stage.connect()?;
    storm::describe_connecting(&connected, &mut record);
    stage.workers.watch(Duration::from_secs_f64(args.settle), "settling")?;
    let after = Memory::read(pids);
    let cpu_before = server_cpu_ns(pids);
    let all = stage.workers.all();
    stage.workers.send(&all, &Command::Begin { published: 0 })?;
    stage.workers.gather(&all, "preparing", Duration::ZERO, as_ready)?;
    stage.workers.watch(Duration::from_secs_f64(args.publishing.span.seconds), "idle")?;
    let cpu = cpu_before.zip(server_cpu_ns(pids)).map(|(before, after)| after - before);
    let listeners = stage.listeners.clone();
    let idle = merge(&stage.reports(&listeners, &[])?);
    user_memory(args, &before, &after, &mut record);
    kernel_memory(args, &before, &after, &mut record)?;
    heartbeats(args, cpu, &idle, &mut record);
    let mut held = idle.ended.is_empty();
    if args.broadcasts > 0 {
        let round = stage.round_at(f64::from(args.broadcasts), Pace::Rate(f64::from(args.publishing.rooms)))?;
        held &= describe(&round, common, &mut record) && round.published > 0;
        stage.hint(&round.merged, &mut record);
    }
    Ok(Outcome { record, held: held || !args.publishing.span.exactly_once })
}

/// Refuses what would not fit into memory: both ends of a connection are on this host.
fn fits(connections: u32) -> Result<(), String> {
    const BOTH_ENDS: u64 = 9 * 1024;
    let wanted = u64::from(connections) * BOTH_ENDS;
    match proc::available_bytes() {
        Some(available) if wanted > available => Err(format!(
            "{connections} connections take about {} MB with both ends on this host, {} MB are available: use fewer",
            wanted >> 20,
            available >> 20
        )),
        _ => Ok(()),
    }
}

fn user_memory(args: &IdleArgs, before: &Memory, after: &Memory, record: &mut Record) {
    let connections = f64::from(args.common.connections);
    match before.server.zip(after.server) {
        Some((before, after)) => {
            let bytes = (after as f64 - before as f64) / connections;
            record.put("user_bytes", bytes, "user memory per connection", format!("{bytes:.0} B"));
            record.keep("server_rss_anon_before", before);
            record.keep("server_rss_anon_after", after);
        }
        None => without_server(record, &args.common.server_pid, "user memory per connection"),
    }
}

/// The kernel's memory has both ends in it; what one end and its epoll entry cost is measured on connections of our own and
/// taken off.
fn kernel_memory(args: &IdleArgs, before: &Memory, after: &Memory, record: &mut Record) -> Result<(), String> {
    let (before, after) = match (&before.kernel, &after.kernel) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(why), _) | (_, Err(why)) => {
            record.not_measured(&format!("kernel memory per connection ({why})"));
            return Ok(());
        }
    };
    let connections = f64::from(args.common.connections);
    let both = after.grown_since(before) as f64 / connections;
    record.keep("kernel_bytes_both_ends", both);
    let buffers = after.buffers_since(before) as f64 / connections;
    record.put("socket_buffer_bytes", buffers, "socket buffers per connection", format!("{buffers:.0} B"));
    if args.common.connections < CALIBRATION {
        record.not_measured("kernel memory per connection (below 4,000 connections the slabs' packing hides it)");
        return Ok(());
    }
    let (end, armed) = match calibrate(args)? {
        Ok(bytes) => bytes,
        Err(why) => {
            record.not_measured(&format!("kernel memory per connection (of our own end: {why})"));
            return Ok(());
        }
    };
    let server = both - end - armed;
    record.put("kernel_bytes", server, "kernel memory per connection", format!("{server:.0} B (server's end)"));
    record.keep("kernel_bytes_client_end", end + armed);
    if let Some(user) = record.value("user_bytes").and_then(serde_json::Value::as_f64) {
        let total = user + server;
        record.put("total_bytes", total, "total per connection", format!("{total:.0} B"));
    }
    Ok(())
}

/// Bytes of one end of a connection, and of waiting for it with epoll; or why the kernel does not tell.
fn calibrate(args: &IdleArgs) -> Result<Result<(f64, f64), String>, String> {
    let mut own = plan(&args.common, Role::Calibrate, 1)?;
    own.clients = CALIBRATION;
    let nothing = KernelMemory::read();
    let mut workers = Workers::start(&[own], args.common.timeout(), args.common.quiet)?;
    workers.gather(&[0], "calibrating", Duration::ZERO, as_connected)?;
    let open = KernelMemory::read();
    workers.send(&[0], &Command::Connect)?;
    workers.gather(&[0], "calibrating", Duration::ZERO, as_ready)?;
    let armed = KernelMemory::read();
    Ok(grown(nothing, open, armed))
}

/// What each of the calibration's connections added: an end, and being waited for.
fn grown(
    nothing: Result<KernelMemory, String>,
    open: Result<KernelMemory, String>,
    armed: Result<KernelMemory, String>,
) -> Result<(f64, f64), String> {
    let (nothing, open, armed) = (nothing?, open?, armed?);
    let pairs = f64::from(CALIBRATION);
    Ok((open.grown_since(&nothing) as f64 / pairs / 2.0, armed.grown_since(&open) as f64 / pairs))
}

fn heartbeats(args: &IdleArgs, cpu_ns: Option<u64>, idle: &crate::modes::Merged, record: &mut Record) {
    let seconds = args.publishing.span.seconds;
    record.keep("ended_while_idle", &idle.ended);
    record.put("pings", idle.counts.pings, "pings answered", format!("{} in {seconds} s", idle.counts.pings));
    if idle.counts.pings == 0 {
        record
            .not_measured("heartbeats: no WebSocket ping came while idle (longer --seconds, or the server sends none)");
    }
    match cpu_ns {
        Some(ns) => {
            let cores = ns as f64 / 1e9 / seconds;
            record.put("idle_cores", cores, "CPU while idle", format!("{cores:.4} cores"));
            if args.common.connections < EXTRAPOLATED {
                record
                    .not_measured("CPU of a million idle connections (from fewer than 10,000 nothing is extrapolated)");
                return;
            }
            let million = cores / f64::from(args.common.connections) * 1e6;
            record.put("idle_cores_per_million", million, "by a million", format!("{million:.3} cores (extrapolated)"));
        }
        None => without_server(record, &args.common.server_pid, "CPU while idle"),
    }
}
