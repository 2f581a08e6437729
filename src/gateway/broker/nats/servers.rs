//! Which server the client connects to next: one that answers.
//!
//! A cluster advertises addresses that this node may never reach (pods' addresses, addresses behind NAT), and the client would wait
//! for each. So servers are asked first: a TCP connection, and the line `INFO` that a NATS server begins with.
//!
//! ```text
//!   configured ──► all at once ─┬─ one answers ──► that one
//!                               └─ none within LEAD, or all failed ──► the advertised ones too ──► the first that answers
//!   none within the round's patience ──► delay with jitter ──► the next round, more patient
//! ```
//!
//! Servers whose last connection failed (log-in, TLS) come after the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{ReconnectToServer, Server, ServerAddr};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

use super::connect_options::retry_delay;
use super::log_limit::LogLimit;

/// How long servers that are asked first may take before others are asked too.
const LEAD: Duration = Duration::from_millis(300);
/// How long one server may take to answer, in the first round; each round doubles it.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same at most: nats-server itself gives a client 2 s to log in.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// Servers that are asked in one round; a cluster whose pods come and go has advertised more than it has.
const SERVERS_PER_ROUND: usize = 32;
/// Bytes of `INFO` that are looked at.
const HELLO_BYTES: usize = 4;

/// What the client tries, for the log. Shared with the client's tasks.
#[derive(Default)]
pub(super) struct Attempts(Mutex<State>);

#[derive(Default)]
struct State {
    server: Option<String>,
    login_error: Option<String>,
    log_limit: LogLimit,
}

impl Attempts {
    /// The address that the client tries, or tried last; `otherwise` before the first.
    pub(super) fn server(&self, otherwise: impl FnOnce() -> String) -> String {
        self.state().server.clone().unwrap_or_else(otherwise)
    }

    /// The files of the log-in were read: why they cannot be used, where they cannot.
    pub(super) fn handle_login(&self, error: Option<String>) {
        self.state().login_error = error;
    }

    /// Why the last attempt could not log in, where that is this node's own fault.
    pub(super) fn login_error(&self) -> Option<String> {
        self.state().login_error.clone()
    }

    /// The client is connected: the next line is logged whatever it says.
    pub(super) fn handle_connected(&self) {
        self.state().log_limit.clear();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chosen(&self, server: &ServerAddr) {
        self.state().server = Some(server.as_url_str().to_owned());
    }

    fn log_failures(&self, failures: &[String]) {
        let text = format!(
            "cannot reach the broker at {}; check that nats-server runs there, nats.url and the firewall",
            failures.join(", ")
        );
        self.state().log_limit.warn(text, Instant::now());
    }
}

/// Asks until a server answers. The client then waits its own delay, which grows with the attempts that failed.
pub(super) async fn choose(pool: Vec<Server>, attempts: Arc<Attempts>) -> Option<ReconnectToServer> {
    let mut patience = PATIENCE;
    for round in 1.. {
        match ask(stages(&pool), patience).await {
            Ok(addr) => {
                attempts.chosen(&addr);
                return Some(ReconnectToServer { addr, delay: None });
            }
            Err(failures) => attempts.log_failures(&failures),
        }
        patience = (patience * 2).min(PATIENCE_MAX);
        tokio::time::sleep(retry_delay(round)).await;
    }
    None
}

/// The servers in the order in which they are asked, those of one stage together.
fn stages(pool: &[Server]) -> VecDeque<Vec<ServerAddr>> {
    let mut stages: BTreeMap<(usize, bool), Vec<ServerAddr>> = BTreeMap::new();
    for server in pool {
        stages.entry((server.failed_attempts, server.is_discovered)).or_default().push(server.addr.clone());
    }
    let mut left = SERVERS_PER_ROUND;
    let bounded = stages.into_values().map(|mut stage| {
        stage.truncate(left);
        left -= stage.len();
        stage
    });
    bounded.filter(|stage| !stage.is_empty()).collect()
}

/// The first server that answers.
///
/// # Errors
/// Each server's address, and why it did not.
async fn ask(mut stages: VecDeque<Vec<ServerAddr>>, patience: Duration) -> Result<ServerAddr, Vec<String>> {
    let (mut asked, mut failures) = (FuturesUnordered::new(), Vec::new());
    while let Some(stage) = stages.pop_front() {
        asked.extend(stage.into_iter().map(|server| hello(server, patience)));
        let lead = tokio::time::sleep(LEAD);
        tokio::pin!(lead);
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Ok(server)) => return Ok(server),
                    Some(Err(failure)) => failures.push(failure),
                    None => break,
                },
                () = &mut lead, if !stages.is_empty() => break,
            }
        }
    }
    Err(failures)
}

/// Whether a server answers: any of its name's addresses.
async fn hello(server: ServerAddr, patience: Duration) -> Result<ServerAddr, String> {
    let outcome = tokio::time::timeout(patience, async {
        let addresses: Vec<_> = server.socket_addrs().await?.collect();
        let mut asked: FuturesUnordered<_> = addresses.into_iter().map(hello_at).collect();
        let mut last = std::io::Error::other("its name has no address");
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    match outcome.await {
        Ok(Ok(())) => Ok(server),
        Ok(Err(error)) => Err(format!("{} ({error})", server.as_url_str())),
        Err(_) => Err(format!("{} (no answer within {} ms)", server.as_url_str(), patience.as_millis())),
    }
}

async fn hello_at(address: std::net::SocketAddr) -> std::io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let mut hello = [0; HELLO_BYTES];
    loop {
        match stream.peek(&mut hello).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            HELLO_BYTES => break,
            // A part of the word: what was looked at stays readable.
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    // What is left unread would make the close a reset.
    let _ = stream.try_read(&mut [0; 16 * 1024]);
    if &hello == b"INFO" { Ok(()) } else { Err(std::io::Error::other("it is no NATS server")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16, failed_attempts: usize, is_discovered: bool) -> Server {
        let addr = format!("nats://127.0.0.1:{port}").parse().unwrap();
        Server { addr, failed_attempts, did_connect: false, is_discovered, last_error: None }
    }

    #[test]
    fn configured_servers_are_asked_before_advertised_ones_and_those_that_failed_last() {
        let pool =
            [server(1, 0, true), server(2, 1, false), server(3, 0, false), server(4, 0, false), server(5, 1, true)];
        let ports = |stage: &Vec<ServerAddr>| stage.iter().map(ServerAddr::port).collect::<Vec<_>>();
        assert_eq!(stages(&pool).iter().map(ports).collect::<Vec<_>>(), [vec![3, 4], vec![1], vec![2], vec![5]]);
        let crowd: Vec<Server> = (1..1_000).map(|port| server(port, 0, port > 2)).collect();
        assert_eq!(stages(&crowd).iter().map(Vec::len).sum::<usize>(), SERVERS_PER_ROUND);
    }
}
