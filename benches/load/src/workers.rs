//! The worker processes, seen from the one that was started: started, commanded, read from, ended.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{self, Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::protocol::{Command, Event, Plan};

/// The argument that makes this program a worker.
pub(crate) const WORKER: &str = "worker";

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    open: u32,
    heard: u64,
    refused: u64,
    waits_for: Option<String>,
}

/// Workers by number, in the order of their plans.
pub(crate) struct Workers {
    processes: Vec<Process>,
    events: Receiver<(usize, Option<Event>)>,
    timeout: Duration,
    progress: Option<Instant>,
}

impl Workers {
    /// Starts one worker for each plan. `timeout` is how long any one command may take beyond what it says.
    ///
    /// # Errors
    /// One line for the user.
    pub(crate) fn start(plans: &[Plan], timeout: Duration, quiet: bool) -> Result<Self, String> {
        let (sender, events) = channel();
        let mut processes = Vec::new();
        for (number, plan) in plans.iter().enumerate() {
            processes.push(spawn(number, plan, &sender).map_err(|error| format!("a worker did not start: {error}"))?);
        }
        let shows = !quiet && std::io::stderr().is_terminal();
        Ok(Self { processes, events, timeout, progress: shows.then(Instant::now) })
    }

    /// Numbers of all workers.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.processes.len()).collect()
    }

    /// Tells workers what to do.
    pub(crate) fn send(&mut self, workers: &[usize], command: &Command) -> Result<(), String> {
        let mut line = serde_json::to_vec(command).map_err(|error| error.to_string())?;
        line.push(b'\n');
        for worker in workers {
            let Some(input) = &mut self.processes[*worker].input else { continue };
            if let Err(error) = input.write_all(&line) {
                return Err(self.last_words().unwrap_or_else(|| format!("worker {worker} takes no commands: {error}")));
            }
        }
        Ok(())
    }

    /// Why a worker that takes no commands has ended, if it told.
    fn last_words(&mut self) -> Option<String> {
        while let Ok((_, Some(event))) = self.events.recv_timeout(Duration::from_secs(1)) {
            if let Event::Failed(why) = event {
                return Some(why);
            }
        }
        None
    }

    /// Waits until each of `workers` has said something that `wanted` takes; progress is shown meanwhile.
    pub(crate) fn gather<T>(
        &mut self,
        workers: &[usize],
        what: &str,
        extra: Duration,
        wanted: impl Fn(Event) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let deadline = Instant::now() + self.timeout + extra;
        let mut missing = workers.to_vec();
        let mut gathered = Vec::new();
        while !missing.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok((worker, event)) => {
                    let Some(taken) = self.hear(worker, event)?.and_then(&wanted) else { continue };
                    missing.retain(|other| *other != worker);
                    gathered.push(taken);
                }
                Err(RecvTimeoutError::Timeout) => return Err(self.too_late(what)),
                Err(RecvTimeoutError::Disconnected) => return Err(String::from("all workers have ended")),
            }
            self.show(what);
        }
        Ok(gathered)
    }

    /// Waits until `workers` have heard `expected` messages, or until nothing new comes for `quiet`. A publication that the server
    /// refuses to `publisher` stands for `members` messages that no member hears.
    pub(crate) fn settle(
        &mut self,
        workers: &[usize],
        expected: u64,
        (publisher, members): (usize, u64),
        quiet: Duration,
    ) -> Result<(), String> {
        let mut last = (0, Instant::now());
        loop {
            let heard = workers.iter().map(|worker| self.processes[*worker].heard).sum::<u64>()
                + self.processes[publisher].refused * members;
            if heard > last.0 {
                last = (heard, Instant::now());
            }
            if heard >= expected || last.1.elapsed() > quiet {
                return Ok(());
            }
            if let Ok((worker, event)) = self.events.recv_timeout(Duration::from_millis(50)) {
                self.hear(worker, event)?;
            }
            self.show("delivering");
        }
    }

    /// Listens to progress for a while.
    pub(crate) fn watch(&mut self, length: Duration, what: &str) -> Result<(), String> {
        let end = Instant::now() + length;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if let Ok((worker, event)) = self.events.recv_timeout(left) {
                self.hear(worker, event)?;
            }
            self.show(what);
        }
        Ok(())
    }

    fn hear(&mut self, worker: usize, event: Option<Event>) -> Result<Option<Event>, String> {
        match event {
            Some(Event::Progress { open, heard, refused, waits_for }) => {
                let process = &mut self.processes[worker];
                (process.open, process.heard, process.refused) = (open, heard, refused);
                process.waits_for = waits_for;
                Ok(None)
            }
            Some(Event::Ready) => {
                // What it heard so far is forgotten, and so is what it told of it.
                (self.processes[worker].heard, self.processes[worker].refused) = (0, 0);
                Ok(Some(Event::Ready))
            }
            Some(Event::Failed(why)) => Err(why),
            Some(event) => Ok(Some(event)),
            None => Err(format!("worker {worker} ended early")),
        }
    }

    fn too_late(&self, what: &str) -> String {
        let open: u32 = self.processes.iter().map(|process| process.open).sum();
        let waits = match self.processes.iter().find_map(|process| process.waits_for.as_ref()) {
            Some(what) => format!(", the next one waits for {what}"),
            None => String::new(),
        };
        format!(
            "{what} took too long ({open} connections are ready{waits}): raise --timeout, or see what the server says"
        )
    }

    fn show(&mut self, what: &str) {
        if self.progress.is_none_or(|shown| shown.elapsed() <= Duration::from_millis(100)) {
            return;
        }
        self.progress = Some(Instant::now());
        let open: u32 = self.processes.iter().map(|process| process.open).sum();
        let heard: u64 = self.processes.iter().map(|process| process.heard).sum();
        // A progress line that cannot be shown is no loss.
        let _ = write!(std::io::stderr(), "\r\x1b[K{what}: {open} open, {heard} heard");
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if self.progress.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        for process in &mut self.processes {
            process.input = None;
        }
        for process in &mut self.processes {
            // A worker ends when its input does; one that does not is ended.
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(process.child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = process.child.kill();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn spawn(number: usize, plan: &Plan, sender: &Sender<(usize, Option<Event>)>) -> std::io::Result<Process> {
    let mut child = process::Command::new(std::env::current_exe()?)
        .arg(WORKER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut input = child.stdin.take();
    if let Some(input) = &mut input {
        serde_json::to_writer(&mut *input, plan)?;
        input.write_all(b"\n")?;
    }
    if let Some(output) = child.stdout.take() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else { break };
                if sender.send((number, Some(event))).is_err() {
                    return;
                }
            }
            let _ = sender.send((number, None));
        });
    }
    Ok(Process { child, input, open: 0, heard: 0, refused: 0, waits_for: None })
}
