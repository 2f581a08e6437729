//! The opening handshake: the table of bad inputs, each with its status, and what must pass.

use tidegate_core::close::Refusal::{self, *};
use tidegate_core::http::{self, OriginPattern, Origins, Progress, Request, Upgrade, parse, parse_from, same_host};
use tidegate_core::limits::{HEAD_BYTES, HEAD_FIELDS, TARGET_BYTES};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A head with this request line and these header lines.
fn head(line: &str, fields: &[&str]) -> Vec<u8> {
    let mut head = format!("{line}\r\n");
    fields.iter().for_each(|field| head += &format!("{field}\r\n"));
    (head + "\r\n").into_bytes()
}

/// A valid upgrade, in which `field` replaces the line of its name, or is added; `-Name` leaves a line out.
fn upgrade_with(changes: &[&str]) -> Vec<u8> {
    let version = "Sec-WebSocket-Version: 13";
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let mut fields = vec!["Host: example.com", "Upgrade: websocket", "Connection: Upgrade", &key, version];
    for change in changes {
        let name = change.trim_start_matches('-').split([':', ' ']).next().unwrap_or_default();
        match fields.iter().position(|field| field.split(':').next() == Some(name)) {
            Some(at) if change.starts_with('-') => drop(fields.remove(at)),
            Some(at) => fields[at] = change,
            None => fields.push(change),
        }
    }
    head("GET /ws?attempt=3 HTTP/1.1", &fields)
}

fn upgrade(bytes: &[u8]) -> Upgrade<'_> {
    match parse(bytes, HEAD_BYTES) {
        Ok(Some((Request::Upgrade(upgrade), len))) if len == bytes.len() => upgrade,
        other => panic!("no upgrade: {other:?}"),
    }
}

#[test]
fn an_upgrade_tells_all_that_the_node_needs() {
    let bytes = upgrade_with(&[
        "Origin: http://example.com",
        "X-Forwarded-For: 203.0.113.7, 10.0.0.1",
        "x-forwarded-for: 10.0.0.2",
    ]);
    let upgrade = upgrade(&bytes);
    assert_eq!((upgrade.path, upgrade.query, upgrade.host), ("/ws", "attempt=3", "example.com"));
    assert_eq!(upgrade.origin, Some("http://example.com"));
    assert_eq!(upgrade.forwarded_for().collect::<Vec<_>>(), ["10.0.0.2", "10.0.0.1", "203.0.113.7"]);
    assert_eq!((upgrade.key, upgrade.attempt()), (KEY.as_bytes(), 3));
}

#[test]
fn headers_that_are_unusual_and_legal_pass() {
    let cases: &[&[&str]] = &[
        &["Connection: keep-alive, Upgrade"],
        &["Connection: keep-alive", "CONNECTION: uPGRADE"],
        &["Connection:upgrade"],
        &["Upgrade: WebSocket"],
        &["Upgrade: h2c, websocket"],
        &["Host: [::1]:8080"],
        &["X-Name: gr\u{fc}\u{df}e\tund mehr  "],
        &["X-Empty:"],
        &["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"10\", x-other"],
        &["Origin: null"],
        // java.net.http.WebSocket of the JDK sends a length with every request, and was refused: 0 is no body (RFC 9112 §6.3).
        &["Content-Length: 0"],
        &["Content-Length: 0", "content-length: 00"],
    ];
    for case in cases {
        upgrade(&upgrade_with(case));
    }
}

#[test]
fn an_empty_line_before_the_request_line_is_skipped_and_a_second_one_is_not() {
    // RFC 9112 §2.2: an old client sends one after the body of its last request. It was a bad request.
    let mut bytes = b"\r\n".to_vec();
    bytes.extend(upgrade_with(&[]));
    assert_eq!(in_pieces(&bytes), None);
    assert_eq!(upgrade(&bytes).path, "/ws");
    bytes.splice(0..0, *b"\r\n");
    assert_eq!(parse(&bytes, HEAD_BYTES), Err(BadRequest));
    assert_eq!(in_pieces(&bytes), Some(BadRequest));
}

#[test]
fn an_upgrade_to_another_protocol_is_ignored_and_a_lost_websocket_upgrade_is_told() {
    // curl --http2 and Java's HttpClient offer h2c with every plain request, and got 426 for /health (RFC 9110 §7.8: ignored).
    let h2c = ["Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"];
    let bytes = head("GET /health HTTP/1.1", &h2c);
    assert!(matches!(parse(&bytes, HEAD_BYTES), Ok(Some((Request::Plain { path: "/health", .. }, _)))));
    assert!(matches!(parse(&upgrade_with(&["Upgrade: h2c"]), HEAD_BYTES), Ok(Some((Request::Plain { .. }, _)))));
    // A proxy that is not told to passes neither of these on, and asks with HTTP/1.0.
    for lost in [&["-Upgrade", "-Connection"][..], &["-Upgrade"], &["-Connection"], &["Connection: close"]] {
        assert_eq!(parse(&upgrade_with(lost), HEAD_BYTES), Err(UpgradeRequired), "{lost:?}");
    }
    let text = String::from_utf8(upgrade_with(&[])).unwrap();
    assert_eq!(parse(text.replace("HTTP/1.1", "HTTP/1.0").as_bytes(), HEAD_BYTES), Err(UpgradeRequired));
}

#[test]
fn plain_requests_of_http_1_0_and_later_minor_versions_and_head_requests_are_served() {
    // A balancer's default health check is HTTP/1.0 without a Host, an uptime monitor's a HEAD; both were refused.
    let plain = |line: &str, fields: &[&str]| match parse(&head(line, fields), HEAD_BYTES) {
        Ok(Some((Request::Plain { is_head, path, host, .. }, _))) => (is_head, path.to_owned(), host.to_owned()),
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(plain("GET /health HTTP/1.0", &[]), (false, String::from("/health"), String::new()));
    assert_eq!(plain("HEAD /health HTTP/1.0", &["Host: a"]), (true, String::from("/health"), String::from("a")));
    assert_eq!(plain("HEAD /x?y HTTP/1.1", &["Host: a"]), (true, String::from("/x"), String::from("a")));
    assert_eq!(plain("GET / HTTP/1.9", &["Host: a"]), (false, String::from("/"), String::from("a")));
    assert_eq!(in_pieces(&head("HEAD /health HTTP/1.0", &[])), None);
    // The longest target that is taken, in pieces too.
    let longest = format!("HEAD /{} HTTP/1.1", "a".repeat(TARGET_BYTES - 1));
    assert_eq!(in_pieces(&head(&longest, &["Host: a"])), None);
}

/// Why a head that comes octet by octet is refused; at each octet as if all that is there had come at once.
fn in_pieces(bytes: &[u8]) -> Option<Refusal> {
    let mut progress = Progress::default();
    (0..=bytes.len()).find_map(|len| {
        let outcome = parse_from(&bytes[..len], HEAD_BYTES, &mut progress);
        assert_eq!(outcome, parse(&bytes[..len], HEAD_BYTES), "{len} octets of {bytes:?}");
        outcome.err()
    })
}

#[test]
fn every_bad_upgrade_has_its_status() {
    let cases: &[(&[&str], Refusal)] = &[
        (&["-Host"], BadRequest),
        (&["Host: a", "host: b"], BadRequest),
        (&["Host:"], BadRequest),
        (&["Host: a/b"], BadRequest),
        (&["Host: user@a"], BadRequest),
        (&["-Sec-WebSocket-Key"], BadRequest),
        (&["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="], BadRequest),
        (&["Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="], BadRequest),
        (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="], BadRequest),
        (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA"], BadRequest),
        (&["-Sec-WebSocket-Version"], UpgradeRequired),
        (&["Sec-WebSocket-Version: 8"], UpgradeRequired),
        (&["Sec-WebSocket-Version: 13, 8"], UpgradeRequired),
        (&["sec-websocket-version: 13"], BadRequest),
        (&["-Upgrade"], UpgradeRequired),
        (&["-Connection"], UpgradeRequired),
        (&["Connection: close"], UpgradeRequired),
        (&["Content-Length: 5"], BadRequest),
        (&["Content-Length:"], BadRequest),
        (&["Content-Length: -0"], BadRequest),
        (&["Content-Length: 0", "content-length: 5"], BadRequest),
        (&["Content-Length: 0, 5"], BadRequest),
        (&["Content-Length: 0", "Transfer-Encoding: chunked"], BadRequest),
        (&["Transfer-Encoding: chunked"], BadRequest),
        (&["Expect: 100-continue"], Expectation),
        (&["Origin: a", "origin: b"], BadRequest),
        (&["X-Folded: a\r\n b"], BadRequest),
        (&["X-Folded: a\r\n\tb"], BadRequest),
        (&["X-Space : a"], BadRequest),
        (&[" X-Space: a"], BadRequest),
        (&["no colon"], BadRequest),
        (&["nocolon"], BadRequest),
        (&[": no name"], BadRequest),
        (&["X-Nul: a\0b"], BadRequest),
        (&["X-Cr: a\rb"], BadRequest),
        (&["X-Lf: a\nb: c"], BadRequest),
        (&["X-Del: \x7f"], BadRequest),
        (&["X-N\u{e4}me: a"], BadRequest),
    ];
    for (changes, refusal) in cases {
        let bytes = upgrade_with(changes);
        assert_eq!(parse(&bytes, HEAD_BYTES).err(), Some(*refusal), "{changes:?}");
        assert_eq!(in_pieces(&bytes), Some(*refusal), "{changes:?}, one octet at a time");
    }
}

#[test]
fn every_bad_request_line_has_its_status() {
    let long = format!("GET /{} HTTP/1.1", "a".repeat(TARGET_BYTES));
    let cases: &[(&str, Refusal)] = &[
        ("POST / HTTP/1.1", Method),
        ("get / HTTP/1.1", Method),
        ("HEADS / HTTP/1.1", Method),
        ("PRI * HTTP/2.0", HttpVersion),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 1 2", ProxyUnexpected),
        ("GET / HTTP/0.9", HttpVersion),
        ("HEAD / HTTP/2.0", HttpVersion),
        ("GET / HTTP/1.", HttpVersion),
        ("GET / HTTP/2", HttpVersion),
        ("GET / HTTP/1.12", BadRequest),
        ("GET / http/1.1", BadRequest),
        ("GET / HTTP/1.1 ", BadRequest),
        ("GET /", HttpVersion),
        ("GET", BadRequest),
        ("", BadRequest),
        ("GET  / HTTP/1.1", BadRequest),
        ("GET  HTTP/1.1", BadRequest),
        ("GET * HTTP/1.1", BadRequest),
        ("GET example.com:80 HTTP/1.1", BadRequest),
        ("GET ws HTTP/1.1", BadRequest),
        ("GET /#x HTTP/1.1", BadRequest),
        ("GET /\u{e4} HTTP/1.1", BadRequest),
        ("GET ftp://example.com/ HTTP/1.1", BadRequest),
        ("GET http:///ws HTTP/1.1", BadRequest),
        ("GET http://user@example.com/ HTTP/1.1", BadRequest),
        (&long, UriTooLong),
    ];
    for (line, refusal) in cases {
        let bytes = head(line, &["Host: a"]);
        assert_eq!(parse(&bytes, HEAD_BYTES).err(), Some(*refusal), "{line:?}");
        assert_eq!(in_pieces(&bytes), Some(*refusal), "{line:?}, one octet at a time");
    }
}

#[test]
fn what_can_be_no_request_is_refused_at_its_first_wrong_octet() {
    let cases: &[(&[u8], Refusal)] = &[
        (b"\x16", BadRequest),
        (b"\0", BadRequest),
        (b"\ra", BadRequest),
        (b"\r\n\r", BadRequest),
        (b"\n", BadRequest),
        (b"PRI ", HttpVersion),
        (b"POST ", Method),
        (b"GET /\r", HttpVersion),
        (b"GET / HTTP/2", HttpVersion),
        (b"GET / HTTX", BadRequest),
        (b"GET / HTTP/1.1\r\n ", BadRequest),
        (b"GET / HTTP/1.1\r\nA: \x01", BadRequest),
        (b"GET / HTTP/1.1\r\nHost\r", BadRequest),
        (&[b'G'; 33], BadRequest),
    ];
    for (bytes, refusal) in cases {
        assert_eq!(parse(&bytes[..bytes.len() - 1], HEAD_BYTES), Ok(None), "{bytes:?} without its last octet");
        assert_eq!(parse(bytes, HEAD_BYTES).err(), Some(*refusal), "{bytes:?}");
    }
}

#[test]
fn a_head_that_does_not_end_or_has_too_many_headers_is_too_large() {
    let mut endless = b"GET / HTTP/1.1\r\nX: ".to_vec();
    endless.resize(HEAD_BYTES - 1, b'a');
    assert_eq!(parse(&endless, HEAD_BYTES), Ok(None));
    endless.push(b'a');
    assert_eq!(parse(&endless, HEAD_BYTES), Err(HeadTooLarge));
    assert_eq!(in_pieces(&endless), Some(HeadTooLarge));

    let lines: Vec<_> = (0..60).map(|i| format!("X-{i}: a")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    assert_eq!(parse(&upgrade_with(&lines), HEAD_BYTES), Err(HeadTooLarge));
    upgrade(&upgrade_with(&lines[..59]));
}

#[test]
fn the_head_may_be_cut_at_every_octet_and_frames_may_follow_it() {
    let mut bytes = upgrade_with(&[]);
    let len = bytes.len();
    bytes.extend_from_slice(b"\x81\x80mask");
    let mut progress = Progress::default();
    for cut in 0..len {
        assert_eq!(parse(&bytes[..cut], HEAD_BYTES), Ok(None), "cut at {cut}");
        assert_eq!(parse_from(&bytes[..cut], HEAD_BYTES, &mut progress), Ok(None), "resumed at {cut}");
        assert!(cut - progress.verified() <= 1, "nothing but a CR is looked at again");
    }
    assert_eq!(parse_from(&bytes, HEAD_BYTES, &mut progress), parse(&bytes, HEAD_BYTES));
    assert!(matches!(parse(&bytes, HEAD_BYTES), Ok(Some((Request::Upgrade(_), found))) if found == len));
}

#[test]
fn an_absolute_target_overrules_the_host_header() {
    for (target, path) in [("http://b:81/ws?x", "/ws"), ("HTTPS://b:81", "/"), ("http://b:81?x", "/")] {
        let bytes = head(&format!("GET {target} HTTP/1.1"), &["Host: a"]);
        let Ok(Some((Request::Plain { path: found, host, .. }, _))) = parse(&bytes, HEAD_BYTES) else {
            panic!("{target}")
        };
        assert_eq!((found, host), (path, "b:81"));
    }
}

#[test]
fn a_plain_get_is_the_callers() {
    let bytes = head("GET /health?full HTTP/1.1", &["Host: a", "Connection: keep-alive"]);
    let plain = Request::Plain { is_head: false, path: "/health", query: "full", host: "a" };
    assert_eq!(parse(&bytes, HEAD_BYTES), Ok(Some((plain, bytes.len()))));
}

#[test]
fn a_subprotocol_is_found_in_any_list_and_only_whole() {
    let many = (0..1000).map(|i| format!("p{i}")).collect::<Vec<_>>().join(",");
    let many = format!("Sec-WebSocket-Protocol: {many}");
    let bytes = upgrade_with(&[&many, "sec-websocket-protocol: chat , tidegate.v1"]);
    assert!(upgrade(&bytes).offers_protocol("tidegate.v1") && upgrade(&bytes).offers_protocol("p999"));
    for value in ["tidegate.v10", "Tidegate.v1", "tidegate.v1x,", ""] {
        let bytes = upgrade_with(&[&format!("Sec-WebSocket-Protocol: {value}")]);
        assert!(!upgrade(&bytes).offers_protocol("tidegate.v1"), "{value}");
    }
}

#[test]
fn the_first_subprotocol_that_may_be_answered_is_no_credential_and_a_token() {
    for (value, first) in [
        ("chat, superchat", Some("chat")),
        ("bearer.secret, chat", Some("chat")),
        ("bearer.secret", None),
        (", a b, \u{e9}, chat", Some("chat")),
        ("", None),
    ] {
        let bytes = upgrade_with(&[&format!("Sec-WebSocket-Protocol: {value}")]);
        assert_eq!(upgrade(&bytes).first_protocol(), first, "{value}");
    }
    assert_eq!(upgrade(&upgrade_with(&[])).first_protocol(), None);
}

#[test]
fn an_attempt_is_a_number_or_nothing() {
    for (query, attempt) in [("attempt=2", 2), ("a=b&attempt=7&c", 7), ("attempt=-1", 0), ("attempts=2", 0), ("", 0)] {
        let line = format!("GET /?{query} HTTP/1.1");
        let bytes = String::from_utf8(upgrade_with(&[])).unwrap().replace("GET /ws?attempt=3 HTTP/1.1", &line);
        assert_eq!(upgrade(bytes.as_bytes()).attempt(), attempt, "{query}");
    }
}

#[test]
fn an_origin_is_the_same_host_only_with_the_same_name_and_port() {
    let same = [
        ("http://example.com", "example.com"),
        ("http://example.com", "example.com:80"),
        ("https://EXAMPLE.com", "example.com:443"),
        ("https://example.com", "example.com"),
        ("http://localhost:8080", "localhost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://[::1]", "[::1]"),
    ];
    let foreign = [
        ("null", "null"),
        ("http://null", "example.com"),
        ("http://example.com.evil.org", "example.com"),
        ("http://evilexample.com", "example.com"),
        ("http://example.com", "sub.example.com"),
        ("http://example.com:8080", "example.com"),
        ("https://example.com", "example.com:80"),
        ("http://example.com:080x", "example.com:80"),
        ("http://example.com/", "example.com"),
        ("http://example.com@evil.org", "evil.org"),
        ("file://", ""),
        ("http://", ""),
        ("http://:80", ":80"),
        ("http://[::1]:8080", "[::1]:8081"),
        ("example.com", "example.com"),
    ];
    same.iter().for_each(|(origin, host)| assert!(same_host(origin, host), "{origin} and {host}"));
    foreign.iter().for_each(|(origin, host)| assert!(!same_host(origin, host), "{origin} and {host}"));
}

fn listed(patterns: &[&str]) -> Origins {
    let listed: Vec<OriginPattern> = patterns.iter().map(|text| text.parse().expect(text)).collect();
    Origins { listed, ..Origins::default() }
}

#[test]
fn the_list_of_origins_rules_and_without_one_the_host_does() {
    let by_host = Origins { hosts: vec![String::from("example.com")], ..Origins::default() };
    let by_list = listed(&["https://app.example.com", "null", "http://*.dev.example"]);
    let (any, demo) = (listed(&["*"]), Origins { demo: true, ..by_host.clone() });
    let cases = [
        (None, [true, false, true, true]),
        (Some("Origin: http://example.com"), [true, false, true, true]),
        (Some("Origin: https://app.example.com"), [false, true, true, false]),
        (Some("Origin: HTTPS://App.Example.com:443"), [false, true, true, false]),
        (Some("Origin: https://app.example.com.evil.org"), [false, false, true, false]),
        (Some("Origin: http://a.dev.example"), [false, true, true, false]),
        (Some("Origin: null"), [false, true, true, true]),
        (Some("Origin: file://"), [false, false, true, true]),
        (Some("Origin: http://localhost:3000"), [false, false, true, true]),
        (Some("Origin: http://127.0.0.1:5173"), [false, false, true, true]),
        (Some("Origin: https://[::1]:5173"), [false, false, true, true]),
        (Some("Origin: http://localhost.evil.org"), [false, false, true, false]),
        (Some("Origin: http://127.0.0.1.evil.org"), [false, false, true, false]),
    ];
    for (origin, expected) in cases {
        let bytes = upgrade_with(origin.as_slice());
        let upgrade = upgrade(&bytes);
        let found = [&by_host, &by_list, &any, &demo].map(|origins| origins.check(&upgrade));
        assert_eq!(found.map(|verdict| verdict.is_ok()), expected, "{origin:?}");
        assert!(found.into_iter().all(|verdict| !matches!(verdict, Err(refusal) if refusal != ForbiddenOrigin)));
    }
}

#[test]
fn without_a_list_of_origins_the_host_must_be_the_nodes_own_or_a_page_could_rebind_its_name() {
    // DNS rebinding: a page of evil.example whose name was pointed at this node was of the same host, and connected.
    let verdict = |host: &str, hosts: &[&str]| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let bytes = upgrade_with(&[&format!("Host: {host}"), &format!("Origin: http://{host}")]);
        Origins { hosts, ..Origins::default() }.check(&upgrade(&bytes))
    };
    for host in
        ["localhost", "localhost:8080", "127.0.0.1:8080", "192.0.2.1", "[::1]:8080", "[2001:db8::1]", "gateway:8080"]
    {
        assert_eq!(verdict(host, &[]), Ok(()), "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.", "a.localhost"] {
        assert_eq!(verdict(host, &[]), Err(ForbiddenHost), "{host}");
    }
    assert_eq!(verdict("app.example:8080", &["app.example"]), Ok(()));
    assert_eq!(verdict("APP.example", &["app.example"]), Ok(()));
    assert_eq!(verdict("a.app.example", &["*.app.example"]), Ok(()));
    assert_eq!(verdict("xapp.example", &["app.example", "*.app.example"]), Err(ForbiddenHost));
    // Programs that are no browser cannot be led here by a name.
    let bytes = upgrade_with(&["Host: evil.example"]);
    assert_eq!(Origins::default().check(&upgrade(&bytes)), Ok(()));
}

#[test]
fn the_accepting_answer_carries_the_key_of_the_standards_example() {
    let mut out = Vec::new();
    http::accept(&mut out, KEY.as_bytes(), Some("tidegate.v1"), None);
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: tidegate.v1\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn every_refusal_is_a_whole_http_answer_with_what_its_status_demands() {
    for refusal in Refusal::ALL {
        let mut out = Vec::new();
        http::refuse(&mut out, *refusal, Some(3));
        if refusal.status() == 0 {
            assert!(out.is_empty(), "nobody is there to read it");
            continue;
        }
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut answer = httparse::Response::new(&mut fields);
        let len = answer.parse(&out).unwrap().unwrap();
        let field = |name: &str| {
            let found = answer.headers.iter().find(|field| field.name == name);
            found.map(|field| std::str::from_utf8(field.value).unwrap())
        };
        assert_eq!(answer.code, Some(refusal.status()));
        assert_ne!(answer.reason, Some("Answer"), "{refusal:?} has a phrase");
        assert_eq!(field("Content-Length"), Some(&*(out.len() - len).to_string()));
        assert_eq!(field("Retry-After"), Some("3"));
        assert!(field("Connection").unwrap().starts_with("close"));
        assert_eq!(field("Allow").is_some(), *refusal == Method);
        assert_eq!(field("Sec-WebSocket-Version") == Some("13"), *refusal == UpgradeRequired);
        let mut bodiless = out.clone();
        http::without_body(&mut bodiless);
        assert_eq!(bodiless, &out[..len], "the answer to a HEAD announces the body that a GET would get");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_spoiled_head_gets_the_same_verdict_whole_and_octet_by_octet(
        at in 0..160_usize,
        octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4),
    ) {
        let mut bytes = upgrade_with(&["Origin: http://example.com"]);
        let at = at.min(bytes.len());
        bytes.splice(at..(at + octets.len()).min(bytes.len()), octets);
        let mut progress = Progress::default();
        let one_by_one =
            (0..=bytes.len()).find_map(|len| parse_from(&bytes[..len], HEAD_BYTES, &mut progress).transpose()).transpose();
        // Which offence is named may depend on how much of a line is there; whether it is one may not.
        proptest::prop_assert_eq!(one_by_one.ok(), parse(&bytes, HEAD_BYTES).ok());
    }

    /// The head is taken apart by the gateway alone. Who reads it beside it, a proxy or a log, must see the same request.
    #[test]
    fn a_head_that_is_served_is_read_alike_by_another_parser(
        at in 0..160_usize,
        octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4),
    ) {
        let mut bytes = upgrade_with(&["Origin: http://example.com"]);
        let at = at.min(bytes.len());
        bytes.splice(at..(at + octets.len()).min(bytes.len()), octets);
        if let Ok(Some((Request::Upgrade(upgrade), length))) = parse(&bytes, HEAD_BYTES) {
            let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
            let mut other = httparse::Request::new(&mut fields);
            proptest::prop_assert_eq!(other.parse(&bytes), Ok(httparse::Status::Complete(length)));
            let target = other.path.unwrap();
            proptest::prop_assert!(target.starts_with(upgrade.path) && target.ends_with(upgrade.query), "{}", target);
            let value = |name: &str| {
                let found = other.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                found.map(|field| field.value.trim_ascii())
            };
            proptest::prop_assert_eq!(value("host"), Some(upgrade.host.as_bytes()));
            proptest::prop_assert_eq!(value("sec-websocket-key"), Some(upgrade.key));
            proptest::prop_assert_eq!(value("origin").map(|origin| std::str::from_utf8(origin).unwrap_or("\u{fffd}")), upgrade.origin);
        }
    }

    #[test]
    fn any_octets_at_all_are_a_request_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = parse(&bytes, HEAD_BYTES);
        let text = String::from_utf8_lossy(&bytes);
        let _ = (same_host(&text, &text), text.parse::<OriginPattern>(), http::host_pattern(&text));
    }
}
