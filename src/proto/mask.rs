//! Masking (RFC 6455 §5.3), in place. The same operation masks and unmasks.
//!
//! Eight octets at a time, which the compiler turns into vector instructions; any alignment, any length, any phase.

/// XORs `bytes` with `mask`; `phase` is how many octets of the payload came before them.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let turned: [u8; 4] = std::array::from_fn(|i| mask[(i + phase) % 4]);
    let [a, b, c, d] = turned;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut octets = [0; 8];
        octets.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(octets) ^ word).to_ne_bytes());
    }
    for (octet, key) in words.into_remainder().iter_mut().zip(turned.iter().cycle()) {
        *octet ^= key;
    }
}
