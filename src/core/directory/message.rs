//! Messages of the node channel: JSON, versioned, so that nodes of two versions run side by side.
//!
//! `{"v":1,"from":"deadbeef","kind":"heartbeat",…}`. `from` is the sender's number, as in its connection ids. A reader ignores
//! fields and kinds that it does not know, and messages whose `v` is above its own: `v` rises when older nodes must not read on.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The version that this node writes, and the highest that it reads.
const VERSION: u32 = 1;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    v: u32,
    /// The sender's number.
    #[serde(serialize_with = "write_node", deserialize_with = "read_node")]
    pub from: u32,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Body {
    /// The sender lives.
    Heartbeat(Heartbeat),
    /// Of a later version: ignored.
    #[serde(other)]
    Unknown,
}

/// What a node says of itself with each heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// `node_name`.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The address of its admin port.
    pub admin: String,
    /// Its open connections.
    pub connections: u64,
    /// Connections that it admits.
    pub capacity: u64,
    /// The state of `ws_node_state` that it is in, such as `ready`.
    pub state: String,
}

impl Message {
    /// A message of the node with this number.
    pub const fn new(from: u32, body: Body) -> Self {
        Self { v: VERSION, from, body }
    }

    /// The octets to send.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a structure of texts and numbers is JSON")
    }

    /// Reads octets that arrived; `None` for what is no message, or of a version above this node's.
    pub fn read(octets: &[u8]) -> Option<Self> {
        serde_json::from_slice(octets).ok().filter(|message: &Self| message.v <= VERSION)
    }
}

fn write_node<S: Serializer>(node: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{node:08x}"))
}

fn read_node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    u32::from_str_radix(&text, 16).map_err(|_| D::Error::custom("a node's number is 8 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_read_as_it_was_written() {
        let heartbeat = Heartbeat { name: String::from("gw-1"), connections: 7, ..Heartbeat::default() };
        let message = Message::new(0xbeef, Body::Heartbeat(heartbeat));
        assert_eq!(Message::read(&message.write()), Some(message));
    }

    #[test]
    fn what_a_later_version_adds_is_ignored_and_what_older_nodes_must_not_read_is_not_read() {
        let later = br#"{"v":1,"from":"0000beef","kind":"heartbeat","name":"gw-1","zone":{"id":3}}"#;
        let heartbeat = Heartbeat { name: String::from("gw-1"), ..Heartbeat::default() };
        assert_eq!(Message::read(later), Some(Message::new(0xbeef, Body::Heartbeat(heartbeat))));
        let unknown = br#"{"v":1,"from":"0000beef","kind":"election","term":9}"#;
        assert_eq!(Message::read(unknown), Some(Message::new(0xbeef, Body::Unknown)));
        assert_eq!(Message::read(br#"{"v":2,"from":"0000beef","kind":"heartbeat"}"#), None);
        for garbage in [&b""[..], b"{}", b"[1]", b"\xff", br#"{"v":1,"from":"g","kind":"heartbeat"}"#] {
            assert_eq!(Message::read(garbage), None);
        }
    }
}
