//! Networks (address ranges), as settings name them: those of trusted proxies.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `10.0.0.0/8`, `fd00::/8`, or an address alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    /// Leading bits that count; none is given for an address alone.
    prefix: Option<u8>,
}

impl Network {
    /// Whether `address` is in it. An IPv4 address that came through an IPv6 socket is one all the same.
    pub fn contains(&self, address: IpAddr) -> bool {
        let beyond_prefix = |bits: u32| bits - self.prefix.map_or(bits, u32::from);
        match (address.to_canonical(), self.address) {
            (IpAddr::V4(a), IpAddr::V4(n)) => {
                (a.to_bits() ^ n.to_bits()).checked_shr(beyond_prefix(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(n)) => {
                (a.to_bits() ^ n.to_bits()).checked_shr(beyond_prefix(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network: 10.0.0.0/8, fd00::/8, or one address");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map(|bits| bits.parse::<u8>().ok().filter(|bits| *bits <= most).ok_or_else(wrong));
        Ok(Self { address, prefix: prefix.transpose()? })
    }
}

/// As it was typed.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_trusted_by_its_network_only() {
        let inside =
            |address: &str, network: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(inside("10.1.2.3", "10.0.0.0/8") && !inside("11.1.2.3", "10.0.0.0/8"));
        assert!(inside("::ffff:10.1.2.3", "10.0.0.0/8"));
        assert!(inside("127.0.0.1", "127.0.0.1") && !inside("127.0.0.2", "127.0.0.1"));
        assert!(inside("1.2.3.4", "0.0.0.0/0") && !inside("::1", "0.0.0.0/0"));
        assert!(inside("fd00::1", "fd00::/8") && !inside("fe00::1", "fd00::/8") && inside("fe00::1", "::/0"));
    }

    #[test]
    fn a_network_is_shown_as_it_was_typed_and_what_is_none_is_refused() {
        for text in ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "::1/128"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.0/33", "10.0.0.0/", "::1/129", "10.0.0/8", "example.com", ""] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
