//! What a thread and the process used: CPU from `/proc`, memory from `/proc`.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// A thread of this process, by its name.
pub struct Thread {
    directory: String,
}

impl Thread {
    /// The thread called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> io::Result<Self> {
        for entry in fs::read_dir("/proc/self/task")? {
            let directory = entry?.path().display().to_string();
            if fs::read_to_string(format!("{directory}/comm")).is_ok_and(|comm| comm.trim() == name) {
                return Ok(Self { directory });
            }
        }
        Err(io::Error::other(format!("there is no thread {name}")))
    }

    /// CPU time so far, user and system, in ns: the first field of `schedstat` (proc(5), since Linux 2.6.9).
    ///
    /// # Errors
    /// The thread has ended, or the kernel keeps no such figures.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("{}/schedstat", self.directory))?;
        text.split(' ').next().and_then(|ns| ns.parse().ok()).ok_or_else(|| io::Error::other("no schedstat"))
    }
}

/// Memory of this process that no file backs, in bytes (`RssAnon`).
///
/// # Errors
/// `/proc` cannot be read.
pub fn anonymous_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no RssAnon"))
}

/// Keeps the calling thread, and the threads that it starts from now on, on one core. On a host with one core it does nothing.
pub fn pin(core: usize) {
    let mut cores = CpuSet::new();
    if cores.set(core).is_ok() {
        // A core that is not there: the figures are what they are.
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}
