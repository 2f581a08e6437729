use proptest::prelude::*;

use super::*;
use crate::codec::buffer::ReadBuffer;

/// An operation that owns its bytes.
#[derive(Clone, PartialEq, Debug)]
enum Op {
    Info(Vec<u8>),
    Message { sid: u64, subject: String, reply: Option<String>, headers: Vec<u8>, payload: Vec<u8> },
    Oversized(u64, usize),
    Ping,
    Pong,
    Ok,
    Error(String),
}

impl Op {
    fn of(op: ServerOp<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match op {
            ServerOp::Info(json) => Self::Info(json.to_vec()),
            ServerOp::Message(Message { sid, subject, reply, headers, payload }) => Self::Message {
                sid,
                subject: text(subject),
                reply: reply.map(text),
                headers: headers.block().to_vec(),
                payload: payload.to_vec(),
            },
            ServerOp::Oversized { sid, bytes } => Self::Oversized(sid, bytes),
            ServerOp::Ping => Self::Ping,
            ServerOp::Pong => Self::Pong,
            ServerOp::Ok => Self::Ok,
            ServerOp::Error(ServerError::Other(text)) => Self::Error(text.to_owned()),
            ServerOp::Error(other) => panic!("the strategy makes no {other:?}"),
        }
    }

    /// As a server writes it.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Info(json) => out.extend([b"INFO ", &json[..], b"\r\n"].concat()),
            Self::Message { sid, subject, reply, headers, payload } => {
                let reply = reply.as_ref().map(|reply| format!("{reply} ")).unwrap_or_default();
                let total = headers.len() + payload.len();
                let line = if headers.is_empty() {
                    format!("MSG {subject} {sid} {reply}{total}\r\n")
                } else {
                    format!("HMSG {subject} {sid} {reply}{} {total}\r\n", headers.len())
                };
                out.extend([line.as_bytes(), headers, payload, b"\r\n"].concat());
            }
            Self::Oversized(..) => panic!("the bound makes these"),
            Self::Ping => out.extend(b"PING\r\n"),
            Self::Pong => out.extend(b"PONG\r\n"),
            Self::Ok => out.extend(b"+OK\r\n"),
            Self::Error(text) => out.extend(format!("-ERR '{text}'\r\n").into_bytes()),
        }
    }

    /// What a parser with this bound makes of it.
    fn bounded(&self, message_bytes: usize) -> Self {
        match self {
            Self::Message { sid, headers, payload, .. } if headers.len() + payload.len() > message_bytes => {
                Self::Oversized(*sid, headers.len() + payload.len())
            }
            other => other.clone(),
        }
    }
}

/// Reads a stream in pieces of these lengths, over and over, and gives what the parser finds.
fn read(stream: &[u8], cuts: &[usize], message_bytes: usize) -> Result<Vec<Op>, ProtocolError> {
    let (mut parser, mut buffer, mut found) = (Parser::new(message_bytes), ReadBuffer::default(), Vec::new());
    let (mut rest, mut cuts, mut missing) = (stream, cuts.iter().cycle(), 1);
    while !rest.is_empty() {
        let space = buffer.space(missing);
        let taken = space.len().min(rest.len()).min(*cuts.next().unwrap_or(&1));
        space[..taken].copy_from_slice(&rest[..taken]);
        buffer.filled(taken);
        rest = &rest[taken..];
        loop {
            let consumed = match parser.step(buffer.unread())? {
                Step::Op(op, consumed) => {
                    found.push(Op::of(op));
                    consumed
                }
                Step::Skip(skipped) => skipped,
                Step::More(more) => {
                    assert!(more > 0, "it asks for nothing, and would do so for ever");
                    missing = more;
                    break;
                }
            };
            assert!(consumed > 0, "a step took nothing, and would do so for ever");
            buffer.consume(consumed);
            if buffer.unread().is_empty() {
                missing = 1;
                break;
            }
        }
    }
    Ok(found)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let subject = "[a-z0-9.-]{1,40}";
    // Payloads look like lines of the protocol now and then.
    let content = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        Just(b"\r\n".to_vec()),
        Just(b"MSG a 1 5\r\nhello\r\nPING\r\n-ERR 'x'\r\n".to_vec()),
    ];
    let headers = prop_oneof![Just(Vec::new()), Just(b"NATS/1.0\r\nA: b\r\n\r\n".to_vec())];
    let message = (any::<u64>(), subject, prop::option::of(subject), headers, content)
        .prop_map(|(sid, subject, reply, headers, payload)| Op::Message { sid, subject, reply, headers, payload });
    let op = prop_oneof![
        4 => message,
        1 => "\\{[a-z:, \"]{0,60}\\}".prop_map(|json| Op::Info(json.into_bytes())),
        1 => Just(Op::Ping),
        1 => Just(Op::Pong),
        1 => Just(Op::Ok),
        1 => "[a-z ,.\n]{0,30}[a-z]".prop_map(|text| Op::Error(text.trim().to_owned())),
    ];
    prop::collection::vec(op, 0..20)
}

proptest! {
    #[test]
    fn every_operation_is_read_in_order_wherever_the_stream_is_cut(
        ops in ops(),
        cuts in prop::collection::vec(1_usize..80, 1..20),
        message_bytes in prop_oneof![Just(usize::MAX), 0_usize..200],
    ) {
        let mut stream = Vec::new();
        ops.iter().for_each(|op| op.write(&mut stream));
        let expected: Vec<_> = ops.iter().map(|op| op.bounded(message_bytes)).collect();
        prop_assert_eq!(read(&stream, &cuts, message_bytes), Ok(expected));
    }

    #[test]
    fn no_stream_panics_and_its_pieces_do_not_matter(
        stream in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"MSGHPINO+-ERK 019'\r\n"[..])], 0..400),
        begin in prop::sample::select(&["", "MSG ", "HMSG a 1 ", "-ERR ", "INFO ", "MSG a 1 3\r\n"][..]),
        cuts in prop::collection::vec(1_usize..80, 1..20),
    ) {
        let stream = [begin.as_bytes(), &stream].concat();
        let whole = read_any(&stream, &[stream.len().max(1)]);
        prop_assert_eq!(read_any(&stream, &cuts), whole);
    }
}

/// How many operations there are, whatever a server's errors say: [`Op`] has no place for them.
fn read_any(stream: &[u8], cuts: &[usize]) -> Result<usize, ProtocolError> {
    let (mut parser, mut unread, mut ops) = (Parser::new(100), Vec::new(), 0);
    let (mut rest, mut cuts) = (stream, cuts.iter().cycle());
    while !rest.is_empty() {
        let taken = rest.len().min(*cuts.next().unwrap_or(&1));
        unread.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
        loop {
            let consumed = match parser.step(&unread)? {
                Step::Op(_, consumed) => {
                    ops += 1;
                    consumed
                }
                Step::Skip(skipped) => skipped,
                Step::More(_) => break,
            };
            assert!(consumed > 0, "a step took nothing, and would do so for ever");
            unread.drain(..consumed);
        }
    }
    Ok(ops)
}

fn first(stream: &[u8]) -> Result<Step<'_>, ProtocolError> {
    Parser::new(1 << 20).step(stream)
}

#[test]
fn a_message_is_an_operation_once_all_of_it_is_there() {
    let stream = b"MSG a.b 7 5\r\nhello\r\nPING\r\n";
    let Ok(Step::Op(ServerOp::Message(message), 20)) = first(stream) else { panic!("{:?}", first(stream)) };
    assert_eq!((message.sid, message.subject, message.reply, message.payload), (7, &b"a.b"[..], None, &b"hello"[..]));
    assert_eq!(first(&stream[..13]), Ok(Step::More(7)), "what is missing is known once the line is there");
    assert_eq!(first(&stream[..12]), Ok(Step::More(1)));
    assert_eq!(first(b""), Ok(Step::More(1)));
}

#[test]
fn blanks_between_the_words_of_a_line_may_be_several_and_tabs() {
    let Ok(Step::Op(ServerOp::Message(message), _)) = first(b"HMSG  a\t7 r  12   13 \r\nNATS/1.0\r\n\r\nx\r\n") else {
        panic!()
    };
    assert_eq!((message.reply, message.headers.block().len(), message.payload), (Some(&b"r"[..]), 12, &b"x"[..]));
}

#[test]
fn a_line_that_is_no_operation_ends_the_connection_and_is_shown_in_part() {
    let bad = |line: &str| first(format!("{line}\r\n").as_bytes()).unwrap_err();
    assert_eq!(bad("HTTP/1.1 400 Bad Request"), ProtocolError::UnknownOperation("HTTP/1.1 400 Bad Request".into()));
    assert_eq!(bad("\x1b[31m"), ProtocolError::UnknownOperation("\\x1b[31m".into()), "a terminal is not written to");
    assert_eq!(bad("ping"), ProtocolError::UnknownOperation("ping".into()));
    assert_eq!(bad(""), ProtocolError::UnknownOperation(String::new()));
    assert_eq!(bad(&"x".repeat(1_000)), ProtocolError::UnknownOperation("x".repeat(40)));
    for line in [
        "MSG a 1",
        "MSG a b 1",
        "MSG a 1 -1",
        "MSG a 1 r 2 3",
        "MSG a 1 99999999999",
        "HMSG a 1 5",
        "HMSG a 1 6 5",
        "HMSG a 1 r 2 3 4",
        "MSG a 18446744073709551616 1",
        "MSG a 1 0x1",
        "MSG   1",
    ] {
        assert_eq!(bad(line), ProtocolError::BadArguments(line.into()));
    }
}

#[test]
fn a_message_without_a_line_end_behind_it_ends_the_connection() {
    assert_eq!(first(b"MSG a 1 2\r\nabc\r\n"), Err(ProtocolError::NoLineEnd));
    let mut parser = Parser::new(1);
    assert!(matches!(parser.step(b"MSG a 1 2\r\nabc\r\n"), Ok(Step::Op(ServerOp::Oversized { sid: 1, bytes: 2 }, 11))));
    assert_eq!(parser.step(b"abc\r\n"), Ok(Step::Skip(2)));
    assert_eq!(parser.step(b"c\r\n"), Err(ProtocolError::NoLineEnd), "one that is skipped is looked at too");
}

/// A publisher's line has at most 4,096 bytes, and the server adds the subscription's id: a subscriber that took no longer lines would
/// end its connection over a long reply, again and again.
#[test]
fn a_line_over_4096_bytes_is_read_and_one_without_an_end_is_not_collected_for_ever() {
    let reply = "r".repeat(4_090);
    let line = format!("MSG a 18446744073709551615 {reply} 1\r\nx\r\n");
    assert!(matches!(first(line.as_bytes()), Ok(Step::Op(ServerOp::Message(_), _))));
    assert_eq!(first(&vec![b'x'; LINE_BYTES]), Err(ProtocolError::LineTooLong));
    assert_eq!(first(&[&vec![b'x'; LINE_BYTES][..], b"\r\n"].concat()), Err(ProtocolError::LineTooLong));
    let most = [&vec![b'x'; LINE_BYTES - 2][..], b"\r\n"].concat();
    assert!(matches!(first(&most), Err(ProtocolError::UnknownOperation(_))));
}

/// A server of the cluster took larger messages than this gateway: each would have been a message of any size in the gateway's memory.
#[test]
fn a_message_over_the_bound_is_skipped_as_it_comes_and_takes_no_memory() {
    const HUGE: usize = 100 << 20;
    let (mut parser, mut buffer) = (Parser::new(1_000), ReadBuffer::default());
    let (piece, mut left, mut ops) = (vec![b'x'; 40_000], HUGE, Vec::new());
    let mut chunk = format!("HMSG a 3 16 {HUGE}\r\n").into_bytes();
    loop {
        buffer.space(chunk.len())[..chunk.len()].copy_from_slice(&chunk);
        buffer.filled(chunk.len());
        loop {
            let consumed = match parser.step(buffer.unread()).unwrap() {
                Step::Op(op, consumed) => {
                    ops.push(Op::of(op));
                    consumed
                }
                Step::Skip(skipped) => skipped,
                Step::More(_) => break,
            };
            buffer.consume(consumed);
        }
        match left {
            0 if ops.len() == 2 => break,
            0 => chunk = b"\r\nPING\r\n".to_vec(),
            _ => chunk = piece[..left.min(piece.len())].to_vec(),
        }
        left = left.saturating_sub(piece.len());
    }
    assert_eq!(ops, [Op::Oversized(3, HUGE), Op::Ping]);
    assert_eq!(buffer.capacity(), crate::codec::buffer::READ_BYTES);
}
