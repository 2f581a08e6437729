//! What hosts do: clocks that jump, processes that stand still, storms of signals, memory that ends.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bad_frames::{masked, open, read_frame};
use crate::support::client::Client;
use crate::support::gateway::{self, Driver, Gateway};
use crate::support::http;
use crate::support::incident::Incident;
use crate::support::load::Load;
use crate::support::nats::free_port;

crate::on_both_drivers! {
    a_wall_clock_that_jumps_an_hour_closes_no_connection_and_moves_no_deadline
    a_storm_of_signals_interrupts_every_call_and_nothing_is_lost
    under_a_memory_limit_admission_stops_before_the_kernel_kills
    hostile_clients_under_a_memory_limit_are_bounded
    a_host_that_hides_how_much_memory_it_has_is_served_and_its_operator_told
}

crate::long_on_both_drivers! {
    a_gateway_that_stood_still_for_a_minute_times_out_no_client
}

/// libfaketime, which shows a process another time than the host's.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries
        .find(|library| library.exists())
        .expect("no libfaketime: install it (Debian: apt-get install libfaketime)")
}

/// A file of a test. Ends with the value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn a_wall_clock_that_jumps_an_hour_closes_no_connection_and_moves_no_deadline(driver: Driver) {
    const HOUR_MS: i64 = 3_600_000;
    let shift = Scratch(std::env::temp_dir().join(format!("tidegate-clock-{}", free_port())));
    let jump = |to: &str| std::fs::write(&shift.0, to).unwrap();
    jump("+0");
    let config = "[heartbeat]\nping_interval = \"5s\"\npong_timeout = \"5s\"\n[limits]\nhandshake_deadline = \"1s\"";
    let mut gateway = Gateway::on(driver)
        .config(config)
        .variable("LD_PRELOAD", faketime().to_str().unwrap())
        .variable("FAKETIME_TIMESTAMP_FILE", shift.0.to_str().unwrap())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(gateway.port)).collect();
    clients.iter_mut().for_each(|client| client.join("lobby"));
    // How far the time in a message is from the time here.
    let mut hear = |gateway: &Gateway| {
        assert_eq!(gateway.publish("lobby", "1"), 202);
        let here = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        clients.iter_mut().map(|client| client.answer("message")["timestamp"].as_i64().unwrap() - here).max().unwrap()
    };
    assert!(hear(&gateway).abs() < HOUR_MS / 2);
    for (to, sign) in [("+3600", 1), ("-3600", -1), ("+0", 0)] {
        let incident = Incident::begin("wall clock jumps by an hour", driver);
        jump(to);
        gateway.wait("it shows in timestamps", |gateway| {
            assert_eq!(gateway.publish("other", "1"), 202);
            let mut probe = Client::connect(gateway.port);
            probe.join("other");
            assert_eq!(gateway.publish("other", "2"), 202);
            let here = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
            let ahead = probe.answer("message")["timestamp"].as_i64().unwrap() - here;
            (ahead - sign * HOUR_MS).abs() < HOUR_MS / 2
        });
        // A deadline that was begun before and one that is begun now come when they are due: not at once, and not never.
        assert_eq!(http::read_answer(&mut http::connect(gateway.port)).unwrap().status, 408);
        assert!((hear(&gateway) - sign * HOUR_MS).abs() < HOUR_MS / 2);
        incident.recovered();
    }
    gateway.wait_for("ws_connections_active", 10.0);
    let metrics = gateway.metrics();
    let left = metrics.value("ws_closes_total{reason=\"reset\"}") + metrics.value("ws_closes_total{reason=\"eof\"}");
    assert_eq!(metrics.sum("ws_closes_total"), left, "nobody but the probes has gone\n{metrics:?}");
    // Clients that do not read would keep the drain waiting for the answers to their closes.
    drop(clients);
    // Without the library at exit: it is the test's, not the gateway's.
    assert_eq!(gateway.terminate(), 0);
}

fn a_gateway_that_stood_still_for_a_minute_times_out_no_client(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(gateway.port)).collect();
    clients.iter_mut().for_each(|client| client.join("lobby"));
    let mut incident = Incident::begin("gateway stopped (SIGSTOP) for 60 s", driver);
    gateway.signal(Signal::SIGSTOP);
    // The stall is the story: longer than ping and pong time together.
    std::thread::sleep(Duration::from_secs(60));
    gateway.signal(Signal::SIGCONT);
    incident.lifted();
    for number in 0..3 {
        assert_eq!(gateway.publish("lobby", &json!(number).to_string()), 202);
        clients.iter_mut().for_each(|client| assert_eq!(client.content("lobby"), number));
    }
    incident.recovered();
    assert_eq!(gateway.metrics().sum("ws_closes_total"), 0.0);
}

/// Stopped and continued, who waits gets EINTR (signal(7)); a signal that is ignored would interrupt nothing, and a stop that is
/// taken back before every thread has heard of it neither.
fn a_storm_of_signals_interrupts_every_call_and_nothing_is_lost(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let mut members: Vec<Client> = (0..4).map(|_| Client::connect(gateway.port)).collect();
    members.iter_mut().for_each(|member| member.join("lobby"));
    let mut publisher = Client::connect(gateway.port);
    let load = Load::default();
    let heard = std::thread::scope(|scope| {
        let load = &load;
        let listening: Vec<_> = members.iter_mut().map(|member| scope.spawn(move || load.hear(member))).collect();
        scope.spawn(move || load.publish(&mut publisher, "lobby"));
        let stop = load.stop_at_the_end();
        for _ in 0..100 {
            gateway.signal(Signal::SIGSTOP);
            gateway.wait("every thread stands still", stands_still);
            gateway.signal(Signal::SIGCONT);
            load.wait_for_more(2);
        }
        load.wait_for_more(100);
        drop(stop);
        let heard = listening.into_iter().map(|thread| thread.join().unwrap());
        heard.inspect(|(_, end)| assert_eq!(*end, None)).map(|(heard, _)| heard).collect::<Vec<_>>()
    });
    load.judge(&heard, &[]).assert_nothing_lost();
}

/// Whether all threads are stopped: the letter behind the name in proc_pid_stat(5).
fn stands_still(gateway: &Gateway) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let stats = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
    stats.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')))
}

/// A control group with a memory limit. Ends with the value, which must outlive the gateway in it.
struct MemoryGroup {
    folder: PathBuf,
    limit_file: &'static str,
}

impl MemoryGroup {
    /// `None`, aloud, where this host lets the test make none: that needs root and a cgroup file system that can be written.
    fn new(limit_bytes: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = |kind: &str| own.lines().find_map(|line| line.split_once(kind)).map(|(_, path)| path.to_owned());
        let name = format!("tidegate-{}", free_port());
        let version_1 = path(":memory:").map(|path| (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"));
        let group = version_1.or_else(|| path("0::").map(|path| (format!("/sys/fs/cgroup{path}"), "memory.max")))?;
        let group = Self { folder: Path::new(&group.0).join(name), limit_file: group.1 };
        let made = std::fs::create_dir(&group.folder)
            .and_then(|()| std::fs::write(group.folder.join(group.limit_file), limit_bytes.to_string()));
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                println!("not tested: no memory cgroup can be made here: {error}");
                None
            }
        }
    }

    /// Processes of the group that the kernel killed.
    fn kills(&self) -> u64 {
        let events = if self.limit_file == "memory.max" { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(self.folder.join(events)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

const LIMIT_BYTES: u64 = 64 << 20;

fn under_a_memory_limit_admission_stops_before_the_kernel_kills(driver: Driver) {
    let Some(group) = MemoryGroup::new(LIMIT_BYTES) else { return };
    let args = ["--connection-rate", "0", "--shards", "1"];
    let mut gateway = Gateway::on(driver).args(&args).inside(&group.folder).start();
    let capacity = gateway.metrics().value("ws_connection_capacity") as usize;
    assert!((500..15_000).contains(&capacity), "the limit binds: {capacity} connections");
    let mut incident = Incident::begin("memory limit 64 MiB, more clients than fit", driver);
    let mut inside = Vec::new();
    let refused = loop {
        let mut stream = http::connect(gateway.port);
        stream.write_all(http::upgrade("/raw/lobby", &[]).as_bytes()).unwrap();
        let status = http::read_answer(&mut stream).unwrap().status;
        if status != 101 {
            break status;
        }
        inside.push(stream);
        assert!(inside.len() <= capacity, "nobody stops admission");
    };
    incident.detected();
    assert_eq!((refused, inside.len()), (503, capacity));
    // Everybody inside is served, to the last one.
    let mut hear = |text: &[u8]| {
        for stream in &mut inside {
            assert_eq!(read_frame(stream), Some((0x81, text.to_vec())));
        }
    };
    assert_eq!(gateway.publish("lobby", "\"all\""), 202);
    hear(b"\"all\"");
    inside.truncate(10);
    gateway.wait("there is room again", |gateway| Client::try_connect(gateway.port, "/").is_ok());
    incident.recovered();
    assert_eq!(group.kills(), 0);
    drop((inside, gateway));
}

/// The capacity was what was free at the start: a pod that was resized while it ran was killed by the kernel, or refused clients
/// for which there was room.
#[test]
fn a_memory_limit_that_changes_while_the_node_runs_changes_its_capacity() {
    let Some(group) = MemoryGroup::new(8 * LIMIT_BYTES) else { return };
    let capacity = |gateway: &Gateway| gateway.metrics().value("ws_connection_capacity");
    let mut gateway = Gateway::on(Driver::Epoll).inside(&group.folder).start();
    let mut client = Client::connect(gateway.port);
    let at_start = capacity(&gateway);
    let limit = |bytes: u64| std::fs::write(group.folder.join(group.limit_file), bytes.to_string()).unwrap();
    limit(LIMIT_BYTES);
    gateway.wait("the capacity is that of the new limit", |gateway| capacity(gateway) < at_start * 0.8);
    assert_eq!(gateway.get("/v1/node").json()["capacity"]["boundBy"], "memory");
    client.join("lobby");
    limit(8 * LIMIT_BYTES);
    gateway.wait("it is what it was", |gateway| capacity(gateway) > at_start * 0.9);
    drop((client, gateway));
}

/// Slow readers, unfinished heads and messages and floods together, each up to its own bound and all up to the node's (G6).
fn hostile_clients_under_a_memory_limit_are_bounded(driver: Driver) {
    let Some(group) = MemoryGroup::new(LIMIT_BYTES) else { return };
    let args = ["--connection-rate", "0", "--shards", "1", "--message-rate", "0"];
    let config = "[limits]\nhandshake_deadline = \"60s\"\nwrite_stall = \"3s\"\nclose_deadline = \"1s\"";
    let mut gateway = Gateway::on(driver).args(&args).config(config).inside(&group.folder).start();
    let mut incident = Incident::begin("memory limit 64 MiB, hostile clients", driver);
    let connect = |octets: &[u8]| {
        let mut stream = http::connect(gateway.port);
        let _ = stream.write_all(octets);
        stream
    };
    let head = http::upgrade("/", &[]);
    let half = format!("{}X: {}", &head[..head.len() - 2], "x".repeat(7_000));
    let heads: Vec<TcpStream> = (0..300).map(|_| connect(half.as_bytes())).collect();
    // Messages that are never finished: together more than there is.
    let unfinished = masked(0x82, &[b'x'; 60_000]);
    let messages: Vec<TcpStream> = (0..1_500)
        .map(|_| {
            let mut stream = http::connect(gateway.port);
            open(&mut stream, "/raw/unfinished");
            let _ = stream.write_all(&unfinished[..unfinished.len() - 1]);
            stream
        })
        .collect();
    gateway.wait_for_at_least("ws_closes_total{reason=\"message-budget\"}", 1.0);
    // Readers that never read a room in which 16 KiB messages fly.
    let readers: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = http::connect(gateway.port);
            open(&mut stream, "/raw/lobby");
            stream
        })
        .collect();
    let pings = masked(0x89, &[b'p'; 100]).repeat(100);
    readers.iter().for_each(|mut stream| drop(stream.write_all(&pings)));
    let padding = format!("\"{}\"", "x".repeat(16 * 1024));
    let reasons = ["slow-reader", "outbox-budget", "write-stall"];
    let sent_away = |gateway: &Gateway| {
        let metrics = gateway.metrics();
        reasons.iter().map(|reason| metrics.value(&format!("ws_closes_total{{reason=\"{reason}\"}}"))).sum::<f64>()
    };
    gateway.wait("slow readers are sent away", |gateway| {
        assert_eq!(gateway.publish("lobby", &padding), 202);
        sent_away(gateway) >= 90.0
    });
    incident.detected();
    Client::connect(gateway.port).join("served");
    drop((heads, messages, readers));
    gateway.wait_for("ws_outbox_bytes", 0.0);
    incident.recovered();
    assert_eq!(group.kills(), 0);
    drop(gateway);
}

/// Memory that could not be read counted as none, and everybody got 503.
fn a_host_that_hides_how_much_memory_it_has_is_served_and_its_operator_told(driver: Driver) {
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    check.args(["check", "--target", "100"]).current_dir(std::env::temp_dir());
    // SAFETY: between fork and exec nothing but system calls.
    unsafe { check.pre_exec(gateway::hide_proc) };
    let report = match check.output() {
        Ok(output) => String::from_utf8(output.stdout).unwrap(),
        Err(error) => return println!("not tested: /proc cannot be hidden here: {error}"),
    };
    assert!(report.contains("/proc/meminfo cannot be read") && report.contains("set max_connections"), "{report}");
    let gateway = Gateway::on(driver).without_proc().start();
    assert!(gateway.log().contains("memory cannot be read"), "{}", gateway.log());
    assert!(gateway.metrics().value("ws_connection_capacity") > 100.0);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
    assert_eq!(gateway.publish("lobby", "1"), 202);
    assert_eq!(client.content("lobby"), 1);
}
