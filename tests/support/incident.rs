//! What a story saw of a fault: how long the gateway took to know, and how long until all was as before.
//!
//! A figure for the report that `scripts/reliability.sh` writes, never a verdict.

use std::time::{Duration, Instant};

use super::gateway::Driver;

/// One fault, from its beginning on.
pub struct Incident {
    fault: &'static str,
    driver: Driver,
    begun: Instant,
    detected: Option<Duration>,
    lifted: Option<Instant>,
}

impl Incident {
    /// The fault is there from now on.
    pub fn begin(fault: &'static str, driver: Driver) -> Self {
        Self { fault, driver, begun: Instant::now(), detected: None, lifted: None }
    }

    /// The gateway knows.
    pub fn detected(&mut self) {
        self.detected = Some(self.begun.elapsed());
    }

    /// The cause is gone: what follows is recovery.
    pub fn lifted(&mut self) {
        self.lifted = Some(Instant::now());
    }

    /// All is as before.
    pub fn recovered(self) {
        let detected = self.detected.map_or_else(
            || String::from("nothing to detect"),
            |detected| format!("detected in {} ms", detected.as_millis()),
        );
        let since = self.lifted.unwrap_or(self.begun).elapsed().as_millis();
        println!("recovered: {} | {} | {detected} | recovered in {since} ms", self.fault, self.driver.name());
    }
}
