//! The accept queue: full when a drain begins, filled until the very end, full of the dead.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bad_frames::read_frame;
use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::incident::Incident;

crate::on_both_drivers! {
    an_accept_queue_is_answered_and_not_reset_by_a_drain
    a_crowd_that_connects_until_the_very_end_is_answered_and_not_reset
    connections_that_died_in_the_accept_queue_cost_nothing
}

/// The queue is filled while nobody can accept, so that the drain meets it full.
fn an_accept_queue_is_answered_and_not_reset_by_a_drain(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--drain-window", "0s", "--connection-rate", "0"]);
    gateway.signal(Signal::SIGSTOP);
    let mut queued: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = http::connect(gateway.port);
            stream.write_all(http::upgrade("/", &[]).as_bytes()).unwrap();
            stream
        })
        .collect();
    let incident = Incident::begin("drain with 200 connections in the accept queue", driver);
    gateway.signal(Signal::SIGTERM);
    gateway.signal(Signal::SIGCONT);
    for (number, stream) in queued.iter_mut().enumerate() {
        let answer = http::read_answer(stream).unwrap_or_else(|error| panic!("connection {number} was reset: {error}"));
        match answer.status {
            503 => assert!(answer.header("retry-after").is_some()),
            // Accepted before the signal was: told like everybody else.
            101 => {
                let mut frames = std::iter::from_fn(|| read_frame(stream));
                let close = frames.find(|(first, _)| *first == 0x88).expect("a close frame");
                assert_eq!(close.1[..2], 1012_u16.to_be_bytes(), "connection {number}");
            }
            other => panic!("connection {number} got {other}"),
        }
    }
    drop(queued);
    assert_eq!(gateway.exit().code(), Some(0));
    incident.recovered();
}

fn a_crowd_that_connects_until_the_very_end_is_answered_and_not_reset(driver: Driver) {
    let mut gateway = Gateway::start(driver, &["--drain-window", "0s", "--connection-rate", "0"]);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], gateway.port));
    // Until nobody listens any more, or new SYNs are dropped.
    let answers = || {
        let mut count = 0;
        while let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(700)) {
            http::be_patient(&stream);
            let written = stream.write_all(http::upgrade("/", &[]).as_bytes());
            let answer = written.and_then(|()| http::read_answer(&mut stream));
            let status = answer.unwrap_or_else(|error| panic!("reset after {count} answers: {error}")).status;
            assert!(matches!(status, 101 | 503), "{status}");
            count += 1;
        }
        count
    };
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..24).map(|_| scope.spawn(answers)).collect();
        gateway.wait_for_at_least("ws_accepted_total", 200.0);
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.exit().code(), Some(0));
        assert!(crowd.into_iter().map(|client| client.join().unwrap()).sum::<u64>() > 200);
    });
}

fn connections_that_died_in_the_accept_queue_cost_nothing(driver: Driver) {
    const DEAD: usize = 200;
    let mut gateway = Gateway::start(driver, &["--connection-rate", "0"]);
    gateway.signal(Signal::SIGSTOP);
    for number in 0..DEAD {
        let mut stream = http::connect(gateway.port);
        stream.write_all(http::upgrade("/", &[]).as_bytes()).unwrap();
        if number % 2 == 0 {
            // A close is a reset then.
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        }
    }
    let incident = Incident::begin("200 connections that died in the accept queue", driver);
    gateway.signal(Signal::SIGCONT);
    Client::connect(gateway.port).join("lobby");
    gateway.wait_for_at_least("ws_accepted_total", DEAD as f64 / 2.0);
    gateway.wait_for("ws_sockets", 0.0);
    incident.recovered();
}
