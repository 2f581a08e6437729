//! What the counters must say when every connection has ended (G8): everything that began has ended, for a reason that the
//! story allows, and no more often than clients gave one.

use tidegate_core::close::{CloseReason, Refusal};
use tidegate_core::counters::{Cell, DropReason};
use tidegate_core::model::GapReason;

use super::client::Client;
use super::node::Node;
use super::plan::{Plan, Seen};

/// How many clients there were of each kind, and what they did.
#[derive(Default)]
pub struct Accounts {
    slow: u64,
    raw: u64,
    /// Gone without a word, by a reset or a FIN.
    pub vanished: u64,
    refused: u64,
    deeds: [u64; CloseReason::ALL.len()],
}

impl Accounts {
    /// A client is no longer there.
    pub fn note(&mut self, client: &Client) {
        self.slow += u64::from(client.slow);
        self.raw += u64::from(client.is_raw());
        self.refused += u64::from(client.refused);
        for deed in &client.deeds {
            self.deeds[*deed as usize] += 1;
        }
    }

    /// Compares them with the node's counters.
    pub fn check(&self, node: &Node, plan: &Plan, seen: &Seen) {
        let sum = |cells: &[Cell]| cells.iter().map(Cell::value).sum::<u64>();
        for seat in &node.seats {
            let (shard, counters) = (&seat.shard, &seat.counters);
            assert_eq!(shard.sockets(), 0, "slab entries are left");
            assert_eq!(counters.connections.value(), 0, "the gauge is not at rest");
            assert_eq!(counters.rooms.value(), 0, "rooms are left");
            assert_eq!(counters.outbox_bytes.value(), 0, "outbox bytes are left");
            assert_eq!(counters.unfinished_bytes.value(), 0, "bytes of unfinished messages are left");
            assert_eq!(counters.upgraded.value(), sum(&counters.closed), "opened is not closed");
            let accepted = counters.upgraded.value() + sum(&counters.refused) + counters.plain.value();
            assert_eq!(counters.accepted.value(), accepted, "accepted is not accounted for");
        }
        assert_eq!(node.relay_counters.subscriptions.value(), 0, "the relay is subscribed to rooms without members");
        self.check_closes(node, plan, seen);
        self.check_refusals(node, plan);
        check_losses(node, plan, seen);
    }

    fn check_closes(&self, node: &Node, plan: &Plan, seen: &Seen) {
        let closed = |reason: CloseReason| total(node, |seat| &seat.counters.closed[reason as usize]);
        for reason in CloseReason::ALL.iter().copied() {
            let (counted, deeds) = (closed(reason), self.deeds[reason as usize]);
            let most = match reason {
                CloseReason::Eof | CloseReason::Reset => self.vanished,
                CloseReason::Drain if plan.drain => u64::MAX,
                _ if plan.may_close(reason, false, false) => u64::MAX,
                _ if plan.may_close(reason, true, false) => self.slow,
                _ if plan.may_close(reason, true, true) => self.raw,
                _ => deeds,
            };
            assert!(counted <= most, "{counted} connections were closed as {reason:?}, and {most} may be");
        }
        let too_slow = CloseReason::ALL.iter().filter(|reason| Plan::is_too_slow(**reason));
        let told = seen.closed(CloseReason::SlowReader);
        let counted: u64 = too_slow.map(|reason| closed(*reason)).sum();
        assert!(told <= counted, "{told} clients were told to be too slow, and {counted} are counted");
        for reason in [CloseReason::Gap, CloseReason::Drain] {
            assert!(seen.closed(reason) <= closed(reason), "more were told {reason:?} than are counted");
        }
    }

    fn check_refusals(&self, node: &Node, plan: &Plan) {
        for refusal in Refusal::ALL.iter().copied() {
            let counted = total(node, |seat| &seat.counters.refused[refusal as usize]);
            match refusal {
                Refusal::Eof | Refusal::Reset => assert!(counted <= self.vanished, "{counted} refused as {refusal:?}"),
                _ if plan.may_refuse(refusal) => assert!(counted >= self.refused, "{counted} refused as {refusal:?}"),
                _ => assert_eq!(counted, 0, "{counted} refused as {refusal:?}"),
            }
        }
    }
}

fn check_losses(node: &Node, plan: &Plan, seen: &Seen) {
    let mut told = 0;
    for reason in GapReason::ALL {
        let counted = total(node, |seat| &seat.counters.gaps[reason as usize]);
        assert!(counted == 0 || plan.may_tell_gap(reason, true), "{counted} gaps by {reason:?}");
        told += counted;
    }
    assert!(seen.told_gaps <= told, "clients were told {} gaps, and {told} are counted", seen.told_gaps);
    for reason in DropReason::ALL {
        let shards = total(node, |seat| &seat.counters.dropped[reason as usize]);
        let relay = node.relay_counters.dropped[reason as usize].value();
        let allowed = match reason {
            DropReason::Outbox => plan.drop_oldest && relay == 0,
            DropReason::Mailbox => plan.relay_loses() && shards == 0,
            DropReason::RateLimited => relay == 0 && plan.message_rate > 0 && seen.rate_limited <= shards,
            DropReason::Unavailable => relay == seen.given_up && shards == 0,
            _ => false,
        };
        assert!(shards + relay == 0 || allowed, "{shards} and {relay} dropped as {reason:?}");
    }
}

fn total(node: &Node, cell: impl Fn(&super::node::Seat) -> &Cell) -> u64 {
    node.seats.iter().map(|seat| cell(seat).value()).sum()
}
