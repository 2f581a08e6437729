//! Masking (RFC 6455 §5.3), in place. The same operation masks and unmasks.
//!
//! Eight octets at a time, which the compiler turns into vector instructions; any alignment, any length, any phase.

/// XORs `bytes` with `mask`; `phase` is how many octets of the payload came before them.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let turned = u32::from_le_bytes(mask).rotate_right(8 * (phase % 4) as u32);
    let word = u64::from(turned) << 32 | u64::from(turned);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut octets = [0; 8];
        octets.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_le_bytes(octets) ^ word).to_le_bytes());
    }
    for (octet, key) in words.into_remainder().iter_mut().zip(word.to_le_bytes()) {
        *octet ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_alignment_and_phase_is_what_one_octet_at_a_time_gives() {
        let mask = [0x11, 0x22, 0x44, 0x88];
        let source: Vec<u8> = (0..80).map(|i: u8| i.wrapping_mul(37)).collect();
        for start in 0..9 {
            for end in start..source.len() {
                for phase in [0, 1, 2, 3, 6] {
                    let naive: Vec<_> =
                        source[start..end].iter().enumerate().map(|(i, octet)| octet ^ mask[(i + phase) % 4]).collect();
                    let mut ours = source.clone();
                    unmask(&mut ours[start..end], mask, phase);
                    assert_eq!(ours[start..end], naive, "{start}..{end}, phase {phase}");
                }
            }
        }
    }

    #[test]
    fn masking_in_pieces_is_masking_at_once() {
        let mask = [1, 2, 3, 4];
        for cut in 0..40 {
            let (mut pieces, mut whole) = ([0xa5; 40], [0xa5; 40]);
            unmask(&mut pieces[..cut], mask, 0);
            unmask(&mut pieces[cut..], mask, cut);
            unmask(&mut whole, mask, 0);
            assert_eq!(pieces, whole);
        }
    }
}
