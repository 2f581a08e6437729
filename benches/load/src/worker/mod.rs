//! A worker process: one thread, one epoll, one part to play. It does what it is told over standard input and tells what it
//! counted over standard output; when its input ends, it ends.

mod calibrate;
mod echo;
mod listen;
mod publish;

use std::io::{self, Read, Write};

use crate::fleet::{Ear, Fleet};
use crate::ledger::Range;
use crate::protocol::{Command, Event, Pace, Plan, Report, Role};
use crate::sys;

/// Between two progress events.
const PROGRESS_NS: u64 = 200_000_000;
/// Longest sleep, so that progress is told.
const TURN_NS: u64 = 50_000_000;

/// A part: what is done beside holding connections.
pub(crate) trait Part: Ear {
    /// Forgets what was counted, after `published` publications.
    fn begin(&mut self, published: u64);
    /// Tells what was counted; connections' own counts are added by the caller. What was `refused` is not lost.
    fn report(&mut self, published: u64, refused: &[Range]) -> Report;
    /// Messages heard, for the progress bar.
    fn heard_so_far(&self) -> u64;
    /// Refusals that name their publication, of the round.
    fn refused_so_far(&self) -> u64 {
        0
    }
    /// Begins to send at `at_ns`, for `length_ns`.
    fn start(&mut self, at_ns: u64, length_ns: u64, pace: Pace) {
        let _ = (at_ns, length_ns, pace);
    }
    /// Sends what is due; returns nanoseconds until it wants to be called again.
    fn act(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        let _ = (fleet, now_ns);
        Ok(u64::MAX)
    }
    /// The number of publications of the run, once all that was started is sent and answered.
    fn finished(&mut self, now_ns: u64) -> Option<u64> {
        let _ = now_ns;
        None
    }
    /// These first connections are not read any more: what they miss does not count.
    fn stalled(&mut self, clients: u32) {
        let _ = clients;
    }
}

/// Plays the part that the first line of standard input says. Errors go to standard output as the last event.
pub(crate) fn run() {
    let mut input = Input::default();
    if let Err(error) = input.first().and_then(|plan| play(plan, &mut input))
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        // Where even this cannot be told, the exit is what the other side sees.
        let _ = tell(&Event::Failed(error.to_string()));
    }
}

fn play(plan: Plan, input: &mut Input) -> io::Result<()> {
    let limit = sys::raise_nofile()?;
    if u64::from(plan.clients) + sys::SPARE_DESCRIPTORS > limit {
        return Err(io::Error::other(format!(
            "{} connections do not fit into {limit} open files: use more --processes",
            plan.clients
        )));
    }
    sys::tighten_timers();
    match plan.role {
        Role::Listen { stride } => run_part(listen::Listen::new(&plan, stride), plan, input),
        Role::Storm => run_part(listen::Listen::new(&plan, u64::MAX), plan, input),
        Role::Echo { pipeline, rate } => run_part(echo::Echo::new(&plan, pipeline, rate), plan, input),
        Role::Publish => run_part(publish::Publish::new(&plan), plan, input),
        Role::Calibrate => calibrate::hold(plan.clients, input),
    }
}

/// What the loop is in the middle of.
struct State {
    connecting: bool,
    sending: bool,
    cut_at_ns: Option<u64>,
    churn: Option<Churn>,
    begun_ns: u64,
    begun_cpu_ns: u64,
}

struct Churn {
    interval_ns: u64,
    next_ns: u64,
    next_client: u32,
}

fn run_part(mut part: impl Part, plan: Plan, input: &mut Input) -> io::Result<()> {
    let retry = plan.retry;
    let clients = plan.clients;
    let mut fleet = Fleet::new(plan)?;
    fleet.watch_commands(&io::stdin())?;
    let mut state = State {
        connecting: false,
        sending: false,
        cut_at_ns: None,
        churn: None,
        begun_ns: sys::now_ns(),
        begun_cpu_ns: sys::own_cpu_ns(),
    };
    let mut progress_ns = 0;
    loop {
        let now_ns = sys::now_ns();
        let mut wait_ns = part.act(&mut fleet, now_ns)?.min(TURN_NS);
        wait_ns = wait_ns.min(state.disturb(&mut fleet, &mut part, clients, now_ns));
        // Commands may have come with the plan, in one read.
        while let Some(command) = input.next()? {
            state.handle(command, &mut fleet, &mut part)?;
        }
        if fleet.turn(&mut part, wait_ns)? {
            input.fill()?;
        }
        if state.connecting
            && !retry
            && let Some(why) = fleet.failure()
        {
            return Err(io::Error::other(why));
        }
        state.tell_what_is_done(&mut fleet, &mut part)?;
        if now_ns > progress_ns {
            progress_ns = now_ns + PROGRESS_NS;
            let waits_for = if state.connecting { fleet.waits_for().map(String::from) } else { None };
            let (heard, refused) = (part.heard_so_far(), part.refused_so_far());
            tell(&Event::Progress { open: fleet.open(), heard, refused, waits_for })?;
        }
    }
}

impl State {
    /// Cuts and churns what is due; returns nanoseconds until the next time.
    fn disturb(&mut self, fleet: &mut Fleet, part: &mut impl Part, clients: u32, now_ns: u64) -> u64 {
        if let Some(at_ns) = self.cut_at_ns {
            if now_ns < at_ns {
                return at_ns - now_ns;
            }
            (self.cut_at_ns, self.connecting) = (None, true);
            fleet.cut(part, now_ns);
        }
        let Some(churn) = &mut self.churn else { return u64::MAX };
        while churn.next_ns <= now_ns {
            fleet.hang_up(churn.next_client % clients, part);
            churn.next_client = churn.next_client.wrapping_add(1);
            churn.next_ns += churn.interval_ns;
        }
        churn.next_ns - now_ns
    }

    fn handle(&mut self, command: Command, fleet: &mut Fleet, part: &mut impl Part) -> io::Result<()> {
        let now_ns = sys::now_ns();
        match command {
            Command::Connect => {
                self.connecting = true;
                fleet.connect(now_ns);
            }
            Command::Begin { published } => {
                part.begin(published);
                fleet.tally();
                (self.begun_ns, self.begun_cpu_ns) = (now_ns, sys::own_cpu_ns());
                tell(&Event::Ready)?;
            }
            Command::Send { at_ns, seconds, pace } => {
                part.start(at_ns, (seconds * 1e9) as u64, pace);
                self.sending = true;
            }
            Command::Stall { clients } => {
                (0..clients).try_for_each(|client| fleet.stall(client))?;
                part.stalled(clients);
                tell(&Event::Ready)?;
            }
            Command::Cut { at_ns } => self.cut_at_ns = Some(at_ns),
            Command::Churn { rate } => {
                let interval_ns = (1e9 / rate) as u64;
                self.churn = (rate > 0.0).then_some(Churn { interval_ns, next_ns: now_ns, next_client: 0 });
                tell(&Event::Ready)?;
            }
            Command::Report { published, refused } => {
                let report = part.report(published, &refused);
                tell(&Event::Report(Box::new(self.complete(report, fleet))))?;
            }
        }
        Ok(())
    }

    /// Adds what the connections themselves counted, and what the worker used.
    fn complete(&self, mut report: Report, fleet: &mut Fleet) -> Report {
        let (ended, [pings, bytes_in, reads]) = fleet.tally();
        report.ended = ended;
        (report.counts.pings, report.counts.bytes_in, report.counts.reads) = (pings, bytes_in, reads);
        report.wall_ns = sys::now_ns() - self.begun_ns;
        report.cpu_ns = sys::own_cpu_ns() - self.begun_cpu_ns;
        report
    }

    fn tell_what_is_done(&mut self, fleet: &mut Fleet, part: &mut impl Part) -> io::Result<()> {
        if self.connecting && fleet.complete() {
            self.connecting = false;
            tell(&Event::Connected(Box::new(fleet.connected())))?;
        }
        if self.sending
            && let Some(published) = part.finished(sys::now_ns())
        {
            self.sending = false;
            tell(&Event::Sent { published })?;
        }
        Ok(())
    }
}

/// Writes one event.
pub(crate) fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}

/// Standard input, cut into lines, read only when there is something to read.
#[derive(Default)]
pub(crate) struct Input {
    partial: Vec<u8>,
}

impl Input {
    fn first(&mut self) -> io::Result<Plan> {
        loop {
            if let Some(line) = self.line() {
                return Ok(serde_json::from_slice(&line)?);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match io::stdin().lock().read(&mut chunk)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            count => {
                self.partial.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memchr(b'\n', &self.partial)?;
        let rest = self.partial.split_off(end + 1);
        Some(std::mem::replace(&mut self.partial, rest))
    }

    /// The next command that is here.
    fn next(&mut self) -> io::Result<Option<Command>> {
        Ok(self.line().map(|line| serde_json::from_slice(&line)).transpose()?)
    }

    /// Waits for the next command.
    pub(crate) fn wait(&mut self) -> io::Result<Command> {
        loop {
            if let Some(command) = self.next()? {
                return Ok(command);
            }
            self.fill()?;
        }
    }

    /// Waits until the other side closes.
    pub(crate) fn until_the_end(&mut self) {
        while self.fill().is_ok() {}
    }
}
