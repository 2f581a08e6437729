//! The PROXY protocol, version 2 (haproxy's proxy-protocol.txt §2.2): the address of the client behind a balancer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::PROXY_HEADER_BYTES;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEADER_BYTES: usize = 16;

/// The connection does not begin with a valid header of at most [`PROXY_HEADER_BYTES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotProxied;

/// Whether `bytes` begin as a header does.
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(&SIGNATURE)
}

/// Reads the header at the start of `bytes`: the client's address, if it is told (`LOCAL` connections and other families
/// have none), and the header's length. `None` while it is not complete.
///
/// # Errors
/// [`NotProxied`], as early as it shows.
pub fn parse_v2(bytes: &[u8]) -> Result<Option<(Option<IpAddr>, usize)>, NotProxied> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return Err(NotProxied);
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let (version_command, family) = (header[12], header[13]);
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
    if !matches!(version_command, 0x20 | 0x21) || length > PROXY_HEADER_BYTES {
        return Err(NotProxied);
    }
    if bytes.len() < length {
        return Ok(None);
    }
    let addresses = &bytes[HEADER_BYTES..length];
    let source = match (version_command, family >> 4) {
        (0x21, 1) => Some(IpAddr::V4(Ipv4Addr::from(*addresses.first_chunk::<4>().ok_or(NotProxied)?))),
        (0x21, 2) => Some(IpAddr::V6(Ipv6Addr::from(*addresses.first_chunk::<16>().ok_or(NotProxied)?))),
        _ => None,
    };
    Ok(Some((source, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family, 0, addresses.len() as u8]);
        bytes.extend(addresses);
        bytes
    }

    #[test]
    fn the_client_behind_the_balancer_is_told_at_every_split() {
        let whole = header(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 0, 81]);
        for split in 0..whole.len() {
            assert_eq!(parse_v2(&whole[..split]), Ok(None), "{split}");
        }
        let mut with_request = whole.clone();
        with_request.extend(b"GET / HTTP/1.1");
        let source = Some(IpAddr::from([192, 0, 2, 7]));
        assert_eq!(parse_v2(&with_request), Ok(Some((source, whole.len()))));
    }

    #[test]
    fn a_health_check_of_the_balancer_has_no_address() {
        assert_eq!(parse_v2(&header(0x20, 0, &[])), Ok(Some((None, 16))));
    }

    #[test]
    fn a_header_with_extensions_of_up_to_4_kib_is_read() {
        // Balancers of a cloud add certificates and connection ids; a header over 1,024 octets was refused.
        let sized = |octets: usize| {
            let mut bytes = header(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 0, 81]);
            bytes.resize(octets, 0);
            bytes[14..16].copy_from_slice(&((octets - HEADER_BYTES) as u16).to_be_bytes());
            bytes
        };
        assert_eq!(parse_v2(&sized(4096)), Ok(Some((Some(IpAddr::from([192, 0, 2, 7])), 4096))));
        assert_eq!(parse_v2(&sized(4097)), Err(NotProxied));
        assert!(is_header(&sized(4097)) && !is_header(b"\r\n\r\n"));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert_eq!(parse_v2(b"GET / HTTP/1.1\r\n"), Err(NotProxied));
        assert_eq!(parse_v2(&header(0x31, 0x11, &[0; 12])), Err(NotProxied));
        assert_eq!(parse_v2(&header(0x21, 0x11, &[0; 3])), Err(NotProxied));
    }
}
