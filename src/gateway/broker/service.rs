//! The relay's loop, the same for every broker. One turn:
//!
//! 1. [`Broker::poll`]: what happened, told to the relay, which puts it into the ports' mailboxes; the ports are woken;
//! 2. the requests of the ports, a share of each;
//! 3. timeouts; then what all this asks of the broker: subscriptions, their ends, publications;
//! 4. [`Broker::flush`]; the ports are woken again;
//! 5. sleep, until a request, the broker or a deadline.
//!
//! News come before requests, so that a connection that was lost is known before anything is sent on it.

use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::port::Requests;
use super::thread::Shared;
use crate::gateway::clock::monotonic_ns;
use crate::gateway::mailbox::Sender;
use tidegate_core::limits;
use tidegate_core::relay::ports::PortIndex;
use tidegate_core::relay::{Broker, Relay, Sink, ToShard};

/// Requests taken from one port before the next port's turn.
const REQUESTS_PER_TURN: usize = 256;
/// Between two looks at a mailbox that was full: its reader does not ring when it has made room.
const FULL_MAILBOX_TICK: Duration = Duration::from_millis(5);
/// Between two measurements of the mailboxes' depth.
const MEASURE_TICK: Duration = Duration::from_secs(1);

/// The relay, its broker, and the ports' requests.
pub(super) struct Service<B> {
    pub(super) relay: Relay<Sender<ToShard>>,
    pub(super) broker: B,
    pub(super) requests: Requests,
    pub(super) shared: Arc<Shared>,
    next_measure: Instant,
    /// When the node ends whatever the broker says; set once the relay was told to stop.
    stop_deadline: Option<Instant>,
}

/// What the relay's thread does after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Another turn: requests are left, or came while it was about to sleep.
    Turn,
    /// Sleep until it is woken, until then at most. The sleep is announced, so that a request that comes from now on rings.
    Sleep(Instant),
    /// Nothing more: it was told to stop, and all requests are served.
    End,
}

impl<B: Broker> Service<B> {
    pub(super) fn new(
        relay: Relay<Sender<ToShard>>,
        broker: B,
        requests: Requests,
        shared: Arc<Shared>,
        now: Instant,
    ) -> Self {
        Self { relay, broker, requests, shared, next_measure: now, stop_deadline: None }
    }

    /// Takes a share of a port's requests. Says whether some are left. A broker that answers at once has each applied before the
    /// next, so that a port's room is joined before the port publishes into it; another gets them together, subscriptions first.
    pub(super) fn take_requests(&mut self, port: PortIndex, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(request) = self.requests.pop(port) else { return false };
            if B::NEEDS_RUNTIME {
                self.relay.handle_request(port, request, now);
            } else {
                self.relay.execute(port, request, &mut self.broker, cx, now);
            }
        }
        !self.requests.is_empty_at(port)
    }

    /// Serves one port: what the thread that asks does under the relay's lock, with a broker that answers at once and so has nothing
    /// to flush. Says whether something is left to the relay's thread.
    pub(super) fn serve(&mut self, port: PortIndex, cx: &mut Context<'_>, now: Instant) -> bool {
        // The relay's thread looks often while a port is behind, and need be told only that it begins.
        let was_behind = self.relay.is_behind();
        let more = self.take_requests(port, cx, now);
        self.relay.wake_ports();
        more || !was_behind && self.relay.is_behind()
    }

    /// One turn of the relay's thread.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Next {
        self.relay.show_sign_of_life(monotonic_ns(now));
        // Read before the turn: what was asked before the relay was told to stop is then seen by it.
        let stopping = self.shared.must_stop();
        self.broker.poll(cx, now, &mut self.relay);
        self.relay.wake_ports();
        let mut more = false;
        for port in self.requests.ports() {
            more |= self.take_requests(port, cx, now);
        }
        self.end_batch(cx, now);
        self.measure(now);
        if more {
            return Next::Turn;
        }
        if stopping && self.is_finished(cx, now) {
            return Next::End;
        }
        self.shared.waker.will_sleep();
        if !self.requests.is_empty() || self.shared.must_stop() && !stopping {
            return Next::Turn;
        }
        Next::Sleep(self.next_deadline(now))
    }

    fn end_batch(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.relay.handle_timeout(now);
        self.relay.apply(&mut self.broker, cx, now);
        self.broker.flush(cx, now, &mut self.relay);
        self.relay.apply_effects(&mut self.broker, now);
        self.relay.wake_ports();
        if self.relay.take_full() {
            let rooms = self.relay.interest().len();
            tracing::warn!(
                rooms,
                "the node has all the rooms that it may have: raise limits.rooms_total, or add nodes"
            );
        }
    }

    fn measure(&mut self, now: Instant) {
        if now >= self.next_measure {
            self.next_measure = now + MEASURE_TICK;
            self.relay.measure();
        }
    }

    /// Whether everything that was asked before the relay was told to stop has been done, or the time for it is over.
    fn is_finished(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let deadline = *self.stop_deadline.get_or_insert(now + limits::RELAY_STOP_DEADLINE);
        let left = deadline.saturating_duration_since(now);
        if !left.is_zero() && self.relay.waiting_publications() > 0 {
            return false;
        }
        if self.broker.poll_finish(cx, left, &mut self.relay).is_pending() {
            return false;
        }
        let messages = self.relay.give_up_all();
        if messages > 0 {
            tracing::warn!(messages, "the relay stops with messages that no broker took");
        }
        self.relay.wake_ports();
        true
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        let tick = if self.relay.is_behind() { now + FULL_MAILBOX_TICK } else { self.next_measure };
        let others = [self.relay.poll_timeout(), self.broker.next_deadline(), self.stop_deadline];
        others.into_iter().flatten().fold(tick, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Poll, Waker as TaskWaker};

    use bytes::Bytes;

    use super::*;
    use crate::gateway::broker::port::Ends;
    use crate::gateway::mailbox::Waker;
    use tidegate_core::limits::Limits;
    use tidegate_core::model::RoomName;
    use tidegate_core::relay::interest::{Bounds, RoomKey};
    use tidegate_core::relay::publish_queue::Outgoing;
    use tidegate_core::relay::{JoinError, NodeTarget, NotTaken, ToRelay};

    /// Refuses every subscription when it comes to send it.
    #[derive(Default)]
    struct Refusing {
        unsent: Vec<RoomKey>,
        ended: Vec<RoomKey>,
    }

    impl Broker for Refusing {
        const NAME: &'static str = "refusing";
        const NEEDS_RUNTIME: bool = true;

        fn poll<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, _: &mut S) {}

        fn subscribe<S: Sink>(&mut self, key: RoomKey, _: &RoomName, _: Instant, _: &mut S) {
            self.unsent.push(key);
        }

        fn unsubscribe(&mut self, key: RoomKey) {
            self.ended.push(key);
        }

        fn publish<S: Sink>(
            &mut self,
            _: &mut Context<'_>,
            item: Outgoing,
            _: Instant,
            _: &mut S,
        ) -> Result<(), NotTaken> {
            Err(NotTaken::Busy(item))
        }

        fn send_to_nodes<S: Sink>(&mut self, _: NodeTarget, _: Bytes, _: &mut S) {}

        fn flush<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, sink: &mut S) {
            self.unsent.drain(..).for_each(|key| sink.refused(key));
        }

        fn next_deadline(&self) -> Option<Instant> {
            None
        }

        fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
            Poll::Ready(())
        }
    }

    #[test]
    fn a_subscription_that_is_refused_when_it_is_sent_is_ended_in_the_same_turn() {
        let (shared, now, limits) = (Arc::new(Shared::new(Waker::new().unwrap())), Instant::now(), Limits::default());
        let mut ends = Ends::new(&limits, vec![Waker::new().unwrap()], &shared);
        let bounds = Bounds { confirm_within: limits.fence_deadline, linger: limits.linger, rooms: usize::MAX };
        let relay = Relay::new(ends.outlets, bounds, limits.fence_deadline, Arc::default());
        let mut service = Service::new(relay, Refusing::default(), ends.requests, shared, now);
        assert!(ends.ports[0].ask(ToRelay::Subscribe("lobby".into())).is_ok());
        let next = service.turn(&mut Context::from_waker(TaskWaker::noop()), now);
        assert!(matches!(next, Next::Sleep(_)));
        assert_eq!(service.broker.ended.len(), 1);
        let told = ends.ports[0].from_relay.pop();
        assert!(matches!(told, Some(ToShard::Refused(_, JoinError::Unconfirmed))), "{told:?}");
    }
}
