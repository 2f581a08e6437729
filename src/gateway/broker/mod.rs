//! The brokers: what carries publications between nodes, one module for each, and the relay's loop, which is the same for all.
//!
//! | module | what it is |
//! |---|---|
//! | `local` | the bus of a node without a broker |
//! | `nats` | NATS: one subscription per room and node, and fences that prove them |
//! | `service` | one turn of the relay: broker, requests, timeouts, sleep |
//! | `locked`, `runtime` | where the turns run: on the calling thread under the relay's lock, or on a runtime of the relay's thread |
//! | `port`, `thread` | the shards' end of the relay; the relay's thread |
//!
//! A new broker is a module that implements [`Broker`] and `Start`, and a line in the table below: see
//! `docs/new-broker.md`. The interface and everything that brokers have in common is in [`tidegate_core::relay`].

mod local;
mod locked;
mod nats;
mod port;
mod runtime;
mod service;
#[doc(hidden)]
pub mod testing;
mod thread;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::gateway::config::Config;
use crate::gateway::mailbox::{Sender, Waker};
use tidegate_core::counters::RelayCounters;
use tidegate_core::relay::interest::Bounds;
use tidegate_core::relay::ports::{MAX_PORTS, PortIndex};
use tidegate_core::relay::{Broker, Relay, Sink, ToShard};

use locked::Locked;
use port::Ends;
pub use port::Port;
use service::Service;
pub use thread::Handle;
use thread::Shared;

/// How a broker begins.
trait Start: Broker + Sized {
    /// What it needs to connect: made by the thread that starts the relay, used by the relay's own.
    type Settings: Send + 'static;

    /// Whether the node's settings name it.
    fn is_configured(config: &Config) -> bool;

    /// Reads and checks the settings.
    ///
    /// # Errors
    /// Settings that cannot work: the node does not start.
    fn settings(options: &Options) -> io::Result<Self::Settings>;

    /// The broker, not connected yet. It runs on the relay's thread, inside the runtime where the broker needs one.
    fn new(settings: Self::Settings) -> Self;
}

macro_rules! brokers {
    (
        at_once: { $($(#[$doc:meta])* $local:ident => $served:ty),* $(,)? },
        on_a_runtime: { $($(#[$remote_doc:meta])* $remote:ident => $broker:ty),* $(,)? } $(,)?
    ) => {
        /// Names a broker.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum BrokerId { $($(#[$doc])* $local,)* $($(#[$remote_doc])* $remote),* }

        impl BrokerId {
            /// Every broker, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$local,)* $(Self::$remote),*];

            /// See [`Broker::NAME`].
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$local => <$served as Broker>::NAME,)*
                    $(Self::$remote => <$broker as Broker>::NAME,)*
                }
            }

            /// The broker that the node's settings name: one that connects nodes, or else the local bus.
            pub fn of(config: &Config) -> Self {
                $(if <$broker as Start>::is_configured(config) { return Self::$remote; })*
                $(if <$served as Start>::is_configured(config) { return Self::$local; })*
                Self::Local
            }

            fn start(self, starting: Starting<'_>) -> io::Result<(Vec<Port>, Handle)> {
                match self {
                    $(Self::$local => starting.at_once::<$served>(Server::$local),)*
                    $(Self::$remote => starting.on_a_runtime::<$broker>(),)*
                }
            }
        }

        /// The relay of a broker that needs no runtime, as its ports see it.
        #[derive(Clone)]
        enum Server { $($local(Arc<Locked<$served>>)),* }

        impl Server {
            /// See [`Locked::serve`].
            #[inline]
            fn serve(&self, port: PortIndex, now: Instant) -> bool {
                match self { $(Self::$local(locked) => locked.serve(port, now)),* }
            }
        }
    };
}

// One line for each broker: those that answer without waiting are served by the calling thread and keep no room after its last
// member; the others have a runtime on the relay's thread and keep a room for limits.linger.
brokers! {
    at_once: {
        /// The local bus: this node alone.
        Local => local::Local,
    },
    on_a_runtime: {
        /// NATS.
        Nats => nats::Nats,
    },
}

/// What a relay needs to know.
#[derive(Clone)]
pub struct Options {
    /// Which broker.
    pub broker: BrokerId,
    /// The node's settings, its broker's among them.
    pub config: Config,
    /// The node's number, as in its connection ids.
    pub node: u32,
}

impl Options {
    /// From the node's settings and its number.
    pub fn new(config: Config, node: u32) -> Self {
        Self { broker: BrokerId::of(&config), config, node }
    }
}

/// Starts a relay with one port for each waker: the shards', then the admin thread's.
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
    let ends = Ends::new(&options.config.limits, port_wakers, &shared);
    options.broker.start(Starting { options: &options, ends, shared, counters })
}

/// A relay whose broker is about to be made.
struct Starting<'a> {
    options: &'a Options,
    ends: Ends,
    shared: Arc<Shared>,
    counters: Arc<RelayCounters>,
}

impl Starting<'_> {
    /// The calling threads serve their own requests.
    fn at_once<B>(mut self, server: fn(Arc<Locked<B>>) -> Server) -> io::Result<(Vec<Port>, Handle)>
    where
        B: Start + Send + 'static,
    {
        const { assert!(!B::NEEDS_RUNTIME, "it belongs to the other half of the table") };
        let broker = B::new(B::settings(self.options)?);
        let locked = Arc::new(self.locked(broker));
        self.ends.serve_at_once(&server(locked.clone()));
        let handle = Handle::start(self.shared, move || locked.run())?;
        Ok((self.ends.ports, handle))
    }

    /// The relay's thread serves all requests, on a runtime.
    fn on_a_runtime<B: Start>(mut self) -> io::Result<(Vec<Port>, Handle)> {
        const { assert!(B::NEEDS_RUNTIME, "it belongs to the other half of the table") };
        let settings = B::settings(self.options)?;
        let relay = self.relay(self.options.config.limits.linger);
        let requests = std::mem::take(&mut self.ends.requests);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let waker_events = runtime::AsyncWaker::new(&runtime, self.shared.waker.clone())?;
        let shared = self.shared.clone();
        let handle = Handle::start(self.shared, move || {
            runtime.block_on(async move {
                let service = Service::new(relay, B::new(settings), requests, shared, Instant::now());
                runtime::run(service, waker_events).await;
            });
            // Dropping it would wait for a name lookup that hangs.
            runtime.shutdown_background();
        })?;
        Ok((self.ends.ports, handle))
    }

    /// The relay under its lock. A bus that answers without waiting is always connected.
    fn locked<B: Broker>(&mut self, broker: B) -> Locked<B> {
        let mut relay = self.relay(Duration::ZERO);
        relay.connected(true);
        let requests = std::mem::take(&mut self.ends.requests);
        Locked::new(Service::new(relay, broker, requests, self.shared.clone(), Instant::now()))
    }

    fn relay(&mut self, linger: Duration) -> Relay<Sender<ToShard>> {
        let limits = &self.options.config.limits;
        let rooms = limits.rooms_total.map_or(usize::MAX, |rooms| rooms as usize);
        let bounds = Bounds { confirm_within: limits.fence_deadline, linger, rooms };
        let outlets = std::mem::take(&mut self.ends.outlets);
        let mut relay = Relay::new(outlets, bounds, limits.fence_deadline, self.counters.clone());
        relay.limit_messages(limits.message_bytes);
        relay
    }
}
