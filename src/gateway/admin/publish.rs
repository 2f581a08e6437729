//! Publishing for backends: publications go out through the admin thread's relay port, acknowledgements come back by their ids.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::notify::Notify;
use super::publication::Publish;
use crate::gateway::broker::Port;
use tidegate_core::model::{AckLevel, Publication};
use tidegate_core::relay::{AckId, NodeTarget, PublishError, ToRelay, ToShard};

/// The admin thread's port of the relay, shared by the tasks that publish. What it holds is bounded as a shard's is: a request that
/// gave up leaves its publication there, so the number of connections bounds nothing.
pub(super) struct Publisher {
    port: RefCell<Port>,
    /// What came back, by id; `None` while it is awaited.
    awaited: RefCell<HashMap<AckId, Option<Acknowledged>>>,
    last_ack: Cell<AckId>,
    /// What arrived on the node channel and was not looked at.
    node_messages: RefCell<Vec<Box<[u8]>>>,
}

/// What the relay said of one publication.
pub(super) type Acknowledged = Result<AckLevel, PublishError>;

/// The acks of one request; forgets them when dropped, so that a request that gave up leaves nothing.
struct Awaited<'a> {
    publisher: &'a Publisher,
    acks: Vec<AckId>,
}

impl Publisher {
    pub(super) fn new(port: Port) -> Self {
        Self {
            port: RefCell::new(port),
            awaited: RefCell::default(),
            last_ack: Cell::new(0),
            node_messages: RefCell::default(),
        }
    }

    /// Takes what the relay said; called before the waiting tasks are woken.
    pub(super) fn take_in(&self) {
        let from_relay = &mut self.port.borrow_mut().from_relay;
        while let Some(said) = from_relay.pop() {
            from_relay.release(said.pinned_bytes());
            let (ack, acknowledged) = match said {
                ToShard::Acked(ack, level) => (ack, Ok(level)),
                ToShard::Failed(ack, error) => (ack, Err(error)),
                ToShard::FromNodes(message) => {
                    self.node_messages.borrow_mut().push(message);
                    continue;
                }
                // The admin thread subscribes nothing, and a publisher over HTTP has no connection that a gap could be sent to.
                ToShard::Deliver(_)
                | ToShard::Joined(_)
                | ToShard::Refused(..)
                | ToShard::Revoked(_)
                | ToShard::NotPublished(..)
                | ToShard::Gap(..) => continue,
            };
            if let Some(slot) = self.awaited.borrow_mut().get_mut(&ack) {
                *slot = Some(acknowledged);
            }
        }
    }

    /// Whether something waits in the port.
    pub(super) fn is_idle(&self) -> bool {
        self.port.borrow().from_relay.is_empty()
    }

    /// What arrived on the node channel since the last call.
    pub(super) fn take_node_messages(&self) -> Vec<Box<[u8]>> {
        self.node_messages.take()
    }

    /// Sends a message on the node channel; where the port is full, it is lost.
    pub(super) fn send_to_nodes(&self, to: NodeTarget, message: Vec<u8>) {
        let mut port = self.port.borrow_mut();
        drop(port.ask(ToRelay::ToNodes(to, message.into())));
        port.flush(Instant::now());
    }

    /// Publishes a message into its rooms and waits until each is acknowledged or failed, at most for `deadline`. The
    /// answer for each room in order; `Unavailable` where none came in time.
    pub(super) async fn publish(&self, publish: &Publish, notify: &Notify, deadline: Duration) -> Vec<Acknowledged> {
        let awaited = self.send(publish);
        let complete = notify.until(|| awaited.is_complete().then_some(()));
        // Late acknowledgements count as none: the caller sees which rooms are known to have it.
        let _ = monoio::time::timeout(deadline, complete).await;
        awaited.levels()
    }

    fn send(&self, publish: &Publish) -> Awaited<'_> {
        let Publish { rooms, kind, payload, options } = publish;
        let time_unix_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos().min(u128::from(u64::MAX)) as u64);
        // Of its own, so that what waits for the relay pins what it is charged with, and nothing of the connection's buffer.
        let payload = Bytes::copy_from_slice(payload);
        let mut port = self.port.borrow_mut();
        let mut acks = Vec::with_capacity(rooms.len());
        for room in rooms {
            let ack = self.last_ack.get() + 1;
            self.last_ack.set(ack);
            acks.push(ack);
            let publication = Publication {
                user: options.user.clone(),
                except: options.except.clone(),
                ..Publication::of_backend(room.clone(), *kind, payload.clone(), time_unix_ns)
            };
            let taken = port.ask(ToRelay::Publish(publication, Some(ack))).is_ok();
            self.awaited.borrow_mut().insert(ack, if taken { None } else { Some(Err(PublishError::Unavailable)) });
        }
        port.flush(Instant::now());
        Awaited { publisher: self, acks }
    }
}

impl Awaited<'_> {
    fn is_complete(&self) -> bool {
        let awaited = self.publisher.awaited.borrow();
        self.acks.iter().all(|ack| awaited.get(ack).is_none_or(Option::is_some))
    }

    fn levels(&self) -> Vec<Acknowledged> {
        let awaited = self.publisher.awaited.borrow();
        self.acks
            .iter()
            .map(|ack| awaited.get(ack).copied().flatten().unwrap_or(Err(PublishError::Unavailable)))
            .collect()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut awaited = self.publisher.awaited.borrow_mut();
        for ack in &self.acks {
            awaited.remove(ack);
        }
    }
}
