//! The client's address behind proxies that write X-Forwarded-For.
//!
//! Each proxy appends the address that connected to it. What stands to the left of a proxy that is not trusted is that peer's own
//! invention: trust follows the chain from the connection's peer to the left, and ends at the first address that is no trusted proxy.

use std::net::{IpAddr, SocketAddr};

/// The last hop that is known: from `peer`, on through `forwarded` (the nearest first, see
/// [`Upgrade::forwarded_for`](super::Upgrade::forwarded_for)) as long as `trusts` holds for the hop that wrote it.
pub fn last_known_hop<'a>(
    peer: IpAddr,
    forwarded: impl Iterator<Item = &'a str>,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut hop = peer;
    for text in forwarded {
        // A proxy that does not know, or does not tell, writes a word: nothing vouches for what stands further left.
        let Some(address) = address(text).filter(|_| trusts(hop)) else { break };
        hop = address;
    }
    hop
}

/// The address in one of the forms that proxies write: with or without a port, IPv6 with or without brackets, quoted or not.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(peer: &str, forwarded: &str) -> String {
        let trusted = |address: IpAddr| address.is_loopback() || address.to_string().starts_with("10.");
        last_known_hop(peer.parse().unwrap(), forwarded.rsplit(',').map(str::trim), trusted).to_string()
    }

    #[test]
    fn trust_follows_the_chain_of_x_forwarded_for_from_the_right() {
        // Only the last address was read: behind two proxies every client had the inner proxy's, and behind a TCP balancer a
        // client could invent its own.
        let cases = [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9", "the peer is no proxy: what it says is its own invention"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1", "one proxy"),
            ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1", "two proxies"),
            (
                "10.0.0.1",
                "1.1.1.1, 198.51.100.1, 10.0.0.2",
                "198.51.100.1",
                "the client's own entry stands further left",
            ),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", "a proxy that connects itself"),
            ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1", "a hop that is not told"),
            ("10.0.0.1", "", "10.0.0.1", "an empty header"),
        ];
        for (peer, forwarded, expected, why) in cases {
            assert_eq!(hop(peer, forwarded), expected, "{why}");
        }
    }

    #[test]
    fn forwarded_addresses_are_read_with_ports_brackets_and_quotes() {
        for (text, expected) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
        ] {
            assert_eq!(hop("127.0.0.1", text), expected, "{text}");
        }
        for none in ["198.51.100", "198.51.100.1:", "[198.51.100.1", "[]", "a.example", "_hidden"] {
            assert_eq!(hop("127.0.0.1", none), "127.0.0.1", "{none}");
        }
    }
}
