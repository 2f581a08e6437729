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
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderName, HeaderValue, Message, Subscriber};
use futures_util::stream::{FuturesUnordered, Stream};

use super::log_limit::LogLimit;
use tidegate_core::counters::DropReason;
use tidegate_core::model::{BadJson, GapReason, Publication, RoomName};
use tidegate_core::relay::Sink;
use tidegate_core::relay::envelope::{self, Headers};
use tidegate_core::relay::interest::RoomKey;

/// Places for arrivals that are kept between two turns; a burst's are given back.
const ARRIVALS_KEPT: usize = 1024;

/// Subscriptions that end in one turn, at most. The client makes a task of each end that its queue of commands has no room for, and its
/// report of an error must not wait behind more of them than tokio runs between two turns of the relay (61): a fence would be
/// answered before the error that came before it.
const ENDS_PER_TURN: usize = 16;

/// A message that was taken from a queue of the client.
enum Arrival {
    Publication(Publication),
    TooLarge,
    /// It is called JSON, and is none.
    BadJson(RoomName, BadJson),
}

/// Where received messages go: a queue is polled as a future, which cannot be given the sink.
pub(super) struct Incoming {
    arrivals: RefCell<VecDeque<(RoomKey, Arrival)>>,
    /// For messages that their sender calls JSON: one line in a window, whatever the rooms.
    log_limit: RefCell<LogLimit>,
    /// The largest payload that is delivered, in bytes.
    pub(super) message_bytes: usize,
}

impl Incoming {
    pub(super) fn new(message_bytes: usize) -> Self {
        Self { arrivals: RefCell::default(), log_limit: RefCell::default(), message_bytes }
    }

    fn handle_message(
        &self,
        arrivals: &mut VecDeque<(RoomKey, Arrival)>,
        queue: (RoomKey, &RoomName),
        message: Message,
    ) {
        const TIDEGATE: HeaderName = HeaderName::from_static(envelope::HEADER);
        const CONTENT_TYPE: HeaderName = HeaderName::from_static("Content-Type");
        let (key, room) = queue;
        if message.payload.len() > self.message_bytes {
            return arrivals.push_back((key, Arrival::TooLarge));
        }
        let named = |name| message.headers.as_ref().and_then(|headers| headers.get(name)).map(HeaderValue::as_str);
        let tidegate = named(TIDEGATE);
        // A gateway's message says all in one header; the other is looked for in a backend's only.
        let content_type = if tidegate.is_none() { named(CONTENT_TYPE) } else { None };
        let headers = Headers { tidegate, content_type };
        let arrival = match envelope::read(room.clone(), headers, message.payload, now_unix_ns) {
            Ok(publication) => Arrival::Publication(publication),
            Err(why) => Arrival::BadJson(room.clone(), why),
        };
        arrivals.push_back((key, arrival));
    }

    fn drain<S: Sink>(&self, sink: &mut S) {
        let mut arrivals = self.arrivals.borrow_mut();
        for (key, arrival) in arrivals.drain(..) {
            match arrival {
                Arrival::Publication(publication) => sink.message(key, publication),
                Arrival::TooLarge => sink.lost(Some(key), GapReason::TooLarge, 1),
                Arrival::BadJson(room, why) => {
                    sink.refused_message(DropReason::BadMessage);
                    let text = || {
                        format!(
                            "a message into room {room} is called JSON by its sender, but {why}; it was not delivered \
                             (ws_dropped_total, bad-message): send valid JSON, or say kind=text"
                        )
                    };
                    self.log_limit.borrow_mut().warn_once("not JSON", text, Instant::now());
                }
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
    /// Subscriptions that are to end, a few in a turn.
    closing: VecDeque<Rc<End>>,
    /// Second subscriptions of rooms, a few at a time, which prove the first ones: no port gets their messages.
    probes: HashMap<RoomKey, Subscriber>,
}

impl Rooms {
    pub(super) fn new(incoming: Rc<Incoming>) -> Self {
        let (queues, ends, probes) = (FuturesUnordered::new(), HashMap::new(), HashMap::new());
        Self { incoming, queues, ends, closing: VecDeque::new(), probes }
    }

    /// Takes a subscription in.
    pub(super) fn open(&mut self, key: RoomKey, room: RoomName, subscriber: Subscriber) {
        let end = Rc::new(End::default());
        self.ends.insert(key, end.clone());
        self.queues.push(Queue { key, room, subscriber, incoming: self.incoming.clone(), end });
    }

    /// Ends a subscription at once, if there is one; dropping it tells the broker.
    pub(super) fn close(&mut self, key: RoomKey) {
        self.end_probe(key);
        if let Some(end) = self.ends.remove(&key) {
            end.set();
        }
    }

    /// Ends a subscription soon; what it brings until then is not delivered, for its key is one of the past.
    pub(super) fn close_later(&mut self, key: RoomKey) {
        self.end_probe(key);
        self.closing.extend(self.ends.remove(&key));
    }

    /// Takes a room's second subscription in.
    pub(super) fn probe(&mut self, key: RoomKey, subscriber: Subscriber) {
        self.probes.insert(key, subscriber);
    }

    /// Ends a room's second subscription. Says whether there was one.
    pub(super) fn end_probe(&mut self, key: RoomKey) -> bool {
        self.probes.remove(&key).is_some()
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

    /// Empties every queue that has something.
    pub(super) fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        self.closing.drain(..self.closing.len().min(ENDS_PER_TURN)).for_each(|end| end.set());
        if !self.closing.is_empty() {
            cx.waker().wake_by_ref();
        }
        while let Poll::Ready(Some(())) = Pin::new(&mut self.queues).poll_next(cx) {}
        self.incoming.drain(sink);
        for probe in self.probes.values_mut() {
            while let Poll::Ready(Some(_)) = Pin::new(&mut *probe).poll_next(cx) {}
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
