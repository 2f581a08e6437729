//! How many requests the admin port has answered, by route and status.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tidegate_core::metric::Labelled;

/// The route of a request that none serves.
pub(super) const NO_ROUTE: &str = "none";

/// The counters. Routes and statuses are the port's own words, so there is no more than one for each pair of them.
#[derive(Debug, Default)]
pub(super) struct Requests(RefCell<BTreeMap<(&'static str, u16), u64>>);

impl Requests {
    /// Counts one answer.
    pub(super) fn count(&self, route: &'static str, status: u16) {
        *self.0.borrow_mut().entry((route, status)).or_default() += 1;
    }

    /// What was counted, for the metric.
    pub(super) fn samples(&self) -> Vec<Labelled> {
        let counted = self.0.borrow();
        let sample = |(route, status): &(&'static str, u16), count: &u64| Labelled {
            labels: vec![("route", (*route).to_owned()), ("status", status.to_string())],
            count: *count,
        };
        counted.iter().map(|(pair, count)| sample(pair, count)).collect()
    }
}
