//! A broker without a connection: it confirms each room at once. What remains is the relay's core.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_core::model::RoomName;
use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::Outgoing;
use tidegate_core::relay::{Broker, NodeTarget, NotTaken, Sink};

/// See the module.
#[derive(Default)]
pub struct Alone {
    confirmed: Vec<RoomKey>,
}

impl Broker for Alone {
    const NAME: &'static str = "alone";
    const NEEDS_RUNTIME: bool = true;

    fn poll<S: Sink>(&mut self, _: &mut Context<'_>, now: Instant, sink: &mut S) {
        self.confirmed.drain(..).for_each(|key| sink.confirmed(key, now));
    }

    fn subscribe<S: Sink>(&mut self, key: RoomKey, _: &RoomName, _: Instant, _: &mut S) {
        self.confirmed.push(key);
    }

    fn unsubscribe(&mut self, _: RoomKey) {}

    fn publish<S: Sink>(&mut self, _: &mut Context<'_>, _: Outgoing, _: Instant, _: &mut S) -> Result<(), NotTaken> {
        Ok(())
    }

    fn send_to_nodes<S: Sink>(&mut self, _: NodeTarget, _: Bytes, _: &mut S) {}

    fn flush<S: Sink>(&mut self, cx: &mut Context<'_>, _: Instant, _: &mut S) {
        if !self.confirmed.is_empty() {
            cx.waker().wake_by_ref();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
        Poll::Ready(())
    }
}
