//! Publications that wait for the broker: bounded in number, bytes and age. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::AckId;
use super::ports::PortIndex;
use crate::limits;
use crate::model::{ConnectionId, Publication};

/// Where the answer to a publication goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The port that published.
    pub port: PortIndex,
    /// How the port names the publication.
    pub ack: AckId,
}

/// A publication on its way to the broker.
#[derive(Debug)]
pub struct Outgoing {
    /// What is published.
    pub publication: Publication,
    /// Where the answer goes; without one the publisher asked for none.
    pub ticket: Option<Ticket>,
    /// When it was asked for.
    pub since: Instant,
}

impl Outgoing {
    /// Where the answer goes if it is not taken.
    pub fn publisher(&self) -> Publisher {
        Publisher { connection: self.publication.from, ticket: self.ticket }
    }
}

/// Where the answer to a publication goes that was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publisher {
    /// The connection that published, where it was one; its shard's port is told.
    pub connection: Option<ConnectionId>,
    /// What the publisher waits for.
    pub ticket: Option<Ticket>,
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

    /// Puts a publication that was taken back in its place, which is free.
    pub fn hand_back(&mut self, item: Outgoing) {
        self.bytes += item.publication.pinned_bytes();
        self.items.push_front(item);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use bytes::Bytes;

    const MAX_AGE: Duration = Duration::from_secs(5);

    fn item(bytes: usize, since: Instant) -> Outgoing {
        let payload = Bytes::from(vec![b'1'; bytes]);
        let room = "lobby".into();
        let publication = Publication::of_backend(room, Kind::Json, payload, 0);
        Outgoing { publication, ticket: None, since }
    }

    #[test]
    fn the_queue_is_bounded_in_number() {
        let (mut queue, now) = (PublishQueue::new(MAX_AGE), Instant::now());
        for _ in 0..limits::PUBLISH_QUEUE_MESSAGES {
            assert!(queue.push(item(1, now)).is_ok());
        }
        assert!(queue.push(item(1, now)).is_err());
        queue.pop();
        assert!(queue.push(item(1, now)).is_ok());
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_but_an_empty_one_takes_any_message() {
        let (mut queue, now) = (PublishQueue::new(MAX_AGE), Instant::now());
        assert!(queue.push(item(limits::PUBLISH_QUEUE_BYTES, now)).is_ok());
        assert!(queue.push(item(1, now)).is_err());
        queue.pop();
        assert!(queue.push(item(limits::PUBLISH_QUEUE_BYTES / 2, now)).is_ok());
        assert!(queue.push(item(limits::PUBLISH_QUEUE_BYTES / 2, now)).is_err(), "the publication itself counts too");
        assert!(queue.push(item(1, now)).is_ok());
    }

    #[test]
    fn only_what_is_too_old_expires() {
        let (mut queue, now) = (PublishQueue::new(MAX_AGE), Instant::now());
        assert!(queue.push(item(1, now)).is_ok());
        assert!(queue.push(item(2, now + MAX_AGE / 2)).is_ok());
        assert!(queue.poll_expired(now + MAX_AGE / 2).is_none());
        assert_eq!(queue.poll_timeout(), Some(now + MAX_AGE));
        assert_eq!(queue.poll_expired(now + MAX_AGE).unwrap().publication.payload.len(), 1);
        assert!(queue.poll_expired(now + MAX_AGE).is_none());
        assert_eq!(queue.len(), 1);
    }
}
