//! Frames in pieces, end to end: bad ones wherever they are cut, and messages of very many fragments.

use std::io::Write;
use std::net::TcpStream;

use crate::bad_frames::{bad_frames, close_code, masked, open, read_frame};
use crate::support::gateway::{Driver, Gateway};
use crate::support::http;

crate::on_both_drivers! {
    every_bad_frame_gets_its_close_code_wherever_it_is_cut
    text_that_is_not_utf_8_is_closed_with_1007_wherever_it_is_cut
    a_message_of_the_limit_in_65_536_fragments_passes_and_one_more_does_not
}

fn every_bad_frame_gets_its_close_code_wherever_it_is_cut(driver: Driver) {
    let gateway = Gateway::start(driver, &["--connection-rate", "0"]);
    let mut cuts = 0;
    for (name, octets, code, _) in bad_frames().iter().filter(|(_, octets, ..)| octets.len() < 200) {
        cut_everywhere(&gateway, name, octets, *code);
        cuts += octets.len() - 1;
    }
    println!("bad inputs: {cuts} cuts of frames");
}

fn text_that_is_not_utf_8_is_closed_with_1007_wherever_it_is_cut(driver: Driver) {
    let gateway = Gateway::start(driver, &["--connection-rate", "0"]);
    for text in [&b"ab\xf4\x90\x80\x80cd"[..], b"\xe1\xa0\xc0", "é\u{1f30a}".as_bytes().split_at(5).0, b"\xed\xb2\x80"]
    {
        cut_everywhere(&gateway, "one frame", &masked(0x81, text), 1007);
        // Between two fragments, at each octet of the text.
        for at in 1..text.len() {
            let (front, back) = text.split_at(at);
            let mut stream = http::connect(gateway.port);
            open(&mut stream, "/raw/lobby");
            let _ = stream.write_all(&[masked(0x01, front), masked(0x80, back)].concat());
            assert_eq!(close_code(&mut stream), Some(1007), "{text:?} in fragments of {at} and the rest");
        }
    }
}

/// The same close code wherever the octets are cut; all at once, each waiting at its cut.
fn cut_everywhere(gateway: &Gateway, name: &str, octets: &[u8], code: u16) {
    let mut streams: Vec<TcpStream> = (1..octets.len()).map(|_| http::connect(gateway.port)).collect();
    for (stream, cut) in streams.iter_mut().zip(1..) {
        open(stream, "/raw/lobby");
        stream.write_all(&octets[..cut]).unwrap();
    }
    for (stream, cut) in streams.iter_mut().zip(1..) {
        let _ = stream.write_all(&octets[cut..]);
        assert_eq!(close_code(stream), Some(code), "{name} cut at {cut}");
    }
}

fn a_message_of_the_limit_in_65_536_fragments_passes_and_one_more_does_not(driver: Driver) {
    let gateway = Gateway::start(driver, &["--message-rate", "0"]);
    let fragments = |count: usize| {
        let mut octets = masked(0x02, b"x");
        (2..count).for_each(|_| octets.extend(masked(0x00, b"x")));
        octets.extend(masked(0x80, b"x"));
        octets
    };
    let mut stream = http::connect(gateway.port);
    open(&mut stream, "/raw/lobby");
    stream.write_all(&fragments(65_536)).unwrap();
    assert_eq!(read_frame(&mut stream), Some((0x82, vec![b'x'; 65_536])));
    let _ = stream.write_all(&fragments(65_537));
    assert_eq!(close_code(&mut stream), Some(1009));
}
