//! What the kernel tells about processes and about itself: CPU time, user memory, slabs, socket buffers. Parsing is apart
//! from reading, so that it is tested on text.

use std::collections::BTreeMap;
use std::fs;

use crate::sys;

/// CPU time of a process in nanoseconds, over all its threads, those that have ended too; `None` when it is gone.
pub(crate) fn cpu_ns(pid: u32) -> Option<u64> {
    sys::cpu_ns_of(pid).ok()
}

/// How a process is scheduled, as `chrt` is told it: `-r 50`. `None` where it is like any other. From its `/proc/PID/stat`, whose
/// command's name may hold spaces and parentheses: fields count from the last one.
pub(crate) fn scheduled(stat: &str) -> Option<String> {
    const PRIORITY: usize = 37;
    const POLICY: usize = 38;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let flag = match *fields.get(POLICY)? {
        "1" => "-f",
        "2" => "-r",
        _ => return None,
    };
    Some(format!("{flag} {}", fields.get(PRIORITY)?))
}

/// Anonymous memory of a process that is in RAM, in bytes.
pub(crate) fn anonymous_bytes(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "RssAnon:")
}

/// Memory that could be used without swapping, in bytes.
pub(crate) fn available_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn text_of(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// Why a process tells nothing of itself, if that is so.
pub(crate) fn silence(pid: u32) -> Option<String> {
    let clock = sys::cpu_ns_of(pid).map_err(|error| format!("process {pid}: {error}"));
    clock.and_then(|_| text_of(&format!("/proc/{pid}/status"))).err()
}

/// The kernel's caches that a TCP connection takes objects from: itself, its inode, file and name, and how it is waited for.
const CACHES: [&str; 8] =
    ["TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq", "io_kiocb"];

/// Kernel memory at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    /// Bytes of the objects in use, with their slabs' packing, by cache.
    caches: BTreeMap<String, u64>,
    /// Pages of all sockets' buffers.
    buffer_pages: u64,
}

impl KernelMemory {
    /// Reads it; or says why not, such as without the right to (`/proc/slabinfo` is root's).
    pub(crate) fn read() -> Result<Self, String> {
        const SLABS: &str = "/proc/slabinfo";
        const SOCKETS: &str = "/proc/net/sockstat";
        let caches = slabs(&text_of(SLABS)?);
        let buffer_pages = tcp_pages(&text_of(SOCKETS)?).ok_or_else(|| format!("{SOCKETS} has no pages of TCP"))?;
        if caches.is_empty() { Err(format!("{SLABS} has no caches")) } else { Ok(Self { caches, buffer_pages }) }
    }

    /// Bytes in these caches now beyond those `before`; negative when there are fewer.
    pub(crate) fn grown_since(&self, before: &Self) -> i64 {
        self.caches.iter().map(|(name, bytes)| *bytes as i64 - before.caches.get(name).map_or(0, |b| *b as i64)).sum()
    }

    /// Bytes of socket buffers now beyond those `before`.
    pub(crate) fn buffers_since(&self, before: &Self) -> i64 {
        (self.buffer_pages as i64 - before.buffer_pages as i64) * 4096
    }
}

/// The inodes of /proc. A program that lists a process's descriptors there gives each an inode and a name for a while: these
/// names are no part of a connection.
const PROC_INODES: &str = "proc_inode_cache";

/// Bytes in use by cache: objects × (slab / objects per slab), so that what a slab wastes is counted too.
/// `kmalloc-*` caches count together: security modules and io_uring take from them.
fn slabs(slabinfo: &str) -> BTreeMap<String, u64> {
    let mut caches = BTreeMap::new();
    let (mut name_bytes, mut proc_inodes) = (0, 0);
    for line in slabinfo.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, active, _, _, per_slab, pages, ..] = fields[..] else { continue };
        let general = name.starts_with("kmalloc") || name.starts_with("lsm_");
        let (Ok(active), Ok(per_slab), Ok(pages)) =
            (active.parse::<u64>(), per_slab.parse::<u64>(), pages.parse::<u64>())
        else {
            continue;
        };
        if CACHES.contains(&name) || general {
            let bytes: u64 = active * pages * 4096 / per_slab.max(1);
            *caches.entry(String::from(if general { "general" } else { name })).or_insert(0) += bytes;
        }
        match name {
            "dentry" => name_bytes = pages * 4096 / per_slab.max(1),
            PROC_INODES => proc_inodes = active,
            _ => {}
        }
    }
    if let Some(names) = caches.get_mut("dentry") {
        *names = names.saturating_sub(proc_inodes * name_bytes);
    }
    caches
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_proc_that_another_program_listed_do_not_count() {
        let text = "dentry 50 64 128 32 1 : tunables 0 0 0\nproc_inode_cache 20 23 696 23 4 : tunables 0 0 0\n";
        assert_eq!(slabs(text)["dentry"], 30 * 128);
    }

    #[test]
    fn a_slab_counts_with_what_its_packing_wastes() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> ...\n\
                    TCP 26 26 2368 13 8 : tunables 0 0 0 : slabdata 2 2 0\nother 5 5 64 64 1 : tunables\n";
        let caches = slabs(text);
        assert_eq!(caches.get("TCP"), Some(&(26 * 8 * 4096 / 13)));
        assert_eq!(caches.len(), 1);
    }

    #[test]
    fn socket_buffers_are_counted_in_pages() {
        assert_eq!(tcp_pages("sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 157\n"), Some(157));
    }

    #[test]
    fn a_priority_is_read_behind_a_name_full_of_parentheses() {
        let stat = |end: &str| format!("12 (a (b) c) S {}{end}", "0 ".repeat(36));
        assert_eq!(scheduled(&stat("50 2 0")).as_deref(), Some("-r 50"));
        assert_eq!(scheduled(&stat("0 0 0")), None);
    }

    #[test]
    fn a_thread_that_has_ended_still_counts() {
        let pid = std::process::id();
        let before = cpu_ns(pid).unwrap();
        let used = std::thread::spawn(|| {
            let mut sum = 0_u64;
            let begun = sys::thread_cpu_ns();
            while sys::thread_cpu_ns() - begun < 50_000_000 {
                sum = std::hint::black_box(sum + 1);
            }
            sys::thread_cpu_ns() - begun
        });
        let used = used.join().unwrap();
        assert!(cpu_ns(pid).unwrap() - before >= used, "{used} ns of a thread are missing");
    }

    #[test]
    fn a_process_that_is_gone_is_silent_for_a_reason_and_a_living_one_is_not() {
        // The kernel's numbers of processes end below this one.
        let why = silence(1 << 22).unwrap_or_default();
        assert!(why.starts_with("process 4194304: "), "{why}");
        assert_eq!(silence(std::process::id()), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_reason() {
        let why = text_of("/proc/none").unwrap_err();
        assert!(why.starts_with("/proc/none: No such file"), "{why}");
    }

    #[test]
    fn this_process_has_used_some_cpu_and_memory() {
        // The kernel counts pages on each core and adds them up later: of little memory it may tell none.
        let held = std::hint::black_box(vec![1_u8; 16 << 20]);
        let pid = std::process::id();
        assert!(cpu_ns(pid).is_some_and(|ns| ns > 0));
        assert!(anonymous_bytes(pid).is_some_and(|bytes| bytes >= held.len() as u64 / 2));
    }
}
