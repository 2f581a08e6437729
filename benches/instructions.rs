//! One hot path, a fixed number of times: `instructions PATH` for `scripts/instructions.sh`, which lets callgrind count what
//! happens inside [`measured`] and divides by the number that this program prints.
//!
//! | path | one of it is |
//! |---|---|
//! | `frame-in` | a read that brings a masked text frame of 128 octets: header, mask, UTF-8, and the same message sent back |
//! | `publish` | a native client's message of 128 octets of JSON, from the read to the relay's mailbox |
//! | `deliver` | one member's part of a publication of 128 octets into a room of 1,000 |
//! | `upgrade` | a socket accepted, its request read, the 101 and the welcome sent |
//! | `heartbeat` | a ping sent by the sweep to an idle connection and the pong heard, with the looks at it between two pings |

mod harness;

use std::io::Write as _;
use std::process::ExitCode;

use harness::{Harness, masked, message, publication};
use tidegate_core::ws::frame::{PONG, TEXT};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OCTETS: usize = 128;
const CONNECTIONS: usize = 100;
const MEMBERS: usize = 1_000;
const ROUNDS: u64 = 20;
/// The default ping interval of 25 s.
const HEARTBEAT_TICKS: u64 = 250;

/// A hot path.
#[derive(Clone, Copy)]
enum Path {
    FrameIn,
    Publish,
    Deliver,
    Heartbeat,
    Upgrade,
}

/// What is counted: the script names this function to callgrind. Returns how often the path was taken.
#[inline(never)]
fn measured(harness: &mut Harness, path: Path, frame: &[u8]) -> u64 {
    match path {
        Path::FrameIn | Path::Publish => reads(harness, path, frame),
        Path::Deliver => deliveries(harness),
        Path::Heartbeat => heartbeats(harness, frame),
        Path::Upgrade => upgrades(harness),
    }
}

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let join = masked(TEXT, br#"{"type":"join","roomId":"room.1"}"#);
    let (path, clients, url, then, frame) = match name.as_str() {
        "frame-in" => (Path::FrameIn, CONNECTIONS, "/echo", Vec::new(), masked(TEXT, "x".repeat(OCTETS).as_bytes())),
        "publish" => (Path::Publish, CONNECTIONS, "/", join, masked(TEXT, message("room.1", OCTETS).as_bytes())),
        "deliver" => (Path::Deliver, MEMBERS, "/", join, Vec::new()),
        "upgrade" => (Path::Upgrade, CONNECTIONS, "/", Vec::new(), Vec::new()),
        "heartbeat" => (Path::Heartbeat, MEMBERS, "/", Vec::new(), masked(PONG, b"")),
        _ => {
            let _ = writeln!(std::io::stderr(), "usage: instructions frame-in|publish|deliver|upgrade|heartbeat");
            return ExitCode::from(2);
        }
    };
    let mut harness = Harness::new();
    harness.connect(clients, url, &then);
    let count = measured(&mut harness, path, &frame);
    let wanted = clients as u64 * ROUNDS;
    if count < wanted {
        let _ = writeln!(
            std::io::stderr(),
            "instructions: {name} happened {count} times and not {wanted}: its story no longer fits the shard"
        );
        return ExitCode::FAILURE;
    }
    let _ = writeln!(std::io::stdout(), "{count}");
    ExitCode::SUCCESS
}

/// Every connection reads `frame` once a round.
fn reads(harness: &mut Harness, path: Path, frame: &[u8]) -> u64 {
    let before = harness.sends();
    let mut published = 0;
    for _ in 0..ROUNDS {
        harness.all_say(frame);
        harness.turn();
        published += harness.confirm();
    }
    if matches!(path, Path::Publish) { published } else { harness.sends() - before }
}

fn deliveries(harness: &mut Harness) -> u64 {
    let publication = publication("room.1", OCTETS);
    let before = harness.sends();
    for _ in 0..ROUNDS {
        harness.deliver(&publication);
        harness.turn();
    }
    harness.sends() - before
}

/// As many more clients, each answered by one send: another number of sends is another story.
fn upgrades(harness: &mut Harness) -> u64 {
    let (before, clients) = (harness.sends(), CONNECTIONS as u64 * ROUNDS);
    harness.connect(clients as usize, "/", &[]);
    if harness.sends() - before == clients { clients } else { 0 }
}

/// Time goes by until the connections have answered so many pings together; a sweep that pings nobody must end too.
fn heartbeats(harness: &mut Harness, pong: &[u8]) -> u64 {
    let mut answered = 0;
    for _ in 0..2 * HEARTBEAT_TICKS * ROUNDS {
        harness.tick();
        answered += harness.answer_pings(pong);
        harness.turn();
        if answered >= MEMBERS as u64 * ROUNDS {
            break;
        }
    }
    answered
}
