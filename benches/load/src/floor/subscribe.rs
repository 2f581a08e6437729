//! A bare subscriber of the broker: what any gateway's latency is compared with, on the same broker and under the same load.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;

use crate::bins::Bins;
use crate::ledger::{Arrival, Ledger};
use crate::record::{self, Record};
use crate::{stamp, sys};

/// Listens for so long and tells what it heard.
pub(crate) fn run(
    url: &str,
    subject: &str,
    seconds: f64,
    label: Option<&str>,
    json: Option<&Path>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let mut record = Record::default();
    runtime.block_on(listen(url, subject, seconds, &mut record))?;
    let line = record.line("floor-subscribe", label, &serde_json::json!({ "url": url, "subject": subject }));
    record::append(json.unwrap_or(Path::new("-")), &line)
}

async fn listen(url: &str, subject: &str, seconds: f64, record: &mut Record) -> Result<(), String> {
    let client = async_nats::connect(url).await.map_err(|error| format!("{url} is not reached: {error}"))?;
    let mut subscription =
        client.subscribe(String::from(subject)).await.map_err(|error| format!("{subject}: {error}"))?;
    let (mut latency, mut ledger, mut lost, mut heard) = (Bins::new(), Ledger::default(), 0, 0_u64);
    let until = tokio::time::sleep(Duration::from_secs_f64(seconds));
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            message = subscription.next() => {
                let Some(message) = message else { break };
                let Some(stamp) = stamp::find_any(&message.payload) else { continue };
                latency.record(sys::now_ns().saturating_sub(stamp.intended_ns));
                heard += 1;
                if let Arrival::After(hole) = ledger.record(stamp.sequence) {
                    lost += hole;
                }
            }
        }
    }
    record.keep("heard", heard);
    record.keep("lost", lost);
    record.distribution("latency", &latency, "publish to delivery");
    Ok(())
}
