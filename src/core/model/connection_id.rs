//! Connection ids: how nodes and connections are named, so that an id read in a log or a message leads back to its socket.
//!
//! A connection id is 24 lower-case hexadecimal digits: node (8), shard (2), slab index (6), generation (8). It is never
//! reused while the node runs and differs between nodes with the probability of a random 32-bit node number.

use std::fmt;
use std::str::FromStr;

/// One connection, on any node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// Random number of the node's process.
    pub node: u32,
    /// Shard on the node.
    pub shard: u8,
    /// Slab index on the shard, at most [`ConnectionId::MAX_INDEX`].
    pub index: u32,
    /// Counts the shard's accepted connections, so that an index used again is another id.
    pub generation: u32,
}

impl ConnectionId {
    /// Length of the printed form in bytes.
    pub const TEXT_LEN: usize = 24;
    /// The largest slab index: six hexadecimal digits.
    pub const MAX_INDEX: u32 = 0xff_ffff;

    /// The printed form.
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        let mut text = [0; Self::TEXT_LEN];
        hex(&mut text[0..8], self.node);
        hex(&mut text[8..10], u32::from(self.shard));
        hex(&mut text[10..16], self.index);
        hex(&mut text[16..24], self.generation);
        text
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:02x}{:06x}{:08x}", self.node, self.shard, self.index, self.generation)
    }
}

/// The text is no connection id of any node.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAConnectionId;

impl FromStr for ConnectionId {
    type Err = NotAConnectionId;

    fn from_str(text: &str) -> Result<Self, NotAConnectionId> {
        let lower_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != Self::TEXT_LEN || !lower_hex {
            return Err(NotAConnectionId);
        }
        let part = |range| u32::from_str_radix(&text[range], 16).map_err(|_| NotAConnectionId);
        Ok(Self { node: part(0..8)?, shard: part(8..10)? as u8, index: part(10..16)?, generation: part(16..24)? })
    }
}

fn hex(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_printed() {
        let id = ConnectionId { node: 0xdead_beef, shard: 7, index: 0x12_3456, generation: 1 };
        assert_eq!(id.to_string(), "deadbeef0712345600000001");
        assert_eq!(id.text(), *b"deadbeef0712345600000001");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in
            ["", "deadbeef", "DEADBEEF0712345600000001", "+eadbeef0712345600000001", "deadbeef07123456000000011"]
        {
            assert_eq!(text.parse::<ConnectionId>(), Err(NotAConnectionId), "{text}");
        }
    }
}
