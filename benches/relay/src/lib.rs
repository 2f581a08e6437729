//! An own codec for the relay's connection to NATS, written to become the product's. The program beside it measures it against the
//! relay as it is.

pub mod codec;
