//! A set of ports, small enough to sit in every room's entry.

/// Names a port: its position in what `relay::start` hands out. Shards first, the admin thread last.
pub type PortIndex = u16;

/// Ports of one node at most: 256 shards and the admin thread.
pub const MAX_PORTS: usize = 257;

const WORDS: usize = MAX_PORTS.div_ceil(64);

/// A set of port indices below [`MAX_PORTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortSet {
    words: [u64; WORDS],
}

impl PortSet {
    /// Adds a port; says whether it was absent.
    pub fn insert(&mut self, port: PortIndex) -> bool {
        let (word, bit) = place(port);
        let absent = self.words[word] & bit == 0;
        self.words[word] |= bit;
        absent
    }

    /// Removes a port; says whether it was there.
    pub fn remove(&mut self, port: PortIndex) -> bool {
        let (word, bit) = place(port);
        let present = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        present
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PortIndex> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| Bits { word: *word, base: index as u16 * 64 })
    }
}

struct Bits {
    word: u64,
    base: u16,
}

impl Iterator for Bits {
    type Item = PortIndex;

    fn next(&mut self) -> Option<PortIndex> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros() as u16;
        self.word &= self.word - 1;
        Some(self.base + bit)
    }
}

fn place(port: PortIndex) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_every_port_of_the_largest_node() {
        let mut set = PortSet::default();
        for port in [0, 63, 64, 255, 256] {
            assert!(set.insert(port), "{port} was absent");
            assert!(!set.insert(port), "{port} is there now");
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255, 256]);
        for port in [0, 63, 64, 255, 256] {
            assert!(set.remove(port));
            assert!(!set.remove(port));
        }
        assert!(set.is_empty());
    }
}
