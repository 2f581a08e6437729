//! Latencies: a histogram of nanoseconds that travels between processes and ends as a few figures.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Nanoseconds from 1 µs to 10 minutes at three digits.
#[derive(Clone)]
pub(crate) struct Bins(Histogram<u64>);

/// What a histogram holds, in nanoseconds, as it travels.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Recorded(Vec<(u64, u64)>);

/// A distribution in microseconds, as it is reported.
#[derive(Clone, Default, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    #[serde(rename = "p99.9_us")]
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

const LOWEST_NS: u64 = 1_000;
const HIGHEST_NS: u64 = 600_000_000_000;

impl Bins {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, 3).expect("the bounds are constants that are accepted"))
    }

    /// Counts one duration.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// Takes in what another process recorded.
    pub(crate) fn add(&mut self, recorded: &Recorded) {
        for (ns, count) in &recorded.0 {
            self.0.saturating_record_n(*ns, *count);
        }
    }

    pub(crate) fn recorded(&self) -> Recorded {
        Recorded(self.0.iter_recorded().map(|bin| (bin.value_iterated_to(), bin.count_at_value())).collect())
    }

    pub(crate) fn summary(&self) -> Summary {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            count: self.0.len(),
            mean_us: (self.0.mean() / 10.0).round() / 100.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1e3,
        }
    }

    /// Points of the distribution for a plot: quantile and microseconds.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        const QUANTILES: [f64; 14] =
            [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];
        QUANTILES.iter().map(|q| (*q, self.0.value_at_quantile(*q) as f64 / 1e3)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_of_two_processes_merge_into_one() {
        let (mut one, mut other) = (Bins::new(), Bins::new());
        (1..=99).for_each(|_| one.record(1_000_000));
        other.record(5_000_000_000);
        let mut merged = Bins::new();
        merged.add(&one.recorded());
        merged.add(&other.recorded());
        let summary = merged.summary();
        assert_eq!(summary.count, 100);
        assert!((summary.p50_us - 1_000.0).abs() < 2.0);
        assert!((summary.max_us - 5e6).abs() < 1e4);
    }
}
