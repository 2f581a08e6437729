//! Whole hosts as folders: what each allows, and which limit binds.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::capacity::files_for;
use super::*;
use crate::gateway::config::{Admin, Config, Driver, Pin, Secrets};
use crate::gateway::host::{Host, ProbeOutcome};
use tidegate_core::limits::{self, Limits};
use tidegate_core::setting::Value;

const GIB: u64 = 1 << 30;

/// A host's files below a folder of their own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = Self(std::env::temp_dir().join(format!("tidegate-host-{}-{number}", std::process::id())));
        for (path, text) in files {
            let path = folder.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn host(&self, io_uring: ProbeOutcome) -> Host {
        Host::read(&self.0, io_uring)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A machine of 32 GB that was tuned for a million sockets.
fn tuned() -> Folder {
    Folder::with(&[
        (
            "proc/self/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            2000000  2000000  files\n",
        ),
        ("proc/self/status", "Name:\ttidegate\nCpus_allowed_list:\t0-7\n"),
        ("proc/self/cgroup", "0::/system.slice/tidegate.service\n"),
        ("sys/fs/cgroup/system.slice/tidegate.service/memory.max", "max\n"),
        ("sys/fs/cgroup/system.slice/tidegate.service/cpu.max", "max 100000\n"),
        ("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable:   31457280 kB\n"),
        ("proc/sys/kernel/hostname", "edge-1\n"),
        ("proc/sys/fs/nr_open", "4000000\n"),
        ("proc/sys/fs/file-max", "9223372036854775807\n"),
        ("proc/sys/fs/file-nr", "1200\t0\t9223372036854775807\n"),
        ("proc/sys/net/core/somaxconn", "65535\n"),
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535\n"),
        ("proc/sys/net/ipv4/tcp_mem", "1000000\t1500000\t2000000\n"),
        ("proc/net/sockstat", "sockets: used 100\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3\n"),
        ("proc/sys/net/ipv4/tcp_max_orphans", "1000000\n"),
        ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n"),
        ("proc/sys/net/ipv4/ip_local_reserved_ports", "8080,9000-9100\n"),
        ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ])
}

/// A pod with the container runtime's defaults: 512 MiB, 1.5 cores, io_uring blocked.
fn pod() -> Folder {
    Folder::with(&[
        ("proc/self/limits", "Max open files            1024                 524288               files\n"),
        ("proc/self/status", "Cpus_allowed_list:\t0-15\n"),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/memory.max", "536870912\n"),
        ("sys/fs/cgroup/memory.current", "104857600\n"),
        ("sys/fs/cgroup/memory.stat", "anon 20971520\ninactive_file 73400320\n"),
        ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
        ("proc/meminfo", "MemAvailable:   31457280 kB\n"),
        ("proc/sys/kernel/hostname", "gateway-7d9f\n"),
        ("proc/sys/fs/nr_open", "1048576\n"),
        ("proc/sys/net/core/somaxconn", "128\n"),
        ("proc/sys/net/ipv4/ip_local_port_range", "1024\t60999\n"),
    ])
}

/// A host with plenty of memory where only the descriptors are as they come.
fn untuned() -> Folder {
    Folder::with(&[
        ("proc/self/limits", "Max open files            1024                 524288               files\n"),
        ("proc/self/status", "Cpus_allowed_list:\t0,2\n"),
        ("proc/meminfo", "MemAvailable:   67108864 kB\n"),
        ("proc/sys/fs/nr_open", "1048576\n"),
        ("proc/sys/net/ipv4/tcp_mem", "190000 250000 400000\n"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
        ("proc/sys/net/netfilter/nf_conntrack_count", "2144\n"),
    ])
}

fn config(host: &Host) -> Config {
    Config { shards: host.shards(), ..Config::default() }
}

#[test]
fn a_tuned_host_holds_a_million_and_says_so() {
    let host = tuned().host(ProbeOutcome::Works);
    assert_eq!((host.shards(), host.cpu_quota_cores, host.memory_bytes()), (8, None, Some(30 * GIB)));
    assert_eq!(host.hostname.as_deref(), Some("edge-1"));
    let report = Report::of(&host, &config(&host), Some(1_000_000));
    assert!(report.fits(), "{report}");
    assert_eq!((report.binding, report.connections), ("nofile", 2_000_000 - 320 - 16 * 8 - 4_096 * 8));
    assert!(report.to_string().contains("A target of 1,000,000 connections fits."), "{report}");
}

#[test]
fn a_port_among_the_outgoing_ones_is_named_unless_it_is_reserved() {
    let host = tuned().host(ProbeOutcome::Works);
    let advice = |config: &Config| {
        let report = Report::of(&host, config, None);
        report.rows.into_iter().find(|row| row.what == "net.ipv4.ip_local_port_range").unwrap().advice
    };
    assert_eq!(
        advice(&Config {
            admin: Admin { listen: "127.0.0.1:9090".parse().unwrap(), ..Admin::default() },
            ..Config::default()
        }),
        None
    );
    let elsewhere = advice(&Config { listen: "0.0.0.0:8443".parse().unwrap(), ..Config::default() }).unwrap();
    assert!(elsewhere.contains("ip_local_reserved_ports=8443,"), "{elsewhere}");
}

#[test]
fn a_pod_is_bound_by_its_memory_and_counts_only_what_it_cannot_give_back() {
    let host = pod().host(ProbeOutcome::Refused(libc::EPERM));
    assert_eq!((host.cores, host.cpu_quota_cores, host.shards()), (16, Some(1.5), 2));
    assert_eq!(host.cgroup_used_bytes, 104_857_600 - 73_400_320);
    let capacity = capacity(&host, &config(&host));
    assert_eq!(capacity.binding, "memory");
    // (512 − 30 − 16 − 2 × 4) MiB, three quarters of it, at 3,830 + 200 + 130 B each.
    assert_eq!(capacity.connections, (458_u64 << 20) / 100 * 75 / 4_160);
    let report = Report::of(&host, &config(&host), Some(500_000));
    assert!(!report.fits());
    let text = report.to_string();
    assert!(text.contains("raise memory") && text.contains("container's memory limit"), "{text}");
    assert!(text.contains("epoll is used instead"), "{text}");
}

#[test]
fn descriptors_as_they_come_hold_half_a_million_and_the_report_says_how_to_raise_them() {
    let host = untuned().host(ProbeOutcome::Works);
    let capacity = capacity(&host, &config(&host));
    assert_eq!((capacity.binding, capacity.connections), ("nofile", 524_288 - 320 - 16 * 2 - 4_096 * 2));
    let report = Report::of(&host, &config(&host), Some(1_000_000));
    assert_eq!((report.binding, report.connections), ("net.netfilter.nf_conntrack_max", 260_000));
    let text = report.to_string();
    for command in
        ["LimitNOFILE=1008544", "net.netfilter.nf_conntrack_max=1002144", "tcp_mem=\"750000 1000000 1500000\""]
    {
        assert!(text.contains(command), "{command}: {text}");
    }
    // What is enough is not asked for.
    assert!(!text.contains("raise fs.nr_open") && !text.contains("raise memory"), "{text}");
}

#[test]
fn groups_of_version_1_limit_as_those_of_version_2() {
    let folder = Folder::with(&[
        ("proc/self/limits", "Max open files            1024                 4096               files\n"),
        ("proc/self/status", "Cpus_allowed_list:\t0-3\n"),
        ("proc/self/cgroup", "5:memory:/docker/7\n3:cpu,cpuacct:/docker/7\n0::/\n"),
        // The container sees its own group as the root of each mount.
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "73741824\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ("proc/meminfo", "MemAvailable:   8388608 kB\n"),
    ]);
    let host = folder.host(ProbeOutcome::Works);
    assert_eq!((host.memory_bytes(), host.cpu_quota_cores, host.shards()), (Some(1_000_000_000), Some(0.5), 1));
}

#[test]
fn an_unlimited_group_of_version_1_is_no_limit() {
    let folder = Folder::with(&[
        ("proc/self/cgroup", "5:memory:/\n3:cpu:/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
    ]);
    let host = folder.host(ProbeOutcome::Works);
    assert_eq!((host.cgroup_limit_bytes, host.cpu_quota_cores), (None, None));
}

#[test]
fn the_configuration_may_bind_and_says_so() {
    let host = tuned().host(ProbeOutcome::Works);
    let config = Config { max_connections: Some(1_000), ..config(&host) };
    let capacity = capacity(&host, &config);
    assert_eq!((capacity.connections, capacity.binding), (1_000, "max_connections"));
    assert_eq!(capacity.to_string(), "1,000 connections; max_connections binds");
    assert!(!Report::of(&host, &config, Some(1_001)).fits());
}

#[test]
fn io_uring_that_is_demanded_and_refused_does_not_fit() {
    let host = tuned().host(ProbeOutcome::Refused(libc::ENOSYS));
    let demanded = Config { driver: Driver::IoUring, ..config(&host) };
    assert!(!Report::of(&host, &demanded, Some(1)).fits());
    assert!(Report::of(&host, &config(&host), Some(1)).fits());
    let lacking = tuned().host(ProbeOutcome::Lacking(libc::ENOMEM));
    assert!(!Report::of(&lacking, &config(&lacking), Some(1)).fits());
}

#[test]
fn a_host_that_tells_nothing_still_has_an_answer() {
    let host = Folder::with(&[]).host(ProbeOutcome::Refused(libc::ENOSYS));
    assert_eq!((host.cores, host.nofile_hard), (1, 1024));
    let report = Report::of(&host, &config(&host), None);
    assert!(report.fits());
    assert_eq!((report.binding, report.connections), ("nofile", 688 - 688 / 4));
}

/// Memory that could not be read used to count as none: the node admitted no connection.
#[test]
fn memory_that_cannot_be_read_is_said_and_bounds_nothing() {
    let host = Host { memory_available_bytes: None, ..untuned().host(ProbeOutcome::Works) };
    let capacity = capacity(&host, &config(&host));
    assert_eq!((capacity.binding, capacity.connections), ("nofile", 524_288 - 320 - 16 * 2 - 4_096 * 2));
    assert!(capacity.bounds.iter().all(|bound| bound.what != "memory"), "{capacity:?}");
    // Buffers stay bounded all the same.
    let memory = MemoryBound::of(&host, &config(&host), capacity.connections);
    assert_eq!((memory.outbox_bytes, memory.unfinished_bytes), (GIB / 100 * 10, GIB / 100 * 5));
    assert!(memory.fits() && memory.to_string().contains(" of an unknown amount: "), "{memory}");
    let report = Report::of(&host, &config(&host), Some(100_000));
    let text = report.to_string();
    assert!(report.fits() && text.contains("memory") && text.contains("/proc/meminfo cannot be read"), "{text}");
    assert!(text.contains("are needed") && text.contains("set max_connections"), "{text}");
    // A container's limit that can be read is one.
    let limited = Host { cgroup_limit_bytes: Some(GIB), cgroup_used_bytes: GIB / 4, ..host };
    assert_eq!(limited.memory_bytes(), Some(GIB / 4 * 3));
}

#[test]
fn the_memory_bound_is_the_sum_of_its_parts() {
    let host = tuned().host(ProbeOutcome::Works);
    let config = Config { shards: 4, ..Config::default() };
    let bound = MemoryBound::of(&host, &config, 1_000_000);
    let buffers = bound.outbox_bytes + bound.unfinished_bytes + bound.mailbox_bytes;
    let caps = buffers + bound.publish_queue_bytes + bound.fanout_bytes + bound.handshake_bytes + bound.admin_bytes;
    let rooms = bound.rooms * 2_560;
    assert_eq!(rooms >> 30, 5, "a fifth of memory");
    assert_eq!(bound.total_bytes(), bound.base_bytes + 1_000_000 * 4_216 + rooms + caps);
    assert_eq!((bound.outbox_bytes, bound.unfinished_bytes), (30 * GIB / 100 * 10, 30 * GIB / 100 * 5));
    // Of each shard: 64 MiB to it and 16 MiB from it, 16 MiB that wait to go, 16 MiB in its rooms; 16 MiB in the relay; and 16 MiB
    // from the admin thread, to which nothing is delivered.
    let items = (limits::MAILBOX_MESSAGES + limits::MAILBOX_RESERVE) * limits::MAILBOX_ITEM_BYTES;
    assert_eq!(bound.mailbox_bytes, 4 * (80 << 20) + (16 << 20) + 5 * items as u64);
    assert_eq!((bound.publish_queue_bytes >> 20, bound.fanout_bytes >> 20), (5 * 16, 4 * 16));
    assert!(bound.admin_bytes >= (limits::ADMIN_CONNECTIONS * config.limits.message_bytes) as u64);
    assert!(bound.fits());
    assert!(bound.to_string().contains("1,000,000 connections × 4,216 B"), "{bound}");
    assert!(!bound.to_string().contains("token cache"), "without keys there is none: {bound}");
}

#[test]
fn a_node_with_keys_counts_its_token_cache() {
    let host = tuned().host(ProbeOutcome::Works);
    let without = MemoryBound::of(&host, &Config::default(), 1_000);
    let mut config = Config::default();
    config.auth.secret = Some(Secrets::from_value(&Value::Text("s".repeat(32))).unwrap());
    let with = MemoryBound::of(&host, &config, 1_000);
    assert_eq!(with.total_bytes(), without.total_bytes() + (64 << 20));
    assert!(with.to_string().ends_with(" + token cache 64.0 MiB"), "{with}");
}

/// Refused and silent sockets took the descriptors that the admin port needed: a node whose public port was full answered no probe.
#[test]
fn clients_and_sockets_without_an_upgrade_leave_the_descriptors_of_the_admin_port_alone() {
    for (files, shards, of_each) in [(1_024, 1, 172), (1_024, 4, 40), (20_000, 2, 1_228), (1_200_000, 8, 4_096)] {
        let host = Host { nofile_hard: files, ..tuned().host(ProbeOutcome::Works) };
        let config = Config { shards, ..Config::default() };
        let admits = capacity(&host, &config).bounds[0].connections;
        let unserved = handshakes_per_shard(&host, &config);
        assert_eq!(unserved, of_each, "{files} descriptors, {shards} shards");
        let own = limits::ADMIN_CONNECTIONS as u64 + 64 + 16 * shards as u64;
        let all = admits + (unserved * shards) as u64 + own;
        assert!(admits > 0 && all <= files && files - all < shards as u64, "{all} of {files}");
        let few = Config { limits: Limits { handshakes_per_shard: 3, ..Limits::default() }, ..config };
        assert_eq!(handshakes_per_shard(&host, &few), 3, "what is configured is not raised");
    }
    // What is asked for is enough for what was asked.
    let config = Config { shards: 8, ..Config::default() };
    for target in [1, 1_000, 1_000_000] {
        let host = Host { nofile_hard: files_for(target, &config), ..tuned().host(ProbeOutcome::Works) };
        assert!(capacity(&host, &config).bounds[0].connections >= target);
    }
}

/// A node with too few descriptors ran, said that it was ready, and answered every client with 503; `check` said "holds 0" and
/// exited with 0.
#[test]
fn a_host_that_holds_no_connection_is_refused_with_the_limit_and_its_cure() {
    let few = Host { nofile_hard: 128, ..untuned().host(ProbeOutcome::Works) };
    let report = Report::of(&few, &config(&few), None);
    assert!(!report.fits());
    let text = report.to_string();
    assert!(text.contains("A node cannot run here") && text.contains("raise nofile: LimitNOFILE=8545"), "{text}");
    let little = Host { memory_available_bytes: Some(20 << 20), ..untuned().host(ProbeOutcome::Works) };
    for (host, parts) in [(&few, ["nofile is 128 and", "--ulimit nofile="]), (&little, ["20.0 MiB of memory", "raise"])]
    {
        let why = capacity(host, &config(host)).refusal(host, &config(host)).unwrap();
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
    let enough = untuned().host(ProbeOutcome::Works);
    assert_eq!(capacity(&enough, &config(&enough)).refusal(&enough, &config(&enough)), None);
}

#[test]
fn max_connections_above_what_the_host_holds_does_not_fit() {
    let host = untuned().host(ProbeOutcome::Works);
    let asks = |most| Config { max_connections: Some(most), ..config(&host) };
    let report = Report::of(&host, &asks(600_000), None);
    let text = report.to_string();
    assert!(!report.fits() && text.contains("max_connections asks for more than this host holds"), "{text}");
    assert!(text.contains("LimitNOFILE=608544"), "{text}");
    assert!(Report::of(&host, &asks(500_000), None).fits());
    assert_eq!(host_capacity(&host, &asks(1)).connections, 524_288 - 320 - 16 * 2 - 4_096 * 2);
}

/// systemd's `MemoryHigh=` and Kubernetes' memory QoS set `memory.high`: above it the kernel slows the process down to a crawl.
/// It was not read, and the page cache of files in use counted as used.
#[test]
fn memory_high_is_a_limit_wherever_it_stands_and_no_page_cache_is_used_memory() {
    let folder = |own: &[(&str, &str)]| {
        let base = [
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 31457280 kB\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.current", "500000000\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.stat", "anon 1\nactive_file 300000000\ninactive_file 100000000\n"),
        ];
        Folder::with(&[&base[..], own].concat()).host(ProbeOutcome::Works)
    };
    let max_only = folder(&[]);
    assert_eq!(max_only.memory_bytes(), Some(GIB - 100_000_000), "active page cache goes too");
    for group in ["a.slice/b.service", "a.slice"] {
        let high = folder(&[(&format!("sys/fs/cgroup/{group}/memory.high"), "268435456\n")]);
        let used = if group == "a.slice" { 0 } else { 100_000_000 };
        assert_eq!(high.memory_bytes(), Some((GIB / 4) - (GIB / 4) / 20 - used), "{group}");
        assert_eq!(high.cgroup_limit_bytes, Some(GIB / 4), "{group}");
        let text = Report::of(&high, &config(&high), None).to_string();
        assert!(text.contains("of the cgroup's 256.0 MiB"), "{text}");
    }
    let unlimited = folder(&[("sys/fs/cgroup/a.slice/b.service/memory.high", "max\n")]);
    assert_eq!(unlimited, max_only);
}

/// The capacity was what was free at the start, for as long as the node ran.
#[test]
fn the_capacity_follows_the_memory_and_what_the_node_takes_itself_does_not_lower_it() {
    let folder = pod();
    let host = folder.host(ProbeOutcome::Refused(libc::EPERM));
    let config = Arc::new(config(&host));
    let at_start = capacity(&host, &config).connections;
    let mut watch = Watch::below(folder.0.clone(), host, config);
    let write = |path: &str, text: &str| fs::write(folder.0.join(path), text).unwrap();
    assert_eq!(watch.look(0).connections, at_start);
    // 40,000 connections of its own, and 40 MiB of its own memory.
    let (connections, own) = (40_000, 40 << 20);
    write("proc/self/status", "Cpus_allowed_list:\t0-15\nRssAnon:\t40960 kB\n");
    write("sys/fs/cgroup/memory.current", &(104_857_600 + connections * 4_030 + own).to_string());
    assert_eq!(watch.look(connections).connections, at_start);
    // Another process of the pod takes 100 MiB.
    write("sys/fs/cgroup/memory.current", &(104_857_600 + connections * 4_030 + own + (100 << 20)).to_string());
    assert_eq!(watch.look(connections).connections, (358_u64 << 20) / 100 * 75 / 4_160);
    // The pod is resized while it runs.
    write("sys/fs/cgroup/memory.max", &(2 * GIB).to_string());
    assert!(watch.look(connections).connections > 2 * at_start);
}

/// Every gateway without a CPU quota pinned its shards from core 0 on: all pods of a host shared the first cores, whatever else
/// was idle.
#[test]
fn shards_are_pinned_where_cores_were_set_apart_for_them_or_it_is_asked_for() {
    let on = |allowed: &str, online: &str| {
        let status = format!("Cpus_allowed_list:\t{allowed}\n");
        Folder::with(&[("proc/self/status", &status), ("sys/devices/system/cpu/online", online)])
            .host(ProbeOutcome::Works)
    };
    let pinned = |host: &Host, shards, pin| Config { shards, pin, ..Config::default() }.is_pinned(host);
    let (whole, own, unknown) = (on("0-15", "0-15\n"), on("2-3,8", "0-15\n"), on("0-1", ""));
    assert!(!pinned(&whole, 16, Pin::Auto) && !pinned(&whole, 2, Pin::Auto));
    assert!(pinned(&own, 3, Pin::Auto));
    // A pool of cores that several pods share is smaller than the host too: fewer shards would all be on its first cores.
    assert!(!pinned(&own, 2, Pin::Auto));
    assert!(!pinned(&unknown, 2, Pin::Auto));
    assert!(pinned(&whole, 2, Pin::On) && !pinned(&own, 3, Pin::Off));
    let text = Report::of(&own, &Config { shards: 3, ..Config::default() }, None).to_string();
    assert!(text.contains("3 on 3 cores (2-3,8), pinned"), "{text}");
}
