//! What this host allows: every value is read here, once, from files below one root, so that a test can hand in a whole
//! host as a folder.
//!
//! It reads and judges nothing. A value that is not there is `None`: containers hide some, and no missing file may keep a
//! node from starting.

mod probe;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use probe::{ProbeOutcome, io_uring_probe};

/// Limits and resources of the host, the container and the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// The host's name.
    pub hostname: Option<String>,
    /// Cores that the process may run on (scheduler affinity); at least 1.
    pub cores: usize,
    /// The same as the kernel writes them, such as `0-3,8`; empty where it does not tell.
    pub core_list: String,
    /// Cores of the host that are online.
    pub host_cores: Option<usize>,
    /// Cores' worth of time that the cgroup grants.
    pub cpu_quota_cores: Option<f64>,
    /// Descriptors that the process may open now.
    pub nofile_soft: u64,
    /// Descriptors that the process may raise its limit to.
    pub nofile_hard: u64,
    /// `fs.nr_open`: what any process may raise its hard limit to.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: open files of the whole system.
    pub file_max: Option<u64>,
    /// Open files of the whole system now.
    pub files_in_use: u64,
    /// `net.core.somaxconn`: the accept queue of one listener.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: Option<u64>,
    /// `net.ipv4.tcp_mem`'s upper limit, in pages.
    pub tcp_mem_pages: Option<u64>,
    /// Pages of socket buffers that are in use now.
    pub tcp_mem_used_pages: u64,
    /// `net.ipv4.tcp_max_orphans`.
    pub tcp_max_orphans: Option<u64>,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub local_ports: Option<(u16, u16)>,
    /// `net.ipv4.ip_local_reserved_ports`: ranges that outgoing connections never take.
    pub reserved_ports: Vec<(u16, u16)>,
    /// Connections that conntrack follows now, and may follow; only where it is loaded.
    pub conntrack: Option<(u64, u64)>,
    /// Memory that the host could give to new programs, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Memory of the host, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// The cgroup's memory limit, `memory.max` or `memory.high`, in bytes.
    pub cgroup_limit_bytes: Option<u64>,
    /// What the cgroup uses of it and cannot give back, in bytes.
    pub cgroup_used_bytes: u64,
    /// What this process takes of both already, in bytes: 0 at its start.
    pub own_bytes: u64,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for members of a group only, 2 for none.
    pub io_uring_disabled: Option<u64>,
    /// What became of making a ring.
    pub io_uring: ProbeOutcome,
}

impl Host {
    /// This host. What the kernel also tells without `/proc` is asked of it.
    pub fn this() -> Self {
        use nix::sys::resource::{Resource, getrlimit};
        let mut host = Self::read(Path::new("/"), io_uring_probe());
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            (host.nofile_soft, host.nofile_hard) = (soft, hard);
        }
        host
    }

    /// The host whose `/proc` and `/sys` are below `root`.
    pub fn read(root: &Path, io_uring: ProbeOutcome) -> Self {
        let files = Files { root };
        let (nofile_soft, nofile_hard) = files.nofile().unwrap_or((1024, 1024));
        let groups = Cgroups::of(&files);
        let (cgroup_limit_bytes, cgroup_used_bytes) = groups.memory(&files);
        Self {
            hostname: files.text("proc/sys/kernel/hostname").filter(|name| !name.is_empty()),
            cores: files.cores(),
            core_list: files.core_list(),
            host_cores: files.text("sys/devices/system/cpu/online").map(|list| count(&list)).filter(|count| *count > 0),
            cpu_quota_cores: groups.cpu_quota(&files),
            nofile_soft,
            nofile_hard,
            nr_open: files.number("proc/sys/fs/nr_open"),
            file_max: files.number("proc/sys/fs/file-max"),
            files_in_use: files.number("proc/sys/fs/file-nr").unwrap_or(0),
            somaxconn: files.number("proc/sys/net/core/somaxconn"),
            tcp_max_syn_backlog: files.number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            tcp_mem_pages: files.word("proc/sys/net/ipv4/tcp_mem", 2),
            tcp_mem_used_pages: files.field("proc/net/sockstat", "TCP:", "mem").unwrap_or(0),
            tcp_max_orphans: files.number("proc/sys/net/ipv4/tcp_max_orphans"),
            local_ports: files.port_range(),
            reserved_ports: files
                .text("proc/sys/net/ipv4/ip_local_reserved_ports")
                .map_or_else(Vec::new, |text| ranges(&text)),
            conntrack: files.conntrack(),
            memory_available_bytes: files.meminfo("MemAvailable:"),
            memory_total_bytes: files.meminfo("MemTotal:"),
            cgroup_limit_bytes,
            cgroup_used_bytes,
            own_bytes: 0,
            io_uring_disabled: files.number("proc/sys/kernel/io_uring_disabled"),
            io_uring,
        }
    }

    /// Looks at memory again. `kernel_bytes` is what the kernel holds for this process beside its own memory.
    pub fn look_at_memory_again(&mut self, root: &Path, kernel_bytes: u64) {
        let files = Files { root };
        // What is on its way to clients is gone in a moment.
        let in_sockets = files.field("proc/net/sockstat", "TCP:", "mem").unwrap_or(0).saturating_mul(4096);
        self.memory_available_bytes = files.meminfo("MemAvailable:").map(|bytes| bytes.saturating_add(in_sockets));
        self.memory_total_bytes = files.meminfo("MemTotal:");
        (self.cgroup_limit_bytes, self.cgroup_used_bytes) = Cgroups::of(&files).memory(&files);
        self.own_bytes = files.kibibytes("proc/self/status", "RssAnon:").unwrap_or(0).saturating_add(kernel_bytes);
    }

    /// Memory that this process may take, what it has included, in bytes: the host's or, where smaller, the cgroup's. `None`
    /// where neither can be read: that is no bound, and not no memory.
    pub fn memory_bytes(&self) -> Option<u64> {
        let left = self.cgroup_limit_bytes.map(|limit| limit.saturating_sub(self.cgroup_used_bytes));
        let left = left.into_iter().chain(self.memory_available_bytes).min()?.saturating_add(self.own_bytes);
        Some(left.min(self.memory_most_bytes().unwrap_or(left)))
    }

    /// The same if no other process took any: the limit of the cgroup, or the host's memory.
    pub fn memory_most_bytes(&self) -> Option<u64> {
        let host = self.memory_total_bytes.or(self.memory_available_bytes);
        self.cgroup_limit_bytes.into_iter().chain(host).min()
    }

    /// Whether each of `shards` threads has a core to itself among those that the process may run on, and these are fewer than
    /// the host's: they were set apart for it (a cpuset, `CPUAffinity=`). With all of the host's cores nothing tells whether
    /// other processes, such as a second gateway, would be pinned to the same ones.
    pub fn has_cores_of_its_own(&self, shards: usize) -> bool {
        shards == self.cores && self.host_cores.is_some_and(|host| self.cores < host)
    }

    /// Shards that suit the host: a core each, and no more than the quota pays for.
    pub fn shards(&self) -> usize {
        let paid = self.cpu_quota_cores.map_or(usize::MAX, |cores| (cores.ceil() as usize).max(1));
        self.cores.min(paid).clamp(1, 256)
    }
}

/// Raises the soft limit of open files to the hard one; gives the soft limit before and now.
///
/// # Errors
/// What the kernel said to reading or setting the limit.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((soft, soft.max(hard)))
}

/// Files below one root.
struct Files<'a> {
    root: &'a Path,
}

impl Files<'_> {
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// The first number of a file.
    fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.word(path, 0)
    }

    /// The number that is a file's word at `index`.
    fn word(&self, path: impl AsRef<Path>, index: usize) -> Option<u64> {
        self.text(path)?.split_whitespace().nth(index)?.parse().ok()
    }

    /// The number after the word `name`, in the line that begins with `line`.
    fn field(&self, path: &str, line: &str, name: &str) -> Option<u64> {
        let text = self.text(path)?;
        let mut words = text.lines().find(|l| l.starts_with(line))?.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse().ok()
    }

    /// The value of a line of `/proc/self/status` or `/proc/meminfo`.
    fn line(&self, path: &str, name: &str) -> Option<String> {
        self.text(path)?.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))
    }

    fn meminfo(&self, name: &str) -> Option<u64> {
        self.kibibytes("proc/meminfo", name)
    }

    /// A line's number of KiB, in bytes.
    fn kibibytes(&self, path: &str, name: &str) -> Option<u64> {
        let kib: u64 = self.line(path, name)?.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    }

    fn nofile(&self) -> Option<(u64, u64)> {
        let line = self.line("proc/self/limits", "Max open files")?;
        let mut words = line.split_whitespace().map(|word| word.parse().unwrap_or(u64::MAX));
        Some((words.next()?, words.next()?))
    }

    fn core_list(&self) -> String {
        self.line("proc/self/status", "Cpus_allowed_list:").unwrap_or_default()
    }

    fn cores(&self) -> usize {
        count(&self.core_list()).max(1)
    }

    fn port_range(&self) -> Option<(u16, u16)> {
        let path = "proc/sys/net/ipv4/ip_local_port_range";
        Some((self.word(path, 0)?.try_into().ok()?, self.word(path, 1)?.try_into().ok()?))
    }

    fn conntrack(&self) -> Option<(u64, u64)> {
        let max = self.number("proc/sys/net/netfilter/nf_conntrack_max")?;
        Some((self.number("proc/sys/net/netfilter/nf_conntrack_count").unwrap_or(0), max))
    }
}

/// How many numbers are in ranges as the kernel writes them.
fn count(list: &str) -> usize {
    ranges(list).iter().map(|(first, last)| usize::from(last - first) + 1).sum()
}

/// Ranges as the kernel writes them: `0-3,8`. What is no range is skipped.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    text.split(',').filter_map(|part| range(part.trim())).collect()
}

/// The folders of this process's control groups: its own and all above it, since each of them may limit it.
struct Cgroups {
    unified: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Cgroups {
    fn of(files: &Files<'_>) -> Self {
        let text = files.text("proc/self/cgroup").unwrap_or_default();
        let mut groups = Self { unified: Vec::new(), cpu: Vec::new(), memory: Vec::new() };
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
            if controllers.is_empty() {
                groups.unified = mounts.iter().flat_map(|mount| upwards(mount, path)).collect();
            }
            for controller in controllers.split(',') {
                let mount = format!("sys/fs/cgroup/{controller}");
                match controller {
                    "cpu" => groups.cpu = upwards(&mount, path),
                    "memory" => groups.memory = upwards(&mount, path),
                    _ => {}
                }
            }
        }
        groups
    }

    /// Cores' worth of time that the tightest group grants.
    fn cpu_quota(&self, files: &Files<'_>) -> Option<f64> {
        let v2 = self.unified.iter().filter_map(|group| {
            let path = group.join("cpu.max");
            Some((files.number(&path)? as f64, files.word(&path, 1)? as f64))
        });
        let v1 = self.cpu.iter().filter_map(|group| {
            // Without a quota the file says -1, which is no unsigned number.
            let quota = files.number(group.join("cpu.cfs_quota_us"))?;
            Some((quota as f64, files.number(group.join("cpu.cfs_period_us"))? as f64))
        });
        v2.chain(v1).filter(|(_, period)| *period > 0.0).map(|(quota, period)| quota / period).reduce(f64::min)
    }

    /// The limit with the least left below it, and what is used of it.
    ///
    /// Above `memory.high` the kernel does not kill but slows the process down to nearly nothing: it is a limit, and a
    /// twentieth is left below it. The page cache of files, active too, goes before any of that and is not used memory; nor
    /// is what waits in sockets, which comes and goes.
    fn memory(&self, files: &Files<'_>) -> (Option<u64>, u64) {
        let used = |group: &Path, used: &str, caches: &[&str]| {
            let stat = files.text(group.join("memory.stat")).unwrap_or_default();
            let bytes = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            let cached: u64 = caches.iter().filter_map(|name| bytes(name)).sum();
            files.number(group.join(used)).unwrap_or(0).saturating_sub(cached)
        };
        let v2 = self.unified.iter().flat_map(|group| {
            let used = used(group, "memory.current", &["inactive_file ", "active_file ", "sock "]);
            let high = files.number(group.join("memory.high")).map(|high| (high, used.saturating_add(high / 20)));
            files.number(group.join("memory.max")).map(|max| (max, used)).into_iter().chain(high)
        });
        let v1 = self.memory.iter().filter_map(|group| {
            let limit = files.number(group.join("memory.limit_in_bytes"))?;
            Some((limit, used(group, "memory.usage_in_bytes", &["total_inactive_file ", "total_active_file "])))
        });
        // cgroup v1 writes "no limit" as the largest multiple of a page.
        let limited = v2.chain(v1).filter(|(limit, _)| *limit < 1 << 60);
        match limited.min_by_key(|(limit, used)| limit.saturating_sub(*used)) {
            Some((limit, used)) => (Some(limit), used),
            None => (None, 0),
        }
    }
}

/// The folder of `group` below `mount` and every folder above it, up to the mount.
fn upwards(mount: &str, group: &str) -> Vec<PathBuf> {
    let mount = PathBuf::from(mount);
    let mut folders: Vec<PathBuf> =
        Path::new(group.trim_start_matches('/')).ancestors().map(|part| mount.join(part)).collect();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_kernel_writes_them() {
        assert_eq!(ranges("0-3,8"), [(0, 3), (8, 8)]);
        assert_eq!(ranges(""), []);
        assert_eq!(ranges("5-2,x"), []);
    }

    #[test]
    fn every_group_above_the_process_is_looked_at() {
        let folders = upwards("sys/fs/cgroup", "/kubepods/pod7");
        let expected = ["sys/fs/cgroup/kubepods/pod7", "sys/fs/cgroup/kubepods", "sys/fs/cgroup/"];
        assert_eq!(folders, expected.map(PathBuf::from));
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::this();
        assert!(host.cores >= 1 && host.shards() >= 1);
        assert!(host.nofile_hard >= host.nofile_soft);
        assert!(host.memory_bytes() > Some(0));
    }

    #[test]
    fn raising_nofile_reaches_the_hard_limit() {
        let (_, now) = raise_nofile().unwrap();
        let host = Host::this();
        assert_eq!((host.nofile_soft, host.nofile_hard), (now, now));
    }
}
