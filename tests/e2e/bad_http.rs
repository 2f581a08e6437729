//! Bad requests, end to end: input, expected status, expected metric label; afterwards the accounts are closed (G12).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::support::client::Client;
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    every_bad_request_gets_its_status_and_its_label
    every_good_request_is_upgraded_however_it_is_spelled
    a_head_may_be_cut_at_every_octet
    a_bad_head_gets_its_status_wherever_it_is_cut
    a_head_that_is_not_finished_gets_408_and_silence_too
    garbage_without_end_is_cut_off
    an_origin_is_held_to_the_list
    a_page_that_had_its_own_name_pointed_at_the_node_is_refused_unless_the_name_is_listed
    the_public_port_serves_health_and_no_admin_endpoint
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const REST: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

/// A request line and header lines of one's own, completed to an upgrade.
fn with(line: &str, headers: &str) -> Vec<u8> {
    format!("{line}\r\n{headers}{REST}{KEY}\r\n").into_bytes()
}

/// A valid head with one text replaced.
fn replaced(from: &str, to: &str) -> Vec<u8> {
    let valid = http::upgrade("/", &[]);
    assert!(valid.contains(from));
    valid.replace(from, to).into_bytes()
}

fn extra(header: &str) -> Vec<u8> {
    http::upgrade("/", &[header]).into_bytes()
}

pub(crate) fn bad_requests() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let key = KEY.trim_end();
    vec![
        ("POST", with("POST / HTTP/1.1", "Host: a\r\n"), 405, "method"),
        ("HTTP/1.0", with("GET / HTTP/1.0", "Host: a\r\n"), 426, "upgrade-required"),
        ("HTTP/2", with("GET / HTTP/2.0", "Host: a\r\n"), 505, "http-version"),
        ("two empty lines", [b"\r\n\r\n".to_vec(), extra("X: 1")].concat(), 400, "bad-request"),
        ("HTTP/0.9", b"GET /\r\n".to_vec(), 505, "http-version"),
        ("h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505, "http-version"),
        ("no Host", with("GET / HTTP/1.1", ""), 400, "bad-request"),
        ("two Hosts", with("GET / HTTP/1.1", "Host: a\r\nHost: b\r\n"), 400, "bad-request"),
        ("authority-form", with("GET example.org:80 HTTP/1.1", "Host: a\r\n"), 400, "bad-request"),
        ("fragment", with("GET /#x HTTP/1.1", "Host: a\r\n"), 400, "bad-request"),
        ("target too long", with(&format!("GET /{} HTTP/1.1", "x".repeat(5000)), "Host: a\r\n"), 414, "uri-too-long"),
        ("bare LF", replaced("Host: localhost\r\n", "Host: localhost\n"), 400, "bad-request"),
        ("bare CR", extra("X: a\rb"), 400, "bad-request"),
        ("NUL", extra("X: a\0b"), 400, "bad-request"),
        ("folded", extra("X: a\r\n b"), 400, "bad-request"),
        ("no colon", extra("nonsense"), 400, "bad-request"),
        ("space before the colon", extra("X : a"), 400, "bad-request"),
        ("empty name", extra(": a"), 400, "bad-request"),
        ("too many headers", with("GET / HTTP/1.1", &format!("Host: a\r\n{}", many(80))), 431, "head-too-large"),
        ("header too long", extra(&format!("X: {}", "x".repeat(9000))), 431, "head-too-large"),
        ("Content-Length", extra("Content-Length: 5"), 400, "bad-request"),
        ("Content-Length -0", extra("Content-Length: -0"), 400, "bad-request"),
        ("Content-Length empty", extra("Content-Length:"), 400, "bad-request"),
        ("length 0 and chunked", extra("Content-Length: 0\r\nTransfer-Encoding: chunked"), 400, "bad-request"),
        ("Transfer-Encoding", extra("Transfer-Encoding: chunked"), 400, "bad-request"),
        ("Expect", extra("Expect: 100-continue"), 417, "expectation"),
        ("pipelined second request", [extra("X: 1"), extra("X: 2")].concat(), 400, "bad-request"),
        ("frame before the 101", [extra("X: 1"), vec![0x81, 0x80, 0, 0, 0, 0]].concat(), 400, "bad-request"),
        ("key missing", replaced(KEY, ""), 400, "bad-request"),
        ("two keys", extra(key), 400, "bad-request"),
        ("key short", replaced("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400, "bad-request"),
        ("key not base64", replaced("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNh*XBsZSBub25jZQ=="), 400, "bad-request"),
        ("version 8", replaced("Version: 13", "Version: 8"), 426, "upgrade-required"),
        ("no version", replaced("Sec-WebSocket-Version: 13\r\n", ""), 426, "upgrade-required"),
        ("Upgrade lost on the way", replaced("Upgrade: websocket\r\n", ""), 426, "upgrade-required"),
        ("Connection lost on the way", replaced("Connection: Upgrade\r\n", ""), 426, "upgrade-required"),
        ("no upgrade", b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 426, "upgrade-required"),
        ("another upgrade", b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n".to_vec(), 426, "upgrade-required"),
        ("PROXY header", b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), 400, "proxy-unexpected"),
        ("unknown path", replaced("GET / ", "GET /admin "), 404, "not-found"),
        ("unknown path, plain", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 404, "not-found"),
        ("bad room", replaced("GET / ", "GET /raw/a..b "), 404, "not-found"),
        ("TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400, "bad-request"),
        ("foreign origin", extra("Origin: https://evil.example"), 403, "forbidden-origin"),
        ("origin null", extra("Origin: null"), 403, "forbidden-origin"),
        ("origin with a near-miss suffix", extra("Origin: http://localhost.evil.example"), 403, "forbidden-origin"),
        ("two lengths", extra("Content-Length: 0\r\nContent-Length: 5"), 400, "bad-request"),
        ("length and chunked", extra("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400, "bad-request"),
    ]
}

fn every_bad_request_gets_its_status_and_its_label(driver: Driver) {
    let mut gateway = Gateway::start(driver, &[]);
    let mut expected = std::collections::BTreeMap::new();
    for (name, input, status, label) in bad_requests() {
        let mut stream = http::connect(gateway.port);
        stream.write_all(&input).unwrap();
        let answer = http::read_answer(&mut stream).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status, status, "{name}");
        assert!(answer.text().len() > 10, "{name}: the answer says why");
        assert_eq!(answer.header("connection").map(|value| value.contains("close")), Some(true), "{name}");
        match status {
            405 => assert_eq!(answer.header("allow"), Some("GET, HEAD")),
            426 => assert_eq!(answer.header("sec-websocket-version"), Some("13")),
            _ => {}
        }
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "{name}: nothing comes after the answer");
        *expected.entry(label).or_insert(0.0) += 1.0;
    }
    for (label, count) in expected {
        gateway.wait_for(&format!("ws_handshakes_total{{result=\"{label}\"}}"), count);
    }
    gateway.wait_for("ws_sockets", 0.0);
    Client::connect(gateway.port).join("lobby");
    println!("bad inputs: {} requests", bad_requests().len());
}

fn every_good_request_is_upgraded_however_it_is_spelled(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let protocols: Vec<String> = (0..1000).map(|n| format!("p{n}")).collect();
    let extensions = vec!["permessage-deflate; a=\"b\\\"c\""; 100].join(", ");
    let inputs = [
        replaced("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        replaced("Connection: Upgrade", "connection:UPGRADE"),
        replaced("Upgrade: websocket", "UPGRADE: WebSocket"),
        with("GET http://localhost/ws HTTP/1.1", "Host: other\r\n"),
        extra("Origin: http://localhost"),
        extra(&format!("Sec-WebSocket-Protocol: {}", protocols.join(","))),
        extra(&format!("Sec-WebSocket-Extensions: {extensions}")),
        extra("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7"),
        extra("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"\""),
        extra("X-Bytes: \u{e9}\t"),
        extra("Content-Length: 0"),
        [b"\r\n".to_vec(), extra("X: 1")].concat(),
    ];
    for input in inputs {
        let mut stream = http::connect(gateway.port);
        stream.write_all(&input).unwrap();
        let answer = http::read_answer(&mut stream).unwrap();
        assert_eq!(answer.status, 101, "{}", String::from_utf8_lossy(&input));
        // RFC 6455 §1.3 has the key and what it becomes.
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}

fn a_head_may_be_cut_at_every_octet(driver: Driver) {
    let gateway = Gateway::start(driver, &["--connection-rate", "0"]);
    let head = http::upgrade("/raw/lobby", &[]).into_bytes();
    // All at once, each waiting in the middle of its head, so that no cut can be glued together on the way.
    let mut streams: Vec<TcpStream> = (1..head.len()).map(|_| http::connect(gateway.port)).collect();
    for (stream, cut) in streams.iter_mut().zip(1..) {
        stream.write_all(&head[..cut]).unwrap();
    }
    for (stream, cut) in streams.iter_mut().zip(1..) {
        stream.write_all(&head[cut..]).unwrap();
        assert_eq!(http::read_answer(stream).unwrap().status, 101, "cut at {cut}");
    }
    let mut stream = http::connect(gateway.port);
    for octet in &head {
        stream.write_all(&[*octet]).unwrap();
    }
    assert_eq!(http::read_answer(&mut stream).unwrap().status, 101, "one octet at a time");
}

fn a_bad_head_gets_its_status_wherever_it_is_cut(driver: Driver) {
    let config = "[limits]\nmistakes_per_address = 0\n";
    let gateway = Gateway::on(driver).args(&["--connection-rate", "0"]).config(config).start();
    let mut cuts = 0;
    for (name, head, status, _) in bad_requests().iter().filter(|(_, head, ..)| head.len() < 400) {
        // All at once, as above. After the end of the head it would be another request, or none.
        let end = head.windows(4).position(|octets| octets == b"\r\n\r\n").map_or(head.len(), |at| at + 4);
        let mut streams: Vec<TcpStream> = (1..end).map(|_| http::connect(gateway.port)).collect();
        for (stream, cut) in streams.iter_mut().zip(1..) {
            stream.write_all(&head[..cut]).unwrap();
        }
        for (stream, cut) in streams.iter_mut().zip(1..) {
            let _ = stream.write_all(&head[cut..]);
            let answer = http::read_answer(stream).unwrap_or_else(|error| panic!("{name} cut at {cut}: {error}"));
            assert_eq!(answer.status, *status, "{name} cut at {cut}");
            cuts += 1;
        }
    }
    println!("bad inputs: {cuts} cuts of their heads");
}

fn a_head_that_is_not_finished_gets_408_and_silence_too(driver: Driver) {
    let mut gateway = Gateway::on(driver).config("[limits]\nhandshake_deadline = \"1s\"").start();
    let mut silent = http::connect(gateway.port);
    let mut slow = http::connect(gateway.port);
    let head = http::upgrade("/", &[]);
    let mut octets = head.bytes().take(head.len() - 1);
    slow.set_nonblocking(true).unwrap();
    // One octet of a good head after the other: the last one would come long after the deadline.
    let answered = loop {
        if let Some(octet) = octets.next() {
            let _ = slow.write_all(&[octet]);
        }
        match slow.peek(&mut [0]) {
            Ok(count) => break count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(answered > 0, "it is answered before it is closed");
    slow.set_nonblocking(false).unwrap();
    assert_eq!(http::read_answer(&mut slow).unwrap().status, 408);
    assert_eq!(http::read_answer(&mut silent).unwrap().status, 408);
    gateway.wait_for("ws_handshakes_total{result=\"timeout\"}", 2.0);
}

fn garbage_without_end_is_cut_off(driver: Driver) {
    let mut gateway = Gateway::on(driver).config("[limits]\nclose_deadline = \"1s\"").start();
    let before = gateway.memory_bytes();
    for garbage in [&[b'A'; 4096][..], &[0xff; 4096], &b"X: y\r\n".repeat(600)] {
        let mut stream = http::connect(gateway.port);
        // Until the gateway has had enough: at the latest when its deadline for a lingering close has passed.
        while stream.write_all(garbage).is_ok() {}
        gateway.wait_for("ws_sockets", 0.0);
    }
    let grown = gateway.memory_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "garbage took {grown} bytes");
    assert_eq!(gateway.metrics().value("ws_handshakes_total{result=\"bad-request\"}"), 3.0);
}

fn an_origin_is_held_to_the_list(driver: Driver) {
    let status = |gateway: &Gateway, origin: &str| {
        let mut stream = http::connect(gateway.port);
        stream.write_all(&extra(&format!("Origin: {origin}"))).unwrap();
        http::read_answer(&mut stream).unwrap().status
    };
    let list = "https://App.example:443,http://localhost:3000,file://,https://*.dev.example,https://bücher.example";
    let listed = Gateway::start(driver, &["--origins", list]);
    for (origin, expected) in [
        ("https://app.example", 101),
        ("http://localhost:3000", 101),
        ("https://app.example.evil.com", 403),
        ("https://evilapp.example", 403),
        ("http://app.example", 403),
        ("https://app.example:444", 403),
        ("https://APP.example:443", 101),
        ("file://", 101),
        ("https://a.dev.example", 101),
        ("https://dev.example", 403),
        ("https://xn--bcher-kva.example", 101),
        ("null", 403),
    ] {
        assert_eq!(status(&listed, origin), expected, "{origin}");
    }
    let any = Gateway::start(driver, &["--origins", "*"]);
    assert_eq!(status(&any, "https://whoever.example"), 101);
    let mut same_host = Gateway::start(driver, &[]);
    assert_eq!(status(&same_host, "http://localhost"), 101);
    assert_eq!(status(&same_host, "http://localhost.evil.com"), 403);
    assert_eq!(status(&same_host, "null"), 403);
    // The page of a development server, or a file, had no way in, and the log said nothing.
    assert_eq!(status(&same_host, "http://localhost:5173"), 403);
    same_host.wait("it is told", |gateway| gateway.log().contains("--origins http://localhost:5173"));
    let demo = Gateway::start(driver, &["--demo"]);
    for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000", "file://", "null"] {
        assert_eq!(status(&demo, origin), 101, "{origin}");
    }
    assert_eq!(status(&demo, "https://evil.example"), 403);
}

fn a_page_that_had_its_own_name_pointed_at_the_node_is_refused_unless_the_name_is_listed(driver: Driver) {
    // DNS rebinding: such a page is of the same host that it asks, and was let in.
    let ask = |gateway: &Gateway, host: &str| {
        let request = http::upgrade("/", &[&format!("Origin: http://{host}")]);
        let mut stream = http::connect(gateway.port);
        stream.write_all(request.replace("Host: localhost", &format!("Host: {host}")).as_bytes()).unwrap();
        http::read_answer(&mut stream).unwrap()
    };
    let mut gateway = Gateway::start(driver, &[]);
    let refused = ask(&gateway, "rebound.example:8080");
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("`hosts`"), "{}", refused.text());
    gateway.wait("it is told", |gateway| gateway.log().contains("hosts = [\\\"rebound.example\\\"]"));
    for host in ["127.0.0.1:8080", "[::1]:8080", "localhost", "gateway"] {
        assert_eq!(ask(&gateway, host).status, 101, "{host}");
    }
    let listed = Gateway::on(driver).config("hosts = [\"rebound.example\"]\n").start();
    assert_eq!(ask(&listed, "rebound.example:8080").status, 101);
}

fn the_public_port_serves_health_and_no_admin_endpoint(driver: Driver) {
    let gateway = Gateway::start(driver, &[]);
    let get = |path: &str| http::request(gateway.port, "GET", path, &[], b"");
    assert_eq!(get("/health").status, 200);
    for path in ["/metrics", "/ready", "/live", "/drain", "/v1/node", "/v1/connections", "/demo"] {
        assert_eq!(get(path).status, 404, "{path}");
    }
    assert_eq!(http::request(gateway.port, "POST", "/drain", &[], b"").status, 405);
    assert_eq!(gateway.metrics().value("ws_handshakes_total{result=\"plain\"}"), 1.0);
}
