//! What a debugger does to one thread of a running gateway: it holds it while the others run on, or has it panic where it is.
//!
//! The product has no switch for either, and needs none: ptrace(2) stops a single thread (a signal would stop them all), and
//! a thread that is about to run a function of its loop can be sent into `Option::unwrap` of nothing instead.

use std::io;
use std::process::Command;
use std::ptr::{null_mut, without_provenance_mut};

use nix::libc::{self, c_void, pid_t, user_regs_struct};

/// What a thread runs in each turn of its loop, as `nm -C` writes it: a shard's, for either wire, and the relay's, for either bus.
const TURNS: [(&str, &[&str]); 2] = [
    ("shard-", &["tidegate_core::shard::Shard<D>::reap"]),
    // The compiler may inline the second into the first.
    ("relay", &["tidegate_core::relay::Relay<M>::wake_ports", "tidegate_core::relay::router::Router<M>::wake_ports"]),
];
/// What `None.unwrap()` calls: its one argument is where the source stands.
const UNWRAP_FAILED: [&str; 1] = ["core::option::unwrap_failed"];
/// Steps after which a loop that never turned has stopped turning.
const STEPS: usize = 20_000_000;
/// System calls after which the one that is waited for is not made.
const CALLS: usize = 100_000;
/// From the stack's end to what is written there: more than a panic and its report need.
const BELOW_STACK_BYTES: u64 = 512 * 1024;

/// A thread that stands still. Goes on with the end of the value.
pub struct Held {
    thread: pid_t,
    process: u32,
    turn: &'static [&'static str],
}

impl Held {
    /// Stops the thread of this name wherever it is. Its process must be a child of the caller's.
    pub fn hold(process: u32, name: &str) -> Self {
        let (_, turn) = TURNS.into_iter().find(|(thread, _)| name.starts_with(thread)).expect("a thread with a loop");
        let held = Self { thread: thread_named(process, name), process, turn };
        held.request(libc::PTRACE_SEIZE, 0, 0);
        held.request(libc::PTRACE_INTERRUPT, 0, 0);
        held.wait();
        held
    }

    /// Goes on to the beginning of the next turn of the thread's loop, and stops it there: in the middle of its work.
    pub fn step_into_turn(&self) {
        let turns = addresses(self.process, self.turn);
        for _ in 0..STEPS {
            if turns.contains(&self.registers().rip) {
                return;
            }
            self.request(libc::PTRACE_SINGLESTEP, 0, 0);
            self.wait();
        }
        panic!("the thread does not come to {:?}", self.turn);
    }

    /// Goes on, and panics at the beginning of the next turn of the thread's loop.
    pub fn panic(self) {
        self.step_into_turn();
        let mut registers = self.registers();
        let place = registers.rsp - BELOW_STACK_BYTES;
        // core::panic::Location: the file's name (with a NUL that its length may count), line, column.
        let location = [place + 64, 9, 1 | 1 << 32];
        let file = [u64::from_le_bytes(*b"debugger"), 0];
        for (words, address) in [(&location[..], place), (&file[..], place + 64)] {
            for (word, number) in words.iter().zip(0..) {
                self.request(libc::PTRACE_POKEDATA, address + 8 * number, *word);
            }
        }
        registers.rip = addresses(self.process, &UNWRAP_FAILED)[0];
        registers.rdi = place;
        self.set(&mut registers);
    }

    /// Goes on to the thread's next system call of this number, has it fail without being made, and stops the thread again.
    pub fn fail_call(&self, number: i64, error: i32) {
        for _ in 0..CALLS {
            self.go_to_call();
            let mut registers = self.registers();
            // At the beginning of a call its result reads as ENOSYS; at its end hardly ever.
            if registers.rax as i64 != -i64::from(libc::ENOSYS) || registers.orig_rax as i64 != number {
                continue;
            }
            // There is no such call.
            registers.orig_rax = u64::MAX;
            self.set(&mut registers);
            self.go_to_call();
            let mut registers = self.registers();
            registers.rax = i64::from(-error) as u64;
            return self.set(&mut registers);
        }
        panic!("the thread makes no system call {number}");
    }

    /// Goes on to the beginning of the next system call, or the end of this one.
    fn go_to_call(&self) {
        self.request(libc::PTRACE_SYSCALL, 0, 0);
        self.wait();
    }

    fn set(&self, registers: &mut user_regs_struct) {
        self.request(libc::PTRACE_SETREGS, 0, (&raw mut *registers).expose_provenance() as u64);
    }

    fn registers(&self) -> user_regs_struct {
        // SAFETY: the structure is made of integers, for which zero is a value.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, (&raw mut registers).expose_provenance() as u64);
        registers
    }

    fn request(&self, request: u32, address: u64, data: u64) {
        let pointer = |value: u64| without_provenance_mut::<c_void>(value as usize);
        // SAFETY: the only memory of this process that is named is a structure of the kernel's layout that outlives the call.
        let result = unsafe { libc::ptrace(request, self.thread, pointer(address), pointer(data)) };
        assert!(result == 0, "ptrace({request:#x}): {}; the tests need ptrace(2)", io::Error::last_os_error());
    }

    fn wait(&self) {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        let waited = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, self.thread, "{}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "the thread ended while it was held: {status:#x}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: nothing is pointed to. A thread that has ended is not there to go on.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, null_mut::<c_void>(), null_mut::<c_void>()) };
    }
}

fn thread_named(process: u32, name: &str) -> pid_t {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    for thread in threads {
        let path = thread.unwrap().path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
            return path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        }
    }
    panic!("process {process} has no thread {name}");
}

/// Where functions of these names are in the memory of the process.
fn addresses(process: u32, functions: &[&str]) -> Vec<u64> {
    let binary = std::fs::read_link(format!("/proc/{process}/exe")).unwrap().display().to_string();
    let symbols =
        Command::new("nm").args(["-C", &binary]).output().expect("no nm: install binutils, a C compiler has it");
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let first = maps.lines().find(|line| line.ends_with(&binary)).and_then(|line| line.split_once('-')).unwrap();
    let base = u64::from_str_radix(first.0, 16).unwrap();
    let named = symbols.lines().filter_map(|line| {
        let mut words = line.splitn(3, ' ');
        let (address, _, name) = (words.next()?, words.next()?, words.next()?);
        functions.contains(&name).then(|| base + u64::from_str_radix(address, 16).unwrap())
    });
    let found: Vec<u64> = named.collect();
    assert!(
        !found.is_empty(),
        "{binary} has no function of {functions:?}: build it with the dev profile, which does not inline them all"
    );
    found
}
