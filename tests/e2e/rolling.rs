//! A new version is rolled out: one node after the other is drained and started again while everybody talks.

use std::time::Duration;

use crate::support::checker::{self, Heard, Verdict};
use crate::support::client::{Client, End, Said};
use crate::support::gateway::{Driver, Gateway};
use crate::support::incident::Incident;
use crate::support::load::Load;
use crate::support::nats::{Nats, PlainClient};

crate::on_both_drivers! {
    a_rolling_restart_of_two_nodes_under_load_loses_nothing_untold
}

/// A client as the one in docs/protocol.md: goes where there is a node, joins again, and listens until the last word. One record for each
/// membership, with the first number that it must have heard.
fn listen(load: &Load, ports: [u16; 2], mut at: usize) -> Vec<(u64, Vec<Heard>)> {
    let mut memberships = Vec::new();
    loop {
        let Some(mut client) = joined(ports[at % 2]) else {
            at += 1;
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let since = load.next_number();
        let (heard, end) = load.hear_since(since, &mut client);
        memberships.push((since, heard));
        match end {
            None => return memberships,
            Some(End::Closed(code, _)) => assert_eq!(code, 1012, "a drain is told"),
            Some(End::Lost) => panic!("a drain resets nobody"),
        }
        at += 1;
    }
}

/// A member of the room, if the node takes clients.
fn joined(port: u16) -> Option<Client> {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    crate::support::http::be_patient(&stream);
    let (mut client, _) = Client::over(stream, "/?attempt=1", &[]).ok()?;
    if !client.try_say(&serde_json::json!({"type": "join", "roomId": "lobby"})) {
        return None;
    }
    loop {
        match client.next() {
            Said::Text(text) if text.contains("\"joined\"") => return Some(client),
            Said::Text(_) => {}
            _ => return None,
        }
    }
}

fn a_rolling_restart_of_two_nodes_under_load_loses_nothing_untold(driver: Driver) {
    let broker = Nats::start();
    let args = ["--nats-url", &broker.url(), "--drain-window", "1s", "--connection-rate", "0"];
    let mut nodes = [Gateway::start(driver, &args), Gateway::start(driver, &args)];
    let ports = [nodes[0].port, nodes[1].port];
    let mut backend = PlainClient::connect(broker.address());
    let load = Load::default();
    let memberships: Vec<Vec<(u64, Vec<Heard>)>> = std::thread::scope(|scope| {
        let load = &load;
        let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || listen(load, ports, number))).collect();
        scope.spawn(|| {
            load.publish_with(|content| {
                backend.publish("tidegate.room.lobby", content.to_string().as_bytes());
                std::thread::sleep(Duration::from_millis(1));
            });
        });
        let stop = load.stop_at_the_end();
        for node in &mut nodes {
            node.wait_for_at_least("ws_rooms_active", 1.0);
            load.wait_for_more(100);
            let mut incident = Incident::begin("rolling restart of a node under load (window 1 s)", driver);
            assert_eq!(node.terminate(), 0, "{}", node.log());
            incident.detected();
            node.restart();
            incident.lifted();
            node.wait_for("ws_relay_connected", 1.0);
            incident.recovered();
        }
        load.wait_for_more(100);
        drop(stop);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let moves: usize = memberships.iter().map(|memberships| memberships.len() - 1).sum();
    assert!(moves >= 8, "everybody had to move, not {moves} times in all");
    // One membership ends where the next one begins, the last one with the last message.
    let judged = memberships.iter().map(|memberships| {
        let ends = memberships.iter().skip(1).map(|(since, _)| *since).chain([load.published()]);
        memberships
            .iter()
            .zip(ends)
            .map(|((since, heard), end)| checker::judge_range(*since..end, heard, &[1012]))
            .sum::<Verdict>()
    });
    judged.sum::<Verdict>().assert_promises();
}
