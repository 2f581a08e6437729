//! What a story is about, and what it may show: which connections may be closed for which reason, and which gaps may be told.

use tidegate_core::close::{CloseReason, Refusal};
use tidegate_core::model::GapReason;

/// What the simulated broker does wrong, in percent of its occasions.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Subscriptions that are refused, or never answered.
    pub refuse: usize,
    /// Publications that are not taken, or taken and not acknowledged.
    pub fail: usize,
    /// Turns, in thousandths, in which what is on its way to the node is lost.
    pub lose: usize,
    /// Turns, in thousandths, in which a subscription is revoked.
    pub revoke: usize,
}

/// What a story is about.
#[derive(Clone)]
pub struct Plan {
    pub clients: usize,
    pub rooms: usize,
    pub steps: usize,
    /// What clients do in one step, at most.
    pub burst: usize,
    /// Clients with a small socket buffer that read a little of it each turn.
    pub slow_percent: usize,
    /// Clients of `/raw/ROOM`.
    pub raw_percent: usize,
    /// Clients that offer permessage-deflate, which the node agrees to.
    pub deflate_percent: usize,
    /// Bytes of a message's padding, at most.
    pub padding: usize,
    /// Bytes that the sockets of clients that are not slow take: these clients read all of them each turn.
    pub socket_bytes: usize,
    pub raw_socket_bytes: usize,
    /// Bytes that the sockets of slow clients take, at least.
    pub slow_socket_bytes: usize,
    pub drop_oldest: bool,
    pub raw_close_on_gap: bool,
    /// Bytes that one outbox may pin.
    pub outbox_bytes: usize,
    /// Bytes that all outboxes together may pin.
    pub outbox_budget: u64,
    pub mailbox_items: usize,
    /// Hand-overs that find the relay's lock taken; it then stays so for some turns.
    pub contention_percent: usize,
    /// A broker with these faults; none is the local bus.
    pub broker: Option<Faults>,
    pub drain: bool,
    /// Messages a second from one client; 0 is no limit.
    pub message_rate: u16,
    /// What the dice show first.
    pub choices: Vec<u8>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            clients: 40,
            rooms: 3,
            steps: 1_200,
            burst: 1,
            slow_percent: 0,
            raw_percent: 20,
            deflate_percent: 0,
            padding: 300,
            socket_bytes: 100_000,
            raw_socket_bytes: 100_000,
            slow_socket_bytes: 200,
            drop_oldest: false,
            raw_close_on_gap: false,
            outbox_bytes: 4 * 1024,
            outbox_budget: 1 << 30,
            mailbox_items: LARGE_MAILBOX,
            contention_percent: 10,
            broker: None,
            drain: false,
            message_rate: 0,
            choices: Vec::new(),
        }
    }
}

/// More than is published while a shard takes a turn: it cannot overflow.
const LARGE_MAILBOX: usize = 8 * 1024;

/// What came of a story.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Messages that clients received.
    pub delivered: u64,
    /// Of them, those that came compressed.
    pub inflated: u64,
    /// Gaps that clients were told.
    pub told_gaps: u64,
    /// Holes in what clients received, each behind a gap or excused by the policy of a dialect without notices.
    pub holes: u64,
    /// Publications that were acknowledged.
    pub acked: u64,
    /// Publications that the broker did not take.
    pub given_up: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Of them, those over the message rate.
    pub rate_limited: u64,
    /// Subscriptions that were revoked.
    pub revoked: u64,
    /// Hand-overs that found the relay's lock taken.
    pub contended: u64,
    /// Close frames by reason; reasons with the same code and text count as the first of them.
    pub closes: [u64; CloseReason::ALL.len()],
    /// Of what clients read: which of them, how much, in which order.
    pub digest: u64,
}

impl Seen {
    /// Close frames with this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize]
    }
}

/// Reasons for which only a slow client may be closed.
const TOO_SLOW: [CloseReason; 3] = [CloseReason::SlowReader, CloseReason::WriteStall, CloseReason::OutboxBudget];

impl Plan {
    /// Whether the relay may lose deliveries, which it then tells.
    pub fn relay_loses(&self) -> bool {
        self.mailbox_items < LARGE_MAILBOX || self.broker.is_some_and(|faults| faults.lose > 0)
    }

    /// Whether a connection may be closed for this reason without having done anything for it.
    ///
    /// - A client that is not slow is never closed as too slow, whatever others do.
    /// - A raw client is closed over a gap where that is configured and its messages can be lost, and where the broker
    ///   refuses or revokes its room, which it cannot be told.
    /// - A drain closes every connection.
    pub fn may_close(&self, reason: CloseReason, slow: bool, raw: bool) -> bool {
        match reason {
            CloseReason::SlowReader | CloseReason::WriteStall => slow,
            CloseReason::OutboxBudget => slow && self.outbox_budget < Self::default().outbox_budget,
            CloseReason::Gap if raw => {
                let lost = self.relay_loses() || slow && self.drop_oldest;
                let taken_away = self.broker.is_some_and(|faults| faults.refuse + faults.revoke > 0);
                self.raw_close_on_gap && lost || taken_away
            }
            CloseReason::Drain => self.drain,
            _ => false,
        }
    }

    /// Whether a native client may be told a gap for this reason.
    pub fn may_tell_gap(&self, reason: GapReason, slow: bool) -> bool {
        match reason {
            GapReason::Outbox => slow && self.drop_oldest,
            GapReason::Mailbox => self.relay_loses(),
            GapReason::Broker => self.broker.is_some_and(|faults| faults.lose + faults.revoke > 0),
            GapReason::TooLarge => false,
        }
    }

    /// Whether an upgrade may be refused for this reason.
    pub fn may_refuse(&self, refusal: Refusal) -> bool {
        refusal == Refusal::Draining && self.drain
    }

    /// Whether the reason is one for slow clients only.
    pub fn is_too_slow(reason: CloseReason) -> bool {
        TOO_SLOW.contains(&reason)
    }
}
