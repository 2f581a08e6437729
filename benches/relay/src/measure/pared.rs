//! The relay's broker on async-nats with nothing that can be left out: no validation of JSON, the header at fixed offsets as far as
//! async-nats lets it be read, no guard against errors that it hides.
//!
//! async-nats makes a queue for each subscription (`tokio::sync::mpsc`, whose first block of 32 places is allocated at once) and takes
//! no other receiver: its commands are private. So a room costs what it costs, and a message goes through its queue.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, HeaderValue, Message, Subscriber};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use tidegate_core::model::{Kind, Publication, RoomName};
use tidegate_core::relay::envelope::HEADER;
use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::Outgoing;
use tidegate_core::relay::{Broker, NodeTarget, NotTaken, Sink};

use relay::codec::envelope::Envelope;

use super::ROOM_PREFIX;

/// Subscriptions between two fences.
const BATCH: usize = 1024;
/// As the gateway sets it: what one turn of the client reads fits one room's queue.
const QUEUE_MESSAGES: usize = 16 * 1024 * 128 / 20;

type Batch = Vec<(RoomKey, RoomName, Subscriber)>;
type Connecting = Pin<Box<dyn Future<Output = Option<(Client, Subscriber)>>>>;
type Subscribing = Pin<Box<dyn Future<Output = Option<Batch>>>>;
type Arrivals = Rc<RefCell<Vec<(RoomKey, RoomName, Message)>>>;

/// See the module.
pub struct Pared {
    connecting: Option<Connecting>,
    client: Option<(Client, Subscriber)>,
    waiting: Vec<(RoomKey, RoomName)>,
    subscribing: Option<Subscribing>,
    unproven: Vec<RoomKey>,
    queues: FuturesUnordered<Queue>,
    arrivals: Arrivals,
}

impl Pared {
    /// A relay that connects once it is polled.
    pub fn new(server: SocketAddr) -> io::Result<Self> {
        let connecting = async move {
            let options = ConnectOptions::new()
                .subscription_capacity(QUEUE_MESSAGES)
                .read_buffer_capacity(16 * 1024)
                .skip_subject_validation(true);
            let client = options.connect(server.to_string()).await.ok()?;
            let inbox = client.subscribe("bench.inbox").await.ok()?;
            Some((client, inbox))
        };
        Ok(Self {
            connecting: Some(Box::pin(connecting)),
            client: None,
            waiting: Vec::new(),
            subscribing: None,
            unproven: Vec::new(),
            queues: FuturesUnordered::new(),
            arrivals: Rc::default(),
        })
    }

    /// Subscribes a batch, then sends the fence behind it.
    fn poll_subscribes(&mut self, cx: &mut Context<'_>) {
        let Some((client, _)) = &self.client else { return };
        if self.subscribing.is_none() && self.unproven.is_empty() && !self.waiting.is_empty() {
            let batch: Vec<_> = self.waiting.drain(..self.waiting.len().min(BATCH)).collect();
            let client = client.clone();
            self.subscribing = Some(Box::pin(async move {
                let mut subscribed = Vec::with_capacity(batch.len());
                for (key, room) in batch {
                    let subscriber = client.subscribe(format!("{ROOM_PREFIX}{room}")).await.ok()?;
                    subscribed.push((key, room, subscriber));
                }
                client.publish("bench.inbox", "fence".into()).await.ok()?;
                Some(subscribed)
            }));
        }
        let Some(subscribing) = &mut self.subscribing else { return };
        if let Poll::Ready(batch) = subscribing.as_mut().poll(cx) {
            self.subscribing = None;
            for (key, room, subscriber) in batch.unwrap_or_default() {
                self.unproven.push(key);
                self.queues.push(Queue { key, room, subscriber, arrivals: self.arrivals.clone() });
            }
            cx.waker().wake_by_ref();
        }
    }
}

impl Broker for Pared {
    const NAME: &'static str = "pared";
    const NEEDS_RUNTIME: bool = true;

    fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) {
        if let Some(connecting) = &mut self.connecting {
            let Poll::Ready(connected) = connecting.as_mut().poll(cx) else { return };
            self.connecting = None;
            self.client = connected;
        }
        let mut returned = false;
        if let Some((_, inbox)) = &mut self.client {
            while let Poll::Ready(Some(_)) = Pin::new(&mut *inbox).poll_next(cx) {
                returned = true;
            }
        }
        while let Poll::Ready(Some(())) = Pin::new(&mut self.queues).poll_next(cx) {}
        for (key, room, message) in self.arrivals.borrow_mut().drain(..) {
            sink.message(key, publication(room, message));
        }
        if returned {
            self.unproven.drain(..).for_each(|key| sink.confirmed(key, now));
        }
    }

    fn subscribe<S: Sink>(&mut self, key: RoomKey, room: &RoomName, _: Instant, _: &mut S) {
        self.waiting.push((key, room.clone()));
    }

    fn unsubscribe(&mut self, _: RoomKey) {}

    fn publish<S: Sink>(&mut self, _: &mut Context<'_>, item: Outgoing, _: Instant, _: &mut S) -> Result<(), NotTaken> {
        Err(NotTaken::Busy(item))
    }

    fn send_to_nodes<S: Sink>(&mut self, _: NodeTarget, _: Bytes, _: &mut S) {}

    fn flush<S: Sink>(&mut self, cx: &mut Context<'_>, _: Instant, _: &mut S) {
        self.poll_subscribes(cx);
        while let Poll::Ready(Some(())) = Pin::new(&mut self.queues).poll_next(cx) {}
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
        Poll::Ready(())
    }
}

fn publication(room: RoomName, message: Message) -> Publication {
    let value = message.headers.as_ref().and_then(|headers| headers.get(HEADER)).map(HeaderValue::as_str);
    let envelope = value.map(Envelope::read_value).unwrap_or_default();
    let (kind, from, echo) = (envelope.kind.unwrap_or(Kind::Binary), envelope.from, envelope.echo);
    let time_unix_ns = envelope.time_unix_ns.unwrap_or_default();
    Publication { from, echo, ..Publication::of_backend(room, kind, message.payload, time_unix_ns) }
}

/// One room's queue. As a future it is done when the subscription has ended.
struct Queue {
    key: RoomKey,
    room: RoomName,
    subscriber: Subscriber,
    arrivals: Arrivals,
}

impl Future for Queue {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let queue = self.get_mut();
        let mut arrivals = queue.arrivals.borrow_mut();
        loop {
            match Pin::new(&mut queue.subscriber).poll_next(cx) {
                Poll::Ready(Some(message)) => arrivals.push((queue.key, queue.room.clone(), message)),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
