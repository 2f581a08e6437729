//! Tokens of a foreign library, brought by a foreign client, and what is never logged.

use std::path::Path;
use std::process::Command;

use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::Nats;

crate::on_both_drivers! {
    tokens_that_pyjwt_signs_open_what_they_grant_and_bad_ones_are_told_their_reason
    a_rooms_own_token_ends_on_one_node_while_another_publishes
}

fn python(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".deps/venv/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/install-test-deps.sh", python.display());
    let mut command = Command::new(python);
    let output = command.arg(root.join("tests/e2e/token_client.py")).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
    out.trim().to_owned()
}

fn tokens_that_pyjwt_signs_open_what_they_grant_and_bad_ones_are_told_their_reason(driver: Driver) {
    let folder = std::env::temp_dir().join(format!("tidegate-tokens-{}-{}", std::process::id(), driver.name()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    python(&["keys", &path("")]);
    let config = format!(
        "[auth]\nleeway = \"1s\"\nsecret_file = {:?}\npublic_key_file = {:?}\njwks_file = {:?}",
        path("secret"),
        path("public.pem"),
        path("keys.json")
    );
    let gateway = Gateway::on(driver).args(&["--log", "trace", "--message-rate", "0"]).config(&config).start();
    assert_eq!(python(&["talk", &gateway.port.to_string(), &path("")]), "all held");
    // A token is a password for as long as it holds: it is in no log line and in no metric.
    let log = gateway.log();
    assert!(!log.contains("eyJ") && log.contains("TRACE"), "a token is logged");
    let metrics = gateway.get("/metrics");
    assert!(metrics.text().contains("ws_auth_total{result=\"ok\"}"), "{}", metrics.text());
    // Some of them came twice. Those that were verified are remembered, and nothing else.
    let figure =
        |name: &str| metrics.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let remembered = [figure("ws_auth_cache_entries"), figure("ws_auth_total{result=\"ok\"}")];
    assert!(remembered[0] > Some(0) && remembered[0] <= remembered[1], "{remembered:?}: {}", metrics.text());
    assert!(figure("ws_auth_total{result=\"cached\"}") > Some(0), "{}", metrics.text());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn a_rooms_own_token_ends_on_one_node_while_another_publishes(driver: Driver) {
    let folder = std::env::temp_dir().join(format!("tidegate-room-tokens-{}-{}", std::process::id(), driver.name()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    python(&["keys", &path("")]);
    let broker = Nats::start();
    let config = format!("[auth]\nleeway = \"0s\"\nsecret_file = {:?}", path("secret"));
    let node = || {
        let arguments = ["--log", "trace", "--message-rate", "0", "--nats-url", &broker.url()];
        Gateway::on(driver).args(&arguments).config(&config).start()
    };
    let (first, second) = (node(), node());
    let ports = [first.port.to_string(), second.port.to_string()];
    assert_eq!(python(&["narrow", &ports[0], &ports[1], &path("")]), "all held");
    assert!(!first.log().contains("eyJ") && !second.log().contains("eyJ"), "a token is logged");
    std::fs::remove_dir_all(&folder).unwrap();
}
