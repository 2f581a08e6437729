//! Frames to messages: the same events however the octets are cut, and the same verdicts as tungstenite's.

// The fuzz bodies keep what was said in the same way.
#[path = "../fuzz/src/bodies/said.rs"]
mod said;

use said::Said;
use tidegate_core::close::CloseReason;
use tidegate_core::ws::frame::{self, BINARY, CLOSE, CONTINUE, PING, PONG, TEXT};
use tidegate_core::ws::message::{Event, Partial, Rules, decode};

const RULES: Rules = Rules { message_bytes: 64 * 1024, deflate: None };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a connection makes of `pieces`, and how it ends.
fn hear<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, rules: &Rules) -> (Vec<Said>, Result<bool, CloseReason>) {
    let mut partial: Option<Box<Partial>> = None;
    let mut said = Vec::new();
    for piece in pieces {
        let (mut bytes, mut position) = (piece.to_vec(), 0);
        loop {
            match decode(&mut partial, &mut bytes, &mut position, rules) {
                Ok(Some(event)) => said.push(event.into()),
                Ok(None) => break,
                Err(reason) => return (said, Err(reason)),
            }
            if matches!(said.last(), Some(Said::Close(_))) {
                return (said, Ok(false));
            }
        }
        assert_eq!(position, bytes.len(), "every octet is consumed");
    }
    (said, Ok(partial.is_some()))
}

fn conversation() -> (Vec<u8>, Vec<Said>) {
    let mut bytes = Vec::new();
    frame::write_masked(&mut bytes, TEXT, MASK, "grüße".as_bytes());
    frame::write_masked_fragment(&mut bytes, BINARY, false, MASK, &[1, 2, 3]);
    frame::write_masked(&mut bytes, PING, MASK, b"there?");
    frame::write_masked_fragment(&mut bytes, CONTINUE, false, MASK, &[]);
    frame::write_masked_fragment(&mut bytes, CONTINUE, true, MASK, &[4; 200]);
    frame::write_masked(&mut bytes, PONG, MASK, b"");
    frame::write_masked_fragment(&mut bytes, TEXT, false, MASK, &[0xe2, 0x82]);
    frame::write_masked_fragment(&mut bytes, CONTINUE, true, MASK, &[0xac]);
    frame::write_masked(&mut bytes, CLOSE, MASK, b"\x03\xe8bye");
    let said = vec![
        Said::Text("grüße".into()),
        Said::Ping(b"there?".to_vec()),
        Said::Binary([&[1, 2, 3][..], &[4; 200]].concat()),
        Said::Pong(vec![]),
        Said::Text("€".into()),
        Said::Close(Some((1000, "bye".into()))),
    ];
    (bytes, said)
}

#[test]
fn a_conversation_is_the_same_whole_cut_anywhere_or_octet_by_octet() {
    let (bytes, said) = conversation();
    assert_eq!(hear([&bytes[..]], &RULES), (said.clone(), Ok(false)));
    assert_eq!(hear(bytes.chunks(1), &RULES), (said.clone(), Ok(false)));
    for cut in 0..=bytes.len() {
        assert_eq!(hear([&bytes[..cut], &bytes[cut..]], &RULES), (said.clone(), Ok(false)), "cut at {cut}");
    }
}

#[test]
fn a_message_that_comes_whole_is_handed_out_where_it_lies() {
    let mut bytes = Vec::new();
    frame::write_masked(&mut bytes, TEXT, MASK, &[b'a'; 1000]);
    let start = bytes.as_ptr() as usize;
    let (mut partial, mut position) = (None, 0);
    let Ok(Some(Event::Text(text))) = decode(&mut partial, &mut bytes, &mut position, &RULES) else {
        panic!("no text")
    };
    assert_eq!(text.as_ptr() as usize, start + 8);
    assert!(partial.is_none());
}

/// The verdict on these octets, given at once and one at a time.
fn verdict(bytes: &[u8]) -> Result<bool, CloseReason> {
    let (said, whole) = hear([bytes], &RULES);
    assert_eq!((said, whole), hear(bytes.chunks(1), &RULES), "{bytes:02x?}");
    whole
}

fn masked(opcode: frame::OpCode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_masked_fragment(&mut bytes, opcode, fin, MASK, payload);
    bytes
}

#[test]
fn every_violation_of_the_framing_is_a_protocol_error_at_its_first_octet() {
    let cases: &[(&str, &[u8])] = &[
        ("RSV1 that was not negotiated", &[0xc1]),
        ("RSV2", &[0xa1]),
        ("RSV3", &[0x91]),
        ("RSV1 on a control frame", &[0xc9]),
        ("RSV1 on a continuation", &[0xc0]),
        ("opcode 3", &[0x83]),
        ("opcode 7", &[0x87]),
        ("opcode B", &[0x8b]),
        ("opcode F", &[0x8f]),
        ("a fragmented ping", &[0x09]),
        ("a fragmented close", &[0x08]),
        ("no mask", &[0x81, 0x05]),
        ("a ping of 126 octets", &[0x89, 0xfe]),
        ("a close of 64 KiB", &[0x88, 0xff]),
        ("a length with the top bit set", &[0x82, 0xff, 0x80]),
        ("125 in two octets", &[0x82, 0xfe, 0, 125]),
        ("65,535 in eight octets", &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0]),
    ];
    for (what, bytes) in cases {
        assert_eq!(verdict(bytes), Err(CloseReason::Protocol), "{what}");
        assert_eq!(verdict(&bytes[..bytes.len() - 1]), Ok(bytes.len() > 1), "{what}, without the octet that decides");
    }
}

#[test]
fn a_length_with_the_top_bit_set_is_a_protocol_error_even_if_its_header_comes_whole() {
    let header = [&[0x82, 0xff, 0x80][..], &[0; 7], &MASK].concat();
    assert_eq!(verdict(&header), Err(CloseReason::Protocol));
}

#[test]
fn a_new_message_inside_a_fragmented_one_is_a_protocol_error() {
    for second in [TEXT, BINARY] {
        let bytes = [masked(TEXT, false, b"a"), masked(second, true, b"b")].concat();
        assert_eq!(verdict(&bytes), Err(CloseReason::Protocol));
    }
}

#[test]
fn every_close_code_is_taken_or_refused_as_the_registry_says() {
    for code in 0..=u16::MAX {
        let taken = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let (said, end) = hear([&masked(CLOSE, true, &code.to_be_bytes())[..]], &RULES);
        match taken {
            true => assert_eq!((said, end), (vec![Said::Close(Some((code, String::new())))], Ok(false))),
            false => assert_eq!((said, end), (vec![], Err(CloseReason::Protocol)), "{code}"),
        }
    }
}

#[test]
fn a_close_frame_has_no_payload_or_a_code_and_a_reason_in_utf8() {
    assert_eq!(hear([&masked(CLOSE, true, b"")[..]], &RULES).0, [Said::Close(None)]);
    assert_eq!(verdict(&masked(CLOSE, true, b"\x03")), Err(CloseReason::Protocol));
    assert_eq!(verdict(&masked(CLOSE, true, b"\x03\xe8\xff")), Err(CloseReason::InvalidPayload));
    assert_eq!(verdict(&masked(CLOSE, true, &[&b"\x03\xe8"[..], &[b'a'; 123]].concat())), Ok(false));
}

#[test]
fn a_message_of_the_limit_passes_and_one_octet_more_is_refused_at_its_header() {
    let limit = RULES.message_bytes;
    assert_eq!(hear([&masked(BINARY, true, &vec![1; limit])[..]], &RULES).0, [Said::Binary(vec![1; limit])]);
    let over = masked(BINARY, true, &vec![1; limit + 1]);
    assert_eq!(verdict(&over[..14]), Err(CloseReason::TooBig));
    assert_eq!(verdict(&over[..13]), Ok(true));

    let pieces = [masked(TEXT, false, &vec![b'a'; limit]), masked(CONTINUE, false, b"")].concat();
    assert_eq!(hear([&pieces[..]], &RULES), (vec![], Ok(true)));
    let over = [pieces, masked(CONTINUE, true, b"a")].concat();
    assert_eq!(hear([&over[..]], &RULES), (vec![], Err(CloseReason::TooBig)));
}

#[test]
fn an_announced_length_reserves_nothing() {
    for length in [60_000_u64, i64::MAX as u64] {
        let header = [&[0x82, 0xff][..], &(length.max(65_536)).to_be_bytes(), &MASK].concat();
        let rules = Rules { message_bytes: usize::MAX, deflate: None };
        let (mut partial, mut position, mut bytes) = (None, 0, [&header[..], b"abc"].concat());
        assert_eq!(decode(&mut partial, &mut bytes, &mut position, &rules), Ok(None));
        let partial = partial.unwrap();
        assert!(partial.pinned_bytes() < size_of::<Partial>() + 128, "{}", partial.pinned_bytes());
        assert_eq!(partial.missing_bytes(), length.max(65_536) - 3);
    }
}

#[test]
fn a_message_in_65_536_fragments_of_one_octet_passes() {
    let bytes: Vec<u8> =
        (0..65_536).flat_map(|i| masked(if i == 0 { TEXT } else { CONTINUE }, i == 65_535, b"a")).collect();
    let (said, end) = hear(bytes.chunks(1009), &RULES);
    assert_eq!((said, end), (vec![Said::Text("a".repeat(65_536))], Ok(false)));
}

#[test]
fn endless_empty_fragments_and_endless_pings_in_a_message_are_a_flood() {
    for idle in [masked(CONTINUE, false, b""), masked(PING, true, b"x"), masked(PONG, true, b"")] {
        let bytes = [masked(TEXT, false, b"a"), idle.repeat(1024)].concat();
        assert_eq!(hear([&bytes[..]], &RULES).1, Ok(true));
        let bytes = [bytes, idle].concat();
        assert_eq!(hear([&bytes[..]], &RULES).1, Err(CloseReason::Flood));
    }
}

#[test]
fn text_that_is_no_utf8_fails_at_its_first_impossible_octet_even_inside_a_frame() {
    let bytes = masked(TEXT, true, b"caf\xc3\xa9 \xf4\x90 and more");
    let fails_after = (0..bytes.len()).find(|&len| hear([&bytes[..len], &[]], &RULES).1.is_err());
    assert_eq!(fails_after, Some(6 + 8), "the octet after F4");
    let cut = [masked(TEXT, false, b"\xe2\x82"), masked(CONTINUE, true, b"")].concat();
    assert_eq!(verdict(&cut), Err(CloseReason::InvalidPayload));
}

#[test]
fn nothing_is_kept_once_everything_is_finished() {
    let mut bytes = [masked(BINARY, false, &[1; 500]), masked(PING, true, &[2; 100])].concat();
    let mut partial = None;
    let (head, tail) = bytes.split_at_mut(550);
    let mut position = 0;
    assert_eq!(decode(&mut partial, head, &mut position, &RULES), Ok(None));
    position = 0;
    assert_eq!(decode(&mut partial, tail, &mut position, &RULES), Ok(Some(Event::Ping(&[2; 100]))));
    assert_eq!(decode(&mut partial, tail, &mut position, &RULES), Ok(None));
    assert!(partial.is_some(), "the message is still open");
    let mut last = masked(CONTINUE, true, b"");
    position = 0;
    assert_eq!(decode(&mut partial, &mut last, &mut position, &RULES), Ok(Some(Event::Binary(&[1; 500]))));
    assert_eq!(decode(&mut partial, &mut last, &mut position, &RULES), Ok(None));
    assert!(partial.is_none());
}
