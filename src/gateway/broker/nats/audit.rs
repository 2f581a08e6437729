//! The audit of the rooms in force: each is proved again, because an error about it may have been dropped. Pure.
//!
//! The client keeps a bounded number of the server's errors and drops the rest (see `resubscribe.rs`). So among many at once, all
//! about publications or joins under way, one that revokes a room in force may have been dropped: its clients would stay, and hear
//! nothing. Such a burst asks for an audit:
//!
//! ```text
//!   handle_burst() ──► due ── PERIOD since the last began ──► under way ── pop() … until none waits ──► done
//!                       ▲                                         │
//!                       └──────────── handle_burst() ─────────────┘  and what was being proved waits a PAUSE
//! ```
//!
//! A room is proved by a *probe*: a second subscription of its subject, whose messages no port gets and which ends with the fence
//! behind it. The server refuses it exactly if it forbids the room, and the room is then revoked. The room's own subscription stays as
//! it is, so no message is missed and no gap is told: a client that may not enter a room must not cause a gap for all the others.
//!
//! What a flood of forbidden joins and publications can cost is bounded by time, not by the flood: one audit in a [`PERIOD`], so a
//! subscription, its end and the messages between the two for each room in it; and a few probes in a [`PAUSE`] where bursts follow
//! each other so closely that no fence between them proves anything.
//!
//! What an audit does not find: a room that was revoked and allowed again before its turn, both within one audit. Its subscription is
//! gone, and its probe succeeds. Only a gap to all rooms would mend that, and a flooding client could then cause it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::resubscribe::{BURST, PACE};
use tidegate_core::model::RoomName;
use tidegate_core::relay::interest::{Interest, RoomKey};

/// Between the beginnings of two audits.
const PERIOD: Duration = Duration::from_secs(30);
/// How long an audit pauses after a burst that left probes unproven.
const PAUSE: Duration = Duration::from_secs(1);
/// Probes that no fence has proved yet.
pub(super) const PROBES: usize = 24;

const _: () = assert!(((PACE + PROBES) as u64) < BURST, "proving must not be a burst");
const _: () = assert!(PAUSE.as_millis() < PERIOD.as_millis(), "an audit goes on before the next is due");

/// Which rooms wait for their probe, and when the next audit begins.
#[derive(Debug, Default)]
pub(super) struct Audit {
    waiting: VecDeque<RoomKey>,
    /// There was a burst since the last audit began.
    due: bool,
    next: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Audit {
    /// An error about any room in force may have been dropped, and one about these, whose probes were under way.
    pub(super) fn handle_burst(&mut self, unproven: Vec<RoomKey>, now: Instant) {
        self.due = true;
        if !unproven.is_empty() {
            self.paused_until = Some(now + PAUSE);
            self.waiting.extend(unproven);
        }
    }

    /// Whether an audit begins now, over the rooms that [`Audit::begin`] is given.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.paused_until.take_if(|until| *until <= now);
        self.due && self.waiting.is_empty() && self.next.is_none_or(|next| next <= now)
    }

    /// Begins an audit.
    pub(super) fn begin(&mut self, rooms: impl Iterator<Item = RoomKey>, now: Instant) {
        self.waiting.extend(rooms);
        self.due = false;
        self.next = Some(now + PERIOD);
    }

    /// Every room is subscribed anew: there is nothing to prove.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.due = false;
    }

    /// The next room to prove, if it is in force still. One that is being proved was asked after the last burst and is left out: the
    /// last of an audit may be under way when the next begins.
    pub(super) fn pop(
        &mut self,
        interest: &Interest,
        is_under_way: impl Fn(RoomKey) -> bool,
    ) -> Option<(RoomKey, RoomName)> {
        if self.paused_until.is_some() {
            return None;
        }
        std::iter::from_fn(|| self.waiting.pop_front())
            .filter(|key| interest.is_in_force(*key) && !is_under_way(*key))
            .find_map(|key| interest.room(key).map(|room| (key, room.clone())))
    }

    /// When to call [`Audit::handle_timeout`] next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next.filter(|_| self.due && self.waiting.is_empty());
        self.paused_until.into_iter().chain(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::relay::interest::{Bounds, Effect};

    const MS: Duration = Duration::from_millis(1);

    /// A table with so many rooms in force, and their keys.
    fn rooms(count: usize) -> (Interest, Vec<RoomKey>) {
        let now = Instant::now();
        let mut table = Interest::new(Bounds { confirm_within: PERIOD, linger: PERIOD, rooms: count });
        (0..count).for_each(|number| table.handle_subscribe(number.to_string().into(), 0, now));
        let subscribe = |effect| match effect {
            Effect::Subscribe(key, _) => key,
            other => panic!("{other:?}"),
        };
        let keys: Vec<_> = std::iter::from_fn(|| table.poll_effect()).map(subscribe).collect();
        keys.iter().for_each(|key| table.confirm(*key, now));
        (table, keys)
    }

    #[test]
    fn a_flood_of_any_length_costs_one_audit_in_a_period() {
        let ((table, keys), start) = (rooms(100), Instant::now());
        let (mut audit, mut probes) = (Audit::default(), 0);
        let minute = Duration::from_secs(60).as_millis() as u32;
        for now in (0..minute).map(|ms| start + MS * ms) {
            audit.handle_burst(Vec::new(), now);
            if audit.handle_timeout(now) {
                audit.begin(keys.iter().copied(), now);
            }
            probes += std::iter::from_fn(|| audit.pop(&table, |_| false)).count();
        }
        assert_eq!(probes, 2 * keys.len());
    }

    #[test]
    fn bursts_without_an_end_leave_a_few_probes_in_a_pause() {
        let ((table, keys), start) = (rooms(100), Instant::now());
        let (mut audit, mut probes) = (Audit::default(), 0);
        audit.handle_burst(Vec::new(), start);
        audit.begin(keys.iter().copied(), start);
        for now in (0..10_000).map(|ms| start + MS * ms) {
            audit.handle_timeout(now);
            let unproven: Vec<_> =
                std::iter::from_fn(|| audit.pop(&table, |_| false)).take(PROBES).map(|(key, _)| key).collect();
            probes += unproven.len();
            audit.handle_burst(unproven, now);
        }
        assert_eq!(probes, 10 * PROBES);
        assert_eq!(audit.waiting.len(), keys.len(), "none is given up");
    }

    #[test]
    fn a_burst_after_an_audit_began_is_another_audit_when_its_time_has_come() {
        let ((table, keys), start) = (rooms(2), Instant::now());
        let mut audit = Audit::default();
        assert!(!audit.handle_timeout(start), "without a burst there is none");
        audit.handle_burst(Vec::new(), start);
        assert!(audit.handle_timeout(start));
        audit.begin(keys.iter().copied(), start);
        assert_eq!(audit.poll_timeout(), None);
        let (probed, _) = audit.pop(&table, |_| false).unwrap();
        audit.handle_burst(vec![probed], start + MS);
        assert!(audit.pop(&table, |_| false).is_none(), "it pauses");
        assert_eq!(audit.poll_timeout(), Some(start + MS + PAUSE));
        assert!(!audit.handle_timeout(start + MS + PAUSE), "the audit is not over");
        assert_eq!(std::iter::from_fn(|| audit.pop(&table, |_| false)).count(), 2);
        assert_eq!(audit.poll_timeout(), Some(start + PERIOD));
        assert!(audit.handle_timeout(start + PERIOD));
    }

    #[test]
    fn a_room_whose_probe_is_under_way_is_not_probed_again() {
        // Its second probe would have taken the first one's place, and a burst the room's own subscription: a gap to all members.
        let ((table, keys), now) = (rooms(2), Instant::now());
        let mut audit = Audit::default();
        audit.begin(keys.iter().copied(), now);
        let under_way = |key| key == keys[0];
        assert_eq!(
            std::iter::from_fn(|| audit.pop(&table, under_way)).map(|(key, _)| key).collect::<Vec<_>>(),
            [keys[1]]
        );
    }

    #[test]
    fn a_room_that_ended_while_it_waited_is_not_proved() {
        let ((mut table, keys), now) = (rooms(2), Instant::now());
        let mut audit = Audit::default();
        audit.begin(keys.iter().copied(), now);
        table.refuse(keys[0]);
        assert_eq!(
            std::iter::from_fn(|| audit.pop(&table, |_| false)).map(|(key, _)| key).collect::<Vec<_>>(),
            [keys[1]]
        );
    }
}
