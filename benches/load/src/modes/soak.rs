//! `soak`: publishing for long while connections come and go; every round closes its account, and the server's memory is
//! watched over all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bins::Bins;
use crate::cli::{Outcome, SoakArgs};
use crate::modes::fanout::Stage;
use crate::modes::{as_ready, server_bytes, without_server};
use crate::protocol::{Command, Counts};
use crate::record::{Record, duration};

/// The sums over all rounds.
struct Sums {
    rounds: u64,
    counts: Counts,
    published: u64,
    latency: Bins,
    ended: BTreeMap<String, u64>,
    /// Seconds since the start and the server's anonymous memory.
    memory: Vec<(f64, u64)>,
    worst_p99_us: f64,
    refusal: Option<String>,
}

/// Measures as the arguments say.
pub(crate) fn measure(args: &SoakArgs) -> Result<Outcome, String> {
    let (common, publishing) = (&args.common, &args.publishing);
    let mut stage = Stage::set_with(common, publishing, None, true)?;
    stage.connect()?;
    let listeners = stage.listeners.clone();
    let rate = args.churn / listeners.len() as f64;
    stage.workers.send(&listeners, &Command::Churn { rate })?;
    stage.workers.gather(&listeners, "preparing", Duration::ZERO, as_ready)?;
    let started = Instant::now();
    let mut sums = Sums {
        rounds: 0,
        counts: Counts::default(),
        published: 0,
        latency: Bins::new(),
        ended: BTreeMap::new(),
        memory: Vec::new(),
        worst_p99_us: 0.0,
        refusal: None,
    };
    while args.rounds.map_or(started.elapsed().as_secs_f64() < args.minutes * 60.0, |rounds| sums.rounds < rounds) {
        let round = stage.round(publishing.span.seconds)?;
        sums.rounds += 1;
        sums.counts.add(&round.merged.counts);
        sums.published += round.published;
        sums.latency.add(&round.merged.latency.recorded());
        sums.worst_p99_us = sums.worst_p99_us.max(round.merged.latency.summary().p99_us);
        sums.refusal = sums.refusal.or(round.merged.refusal);
        for (how, count) in round.merged.ended {
            *sums.ended.entry(how).or_insert(0) += count;
        }
        sums.memory.extend(server_bytes(&common.server_pid).map(|bytes| (started.elapsed().as_secs_f64(), bytes)));
    }
    let mut record = Record::default();
    let exact = describe(&sums, &mut record, &common.server_pid);
    stage.hint_of(&sums.counts, sums.refusal.as_deref(), &sums.ended, &mut record);
    Ok(Outcome { record, held: exact || !publishing.span.exactly_once })
}

fn describe(sums: &Sums, record: &mut Record, pids: &[u32]) -> bool {
    let counts = &sums.counts;
    record.put("rounds", sums.rounds, "rounds", format!("{}", sums.rounds));
    record.put("published", sums.published, "published", format!("{}", sums.published));
    record.put("delivered", counts.delivered, "delivered", format!("{}", counts.delivered));
    record.distribution("latency", &sums.latency, "publish to delivery");
    record.put("worst_p99_us", sums.worst_p99_us, "worst round's p99", duration(sums.worst_p99_us));
    let shown = format!(
        "lost {}  duplicate {}  reordered {}  refused {}  gaps told {}  pings {}",
        counts.lost, counts.duplicate, counts.reordered, counts.refused, counts.gaps, counts.pings
    );
    record.put("counts", counts, "account", shown);
    record.put("ended", &sums.ended, "connections ended by the server", format!("{:?}", sums.ended));
    match (sums.memory.first(), sums.memory.last()) {
        (Some((from, first)), Some((to, last))) if to > from => {
            let slope = (*last as f64 - *first as f64) / (to - from) * 3600.0 / 1024.0;
            record.put("memory", &sums.memory, "server memory", format!("{} KB → {} KB", first >> 10, last >> 10));
            record.put("memory_kb_per_hour", slope, "growth", format!("{slope:+.0} KB/h"));
        }
        (Some(_), _) => {
            record.not_measured("the server's memory over time (of one round: give more of --rounds or --minutes)")
        }
        _ => without_server(record, pids, "the server's memory over time"),
    }
    counts.exact()
}
