//! A publisher that goes on until it is told, and members that listen until they have heard its last word.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checker::{self, Heard};
use super::client::{Client, End, Said};
use super::http::PATIENCE;

/// The publisher of a room: number 0.
pub struct Load {
    /// Messages that are published, or about to be.
    begun: AtomicU64,
    /// Messages published so far.
    published: AtomicU64,
    /// The same, once it is the last word.
    last: AtomicU64,
    stopping: AtomicBool,
}

/// See [`Load::stop_at_the_end`].
pub struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stopping.store(true, SeqCst);
    }
}

impl Default for Load {
    fn default() -> Self {
        let last = AtomicU64::new(u64::MAX);
        Self { begun: AtomicU64::new(0), published: AtomicU64::new(0), last, stopping: AtomicBool::new(false) }
    }
}

impl Load {
    /// Publishes about a thousand messages a second until the value of [`Self::stop_at_the_end`] ends.
    pub fn publish(&self, client: &mut Client, room: &str) {
        self.publish_with(|content| {
            client.publish(room, content);
            // What it is told (that the broker is away) must not fill its own connection.
            client.next_within(Duration::from_millis(1));
        });
    }

    /// The same in another way.
    pub fn publish_with(&self, mut publish: impl FnMut(Value)) {
        let mut number = 0;
        while !self.stopping.load(SeqCst) {
            self.begun.store(number + 1, SeqCst);
            publish(checker::numbered(0, number));
            number += 1;
            self.published.store(number, SeqCst);
        }
        self.last.store(number, SeqCst);
    }

    /// Ends it with the value, also where a story fails: then that is what is reported.
    pub fn stop_at_the_end(&self) -> Stop<'_> {
        Stop(self)
    }

    /// The first message that is published after this moment, if not a later one: who is a member now gets it.
    pub fn next_number(&self) -> u64 {
        self.begun.load(SeqCst)
    }

    /// How many messages were published.
    pub fn published(&self) -> u64 {
        self.published.load(SeqCst)
    }

    /// Waits until so many more were published.
    pub fn wait_for_more(&self, more: u64) {
        let (goal, deadline) = (self.published() + more, Instant::now() + PATIENCE);
        while self.published() < goal {
            assert!(Instant::now() < deadline, "the publisher stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// For the checker: what was published, after the end.
    pub fn ledger(&self) -> BTreeMap<u64, u64> {
        BTreeMap::from([(0, self.last.load(SeqCst))])
    }

    /// Listens until the last word, or until the end of the connection.
    pub fn hear(&self, client: &mut Client) -> (Vec<Heard>, Option<End>) {
        self.hear_since(0, client)
    }

    /// The same for who became a member when `since` was [`Self::next_number`].
    pub fn hear_since(&self, since: u64, client: &mut Client) -> (Vec<Heard>, Option<End>) {
        let (mut heard, mut next) = (Vec::new(), since);
        let mut silent_since = Instant::now();
        while next < self.last.load(SeqCst) {
            let text = match client.next_within(Duration::from_millis(100)) {
                Some(Said::Text(text)) => text,
                Some(Said::End(end)) => {
                    heard.push(Heard::Told);
                    return (heard, Some(end));
                }
                Some(Said::Binary(_)) => panic!("binary"),
                None => {
                    let ended = self.last.load(SeqCst) != u64::MAX;
                    assert!(!ended || silent_since.elapsed() < PATIENCE, "it never hears the last word, only {next}");
                    continue;
                }
            };
            silent_since = Instant::now();
            let item = Heard::of(&serde_json::from_str(&text).unwrap());
            if let Some(Heard::Message(_, number)) = item {
                next = number + 1;
            }
            heard.extend(item);
        }
        (heard, None)
    }
}
