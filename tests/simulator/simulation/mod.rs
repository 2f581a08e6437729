//! A whole node in one thread.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | what a story is about, and which losses, closes and refusals it may show |
//! | [`world`] | the turns: clients act, shards run, the relay runs, clients read |
//! | [`node`] | the shards as they are, between simulated sockets and the relay's real mailboxes |
//! | [`relay`] | the local bus as it is, with its lock held at random; or the relay over a simulated broker |
//! | [`broker`] | a broker that confirms later, refuses, revokes, loses and fails to acknowledge |
//! | [`socket`] | the driver: octets cut at random, buffers that fill |
//! | [`client`] | what a client says, and what it makes of the octets that come back |
//! | [`oracle`] | what each shard and each client must have seen |
//! | [`accounts`] | what the counters must say at the end |
//! | [`dice`] | random numbers from a seed, or from a fuzzer |
//!
//! No module reads a clock or starts a thread: a seed plays the same world each time.

mod accounts;
mod broker;
mod client;
mod dice;
mod node;
mod oracle;
mod plan;
mod relay;
mod socket;
mod world;

#[allow(unused_imports, reason = "the fuzz targets and the stories name different ones")]
pub use self::{
    dice::Dice,
    plan::{Faults, Plan, Seen},
    world::World,
};
