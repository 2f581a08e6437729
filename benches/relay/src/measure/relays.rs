//! The relays that are compared. Each is the core's [`Relay`] with one shard's mailbox, on a thread called `relay`; they differ in the
//! broker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tidegate::gateway::broker;
use tidegate::gateway::broker::{Options, Port};
use tidegate::gateway::config::Config;
use tidegate::gateway::mailbox::{Receiver, Sender, Waker, mailbox};
use tidegate_core::limits;
use tidegate_core::relay::interest::Bounds;
use tidegate_core::relay::{Broker, Outlet, Relay, Sink as _, ToRelay, ToShard};
use tokio::io::unix::AsyncFd;

use super::alone::Alone;
use super::own::Own;
use super::pared::Pared;

/// Rooms that a relay may have.
const ROOMS: usize = 10_000_000;
/// Requests that are taken in one turn.
const REQUESTS_PER_TURN: usize = 256;
/// Between two turns of a relay that nothing wakes.
const TICK: Duration = Duration::from_millis(100);
/// As `limits.fence_deadline` is, so that a slow broker refuses no room here.
const CONFIRM_WITHIN: Duration = Duration::from_secs(600);

/// Which relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The gateway's own, as it is in this tree.
    Today,
    /// async-nats with nothing around it that can be left out.
    Pared,
    /// The codec of this crate.
    Own,
    /// The interest table and the mailbox alone: a broker that confirms at once and has no connection.
    Alone,
}

impl Kind {
    /// Each, with its name in arguments and tables.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Today, "today"), (Self::Pared, "pared"), (Self::Own, "own"), (Self::Alone, "alone")];

    /// Starts it. The calling thread's core is its thread's too.
    ///
    /// # Errors
    /// It cannot start.
    pub fn start(self, server: SocketAddr) -> io::Result<Port> {
        match self {
            Self::Today => today(server),
            Self::Pared => start(move || Pared::new(server)),
            Self::Own => start(move || Own::new(server)),
            Self::Alone => start(|| Ok(Alone::default())),
        }
    }
}

/// The gateway's own relay with the settings that it would have.
fn today(server: SocketAddr) -> io::Result<Port> {
    let mut config = Config::default();
    config.nats.url = vec![format!("nats://{server}")];
    config.limits.rooms_total = Some(ROOMS as u64);
    config.limits.fence_deadline = CONFIRM_WITHIN;
    let wakers = vec![Waker::new()?, Waker::new()?];
    let (ports, handle) = broker::start(Options::new(config, 1), wakers, Arc::default())?;
    // It runs to the end of the process.
    std::mem::forget(handle);
    let mut ports = ports.into_iter();
    let port = ports.next().ok_or_else(|| io::Error::other("no port"))?;
    std::mem::forget(ports);
    Ok(port)
}

/// A relay around a broker, which is made on its thread.
fn start<B: Broker>(broker: impl FnOnce() -> io::Result<B> + Send + 'static) -> io::Result<Port> {
    let (own_waker, port_waker) = (Waker::new()?, Waker::new()?);
    let (to_relay, requests) = mailbox(limits::MAILBOX_MESSAGES, own_waker.clone());
    let (outlet, from_relay) = mailbox(limits::MAILBOX_MESSAGES + limits::MAILBOX_RESERVE, port_waker);
    let (admin, _) = mailbox(limits::MAILBOX_MESSAGES + limits::MAILBOX_RESERVE, Waker::new()?);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let outlets = [outlet, admin].map(|mailbox| Outlet::new(mailbox, limits::MAILBOX_MESSAGES)).into();
            let bounds = Bounds { confirm_within: CONFIRM_WITHIN, linger: limits::LINGER, rooms: ROOMS };
            let mut relay = Relay::new(outlets, bounds, CONFIRM_WITHIN, Arc::default());
            relay.connected(true);
            turns(relay, broker()?, requests, own_waker).await
        })
    };
    let thread = std::thread::Builder::new().name(String::from("relay")).spawn(move || {
        let ended: io::Result<()> = run();
        if let Err(error) = ended {
            eprintln!("relay: {error}");
            std::process::exit(1);
        }
    });
    thread.map(|_| Port::new(to_relay, from_relay))
}

/// The gateway's loop (`broker/service.rs`), without what ends and measures it.
async fn turns<B: Broker>(
    mut relay: Relay<Sender<ToShard>>,
    mut broker: B,
    mut requests: Receiver<ToRelay>,
    waker: Arc<Waker>,
) -> io::Result<()> {
    // SAFETY: the waker owns its eventfd, gives the same number all its life, and lives as long as the AsyncFd that owns it.
    let events = unsafe { AsyncFd::register_with_interest(Events(waker.clone()), tokio::io::Interest::READABLE) }?;
    let mut timer = Box::pin(tokio::time::sleep(TICK));
    let turns = std::future::poll_fn(|cx: &mut Context<'_>| {
        waker.stay_awake();
        let now = Instant::now();
        broker.poll(cx, now, &mut relay);
        relay.wake_ports();
        for _ in 0..REQUESTS_PER_TURN {
            let Some(request) = requests.pop() else { break };
            requests.release(request.pinned_bytes());
            relay.handle_request(0, request, now);
        }
        relay.handle_timeout(now);
        relay.apply(&mut broker, cx, now);
        broker.flush(cx, now, &mut relay);
        relay.apply_effects(&mut broker, now);
        relay.wake_ports();
        waker.will_sleep();
        if !requests.is_empty() || relay.is_behind() || woken(&events, cx) {
            cx.waker().wake_by_ref();
        } else if timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(tokio::time::Instant::now() + TICK);
            cx.waker().wake_by_ref();
        }
        Poll::<io::Result<()>>::Pending
    });
    tokio::task::unconstrained(turns).await
}

fn woken(events: &AsyncFd<Events>, cx: &mut Context<'_>) -> bool {
    let mut woken = false;
    while let Poll::Ready(Ok(mut guard)) = events.poll_read_ready(cx) {
        events.get_ref().0.clear();
        guard.clear_ready();
        woken = true;
    }
    woken
}

struct Events(Arc<Waker>);

impl std::os::fd::AsRawFd for Events {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.raw_fd()
    }
}
