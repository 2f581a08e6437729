//! Capacity over time: memory is looked at again, because limits are changed while the node runs, and other processes come and go.

use std::path::PathBuf;
use std::sync::Arc;

use super::capacity::{Capacity, KERNEL_BYTES, capacity, poll_bytes};
use crate::gateway::config::Config;
use crate::gateway::host::Host;

/// What a running node needs to judge its host again.
pub struct Watch {
    host: Host,
    config: Arc<Config>,
    root: PathBuf,
}

impl Watch {
    /// A watch over this host, as it was read at the start.
    pub fn new(host: Host, config: Arc<Config>) -> Self {
        Self { host, config, root: PathBuf::from("/") }
    }

    /// A watch over the host below `root`.
    #[cfg(test)]
    pub(super) fn below(root: PathBuf, host: Host, config: Arc<Config>) -> Self {
        Self { root, ..Self::new(host, config) }
    }

    /// What the node admits now, where it has `connections` already. What it takes for them is memory that it may take.
    pub fn look(&mut self, connections: u64) -> Capacity {
        let each = KERNEL_BYTES + poll_bytes(&self.host, &self.config);
        self.host.look_at_memory_again(&self.root, connections.saturating_mul(each));
        capacity(&self.host, &self.config)
    }
}
