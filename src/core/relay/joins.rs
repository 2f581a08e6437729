//! Joins that wait for their turn. Pure.
//!
//! A crowd that joins, after a restart or a broken network, brings more requests at once than the broker confirms in a second. What
//! the relay has asked of the broker and what a shard has not read yet are bounded; the rest waits here, in the order in which each
//! port asked. So publications pass the crowd, and its answers never take the place of a delivery in the mailbox.
//!
//! A join that waits has no deadline of its own while the broker confirms rooms. Once it has confirmed none for as long as one may
//! take, what waits is refused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ports::PortIndex;
use crate::model::RoomName;

/// The queues, one for each port.
pub(super) struct Joins {
    waiting: Vec<VecDeque<(RoomName, Instant)>>,
    len: usize,
    /// The port that is looked at first: none waits for another's crowd.
    next: usize,
    /// When the broker last confirmed a room.
    progress: Option<Instant>,
    confirm_within: Duration,
}

impl Joins {
    pub(super) fn new(ports: usize, confirm_within: Duration) -> Self {
        Self { waiting: vec![VecDeque::new(); ports], len: 0, next: 0, progress: None, confirm_within }
    }

    /// A port wants a room.
    pub(super) fn push(&mut self, port: PortIndex, room: RoomName, now: Instant) {
        self.waiting[usize::from(port)].push_back((room, now));
        self.len += 1;
    }

    /// The oldest join of a port that can be answered; ports take turns.
    pub(super) fn pop(&mut self, mut takes: impl FnMut(PortIndex) -> bool) -> Option<(PortIndex, RoomName)> {
        if self.len == 0 {
            return None;
        }
        let ports = self.waiting.len();
        for index in (0..ports).map(|step| (self.next + step) % ports) {
            if !self.waiting[index].is_empty() && takes(index as PortIndex) {
                self.next = index + 1;
                return self.take(index);
            }
        }
        None
    }

    /// The broker confirms rooms.
    pub(super) fn handle_progress(&mut self, now: Instant) {
        self.progress = Some(now);
    }

    /// A join that has waited too long.
    pub(super) fn poll_expired(&mut self, now: Instant) -> Option<(PortIndex, RoomName)> {
        if self.poll_timeout()? > now {
            return None;
        }
        let oldest = self.waiting.iter().enumerate().filter_map(|(index, queue)| Some((queue.front()?.1, index))).min();
        self.take(oldest?.1)
    }

    /// When to call [`Joins::poll_expired`] next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let oldest = self.waiting.iter().filter_map(|queue| queue.front()).map(|(_, since)| *since).min()?;
        Some(self.progress.map_or(oldest, |progress| progress.max(oldest)) + self.confirm_within)
    }

    /// Joins that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn take(&mut self, index: usize) -> Option<(PortIndex, RoomName)> {
        let (room, _) = self.waiting[index].pop_front()?;
        self.len -= 1;
        Some((index as PortIndex, room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    #[test]
    fn ports_take_turns_and_a_port_that_takes_no_join_holds_up_no_other() {
        let (mut joins, now) = (Joins::new(3, WITHIN), Instant::now());
        for number in 0..3 {
            joins.push(0, format!("a{number}").into(), now);
        }
        joins.push(2, "b".into(), now);
        let mut popped =
            |takes: &dyn Fn(PortIndex) -> bool| joins.pop(takes).map(|(port, room)| (port, room.to_string()));
        assert_eq!(popped(&|_| true), Some((0, "a0".into())));
        assert_eq!(popped(&|_| true), Some((2, "b".into())));
        assert_eq!(popped(&|port| port != 0), None);
        assert_eq!(popped(&|_| true), Some((0, "a1".into())));
        assert_eq!(joins.len(), 1);
    }

    #[test]
    fn a_join_waits_while_the_broker_confirms_others_and_is_refused_once_it_confirms_none() {
        let (mut joins, now) = (Joins::new(1, WITHIN), Instant::now());
        joins.push(0, "lobby".into(), now);
        joins.handle_progress(now + WITHIN);
        assert_eq!(joins.poll_expired(now + WITHIN), None);
        assert_eq!(joins.poll_timeout(), Some(now + WITHIN * 2));
        assert_eq!(joins.poll_expired(now + WITHIN * 2), Some((0, "lobby".into())));
        assert_eq!((joins.poll_timeout(), joins.len()), (None, 0));
    }
}
