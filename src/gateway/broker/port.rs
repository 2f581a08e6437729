//! The ports of a relay: the shards' and the admin thread's end of it, and the relay's end of their mailboxes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::Server;
use super::thread::Shared;
use crate::gateway::mailbox::{self, Waker};
use tidegate_core::limits::{self, Limits};
use tidegate_core::relay::ports::PortIndex;
use tidegate_core::relay::{Mailbox, Outlet, ToRelay, ToShard};

/// One end of the relay: a shard's, or (the last one) the admin thread's, which publishes and gets acknowledgements only.
///
/// The reader of `from_relay` releases what each item is charged with: [`ToShard::pinned_bytes`]. Requests go in by way of
/// [`Port::ask`], which charges them; the relay releases them.
pub struct Port {
    to_relay: mailbox::Sender<ToRelay>,
    /// Deliveries and answers.
    pub from_relay: mailbox::Receiver<ToShard>,
    /// Where requests are served without the relay's thread, and this port's index.
    server: Option<(Server, PortIndex)>,
}

impl Port {
    /// A port whose requests are served by the thread that `to_relay` wakes.
    pub fn new(to_relay: mailbox::Sender<ToRelay>, from_relay: mailbox::Receiver<ToShard>) -> Self {
        Self { to_relay, from_relay, server: None }
    }

    /// Puts a request in. Call [`Port::flush`] after a batch.
    ///
    /// # Errors
    /// The request, where the mailbox is full: in number, or in bytes ([`limits::REQUEST_MAILBOX_BYTES`]).
    pub fn ask(&mut self, request: ToRelay) -> Result<(), ToRelay> {
        let (waiting, bytes) = (self.to_relay.bytes(), request.pinned_bytes());
        // An empty mailbox takes anything: a message over the byte limit must not wait for ever.
        if waiting > 0 && waiting + bytes > limits::REQUEST_MAILBOX_BYTES {
            return Err(request);
        }
        self.to_relay.push(request)?;
        self.to_relay.charge(bytes);
        Ok(())
    }

    /// Has what was put in served: on the local bus at once, by the calling thread, if it can. Says whether it is left to the
    /// relay's thread, which was woken. `now` may be as old as the caller's turn.
    pub fn flush(&mut self, now: Instant) -> bool {
        match &self.server {
            Some((server, port)) => server.serve(*port, now),
            None => {
                self.to_relay.wake();
                true
            }
        }
    }
}

impl Mailbox for mailbox::Sender<ToShard> {
    fn push(&mut self, item: ToShard) -> Result<(), ToShard> {
        Self::push(self, item)
    }

    fn free(&self) -> usize {
        Self::free(self)
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }

    fn charge(&self, bytes: usize) {
        Self::charge(self, bytes);
    }

    fn wake(&self) {
        Self::wake(self);
    }
}

/// What the ports ask: the relay's end of their mailboxes.
#[derive(Default)]
pub(super) struct Requests(Vec<mailbox::Receiver<ToRelay>>);

impl Requests {
    /// The ports' indices.
    pub(super) fn ports(&self) -> Range<PortIndex> {
        0..self.0.len() as PortIndex
    }

    /// Takes a port's oldest request.
    #[inline]
    pub(super) fn pop(&mut self, port: PortIndex) -> Option<ToRelay> {
        let mailbox = &mut self.0[usize::from(port)];
        let request = mailbox.pop()?;
        mailbox.release(request.pinned_bytes());
        Some(request)
    }

    /// How many requests of a port wait to be taken.
    pub(super) fn waiting_at(&self, port: PortIndex) -> usize {
        self.0[usize::from(port)].len()
    }

    /// Whether all that was asked was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(mailbox::Receiver::is_empty)
    }

    /// Whether all that a port asked was taken.
    pub(super) fn is_empty_at(&self, port: PortIndex) -> bool {
        self.0[usize::from(port)].is_empty()
    }
}

/// The two ends of a relay's ports.
pub(super) struct Ends {
    pub(super) ports: Vec<Port>,
    pub(super) requests: Requests,
    pub(super) outlets: Vec<Outlet<mailbox::Sender<ToShard>>>,
}

impl Ends {
    /// A port for each waker.
    pub(super) fn new(limits: &Limits, wakers: Vec<Arc<Waker>>, shared: &Shared) -> Self {
        let (mut ports, mut requests, mut outlets) = (Vec::new(), Vec::new(), Vec::new());
        for waker in wakers {
            let (to_relay, taken) = mailbox::mailbox(limits.mailbox_messages, shared.waker.clone());
            let (outlet, from_relay) = mailbox::mailbox(limits.mailbox_messages + limits::MAILBOX_RESERVE, waker);
            ports.push(Port::new(to_relay, from_relay));
            requests.push(taken);
            outlets.push(Outlet::new(outlet, limits.mailbox_messages));
        }
        Self { ports, requests: Requests(requests), outlets }
    }

    /// Has the ports' requests served by the calling thread, under the relay's lock.
    pub(super) fn serve_at_once(&mut self, server: &Server) {
        for (port, index) in self.ports.iter_mut().zip(0..) {
            port.server = Some((server.clone(), index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::model::{Kind, Publication};

    #[test]
    fn what_a_shard_asks_is_bounded_in_bytes_until_the_relay_has_taken_it() {
        let (to_relay, mut requests) = mailbox::mailbox(1024, Waker::new().unwrap());
        let (_, from_relay) = mailbox::mailbox(1, Waker::new().unwrap());
        let mut port = Port::new(to_relay, from_relay);
        let publish = |bytes: usize| {
            let (room, payload) = ("lobby".into(), vec![b'1'; bytes].into());
            let publication = Publication::of_backend(room, Kind::Json, payload, 0);
            ToRelay::Publish(publication, None)
        };
        assert!(port.ask(publish(limits::REQUEST_MAILBOX_BYTES)).is_ok(), "an empty mailbox takes any message");
        assert!(port.ask(publish(1)).is_err());
        let taken = requests.pop().unwrap();
        requests.release(taken.pinned_bytes());
        for _ in 0..limits::REQUEST_MAILBOX_BYTES / (64 << 10) - 1 {
            assert!(port.ask(publish(64 << 10)).is_ok());
        }
        assert!(port.ask(publish(64 << 10)).is_err(), "the publication itself counts too");
        assert!(port.ask(ToRelay::Unsubscribe("lobby".into())).is_ok(), "what pins nothing always fits");
    }
}
