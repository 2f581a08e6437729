//! Publications that wait for the broker: bounded in number, bytes and age. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ports::PortIndex;
use super::{AckToken, Publication};
use crate::limits;

/// A publication on its way to the broker.
#[derive(Debug)]
pub struct Outgoing {
    /// What is published.
    pub publication: Publication,
    /// Who wants to know whether it was taken.
    pub ack: Option<(PortIndex, AckToken)>,
    /// When it was asked for.
    pub since: Instant,
}

/// The queue.
#[derive(Debug)]
pub struct PublishQueue {
    items: VecDeque<Outgoing>,
    bytes: usize,
    max_age: Duration,
}

impl PublishQueue {
    /// An empty queue whose publications are given up at `max_age`.
    pub fn new(max_age: Duration) -> Self {
        Self { items: VecDeque::new(), bytes: 0, max_age }
    }

    /// Puts a publication last.
    ///
    /// # Errors
    /// The publication, where the queue is full: [`limits::PUBLISH_QUEUE_MESSAGES`], [`limits::PUBLISH_QUEUE_BYTES`].
    pub fn push(&mut self, item: Outgoing) -> Result<(), Outgoing> {
        let bytes = self.bytes + item.publication.pinned_bytes();
        // An empty queue takes anything: a message over the byte limit must not wait for ever.
        let fits = bytes <= limits::PUBLISH_QUEUE_BYTES && self.items.len() < limits::PUBLISH_QUEUE_MESSAGES;
        if !fits && !self.items.is_empty() {
            return Err(item);
        }
        self.bytes = bytes;
        self.items.push_back(item);
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Outgoing> {
        let item = self.items.pop_front()?;
        self.bytes -= item.publication.pinned_bytes();
        Some(item)
    }

    /// Takes the oldest if it is too old.
    pub fn poll_expired(&mut self, now: Instant) -> Option<Outgoing> {
        if self.poll_timeout()? <= now { self.pop() } else { None }
    }

    /// When the oldest is too old.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.items.front().map(|item| item.since + self.max_age)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Publications that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }
}
