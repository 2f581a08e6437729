//! Which pages may connect (RFC 6455 §10.2): a browser sends the page's Origin, and cookies along with it.

use super::Upgrade;

/// Whether the upgrade's Origin is one of `origins`: exactly, or `*` for any. An empty list allows the host that the request
/// names, and requests without an Origin, which no browser sends.
pub fn origin_allowed(origins: &[String], upgrade: &Upgrade<'_>) -> bool {
    match upgrade.origin {
        None => origins.is_empty() || origins.iter().any(|allowed| allowed == "*"),
        Some(origin) if origins.is_empty() => same_host(origin, upgrade.host),
        Some(origin) => origins.iter().any(|allowed| allowed == "*" || allowed == origin),
    }
}

/// Whether an Origin (RFC 6454 §7) has the host and port of a Host header. `null` has none. A Host without a port has the
/// default port of the Origin's scheme, because TLS may end in front of this node.
pub fn same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => return false,
    };
    match (split_port(authority, default_port), split_port(host, default_port)) {
        (Some((ours, port)), Some((theirs, their_port))) => ours.eq_ignore_ascii_case(theirs) && port == their_port,
        _ => false,
    }
}

/// Host and port; `None` if it is no authority of an origin.
fn split_port(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let end_of_literal = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[end_of_literal..].split_once(':') {
        Some((name, digits)) => {
            let all_digits = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
            (&authority[..end_of_literal + name.len()], digits.parse().ok().filter(|_| all_digits)?)
        }
        None => (authority, default_port),
    };
    (!host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])).then_some((host, port))
}
