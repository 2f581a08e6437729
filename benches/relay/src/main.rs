//! Measures the relay's connection to NATS, side by side in one run: what a received message costs the relay's thread, and what a
//! subscribed room costs in memory and time.
//!
//! ```text
//! cargo run --release --manifest-path benches/relay/Cargo.toml -- [OPTION...]
//!
//! --turns N             measurements of each figure: their median is shown, and the lowest [5]
//! --messages N          messages in a measurement [400000]
//! --rooms N[,N...]      how many rooms are subscribed [100000]
//! --nats-server FILE    the same against a real server too, which is started on --port
//! --port N              a free loopback port [27000]
//! ```
//!
//! | relay | what it is |
//! |---|---|
//! | today | the gateway's own, as it is in this tree |
//! | pared | async-nats with nothing around it that can be left out |
//! | own | the codec in `src/codec`, a subscription's id being the room's place in the interest table |
//! | alone | the interest table and the mailbox without a connection |
//!
//! Each measurement is a process of its own. The relay's thread has a core of its own; the other one has the server that replays the
//! messages and the shard that takes them. CPU is the thread's own, from `/proc/PID/task/TID/schedstat`; memory is `RssAnon`. The relays
//! take turns, so that a slow phase of the host falls on all of them. A relay that the feed cannot keep busy pays for waking up, and a busy
//! host makes the feed slow: the lowest figure is the one of a relay that had messages to read whenever it looked.

mod measure;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use measure::messages::{self, Case};
use measure::relays::Kind;
use measure::rooms;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The messages that are measured, and their names.
const CASES: [(&str, Case); 4] = [
    ("128 B, the gateway's header", Case { bytes: 128, header: true }),
    ("128 B, no header", Case { bytes: 128, header: false }),
    ("4 KiB, the gateway's header", Case { bytes: 4096, header: true }),
    ("4 KiB, no header", Case { bytes: 4096, header: false }),
];
/// Relays that receive messages.
const RECEIVING: [Kind; 3] = [Kind::Today, Kind::Pared, Kind::Own];

struct Options {
    turns: usize,
    messages: usize,
    rooms: Vec<usize>,
    nats_server: Option<String>,
    port: u16,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["one-message", kind, case, count, server] => one_message(kind, case, count, server),
        ["one-room", kind, count, server] => one_room(kind, count, server),
        ["one-bare", count, server] => one_bare(count, server),
        ["one-parse", case, count] => one_parse(case, count),
        ["one-validation", bytes, count] => one_validation(bytes, count),
        _ => Options::parse(&arguments).and_then(|options| options.run()),
    };
    if let Err(error) = ended {
        eprintln!("relay: {error}");
        std::process::exit(1);
    }
}

impl Options {
    fn parse(arguments: &[String]) -> io::Result<Self> {
        let mut options = Self { turns: 5, messages: 400_000, rooms: vec![100_000], nats_server: None, port: 27_000 };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let value =
                rest.next().ok_or_else(|| wrong(format!("{name} needs a value; the options are in src/main.rs")))?;
            match name.as_str() {
                "--turns" => options.turns = number(value)?.max(1),
                "--messages" => options.messages = number(value)?,
                "--rooms" => options.rooms = value.split(',').map(number).collect::<io::Result<_>>()?,
                "--nats-server" => options.nats_server = Some(value.clone()),
                "--port" => options.port = value.parse().map_err(|_| wrong(format!("{value} is no port")))?,
                _ => return Err(wrong(format!("{name} is no option; they are in src/main.rs"))),
            }
        }
        Ok(options)
    }

    fn run(&self) -> io::Result<()> {
        println!("{}\n", host());
        self.messages("-")?;
        self.rooms("-")?;
        let Some(nats_server) = &self.nats_server else { return Ok(()) };
        let _server = Server::start(nats_server, self.port)?;
        let address = format!("127.0.0.1:{}", self.port);
        println!("Through {}:\n", version(nats_server));
        self.messages(&address)?;
        self.rooms(&address)
    }

    /// µs of the relay's thread for a message.
    fn messages(&self, server: &str) -> io::Result<()> {
        println!(
            "| CPU of a received message | today | pared | own | its codec alone | validating it |\n|---|---|---|---|---|---|"
        );
        for (index, (name, case)) in CASES.iter().enumerate() {
            let mut figures = vec![Vec::new(); RECEIVING.len() + 2];
            for _ in 0..self.turns {
                for (kind, figures) in RECEIVING.iter().zip(&mut figures) {
                    let output =
                        ask(&["one-message", name_of(*kind), &index.to_string(), &self.messages.to_string(), server])?;
                    figures.extend(output);
                }
                figures[RECEIVING.len()].extend(ask(&["one-parse", &index.to_string(), "2000000"])?);
                figures[RECEIVING.len() + 1].extend(ask(&["one-validation", &case.bytes.to_string(), "100000"])?);
            }
            let microseconds = |ns: f64| format!("{:.2}", ns / 1e3);
            let cells: Vec<_> = figures.into_iter().map(|ns| spread(ns, microseconds, "µs")).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
        println!();
        Ok(())
    }

    fn rooms(&self, server: &str) -> io::Result<()> {
        println!("| rooms | relay | memory a room | until all are confirmed |\n|---|---|---|---|");
        for count in &self.rooms {
            let mut figures = vec![(Vec::new(), Vec::new()); Kind::ALL.len()];
            let mut bare = Vec::new();
            for _ in 0..self.turns {
                for ((_, name), figures) in Kind::ALL.iter().zip(&mut figures) {
                    let output = ask(&["one-room", name, &count.to_string(), server])?;
                    figures.0.extend(output.first());
                    figures.1.extend(output.get(1));
                }
                bare.extend(ask(&["one-bare", &count.to_string(), server])?);
            }
            for ((_, name), (bytes, seconds)) in Kind::ALL.iter().zip(figures) {
                let (bytes, seconds) =
                    (spread(bytes, |bytes| format!("{bytes:.0}"), "B"), spread(seconds, two_places, "s"));
                println!("| {count} | {name} | {bytes} | {seconds} |");
            }
            println!("| {count} | a bare client | – | {} |", spread(bare, two_places, "s"));
        }
        println!();
        Ok(())
    }
}

/// Runs one measurement in a process of its own and gives the numbers that it printed.
fn ask(arguments: &[&str]) -> io::Result<Vec<f64>> {
    let output = Command::new(std::env::current_exe()?).args(arguments).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Option<Vec<f64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    match numbers {
        Some(numbers) if output.status.success() && !numbers.is_empty() => Ok(numbers),
        _ => Err(wrong(format!("{} has failed: {text}", arguments.join(" ")))),
    }
}

fn one_message(kind: &str, case: &str, count: &str, server: &str) -> io::Result<()> {
    println!("{}", messages::measure(kind_named(kind)?, case_at(case)?, number(count)?, address(server)?)?);
    Ok(())
}

fn one_parse(case: &str, count: &str) -> io::Result<()> {
    println!("{}", messages::parsing(case_at(case)?, number(count)?)?);
    Ok(())
}

fn one_room(kind: &str, count: &str, server: &str) -> io::Result<()> {
    let found = rooms::measure(kind_named(kind)?, number(count)?, address(server)?)?;
    println!("{} {}", found.bytes, found.seconds);
    Ok(())
}

fn one_bare(count: &str, server: &str) -> io::Result<()> {
    println!("{}", rooms::bare(number(count)?, address(server)?)?);
    Ok(())
}

fn one_validation(bytes: &str, count: &str) -> io::Result<()> {
    println!("{}", messages::validation(number(bytes)?, number(count)?)?);
    Ok(())
}

fn case_at(index: &str) -> io::Result<Case> {
    CASES.get(number(index)?).map(|(_, case)| *case).ok_or_else(|| wrong("no such case"))
}

fn kind_named(name: &str) -> io::Result<Kind> {
    let found = Kind::ALL.iter().find(|(_, known)| *known == name);
    found.map(|(kind, _)| *kind).ok_or_else(|| wrong(format!("{name} is no relay")))
}

fn name_of(kind: Kind) -> &'static str {
    Kind::ALL.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| name)
}

/// `-`: the replaying server of the measurement itself.
fn address(text: &str) -> io::Result<Option<SocketAddr>> {
    if text == "-" { Ok(None) } else { text.parse().map(Some).map_err(|_| wrong(format!("{text} is no address"))) }
}

fn number(text: impl AsRef<str>) -> io::Result<usize> {
    let text = text.as_ref();
    text.parse().map_err(|_| wrong(format!("{text} is no number")))
}

fn wrong(what: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_string())
}

/// The median, and the lowest in brackets.
fn spread(mut figures: Vec<f64>, show: impl Fn(f64) -> String, unit: &str) -> String {
    figures.sort_by(f64::total_cmp);
    match (figures.get(figures.len() / 2), figures.first()) {
        (Some(median), Some(lowest)) => format!("{} {unit} ({})", show(*median), show(*lowest)),
        _ => String::from("–"),
    }
}

fn two_places(figure: f64) -> String {
    format!("{figure:.2}")
}

/// The processor, its cores, the memory and the kernel.
fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |path: &str, name: &str| {
        let text = read(path);
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim().to_owned()));
        value.unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let (model, memory) = (field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal"));
    format!("{model}, {cores} cores, {memory} of memory, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

fn version(nats_server: &str) -> String {
    let output = Command::new(nats_server).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// A real server, which ends with the program.
struct Server(Child);

impl Server {
    fn start(program: &str, port: u16) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).stderr(Stdio::null());
        let server = Self(command.spawn()?);
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(wrong(format!("{program} does not listen on port {port}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
