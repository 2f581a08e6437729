//! The NATS bus: one subscription per room and node, and fences that prove them.
//!
//! It runs on the relay's thread as the root of a current-thread runtime whose only other tasks are the broker client's. Each
//! turn does the same things in the same order, none of which waits:
//!
//! 1. connection: was it lost, made, is the server going away, did the client drop messages;
//! 2. fences that have just come back: the gap after a reconnect, before what was published after it;
//! 3. deliveries: empty every subscription's queue into the ports; then the rest of what a fence answers that came back in an
//!    earlier turn: joins, acknowledgements;
//! 4. requests of the ports, a share of each;
//! 5. commands to the client, as many as it takes: subscriptions and probes, a fence if one is due, publications;
//! 6. what is overdue;
//! 7. wake the ports; sleep.
//!
//! Publications of this node's clients come back through the broker like everybody's: so all members on a node see one order.
//! A reconnect is a hole for every room. The client subscribes everything again by itself, and takes commands only after
//! that; so a fence sent on the new connection proves the subscriptions, and the gap is told when it is back.

mod access;
mod commands;
mod complaints;
mod doubts;
mod link;
mod rooms;
mod rounds;
mod signals;
mod subscribes;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::{SubscribeError, Subscriber};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

pub(super) use access::Access;
use complaints::Complaints;
use doubts::Doubts;
use link::{Link, first_connection};
use rooms::{Incoming, Rooms};
use rounds::Rounds;
use signals::{Report, Signals};
use subscribes::Subscribes;

use crate::counters::DropReason;
use crate::limits::{self, Limits};
use crate::mailbox::Waker;
use crate::model::{GapReason, RoomName};
use crate::relay::fences::{Fences, PendingAck};
use crate::relay::hub::BusEffect;
use crate::relay::interest::RoomKey;
use crate::relay::losses::{Look, Losses};
use crate::relay::ports::PortIndex;
use crate::relay::queue::{Outgoing, PublishQueue};
use crate::relay::thread::{Desk, Requests, Shared};
use crate::relay::{AckToken, ToRelay};

/// Requests taken from one port in one turn.
const REQUESTS_PER_TURN: usize = 256;
/// Between two looks at the counters of the client and the depth of the mailboxes.
const LOOK_TICK: Duration = Duration::from_secs(1);
/// Between two looks at a mailbox that was full: its reader does not ring when it has made room.
const FULL_MAILBOX_TICK: Duration = Duration::from_millis(5);

/// The relay's waker as the runtime sees it.
pub(super) struct Doorbell(AsyncFd<RawWaker>);

struct RawWaker(Arc<Waker>);

impl std::os::fd::AsRawFd for RawWaker {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.raw_fd()
    }
}

impl Doorbell {
    /// Registers the waker with the runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn new(runtime: &tokio::runtime::Runtime, waker: Arc<Waker>) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        // SAFETY: the waker owns its eventfd, gives the same number all its life, and lives as long as the AsyncFd that owns it.
        let eventfd = unsafe { AsyncFd::register_with_interest(RawWaker(waker), tokio::io::Interest::READABLE) };
        Ok(Self(eventfd?))
    }

    /// Registers for the next ring. Says whether there was one.
    fn poll_rung(&self, cx: &mut Context<'_>) -> bool {
        let mut rung = false;
        while let Poll::Ready(Ok(mut guard)) = self.0.poll_read_ready(cx) {
            self.0.get_ref().0.clear();
            guard.clear_ready();
            rung = true;
        }
        rung
    }
}

/// Runs until the handle stops it.
pub(super) async fn run(desk: Desk, access: Access, doorbell: Doorbell, limits: &Limits) {
    let mut bus = Bus::new(desk, access, doorbell, limits);
    // Without tokio's budget: a turn empties every queue, which is what bounds them.
    tokio::task::unconstrained(std::future::poll_fn(|cx| bus.poll_turn(cx))).await;
}

type Connecting = Pin<Box<dyn Future<Output = Link>>>;

/// A subscription on its way to the client.
struct Subscribing {
    key: RoomKey,
    room: RoomName,
    /// It is the room's second, see `rounds.rs`.
    is_probe: bool,
    subscriber: Pin<Box<dyn Future<Output = Result<Subscriber, SubscribeError>>>>,
}

struct Bus {
    incoming: Rc<Incoming>,
    requests: Requests,
    shared: Arc<Shared>,
    doorbell: Doorbell,
    access: Rc<Access>,
    connecting: Option<Connecting>,
    link: Option<Link>,
    rooms: Rooms,
    subscribes: Subscribes,
    doubts: Doubts,
    rounds: Rounds,
    subscribing: Option<Subscribing>,
    publishes: PublishQueue,
    fences: Fences,
    signals: Arc<Signals>,
    reports: mpsc::Receiver<Report>,
    complaints: Complaints,
    losses: Losses,
    room_prefix: String,
    timer: Pin<Box<tokio::time::Sleep>>,
    next_look: Instant,
    stop: Option<Stop>,
}

/// The relay was told to stop.
struct Stop {
    deadline: Instant,
    /// The last fence waits or is under way.
    fenced: bool,
}

impl Bus {
    fn new(desk: Desk, access: Access, doorbell: Doorbell, limits: &Limits) -> Self {
        let (signals, reports) = Signals::new();
        let signals = Arc::new(signals);
        let (hub, taken, message_bytes) = (RefCell::new(desk.hub), Cell::new(0), limits.message_bytes);
        let incoming = Rc::new(Incoming { hub, taken, message_bytes });
        let access = Rc::new(access);
        let now = Instant::now();
        Self {
            rooms: Rooms::new(incoming.clone()),
            incoming,
            requests: desk.requests,
            shared: desk.shared,
            doorbell,
            room_prefix: access.room_prefix(),
            connecting: Some(Box::pin(first_connection(access.clone(), signals.clone()))),
            access,
            link: None,
            subscribes: Subscribes::default(),
            doubts: Doubts::default(),
            rounds: Rounds::default(),
            subscribing: None,
            publishes: PublishQueue::new(limits.fence_deadline),
            fences: Fences::new(limits.fence_deadline),
            signals,
            reports,
            complaints: Complaints::default(),
            losses: Losses::default(),
            timer: Box::pin(tokio::time::sleep(LOOK_TICK)),
            next_look: now + LOOK_TICK,
            stop: None,
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.waker.stay_awake();
        let now = Instant::now();
        // Read before the requests: what was asked before the order to stop is then seen in this turn or counted as left.
        let stopping = self.shared.must_stop();
        self.poll_link(cx, now);
        let fence = self.poll_inbox(cx);
        self.rooms.poll(cx);
        if let Some(number) = fence {
            self.handle_fence(number, now);
        }
        self.incoming.hub.borrow_mut().wake_ports();
        let more = self.take_requests(now);
        self.handle_timeouts(now);
        self.apply_effects();
        self.poll_commands(cx, now);
        // Rooms that were just subscribed wake the relay only once they were looked at.
        self.rooms.poll(cx);
        self.incoming.hub.borrow_mut().wake_ports();
        if stopping && !more && self.is_finished(now) {
            self.give_up();
            return Poll::Ready(());
        }
        if more {
            // The client's turn, then the rest.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.sleep(cx, stopping);
        Poll::Pending
    }

    /// Takes a share of every port's requests. Says whether some are left.
    fn take_requests(&mut self, now: Instant) -> bool {
        for port in self.requests.ports() {
            for _ in 0..REQUESTS_PER_TURN {
                let Some(request) = self.requests.pop(port) else { break };
                self.take_request(port, request, now);
            }
        }
        !self.requests.is_empty()
    }

    fn take_request(&mut self, port: PortIndex, request: ToRelay, now: Instant) {
        match request {
            ToRelay::Subscribe(room) => {
                self.incoming.hub.borrow_mut().interest.handle_subscribe(room, port, now);
            }
            ToRelay::Unsubscribe(room) => {
                self.incoming.hub.borrow_mut().interest.handle_unsubscribe(&room, port, now);
            }
            ToRelay::Publish(publication, token) => {
                let ack = token.map(|token| (port, token));
                if let Err(item) = self.publishes.push(Outgoing { publication, ack, since: now }) {
                    self.fail(item.ack);
                }
            }
        }
    }

    fn handle_timeouts(&mut self, now: Instant) {
        {
            let mut hub = self.incoming.hub.borrow_mut();
            hub.handle_timeout(now);
            self.subscribes.forget_refused(&hub.interest);
        }
        while let Some(item) = self.publishes.poll_expired(now) {
            self.fail(item.ack);
        }
        let overdue = self.fences.handle_timeout(now);
        self.fail_acks(overdue);
        if self.rounds.handle_timeout(now) {
            self.begin_round(now);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_TICK;
            self.look();
        }
    }

    fn apply_effects(&mut self) {
        let mut hub = self.incoming.hub.borrow_mut();
        while let Some(effect) = hub.poll_bus_effect() {
            match effect {
                BusEffect::Subscribe(key, room) => self.subscribes.push(key, room),
                BusEffect::Unsubscribe(key) => self.rooms.close(key),
            }
        }
    }

    /// A publication goes no further: nobody took it.
    fn fail(&self, ack: Option<(PortIndex, AckToken)>) {
        let mut hub = self.incoming.hub.borrow_mut();
        hub.dropped(DropReason::Unavailable);
        if let Some((port, token)) = ack {
            hub.failed(port, token);
        }
    }

    /// Nobody knows whether these were taken.
    fn fail_acks(&self, acks: Vec<PendingAck>) {
        let mut hub = self.incoming.hub.borrow_mut();
        for ack in acks {
            hub.failed(ack.port, ack.token);
        }
    }

    /// Compares the client's counters with the relay's, and measures.
    fn look(&mut self) {
        self.incoming.hub.borrow_mut().measure();
        let Some(link) = &self.link else { return };
        let received = link.statistics.in_messages.load(Ordering::Relaxed);
        let look = Look { received, taken: self.incoming.taken.get(), ended: self.rooms.ended() };
        let lost = self.losses.handle_look(look);
        self.tell_lost(lost);
    }

    fn tell_lost(&self, messages: u64) {
        if messages == 0 {
            return;
        }
        let mut hub = self.incoming.hub.borrow_mut();
        hub.counters.dropped[DropReason::Broker as usize].add(messages);
        hub.tell_gap_to_all(GapReason::Broker);
    }

    /// Whether everything that was asked before the order to stop has been done, or the time for it is over.
    fn is_finished(&mut self, now: Instant) -> bool {
        let stop = self.stop.get_or_insert(Stop { deadline: now + limits::RELAY_STOP_DEADLINE, fenced: false });
        if now >= stop.deadline {
            return true;
        }
        if !self.publishes.is_empty() {
            return false;
        }
        if !self.link.as_ref().is_some_and(|link| link.up) {
            return true;
        }
        if !stop.fenced {
            stop.fenced = true;
            self.fences.add_marker();
        }
        self.fences.is_idle()
    }

    /// Answers what waits for a broker that did not answer in time.
    fn give_up(&mut self) {
        if !self.publishes.is_empty() {
            tracing::warn!(messages = self.publishes.len(), "the relay stops with messages that no broker took");
        }
        while let Some(item) = self.publishes.pop() {
            self.fail(item.ack);
        }
        let unproven = self.fences.fail_acks();
        self.fail_acks(unproven);
        self.incoming.hub.borrow_mut().wake_ports();
    }

    fn sleep(&mut self, cx: &mut Context<'_>, stopping: bool) {
        self.shared.waker.will_sleep();
        let must_stop = self.shared.must_stop() && !stopping;
        let rung = self.doorbell.poll_rung(cx);
        let commands_left = stopping && self.fences.is_due() && self.link.as_ref().is_some_and(|link| link.up);
        if !self.requests.is_empty() || must_stop || rung || commands_left {
            cx.waker().wake_by_ref();
            return;
        }
        let at = tokio::time::Instant::from_std(self.poll_timeout());
        if self.timer.deadline() != at {
            self.timer.as_mut().reset(at);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn poll_timeout(&self) -> Instant {
        let hub = self.incoming.hub.borrow();
        let mut at = self.next_look;
        if hub.is_behind() {
            at = at.min(Instant::now() + FULL_MAILBOX_TICK);
        }
        let others = [
            hub.interest.poll_timeout(),
            self.publishes.poll_timeout(),
            self.fences.poll_timeout(),
            self.rounds.poll_timeout(),
            self.stop.as_ref().map(|stop| stop.deadline),
        ];
        others.into_iter().flatten().fold(at, Instant::min)
    }
}
