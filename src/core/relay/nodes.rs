//! The node channel: which nodes a message of one node is for. What it says is the directory's; the relay carries octets.

/// Receivers of a message on the node channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeTarget {
    /// Every node, the sender too.
    All,
    /// The node with this number, as in its connection ids.
    One(u32),
}
