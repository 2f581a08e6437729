//! The native dialect: what clients ask, what they are told, and what they cannot inject.

use tidegate_core::dialect::native::{Request, parse};
use tidegate_core::dialect::{ClientLimits, ErrorCode, Identity, InvalidRoom, RequestedRoom};

#[test]
fn a_message_is_read_without_touching_its_content() {
    let text =
        r#"{"type":"message","roomId":"lobby","content":{"a":[1, "\u0041"]},"echo":false,"ack":true,"ref":7,"x":null}"#;
    let expected = Request::Message {
        room: "lobby".into(),
        content: r#"{"a":[1, "\u0041"]}"#,
        echo: false,
        ack: true,
        reference: Some("7"),
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn null_is_content_and_nothing_is_not() {
    assert!(parse(r#"{"type":"message","roomId":"a","content":null}"#).is_ok());
    assert_eq!(parse(r#"{"type":"message","roomId":"a"}"#).unwrap_err().code, ErrorCode::BadMessage);
}

#[test]
fn a_field_that_stands_twice_is_named() {
    let refused = parse(r#"{"type":"join","roomId":"a","roomId":"b"}"#).unwrap_err();
    assert!(refused.message.contains("duplicate field `roomId`"), "{}", refused.message);
}

fn refusal(text: &str) -> (ErrorCode, String, Option<String>) {
    let refused = parse(text).expect_err(text);
    (refused.code, refused.message.into_owned(), refused.reference.map(str::to_owned))
}

#[test]
fn every_kind_of_request_is_read() {
    let room = || "a.b".into();
    assert_eq!(parse(r#"{"type":"join","roomId":"a.b"}"#), Ok(Request::Join { room: room(), reference: None }));
    assert_eq!(
        parse(r#" {"roomId":"a.b","type":"leave","ref":"x"}"#),
        Ok(Request::Leave { room: room(), reference: Some("\"x\"") })
    );
    assert_eq!(parse("{\"type\":\"ping\",\"ref\":-1.5e3}\n"), Ok(Request::Ping { reference: Some("-1.5e3") }));
    assert_eq!(parse(r#"{"type":"\u0070ing","ref":null}"#), Ok(Request::Ping { reference: None }));
    let Ok(Request::Message { content, echo, ack, .. }) = parse(r#"{"type":"message","roomId":"a","content": [ 1 ] }"#)
    else {
        panic!("no message");
    };
    assert_eq!((content, echo, ack), ("[ 1 ]", true, false));
}

#[test]
fn what_is_no_request_is_told_what_is_accepted() {
    let cases = [
        ("", "JSON object"),
        ("[]", "JSON object"),
        ("\"join\"", "JSON object"),
        ("{", "EOF"),
        (r#"{"type":"ping"} x"#, "trailing"),
        (r#"{"roomId":"a"}"#, "\"join\", \"leave\", \"message\", \"auth\" or \"ping\""),
        (r#"{"type":"dance"}"#, "\"join\", \"leave\", \"message\", \"auth\" or \"ping\""),
        (r#"{"type":7}"#, "\"join\", \"leave\", \"message\", \"auth\" or \"ping\""),
        (r#"{"type":"message","roomId":"a"}"#, "`content` is missing"),
        (r#"{"type":"message","roomId":"a","content":1,"echo":"no"}"#, "`echo` must be"),
        (r#"{"type":"message","roomId":"a","content":1,"ack":1}"#, "`ack` must be"),
        (r#"{"type":"ping","ref":{}}"#, "`ref` must be"),
        (r#"{"type":"ping","ref":true}"#, "`ref` must be"),
    ];
    for (text, hint) in cases {
        let (code, message, _) = refusal(text);
        assert_eq!(code, ErrorCode::BadMessage, "{text}");
        assert!(message.contains(hint), "{text}: {message}");
    }
}

#[test]
fn a_ref_of_64_bytes_is_echoed_and_one_of_65_is_not() {
    let request = |len| format!(r#"{{"type":"ping","ref":"{}"}}"#, "r".repeat(len));
    assert!(parse(&request(64)).is_ok());
    assert_eq!(
        refusal(&request(65)),
        (ErrorCode::BadMessage, "`ref` must be a number or a string of at most 64 bytes".into(), None)
    );
    assert!(parse(&format!(r#"{{"type":"ping","ref":{}}}"#, "1".repeat(65))).is_err());
}

#[test]
fn a_room_that_is_none_is_refused_with_the_rule_and_the_ref() {
    let cases = [
        (r#""""#, "1 to 200 bytes"),
        (r#""a b""#, "printable ASCII"),
        (r#""a\r\nPUB x""#, "printable ASCII"),
        (r#""a*""#, "printable ASCII"),
        (r#""\u003e""#, "printable ASCII"),
        (r#""a\"b""#, "printable ASCII"),
        (r#""caf\u00e9""#, "printable ASCII"),
        (r#""\ud800""#, "must be a string"),
        (r#""a..b""#, "double dot"),
        (r#""$SYS""#, "does not begin with $"),
        ("7", "must be a string"),
        ("null", "must be a string"),
    ];
    for (room, rule) in cases {
        let (code, message, reference) = refusal(&format!(r#"{{"type":"join","roomId":{room},"ref":9}}"#));
        assert_eq!((code, reference.as_deref()), (ErrorCode::BadRoom, Some("9")), "{room}");
        assert!(message.contains(rule), "{room}: {message}");
    }
    let long = format!(r#"{{"type":"join","roomId":"{}"}}"#, "a".repeat(201));
    assert_eq!(refusal(&long).0, ErrorCode::BadRoom);
    assert!(refusal(r#"{"type":"leave"}"#).1.contains("missing"));
}

#[test]
fn a_join_of_one_room_and_each_of_several_may_bring_the_rooms_own_token() {
    let requested = |text: &str| {
        let Ok(Request::JoinAll { rooms, reference: Some("9") }) = parse(text) else { panic!("{:?}", parse(text)) };
        let told = |room: Result<RequestedRoom<'_>, InvalidRoom<'_>>| match room {
            Ok(RequestedRoom { room, token }) => format!("{room} {token:?}"),
            Err(InvalidRoom { code, message, .. }) => format!("{} {message}", code.name()),
        };
        rooms.rooms().into_iter().map(told).collect::<Vec<_>>()
    };
    let one = r#" {"token":"e\u0079J.a.b","type":"join","ref":9,"roomId":"a"}"#;
    assert_eq!(requested(one), [r#"a Some("eyJ.a.b")"#]);
    let several = r#"{"type":"join","rooms":[{"roomId":"a","token":"t"},"b",{"roomId":"c","token":7}],"ref":9}"#;
    let third = "bad-message element 2 of `rooms` is not taken: `token` must be a string, the room's own token";
    assert_eq!(requested(several), [r#"a Some("t")"#, "b None", third]);
    for (wrong, told) in [
        (r#"{"type":"join","roomId":"a","token":null}"#, "`token` must be a string"),
        (r#"{"type":"join","rooms":["a"],"token":"t"}"#, "put it into the element of `rooms`"),
        (r#"{"type":"join","roomId":"a b","token":"t"}"#, "printable ASCII"),
    ] {
        assert!(refusal(wrong).1.contains(told), "{wrong}: {:?}", refusal(wrong));
    }
}

#[test]
fn a_join_lists_several_rooms_by_name_or_as_objects_and_each_wrong_one_is_named_alone() {
    let text =
        r#"{"type":"join","rooms":["a",{"roomId":"b.\u0063","epoch":"e"}, "a b" ,7,{"room":"d"},"\ud800"],"ref":9}"#;
    let Ok(Request::JoinAll { rooms, reference: Some("9") }) = parse(text) else { panic!("{:?}", parse(text)) };
    let rooms = rooms.rooms();
    let requested = |room: &'static str| Ok(RequestedRoom { room: room.into(), token: None });
    assert_eq!(rooms[..2], [requested("a"), requested("b.c")]);
    let wrong: Vec<_> = rooms[2..].iter().map(|room| room.as_ref().unwrap_err()).collect();
    let codes = [ErrorCode::BadRoom, ErrorCode::BadMessage, ErrorCode::BadMessage, ErrorCode::BadMessage];
    assert_eq!(wrong.iter().map(|wrong| wrong.code).collect::<Vec<_>>(), codes);
    let InvalidRoom { message, room, .. } = wrong[0];
    assert_eq!(
        (&**message, room.as_deref()),
        (
            "element 2 of `rooms` is not taken: a room's name is printable ASCII without space, *, >, \" and \\",
            Some("a b"),
        )
    );
    assert!(wrong[1].message.contains("element 3 of `rooms`") && wrong[1].message.contains(r#"{"roomId":"lobby"}"#));
    // A name that is too long is not sent back.
    let long = format!(r#"{{"type":"join","rooms":["{}"]}}"#, "a".repeat(201));
    let Ok(Request::JoinAll { rooms, .. }) = parse(&long) else { panic!("{long}") };
    assert!(matches!(&rooms.rooms()[..], [Err(InvalidRoom { code: ErrorCode::BadRoom, room: None, .. })]), "{rooms:?}");
}

#[test]
fn a_join_names_one_room_or_a_list_of_some() {
    for (rest, hint) in [
        (r#""rooms":[]"#, "must be a list"),
        (r#""rooms":"a""#, "must be a list"),
        (r#""rooms":null"#, "must be a list"),
        (r#""rooms":{"roomId":"a"}"#, "must be a list"),
        (r#""rooms":["a"],"roomId":"b""#, "one of the two"),
    ] {
        let (code, message, reference) = refusal(&format!(r#"{{"type":"join","ref":1,{rest}}}"#));
        assert_eq!((code, reference.as_deref()), (ErrorCode::BadMessage, Some("1")), "{rest}");
        assert!(message.contains(hint), "{rest}: {message}");
    }
}

/// A client published `"\ud800"`, and another 30,000 levels of arrays. The gateway passed both on, and the parsers of every member
/// (PHP, Rust, Java) failed on the whole message.
#[test]
fn content_that_other_json_parsers_cannot_read_is_bad_message_and_says_what_is_accepted() {
    let message = |content: &str| format!(r#"{{"type":"message","roomId":"a","content":{content},"ref":7}}"#);
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    for (content, hint) in [
        (r#""\ud800""#.into(), "write both halves"),
        (r#"{"a":["\udc00\ud800"]}"#.into(), "write both halves"),
        (r#"{"\uD83D":1}"#.into(), "write both halves"),
        (deep(129), "at most 128 levels"),
        (deep(100_000), "at most 128 levels"),
    ] {
        let (code, text, reference) = refusal(&message(&content));
        assert_eq!((code, reference.as_deref()), (ErrorCode::BadMessage, Some("7")), "{text}");
        assert!(text.starts_with("`content` is refused: ") && text.contains(hint), "{text}");
    }
    for content in [deep(128), r#""\ud83d\ude00 \\ud800""#.into()] {
        assert!(matches!(parse(&message(&content)), Ok(Request::Message { content: read, .. }) if read == content));
    }
}

#[test]
fn a_field_that_is_ignored_and_a_hundred_thousand_levels_deep_costs_no_stack() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = format!(r#"{{"type":"message","roomId":"a","content":1,"more":{deep}}}"#);
    assert!(matches!(parse(&text), Ok(Request::Message { content: "1", .. })));
}

/// What one writer writes.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[test]
fn every_answer_is_as_the_protocol_page_says() {
    use tidegate_core::dialect::native::*;
    let limits = ClientLimits { message_bytes: 65_536, message_rate: 0, rooms: 128 };
    let cases = [
        (
            written(|out| welcome(out, b"00c0ffee", "n-1", [25_000, 10_000], limits, Identity::Guest)),
            r#"{"type":"welcome","connectionId":"00c0ffee","node":"n-1","pingInterval":25000,"pongTimeout":10000,"limits":{"messageBytes":65536,"messageRate":0,"rooms":128}}"#,
        ),
        (
            written(|out| {
                let identity = Identity::Token { user: Some("al"), expires_ms: 5 };
                welcome(out, b"00c0ffee", "n-1", [25_000, 10_000], limits, identity);
            }),
            r#"{"type":"welcome","connectionId":"00c0ffee","node":"n-1","pingInterval":25000,"pongTimeout":10000,"limits":{"messageBytes":65536,"messageRate":0,"rooms":128},"user":"al","expiresIn":5}"#,
        ),
        (
            written(|out| authenticated(out, Identity::Token { user: Some("al"), expires_ms: 5 }, Some("1"))),
            r#"{"type":"authenticated","user":"al","expiresIn":5,"ref":1}"#,
        ),
        (written(|out| token_expiring(out, 30_000)), r#"{"type":"token-expiring","expiresIn":30000}"#),
        (
            written(|out| unauthorized(out, "expired", "the token ended", Some("a"), None)),
            r#"{"type":"error","code":"unauthorized","reason":"expired","message":"the token ended","roomId":"a"}"#,
        ),
        (written(|out| joined(out, "a", None)), r#"{"type":"joined","roomId":"a"}"#),
        (written(|out| left(out, "a", None, Some("\"x\""))), r#"{"type":"left","roomId":"a","ref":"x"}"#),
        (
            written(|out| left(out, "a", Some("permission"), None)),
            r#"{"type":"left","roomId":"a","reason":"permission"}"#,
        ),
        (written(|out| ack(out, Some("7"), "broker")), r#"{"type":"ack","ref":7,"level":"broker"}"#),
        (written(|out| pong(out, None)), r#"{"type":"pong"}"#),
        (
            written(|out| error(out, ErrorCode::NotJoined, "join \"a\" first", None, Some("1"))),
            r#"{"type":"error","code":"not-joined","message":"join \"a\" first","ref":1}"#,
        ),
        (
            written(|out| error(out, ErrorCode::RoomLimit, "too many", Some("a"), Some("1"))),
            r#"{"type":"error","code":"room-limit","message":"too many","roomId":"a","ref":1}"#,
        ),
        (
            written(|out| gap(out, Some("a"), "outbox", 0)),
            r#"{"type":"gap","roomId":"a","reason":"outbox","resyncAfter":0}"#,
        ),
        (written(|out| gap(out, None, "broker", 4999)), r#"{"type":"gap","reason":"broker","resyncAfter":4999}"#),
        (written(|out| shutdown(out, 10)), r#"{"type":"server-shutdown","reconnectAfter":10}"#),
        (
            written(|out| {
                message(
                    out,
                    "a",
                    Sender { from: Some(b"00c0ffee"), user: Some("alice") },
                    Content::Json(b"{\"x\": 1}"),
                    u64::MAX,
                )
            }),
            r#"{"type":"message","roomId":"a","from":"00c0ffee","user":"alice","content":{"x": 1},"timestamp":18446744073709551615}"#,
        ),
        (
            written(|out| message(out, "a", Sender::default(), Content::Binary(&[0, 0xff, 1, 2]), 5)),
            r#"{"type":"message","roomId":"a","content":"AP8BAg==","encoding":"base64","timestamp":5}"#,
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(written, expected);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_escapes_from_the_string_it_is_written_into(text in "[\\x00-\\x7fé€😀\u{2028}\"\\\\]{0,60}") {
        use tidegate_core::dialect::native::{Content, Sender, message};
        let json = written(|out| message(out, "a", Sender::default(), Content::Text(&text), 1));
        let value: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
        proptest::prop_assert_eq!(value["content"].as_str(), Some(&*text));
        proptest::prop_assert_eq!(value.as_object().map(serde_json::Map::len), Some(4));
    }

    #[test]
    fn any_text_at_all_is_a_request_or_refused(text in ".{0,80}") {
        let _ = parse(&text);
    }

    #[test]
    fn what_is_published_comes_back_as_it_was(content in "\\PC{0,40}") {
        let token = serde_json::to_string(&content).expect("JSON");
        let text = format!(r#"{{"type":"message","roomId":"a","content":{token}}}"#);
        let read = matches!(parse(&text), Ok(Request::Message { content, .. }) if content == token);
        proptest::prop_assert!(read);
    }
}
