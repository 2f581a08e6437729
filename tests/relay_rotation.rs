//! What a broker asks of a node changes while the node runs: credentials expire, a reload removes a user, certificates are replaced.
//! The node reads its files at each attempt, so it comes back without a restart, and its members are told their gap.

mod support;

use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use nkeys::KeyPair;
use support::nats::{Nats, NatsOptions};
use support::operator;
use support::ports::{TestRelay, eventually, json, options};
use support::tls::Certificate;
use tidegate::gateway::config::Secret;
use tidegate_core::model::GapReason;
use tidegate_core::relay::ToShard;

/// The node is back: its members got their gap, and the room works.
fn comes_back(relay: &mut TestRelay) {
    relay.ports[0].until(|item| matches!(item, ToShard::Gap(None, GapReason::Broker)));
    relay.ports[0].publish(json("lobby", "1"), None);
    assert_eq!(relay.ports[0].payload(), "1");
}

/// A token of a user ended in the night. The broker closed the connection, and refused the node until a new file was there.
#[test]
fn credentials_that_expire_are_read_again_when_the_file_is_replaced() {
    support::log::capture();
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let broker = operator::broker(&account);
    let soon = SystemTime::now() + Duration::from_secs(4);
    let soon = soon.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut options = options(&broker.url());
    let file = operator::credentials_file(&broker, &account, &user, "gateway.creds", Some(soon));
    options.config.nats.credentials = Some(file);
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("lobby");

    support::log::wait_for(&[&broker.address().to_string(), "it does not accept the user of nats.credentials"]);
    assert_eq!(relay.counters.connected.value(), 0);
    operator::credentials_file(&broker, &account, &user, "gateway.creds", None);

    comes_back(&mut relay);
}

/// The broker's password was changed by a reload, not by a restart: nats-server closes the connections of users that are gone.
#[test]
fn a_reload_of_the_broker_that_removes_the_user_is_a_gap_and_ends_with_the_new_password() {
    support::log::capture();
    let rule = |password: &str| format!("users: [ {{ user: gw, password: \"{password}\" }} ]");
    let broker = Nats::start_with(NatsOptions {
        config: Some(String::from("authorization { include 'login.conf' }")),
        files: [("login.conf", rule("old-secret")), ("secret", String::from("old-secret"))]
            .map(|(name, content)| (String::from(name), content))
            .to_vec(),
        ..NatsOptions::default()
    });
    let file = broker.directory().join("secret");
    let mut options = options(&broker.url());
    options.config.nats.user = Some(String::from("gw"));
    options.config.nats.password = Some(Secret::in_file(file.clone()).unwrap());
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("lobby");

    std::fs::write(broker.directory().join("login.conf"), rule("new-secret")).unwrap();
    broker.signal(Signal::SIGHUP);
    support::log::wait_for(&[&broker.url(), "authorization violation", "is read again at each attempt"]);
    std::fs::write(&file, "new-secret").unwrap();

    comes_back(&mut relay);
}

/// A certificate of the broker ended and another authority signed the next one; and the broker was told to know another certificate
/// of the node. It was said nowhere, and held by no test, that a node need not be restarted for that.
#[test]
fn a_new_ca_file_and_a_new_client_certificate_are_read_at_the_next_connection() {
    support::log::capture();
    let [old_server, new_server, old_node, new_node] = std::array::from_fn(|_| Certificate::new());
    let of_broker = |server: &Certificate, node: &Certificate| {
        [("cert.pem", &server.certificate), ("key.pem", &server.key), ("nodes.pem", &node.certificate)]
            .map(|(name, content)| (String::from(name), content.clone()))
            .to_vec()
    };
    let config = String::from(
        "tls { cert_file: \"DIRECTORY/cert.pem\", key_file: \"DIRECTORY/key.pem\", ca_file: \"DIRECTORY/nodes.pem\", verify: true }",
    );
    let files = of_broker(&old_server, &old_node);
    let mut broker = Nats::start_with(NatsOptions { config: Some(config), files, ..NatsOptions::default() });
    let [ca, certificate, key] = ["ca", "node", "node-key"].map(|name| broker.directory().join(format!("{name}.pem")));
    std::fs::write(&ca, &old_server.certificate).unwrap();
    std::fs::write(&certificate, &old_node.certificate).unwrap();
    std::fs::write(&key, &old_node.key).unwrap();
    let mut options = options(&format!("tls://{}", broker.address()));
    let nats = &mut options.config.nats;
    (nats.ca_file, nats.cert_file, nats.key_file) = (Some(ca.clone()), Some(certificate.clone()), Some(key.clone()));
    let mut relay = TestRelay::start(options, 1);
    relay.ports[0].join("lobby");

    broker.restart_with_files(of_broker(&new_server, &old_node));
    let cure = "that nats.ca_file knows its certificate, and that it knows the one of nats.cert_file";
    support::log::wait_for(&[&broker.address().to_string(), cure]);
    assert_eq!(relay.counters.connected.value(), 0);
    std::fs::write(&ca, &new_server.certificate).unwrap();
    comes_back(&mut relay);

    broker.restart_with_files(of_broker(&new_server, &new_node));
    eventually("the broker refuses the node's certificate", || broker.log().contains("TLS handshake error"));
    assert_eq!(relay.counters.connected.value(), 0);
    std::fs::write(&certificate, &new_node.certificate).unwrap();
    std::fs::write(&key, &new_node.key).unwrap();
    comes_back(&mut relay);
}
