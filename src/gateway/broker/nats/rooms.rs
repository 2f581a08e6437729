//! The rooms' subscriptions: each is a queue that the client fills and the relay empties.
//!
//! Every queue that has something is emptied in the turn in which the relay learns of it: the client reads the socket again only
//! after that, which is what bounds the queues (see `connect_options.rs`).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::{HeaderName, Message, Subscriber};
use futures_util::stream::{FuturesUnordered, Stream};

use tidegate_core::model::{GapReason, Publication, RoomName};
use tidegate_core::relay::Sink;
use tidegate_core::relay::envelope;
use tidegate_core::relay::interest::RoomKey;

/// Places for arrivals that are kept between two turns; a burst's are given back.
const ARRIVALS_KEPT: usize = 1024;

/// A message that was taken from a queue of the client.
enum Arrival {
    Publication(Publication),
    TooLarge,
}

/// Where received messages go: a queue is polled as a future, which cannot be given the sink.
pub(super) struct Incoming {
    arrivals: RefCell<VecDeque<(RoomKey, Arrival)>>,
    /// Messages taken from the client's queues.
    pub(super) taken: Cell<u64>,
    /// The largest payload that is delivered, in bytes.
    pub(super) message_bytes: usize,
}

impl Incoming {
    pub(super) fn new(message_bytes: usize) -> Self {
        Self { arrivals: RefCell::default(), taken: Cell::new(0), message_bytes }
    }

    fn handle_message(
        &self,
        arrivals: &mut VecDeque<(RoomKey, Arrival)>,
        queue: (RoomKey, &RoomName),
        message: Message,
    ) {
        const TIDEGATE: HeaderName = HeaderName::from_static(envelope::HEADER);
        let (key, room) = queue;
        self.taken.set(self.taken.get() + 1);
        if message.payload.len() > self.message_bytes {
            return arrivals.push_back((key, Arrival::TooLarge));
        }
        let header = message.headers.as_ref().and_then(|headers| headers.get(TIDEGATE));
        let header = header.map(async_nats::HeaderValue::as_str);
        let publication = envelope::read(room.clone(), header, message.payload, now_unix_ns);
        arrivals.push_back((key, Arrival::Publication(publication)));
    }

    fn drain<S: Sink>(&self, sink: &mut S) {
        let mut arrivals = self.arrivals.borrow_mut();
        for (key, arrival) in arrivals.drain(..) {
            match arrival {
                Arrival::Publication(publication) => sink.message(key, publication),
                Arrival::TooLarge => sink.lost(Some(key), GapReason::TooLarge, 1),
            }
        }
        arrivals.shrink_to(ARRIVALS_KEPT);
    }
}

/// All subscriptions.
pub(super) struct Rooms {
    incoming: Rc<Incoming>,
    queues: FuturesUnordered<Queue>,
    ends: HashMap<RoomKey, Rc<End>>,
    /// Second subscriptions of rooms, a few at a time, which prove the first ones: no port gets their messages.
    probes: HashMap<RoomKey, Subscriber>,
    ended: u64,
}

impl Rooms {
    pub(super) fn new(incoming: Rc<Incoming>) -> Self {
        let (queues, ends, probes) = (FuturesUnordered::new(), HashMap::new(), HashMap::new());
        Self { incoming, queues, ends, probes, ended: 0 }
    }

    /// Takes a subscription in.
    pub(super) fn open(&mut self, key: RoomKey, room: RoomName, subscriber: Subscriber) {
        let end = Rc::new(End::default());
        self.ends.insert(key, end.clone());
        self.queues.push(Queue { key, room, subscriber, incoming: self.incoming.clone(), end });
    }

    /// Ends a subscription, if there is one; dropping it tells the broker.
    pub(super) fn close(&mut self, key: RoomKey) {
        self.end_probe(key);
        if let Some(end) = self.ends.remove(&key) {
            self.ended += 1;
            end.set();
        }
    }

    /// Takes a room's second subscription in.
    pub(super) fn probe(&mut self, key: RoomKey, subscriber: Subscriber) {
        self.probes.insert(key, subscriber);
    }

    /// Ends a room's second subscription. Says whether there was one.
    pub(super) fn end_probe(&mut self, key: RoomKey) -> bool {
        let had = self.probes.remove(&key).is_some();
        self.ended += u64::from(had);
        had
    }

    /// Whether a room has a second subscription.
    pub(super) fn has_probe(&self, key: RoomKey) -> bool {
        self.probes.contains_key(&key)
    }

    /// Rooms with a second subscription.
    pub(super) fn probes(&self) -> usize {
        self.probes.len()
    }

    /// The rooms with a subscription.
    pub(super) fn keys(&self) -> impl Iterator<Item = RoomKey> + '_ {
        self.ends.keys().copied()
    }

    /// Subscriptions that ended so far.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// Empties every queue that has something.
    pub(super) fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        while let Poll::Ready(Some(())) = Pin::new(&mut self.queues).poll_next(cx) {}
        self.incoming.drain(sink);
        for probe in self.probes.values_mut() {
            while let Poll::Ready(Some(_)) = Pin::new(&mut *probe).poll_next(cx) {
                self.incoming.taken.set(self.incoming.taken.get() + 1);
            }
        }
    }
}

/// Tells a queue to end.
#[derive(Default)]
struct End {
    reached: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl End {
    fn set(&self) {
        self.reached.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// One room's subscription. As a future it is done when the subscription has ended.
struct Queue {
    key: RoomKey,
    room: RoomName,
    subscriber: Subscriber,
    incoming: Rc<Incoming>,
    end: Rc<End>,
}

impl Future for Queue {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let queue = self.get_mut();
        if queue.end.reached.get() {
            return Poll::Ready(());
        }
        let mut arrivals = queue.incoming.arrivals.borrow_mut();
        loop {
            match Pin::new(&mut queue.subscriber).poll_next(cx) {
                Poll::Ready(Some(message)) => {
                    queue.incoming.handle_message(&mut arrivals, (queue.key, &queue.room), message);
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        // The place of a queue among the others never changes, nor does its waker.
        let waker = queue.end.waker.take().unwrap_or_else(|| cx.waker().clone());
        queue.end.waker.set(Some(waker));
        Poll::Pending
    }
}

fn now_unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
