//! Building metric families of the prometheus crate from plain numbers.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramValue, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::counters::{BUCKETS_NS, Cell, Histogram};

/// A family whose samples are added one by one.
pub(super) struct Family {
    family: MetricFamily,
    metrics: Vec<Metric>,
}

/// A counter.
pub(super) fn counter(name: &str, help: &str) -> Family {
    Family::new(name, help, MetricType::COUNTER)
}

/// A gauge.
pub(super) fn gauge(name: &str, help: &str) -> Family {
    Family::new(name, help, MetricType::GAUGE)
}

/// The sum of histograms, in seconds.
pub(super) fn histogram<'a>(
    name: &str,
    help: &str,
    parts: impl Iterator<Item = &'a Histogram> + Clone,
) -> MetricFamily {
    let in_bucket = |number: usize| parts.clone().map(|part| part.buckets[number].value()).sum::<u64>();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(BUCKETS_NS.len());
    for (number, bound_ns) in BUCKETS_NS.iter().enumerate() {
        cumulative += in_bucket(number);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound_ns as f64 / 1e9);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut value = HistogramValue::default();
    value.set_bucket(buckets);
    value.set_sample_count(cumulative + in_bucket(BUCKETS_NS.len()));
    value.set_sample_sum(parts.map(|part| seconds(&part.sum_ns)).sum());
    let mut metric = Metric::default();
    metric.set_histogram(value);
    let mut family = Family::new(name, help, MetricType::HISTOGRAM);
    family.metrics.push(metric);
    family.done()
}

/// A cell of nanoseconds in seconds.
pub(super) fn seconds(cell: &Cell) -> f64 {
    cell.value() as f64 / 1e9
}

impl Family {
    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self { family, metrics: Vec::new() }
    }

    /// Adds a sample.
    pub(super) fn sample(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        if self.family.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
        self
    }

    /// The family of one sample without labels.
    pub(super) fn value(self, value: f64) -> MetricFamily {
        self.sample(&[], value).done()
    }

    /// The family of one sample for each value of a label.
    pub(super) fn labelled<L: AsRef<str>>(
        self,
        label: &str,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> MetricFamily {
        let filled = samples
            .into_iter()
            .fold(self, |family, (label_value, value)| family.sample(&[(label, label_value.as_ref())], value));
        filled.done()
    }

    /// The family.
    pub(super) fn done(mut self) -> MetricFamily {
        self.family.set_metric(self.metrics);
        self.family
    }
}
