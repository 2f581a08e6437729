//! tidegate, from start to stop.

fn main() {}
