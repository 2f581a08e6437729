//! Where a node is, as a command was told: `--node`, else the settings of a node on this host.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::gateway::config::{Config, reachable};

/// For a connection to each of the node's addresses.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Default ports of a node.
const PUBLIC_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9090;

/// Which of the node's ports the URL's scheme names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Port {
    /// `http://`: the admin port.
    Admin,
    /// `ws://`: the public port.
    Public,
    /// No scheme: the port that the command needs.
    Any,
}

/// An address of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) port: Port,
    /// `HOST:PORT`, as it was typed.
    pub(super) authority: String,
    /// Begins with `/`.
    pub(super) path: String,
    /// At least one.
    addresses: Vec<SocketAddr>,
}

impl Target {
    /// The admin port that was typed, else the one of the settings.
    pub(super) fn admin(config: &Config, typed: Option<&str>) -> Result<Self, String> {
        let target = typed.map_or_else(|| Ok(config.admin.listen.into()), |typed| Self::parse(typed, ADMIN_PORT))?;
        match target.port {
            Port::Public => Err(format!(
                "--node: ws://{0} is a public port; this command needs the admin port: --node http://HOST:{ADMIN_PORT}",
                target.authority
            )),
            Port::Admin | Port::Any => Ok(target),
        }
    }

    /// The port that was typed, else the public one of the settings.
    pub(super) fn public(config: &Config, typed: Option<&str>) -> Result<Self, String> {
        typed.map_or_else(|| Ok(config.listen.into()), |typed| Self::parse(typed, PUBLIC_PORT))
    }

    /// Reads a URL, `HOST:PORT`, `:PORT` or `HOST`, and looks the host up.
    fn parse(typed: &str, default_port: u16) -> Result<Self, String> {
        let expected = "HOST, HOST:PORT, http://HOST:PORT (the admin port) or ws://HOST:PORT (the public port)";
        let (port, rest, default_port) = match typed.split_once("://") {
            None => (Port::Any, typed, default_port),
            Some(("http", rest)) => (Port::Admin, rest, 80),
            Some(("ws", rest)) => (Port::Public, rest, 80),
            Some(("https" | "wss", _)) => {
                return Err(format!(
                    "--node: \"{typed}\" needs TLS, which this command does not speak; give {expected}"
                ));
            }
            Some(_) => return Err(format!("--node: \"{typed}\" is not {expected}")),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let (host, number) =
            host_and_port(authority, default_port).ok_or_else(|| format!("--node: \"{typed}\" is not {expected}"))?;
        // RFC 6761 §6.3: loopback, whatever a name server says.
        let name = if host.is_empty() || host == "localhost" { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
        let addresses: Vec<SocketAddr> = (name, number)
            .to_socket_addrs()
            .map(Iterator::collect)
            .map_err(|error| format!("--node: the host \"{host}\" was not found: {error}; give its address"))?;
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self { port, authority: format!("{host}:{number}"), path: path.to_owned(), addresses })
    }

    /// Connects to the first of its addresses that answers.
    pub(super) fn connect(&self) -> io::Result<TcpStream> {
        let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in &self.addresses {
            outcome = TcpStream::connect_timeout(address, CONNECT_DEADLINE);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The Host header (RFC 9110 §7.2). A node that trusts loopback answers no request to a site's name there, so it is asked by
    /// its address.
    pub(super) fn host(&self) -> String {
        match self.addresses.first() {
            Some(address) if address.ip().is_loopback() => address.to_string(),
            _ => self.authority.clone(),
        }
    }

    /// The public port of the node whose admin port this is, which listens at `listen`.
    pub(super) fn with_public(&self, listen: SocketAddr) -> Self {
        let address = |address: &SocketAddr| {
            let ip = if listen.ip().is_unspecified() { address.ip() } else { listen.ip() };
            SocketAddr::new(ip, listen.port())
        };
        let addresses: Vec<SocketAddr> = self.addresses.iter().map(address).collect();
        let authority = addresses.first().map_or_else(String::new, ToString::to_string);
        Self { port: Port::Public, authority, path: String::from("/"), addresses }
    }
}

/// The address that a node listens at.
impl From<SocketAddr> for Target {
    fn from(listen: SocketAddr) -> Self {
        let address = reachable(listen);
        Self { port: Port::Any, authority: address.to_string(), path: String::from("/"), addresses: vec![address] }
    }
}

/// Host and port of an authority (RFC 3986 §3.2). An IPv6 address stands in brackets.
fn host_and_port(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let after_brackets = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[after_brackets..].rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_brackets + colon);
            (host, port[1..].parse().ok()?)
        }
        None => (authority, default_port),
    };
    let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    ((is_name && !authority.is_empty()) || is_bracketed).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(typed: &str) -> (Port, String, String) {
        let target = Target::parse(typed, 9090).unwrap();
        (target.port, target.authority, target.path)
    }

    #[test]
    fn a_node_is_a_url_or_a_host_with_or_without_a_port() {
        for (typed, port, authority, path) in [
            ("127.0.0.1:7000", Port::Any, "127.0.0.1:7000", "/"),
            ("127.0.0.1", Port::Any, "127.0.0.1:9090", "/"),
            ("localhost:7000", Port::Any, "localhost:7000", "/"),
            (":7000", Port::Any, "127.0.0.1:7000", "/"),
            ("[::1]:7000", Port::Any, "[::1]:7000", "/"),
            ("[::1]", Port::Any, "[::1]:9090", "/"),
            ("http://127.0.0.1:7000/", Port::Admin, "127.0.0.1:7000", "/"),
            ("http://127.0.0.1", Port::Admin, "127.0.0.1:80", "/"),
            ("ws://localhost:7000/gateway/ws", Port::Public, "localhost:7000", "/gateway/ws"),
        ] {
            assert_eq!(parse(typed), (port, authority.to_owned(), path.to_owned()), "{typed}");
        }
    }

    #[test]
    fn what_is_no_node_says_what_is_accepted() {
        for typed in ["", "a b", "host:port", "127.0.0.1:65536", "nats://127.0.0.1:4222", "http://", "::1"] {
            let told = Target::parse(typed, 9090).unwrap_err();
            assert!(told.starts_with("--node: ") && told.contains("HOST:PORT"), "{typed}: {told}");
        }
        let told = Target::parse("wss://gateway.example", 8080).unwrap_err();
        assert!(told.contains("TLS"), "{told}");
        let told = Target::admin(&Config::default(), Some("ws://127.0.0.1:8080")).unwrap_err();
        assert!(told.contains("--node http://HOST:9090"), "{told}");
    }

    #[test]
    fn a_node_that_listens_everywhere_is_reached_on_loopback() {
        let reached = |listen: &str| Target::from(listen.parse::<SocketAddr>().unwrap()).authority;
        assert_eq!(reached("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(reached("[::]:9090"), "[::1]:9090");
        assert_eq!(reached("10.0.0.7:9090"), "10.0.0.7:9090");
    }

    #[test]
    fn the_public_port_is_on_the_host_of_the_admin_port_where_the_node_listens_everywhere() {
        let admin = Target::parse("127.0.0.1:9090", 9090).unwrap();
        assert_eq!(admin.with_public("0.0.0.0:7000".parse().unwrap()).authority, "127.0.0.1:7000");
        assert_eq!(admin.with_public("10.0.0.7:7000".parse().unwrap()).authority, "10.0.0.7:7000");
    }
}
