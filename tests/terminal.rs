//! A person's first start, on a real terminal: what stands on the screen, and how long Ctrl-C takes.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::ptr::null_mut;
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::client::{Client, End};
use support::gateway::{Driver, Gateway};
use support::http::{self, LONGEST_WAIT};
use support::nats::free_port;

/// The gateway with a pseudo-terminal as its standard error.
struct OnTerminal {
    child: Child,
    lines: Receiver<String>,
}

/// Both ends of a new pseudo-terminal: the screen, and what a program writes to.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut screen, mut program) = (-1, -1);
    // SAFETY: both numbers outlive the call, and a null name, mode or size is left out (openpty(3)).
    let made = unsafe { libc::openpty(&raw mut screen, &raw mut program, null_mut(), null_mut(), null_mut()) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: openpty made them, and nothing else has them.
    unsafe { (OwnedFd::from_raw_fd(screen), OwnedFd::from_raw_fd(program)) }
}

impl OnTerminal {
    fn start(arguments: &[&str]) -> Self {
        let (screen, program) = terminal();
        assert!(nix::unistd::isatty(&program).unwrap(), "descriptor {} is a terminal", program.as_raw_fd());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).current_dir(std::env::temp_dir()).env_clear();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(program).spawn().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Once the program has ended the read fails (EIO).
            for line in BufReader::new(File::from(screen)).lines().map_while(Result::ok) {
                let _ = sender.send(line.trim_end().to_owned());
            }
        });
        Self { child, lines }
    }

    /// The lines up to one that begins so.
    fn screen_until(&self, last: &str) -> Vec<String> {
        let mut screen: Vec<String> = Vec::new();
        while screen.last().is_none_or(|line| !line.starts_with(last)) {
            let next = self.lines.recv_timeout(LONGEST_WAIT);
            screen.push(next.unwrap_or_else(|_| panic!("no line begins with {last:?}: {screen:#?}")));
        }
        screen
    }

    fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn on_a_terminal_the_last_line_at_start_names_an_address_to_open_and_ctrl_c_drains_within_two_seconds() {
    // The first start was a wall of arithmetic about memory without an address to open, and Ctrl-C with one open tab took up to
    // 30 s: the drain spread one client over the window of thousands.
    let (port, admin) = (free_port(), free_port());
    let (listen, admin_listen) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
    let mut gateway = OnTerminal::start(&["--demo", "--listen", &listen, "--admin", &admin_listen, "--shards", "1"]);
    let screen = gateway.screen_until("ready: ");
    let expected =
        format!("ready: http://{listen}/demo · admin http://{admin_listen} · Ctrl-C drains, twice ends at once");
    assert_eq!(screen.last(), Some(&expected));
    assert!(!screen.concat().contains("memory bound"), "the arithmetic is for `check`: {screen:#?}");
    let page = http::request(port, "GET", "/demo", &[], b"");
    assert_eq!(page.status, 200, "the address can be opened");
    let node = http::request(admin, "GET", "/v1/node", &[], b"").json();
    assert_eq!(node["limits"]["drainWindowMs"], 2_000);

    let mut client = Client::connect(port);
    gateway.interrupt();
    let notice = client.json();
    assert_eq!(notice["type"], "server-shutdown");
    assert!(matches!(client.end(), End::Closed(1012, _)));
    assert_eq!(gateway.end().code(), Some(0));
}

#[test]
fn elsewhere_the_start_is_one_log_line_with_addresses_driver_shards_and_capacity() {
    let mut gateway = Gateway::start(Driver::Epoll, &["--log-format", "json", "--max-connections", "123"]);
    gateway.wait("the line is written", |gateway| gateway.log().contains("serving"));
    let log = gateway.log();
    let infos: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["level"] == "INFO")
        .collect();
    let [line] = &infos[..] else { panic!("not one line: {log}") };
    assert_eq!((&line["message"], &line["driver"]), (&"serving".into(), &"epoll".into()));
    assert_eq!(line["listen"], format!("127.0.0.1:{}", gateway.port));
    assert_eq!(line["admin"], format!("127.0.0.1:{}", gateway.admin));
    assert_eq!((&line["shards"], &line["connections"]), (&2.into(), &123.into()));
    assert_eq!(line["bound_by"], "max_connections");
    let node = gateway.get("/v1/node").json();
    assert_eq!(node["limits"]["drainWindowMs"], 1_000, "no client, and no terminal");
}

#[test]
fn the_memory_arithmetic_of_the_start_is_logged_at_the_level_debug() {
    let mut gateway = Gateway::start(Driver::Epoll, &["--log", "debug"]);
    gateway.wait("the arithmetic is written", |gateway| gateway.log().contains("memory bound"));
}
