//! NATS: one subscription per room and node, and fences that prove them.
//!
//! It runs on the relay's thread as the root of a current-thread runtime whose only other tasks are the broker client's. Each
//! turn does the same things in the same order, none of which waits:
//!
//! 1. connection: was it lost, made, is the server going away, did the client drop messages;
//! 2. fences that have just come back: the gap after a reconnect, before what was published after it;
//! 3. deliveries: empty every subscription's queue into the relay; then the rest of what a fence answers that came back in an
//!    earlier turn: joins, acknowledgements;
//! 4. the relay's subscriptions and publications, and with them commands to the client, as many as it takes, in turns: a share of
//!    the subscriptions and probes, a fence if one is due, publications;
//! 5. what is overdue.
//!
//! Publications of this node's clients come back through the broker like those of other nodes: so all members on a node see one
//! order. A reconnect is a hole for every room. The client subscribes everything again by itself, and takes commands only after
//! that; so a fence sent on the new connection proves the subscriptions, and the gap is told when it is back.

mod audit;
mod client_events;
mod commands;
mod connect_options;
mod fences;
mod log_limit;
mod login;
mod nodes;
mod resubscribe;
mod rooms;
mod servers;
mod session;
mod subscribes;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::{SubscribeError, Subscriber};
use bytes::Bytes;
use tokio::sync::mpsc;

use audit::Audit;
use client_events::{ClientEvents, Report};
use connect_options::ConnectOptions;
use fences::{Fences, PendingAck};
use log_limit::LogLimit;
use nodes::NodeChannel;
use resubscribe::Resubscribe;
use rooms::{Incoming, Rooms};
use session::{Connected, Session, first_connection};
use subscribes::Subscribes;

use super::{Options, Start};
use crate::gateway::config::Config;
use tidegate_core::model::RoomName;
use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::Outgoing;
use tidegate_core::relay::{Broker, NodeTarget, NotTaken, Sink};

/// Between two looks at the client's connection, beside those that its events ask for.
const LOOK_TICK: Duration = Duration::from_secs(1);

type Connecting = Pin<Box<dyn Future<Output = Connected>>>;

/// A subscription on its way to the client.
struct Subscribing {
    key: RoomKey,
    room: RoomName,
    /// It is the room's second, see `audit.rs`.
    is_probe: bool,
    subscriber: Pin<Box<dyn Future<Output = Result<Subscriber, SubscribeError>>>>,
}

/// What is read and checked before the relay's thread begins.
pub(super) struct Settings {
    connect_options: ConnectOptions,
    fence_deadline: Duration,
    message_bytes: usize,
}

/// See the module.
pub(super) struct Nats {
    incoming: Rc<Incoming>,
    connect_options: Rc<ConnectOptions>,
    connecting: Option<Connecting>,
    session: Option<Session>,
    rooms: Rooms,
    subscribes: Subscribes,
    resubscribe: Resubscribe,
    audit: Audit,
    subscribing: Option<Subscribing>,
    fences: Fences,
    /// Publications since it was last looked whether a fence is due.
    unfenced: usize,
    /// Subscriptions that may be sent in this turn.
    left_subscribes: usize,
    client_events: Arc<ClientEvents>,
    reports: mpsc::Receiver<Report>,
    log_limit: LogLimit,
    room_prefix: String,
    nodes: NodeChannel,
    next_look: Instant,
    /// The node ends, and the last fence waits or is under way.
    finishing: bool,
}

impl Start for Nats {
    type Settings = Settings;

    fn is_configured(config: &Config) -> bool {
        !config.nats.url.is_empty()
    }

    fn settings(options: &Options) -> io::Result<Settings> {
        let connect_options = ConnectOptions::new(options)?;
        let limits = &options.config.limits;
        let (fence_deadline, message_bytes) = (limits.fence_deadline, limits.message_bytes);
        Ok(Settings { connect_options, fence_deadline, message_bytes })
    }

    fn new(settings: Settings) -> Self {
        let (client_events, reports) = ClientEvents::new();
        let (client_events, connect_options) = (Arc::new(client_events), Rc::new(settings.connect_options));
        let incoming = Rc::new(Incoming::new(settings.message_bytes));
        Self {
            rooms: Rooms::new(incoming.clone()),
            incoming,
            room_prefix: connect_options.room_prefix(),
            connecting: Some(Box::pin(first_connection(connect_options.clone(), client_events.clone()))),
            connect_options,
            session: None,
            nodes: NodeChannel::default(),
            subscribes: Subscribes::default(),
            resubscribe: Resubscribe::default(),
            audit: Audit::default(),
            subscribing: None,
            fences: Fences::new(settings.fence_deadline),
            unfenced: 0,
            left_subscribes: 0,
            client_events,
            reports,
            log_limit: LogLimit::default(),
            next_look: Instant::now() + LOOK_TICK,
            finishing: false,
        }
    }
}

impl Broker for Nats {
    const NAME: &'static str = "nats";
    const NEEDS_RUNTIME: bool = true;

    fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) {
        self.poll_session(cx, now, sink);
        let fence = self.poll_inbox(cx, sink);
        self.nodes.poll(cx, sink);
        self.rooms.poll(cx, sink);
        if let Some(number) = fence {
            self.handle_fence(number, now, sink);
        }
    }

    fn subscribe<S: Sink>(&mut self, key: RoomKey, room: &RoomName, _: Instant, _: &mut S) {
        self.subscribes.push(key, room.clone());
    }

    fn unsubscribe(&mut self, key: RoomKey) {
        self.rooms.close_later(key);
    }

    fn publish<S: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        item: Outgoing,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), NotTaken> {
        if self.poll_publish_ready(cx, item.since, now, sink).is_ready() {
            self.send_publication(item, now)
        } else {
            Err(NotTaken::Busy(item))
        }
    }

    fn send_to_nodes<S: Sink>(&mut self, to: NodeTarget, message: Bytes, _: &mut S) {
        if self.is_up() {
            self.nodes.push(to, message);
        }
    }

    fn flush<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) {
        self.handle_timeouts(now, sink);
        self.poll_commands(cx, now, sink);
        self.poll_to_nodes(cx, now);
        // Rooms that were just subscribed wake the relay only once they were looked at.
        self.rooms.poll(cx, sink);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let others = [self.fences.poll_timeout(), self.audit.poll_timeout()];
        Some(others.into_iter().flatten().fold(self.next_look, Instant::min))
    }

    fn poll_finish<S: Sink>(&mut self, cx: &mut Context<'_>, left: Duration, sink: &mut S) -> Poll<()> {
        if !left.is_zero() && self.is_up() {
            if !std::mem::replace(&mut self.finishing, true) {
                self.fences.add_marker();
            }
            if self.fences.is_due() {
                // The next turn sends it.
                cx.waker().wake_by_ref();
            }
            if !self.fences.is_idle() {
                return Poll::Pending;
            }
        }
        let unproven = self.fences.fail_acks();
        fail_acks(unproven, sink);
        Poll::Ready(())
    }
}

impl Nats {
    fn is_up(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.up)
    }

    /// The metric of the round trip must not stay at what it was while the broker is silent: what has no answer yet counts with the time
    /// that it has waited. An idle relay asks now and then.
    fn measure<S: Sink>(&mut self, now: Instant, sink: &mut S) {
        if let Some(waited) = self.fences.waited(now) {
            sink.round_trip(waited);
        } else if self.is_up() && self.fences.is_stale(now) {
            self.fences.add_marker();
        }
    }

    fn handle_timeouts<S: Sink>(&mut self, now: Instant, sink: &mut S) {
        self.subscribes.forget_refused(sink.interest());
        let overdue = self.fences.handle_timeout(now);
        fail_acks(overdue, sink);
        if self.audit.handle_timeout(now) {
            self.begin_audit(now, sink.interest());
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_TICK;
            self.measure(now, sink);
            self.look_at_nodes(now, sink);
        }
    }
}

/// It is not known whether these were taken.
fn fail_acks<S: Sink>(acks: Vec<PendingAck>, sink: &mut S) {
    for ack in acks {
        sink.failed(ack.ticket);
    }
}
