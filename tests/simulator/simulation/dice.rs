//! Random numbers: choices that were made beforehand, for as long as they last, then those of a seed.

use std::collections::VecDeque;

/// See the module.
#[derive(Clone)]
pub struct Dice {
    choices: VecDeque<u8>,
    state: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self::choosing(Vec::new(), seed)
    }

    /// Choices of a fuzzer come first: where it changes one of them, those after it stay.
    pub fn choosing(choices: Vec<u8>, seed: u64) -> Self {
        Self { choices: choices.into(), state: seed }
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if let Some(choice) = self.choices.pop_front() {
            let more = if bound > 256 { self.choices.pop_front().unwrap_or(0) } else { 0 };
            return (usize::from(choice) | usize::from(more) << 8) % bound.max(1);
        }
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = ((self.state >> 18) ^ self.state) >> 27;
        (x % bound.max(1) as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn per_mille(&mut self, per_mille: usize) -> bool {
        self.below(1_000) < per_mille
    }
}
