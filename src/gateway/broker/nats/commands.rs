//! What the relay tells the client: subscriptions, fences, publications, as many as it takes without waiting.
//!
//! They take turns: a share of the subscriptions, a fence, a share of the publications. A fence is due when something sent before
//! it waits for an answer. So a crowd that joins neither holds up publications, nor waits for all of itself to be confirmed; a
//! publication that has waited for [`PATIENCE`] all the same goes first.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, HeaderName, Subscriber};
use futures_util::sink::Sink as _;

use super::audit::PROBES;
use super::fences::PendingAck;
use super::{Nats, Subscribing};
use tidegate_core::model::RoomName;
use tidegate_core::relay::interest::{Interest, RoomKey};
use tidegate_core::relay::publish_queue::Outgoing;
use tidegate_core::relay::{NotTaken, PublishError, Sink, envelope};

/// Subscriptions in one turn, before its publications.
const SUBSCRIBES_PER_TURN: usize = 64;
/// How long publications wait for subscriptions.
const PATIENCE: Duration = Duration::from_millis(100);
/// Publications between two looks at whether a fence is due.
const PUBLISHES_PER_FENCE: usize = 64;

impl Nats {
    /// Whether the client takes a publication now, after everything that goes before it; `since`: when it was asked for.
    pub(super) fn poll_publish_ready<S: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        since: Instant,
        now: Instant,
        sink: &mut S,
    ) -> Poll<()> {
        if !self.is_up() {
            return Poll::Pending;
        }
        if since + PATIENCE > now {
            std::task::ready!(self.poll_subscribes(cx, now, sink));
        }
        if self.unfenced == 0 {
            std::task::ready!(self.poll_fence(cx, now));
        }
        self.poll_ready(cx, now)
    }

    /// Sends the turn's share of subscriptions, where publications have not brought it with them, and a fence; the next turn goes on.
    pub(super) fn poll_commands<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) {
        self.unfenced = 0;
        if self.is_up() && self.poll_subscribes(cx, now, sink).is_ready() {
            let _ = self.poll_fence(cx, now);
            if self.left_subscribes == 0 {
                cx.waker().wake_by_ref();
            }
        }
        self.left_subscribes = SUBSCRIBES_PER_TURN;
    }

    fn poll_subscribes<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) -> Poll<()> {
        loop {
            if self.subscribing.is_none() {
                if self.left_subscribes == 0 {
                    return Poll::Ready(());
                }
                // The session first: a room that was taken from the queues must not be dropped.
                let Some(client) = self.session.as_ref().map(|session| session.client.clone()) else {
                    return Poll::Pending;
                };
                let (asked, is_probe) = match self.next_room(sink.interest()) {
                    None => (self.next_probe(sink.interest()), true),
                    asked => (asked, false),
                };
                let Some((key, room)) = asked else { return Poll::Ready(()) };
                self.left_subscribes -= 1;
                let subject = format!("{}{room}", self.room_prefix);
                let subscriber = Box::pin(async move { client.subscribe(subject).await });
                self.subscribing = Some(Subscribing { key, room, is_probe, subscriber });
            }
            let Some(subscribing) = &mut self.subscribing else { continue };
            let result = std::task::ready!(subscribing.subscriber.as_mut().poll(cx));
            let Some(Subscribing { key, room, is_probe, .. }) = self.subscribing.take() else { continue };
            match result {
                // It was given up meanwhile.
                Ok(_) if sink.interest().key(&room) != Some(key) => {}
                Ok(subscriber) => self.handle_subscribed(key, room, is_probe, subscriber),
                // The client has ended; the room's own subscription is the next connection's.
                Err(_) if is_probe => {}
                Err(error) => {
                    sink.refused(key);
                    self.log_limit.warn(format!("cannot subscribe room {room}: {error}"), now);
                }
            }
        }
    }

    /// The next room to subscribe. While rooms are uncertain, only a few of them before a fence is back; an uncertain room
    /// loses the subscription that it has.
    fn next_room(&mut self, interest: &Interest) -> Option<(RoomKey, RoomName)> {
        if self.resubscribe.take_gap() {
            self.fences.add_gap();
        }
        if self.resubscribe.is_empty() {
            return self.subscribes.pop(interest);
        }
        if self.fences.unproven_rooms() >= self.resubscribe.pace() {
            return None;
        }
        let Some((key, room)) = self.resubscribe.pop(interest, !self.subscribes.is_empty()) else {
            return self.subscribes.pop(interest);
        };
        self.rooms.close(key);
        Some((key, room))
    }

    /// The next room to prove. Rooms that wait to be joined go first; a relay that stops waits for no proof.
    fn next_probe(&mut self, interest: &Interest) -> Option<(RoomKey, RoomName)> {
        if self.rooms.probes() >= PROBES || self.finishing || !self.resubscribe.is_empty() {
            return None;
        }
        self.audit.pop(interest, |key| self.rooms.has_probe(key))
    }

    fn handle_subscribed(&mut self, key: RoomKey, room: RoomName, is_probe: bool, subscriber: Subscriber) {
        if is_probe {
            self.rooms.probe(key, subscriber);
        } else {
            self.rooms.open(key, room, subscriber);
        }
        self.fences.add_room(key);
    }

    fn poll_fence(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        if !self.fences.is_due() {
            return Poll::Ready(());
        }
        std::task::ready!(self.poll_ready(cx, now));
        let (Some(session), Some(number)) = (&mut self.session, self.fences.poll_fence(now)) else {
            return Poll::Ready(());
        };
        let (subject, payload) = (session.inbox_subject.clone().into(), number.to_string().into());
        let fence = OutboundMessage { subject, reply: None, payload, headers: None };
        if let Err(error) = Pin::new(&mut session.client).start_send(fence) {
            self.log_limit.warn(format!("cannot send a fence: {error}"), now);
        }
        Poll::Ready(())
    }

    pub(super) fn send_publication(&mut self, item: Outgoing, now: Instant) -> Result<(), NotTaken> {
        const TIDEGATE: HeaderName = HeaderName::from_static(envelope::HEADER);
        let Some(session) = &mut self.session else { return Err(NotTaken::Busy(item)) };
        let publisher = item.publisher();
        let mut headers = HeaderMap::new();
        headers.insert(TIDEGATE, envelope::write(&item.publication));
        let subject = format!("{}{}", self.room_prefix, item.publication.room).into();
        let payload = item.publication.payload;
        let message = OutboundMessage { subject, reply: None, payload, headers: Some(headers) };
        if let Err(error) = Pin::new(&mut session.client).start_send(message) {
            self.log_limit.warn(format!("the broker's client refused a message: {error}"), now);
            return Err(NotTaken::Refused(publisher, PublishError::Unavailable));
        }
        if let Some(ticket) = item.ticket {
            self.fences.add_ack(PendingAck { ticket, since: item.since });
        }
        self.unfenced = (self.unfenced + 1) % PUBLISHES_PER_FENCE;
        Ok(())
    }

    /// Whether the client takes another message.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(session) = &mut self.session else { return Poll::Pending };
        match Pin::new(&mut session.client).poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                // It ends only when it is told to; nothing wakes this, and everything queued goes its way by age.
                session.up = false;
                self.log_limit.warn(format!("the broker's client has ended: {error}"), now);
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
