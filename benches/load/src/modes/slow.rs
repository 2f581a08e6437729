//! `slow`: the same load twice, first with every member reading, then with some that do not read any more.

use std::time::Duration;

use crate::cli::{Outcome, SlowArgs};
use crate::modes::fanout::{Stage, describe};
use crate::modes::{as_ready, merge, server_bytes};
use crate::protocol::Command;
use crate::record::{Record, duration};

/// Measures as the arguments say.
pub(crate) fn measure(args: &SlowArgs) -> Result<Outcome, String> {
    let (common, publishing) = (&args.common, &args.publishing);
    if args.stalled == 0 {
        return Err(String::from("--stalled is at least 1"));
    }
    let mut stage = Stage::set(common, publishing, Some((args.stalled, args.stalled_buffer)))?;
    stage.connect()?;
    if publishing.span.warmup > 0.0 {
        stage.round(publishing.span.warmup)?;
    }
    let before = stage.round(publishing.span.seconds)?.merged.latency.summary();
    let stalled = stage.stalled.clone();
    stage.workers.send(&stalled, &Command::Stall { clients: args.stalled })?;
    stage.workers.gather(&stalled, "stalling", Duration::ZERO, as_ready)?;
    let memory = server_bytes(&common.server_pid);
    let round = stage.round(publishing.span.seconds)?;
    let mut record = Record::default();
    record.distribution_summary("latency_before", &before, "before: publish to delivery");
    let exact = describe(&round, common, &mut record);
    stage.hint(&round.merged, &mut record);
    let after = round.merged.latency.summary();
    let ratio = after.p99_us / before.p99_us.max(0.001);
    record.put("p99_ratio", ratio, "p99 against before", format!("{ratio:.2} × {}", duration(before.p99_us)));
    if let Some((before, after)) = memory.zip(server_bytes(&common.server_pid)) {
        let bytes = (after as f64 - before as f64) / f64::from(args.stalled);
        record.put("bytes_per_stalled", bytes, "server memory per stalled reader", format!("{bytes:.0} B"));
    }
    let cut = merge(&stage.reports(&stalled, &[])?).ended;
    record.put("stalled_ended", &cut, "stalled readers that were cut off", format!("{cut:?}"));
    Ok(Outcome { record, held: exact || !publishing.span.exactly_once })
}
