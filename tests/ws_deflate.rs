//! permessage-deflate: what is agreed on, what inflates, and what a hostile stream gets.

use std::io::Write;

use flate2::{Compression, write::DeflateEncoder};
use tidegate_core::close::{CloseReason, Refusal};
use tidegate_core::ws::deflate::{Deflate, agree, compress_once, inflate};
use tidegate_core::ws::frame::{self, CONTINUE, PING, TEXT};
use tidegate_core::ws::mask::unmask;
use tidegate_core::ws::message::{Event, Rules, decode};

const LIMIT: usize = 64 * 1024;
const MASK: [u8; 4] = [9, 8, 7, 6];

fn agreed(value: &str) -> Result<Option<Deflate>, Refusal> {
    agree(std::iter::once(value))
}

#[test]
fn the_first_offer_that_can_be_taken_is_taken() {
    let cases = [
        ("permessage-deflate", Some(Deflate::Full)),
        ("permessage-deflate; client_max_window_bits", Some(Deflate::Full)),
        ("permessage-deflate;client_max_window_bits=8 ; server_no_context_takeover", Some(Deflate::Full)),
        ("permessage-deflate; server_max_window_bits=15", Some(Deflate::Full)),
        ("permessage-deflate; server_max_window_bits=\"10\"", Some(Deflate::Small)),
        ("permessage-deflate; server_max_window_bits=9", Some(Deflate::Small)),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", Some(Deflate::Full)),
        ("x-webkit-deflate-frame, , permessage-deflate; client_no_context_takeover", Some(Deflate::Full)),
        ("permessage-bzip2", None),
        ("", None),
    ];
    for (value, expected) in cases {
        assert_eq!(agreed(value), Ok(expected), "{value}");
    }
    let many = "permessage-deflate; server_max_window_bits=7,".repeat(1000) + "permessage-deflate";
    assert_eq!(agreed(&many), Ok(Some(Deflate::Full)));
}

#[test]
fn an_offer_with_an_impossible_parameter_is_declined() {
    for parameter in [
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=09",
        "server_max_window_bits=+9",
        "server_max_window_bits",
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits=7",
        "client_max_window_bits=1000",
        "client_max_window_bits; client_max_window_bits=9",
        "server_no_context_takeover=1",
        "client_no_context_takeover; client_no_context_takeover",
        "unknown",
        "unknown=1",
    ] {
        assert_eq!(agreed(&format!("permessage-deflate; {parameter}")), Ok(None), "{parameter}");
    }
}

#[test]
fn what_is_no_list_of_extensions_is_a_bad_request() {
    for value in [
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; =9",
        "permessage-deflate;",
        "; x",
        "permessage deflate",
        "permessage-deflate; x=\"a b\"",
        "permessage-deflate; x=\"a",
    ] {
        assert_eq!(agreed(value), Err(Refusal::BadRequest), "{value}");
    }
}

#[test]
fn what_is_compressed_once_inflates_everywhere() {
    let noise: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let text = "the tide is high ".repeat(3000);
    for payload in [&b""[..], b"a", text.as_bytes(), &noise, &text.as_bytes()[..17]] {
        for deflate in [Deflate::Full, Deflate::Small] {
            let compressed = compress_once(payload, deflate);
            assert!(!compressed.is_empty() && !compressed.ends_with(&[0, 0, 0xff, 0xff]));
            assert_eq!(inflate(&compressed, false, payload.len()).as_deref(), Ok(payload), "to the octet of the limit");
            assert_eq!(compress_once(payload, deflate), compressed, "nothing is remembered between messages");
        }
    }
}

#[test]
fn a_small_window_looks_back_no_further() {
    let far = [&[1_u8; 100][..], &(0..=255).cycle().take(2000).collect::<Vec<u8>>(), &[1; 100]].concat();
    let compressed = compress_once(&far, Deflate::Small);
    let mut narrow = flate2::Decompress::new_with_window_bits(false, 9);
    let mut out = Vec::with_capacity(4096);
    narrow.decompress_vec(&compressed, &mut out, flate2::FlushDecompress::Sync).expect("distances within 512 bytes");
    assert_eq!(out, far);
}

#[test]
fn the_standards_examples_inflate() {
    let examples: &[&[u8]] = &[
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        // BFINAL=1, and the octet that makes room for the tail.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        // BFINAL=1 and nothing after it.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        // Two blocks.
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for example in examples {
        assert_eq!(inflate(example, true, 5).as_deref(), Ok(&b"Hello"[..]), "{example:02x?}");
    }
    assert_eq!(inflate(&[0x00], true, 0).as_deref(), Ok(&b""[..]), "an empty message");
}

#[test]
fn blocks_may_follow_a_final_one() {
    let first = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let again = [&first[..], &first, &[0x00]].concat();
    assert_eq!(inflate(&again, true, LIMIT).as_deref(), Ok(&b"HelloHello"[..]));
    // As many as a message holds: the standard has no limit (§7.2.1).
    let many = first.repeat(9_000);
    assert!(inflate(&many, true, LIMIT).is_ok_and(|inflated| inflated == b"Hello".repeat(9_000)));
}

/// A block that says nothing, but brings a table of codes of all lengths: of all octets the dearest to inflate.
const EMPTY_BLOCK: [u8; 21] = [
    0x04, 0xe0, 0x81, 0x96, 0x24, 0x49, 0x92, 0x24, 0x49, 0x22, 0xb1, 0xa8, 0x79, 0x64, 0xf5, 0xec, 0xdd, 0xff, 0x7f,
    0x2e, 0x3c,
];

#[test]
fn compressed_data_of_which_hardly_anything_comes_out_is_refused_after_4_kib() {
    // A client sent 64 KiB of blocks with tables and nothing in them as one message, a hundred times a second. Each was inflated to
    // the end, milliseconds for an empty message that the message rate counts as one: two such clients held a shard.
    let bomb = compress_once(&[b' '; 2 * LIMIT], Deflate::Full);
    let (final_block, stored_block, fixed_blocks) =
        ([0x03, 0x00], [0, 0, 0, 0xff, 0xff], [0x02, 0x08, 0x20, 0x80, 0x00]);
    for block in [&EMPTY_BLOCK[..], &final_block, &stored_block, &fixed_blocks] {
        let within = [&block.repeat(4095 / block.len())[..], &[0x00]].concat();
        assert_eq!(inflate(&within, true, LIMIT).as_deref(), Ok(&b""[..]), "{block:02x?}");
        let whole = [&block.repeat(LIMIT / block.len())[..], &[0x00]].concat();
        assert_eq!(inflate(&whole, true, LIMIT), Err(CloseReason::InvalidPayload), "{block:02x?}");
        // What follows is not inflated: it would be too big.
        let followed = [&block.repeat(4096 / block.len() + 1)[..], &bomb].concat();
        assert_eq!(inflate(&followed, true, LIMIT), Err(CloseReason::InvalidPayload), "{block:02x?}");
    }
}

#[test]
fn a_message_that_is_flushed_after_each_character_inflates_whole() {
    // Clients that send what they get piece by piece flush after each fragment (Python's websockets does, given an iterator).
    let mut deflater = flate2::Compress::new(Compression::default(), false);
    let (text, mut compressed) = ("abcdefghij".repeat(900), Vec::with_capacity(8 * 9_000));
    for character in text.as_bytes() {
        deflater.compress_vec(&[*character], &mut compressed, flate2::FlushCompress::Sync).expect("room");
    }
    assert!(compressed.len() >= 6 * text.len(), "{} octets", compressed.len());
    let message = compressed.strip_suffix(&[0, 0, 0xff, 0xff]).expect("a flush ends so");
    assert!(inflate(message, true, LIMIT).is_ok_and(|inflated| inflated == text.as_bytes()));
}

#[test]
fn a_stream_that_is_cut_or_broken_is_an_invalid_payload() {
    let whole =
        compress_once(&b"some text that is long enough to be cut in many places, some text".repeat(9), Deflate::Full);
    for len in 0..whole.len() {
        assert_eq!(inflate(&whole[..len], false, LIMIT), Err(CloseReason::InvalidPayload), "{len} of {}", whole.len());
    }
    let reserved_block = [0x06];
    let stored_with_a_wrong_length = [0x00, 0x05, 0x00, 0x00, 0x00, b'H'];
    let stored_and_cut = [0x00, 0x05, 0x00, 0xfa, 0xff, b'H'];
    let too_far_back = [0x4b, 0x04, 0x22, 0x00];
    for broken in [&reserved_block[..], &stored_with_a_wrong_length, &stored_and_cut, &too_far_back, &[0xff; 20]] {
        assert_eq!(inflate(broken, false, LIMIT), Err(CloseReason::InvalidPayload), "{broken:02x?}");
    }
}

/// A frame from a client with RSV1 set or not.
fn fragment(opcode: frame::OpCode, fin: bool, rsv1: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_masked_fragment(&mut bytes, opcode, fin, MASK, payload);
    bytes[0] |= if rsv1 { 0x40 } else { 0 };
    bytes
}

fn texts(bytes: &[u8], piece: usize) -> Result<Vec<String>, CloseReason> {
    let rules = Rules { message_bytes: LIMIT, deflate: Some(Deflate::Full) };
    let (mut partial, mut texts) = (None, Vec::new());
    for piece in bytes.chunks(piece) {
        let (mut piece, mut position) = (piece.to_vec(), 0);
        while let Some(event) = decode(&mut partial, &mut piece, &mut position, &rules)? {
            match event {
                Event::Text(text) | Event::InflatedText(text, _) => texts.push(text.to_owned()),
                other => texts.push(format!("{other:?}")),
            }
        }
    }
    assert!(partial.is_none(), "nothing is held between messages");
    Ok(texts)
}

#[test]
fn compressed_messages_come_whole_in_fragments_and_cut_anywhere() {
    let compressed = compress_once("grüße €".as_bytes(), Deflate::Full);
    let (a, b) = compressed.split_at(4);
    let bytes = [
        fragment(TEXT, true, true, &compressed),
        fragment(TEXT, true, false, "plain".as_bytes()),
        fragment(TEXT, false, true, a),
        fragment(PING, true, false, b""),
        fragment(CONTINUE, false, false, b""),
        fragment(CONTINUE, true, false, b),
    ]
    .concat();
    for piece in 1..=bytes.len() {
        let expected = ["grüße €", "plain", "Ping([])", "grüße €"].map(String::from).to_vec();
        assert_eq!(texts(&bytes, piece), Ok(expected), "in pieces of {piece}");
    }
}

#[test]
fn rsv1_belongs_on_the_first_frame_of_a_message_only() {
    let cases = [
        fragment(PING, true, true, b""),
        [fragment(TEXT, false, true, b"a"), fragment(CONTINUE, true, true, b"b")].concat(),
        fragment(CONTINUE, true, true, b"b"),
    ];
    for bytes in cases {
        assert_eq!(texts(&bytes, 1), Err(CloseReason::Protocol));
    }
}

#[test]
fn a_bomb_is_too_big_before_it_has_grown() {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 8 << 20]).expect("memory");
    let bomb = encoder.finish().expect("memory");
    assert!(bomb.len() < LIMIT);
    assert_eq!(texts(&fragment(TEXT, true, true, &bomb), usize::MAX), Err(CloseReason::TooBig));
    let (a, b) = bomb.split_at(bomb.len() / 2);
    let pieces = [fragment(TEXT, false, true, a), fragment(CONTINUE, true, false, b)].concat();
    assert_eq!(texts(&pieces, 1000), Err(CloseReason::TooBig));
}

#[test]
fn a_message_of_the_limit_passes_and_one_octet_more_does_not() {
    let message = "x".repeat(LIMIT);
    let compressed = compress_once(message.as_bytes(), Deflate::Full);
    assert_eq!(texts(&fragment(TEXT, true, true, &compressed), 777), Ok(vec![message.clone()]));
    let over = compress_once((message + "x").as_bytes(), Deflate::Full);
    assert_eq!(texts(&fragment(TEXT, true, true, &over), 777), Err(CloseReason::TooBig));
}

#[test]
fn more_compressed_octets_than_any_message_needs_are_refused_at_the_header() {
    let mut header = fragment(TEXT, true, true, &vec![0; 2 * LIMIT]);
    header.truncate(14);
    assert_eq!(texts(&header, 14), Err(CloseReason::TooBig));
}

#[test]
fn text_that_inflates_to_no_utf8_is_an_invalid_payload() {
    for text in [&b"\xff"[..], b"abc\xe2\x82", &[&[b'a'; 5000][..], b"\xc0"].concat()] {
        let compressed = compress_once(text, Deflate::Full);
        assert_eq!(texts(&fragment(TEXT, true, true, &compressed), 3), Err(CloseReason::InvalidPayload));
    }
}

#[test]
fn without_an_agreement_rsv1_is_a_protocol_error() {
    let mut bytes = fragment(TEXT, true, true, b"a");
    let rules = Rules { message_bytes: LIMIT, deflate: None };
    assert_eq!(decode(&mut None, &mut bytes, &mut 0, &rules), Err(CloseReason::Protocol));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_octets_inflate_within_the_limit_or_are_refused(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        unmask(&mut bytes, MASK, 0);
        if let Ok(payload) = inflate(&bytes, false, 500) {
            proptest::prop_assert!(payload.len() <= 500);
        }
    }
}
