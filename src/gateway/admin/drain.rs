//! The drain, a graceful shutdown: clients are told to reconnect elsewhere, then closed over a window (G10). A pure state machine.
//!
//! ```text
//! Serving ─begin─► Delaying ─delay─► Draining ─empty or deadline─► Drained ─terminate─► Stopping ─threads ended─► Done
//! ```
//!
//! A signal and `POST /drain` both begin; only a signal terminates: after `POST /drain` the machine waits in `Drained`
//! for SIGTERM. A second signal goes to `Done` from anywhere. Before the first signal, `DELETE /drain` goes back to `Serving`
//! from anywhere.
//!
//! The admin thread drives it: inputs and `now` come in, [`Effect`]s go out. It knows no shard, socket or clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidegate_core::limits;

/// From the last client's moment in the window and its close deadline to giving up on it.
const MARGIN: Duration = Duration::from_secs(2);
/// From the command to stop to giving up on threads that do not end.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Where the drain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// No drain.
    Serving,
    /// Not ready, and still accepting until then.
    Delaying(Instant),
    /// New upgrades are refused, clients are told and closed; given up then.
    Draining(Instant),
    /// No connection is left, or the deadline passed.
    Drained {
        /// Whether no connection was left.
        empty: bool,
    },
    /// The shards were told to stop; given up then.
    Stopping {
        /// Whether no connection was left.
        empty: bool,
        /// When waiting for their threads ends.
        until: Instant,
    },
    /// The process may end.
    Done,
}

impl Phase {
    /// The name in `/v1/node`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Delaying(_) => "delaying",
            Self::Draining(_) => "draining",
            Self::Drained { .. } => "drained",
            Self::Stopping { .. } => "stopping",
            Self::Done => "done",
        }
    }
}

/// How the drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Every client was gone.
    Empty,
    /// The deadline passed first.
    DeadlinePassed,
    /// Threads of shards did not end.
    Stuck,
    /// A second signal came.
    Forced,
}

/// What the admin thread has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Say not ready.
    Unready,
    /// Order the shards to refuse upgrades.
    Refuse,
    /// Order the shards to tell and close their clients within this window.
    Tell(Duration),
    /// Say ready again, and order the shards to grant upgrades and to keep the clients that are left.
    Resume,
    /// Order the shards to stop.
    Stop,
    /// End the process.
    Finish(End),
}

/// The machine.
#[derive(Debug)]
pub struct Drain {
    delay: Duration,
    window: Option<Duration>,
    close_deadline: Duration,
    phase: Phase,
    terminate: bool,
    effects: VecDeque<Effect>,
}

impl Drain {
    /// A node that serves. `delay` is how long it goes on accepting, `window` over which clients are closed (without one it
    /// follows from their number, [`limits::drain_window`]), `close_deadline` how long one close may take.
    pub fn new(delay: Duration, window: Option<Duration>, close_deadline: Duration) -> Self {
        Self { delay, window, close_deadline, phase: Phase::Serving, terminate: false, effects: VecDeque::new() }
    }

    /// SIGTERM or SIGINT, with `open` connections: drain and end. A second one ends at once.
    pub fn handle_signal(&mut self, now: Instant, open: u64) {
        if self.terminate {
            return self.finish(End::Forced);
        }
        self.terminate = true;
        self.begin(now, open);
        self.stop_if_drained(now);
    }

    /// `POST /drain`, with `open` connections: drain and wait for the signal. Idempotent.
    pub fn handle_request(&mut self, now: Instant, open: u64) {
        self.begin(now, open);
    }

    /// `DELETE /drain`: takes back what `POST /drain` began. Whether the node serves now: after a signal it does not.
    /// Idempotent.
    pub fn handle_cancel(&mut self) -> bool {
        if self.terminate || self.phase == Phase::Done {
            return false;
        }
        if self.phase != Phase::Serving {
            self.effects.push_back(Effect::Resume);
            self.phase = Phase::Serving;
        }
        true
    }

    /// What is left: `open` connections (and commands that shards have not read), `running` threads. Call it often.
    pub fn handle_progress(&mut self, now: Instant, open: u64, running: usize) {
        match self.phase {
            Phase::Delaying(until) if now >= until => self.tell(now, open),
            Phase::Draining(_) if open == 0 => self.drained(now, true),
            Phase::Draining(deadline) if now >= deadline => self.drained(now, false),
            Phase::Stopping { empty, .. } if running == 0 => {
                self.finish(if empty { End::Empty } else { End::DeadlinePassed });
            }
            Phase::Stopping { until, .. } if now >= until => self.finish(End::Stuck),
            _ => {}
        }
    }

    /// The next thing to do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// From a drain's first moment to the process's end, at most.
    pub fn longest(&self) -> Duration {
        let window = self.window.unwrap_or(limits::DRAIN_WINDOW_MAX);
        self.delay.saturating_add(self.timeout(window)).saturating_add(STOP_DEADLINE)
    }

    /// From the order to tell the clients to giving up on those that are left.
    const fn timeout(&self, window: Duration) -> Duration {
        window.saturating_add(self.close_deadline).saturating_add(MARGIN)
    }

    fn begin(&mut self, now: Instant, open: u64) {
        if self.phase != Phase::Serving {
            return;
        }
        self.effects.push_back(Effect::Unready);
        self.phase = Phase::Delaying(now + self.delay);
        if self.delay.is_zero() {
            self.tell(now, open);
        }
    }

    fn tell(&mut self, now: Instant, open: u64) {
        let window = self.window.unwrap_or_else(|| limits::drain_window(open));
        self.effects.extend([Effect::Refuse, Effect::Tell(window)]);
        self.phase = Phase::Draining(now + self.timeout(window));
    }

    fn drained(&mut self, now: Instant, empty: bool) {
        self.phase = Phase::Drained { empty };
        self.stop_if_drained(now);
    }

    fn stop_if_drained(&mut self, now: Instant) {
        if let (Phase::Drained { empty }, true) = (self.phase, self.terminate) {
            self.effects.push_back(Effect::Stop);
            self.phase = Phase::Stopping { empty, until: now + STOP_DEADLINE };
        }
    }

    fn finish(&mut self, end: End) {
        if self.phase != Phase::Done {
            self.phase = Phase::Done;
            self.effects.push_back(Effect::Finish(end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);
    const CLOSE: Duration = Duration::from_secs(5);

    fn drain(delay_s: u64) -> (Drain, Instant) {
        (Drain::new(Duration::from_secs(delay_s), Some(WINDOW), CLOSE), Instant::now())
    }

    fn effects(drain: &mut Drain) -> Vec<Effect> {
        std::iter::from_fn(|| drain.poll_effect()).collect()
    }

    #[test]
    fn a_node_that_serves_does_nothing() {
        let (mut drain, t) = drain(0);
        drain.handle_progress(t + WINDOW * 100, 0, 0);
        assert_eq!(effects(&mut drain), []);
        assert_eq!(drain.phase(), Phase::Serving);
    }

    #[test]
    fn a_signal_makes_unready_at_once_and_goes_on_accepting_for_the_delay() {
        let (mut drain, t) = drain(5);
        drain.handle_signal(t, 3);
        assert_eq!(effects(&mut drain), [Effect::Unready]);
        drain.handle_progress(t + Duration::from_millis(4999), 0, 2);
        assert_eq!(effects(&mut drain), []);
        drain.handle_progress(t + Duration::from_secs(5), 3, 2);
        assert_eq!(effects(&mut drain), [Effect::Refuse, Effect::Tell(WINDOW)]);
    }

    #[test]
    fn the_last_client_gone_stops_the_shards_and_their_end_ends_the_process() {
        let (mut drain, t) = drain(0);
        drain.handle_signal(t, 3);
        assert_eq!(effects(&mut drain), [Effect::Unready, Effect::Refuse, Effect::Tell(WINDOW)]);
        drain.handle_progress(t, 1, 2);
        assert_eq!(effects(&mut drain), []);
        drain.handle_progress(t, 0, 2);
        assert_eq!(effects(&mut drain), [Effect::Stop]);
        drain.handle_progress(t, 0, 1);
        assert_eq!(effects(&mut drain), []);
        drain.handle_progress(t, 0, 0);
        assert_eq!(effects(&mut drain), [Effect::Finish(End::Empty)]);
        assert_eq!(drain.phase(), Phase::Done);
    }

    #[test]
    fn the_deadline_is_window_plus_close_plus_margin_and_then_the_rest_is_stopped() {
        let (mut drain, t) = drain(0);
        drain.handle_signal(t, 3);
        effects(&mut drain);
        let deadline = t + WINDOW + CLOSE + MARGIN;
        drain.handle_progress(deadline - Duration::from_millis(1), 1, 2);
        assert_eq!(effects(&mut drain), []);
        drain.handle_progress(deadline, 1, 2);
        assert_eq!(effects(&mut drain), [Effect::Stop]);
        drain.handle_progress(deadline, 1, 0);
        assert_eq!(effects(&mut drain), [Effect::Finish(End::DeadlinePassed)]);
    }

    #[test]
    fn a_requested_drain_with_no_connection_left_waits_for_the_signal() {
        let (mut drain, t) = drain(0);
        drain.handle_request(t, 3);
        drain.handle_request(t, 3);
        assert_eq!(effects(&mut drain), [Effect::Unready, Effect::Refuse, Effect::Tell(WINDOW)]);
        drain.handle_progress(t, 0, 2);
        drain.handle_progress(t + WINDOW * 100, 0, 2);
        assert_eq!(effects(&mut drain), []);
        assert_eq!(drain.phase(), Phase::Drained { empty: true });
        drain.handle_signal(t + WINDOW * 100, 3);
        assert_eq!(effects(&mut drain), [Effect::Stop]);
    }

    #[test]
    fn the_first_signal_after_a_request_lets_the_drain_go_on() {
        let (mut drain, t) = drain(0);
        drain.handle_request(t, 3);
        effects(&mut drain);
        drain.handle_signal(t, 3);
        assert_eq!(effects(&mut drain), []);
        drain.handle_progress(t, 0, 2);
        assert_eq!(effects(&mut drain), [Effect::Stop]);
    }

    #[test]
    fn a_requested_drain_is_taken_back_from_every_phase_and_can_begin_again() {
        for (delay_s, open) in [(5, 1), (0, 1), (0, 0)] {
            let (mut drain, t) = drain(delay_s);
            assert!(drain.handle_cancel(), "there is nothing to take back");
            assert_eq!(effects(&mut drain), []);
            drain.handle_request(t, 3);
            drain.handle_progress(t, open, 2);
            assert_ne!(drain.phase(), Phase::Serving);
            effects(&mut drain);
            assert!(drain.handle_cancel() && drain.handle_cancel());
            assert_eq!(effects(&mut drain), [Effect::Resume]);
            drain.handle_progress(t + WINDOW * 100, 0, 2);
            assert_eq!((effects(&mut drain), drain.phase()), (Vec::new(), Phase::Serving));
            drain.handle_request(t + WINDOW * 100, 3);
            assert_eq!(effects(&mut drain)[0], Effect::Unready);
        }
    }

    #[test]
    fn a_drain_that_a_signal_began_or_joined_is_not_taken_back() {
        for request_first in [false, true] {
            let (mut drain, t) = drain(0);
            if request_first {
                drain.handle_request(t, 3);
            }
            drain.handle_signal(t, 3);
            effects(&mut drain);
            assert!(!drain.handle_cancel());
            assert_eq!(effects(&mut drain), []);
            assert_ne!(drain.phase(), Phase::Serving);
        }
    }

    #[test]
    fn a_second_signal_ends_at_once_from_every_phase() {
        for steps in 0..4 {
            let (mut drain, t) = drain(1);
            drain.handle_signal(t, 3);
            for step in 0..steps {
                drain.handle_progress(t + Duration::from_secs(step), u64::from(step == 0), 1);
            }
            effects(&mut drain);
            drain.handle_signal(t, 3);
            assert_eq!(effects(&mut drain), [Effect::Finish(End::Forced)], "after {steps} steps");
            drain.handle_signal(t, 3);
            assert_eq!(effects(&mut drain), [], "it ends once");
        }
    }

    #[test]
    fn no_drain_takes_longer_than_it_says_even_if_no_client_leaves_and_no_thread_ends() {
        let (mut drain, t) = drain(5);
        drain.handle_signal(t, 3);
        let end = (0..).map(|seconds| t + Duration::from_secs(seconds)).find(|now| {
            drain.handle_progress(*now, 1, 2);
            drain.phase() == Phase::Done
        });
        assert_eq!(end, Some(t + drain.longest()));
    }

    #[test]
    fn without_a_configured_window_a_drain_takes_ten_milliseconds_for_each_client_from_1_s_to_30_s() {
        // Ctrl-C on a node with one open tab took up to 30 s, because every drain had the window that ten thousand need.
        for (clients, window_ms) in [(0, 1_000), (1, 1_000), (250, 2_500), (3_000, 30_000), (u64::MAX, 30_000)] {
            let mut drain = Drain::new(Duration::ZERO, None, CLOSE);
            let t = Instant::now();
            drain.handle_signal(t, clients);
            let window = Duration::from_millis(window_ms);
            assert_eq!(
                effects(&mut drain),
                [Effect::Unready, Effect::Refuse, Effect::Tell(window)],
                "{clients} clients"
            );
            assert_eq!(drain.phase(), Phase::Draining(t + window + CLOSE + MARGIN));
            assert!(
                window + CLOSE + MARGIN + STOP_DEADLINE <= drain.longest(),
                "the service manager waits long enough"
            );
        }
    }

    #[test]
    fn the_window_follows_from_the_clients_that_are_left_after_the_delay() {
        let mut drain = Drain::new(Duration::from_secs(5), None, CLOSE);
        let t = Instant::now();
        drain.handle_request(t, 3_000);
        assert_eq!(effects(&mut drain), [Effect::Unready]);
        drain.handle_progress(t + Duration::from_secs(5), 200, 2);
        assert_eq!(effects(&mut drain), [Effect::Refuse, Effect::Tell(Duration::from_secs(2))]);
    }

    #[test]
    fn threads_that_do_not_end_are_given_up_on() {
        let (mut drain, t) = drain(0);
        drain.handle_signal(t, 3);
        drain.handle_progress(t, 0, 2);
        effects(&mut drain);
        drain.handle_progress(t + STOP_DEADLINE, 0, 1);
        assert_eq!(effects(&mut drain), [Effect::Finish(End::Stuck)]);
    }
}
