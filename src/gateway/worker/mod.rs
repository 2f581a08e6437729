//! A shard's worker thread: its runtime, its listener, its mailboxes, and the event loop that drives the shard.
//!
//! [`run`] is the thread's body. The shard decides; this module waits, accepts, tells the time, and carries items between the
//! shard and its mailboxes.

pub mod listener;
mod refused_pages;

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{Either, select};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::gateway::admin::ShardExit;
use crate::gateway::broker::Port;
use crate::gateway::clock::monotonic_ns;
use crate::gateway::io::epoll::Epoll;
use crate::gateway::io::uring::Uring;
use crate::gateway::io::uring::ring::{RUNTIME_ENTRIES, runtime_builder};
use crate::gateway::mailbox::{Receiver, Waker};
use listener::Accepted;
use tidegate_core::counters::ShardCounters;
use tidegate_core::limits::SWEEP_TICK;
use tidegate_core::shard::command::Command;
use tidegate_core::shard::driver::Driver;
use tidegate_core::shard::{Arrival, Settings, Shard};

/// Reads in one turn.
const READS: usize = 256;
/// Items taken from the relay's mailbox in one turn.
const DELIVERIES: usize = 1024;
/// Sends of the fan-out between two looks at the clock.
const SENDS: usize = 32;
/// How long the fan-out may go on in one turn; meanwhile no connection is read.
const FAN_OUT_TIME: Duration = Duration::from_micros(250);
/// Connections accepted in a row.
const ACCEPTS: usize = 64;
/// The same while clients have messages that wait: each takes some 15 µs.
const ACCEPTS_BESIDE_WORK: usize = 16;
/// Pause in accepting after the host ran out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Between two warnings that the host has run out of them: one of the node's in so long.
const EXHAUSTED_WARNING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a stopping shard goes on answering requests that are on their way: longer than any pause in accepting.
const LAST_ACCEPTS: Duration = Duration::from_millis(350);

/// All that a shard's thread is given.
pub struct ShardContext {
    /// The shard's settings.
    pub settings: Arc<Settings>,
    /// What it counts.
    pub counters: Arc<ShardCounters>,
    /// Its listener.
    pub listener: OwnedFd,
    /// Its port of the relay.
    pub port: Port,
    /// Commands from the admin side.
    pub commands: Receiver<Command>,
    /// What the relay and the admin thread ring.
    pub waker: Arc<Waker>,
    /// Seed of its jitter.
    pub seed: u64,
}

/// Runs a shard on the calling thread until it is told to stop.
///
/// # Errors
/// The runtime or the driver could not be made.
pub fn run(context: ShardContext, uring: bool) -> io::Result<ShardExit> {
    context.counters.uring.set(u64::from(uring));
    if uring {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(RUNTIME_ENTRIES)
            .uring_builder(runtime_builder()?)
            .build()?;
        let driver = Uring::new(context.waker.clone())?;
        runtime.block_on(live(context, driver, uring))
    } else {
        let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
        let driver = Epoll::new(context.waker.clone())?;
        runtime.block_on(live(context, driver, uring))
    }
}

async fn live<D: Driver + AsFd + 'static>(context: ShardContext, driver: D, uring: bool) -> io::Result<ShardExit> {
    let events = Awaited::new(&driver, uring)?;
    let shard = Shard::new(driver, context.settings.clone(), context.counters.clone(), context.seed);
    let shard = Rc::new(RefCell::new(shard));
    let listener = Rc::new(context.listener);
    let incoming = Awaited::new(&*listener, uring)?;
    // The loop is a task like the accepting one: monoio polls a main future that is ready again and again before it looks
    // at its driver.
    let start = Instant::now();
    let pause = Pause::new(uring)?;
    let accepting =
        monoio::spawn(accept(shard.clone(), listener.clone(), incoming, pause, context.waker.clone(), start));
    let inbox = Inbox { port: context.port, commands: context.commands, waker: context.waker };
    let turning = monoio::spawn(turn(shard.clone(), listener.clone(), inbox, events, context.counters, start));
    // Accepting ends by an error only, and a shard that cannot accept is of no use: it ends with it.
    match select(turning, accepting).await {
        Either::Left((turned, _)) => turned?,
        Either::Right((Err(error), _)) => return Err(error),
    }
    empty_the_queue(&shard, &listener);
    Ok(ShardExit::Stopped)
}

/// A descriptor that the runtime waits on. monoio knows sockets only; any descriptor that can be polled may pose as one while
/// nothing but its readiness is used.
struct Awaited {
    stream: TcpStream,
    /// The runtime is told of completions; else of readiness.
    uring: bool,
}

impl Awaited {
    fn new(fd: impl AsFd, uring: bool) -> io::Result<Self> {
        let stream = TcpStream::from_std(std::net::TcpStream::from(fd.as_fd().try_clone_to_owned()?))?;
        Ok(Self { stream, uring })
    }

    /// Waits until it is readable. Where it is so at once, the runtime's other tasks and its driver get their turn all the same.
    async fn readable(&self) -> io::Result<()> {
        // Not relaxed: the legacy driver would report readiness again and again.
        let mut readable = pin!(self.stream.readable(false));
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            // That it was woken is enough. The legacy driver would ask the kernel once more; a completion must be taken.
            if polls > 1 && !self.uring { Poll::Ready(Ok(())) } else { readable.as_mut().poll(context) }
        })
        .await
        .or_else(unless_interrupted)?;
        if polls == 1 {
            yield_now().await;
        }
        Ok(())
    }
}

/// A signal that interrupts the wait (EINTR) is no error: the caller looks for events in any case.
fn unless_interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

async fn turn<D: Driver>(
    shard: Rc<RefCell<Shard<D>>>,
    listener: Rc<OwnedFd>,
    inbox: Inbox,
    events: Awaited,
    counters: Arc<ShardCounters>,
    start: Instant,
) -> io::Result<()> {
    let Inbox { mut port, mut commands, waker } = inbox;
    let mut lag = Lag::new(start);
    let mut end = None;
    loop {
        let busy = {
            let mut shard = shard.borrow_mut();
            let now = Instant::now();
            tell_time(&mut shard, start, now);
            shard.reap();
            shard.serve_ready(READS);
            while let Some(page) = shard.poll_refused_page() {
                refused_pages::warn(&page, now);
            }
            if shard.has_handled() {
                shard.note_handled(now.elapsed().as_nanos() as u64);
            }
            take_deliveries(&mut shard, &mut port);
            hand_over(&mut shard, &mut port, now);
            // Once more: what the local bus gives back at once is fanned out in this turn.
            take_deliveries(&mut shard, &mut port);
            while let Some(command) = commands.pop() {
                shard.handle_command(command);
            }
            fan_out(&mut shard);
            hand_over(&mut shard, &mut port, now);
            if let Some(error) = shard.driver().failure() {
                return Err(error);
            }
            if shard.is_stopped() && now >= *end.get_or_insert_with(|| last_moment(&listener, now)) {
                shard.close_all();
                shard.submit();
                shard.reap();
                return Ok(());
            }
            lag.note(now, Instant::now(), &counters);
            shard.has_work() || !port.from_relay.is_empty()
        };
        if busy {
            yield_now().await;
            continue;
        }
        // The driver takes the notifications before the mailboxes are looked at: what comes after that look notifies again.
        waker.will_sleep();
        if shard.borrow_mut().driver().may_sleep() && port.from_relay.is_empty() && commands.is_empty() {
            events.readable().await?;
        } else {
            yield_now().await;
        }
        waker.stay_awake();
    }
}

/// What others put in for the shard, and what they ring.
struct Inbox {
    port: Port,
    commands: Receiver<Command>,
    waker: Arc<Waker>,
}

fn tell_time<D: Driver>(shard: &mut Shard<D>, start: Instant, now: Instant) {
    shard.set_time(now.duration_since(start).as_nanos() as u64, unix_ns());
}

fn take_deliveries<D: Driver>(shard: &mut Shard<D>, port: &mut Port) {
    for _ in 0..DELIVERIES {
        if !shard.takes_deliveries() {
            break;
        }
        let Some(item) = port.from_relay.pop() else { break };
        port.from_relay.release(item.pinned_bytes());
        shard.handle_relay(item);
    }
}

/// Sends until nothing is left or the turn's time is up: a send takes 2 µs or 10, so that a count bounds no latency.
fn fan_out<D: Driver>(shard: &mut Shard<D>) {
    // Most turns have nothing to fan out, and need not look at the clock for it.
    let began = shard.is_fanning_out().then(Instant::now);
    loop {
        shard.fan_out(SENDS);
        shard.submit();
        if shard.has_delivered() {
            shard.note_delivered(unix_ns());
        }
        if !shard.is_fanning_out() || began.is_none_or(|began| began.elapsed() >= FAN_OUT_TIME) {
            return;
        }
    }
}

/// Gives the relay what the shard has for it. What does not fit waits: the next tick at the latest tries again.
///
/// What is left to the relay's thread may wait for the shard's core. While the shard has work of its own it lets the relay run
/// first, or what one client says would wait for the end of a broadcast to others.
fn hand_over<D: Driver>(shard: &mut Shard<D>, port: &mut Port, now: Instant) {
    let mut any = false;
    while let Some(item) = shard.poll_relay() {
        if let Err(item) = port.ask(item) {
            shard.unpoll_relay(item);
            break;
        }
        any = true;
    }
    if any && port.flush(now) && shard.has_work() {
        std::thread::yield_now();
    }
}

/// Takes connections in while the shard lives. After the host ran out of descriptors it pauses; it never spins.
async fn accept<D: Driver>(
    shard: Rc<RefCell<Shard<D>>>,
    listener: Rc<OwnedFd>,
    incoming: Awaited,
    pause: Pause,
    waker: Arc<Waker>,
    start: Instant,
) -> io::Result<Infallible> {
    let mut spare = File::open("/dev/null").ok();
    loop {
        incoming.readable().await?;
        let ended = {
            let mut shard = shard.borrow_mut();
            tell_time(&mut shard, start, Instant::now());
            let ended = take_in(&mut shard, &listener);
            shard.submit();
            if shard.wants_turn() {
                waker.notify();
            }
            ended
        };
        match ended {
            Accepted::Broken(error) => {
                return Err(io::Error::other(format!(
                    "the listener is broken, no connection can be accepted: {error}"
                )));
            }
            Accepted::Exhausted(error) => {
                if EXHAUSTED_WARNING.is_due(Instant::now()) {
                    tracing::warn!(%error, "cannot accept: raise nofile, or lower max_connections below it");
                }
                refuse_with(&mut spare, &shard, &listener);
                pause.take(EXHAUSTED_PAUSE).await?;
            }
            Accepted::NoneWaiting | Accepted::Socket(..) => {}
        }
    }
}

/// The warning of all shards that they cannot accept.
static EXHAUSTED_WARNING: AtMostEvery = AtMostEvery::new(EXHAUSTED_WARNING_INTERVAL);

/// What several threads may do at most once in an interval, together.
struct AtMostEvery {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl AtMostEvery {
    const fn new(interval: Duration) -> Self {
        Self { interval, last: Mutex::new(None) }
    }

    /// Whether it is due at `now`; it is then taken to be done.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// A pause in accepting. While a timer of the runtime's runs, each of the loop's waits would have a timeout, and arm and disarm one
/// of the processor's timers for it; this one is armed once.
struct Pause {
    timer: TimerFd,
    over: Awaited,
}

impl Pause {
    fn new(uring: bool) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let over = Awaited::new(&timer, uring)?;
        Ok(Self { timer, over })
    }

    async fn take(&self, time: Duration) -> io::Result<()> {
        // Arming takes back what it told before.
        self.timer.set(Expiration::OneShot(TimeSpec::from_duration(time)), TimerSetTimeFlags::empty())?;
        self.over.readable().await
    }
}

/// Accepts up to [`ACCEPTS`] waiting connections, fewer beside other work. Returns what the last attempt came to;
/// [`Accepted::NoneWaiting`] where all were accepted.
fn take_in<D: Driver>(shard: &mut Shard<D>, listener: &OwnedFd) -> Accepted {
    // They are counted, or every crowd would end with an expensive look at an empty queue. A connection waits, or the listener is
    // broken: one attempt is due in any case.
    let waiting = listener::waiting(listener).max(1);
    let most = if shard.has_work() { ACCEPTS_BESIDE_WORK } else { ACCEPTS };
    let mut last = Accepted::NoneWaiting;
    for _ in 0..waiting.min(most) {
        last = listener::accept(listener);
        let Accepted::Socket(fd, address) = last else { return last };
        shard.handle_accepted(fd, Arrival { address, queued_us: listener::queued_us(fd) });
    }
    if waiting > most { last } else { Accepted::NoneWaiting }
}

/// Uses a descriptor that was kept for this to tell waiting connections that the node is full.
fn refuse_with<D: Driver>(spare: &mut Option<File>, shard: &RefCell<Shard<D>>, listener: &OwnedFd) {
    *spare = None;
    for _ in 0..ACCEPTS {
        let Accepted::Socket(fd, _) = listener::accept(listener) else { break };
        shard.borrow_mut().turn_away(fd);
    }
    *spare = File::open("/dev/null").ok();
}

/// At the very end, connections that still wait are answered.
fn empty_the_queue<D: Driver>(shard: &RefCell<Shard<D>>, listener: &OwnedFd) {
    while let Accepted::Socket(fd, _) = listener::accept(listener) {
        shard.borrow_mut().turn_away(fd);
    }
}

/// The shard's last moment: no new connection is begun, while requests that are on their way are still read and answered,
/// because a socket that is closed over an unread request is reset.
fn last_moment(listener: &OwnedFd, now: Instant) -> Instant {
    if let Err(error) = listener::drop_new_connections(listener) {
        tracing::warn!(%error, "cannot drop new connections; some may be reset");
    }
    now + LAST_ACCEPTS
}

/// How long the loop's turns take, and how late they begin: a shard that lags is one whose clients wait.
///
/// It tells the longest turn of the last minute, and not that since the last scrape: each of several scrapers sees every long
/// turn, as long as it comes once a minute.
struct Lag {
    /// When the newest second began.
    since: Instant,
    /// When the last turn ended.
    ended: Instant,
    /// The longest turn of each second, in ns.
    longest_ns: [u64; LAG_SECONDS],
    /// The newest second.
    newest: usize,
}

/// Seconds of which the longest turn is told: the longest usual interval between two scrapes.
const LAG_SECONDS: usize = 60;

impl Lag {
    fn new(now: Instant) -> Self {
        Self { since: now, ended: now, longest_ns: [0; LAG_SECONDS], newest: 0 }
    }

    /// Notes a turn. There is a turn with every tick: where there was none for longer, the thread did not run.
    #[inline]
    fn note(&mut self, began: Instant, ended: Instant, counters: &ShardCounters) {
        let late = began.saturating_duration_since(self.ended).saturating_sub(SWEEP_TICK);
        let turn_ns = (late + (ended - began)).as_nanos() as u64;
        self.ended = ended;
        counters.turning.show(monotonic_ns(ended));
        let seconds = (ended - self.since).as_secs();
        if seconds > 0 {
            self.forget(seconds);
            counters.loop_lag_ns.set(self.longest_ns.iter().copied().max().unwrap_or(0));
        }
        self.longest_ns[self.newest] = self.longest_ns[self.newest].max(turn_ns);
        counters.loop_lag_ns.raise(turn_ns);
    }

    /// So many seconds have passed.
    fn forget(&mut self, seconds: u64) {
        for _ in 0..seconds.min(LAG_SECONDS as u64) {
            self.newest = (self.newest + 1) % LAG_SECONDS;
            self.longest_ns[self.newest] = 0;
        }
        self.since += Duration::from_secs(seconds);
    }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Lets the runtime's other tasks and its driver have a turn.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gauge held the longest turn of the last second: at a scrape every 15 s, 14 of 15 stalls showed in no graph.
    #[test]
    fn the_loop_lag_is_the_longest_turn_of_the_last_minute_for_every_scraper() {
        let (counters, start) = (ShardCounters::default(), Instant::now());
        let mut lag = Lag::new(start);
        let tick_ms = SWEEP_TICK.as_millis() as u64;
        let mut at = |began_ms: u64, took_ms: u64| {
            let began = start + Duration::from_millis(began_ms);
            lag.note(began, began + Duration::from_millis(took_ms), &counters);
            counters.loop_lag_ns.value() / 1_000_000
        };
        assert_eq!(at(tick_ms, 1), 1);
        assert_eq!(at(2 * tick_ms, 580), 580, "it shows at once");
        // Whatever is scraped in between: a turn each tick, for a minute.
        let seen: Vec<u64> = (8..=607).map(|tick| at(tick * tick_ms, 2)).collect();
        assert!(seen[..590].iter().all(|ms| *ms == 580), "{seen:?}");
        assert_eq!(seen.last(), Some(&2));
        // A thread that did not run for ten minutes was late by as much.
        assert_eq!(at(607 * tick_ms + 600_000, 3), 600_000 - 2 - tick_ms + 3);
        assert_eq!(at(607 * tick_ms + 700_000, 4), 100_000 - 3 - tick_ms + 4, "the minute before is over");
    }

    #[test]
    fn shards_that_cannot_accept_warn_once_in_30_s_together() {
        // Each wrote a line ten times a second, for as long as the host had no descriptors.
        let (warning, start) = (AtMostEvery::new(EXHAUSTED_WARNING_INTERVAL), Instant::now());
        let due = |ms: u64| warning.is_due(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 0, 100, 29_999, 30_000, 30_100, 60_000].map(due),
            [true, false, false, false, true, false, true]
        );
    }
}
