//! A room server that lies in a chosen way, so that the load generator's account can be held against what really happened.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tungstenite::handshake::server::{Request, Response};

/// What it does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    Honest,
    /// Of every tenth message the first member gets nothing.
    Loses,
    /// Every tenth message reaches the first member twice.
    Doubles,
    /// Every tenth message reaches the first member after its successor.
    Swaps,
    /// Every second publication of a connection is refused by the number that it bears, as `REF=NUMBER.`.
    RefusesHalf,
    /// Every message is held back for 20 ms.
    Delays,
    /// Every upgrade is answered with 404.
    Refuses,
    /// Every connection is closed with 1013 at its room's tenth message.
    Closes,
}

#[derive(Default)]
struct Room {
    members: Vec<TcpStream>,
    messages: u64,
    held: Option<Vec<u8>>,
}

type Rooms = Arc<Mutex<HashMap<String, Room>>>;

/// Starts one; it lives as long as the test's process.
pub(crate) fn start(fault: Fault) -> SocketAddr {
    let listener = (0..1000)
        .find_map(|attempt| {
            let port = 12_000 + (std::process::id() * 31 + attempt * 7) as u16 % 8_000;
            TcpListener::bind(("127.0.0.1", port)).ok()
        })
        .expect("a free port");
    let address = listener.local_addr().unwrap();
    let rooms = Rooms::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let rooms = Arc::clone(&rooms);
            std::thread::spawn(move || serve(stream, fault, &rooms));
        }
    });
    address
}

fn serve(stream: TcpStream, fault: Fault, rooms: &Rooms) {
    let mut room = String::new();
    let writer = stream.try_clone().unwrap();
    writer.set_nodelay(true).unwrap();
    #[allow(clippy::result_large_err, reason = "the callback's type is the library's")]
    let callback = |request: &Request, response: Response| {
        room = request.uri().path().to_owned();
        if fault == Fault::Refuses {
            let refusal = tungstenite::http::Response::builder().status(404).body(None).unwrap();
            return Err(refusal);
        }
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, callback) else { return };
    rooms.lock().unwrap().entry(room.clone()).or_default().members.push(writer);
    let mut publications = 0;
    while let Ok(message) = socket.read() {
        if message.is_text() {
            publications += 1;
            if fault == Fault::RefusesHalf && publications % 2 == 0 {
                let text = message.to_text().unwrap();
                let number = text.trim_start_matches("REF=").split('.').next().unwrap();
                // What is broadcast is written to the same socket: whole frames, one at a time.
                let _rooms = rooms.lock().unwrap();
                socket.send(tungstenite::Message::text(format!("refused, ref={number}"))).ok();
                continue;
            }
            if fault == Fault::Delays {
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut rooms = rooms.lock().unwrap();
            broadcast(rooms.get_mut(&room).unwrap(), &message.into_data(), fault);
        }
    }
}

fn broadcast(room: &mut Room, content: &[u8], fault: Fault) {
    room.messages += 1;
    let tenth = room.messages.is_multiple_of(10);
    let frame = frame(content);
    for (index, member) in room.members.iter_mut().enumerate() {
        let mut octets = frame.clone();
        match fault {
            Fault::Loses if tenth && index == 0 => octets.clear(),
            Fault::Doubles if tenth && index == 0 => octets.extend_from_slice(&frame),
            Fault::Swaps if index == 0 => {
                if tenth {
                    room.held = Some(std::mem::take(&mut octets));
                } else if let Some(held) = room.held.take() {
                    octets.extend_from_slice(&held);
                }
            }
            Fault::Closes if tenth => octets = vec![0x88, 2, 0x03, 0xf5],
            _ => {}
        }
        // A member that is gone is none of a toy's business.
        let _ = member.write_all(&octets);
    }
}

fn frame(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match content.len() {
        length @ 0..=125 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(content);
    frame
}
