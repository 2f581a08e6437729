//! A publisher that goes on until it is told, and members that listen until they have heard its last word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::checker::{self, Heard, Ledger, Verdict};
use super::client::{Client, End, Said};
use super::http::LONGEST_WAIT;

/// The publisher of a room: number 0.
pub struct Load {
    /// Messages that are published, or about to be.
    begun: AtomicU64,
    /// Messages published so far.
    published: AtomicU64,
    /// The number after the last one that arrives, once it is known.
    last: AtomicU64,
    /// Those that failed, and whose publisher was told.
    failed: Mutex<BTreeSet<u64>>,
    stopping: AtomicBool,
}

/// See [`Load::stop_at_the_end`].
pub struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stopping.store(true, SeqCst);
    }
}

/// Clears a flag when the value ends, also where a story fails: what runs for as long as it is set ends then.
pub struct ClearedAtTheEnd<'a>(pub &'a AtomicBool);

impl Drop for ClearedAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Where the publisher fails, nobody waits for its last word: its panic is what is reported.
struct Failing<'a>(&'a Load);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.last.store(0, SeqCst);
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        let [begun, published, last] = [0, 0, u64::MAX].map(AtomicU64::new);
        Self { begun, published, last, failed: Mutex::default(), stopping: AtomicBool::new(false) }
    }
}

impl Load {
    /// Publishes about a thousand messages a second until the value of [`Self::stop_at_the_end`] ends, and hears what became
    /// of each.
    pub fn publish(&self, client: &mut Client, room: &str) {
        let _failing = Failing(self);
        let mut open = BTreeSet::new();
        let published = self.publish_until_stopped(|content| {
            let number = content["n"].as_u64().unwrap();
            let request = json!({"type": "message", "roomId": room, "content": content, "ack": true, "ref": number});
            client.say(request);
            open.insert(number);
            std::thread::sleep(Duration::from_millis(1));
            while let Some(said) = client.said_by_now() {
                self.note_outcome(said, &mut open);
            }
        });
        while !open.is_empty() {
            self.note_outcome(client.next(), &mut open);
        }
        let failed = self.failed.lock().unwrap();
        let arrives = (0..published).rev().find(|number| !failed.contains(number));
        self.last.store(arrives.map_or(0, |number| number + 1), SeqCst);
    }

    /// The same in another way, which tells of no failure.
    pub fn publish_with(&self, publish: impl FnMut(Value)) {
        let _failing = Failing(self);
        let published = self.publish_until_stopped(publish);
        self.last.store(published, SeqCst);
    }

    fn publish_until_stopped(&self, mut publish: impl FnMut(Value)) -> u64 {
        let mut number = 0;
        while !self.stopping.load(SeqCst) {
            self.begun.store(number + 1, SeqCst);
            publish(checker::numbered(0, number));
            number += 1;
            self.published.store(number, SeqCst);
        }
        number
    }

    /// What the publisher is told of one of its `open` publications.
    fn note_outcome(&self, said: Said, open: &mut BTreeSet<u64>) {
        let Said::Text(text) = said else { panic!("the publisher is told {said:?}") };
        let value: Value = serde_json::from_str(&text).unwrap();
        let number = value["ref"].as_u64().unwrap_or_else(|| panic!("no answer to a publication: {text}"));
        assert!(open.remove(&number), "the second answer to {number}: {text}");
        match value["type"].as_str() {
            Some("ack") => {}
            Some("error") => drop(self.failed.lock().unwrap().insert(number)),
            _ => panic!("neither an ack nor an error: {text}"),
        }
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
        let (goal, deadline) = (self.published() + more, Instant::now() + LONGEST_WAIT);
        while self.published() < goal {
            assert!(Instant::now() < deadline, "the publisher stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many of them failed, and were told so, so far.
    pub fn failed(&self) -> usize {
        self.failed.lock().unwrap().len()
    }

    /// The checker's verdict on what each subscriber heard, after the end, in a story that expects connections to be closed with
    /// these codes.
    pub fn judge(&self, subscribers: &[Vec<Heard>], expected_closes: &'static [u16]) -> Verdict {
        let failed = self.failed.lock().unwrap().iter().map(|number| (0, *number)).collect();
        Ledger { published: BTreeMap::from([(0, self.published())]), failed, expected_closes }.judge(subscribers)
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
                    heard.push(Heard::End(end.code()));
                    return (heard, Some(end));
                }
                Some(Said::Binary(_)) => panic!("binary"),
                None => {
                    let ended = self.last.load(SeqCst) != u64::MAX;
                    assert!(
                        !ended || silent_since.elapsed() < LONGEST_WAIT,
                        "it never hears the last word, only {next}"
                    );
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
