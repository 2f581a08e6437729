//! What is in force: the options that the shards were last given, with the keys in them.
//!
//! Everything that changes them goes through here: other settings ([`InForce::replace`], which have read the files of keys anew), and
//! keys that were fetched ([`InForce::provide`]). What comes out is given to all shards as one command. Keys that were fetched stay in
//! force until others are fetched, also over other settings. The token cache is kept exactly as long as the keys are the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use super::jwks::Order;
use crate::gateway::config::random_key;
use tidegate_core::auth::{Cache, Key, Verifier};
use tidegate_core::shard::{AuthOptions, Options, Signal};

/// See the module.
pub struct InForce {
    options: Arc<Options>,
    /// Keys that were fetched, by their URL.
    provided: Vec<(Arc<str>, Vec<Key>)>,
    ca_file: Option<PathBuf>,
    /// To the thread that fetches keys.
    orders: mpsc::Sender<Order>,
    inbox: Option<mpsc::Receiver<Order>>,
    /// Given by a shard that does not know a token's key. It is given once until the thread has heard it.
    key_unknown: Signal,
    is_asked: Arc<AtomicBool>,
}

impl InForce {
    /// Begins with these options. `ca_file` is `auth.ca_file`.
    pub fn new(options: Options, ca_file: Option<PathBuf>) -> Self {
        let (orders, inbox) = mpsc::channel();
        let is_asked = Arc::new(AtomicBool::new(false));
        let (asked, asking) = (is_asked.clone(), orders.clone());
        let key_unknown = Signal::new(move || {
            if !asked.swap(true, Ordering::Relaxed) {
                let _ = asking.send(Order::KeyUnknown);
            }
        });
        let mut in_force = Self {
            options: Arc::default(),
            provided: Vec::new(),
            ca_file: None,
            orders,
            inbox: Some(inbox),
            key_unknown,
            is_asked,
        };
        in_force.replace(options, ca_file);
        in_force
    }

    /// The options for the shards.
    pub fn options(&self) -> Arc<Options> {
        self.options.clone()
    }

    /// Whether keys are to be fetched that were never loaded.
    pub fn awaits_keys(&self) -> bool {
        self.verifier().is_some_and(Verifier::awaits_keys)
    }

    /// Puts other options in force, with what was fetched so far.
    pub fn replace(&mut self, mut options: Options, ca_file: Option<PathBuf>) -> Arc<Options> {
        self.ca_file = ca_file;
        if let Some(auth) = &mut options.auth {
            auth.key_unknown = Some(self.key_unknown.clone());
            let provided = self.provided.iter();
            let verifier = provided
                .fold(Verifier::clone(&auth.verifier), |verifier, (url, keys)| verifier.with_provided(url, keys));
            auth.verifier = Arc::new(verifier);
            let before = self.options.auth.as_ref();
            if let Some(before) = before.filter(|before| before.verifier == auth.verifier) {
                auth.cache = before.cache.clone();
            }
        }
        self.options = Arc::new(options);
        let providers = self.providers();
        self.provided.retain(|(url, _)| providers.contains(url));
        // The thread's end is the node's end.
        let _ = self.orders.send(Order::Fetch { urls: providers, ca_file: self.ca_file.clone() });
        self.options()
    }

    /// Puts keys in force that were fetched from a URL; `None` where these are in force already.
    pub(super) fn provide(&mut self, url: &Arc<str>, keys: Vec<Key>) -> Option<Arc<Options>> {
        let auth = self.options.auth.as_ref()?;
        let verifier = auth.verifier.with_provided(url, &keys);
        self.provided.retain(|(known, _)| known != url);
        self.provided.push((url.clone(), keys));
        if verifier == *auth.verifier {
            return None;
        }
        let cache = Arc::new(emptied(&auth.cache));
        let auth = AuthOptions { verifier: Arc::new(verifier), cache, ..auth.clone() };
        self.options = Arc::new(Options { auth: Some(auth), ..Options::clone(&self.options) });
        Some(self.options())
    }

    /// Keys in force.
    pub(super) fn keys(&self) -> usize {
        self.verifier().map_or(0, |verifier| verifier.keys().count())
    }

    /// The URLs that keys are fetched from.
    pub(super) fn providers(&self) -> Vec<Arc<str>> {
        self.verifier().map(Verifier::providers).unwrap_or_default()
    }

    /// The inbox of the thread that fetches keys, and what tells that it has heard the shards' signal; once.
    pub(super) fn take_inbox(&mut self) -> Option<(mpsc::Receiver<Order>, Arc<AtomicBool>)> {
        Some((self.inbox.take()?, self.is_asked.clone()))
    }

    fn verifier(&self) -> Option<&Verifier> {
        self.options.auth.as_ref().map(|auth| &*auth.verifier)
    }
}

/// A cache for other keys. Where the kernel gives no random octets, what the old one had is verified by none.
fn emptied(cache: &Cache) -> Cache {
    random_key().map_or_else(|_| Cache::new(0, &[0; 32]), |key| cache.emptied(&key))
}
