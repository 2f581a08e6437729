//! tideload
fn main() {}
