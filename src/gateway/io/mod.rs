//! Where bytes meet sockets: the two drivers of a shard, behind [`Driver`](tidegate_core::shard::driver::Driver).
//!
//! [`epoll::Epoll`] is the reference, [`uring::Uring`] the other one.

pub mod epoll;
mod socket;
pub mod uring;
