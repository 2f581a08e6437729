//! Tokens of a foreign library, brought by a foreign client, and what is never logged.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::gateway::{Driver, Gateway};
use crate::support::nats::Nats;

crate::on_both_drivers! {
    tokens_that_pyjwt_signs_open_what_they_grant_and_bad_ones_are_told_their_reason
    a_rooms_own_token_ends_on_one_node_while_another_publishes
}

/// What a program in Python of this folder prints.
pub(crate) fn python(program: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".deps/venv/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/install-test-deps.sh", python.display());
    let mut command = Command::new(python);
    let output = command.arg(root.join("tests/e2e").join(program)).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
    out.trim().to_owned()
}

/// A folder with keys that the Python library made, until it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// For one test on one driver.
    pub(crate) fn with_keys(test: &str, driver: Driver) -> Self {
        let name = format!("tidegate-{test}-{}-{}", std::process::id(), driver.name());
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        python("token_client.py", &["keys", &folder.path("")]);
        folder
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn tokens_that_pyjwt_signs_open_what_they_grant_and_bad_ones_are_told_their_reason(driver: Driver) {
    let folder = Folder::with_keys("tokens", driver);
    let path = |name: &str| folder.path(name);
    let config = format!(
        "[auth]\nleeway = \"1s\"\nsecret_file = {:?}\npublic_key_file = {:?}\njwks_file = {:?}",
        path("secret"),
        path("public.pem"),
        path("keys.json")
    );
    let gateway = Gateway::on(driver).args(&["--log", "trace", "--message-rate", "0"]).config(&config).start();
    assert_eq!(python("token_client.py", &["talk", &gateway.port.to_string(), &path("")]), "all held");
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
}

fn a_rooms_own_token_ends_on_one_node_while_another_publishes(driver: Driver) {
    let folder = Folder::with_keys("room-tokens", driver);
    let path = |name: &str| folder.path(name);
    let broker = Nats::start();
    let config = format!("[auth]\nleeway = \"0s\"\nsecret_file = {:?}", path("secret"));
    let node = || {
        let arguments = ["--log", "trace", "--message-rate", "0", "--nats-url", &broker.url()];
        Gateway::on(driver).args(&arguments).config(&config).start()
    };
    let (first, second) = (node(), node());
    let ports = [first.port.to_string(), second.port.to_string()];
    assert_eq!(python("token_client.py", &["narrow", &ports[0], &ports[1], &path("")]), "all held");
    assert!(!first.log().contains("eyJ") && !second.log().contains("eyJ"), "a token is logged");
}
