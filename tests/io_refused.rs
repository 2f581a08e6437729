//! What the program does where the kernel answers io_uring's calls as container runtimes and empty hosts do: a seccomp
//! filter in front of the real binary gives the answers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use support::nats::free_port;

/// When a test that waits for something gives up.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const SETUP: i64 = libc::SYS_io_uring_setup;
const ENTER: i64 = libc::SYS_io_uring_enter;
const REGISTER: i64 = libc::SYS_io_uring_register;

#[test]
fn where_a_sandbox_refuses_rings_the_node_runs_on_epoll_and_says_why_once() {
    for (errno, name) in [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS"), (libc::EOPNOTSUPP, "EOPNOTSUPP")] {
        let mut node = Node::start(SETUP, errno, "auto");
        assert!(node.metrics().contains("driver=\"epoll\""), "with {name}");
        let log = node.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("refused")).collect();
        assert_eq!(lines.len(), 1, "one line tells: {log}");
        assert!(lines[0].contains("epoll") && lines[0].contains(name), "{}", lines[0]);
    }
}

#[test]
fn a_kernel_that_does_not_know_a_flag_is_answered_with_epoll() {
    let mut node = Node::start(SETUP, libc::EINVAL, "auto");
    assert!(node.metrics().contains("driver=\"epoll\""));
    assert!(node.log().contains("older than 6.1"), "{}", node.log());
}

#[test]
fn a_ring_that_can_be_made_but_not_used_is_refused_too() {
    for call in [ENTER, REGISTER] {
        let mut node = Node::start(call, libc::EPERM, "auto");
        assert!(node.metrics().contains("driver=\"epoll\""), "{}", node.log());
    }
}

#[test]
fn without_a_filter_the_same_node_chooses_io_uring_and_says_so() {
    // Asked of the kernel, not of our probe: a probe that always refuses would pass all the tests above.
    let mut builder: io_uring::Builder = io_uring::IoUring::builder();
    if let Err(error) = builder.setup_single_issuer().setup_defer_taskrun().build(8) {
        println!("not shown here: this host refuses io_uring by itself ({error})");
        return;
    }
    // A call that nobody makes.
    for driver in ["auto", "io_uring"] {
        let mut node = Node::start(libc::SYS_acct, libc::EPERM, driver);
        assert!(node.metrics().contains("driver=\"io_uring\""), "with {driver}: {}", node.log());
        assert!(!node.log().contains("refused"), "{}", node.log());
    }
}

#[test]
fn io_uring_that_is_wanted_and_refused_ends_the_start_with_what_to_do() {
    let mut node = Node::start(SETUP, libc::EPERM, "io_uring");
    assert_eq!(node.exit_code(), 3);
    let log = node.log();
    assert!(log.contains("EPERM") && log.contains("--driver auto"), "{log}");
}

#[test]
fn a_lack_of_memory_or_descriptors_is_no_refusal_and_ends_the_start() {
    for (errno, cure) in [(libc::ENOMEM, "memory limit"), (libc::EMFILE, "nofile")] {
        let mut node = Node::start(SETUP, errno, "auto");
        assert_eq!(node.exit_code(), 3, "every shard would meet the same lack");
        let log = node.log();
        assert!(log.contains(cure) && log.contains("--driver epoll"), "{log}");
    }
}

#[test]
fn epoll_that_is_wanted_needs_no_ring_at_all() {
    let mut node = Node::start(SETUP, libc::ENOMEM, "epoll");
    assert!(node.metrics().contains("driver=\"epoll\""), "{}", node.log());
}

/// The program behind a filter. Ends with the value.
struct Node {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Node {
    /// Starts the program where `call` is answered with `errno`.
    fn start(call: i64, errno: i32, driver: &str) -> Self {
        let (listen, admin) = (loopback(free_port()), loopback(free_port()));
        let log = std::env::temp_dir().join(format!("tidegate-refused-{}-{}", std::process::id(), listen.port()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .args(["--shards", "1", "--driver", driver])
            .current_dir(std::env::temp_dir())
            .stdout(File::create("/dev/null").unwrap())
            .stderr(File::create(&log).unwrap());
        // SAFETY: between fork and exec only two system calls are made, with memory that was there before.
        unsafe { command.pre_exec(move || answer(call as u32, errno)) };
        Self { child: command.spawn().unwrap(), admin, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The metrics, once the program serves them and all lines of its start are written: a thread of its own writes them, in order.
    fn metrics(&mut self) -> String {
        let answer = self.served_metrics();
        let deadline = Instant::now() + LONGEST_WAIT;
        while !self.log().contains("serving") {
            assert!(Instant::now() < deadline, "the last line of the start is not written\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        answer
    }

    fn served_metrics(&mut self) -> String {
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            if let Ok(mut stream) = TcpStream::connect(self.admin) {
                stream.set_read_timeout(Some(LONGEST_WAIT)).unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                return answer;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "the node does not serve\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn exit_code(&mut self) -> i32 {
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "the node goes on\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Has the calling process, and what it executes, get `errno` from `call`.
fn answer(call: u32, errno: i32) -> std::io::Result<()> {
    // struct seccomp_data starts with the call's number.
    const NUMBER_OFFSET: u32 = 0;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER_OFFSET),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain calls; the filter's pointer is valid for the length it says.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
