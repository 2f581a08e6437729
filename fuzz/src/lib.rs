//! What the fuzzers run: one function for each target, from any octets to a panic where a promise is broken.
//!
//! `targets/` drives the [`bodies`] with libFuzzer; `tests/corpus_replay.rs` of the main package includes the same source and
//! runs it over the committed corpora and a seeded generator, without libFuzzer.

pub mod bodies;

// The simulator's modules name each other from the crate's root.
#[path = "../../tests/simulator/bus.rs"]
mod bus;
#[path = "../../tests/simulator/client.rs"]
mod client;
#[path = "../../tests/simulator/oracle.rs"]
mod oracle;
#[path = "../../tests/simulator/socket.rs"]
mod socket;
#[path = "../../tests/simulator/world.rs"]
mod world;
