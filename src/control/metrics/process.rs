//! The process's own figures, from /proc, under the names that every Prometheus client library gives them.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit};
use prometheus::proto::MetricFamily;

use super::family::{counter, gauge};

/// One entry for each open descriptor.
const DESCRIPTORS: &str = "/proc/self/fd";
/// Fields of /proc/self/stat (proc(5)), counted from the one after the command's closing parenthesis.
const UTIME: usize = 11;
const STIME: usize = 12;
const THREADS: usize = 17;
const START_TIME: usize = 19;
const VIRTUAL_BYTES: usize = 20;
const RESIDENT_PAGES: usize = 21;

/// What can be read; what /proc does not show is left out.
pub(super) fn families() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(after_command) {
        families.extend(of_stat(stat));
    }
    if let Ok(open) = open_descriptors() {
        families.push(gauge("process_open_fds", "Open file descriptors.").value(open as f64));
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        families.push(gauge("process_max_fds", "File descriptors that the process may open.").value(soft as f64));
    }
    families
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

fn of_stat(stat: &str) -> Vec<MetricFamily> {
    let fields: Vec<f64> = stat.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0.0)).collect();
    // The state, a letter, was skipped: the numbers below count from it.
    let field = |number: usize| fields.get(number - 1).copied().unwrap_or(0.0);
    let ticks = system(libc::_SC_CLK_TCK);
    let page_bytes = system(libc::_SC_PAGESIZE);
    let mut families = vec![
        counter("process_cpu_seconds_total", "User and system CPU time, in seconds.")
            .value((field(UTIME) + field(STIME)) / ticks),
        gauge("process_threads", "Threads of the process.").value(field(THREADS)),
        gauge("process_virtual_memory_bytes", "Virtual memory, in bytes.").value(field(VIRTUAL_BYTES)),
        gauge("process_resident_memory_bytes", "Resident memory, in bytes.").value(field(RESIDENT_PAGES) * page_bytes),
    ];
    if let Some(boot) = boot_time() {
        families.push(
            gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")
                .value(boot + field(START_TIME) / ticks),
        );
    }
    families
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
        let families = of_stat(after_command(stat).unwrap());
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert_eq!(value("process_cpu_seconds_total"), 3.0);
        assert_eq!(value("process_threads"), 4.0);
        assert_eq!(value("process_virtual_memory_bytes"), 8192.0);
        assert_eq!(value("process_resident_memory_bytes"), 3.0 * system(libc::_SC_PAGESIZE));
    }

    #[test]
    fn a_process_sees_its_own_memory_and_descriptors() {
        let names: Vec<_> = families().iter().map(|family| family.name().to_owned()).collect();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
            assert!(names.iter().any(|seen| seen == name), "{name} of {names:?}");
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
