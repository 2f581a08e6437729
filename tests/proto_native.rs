//! The native dialect: what clients ask, what they are told, and what they cannot inject.

use tidegate::dialect::native::{ErrorCode, Request, parse};

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
