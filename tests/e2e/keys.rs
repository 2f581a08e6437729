//! Keys of a provider: at the start, rotated, gone, and while the provider is down.

use serde_json::json;

use crate::support::client::{Client, End};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;
use crate::support::jwks::{Answer, Provider, SigningKey};
use crate::support::tls::Certificate;

crate::on_both_drivers! {
    a_node_whose_keys_were_never_loaded_is_unready_and_asks_for_patience
}

/// Connects as a page does, with the token as a subprotocol.
fn as_page(port: u16, token: &str) -> Client {
    let protocols = format!("tidegate.v1, bearer.{token}");
    Client::over(http::connect(port), "/", &[("Sec-WebSocket-Protocol", &protocols)]).unwrap().0
}

/// The status of an upgrade with the token in a header.
fn status(port: u16, token: &str) -> u16 {
    let authorization = format!("Bearer {token}");
    Client::over(http::connect(port), "/", &[("Authorization", &authorization)]).map_or_else(|status| status, |_| 101)
}

fn is_refused_for_now(port: u16, token: &str, reason: &str) {
    let mut client = as_page(port, token);
    let error = client.json();
    assert_eq!((&error["code"], &error["reason"]), (&json!("unauthorized"), &json!(reason)), "{error}");
    assert!(matches!(client.end(), End::Closed(1013, _)));
    assert_eq!(status(port, token), 503);
}

fn is_taken(port: u16, token: &str, user: &str) -> Client {
    let mut client = as_page(port, token);
    let welcome = client.json();
    assert_eq!((&welcome["type"], &welcome["user"]), (&json!("welcome"), &json!(user)), "{welcome}");
    client
}

fn a_node_whose_keys_were_never_loaded_is_unready_and_asks_for_patience(driver: Driver) {
    let key = SigningKey::new("one");
    let provider = Provider::start(Answer::body("200 OK", "<html>sign in</html>"));
    let mut gateway = Gateway::on(driver).config(&provider.settings()).unready().start();
    let ready = gateway.ask("GET", "/ready", &[], b"");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("keys-never-loaded")));
    is_refused_for_now(gateway.port, &key.token("alice"), "keys-unavailable");
    gateway.wait("the log says why", |gateway| gateway.log().contains("it is no JWKS"));
    provider.set(Answer::keys(&[&key]));
    gateway.wait_ready(200);
    is_taken(gateway.port, &key.token("alice"), "alice");
    let metrics = gateway.metrics();
    assert_eq!(metrics.value("ws_auth_keys"), 1.0);
    assert_eq!(metrics.value("ws_auth_key_fetches_total{result=\"ok\"}"), 1.0);
    assert!(metrics.value("ws_auth_key_fetches_total{result=\"failed\"}") >= 1.0);
}

/// On one driver: the wire has no part in it, and a provider is asked twice in 30 seconds at most.
#[test]
fn a_key_rotated_while_the_provider_is_down_is_taken_after_its_return_and_the_old_one_ends() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let provider = Provider::start(Answer::keys(&[&old]));
    let mut gateway = Gateway::on(Driver::Epoll).config(&provider.settings()).start();
    let mut alice = is_taken(gateway.port, &old.token("alice"), "alice");
    provider.set(Answer::Nothing);
    is_refused_for_now(gateway.port, &new.token("bob"), "unknown-key");
    is_taken(gateway.port, &old.token("carol"), "carol");
    assert_eq!(provider.asked(), 1, "the last fetch is not 30 s ago");
    // It is asked again because a token asked for it, and is still down.
    gateway.wait_for_at_least("ws_auth_key_fetches_total{result=\"failed\"}", 1.0);
    is_taken(gateway.port, &old.token("carol"), "carol");
    provider.set(Answer::keys(&[&new]));
    gateway.wait_for("ws_auth_key_fetches_total{result=\"ok\"}", 2.0);
    is_taken(gateway.port, &new.token("bob"), "bob");
    is_refused_for_now(gateway.port, &old.token("carol"), "unknown-key");
    // What the old key opened ends within a minute, unless renewed.
    assert!(alice.answer("token-expiring")["expiresIn"].as_u64().unwrap() <= 60_000);
    alice.say(json!({"type": "auth", "token": new.token("alice")}));
    let renewed = alice.answer("authenticated");
    assert!(renewed["expiresIn"].as_u64().unwrap() > 60_000, "{renewed}");
}

/// With TLS, by a certificate that only `auth.ca_file` makes trusted.
#[test]
fn a_provider_with_a_certificate_of_its_own_is_trusted_by_ca_file_only() {
    let certificate = Certificate::new();
    let key = SigningKey::new("one");
    let folder = std::env::temp_dir().join(format!("tidegate-jwks-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("keys"), json!({"keys": [key.jwk()]}).to_string()).unwrap();
    let port = crate::support::nats::free_port();
    let mut server = std::process::Command::new("openssl")
        .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-WWW", "-quiet"])
        .arg("-cert")
        .arg(certificate.file())
        .arg("-key")
        .arg(certificate.file().with_file_name("key.pem"))
        .current_dir(&folder)
        .spawn()
        .unwrap();
    let auth = format!(
        "[auth]\njwks_url = \"https://127.0.0.1:{port}/keys\"\nissuer = \"https://login.example/\"\naudience = \"gateway\"\n"
    );
    let mut strange = Gateway::on(Driver::Epoll).config(&auth).unready().start();
    strange.wait("it is not trusted", |gateway| gateway.log().contains("invalid peer certificate"));
    let ca_file = format!("{auth}ca_file = {:?}\n", certificate.file());
    let gateway = Gateway::on(Driver::Epoll).config(&ca_file).start();
    is_taken(gateway.port, &key.token("alice"), "alice");
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
