//! Families of the prometheus crate, made of counters that know their metrics.
//!
//! Samples of one family with the same labels are one sample: that is how the counters of several shards, and of shards and
//! relay, are put together.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramValue, LabelPair, Metric as Sample, MetricFamily, MetricType,
};

use tidegate_core::counters::{BUCKETS_NS, Cell, Histogram};
use tidegate_core::metric::{Across, Family, Kind, LabelOf, Labelled, Metrics, Reading};

/// Names and values of a sample's labels.
type Labels = Vec<(&'static str, String)>;

/// One sample, as far as it is added up.
enum Value {
    Number(f64),
    /// Values in each bucket of [`BUCKETS_NS`] and above, and their sum in seconds.
    Distribution([u64; BUCKETS_NS.len() + 1], f64),
}

struct Growing {
    family: Family,
    help: &'static str,
    samples: Vec<(Labels, Value)>,
}

/// Families in the order in which their first metric was added.
#[derive(Default)]
pub(super) struct Exposition {
    families: Vec<Growing>,
}

impl Exposition {
    /// Adds the metrics of `holders`, which are all the shards, or a single structure.
    pub(super) fn add<C: Metrics>(&mut self, holders: &[&C]) {
        for metric in C::metrics() {
            let growing = self.family(metric.family, metric.help);
            for (shard, holder) in holders.iter().enumerate() {
                let mut labels: Labels =
                    metric.family.with.iter().map(|(name, value)| (*name, (*value).into())).collect();
                if metric.family.across == Across::Each {
                    labels.push(("shard", shard.to_string()));
                }
                growing.read(&metric.family, labels, (metric.read)(holder));
            }
        }
    }

    fn family(&mut self, family: Family, help: &'static str) -> &mut Growing {
        let known = self.families.iter().position(|growing| growing.family.name == family.name);
        let index = known.unwrap_or_else(|| {
            self.families.push(Growing { family, help, samples: Vec::new() });
            self.families.len() - 1
        });
        &mut self.families[index]
    }

    /// The families that have a sample: the encoder refuses one without.
    pub(super) fn families(self) -> Vec<MetricFamily> {
        self.families.into_iter().filter(|growing| !growing.samples.is_empty()).map(Growing::finished).collect()
    }
}

impl Growing {
    fn read(&mut self, family: &Family, labels: Labels, reading: Reading<'_>) {
        match reading {
            Reading::Cells(cells) => {
                for (index, cell) in cells.iter().enumerate() {
                    let number = if family.seconds { seconds(cell) } else { cell.value() as f64 };
                    let labels = labels.iter().cloned().chain(family.by.map(|(name, of)| (name, value_at(of, index))));
                    self.sample(family.across, labels.collect(), Value::Number(number));
                }
            }
            Reading::Histogram(histogram) => self.sample(family.across, labels, distribution(histogram)),
            Reading::Found(Some(number)) => self.sample(family.across, labels, Value::Number(number)),
            Reading::Found(None) => {}
            Reading::Labelled(all) => {
                for Labelled { labels: own, count } in all {
                    let labels = labels.iter().chain(own).cloned().collect();
                    self.sample(family.across, labels, Value::Number(*count as f64));
                }
            }
            Reading::Labels(pairs) => {
                let pairs = pairs.iter().map(|(name, value)| (*name, (*value).to_owned()));
                self.sample(family.across, labels.into_iter().chain(pairs).collect(), Value::Number(1.0));
            }
        }
    }

    fn sample(&mut self, across: Across, labels: Labels, value: Value) {
        match self.samples.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, known)) => known.join(across, value),
            None => self.samples.push((labels, value)),
        }
    }

    fn finished(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        let kind = self.family.kind;
        family.set_metric(self.samples.into_iter().map(|(labels, value)| value.finished(kind, labels)).collect());
        family
    }
}

impl Value {
    fn join(&mut self, across: Across, other: Self) {
        match (self, other) {
            (Self::Number(number), Self::Number(other)) if across == Across::Largest => *number = number.max(other),
            (Self::Number(number), Self::Number(other)) => *number += other,
            (Self::Distribution(counts, sum), Self::Distribution(others, other_sum)) => {
                counts.iter_mut().zip(others).for_each(|(count, other)| *count += other);
                *sum += other_sum;
            }
            (Self::Number(_), Self::Distribution(..)) | (Self::Distribution(..), Self::Number(_)) => {}
        }
    }

    fn finished(self, kind: Kind, labels: Labels) -> Sample {
        let mut sample = Sample::from_label(labels.into_iter().map(pair).collect());
        match self {
            Self::Distribution(counts, sum) => sample.set_histogram(histogram(&counts, sum)),
            Self::Number(number) if kind == Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(number);
                sample.set_counter(counter);
            }
            Self::Number(number) => {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                sample.set_gauge(gauge);
            }
        }
        sample
    }
}

fn pair((name, value): (&'static str, String)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn value_at(label: LabelOf, index: usize) -> String {
    match label {
        LabelOf::Named(value) => value(index).to_owned(),
        LabelOf::Number => index.to_string(),
    }
}

/// A cell of nanoseconds in seconds.
fn seconds(cell: &Cell) -> f64 {
    cell.value() as f64 / 1e9
}

fn distribution(histogram: &Histogram) -> Value {
    let counts = std::array::from_fn(|bucket| histogram.buckets[bucket].value());
    Value::Distribution(counts, seconds(&histogram.sum_ns))
}

fn histogram(counts: &[u64; BUCKETS_NS.len() + 1], sum: f64) -> HistogramValue {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(BUCKETS_NS.len());
    for (bound_ns, count) in BUCKETS_NS.iter().zip(counts) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound_ns as f64 / 1e9);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut value = HistogramValue::default();
    value.set_bucket(buckets);
    value.set_sample_count(counts.iter().sum());
    value.set_sample_sum(sum);
    value
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;
    use tidegate_core::counters::{DropReason, RelayCounters, ShardCounters};

    fn scrape(shards: &[&ShardCounters], relay: &RelayCounters) -> String {
        let mut exposition = Exposition::default();
        exposition.add(shards);
        exposition.add(&[relay]);
        TextEncoder::new().encode_to_string(&exposition.families()).unwrap()
    }

    #[track_caller]
    fn assert_samples(text: &str, samples: &[&str]) {
        for sample in samples {
            assert!(text.lines().any(|line| line == *sample), "no {sample} in\n{text}");
        }
    }

    #[test]
    fn shards_are_added_up_or_the_largest_counts_or_each_has_its_label() {
        let (one, two) = (ShardCounters::default(), ShardCounters::default());
        for (shard, number) in [(&one, 3), (&two, 4)] {
            shard.connections.set(number);
            shard.outbox_max_bytes.set(number);
            shard.loop_lag_ns.set(number * 500_000_000);
            shard.messages_in[1].set(number);
            shard.handshake_duration.record(2_000_000, number);
        }
        let text = scrape(&[&one, &two], &RelayCounters::default());
        assert_samples(&text, &["ws_connections_active 7", "ws_connected_clients 7", "ws_outbox_max_bytes 4"]);
        assert_samples(&text, &["ws_shard_connections{shard=\"0\"} 3", "ws_shard_connections{shard=\"1\"} 4"]);
        assert_samples(&text, &["ws_loop_lag_seconds{shard=\"0\"} 1.5", "ws_loop_lag_seconds{shard=\"1\"} 2"]);
        assert_samples(&text, &["ws_messages_total{direction=\"inbound\",type=\"leave\"} 7"]);
        assert_samples(&text, &["ws_handshake_duration_seconds_bucket{le=\"0.001\"} 0"]);
        assert_samples(&text, &["ws_handshake_duration_seconds_bucket{le=\"0.0025\"} 7"]);
        assert_samples(&text, &["ws_handshake_duration_seconds_sum 0.014", "ws_handshake_duration_seconds_count 7"]);
    }

    #[test]
    fn what_the_relay_dropped_is_added_to_what_the_shards_dropped() {
        let (shard, relay) = (ShardCounters::default(), RelayCounters::default());
        shard.dropped[DropReason::Mailbox as usize].set(2);
        relay.dropped[DropReason::Mailbox as usize].set(5);
        relay.dropped[DropReason::Broker as usize].set(1);
        let text = scrape(&[&shard], &relay);
        assert_samples(&text, &["ws_dropped_total{reason=\"mailbox\"} 7", "ws_dropped_total{reason=\"broker\"} 1"]);
        assert_eq!(text.matches("# TYPE ws_dropped_total counter").count(), 1);
    }

    #[test]
    fn a_family_without_a_sample_is_left_out_because_the_encoder_refuses_it() {
        let text = scrape(&[&ShardCounters::default()], &RelayCounters::default());
        assert!(!text.contains("ws_relay_mailbox_depth"), "{text}");
        assert!(!scrape(&[], &RelayCounters::default()).contains("ws_shard_connections"));
    }
}
