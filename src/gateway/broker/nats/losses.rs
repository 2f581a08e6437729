//! Finds out that the broker's client dropped messages. Pure.
//!
//! The client counts what it received; what its subscription queues cannot hold it drops. It says so in an event, but the
//! events go through a bounded queue of their own. So the counters are looked at, too: once nothing has moved between two
//! looks, what was received and neither taken nor reported lost was dropped, unless a subscription ended meanwhile and took
//! its queue with it.

/// What was seen at one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    /// Messages that the client received.
    pub(super) received: u64,
    /// Messages that the relay took from the client's queues.
    pub(super) taken: u64,
    /// Subscriptions that ended so far.
    pub(super) ended: u64,
}

/// Compares looks.
#[derive(Debug, Default)]
pub(super) struct Losses {
    last: Look,
    /// Received and not taken, with a reason that is known.
    explained: u64,
    /// `ended` when `explained` was last brought up to date.
    settled_ended: u64,
}

impl Losses {
    /// The client reported messages lost.
    pub(super) fn handle_report(&mut self, messages: u64) {
        self.explained += messages;
    }

    /// Compares with the look before: how many messages were lost without a report.
    pub(super) fn handle_look(&mut self, look: Look) -> u64 {
        let still = look == self.last;
        self.last = look;
        if !still {
            return 0;
        }
        let missing = look.received.saturating_sub(look.taken);
        let unexplained = missing.saturating_sub(self.explained);
        self.explained = missing;
        let ended = std::mem::replace(&mut self.settled_ended, look.ended) != look.ended;
        if ended { 0 } else { unexplained }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(received: u64, taken: u64, ended: u64) -> Look {
        Look { received, taken, ended }
    }

    #[test]
    fn what_is_still_moving_is_not_lost() {
        let mut losses = Losses::default();
        assert_eq!(losses.handle_look(look(100, 10, 0)), 0, "the first look proves nothing");
        assert_eq!(losses.handle_look(look(100, 60, 0)), 0, "the relay is at it");
        assert_eq!(losses.handle_look(look(100, 100, 0)), 0);
        assert_eq!(losses.handle_look(look(100, 100, 0)), 0);
    }

    #[test]
    fn a_message_that_was_neither_taken_nor_reported_is_lost_once() {
        let mut losses = Losses::default();
        losses.handle_look(look(100, 70, 0));
        assert_eq!(losses.handle_look(look(100, 70, 0)), 30);
        assert_eq!(losses.handle_look(look(100, 70, 0)), 0, "told already");
        losses.handle_look(look(200, 165, 0));
        assert_eq!(losses.handle_look(look(200, 165, 0)), 5);
    }

    #[test]
    fn what_was_reported_is_not_told_again() {
        let mut losses = Losses::default();
        losses.handle_report(30);
        losses.handle_look(look(100, 70, 0));
        assert_eq!(losses.handle_look(look(100, 70, 0)), 0);
    }

    #[test]
    fn the_queue_of_a_subscription_that_ended_is_no_loss() {
        let mut losses = Losses::default();
        losses.handle_look(look(100, 95, 1));
        assert_eq!(losses.handle_look(look(100, 95, 1)), 0);
        losses.handle_look(look(101, 95, 1));
        assert_eq!(losses.handle_look(look(101, 95, 1)), 1, "the next one is");
    }
}
