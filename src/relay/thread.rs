//! The relay's thread: how it starts, what it hands to the shards, how it stops.

use std::io;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::hub::Hub;
use super::interest::{Bounds, Interest};
use super::ports::{MAX_PORTS, PortIndex};
use super::post::Post;
use super::{ToRelay, ToShard, local, nats};
use crate::config::{self, Config};
use crate::counters::RelayCounters;
use crate::limits::{self, Limits};
use crate::mailbox::{self, Waker};

/// What a relay needs to know.
#[derive(Clone)]
pub struct Options {
    /// The broker; none is the local bus.
    pub nats: Option<config::Nats>,
    /// Bounds.
    pub limits: Limits,
    /// The node's number, as in its connection ids.
    pub node: u32,
}

impl Options {
    /// From the node's settings and its number.
    pub fn new(config: &Config, node: u32) -> Self {
        Self { nats: config.nats.options(), limits: config.limits.clone(), node }
    }
}

/// One end of the relay: a shard's, or (the last one) control's, which publishes and gets acknowledgements only.
///
/// Who reads `from_relay` releases what each item is charged with: [`ToShard::pinned_bytes`]. Requests go in by way of
/// [`Port::ask`], which charges them; the relay releases them.
pub struct Port {
    to_relay: mailbox::Sender<ToRelay>,
    /// Deliveries and answers.
    pub from_relay: mailbox::Receiver<ToShard>,
    /// Where requests are served without the relay's thread: the bus, and this port's index.
    bus: Option<(Arc<local::Bus>, PortIndex)>,
}

impl Port {
    /// A port whose requests are taken by whoever `to_relay` wakes.
    pub fn new(to_relay: mailbox::Sender<ToRelay>, from_relay: mailbox::Receiver<ToShard>) -> Self {
        Self { to_relay, from_relay, bus: None }
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

    /// Has what was put in taken: on the local bus at once, by the calling thread, if it can. Says whether it is left to the relay's
    /// thread, which was woken.
    pub fn flush(&mut self) -> bool {
        match &self.bus {
            Some((bus, port)) => bus.serve(*port),
            None => {
                self.to_relay.wake();
                true
            }
        }
    }
}

/// Ends the relay.
pub struct Handle {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Publishes what is queued, for [`limits::RELAY_STOP_DEADLINE`] at most, then joins the thread.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.waker.ring();
        // A panic has ended the process.
        drop(self.thread.join());
    }
}

/// What the thread and its starter share.
pub(super) struct Shared {
    pub(super) waker: Arc<Waker>,
    stop: AtomicBool,
}

impl Shared {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, stop: AtomicBool::new(false) }
    }

    pub(super) fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// The relay's side of all ports, and what a bus runs on.
pub(super) struct Desk {
    pub(super) hub: Hub,
    pub(super) requests: Requests,
    pub(super) shared: Arc<Shared>,
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

/// Starts a relay with one port for each waker: the shards', then control's.
///
/// # Errors
/// No port or too many, no eventfd, no thread, or broker settings that cannot work (a file that cannot be read, a URL that
/// cannot be parsed). A broker that cannot be reached is no error: the relay goes on trying.
pub fn start(
    options: Options,
    port_wakers: Vec<Arc<Waker>>,
    counters: Arc<RelayCounters>,
) -> io::Result<(Vec<Port>, Handle)> {
    if port_wakers.is_empty() || port_wakers.len() > MAX_PORTS {
        let what = format!("a relay has 1 to {MAX_PORTS} ports, not {}", port_wakers.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let shared = Arc::new(Shared::new(Waker::new()?));
    let (mut ports, requests, posts) = connect_ports(&options.limits, port_wakers, &shared);
    let builder = std::thread::Builder::new().name(String::from("relay"));
    let desk = |linger| {
        let hub = Hub::new(posts, interest(&options.limits, linger), counters);
        Desk { hub, requests, shared: shared.clone() }
    };
    let thread = match nats::Access::new(&options)? {
        None => {
            let bus = Arc::new(local::Bus::new(desk(Duration::ZERO)));
            serve_at_once(&mut ports, &bus);
            builder.spawn(move || or_end_the_process(|| bus.run()))?
        }
        Some(access) => {
            let desk = desk(options.limits.linger);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let doorbell = nats::Doorbell::new(&runtime, shared.waker.clone())?;
            builder.spawn(move || {
                or_end_the_process(|| runtime.block_on(nats::run(desk, access, doorbell, &options.limits)));
                // Dropping it would wait for a name lookup that hangs.
                runtime.shutdown_background();
            })?
        }
    };
    Ok((ports, Handle { shared, thread }))
}

/// A node whose relay is gone is half alive: its clients stay, and hear nothing. Where a panic unwinds, it ends the process as
/// it does where panics abort.
fn or_end_the_process(run: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!("the relay's thread panicked; the node ends");
        std::process::exit(1);
    }
}

/// The interest table of a relay with these limits.
pub(super) fn interest(limits: &Limits, linger: Duration) -> Interest {
    let rooms = limits.rooms_total.map_or(usize::MAX, |rooms| rooms as usize);
    Interest::new(Bounds { confirm_within: limits.fence_deadline, linger, rooms })
}

/// Has the ports' requests served by the calling thread, under the bus's lock.
pub(super) fn serve_at_once(ports: &mut [Port], bus: &Arc<local::Bus>) {
    for (port, index) in ports.iter_mut().zip(0..) {
        port.bus = Some((bus.clone(), index));
    }
}

/// The ports of a relay, and the relay's ends of their mailboxes.
pub(super) fn connect_ports(
    limits: &Limits,
    wakers: Vec<Arc<Waker>>,
    shared: &Shared,
) -> (Vec<Port>, Requests, Vec<Post>) {
    let (mut ports, mut inbound, mut posts) = (Vec::new(), Vec::new(), Vec::new());
    for waker in wakers {
        let (to_relay, requests) = mailbox::mailbox(limits.mailbox_messages, shared.waker.clone());
        let (post, from_relay) = mailbox::mailbox(limits.mailbox_messages + limits::MAILBOX_RESERVE, waker);
        ports.push(Port::new(to_relay, from_relay));
        inbound.push(requests);
        posts.push(Post::new(post, limits.mailbox_messages));
    }
    (ports, Requests(inbound), posts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Publication};

    #[test]
    fn what_a_shard_asks_is_bounded_in_bytes_until_the_relay_has_taken_it() {
        let (to_relay, mut requests) = mailbox::mailbox(1024, Waker::new().unwrap());
        let (_, from_relay) = mailbox::mailbox(1, Waker::new().unwrap());
        let mut port = Port::new(to_relay, from_relay);
        let publish = |bytes: usize| {
            let (room, payload) = ("lobby".into(), vec![b'1'; bytes].into());
            let publication = Publication { room, kind: Kind::Json, payload, from: None, echo: true, time_unix_ns: 0 };
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
