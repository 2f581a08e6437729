//! Where the load goes: `ws://`, `nats://` and `http://` addresses, loopback only.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

/// What is spoken over the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Scheme {
    /// WebSocket: an upgrade, then frames.
    WebSocket,
    /// NATS' own protocol over TCP.
    Nats,
    /// HTTP/1.1 over TCP, pipelined.
    Http,
    /// Lines over TCP: the bare loops.
    Tcp,
}

/// A server's address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// What is spoken.
    pub(crate) scheme: Scheme,
    /// Where the server listens.
    pub(crate) address: SocketAddrV4,
    /// Path and query, with the templates' placeholders; starts with a slash.
    pub(crate) path: String,
}

impl Target {
    /// Reads `SCHEME://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// One line that says what is wrong and what is accepted.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("`{text}` names no scheme: write ws://{text}, or nats://, http:// or tcp://"))?;
        let (scheme, port) = match scheme {
            "ws" => (Scheme::WebSocket, 80),
            "nats" => (Scheme::Nats, 4222),
            "http" => (Scheme::Http, 80),
            "tcp" => (Scheme::Tcp, 7),
            "wss" | "https" => {
                let plain = if scheme == "wss" { "ws" } else { "http" };
                return Err(format!("`{scheme}://` is not spoken, TLS is not measured: write {plain}://{rest}"));
            }
            other => return Err(format!("`{other}://` is not spoken: use ws://, nats://, http:// or tcp://")),
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let path = if path.starts_with('/') { String::from(path) } else { format!("/{path}") };
        Ok(Self { scheme, address: address(authority, port)?, path })
    }

    /// Checks that clients can listen there: HTTP takes publications only. `text` is what was typed.
    ///
    /// # Errors
    /// One line that says what is wrong, and the address to write instead.
    pub(crate) fn listens(&self, text: &str) -> Result<(), String> {
        if self.scheme != Scheme::Http {
            return Ok(());
        }
        let rest = text.trim_start_matches("http://");
        Err(format!(
            "`{text}` is an address for publishing, with --publish-url; clients listen over WebSocket: write ws://{rest}"
        ))
    }

    /// Checks that the address takes publications. `text` is what was typed.
    ///
    /// # Errors
    /// One line that says what is wrong and what is accepted.
    pub(crate) fn publishes(&self, text: &str) -> Result<(), String> {
        if self.scheme != Scheme::Http || self.path != "/" {
            return Ok(());
        }
        let address = self.address;
        Err(format!(
            "`{text}` has no path to publish to: of a tidegate it is http://{address}/v1/rooms/{{room}}/messages"
        ))
    }
}

fn address(authority: &str, default_port: u16) -> Result<SocketAddrV4, String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (
            host,
            port.parse().map_err(|_| format!("`{port}` is no port: use 1 to 65535, as in ws://127.0.0.1:8080/"))?,
        ),
        None => (authority, default_port),
    };
    let ip: Ipv4Addr = if host == "localhost" {
        Ipv4Addr::LOCALHOST
    } else {
        host.parse().map_err(|_| format!("`{host}` is no IPv4 address: use localhost or 127.0.0.1"))?
    };
    if !ip.is_loopback() {
        return Err(format!("`{host}` is not this host: tideload measures over loopback only, use 127.0.0.1"));
    }
    Ok(SocketAddrV4::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_path_and_query() {
        let target = Target::parse("ws://localhost:8080/raw/{room}?attempt=1").unwrap();
        assert_eq!(target.scheme, Scheme::WebSocket);
        assert_eq!(target.address.to_string(), "127.0.0.1:8080");
        assert_eq!(target.path, "/raw/{room}?attempt=1");
        assert_eq!(Target::parse("nats://127.0.0.1").unwrap().address.port(), 4222);
        assert_eq!(Target::parse("ws://127.0.0.1:9?x").unwrap().path, "/?x");
    }

    #[test]
    fn a_wrong_address_is_reported_in_one_line_with_what_is_accepted() {
        for (text, part) in [
            ("127.0.0.1:80", "write ws://127.0.0.1:80"),
            ("wss://127.0.0.1/a", "write ws://127.0.0.1/a"),
            ("ftp://127.0.0.1", "not spoken"),
            ("ws://example.org/", "no IPv4 address"),
            ("ws://10.0.0.1/", "loopback only"),
            ("ws://127.0.0.1:99999/", "no port"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
