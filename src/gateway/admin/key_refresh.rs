//! Keys that were fetched, from the thread that fetches them into force; what the log and the metrics say of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::jwks::{Fetched, Fetcher};
use super::metrics::KeyFigures;
use super::supervisor::Supervisor;
use tidegate_core::auth::Key;
use tidegate_core::shard::command::Command;

/// Between two log lines over the same error.
const WARNING_INTERVAL: Duration = Duration::from_secs(600);

/// What is known of the fetches.
pub(super) struct KeyRefresh {
    /// Where keys are to be fetched.
    fetcher: Option<Fetcher>,
    started: Instant,
    sources: HashMap<Arc<str>, Source>,
    /// Fetches that brought keys, and those that failed.
    fetches: [u64; 2],
}

/// One URL.
#[derive(Default)]
struct Source {
    fetched: Option<Instant>,
    /// The last error, and when it was logged; `None` after a success.
    error: Option<(String, Instant)>,
}

impl KeyRefresh {
    pub(super) fn new(started: Instant) -> Self {
        Self { fetcher: None, started, sources: HashMap::new(), fetches: [0; 2] }
    }

    fn note(&mut self, url: &Arc<str>, result: &Result<Vec<Key>, String>, now: Instant) {
        self.fetches[usize::from(result.is_err())] += 1;
        let source = self.sources.entry(url.clone()).or_default();
        match result {
            Ok(keys) => {
                if source.error.is_some() {
                    tracing::info!(%url, keys = keys.len(), "the keys that verify tokens can be fetched again");
                }
                *source = Source { fetched: Some(now), error: None };
            }
            Err(error) => {
                let is_told =
                    source.error.as_ref().is_some_and(|(known, at)| known == error && now - *at < WARNING_INTERVAL);
                if !is_told {
                    tracing::warn!(%url, %error, "the keys that verify tokens cannot be fetched; known keys stay in force");
                    source.error = Some((error.clone(), now));
                }
            }
        }
    }
}

impl Supervisor {
    /// Starts the thread that fetches keys, where some are to be fetched and it does not run yet.
    pub(super) fn fetch_keys(&self) {
        let (mut in_force, mut refresh) = (self.in_force.borrow_mut(), self.key_refresh.borrow_mut());
        if refresh.fetcher.is_some() || in_force.providers().is_empty() {
            return;
        }
        let Some((inbox, is_asked)) = in_force.take_inbox() else { return };
        match Fetcher::start(inbox, is_asked, self.waker.clone()) {
            Ok(fetcher) => refresh.fetcher = Some(fetcher),
            Err(error) => tracing::error!(%error, "no thread can fetch keys; raise the limit of threads and restart"),
        }
    }

    /// Puts keys in force that were fetched.
    pub(super) fn handle_fetched_keys(&self) {
        loop {
            let fetched = self.key_refresh.borrow().fetcher.as_ref().and_then(Fetcher::poll);
            let Some(Fetched { url, result }) = fetched else { return };
            self.key_refresh.borrow_mut().note(&url, &result, Instant::now());
            let Ok(keys) = result else { continue };
            let ids: Vec<String> = keys.iter().map(|key| String::from(key.id().unwrap_or("-"))).collect();
            let options = self.in_force.borrow_mut().provide(&url, keys);
            let Some(options) = options else { continue };
            tracing::info!(%url, ?ids, "other keys verify tokens from now on");
            self.command_all(|| Command::Options(options.clone()));
            self.state.set_awaits_keys(self.in_force.borrow().awaits_keys());
        }
    }

    /// What the metrics say of keys.
    pub(super) fn key_figures(&self) -> KeyFigures {
        let refresh = self.key_refresh.borrow();
        let ages = self.in_force.borrow().providers().into_iter().map(|url| {
            let source = refresh.sources.get(&url);
            source.and_then(|source| source.fetched).unwrap_or(refresh.started).elapsed().as_secs_f64()
        });
        KeyFigures { count: self.in_force.borrow().keys(), age_s: ages.fold(0.0, f64::max), fetches: refresh.fetches }
    }
}
