//! The queue of log lines, and the thread that writes them.
//!
//! Threads that log push whole lines and never wait for the reader of standard error: a write(2) to a pipe that its reader does not
//! empty lasts for ever, and one whose reader has gone fails (EPIPE). Only the log's own thread writes. It writes blocking:
//! other processes may share the open file description, so `O_NONBLOCK` is not ours to set. A line that does not fit the queue, or
//! whose write fails, is dropped and counted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of the lines that wait to be written: some thousands of lines. One that does not fit is dropped.
const QUEUE_BYTES: usize = 1 << 20;

/// Why a line was dropped: the labels of `ws_log_dropped_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// The queue was full: the reader takes lines more slowly than they come, or none.
    QueueFull,
    /// The write failed: the reader has gone, or the disk is full.
    WriteFailed,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 2] = [Self::QueueFull, Self::WriteFailed];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::WriteFailed => "write-failed",
        }
    }
}

/// Lines between the threads that log and the one that writes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// A line was pushed.
    pushed: Condvar,
    /// The last line was written or dropped.
    emptied: Condvar,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    /// Of all lines, the one that is being written included.
    bytes: usize,
}

impl Queue {
    /// Puts a line in, or drops it. Never waits for a reader.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.bytes + line.len() > QUEUE_BYTES {
            drop(waiting);
            return self.count(DropReason::QueueFull);
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.into());
        drop(waiting);
        self.pushed.notify_one();
    }

    /// Lines that were dropped so far, by [`DropReason`].
    pub(super) fn dropped(&self) -> [u64; DropReason::ALL.len()] {
        self.dropped.each_ref().map(|count| count.load(Relaxed))
    }

    /// Waits until every line is written or dropped, at most for `longest`; says whether that is so.
    pub(super) fn flush(&self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        let mut waiting = self.waiting();
        while waiting.bytes > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (waiting, _) = self.emptied.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Writes lines for as long as the process lives. `recovered` is called with the number of lines that were dropped before a
    /// write succeeded again; it may log.
    pub(super) fn write_to(&self, out: impl AsFd, recovered: impl Fn(u64)) {
        let mut reported = 0;
        loop {
            let line = self.next();
            let written = write_all(&out, &line);
            if written.is_err() {
                self.count(DropReason::WriteFailed);
            }
            let is_last = self.is_last(line.len());
            let dropped = self.dropped().iter().sum();
            // At the end of a burst, so that a burst is one more line and not one after each of its own.
            if written.is_ok() && is_last && dropped > reported {
                recovered(dropped - reported);
                reported = dropped;
            }
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut waiting = self.waiting();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                return line;
            }
            waiting = self.pushed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A line of `bytes` is out of the way; whether it was the last.
    fn is_last(&self, bytes: usize) -> bool {
        let mut waiting = self.waiting();
        waiting.bytes -= bytes;
        if waiting.bytes == 0 {
            self.emptied.notify_all();
        }
        waiting.bytes == 0
    }

    fn count(&self, reason: DropReason) {
        self.dropped[reason as usize].fetch_add(1, Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that holds the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a whole line. Where another process made the description non-blocking, waits until it takes more.
fn write_all(out: &impl AsFd, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match nix::unistd::write(out, line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, pipe};
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    const LONGEST_WAIT: Duration = Duration::from_secs(30);

    /// A queue with its thread, the reading end of what it writes to, and the reports of `recovered`.
    fn queue(flags: OFlag) -> (Arc<Queue>, PipeReader, Receiver<u64>) {
        let (reader, writer) = pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
        let queue = Arc::new(Queue::default());
        let (report, reports) = channel();
        let ours = queue.clone();
        thread::spawn(move || ours.write_to(writer, move |lines| report.send(lines).unwrap_or(())));
        (queue, reader, reports)
    }

    fn line(number: usize) -> String {
        format!("{number:06} {}\n", "x".repeat(200))
    }

    /// A pipe that no process read stopped every thread that logged, the relay first: joins were not answered any more, and the
    /// node stayed live. Nothing here waits: a push that did would hang the test.
    #[test]
    fn a_full_pipe_stops_no_thread_that_logs_and_its_dropped_lines_are_counted_and_reported() {
        for flags in [OFlag::empty(), OFlag::O_NONBLOCK] {
            let (queue, reader, reports) = queue(flags);
            let lines = 4 * QUEUE_BYTES / line(0).len();
            (0..lines).for_each(|number| queue.push(line(number).as_bytes()));
            let [full, failed] = queue.dropped();
            assert!(full > 0 && full < lines as u64 && failed == 0, "{full} of {lines}, {failed}");
            assert!(!queue.flush(Duration::ZERO), "the reader takes nothing");

            // Once it reads, it gets whole lines in order, as many as were not dropped.
            let mut read = BufReader::new(reader).lines().map(|line| line.unwrap());
            let kept: Vec<String> = read.by_ref().take(lines - full as usize).collect();
            assert!(kept.is_sorted() && kept.iter().all(|kept| kept.len() + 1 == line(0).len()));
            assert!(queue.flush(LONGEST_WAIT));
            assert_eq!(reports.recv_timeout(LONGEST_WAIT), Ok(full));
            queue.push(b"after\n");
            assert_eq!(read.next().as_deref(), Some("after"));
        }
    }

    #[test]
    fn a_reader_of_the_log_that_has_gone_costs_its_lines_and_nothing_else() {
        let (queue, reader, reports) = queue(OFlag::empty());
        drop(reader);
        (0..10).for_each(|number| queue.push(line(number).as_bytes()));
        assert!(queue.flush(LONGEST_WAIT), "each line is dropped at once");
        assert_eq!(queue.dropped(), [0, 10]);
        assert!(reports.try_recv().is_err(), "no report can be written either");
    }
}
