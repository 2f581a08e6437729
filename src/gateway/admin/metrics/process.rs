//! The process's own figures, from /proc, under the names that every Prometheus client library gives them.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit};

use tidegate_core::metric::{counter, gauge, metrics};

/// One entry for each open descriptor.
const DESCRIPTORS: &str = "/proc/self/fd";
/// Fields of /proc/self/stat (proc(5)), counted from the one after the command's closing parenthesis.
const UTIME: usize = 11;
const STIME: usize = 12;
const THREADS: usize = 17;
const START_TIME: usize = 19;
const VIRTUAL_BYTES: usize = 20;
const RESIDENT_PAGES: usize = 21;

metrics! {
    /// What /proc says of the process; what it does not show is left out.
    #[derive(Default)]
    pub(super) struct Figures {
        /// User and system CPU time, in seconds.
        cpu_seconds: Option<f64> => counter("process_cpu_seconds_total");
        /// Threads of the process.
        threads: Option<f64> => gauge("process_threads");
        /// Virtual memory, in bytes.
        virtual_bytes: Option<f64> => gauge("process_virtual_memory_bytes");
        /// Resident memory, in bytes.
        resident_bytes: Option<f64> => gauge("process_resident_memory_bytes");
        /// When the process started, in seconds since 1970.
        start_time: Option<f64> => gauge("process_start_time_seconds");
        /// Open file descriptors.
        open_fds: Option<f64> => gauge("process_open_fds");
        /// File descriptors that the process may open.
        max_fds: Option<f64> => gauge("process_max_fds");
    }
}

impl Figures {
    /// Reads them.
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        Self {
            open_fds: open_descriptors().ok().map(|open| open as f64),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64),
            ..stat.as_deref().and_then(after_command).map(Self::of_stat).unwrap_or_default()
        }
    }

    fn of_stat(stat: &str) -> Self {
        // The state, a letter, is skipped: the numbers below count from it.
        let fields: Vec<f64> =
            stat.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0.0)).collect();
        let field = |number: usize| fields.get(number - 1).copied().unwrap_or(0.0);
        let ticks = system(libc::_SC_CLK_TCK);
        Self {
            cpu_seconds: Some((field(UTIME) + field(STIME)) / ticks),
            threads: Some(field(THREADS)),
            virtual_bytes: Some(field(VIRTUAL_BYTES)),
            resident_bytes: Some(field(RESIDENT_PAGES) * system(libc::_SC_PAGESIZE)),
            start_time: boot_time().map(|boot| boot + field(START_TIME) / ticks),
            ..Self::default()
        }
    }
}

/// Open descriptors of the process. Since Linux 6.2 the directory's size is their number; older kernels say 0, and
/// listing a million of them takes the better part of a second.
fn open_descriptors() -> io::Result<u64> {
    match fs::metadata(DESCRIPTORS)?.len() {
        0 => listed_descriptors(),
        open => Ok(open),
    }
}

fn listed_descriptors() -> io::Result<u64> {
    // One of them is the directory that is being read.
    Ok((fs::read_dir(DESCRIPTORS)?.count() as u64).saturating_sub(1))
}

fn after_command(stat: &str) -> Option<&str> {
    // The command may contain spaces and parentheses; the last one ends it.
    stat.rfind(')').map(|end| &stat[end + 1..])
}

fn boot_time() -> Option<f64> {
    fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn system(variable: libc::c_int) -> f64 {
    // SAFETY: sysconf(3) takes a number, gives a number and touches no memory of ours.
    unsafe { libc::sysconf(variable) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1000 8192 3 18446744073709551615";
        let figures = Figures::of_stat(after_command(stat).unwrap());
        assert_eq!(figures.cpu_seconds, Some(3.0));
        assert_eq!(figures.threads, Some(4.0));
        assert_eq!(figures.virtual_bytes, Some(8192.0));
        assert_eq!(figures.resident_bytes, Some(3.0 * system(libc::_SC_PAGESIZE)));
    }

    #[test]
    fn a_process_sees_its_own_memory_and_descriptors() {
        let figures = Figures::now();
        for figure in [figures.resident_bytes, figures.open_fds, figures.start_time] {
            assert!(figure.is_some_and(|figure| figure > 0.0));
        }
    }

    #[test]
    fn both_ways_to_count_descriptors_see_those_that_are_opened_and_closed() {
        for count in [open_descriptors, listed_descriptors] {
            let before = count().unwrap();
            let opened: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
            let meanwhile = count().unwrap();
            drop(opened);
            // Other tests of this process open and close a few, too.
            assert!(meanwhile >= before + 400, "{before}, then {meanwhile}");
            assert!(count().unwrap() <= meanwhile - 400);
        }
    }
}
