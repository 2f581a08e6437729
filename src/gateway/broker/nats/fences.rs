//! Fences: which answers wait until the broker has seen everything sent before them. Pure.
//!
//! A fence is a numbered message to the relay's own inbox. The broker takes what one connection sends in order, so a fence that
//! came back proves that the subscriptions and publications sent before it were taken. One is in flight at most; what is
//! sent meanwhile waits for the next, so a slow broker gets larger batches and not more fences.
//!
//! ```text
//!   add_*() ──► collecting ── poll_fence() ──► in flight ── handle_return() ──► batch: answer it
//!                   ▲                              │
//!                   └── handle_connection_lost() ──┘  its acknowledgements fail: not known
//! ```
//!
//! A room that is not confirmed in time is refused by the interest table, not here; acknowledgements expire here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::Ticket;

/// How old the last round trip may be before an idle relay measures another.
const STALE: Duration = Duration::from_secs(10);

/// A publish that waits for its acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PendingAck {
    /// Where the answer goes.
    pub(super) ticket: Ticket,
    /// When it was asked for.
    pub(super) since: Instant,
}

/// What one fence answers.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Rooms whose subscription is in force.
    pub(super) rooms: Vec<RoomKey>,
    /// Publications that the broker took, oldest first.
    pub(super) acks: VecDeque<PendingAck>,
    /// Whether a gap of all rooms is to be told ([`Fences::take_gap`]): the connection before this one was lost.
    pub(super) gap: bool,
    /// Whether the fence itself is waited for.
    pub(super) marker: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.acks.is_empty() && !self.gap && !self.marker
    }
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    sent: Instant,
    batch: Batch,
}

/// The fences of one relay.
#[derive(Debug)]
pub(super) struct Fences {
    collecting: Batch,
    in_flight: Option<InFlight>,
    next_number: u64,
    deadline: Duration,
    /// Since when the last round trip was measured, and the round trip itself.
    measured: Option<(Instant, Duration)>,
    /// Since when nothing has come back: the first fence without an answer was sent, or the connection was lost.
    unanswered: Option<Instant>,
}

impl Fences {
    /// No fence; one that is not back after `deadline` is given up.
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            collecting: Batch::default(),
            in_flight: None,
            next_number: 1,
            deadline,
            measured: None,
            unanswered: None,
        }
    }

    /// The room's subscription was sent.
    pub(super) fn add_room(&mut self, key: RoomKey) {
        self.collecting.rooms.push(key);
    }

    /// A publication that wants an acknowledgement was sent.
    pub(super) fn add_ack(&mut self, ack: PendingAck) {
        self.collecting.acks.push_back(ack);
    }

    /// The connection is another one, and its subscriptions are being sent.
    pub(super) fn add_gap(&mut self) {
        self.collecting.gap = true;
    }

    /// A fence is due even if nothing needs it: [`Fences::is_idle`] then says that all was taken.
    pub(super) fn add_marker(&mut self) {
        self.collecting.marker = true;
    }

    /// Whether nothing waits for a fence.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.collecting.is_empty()
    }

    /// Whether a fence is due.
    pub(super) fn is_due(&self) -> bool {
        self.in_flight.is_none() && !self.collecting.is_empty()
    }

    /// The number of the fence to send now.
    pub(super) fn poll_fence(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due() {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.unanswered.get_or_insert(now);
        self.in_flight = Some(InFlight { number, sent: now, batch: std::mem::take(&mut self.collecting) });
        Some(number)
    }

    /// Whether a fence that came back says that the gap is to be told now; it says so once, and before the rest of its batch is handled.
    pub(super) fn take_gap(&mut self, number: u64) -> bool {
        let fence = self.in_flight.as_mut().filter(|fence| fence.number == number);
        fence.is_some_and(|fence| std::mem::take(&mut fence.batch.gap))
    }

    /// A fence came back: its batch and its round trip. One that was given up says nothing.
    pub(super) fn handle_return(&mut self, number: u64, now: Instant) -> Option<(Batch, Duration)> {
        let fence = self.in_flight.take_if(|fence| fence.number == number)?;
        let round_trip = now.saturating_duration_since(fence.sent);
        self.unanswered = None;
        self.measured = Some((now, round_trip));
        Some((fence.batch, round_trip))
    }

    /// How long the broker has not answered, where that is longer than the last round trip.
    pub(super) fn waited(&self, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.unanswered?);
        self.measured.is_none_or(|(_, round_trip)| waited > round_trip).then_some(waited)
    }

    /// Whether the last round trip is so old that another is due.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.unanswered.is_none() && self.measured.is_none_or(|(at, _)| at + STALE <= now)
    }

    /// The connection was lost, and with it perhaps what was sent: the acknowledgements that fail. Rooms wait for the next
    /// fence, which follows their subscription on the next connection.
    pub(super) fn handle_connection_lost(&mut self, now: Instant) -> Vec<PendingAck> {
        self.unanswered.get_or_insert(now);
        let failed = self.fail_acks();
        if let Some(fence) = self.in_flight.take() {
            self.collect_again(fence.batch);
        }
        failed
    }

    /// One of the publications was refused, and it is not known which: the acknowledgements that fail.
    pub(super) fn fail_acks(&mut self) -> Vec<PendingAck> {
        let in_flight = self.in_flight.iter_mut().flat_map(|fence| fence.batch.acks.drain(..));
        in_flight.chain(self.collecting.acks.drain(..)).collect()
    }

    /// Rooms that no fence has proved yet.
    pub(super) fn unproven_rooms(&self) -> usize {
        self.collecting.rooms.len() + self.in_flight.as_ref().map_or(0, |fence| fence.batch.rooms.len())
    }

    /// What is under way may have been refused: these rooms are to be subscribed anew, and no fence confirms them before.
    pub(super) fn take_rooms(&mut self) -> Vec<RoomKey> {
        let in_flight = self.in_flight.iter_mut().flat_map(|fence| fence.batch.rooms.drain(..));
        in_flight.chain(self.collecting.rooms.drain(..)).collect()
    }

    /// Gives up a fence that is overdue and returns the acknowledgements that have waited too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<PendingAck> {
        let mut failed = Vec::new();
        let deadline = self.deadline;
        if let Some(fence) = &mut self.in_flight {
            expire(&mut fence.batch.acks, deadline, now, &mut failed);
        }
        expire(&mut self.collecting.acks, deadline, now, &mut failed);
        if let Some(fence) = self.in_flight.take_if(|fence| fence.sent + deadline <= now) {
            failed.extend(&fence.batch.acks);
            self.collect_again(fence.batch);
        }
        failed
    }

    /// When to call [`Fences::handle_timeout`] next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let oldest = |batch: &Batch| batch.acks.front().map(|ack| ack.since);
        let in_flight = self.in_flight.iter().flat_map(|fence| [Some(fence.sent), oldest(&fence.batch)]);
        in_flight.chain([oldest(&self.collecting)]).flatten().min().map(|since| since + self.deadline)
    }

    /// All of a batch but its acknowledgements waits for the next fence, before what waits already.
    fn collect_again(&mut self, mut batch: Batch) {
        batch.rooms.append(&mut self.collecting.rooms);
        self.collecting.rooms = batch.rooms;
        self.collecting.gap |= batch.gap;
        self.collecting.marker |= batch.marker;
    }
}

fn expire(acks: &mut VecDeque<PendingAck>, deadline: Duration, now: Instant, failed: &mut Vec<PendingAck>) {
    let overdue = acks.iter().take_while(|ack| ack.since + deadline <= now).count();
    failed.extend(acks.drain(..overdue));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::relay::AckId;
    use tidegate_core::relay::interest::{Bounds, Effect, Interest};

    const DEADLINE: Duration = Duration::from_secs(5);

    fn key() -> RoomKey {
        let mut table = Interest::new(Bounds { confirm_within: DEADLINE, linger: DEADLINE, rooms: 100 });
        table.handle_subscribe("lobby".into(), 0, Instant::now());
        match table.poll_effect() {
            Some(Effect::Subscribe(key, _)) => key,
            other => panic!("{other:?}"),
        }
    }

    fn ack(ack: AckId, since: Instant) -> PendingAck {
        PendingAck { ticket: Ticket { port: 0, ack }, since }
    }

    fn tokens(acks: &[PendingAck]) -> Vec<AckId> {
        acks.iter().map(|ack| ack.ticket.ack).collect()
    }

    #[test]
    fn what_comes_while_a_fence_is_under_way_waits_for_the_next() {
        let (mut fences, now) = (Fences::new(DEADLINE), Instant::now());
        assert_eq!(fences.poll_fence(now), None, "nothing waits");
        fences.add_ack(ack(1, now));
        let first = fences.poll_fence(now).unwrap();
        fences.add_ack(ack(2, now));
        fences.add_room(key());
        assert_eq!(fences.poll_fence(now), None, "one at a time");
        let (batch, round_trip) = fences.handle_return(first, now + DEADLINE / 5).unwrap();
        assert_eq!((batch.acks.len(), batch.rooms.len(), round_trip), (1, 0, DEADLINE / 5));
        let second = fences.poll_fence(now).unwrap();
        let (batch, _) = fences.handle_return(second, now).unwrap();
        assert_eq!((batch.acks[0].ticket.ack, batch.rooms.len()), (2, 1));
        assert!(fences.is_idle());
    }

    #[test]
    fn a_lost_connection_fails_acknowledgements_and_keeps_rooms_for_the_next_fence() {
        let (mut fences, now) = (Fences::new(DEADLINE), Instant::now());
        fences.add_ack(ack(1, now));
        fences.add_room(key());
        let lost = fences.poll_fence(now).unwrap();
        fences.add_ack(ack(2, now));
        assert_eq!(tokens(&fences.handle_connection_lost(now)), [1, 2]);
        fences.add_gap();
        assert!(fences.handle_return(lost, now).is_none(), "a fence of the lost connection proves nothing");
        let next = fences.poll_fence(now).unwrap();
        assert!(!fences.take_gap(lost), "nor does it say anything of a gap");
        assert!(fences.take_gap(next));
        assert!(!fences.take_gap(next), "once");
        let (batch, _) = fences.handle_return(next, now).unwrap();
        assert_eq!((batch.rooms.len(), batch.acks.len()), (1, 0));
    }

    #[test]
    fn rooms_that_are_taken_back_are_confirmed_by_no_fence_under_way() {
        let (mut fences, now) = (Fences::new(DEADLINE), Instant::now());
        fences.add_room(key());
        let number = fences.poll_fence(now).unwrap();
        fences.add_room(key());
        assert_eq!(fences.unproven_rooms(), 2);
        assert_eq!((fences.take_rooms().len(), fences.unproven_rooms()), (2, 0));
        assert!(fences.handle_return(number, now).unwrap().0.rooms.is_empty());
        assert!(fences.is_idle());
    }

    /// A broker stopped answering, and ws_relay_rtt_seconds stood at its last 0.2 ms.
    #[test]
    fn while_nothing_answers_the_round_trip_is_the_time_waited_and_an_idle_relay_asks() {
        let (mut fences, now) = (Fences::new(DEADLINE), Instant::now());
        assert!(fences.is_stale(now), "it was never measured");
        fences.add_marker();
        let first = fences.poll_fence(now).unwrap();
        assert!(!fences.is_stale(now), "one is under way");
        fences.handle_return(first, now + DEADLINE / 5).unwrap();
        assert_eq!((fences.waited(now + STALE), fences.is_stale(now + STALE)), (None, false));
        assert!(fences.is_stale(now + STALE + DEADLINE / 5));
        fences.add_marker();
        fences.poll_fence(now + STALE);
        assert_eq!(fences.waited(now + STALE + DEADLINE / 10), None, "it may come back as fast as the last");
        assert_eq!(fences.waited(now + STALE + DEADLINE), Some(DEADLINE));
        fences.handle_timeout(now + STALE + DEADLINE);
        fences.poll_fence(now + STALE + DEADLINE);
        assert_eq!(fences.waited(now + STALE + DEADLINE * 2), Some(DEADLINE * 2), "the next fence begins nothing anew");
        fences.handle_connection_lost(now + STALE + DEADLINE * 2);
        assert_eq!(fences.waited(now + STALE + DEADLINE * 3), Some(DEADLINE * 3));
    }

    #[test]
    fn a_gap_survives_the_connection_that_was_to_prove_it() {
        let (mut fences, now) = (Fences::new(DEADLINE), Instant::now());
        fences.add_gap();
        fences.poll_fence(now);
        fences.handle_connection_lost(now);
        let next = fences.poll_fence(now).unwrap();
        assert!(fences.take_gap(next));
    }

    #[test]
    fn an_acknowledgement_fails_at_its_own_deadline_and_a_silent_fence_gives_way() {
        let (mut fences, now) = (Fences::new(DEADLINE), Instant::now());
        fences.add_ack(ack(1, now));
        fences.poll_fence(now + DEADLINE / 5);
        fences.add_ack(ack(2, now + DEADLINE / 2));
        assert_eq!(fences.poll_timeout(), Some(now + DEADLINE));
        assert_eq!(tokens(&fences.handle_timeout(now + DEADLINE)), [1]);
        assert!(!fences.is_due(), "the fence itself has time left");
        assert_eq!(fences.poll_timeout(), Some(now + DEADLINE / 5 + DEADLINE));
        assert!(fences.handle_timeout(now + DEADLINE / 5 + DEADLINE).is_empty());
        assert!(fences.is_due(), "the next one goes");
        assert_eq!(tokens(&fences.fail_acks()), [2]);
    }
}
