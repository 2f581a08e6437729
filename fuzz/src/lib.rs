//! What the fuzzers run: one function for each target, from any octets to a panic where a promise is broken.
//!
//! `targets/` drives the [`bodies`] with libFuzzer; `tests/corpus_replay.rs` of the main package includes the same source and
//! runs it over the committed corpora and a seeded generator, without libFuzzer.

pub mod bodies;

#[path = "../../tests/simulator/simulation/mod.rs"]
mod simulation;
