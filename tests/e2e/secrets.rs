//! What nobody may read who does not know it already: tokens, passwords, what clients carry in their query.

use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::{Nats, NatsOptions};

crate::on_both_drivers! {
    no_secret_shows_in_any_log_metric_answer_or_argument
}

/// All secrets of this story have it in them.
const MARK: &str = "s3cret";

fn no_secret_shows_in_any_log_metric_answer_or_argument(driver: Driver) {
    let login = ["--user", "gateway", "--pass", "s3cret-broker"].map(String::from).to_vec();
    let mut broker = Nats::start_with(NatsOptions { arguments: login, ..NatsOptions::default() });
    let config = format!(
        "log = \"trace\"\n[admin]\ntoken = \"s3cret-admin-0123456789\"\n[publish]\ntoken = \"s3cret-publish-0123456789\"\n\
         [nats]\nurl = \"{}\"\nuser = \"gateway\"\npassword = \"s3cret-broker\"",
        broker.url()
    );
    let mut gateway = Gateway::on(driver).config(&config).start();
    let admin = "Authorization: Bearer s3cret-admin-0123456789";
    // Used as they are meant to be, and not.
    let mut client = Client::connect_at(gateway.port, "/?access_token=s3cret-query");
    client.join("lobby");
    let publish = |token: &str| {
        let token = format!("Authorization: Bearer {token}");
        gateway.ask("POST", "/v1/rooms/lobby/messages", &[&token, "Content-Type: text/plain"], b"hello").status
    };
    assert_eq!(publish("s3cret-publish-0123456789"), 202);
    assert_eq!(client.content("lobby"), "hello");
    assert!(matches!(publish("s3cret-near-miss"), 401 | 403));
    assert!(Client::try_connect(gateway.port, "/nowhere?token=s3cret-query").is_err());
    let mut spoiled = crate::support::http::connect(gateway.port);
    std::io::Write::write_all(&mut spoiled, b"GET /?s3cret-query HTTP/1.1\r\nCookie: s3cret\r\nno colon\r\n\r\n")
        .unwrap();
    assert_eq!(crate::support::http::read_answer(&mut spoiled).unwrap().status, 400);
    broker.kill();
    gateway.wait_for("ws_relay_connected", 0.0);
    broker.restart();
    gateway.wait_for("ws_relay_connected", 1.0);
    let mut shown = vec![("metrics", gateway.get("/metrics").text())];
    for path in ["/live", "/ready", "/v1/node", "/v1/rooms", "/v1/connections"] {
        let answer = gateway.ask("GET", path, &[admin], b"");
        assert_eq!(answer.status, 200, "{path}");
        shown.push((path, answer.text()));
    }
    let of_process = |file: &str| std::fs::read(format!("/proc/{}/{file}", gateway.pid())).unwrap();
    shown.push(("arguments", String::from_utf8_lossy(&of_process("cmdline")).into_owned()));
    drop(client);
    assert_eq!(gateway.terminate(), 0);
    let log = gateway.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log says all it can: {log}");
    shown.push(("log", log));
    for (where_shown, text) in shown {
        let line = text.lines().find(|line| line.contains(MARK));
        assert_eq!(line, None, "in {where_shown}");
    }
}

/// The handbook said nothing about new tokens: an operator replaced the file, and the node answered 401 to the new token. The token is
/// read at start, so that a file that is gone or wrong is an error there, and takes no port from a running node.
#[test]
fn a_new_admin_token_opens_the_port_after_a_restart_and_until_then_the_old_one_does() {
    let file = std::env::temp_dir().join(format!("tidegate-admin-token-{}", std::process::id()));
    std::fs::write(&file, "the-first-admin-token").unwrap();
    let config = format!("admin.token_file = \"{}\"", file.display());
    let mut gateway = Gateway::on(Driver::Epoll).config(&config).start();
    let status = |gateway: &Gateway, token: &str| {
        gateway.ask("GET", "/v1/node", &[&format!("Authorization: Bearer {token}")], b"").status
    };
    std::fs::write(&file, "the-second-admin-token").unwrap();
    assert_eq!([status(&gateway, "the-first-admin-token"), status(&gateway, "the-second-admin-token")], [200, 401]);
    assert_eq!(gateway.terminate(), 0);
    gateway.restart();
    assert_eq!([status(&gateway, "the-first-admin-token"), status(&gateway, "the-second-admin-token")], [401, 200]);
    std::fs::remove_file(&file).unwrap();
}
