//! One function for each fuzz target, from any octets to a panic where a promise is broken.
//!
//! Each compares what the gateway does with the simplest thing that could be right (std, a naive loop, a set, a sorted list),
//! or holds a property that any input must keep. They share no state: the same octets always do the same.

mod application;
mod compression;
mod handshake;
mod messages;
mod octets;
mod outboxes;
mod rooms;
mod said;
mod settings;
mod tables;
mod worlds;

pub use application::{native_dialect, relay_header};
pub use compression::{deflate, inflate};
pub use handshake::{handshake_policy, proxy_header, request_head};
pub use messages::{frame_stream, reassembly};
pub use octets::{frame_header, unmask, utf8};
pub use outboxes::outbox;
pub use rooms::room;
pub use settings::config;
pub use tables::{connections, interest, sweep};
pub use worlds::world;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("connections", connections),
    ("deflate", deflate),
    ("frame_header", frame_header),
    ("frame_stream", frame_stream),
    ("handshake_policy", handshake_policy),
    ("inflate", inflate),
    ("interest", interest),
    ("native_dialect", native_dialect),
    ("outbox", outbox),
    ("proxy_header", proxy_header),
    ("reassembly", reassembly),
    ("relay_header", relay_header),
    ("request_head", request_head),
    ("room", room),
    ("sweep", sweep),
    ("unmask", unmask),
    ("utf8", utf8),
    ("world", world),
];

/// Runs a body on what `data` means as a `T`, which is nothing where it is too short.
fn with<T: for<'a> arbitrary::Arbitrary<'a>>(data: &[u8], body: impl FnOnce(T)) {
    if let Ok(input) = T::arbitrary_take_rest(arbitrary::Unstructured::new(data)) {
        body(input);
    }
}

/// Cuts `bytes` into pieces of 1 to 16 octets, or of any size for a `seed` of 0, as the seed decides.
fn cut(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let (mut pieces, mut rest, mut state) = (Vec::new(), bytes, u32::from(seed));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = if seed == 0 { rest.len() } else { 16 };
        let (piece, others) = rest.split_at(rest.len().min(1 + (state >> 16) as usize % most));
        pieces.push(piece);
        rest = others;
    }
    pieces
}
