//! The supervisor: the state that the tasks of the admin thread share, and the drain that they steer. Single-threaded; interior
//! mutability, never held over an await.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::audit::Audit;
use super::drain::{Drain, Effect, End, Phase};
use super::in_force::InForce;
use super::key_refresh::KeyRefresh;
use super::nodes::Cluster;
use super::notify::Notify;
use super::oneshot::{self, Receiver};
use super::places::Places;
use super::publish::Publisher;
use super::requests::Requests;
use super::systemd::ServiceManager;
use super::{Admin, Cores, DriverInfo, Outcome, ShardExit, ShardHandle};
use crate::gateway::check::Watch;
use crate::gateway::clock::monotonic_ns;
use crate::gateway::config::Config;
use crate::gateway::log;
use crate::gateway::mailbox::{Sender, Waker};
use tidegate_core::counters::{RelayCounters, ShardCounters};
use tidegate_core::readiness::NodeState;
use tidegate_core::shard::command::{self, Command};

/// How long a shard may take to reply to a command.
const REPLY_DEADLINE: Duration = Duration::from_secs(2);
/// How long a shard's loop may stand still before the node counts as not alive. One that has nothing to do turns with every tick.
pub(super) const SILENCE_DEADLINE: Duration = Duration::from_secs(10);

/// One shard, as the admin thread sees it.
pub(super) struct Shard {
    commands: RefCell<Sender<Command>>,
    /// Commands that must not be lost and did not fit yet.
    backlog: RefCell<VecDeque<Command>>,
    /// Places of the mailbox.
    places: usize,
    pub(super) counters: Arc<ShardCounters>,
    thread: RefCell<Option<JoinHandle<ShardExit>>>,
    end: Receiver<()>,
}

/// What the tasks share.
pub(super) struct Supervisor {
    pub(super) config: Arc<Config>,
    pub(super) node_id: u32,
    pub(super) capacity: Cell<(u64, &'static str)>,
    watch: RefCell<Option<Watch>>,
    pub(super) cores: Cores,
    pub(super) driver: DriverInfo,
    pub(super) shards: Vec<Shard>,
    pub(super) relay_counters: Arc<RelayCounters>,
    pub(super) state: Arc<NodeState>,
    pub(super) publisher: Publisher,
    pub(super) cluster: Cluster,
    pub(super) notify: Notify,
    pub(super) waker: Arc<Waker>,
    pub(super) manager: ServiceManager,
    pub(super) started: Instant,
    /// The connections of the admin port.
    pub(super) places: Rc<Places>,
    pub(super) audit: Audit,
    pub(super) requests: Requests,
    pub(super) in_force: RefCell<InForce>,
    pub(super) key_refresh: RefCell<KeyRefresh>,
    drain: RefCell<Drain>,
    outcome: RefCell<Option<Outcome>>,
}

impl Shard {
    fn new(handle: ShardHandle) -> Self {
        Self {
            places: handle.commands.free(),
            commands: RefCell::new(handle.commands),
            backlog: RefCell::default(),
            counters: handle.counters,
            thread: RefCell::new(Some(handle.thread)),
            end: handle.end,
        }
    }

    /// Sends a command that must arrive: now, or as soon as the mailbox has room.
    fn command(&self, command: Command) {
        self.backlog.borrow_mut().push_back(command);
        self.flush();
    }

    /// Brings what the mailbox had no room for. A shard that there is nothing for is not woken.
    fn flush(&self) {
        let (mut commands, mut backlog) = (self.commands.borrow_mut(), self.backlog.borrow_mut());
        if backlog.is_empty() {
            return;
        }
        while let Some(command) = backlog.pop_front() {
            if let Err(command) = commands.push(command) {
                backlog.push_front(command);
                break;
            }
        }
        commands.wake();
    }

    /// Sends a command that has a reply. A shard whose mailbox is full gives none.
    fn ask<T: Send + 'static>(
        &self,
        waker: &Arc<Waker>,
        command: impl FnOnce(command::Reply<T>) -> Command,
    ) -> Receiver<T> {
        let (sender, receiver) = oneshot::channel(waker.clone());
        let mut commands = self.commands.borrow_mut();
        // Handed back, the command is dropped, and the sender with it.
        drop(commands.push(command(Box::new(|value| sender.send(value)))));
        commands.wake();
        receiver
    }

    /// Commands that the shard has not read.
    fn unread(&self) -> usize {
        self.backlog.borrow().len() + self.places.saturating_sub(self.commands.borrow().free())
    }

    fn is_running(&self) -> bool {
        self.end.poll().is_none()
    }
}

impl Supervisor {
    /// Takes the node over; the listener is left to the caller.
    pub(super) fn new(admin: Admin) -> (Self, std::net::TcpListener) {
        let started = Instant::now();
        let config = admin.config;
        let drain = Drain::new(config.drain.delay, config.drain.window, config.limits.close_deadline);
        let supervisor = Self {
            config,
            node_id: admin.node_id,
            capacity: Cell::new(admin.capacity),
            watch: RefCell::new(admin.watch),
            cores: admin.cores,
            driver: admin.driver,
            shards: admin.shards.into_iter().map(Shard::new).collect(),
            relay_counters: admin.relay_counters,
            state: admin.shared,
            publisher: Publisher::new(admin.relay),
            cluster: Cluster::new(admin.node_id, started),
            notify: Notify::default(),
            waker: admin.relay_waker,
            manager: ServiceManager::from_environment(),
            started,
            places: Rc::default(),
            audit: Audit::default(),
            requests: Requests::default(),
            in_force: RefCell::new(admin.in_force),
            key_refresh: RefCell::new(KeyRefresh::new(started)),
            drain: RefCell::new(drain),
            outcome: RefCell::default(),
        };
        (supervisor, admin.listener)
    }

    /// Sends one shard a command that has a reply; `None` where none came in time.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        shard: &Shard,
        command: impl FnOnce(command::Reply<T>) -> Command,
    ) -> Option<T> {
        let receiver = shard.ask(&self.waker, command);
        monoio::time::timeout(REPLY_DEADLINE, self.notify.until(|| receiver.poll())).await.ok().flatten()
    }

    /// Sends every shard a command that has a reply; the replies that came in time.
    pub(super) async fn ask_all<T: Send + 'static>(&self, command: impl Fn(command::Reply<T>) -> Command) -> Vec<T> {
        let receivers: Vec<_> = self.shards.iter().map(|shard| shard.ask(&self.waker, &command)).collect();
        let mut replies: Vec<Option<Option<T>>> = receivers.iter().map(|_| None).collect();
        let complete = self.notify.until(|| {
            for (reply, receiver) in replies.iter_mut().zip(&receivers) {
                if reply.is_none() {
                    *reply = receiver.poll();
                }
            }
            replies.iter().all(Option::is_some).then_some(())
        });
        // A reply that is missing after the deadline is left out.
        let _ = monoio::time::timeout(REPLY_DEADLINE, complete).await;
        replies.into_iter().flatten().flatten().collect()
    }

    /// Open connections of the node.
    pub(super) fn connections(&self) -> u64 {
        self.shards.iter().map(|shard| shard.counters.connections.value()).sum()
    }

    /// Looks at the host's memory again, and lets the capacity follow. Connections that are open stay.
    pub(super) fn look_at_memory(&self) {
        let mut watch = self.watch.borrow_mut();
        let Some(watch) = watch.as_mut() else { return };
        let now = watch.look(self.connections());
        let (before, _) = self.capacity.get();
        // Memory is never quite the same twice; a change of a tenth is one.
        if now.connections.abs_diff(before) > before / 10 {
            self.capacity.set((now.connections, now.binding));
            self.state.set_capacity(now.connections);
            tracing::warn!(
                before,
                now = now.connections,
                bound_by = now.binding,
                "the host's memory changes what this node admits"
            );
        }
    }

    /// Where the drain is.
    pub(super) fn phase(&self) -> Phase {
        self.drain.borrow().phase()
    }

    /// A signal came.
    pub(super) fn handle_signal(&self) {
        let connections = self.connections();
        tracing::info!(connections, "signal: draining; a second one ends at once");
        // The service manager counts from its own signal, whenever the drain began.
        self.manager.draining(connections, self.drain.borrow().longest());
        self.drain.borrow_mut().handle_signal(Instant::now(), connections);
        self.apply();
        self.notify.notify_all();
    }

    /// An operator asked for a drain.
    pub(super) fn handle_drain_request(&self) {
        self.drain.borrow_mut().handle_request(Instant::now(), self.connections());
        self.apply();
        self.notify.notify_all();
    }

    /// An operator takes a drain back; whether the node serves now.
    pub(super) fn handle_drain_cancel(&self) -> bool {
        let serves = self.drain.borrow_mut().handle_cancel();
        self.apply();
        self.notify.notify_all();
        serves
    }

    /// Lets the drain see what is left; called every tick, and while nothing drains at every notification. The outcome once
    /// there is one.
    pub(super) fn tick(&self) -> Option<Outcome> {
        for shard in &self.shards {
            shard.flush();
        }
        let unread: usize = self.shards.iter().map(Shard::unread).sum();
        let running = self.shards.iter().filter(|shard| shard.is_running()).count();
        if running < self.shards.len() {
            self.join_ended(matches!(self.phase(), Phase::Stopping { .. } | Phase::Done));
        }
        self.drain.borrow_mut().handle_progress(Instant::now(), self.connections() + unread as u64, running);
        self.apply();
        self.outcome.borrow_mut().take()
    }

    /// The first shard whose loop has not turned for too long.
    pub(super) fn silent_shard(&self) -> Option<usize> {
        let now_ns = monotonic_ns(Instant::now());
        let is_silent =
            |shard: &Shard| shard.counters.turning.silence(now_ns).is_some_and(|silence| silence > SILENCE_DEADLINE);
        self.shards.iter().position(is_silent)
    }

    /// Whether the relay's thread has not turned for too long: joins get no answer, and nothing is published.
    pub(super) fn is_relay_silent(&self) -> bool {
        let silence = self.relay_counters.turning.silence(monotonic_ns(Instant::now()));
        silence.is_some_and(|silence| silence > SILENCE_DEADLINE)
    }

    fn apply(&self) {
        loop {
            // Its own statement: what an effect does may look at the drain.
            let Some(effect) = self.drain.borrow_mut().poll_effect() else { return };
            match effect {
                Effect::Unready => self.state.set_draining(true),
                Effect::Refuse => self.command_all(|| Command::Refuse),
                Effect::Tell(window) => {
                    let window_ms = u32::try_from(window.as_millis()).unwrap_or(u32::MAX);
                    self.command_all(|| Command::Drain { window_ms });
                }
                Effect::Resume => {
                    self.state.set_draining(false);
                    self.command_all(|| Command::Resume);
                }
                Effect::Stop => {
                    self.manager.stopping();
                    self.command_all(|| Command::Stop);
                }
                Effect::Finish(end) => self.finish(end),
            }
        }
    }

    pub(super) fn command_all(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            shard.command(command());
        }
    }

    fn finish(&self, end: End) {
        let outcome = match end {
            End::Empty => Outcome::Drained,
            End::DeadlinePassed => Outcome::DeadlinePassed,
            End::Stuck => Outcome::Stuck,
            End::Forced => Outcome::Forced,
        };
        tracing::info!(?outcome, connections = self.connections(), "the drain ended");
        self.outcome.borrow_mut().get_or_insert(outcome);
    }

    /// Joins the threads that ended. One that ended by itself ends the node: serving with some of the shards would be
    /// half alive.
    fn join_ended(&self, stopping: bool) {
        for (number, shard) in self.shards.iter().enumerate() {
            if shard.is_running() {
                continue;
            }
            let reason = match shard.thread.borrow_mut().take().map(JoinHandle::join) {
                None => continue,
                Some(Ok(ShardExit::Stopped)) if stopping => continue,
                Some(Ok(ShardExit::Stopped)) => String::from("it stopped without a command"),
                Some(Ok(ShardExit::Failed(reason))) => reason,
                Some(Err(panic)) => format!("it panicked: {}", log::panic_text(panic.as_ref())),
            };
            tracing::error!(shard = number, reason, "a shard's thread ended by itself; the node ends");
            self.outcome.borrow_mut().get_or_insert(Outcome::ShardFailed { shard: number, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mailbox::mailbox;

    #[test]
    fn a_shard_is_woken_for_a_command_and_for_its_backlog_and_for_nothing_else() {
        let waker = Waker::new().unwrap();
        let (commands, mut inbox) = mailbox(1, waker.clone());
        let (counters, admin) = (Arc::default(), Waker::new().unwrap());
        let handle =
            ShardHandle::start(String::from("shard"), commands, counters, admin, || ShardExit::Stopped).unwrap();
        let shard = Shard::new(handle);
        let wakes = |act: &dyn Fn(&Shard)| {
            waker.will_sleep();
            act(&shard);
            waker.clear()
        };
        assert!(!wakes(&Shard::flush), "there is nothing for it");
        assert!(wakes(&|shard| shard.command(Command::Refuse)));
        assert!(wakes(&|shard| shard.command(Command::Stop)), "the mailbox is full: it should read");
        assert!(matches!(inbox.pop(), Some(Command::Refuse)));
        assert!(wakes(&Shard::flush));
        assert!(matches!(inbox.pop(), Some(Command::Stop)));
        assert!(!wakes(&Shard::flush), "there is nothing left for it");
    }
}
