//! Requests of the public port that are no upgrade, and what stands in front of a request: PROXY headers and X-Forwarded-For.

use std::io::{Read, Write};

use crate::support::gateway::{Driver, Gateway};
use crate::support::http::{self, Answer};

crate::on_both_drivers! {
    health_checks_in_any_form_are_answered_and_a_head_request_has_no_body
    the_root_path_answers_a_plain_request_with_a_line_of_text
    the_upgrade_of_the_jdks_websocket_client_is_answered_with_101
    a_subprotocol_is_answered_on_raw_paths_and_a_bearer_token_never
    one_slash_at_the_end_of_a_path_is_ignored_and_an_escaped_one_is_not
    a_missing_or_unexpected_proxy_header_is_refused_with_a_text_that_names_it
    an_x_forwarded_for_counts_only_along_a_chain_of_trusted_proxies
}

/// What is answered to these octets.
fn ask(gateway: &Gateway, octets: impl AsRef<[u8]>) -> Answer {
    let mut stream = http::connect(gateway.port);
    stream.write_all(octets.as_ref()).unwrap();
    http::read_answer(&mut stream).unwrap()
}

fn health_checks_in_any_form_are_answered_and_a_head_request_has_no_body(driver: Driver) {
    // An uptime monitor sends HEAD, HAProxy's default check is HTTP/1.0 without a Host, curl --http2 offers h2c: 405, 505 and 426.
    let gateway = Gateway::start(driver, &["--demo"]);
    let whole = |request: &str| {
        let mut stream = http::connect(gateway.port);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/health", "/", "/demo", "/health/"] {
        let get = whole(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        let (head, body) = get.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && !body.is_empty(), "{path}: {get}");
        for request in ["HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.0\r\n\r\n", "HTTP/1.0\r\nHost: a\r\n\r\n"] {
            assert_eq!(whole(&format!("HEAD {path} {request}")), format!("{head}\r\n\r\n"), "{path}: {request}");
            assert_eq!(whole(&format!("GET {path} {request}")), get, "{path}: {request}");
            assert_eq!(whole(&format!("\r\nGET {path} {request}")), get, "{path} after an empty line: {request}");
        }
        let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
        assert_eq!(whole(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{h2c}\r\n")), get, "{path} with an offer of h2c");
    }
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n";
    for (path, fields, status) in
        [("/nowhere", "", "404"), ("/ws", "", "426"), ("/health#x", "", "400"), ("/ws", upgrade, "405")]
    {
        let answer = whole(&format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

fn the_root_path_answers_a_plain_request_with_a_line_of_text(driver: Driver) {
    // A balancer that probes / got 426, and each probe made all who connected wait.
    let gateway = Gateway::start(driver, &[]);
    let answer = http::request(gateway.port, "GET", "/", &[], b"");
    assert_eq!((answer.status, answer.text().lines().count()), (200, 1), "{}", answer.text());
    assert!(!answer.text().contains("/demo"), "there is none");
    let with_demo = Gateway::start(driver, &["--demo"]);
    let answer = http::request(with_demo.port, "GET", "/", &[], b"");
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("<a href=\"/demo\">"), "{}", answer.text());
    assert_eq!(http::request(gateway.port, "GET", "/ws", &[], b"").status, 426);
}

fn the_upgrade_of_the_jdks_websocket_client_is_answered_with_101(driver: Driver) {
    // java.net.http.WebSocket of JDK 11 to 21 sends `Content-Length: 0`: no client of Java's standard library could connect.
    let gateway = Gateway::start(driver, &[]);
    let request = "GET /raw/lobby HTTP/1.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\nHost: 127.0.0.1\r\n\
        Upgrade: websocket\r\nUser-Agent: Java-http-client/17.0.15\r\nSec-WebSocket-Key: WAw81JHf0U9Pxp5Iutht0A==\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(ask(&gateway, request).status, 101);
}

fn a_subprotocol_is_answered_on_raw_paths_and_a_bearer_token_never(driver: Driver) {
    // Programs of plain broadcast servers offer one, and their browsers gave up: /raw/ROOM answered none.
    let routes = "[[routes]]\npath = \"/chat/\"\ndialect = \"raw\"\nroom = \"chat\"\nsubprotocol = \"chat.v2\"\n";
    let gateway = Gateway::on(driver).config(routes).start();
    let answered = |path: &str, offers: &[&str]| {
        let offers: Vec<String> = offers.iter().map(|offer| format!("Sec-WebSocket-Protocol: {offer}")).collect();
        let offers: Vec<&str> = offers.iter().map(String::as_str).collect();
        let answer = ask(&gateway, http::upgrade(path, &offers));
        assert_eq!(answer.status, 101);
        answer.header("sec-websocket-protocol").map(str::to_owned)
    };
    for (path, offers, expected) in [
        ("/raw/lobby", &["chat, superchat"][..], Some("chat")),
        ("/raw/lobby", &["chat", "tidegate.v1"], Some("tidegate.v1")),
        ("/raw/lobby", &["bearer.c2VjcmV0, chat"], Some("chat")),
        ("/raw/lobby", &["bearer.c2VjcmV0"], None),
        ("/raw/lobby", &[], None),
        ("/chat", &["chat, chat.v2"], Some("chat.v2")),
        ("/chat", &["chat.v2, tidegate.v1"], Some("tidegate.v1")),
        ("/chat", &["chat"], Some("chat")),
        ("/", &["chat"], None),
        ("/", &["chat, tidegate.v1"], Some("tidegate.v1")),
    ] {
        assert_eq!(answered(path, offers).as_deref(), expected, "{path} with {offers:?}");
    }
}

fn one_slash_at_the_end_of_a_path_is_ignored_and_an_escaped_one_is_not(driver: Driver) {
    // /raw/lobby/ was silently another room than /raw/lobby.
    let routes = "[[routes]]\npath = \"/chat\"\ndialect = \"raw\"\nroom = \"chat\"\n";
    let mut gateway = Gateway::on(driver).config(routes).start();
    let mut streams = Vec::new();
    for (path, rooms) in
        [("/raw/lobby", 1.0), ("/raw/lobby/", 1.0), ("/raw/lobby%2F", 2.0), ("/raw/lobby%2F/", 2.0), ("/chat/", 3.0)]
    {
        let mut stream = http::connect(gateway.port);
        stream.write_all(http::upgrade(path, &[]).as_bytes()).unwrap();
        assert_eq!(http::read_answer(&mut stream).unwrap().status, 101, "{path}");
        streams.push(stream);
        // One shard may count a room that the other has too; the relay counts each once.
        gateway.wait_for("ws_relay_subscriptions", rooms);
    }
    for (path, status) in [("/ws/", 101), ("/raw/", 404), ("/raw//", 404), ("/ws//", 404)] {
        assert_eq!(ask(&gateway, http::upgrade(path, &[])).status, status, "{path}");
    }
}

/// A PROXY header of version 2 for a client at this IPv4 address, with so many octets of extensions.
fn proxied(source: [u8; 4], extensions: usize) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(((12 + extensions) as u16).to_be_bytes());
    header.extend(source);
    header.extend([10, 0, 0, 1, 0xc3, 0x50, 1, 0xbb]);
    header.resize(header.len() + extensions, 0);
    header
}

fn a_missing_or_unexpected_proxy_header_is_refused_with_a_text_that_names_it(driver: Driver) {
    // The text was about WebSocket upgrades, and operators looked for the fault there.
    let config = "[proxies]\ntrusted = [\"127.0.0.0/8\"]\nprotocol_v2 = true\n";
    let expecting = Gateway::on(driver).config(config).start();
    let version_1 = "PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let too_long = [proxied([203, 0, 113, 9], 4096), http::upgrade("/", &[]).into_bytes()].concat();
    for request in [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), version_1.into(), too_long] {
        let answer = ask(&expecting, request);
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("PROXY protocol") && answer.text().contains("version 2"), "{}", answer.text());
    }
    // Balancers of a cloud add names and certificates; over 1,024 octets was refused.
    let long = [proxied([203, 0, 113, 9], 4096 - 28), http::upgrade("/", &[]).into_bytes()].concat();
    assert_eq!(ask(&expecting, long).status, 101);
    assert_eq!(expecting.metrics().value("ws_handshakes_total{result=\"proxy-missing\"}"), 3.0);
    let plain = Gateway::start(driver, &[]);
    for request in [version_1.into(), [proxied([203, 0, 113, 9], 0), http::upgrade("/", &[]).into_bytes()].concat()] {
        let answer = ask(&plain, request);
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("proxies.trusted"), "{}", answer.text());
    }
}

/// The address that the node shows of a client that sends this header, behind this PROXY header.
fn shown_address(gateway: &mut Gateway, proxy: &[u8], forwarded: &[&str]) -> String {
    gateway.wait_for("ws_connections_active", 0.0);
    let mut stream = http::connect(gateway.port);
    stream.write_all(&[proxy, http::upgrade("/", forwarded).as_bytes()].concat()).unwrap();
    assert_eq!(http::read_answer(&mut stream).unwrap().status, 101);
    gateway.wait_for("ws_connections_active", 1.0);
    gateway.get("/v1/connections").json()["connections"][0]["peer"].as_str().unwrap().to_owned()
}

fn an_x_forwarded_for_counts_only_along_a_chain_of_trusted_proxies(driver: Driver) {
    // Behind a TCP balancer nothing rewrites headers: a client's own X-Forwarded-For won over the address that the balancer told.
    let config = "[proxies]\ntrusted = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";
    let mut by_header = Gateway::on(driver).config(config).start();
    for (forwarded, expected) in [
        (&["X-Forwarded-For: 198.51.100.1"][..], "198.51.100.1"),
        (&["X-Forwarded-For: 1.1.1.1, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        (&["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 10.1.2.3"], "198.51.100.1"),
        (&["X-Forwarded-For: [2001:db8::1]:4711"], "2001:db8::1"),
        (&["X-Forwarded-For: 198.51.100.1:4711"], "198.51.100.1"),
    ] {
        assert_eq!(shown_address(&mut by_header, b"", forwarded), expected, "{forwarded:?}");
    }
    let mut by_proxy = Gateway::on(driver).config(&format!("{config}protocol_v2 = true\n")).start();
    let invented = ["X-Forwarded-For: 198.51.100.1"];
    assert_eq!(shown_address(&mut by_proxy, &proxied([203, 0, 113, 9], 0), &invented), "203.0.113.9");
    assert_eq!(shown_address(&mut by_proxy, &proxied([10, 9, 9, 9], 0), &invented), "198.51.100.1");
}
