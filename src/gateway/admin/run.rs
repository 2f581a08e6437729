//! The admin thread's runtime and its standing tasks: the waker, signals, the admin port, the steering. Where nothing drains they
//! run when they are notified, and not by the clock: an idle node should sleep.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::io::AsyncReadRent;
use monoio::net::{TcpListener, TcpStream, UnixStream};
use monoio::time::sleep;
use monoio::{LegacyDriver, RuntimeBuilder};

use super::drain::Phase;
use super::supervisor::Supervisor;
use super::{Admin, Outcome, announce, nodes, server};
use tidegate_core::readiness::Readiness;

/// Between two looks at what a drain has left, and at whether the node is ready.
const TICK: Duration = Duration::from_millis(50);
/// Between two reports to the service manager while the node is not ready yet, and the timeout that each of them asks for.
const START_INTERVAL: Duration = Duration::from_secs(5);
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at the host's memory.
const MEMORY_INTERVAL: Duration = Duration::from_secs(20);

/// Builds the runtime and steers the node to its end.
///
/// The legacy driver: it is there on every host, and an admin port needs no ring.
pub(super) fn run(admin: Admin, signals: StdUnixStream) -> io::Result<Outcome> {
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    runtime.block_on(steer(admin, signals))
}

async fn steer(admin: Admin, signals: StdUnixStream) -> io::Result<Outcome> {
    let (supervisor, listener) = Supervisor::new(admin);
    let supervisor = Rc::new(supervisor);
    signals.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    monoio::spawn(take_signals(UnixStream::from_std(signals)?, supervisor.clone()));
    monoio::spawn(listen_to_waker(pollable(supervisor.waker.as_fd())?, supervisor.clone()));
    monoio::spawn(server::accept(TcpListener::from_std(listener)?, supervisor.clone()));
    if let Some(interval) = supervisor.manager.alive_interval() {
        monoio::spawn(feed_watchdog(interval, supervisor.clone()));
    }
    supervisor.fetch_keys();
    monoio::spawn(nodes::beat(supervisor.clone()));
    monoio::spawn(look_at_memory(supervisor.clone()));
    monoio::spawn(report_start(supervisor.clone()));
    loop {
        if let Some(outcome) = supervisor.tick() {
            return Ok(outcome);
        }
        // A drain that begins notifies, and so does a shard whose thread ends.
        if supervisor.phase() == Phase::Serving {
            supervisor.notify.notified().await;
        } else {
            sleep(TICK).await;
        }
    }
}

/// monoio waits on sockets only, and never does with them more than it is asked to: any descriptor that epoll takes may
/// pose as one as long as nothing but its readiness is used.
fn pollable(fd: impl AsFd) -> io::Result<TcpStream> {
    let copy: OwnedFd = fd.as_fd().try_clone_to_owned()?;
    TcpStream::from_std(StdTcpStream::from(copy))
}

/// Shards and the relay write the eventfd; then all tasks that wait for them are woken.
async fn listen_to_waker(eventfd: TcpStream, supervisor: Rc<Supervisor>) {
    loop {
        supervisor.waker.stay_awake();
        supervisor.waker.clear();
        supervisor.publisher.take_in();
        supervisor.handle_node_messages();
        supervisor.handle_fetched_keys();
        supervisor.notify.notify_all();
        supervisor.waker.will_sleep();
        if !supervisor.publisher.is_idle() {
            continue;
        }
        // Not relaxed: the legacy driver would report readiness again and again.
        match eventfd.readable(false).await {
            // A signal (EINTR) counts as an event.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                tracing::error!(%error, "cannot wait for the shards and the relay");
                return;
            }
            _ => {}
        }
    }
}

async fn take_signals(mut signals: UnixStream, supervisor: Rc<Supervisor>) {
    let mut buffer = vec![0; 16];
    loop {
        let (read, back) = signals.read(buffer).await;
        buffer = back;
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => (0..count).for_each(|_| supervisor.handle_signal()),
        }
    }
}

/// `READY=1`, and the line for a person at a terminal, come with the first 200 of `/ready`. A node that waits for its broker asks for more time: a restart brings
/// no broker nearer, and cuts off the clients that connected meanwhile. One with a shard that stands still does not ask.
async fn report_start(supervisor: Rc<Supervisor>) {
    let mut next = Instant::now();
    loop {
        let readiness = supervisor.state.readiness();
        // A full socket takes it later.
        if readiness == Readiness::Ready && supervisor.manager.ready() {
            return announce::ready(&supervisor.config);
        }
        // A drain may be taken back.
        let lives = supervisor.silent_shard().is_none() && !supervisor.is_relay_silent();
        if readiness != Readiness::Draining && Instant::now() >= next && lives {
            supervisor.manager.starting(readiness.reason(), START_TIMEOUT);
            next = Instant::now() + START_INTERVAL;
        }
        sleep(TICK).await;
    }
}

async fn look_at_memory(supervisor: Rc<Supervisor>) {
    loop {
        sleep(MEMORY_INTERVAL).await;
        supervisor.look_at_memory();
    }
}

/// The service manager hears nothing while a shard stands still, and restarts the service.
async fn feed_watchdog(interval: Duration, supervisor: Rc<Supervisor>) {
    loop {
        match supervisor.silent_shard() {
            None if supervisor.is_relay_silent() => {
                tracing::error!("the relay's thread stands still; the watchdog is not fed");
            }
            None => supervisor.manager.alive(),
            Some(shard) => tracing::error!(shard, "a shard stands still; the watchdog is not fed"),
        }
        sleep(interval).await;
    }
}
