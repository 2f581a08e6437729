//! Which pages may connect (RFC 6455 §10.2): a browser sends the page's Origin (RFC 6454 §7), and cookies along with it.
//!
//! An [`OriginPattern`] is one entry of the setting `origins`, in normal form: a browser writes scheme and host in lower case, names of other
//! alphabets in Punycode, and no default port. [`Origins`] holds a request to the patterns, or where there is none to the host
//! that it names. Such a host must be this node's own: a page of any name can have its name point at this node (DNS rebinding), and
//! would be of the same host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Upgrade;
use crate::close::Refusal;

/// Pages that `origins` names in one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OriginPattern {
    /// `*`: any page, and clients that name none.
    Any,
    /// `null` or `file://`: pages that have no host.
    Hostless(String),
    /// `https://app.example`, `https://*.example.com`, `http://localhost:*`.
    Site {
        /// In lower case.
        scheme: String,
        /// In lower case.
        host: String,
        /// Subdomains of the host at any depth, and not the host itself.
        subdomains: bool,
        /// The port; `None` is any. 0 where the scheme has none by default.
        port: Option<u16>,
    },
}

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Hostless(hostless) => origin.eq_ignore_ascii_case(hostless),
            Self::Site { scheme, host, subdomains, port } => {
                let Some((its_scheme, authority)) = origin.split_once("://") else { return false };
                if !its_scheme.eq_ignore_ascii_case(scheme) {
                    return false;
                }
                let Some((its_host, its_port)) = split_port(authority, default_port(scheme)) else { return false };
                let is_host = if *subdomains { is_below(its_host, host) } else { its_host.eq_ignore_ascii_case(host) };
                is_host && port.is_none_or(|port| port == its_port)
            }
        }
    }
}

/// Whether a host is below a domain, at any depth.
fn is_below(host: &str, domain: &str) -> bool {
    let Some(at) = host.len().checked_sub(domain.len()).filter(|at| *at > 1) else { return false };
    // Both are compared as octets: the cut may fall inside a character of a host that is no legal one.
    let (below, above) = host.as_bytes().split_at(at);
    below.ends_with(b".") && above.eq_ignore_ascii_case(domain.as_bytes())
}

impl FromStr for OriginPattern {
    type Err = String;

    /// Reads an entry of `origins`, of ASCII: names of other alphabets are for the caller to convert.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "*" => return Ok(Self::Any),
            "null" | "file://" => return Ok(Self::Hostless(lower)),
            _ => {}
        }
        let never = |why: &str| Err(format!("{text:?} can never match: {why}"));
        let Some((scheme, authority)) = lower.split_once("://") else {
            let cure = if lower.starts_with("*.") { format!("; write https://{lower}") } else { String::new() };
            return Err(format!("{text:?} is not an origin: scheme and host such as https://app.example, or *{cure}"));
        };
        match scheme {
            "ws" => return never(&format!("an Origin names the page and not the socket; write http://{authority}")),
            "wss" => return never(&format!("an Origin names the page and not the socket; write https://{authority}")),
            "file" => return never("an Origin names no file; write file://"),
            _ => {}
        }
        let first = scheme.bytes().next();
        let is_scheme = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'-' | b'.');
        if !first.is_some_and(|octet| octet.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return Err(format!("{text:?} is not an origin: scheme and host such as https://app.example, or *"));
        }
        if let Some((site, _)) = authority.split_once(['/', '?', '#']) {
            return never(&format!("an Origin ends with its host or port; write {scheme}://{site}"));
        }
        let (authority, port) = match authority.strip_suffix(":*") {
            Some(host) => (host, None),
            None => (authority, Some(default_port(scheme))),
        };
        let (authority, subdomains) = authority.strip_prefix("*.").map_or((authority, false), |domain| (domain, true));
        if authority.contains('*') {
            return never(
                "* stands for all subdomains as in https://*.example.com, for any port as in http://localhost:*, or alone for any page",
            );
        }
        let Some((host, its_port)) = split_port(authority, default_port(scheme)) else {
            return never(
                "it is a scheme and a host, and a port where that is not the scheme's own, such as https://app.example:8443",
            );
        };
        let is_web = default_port(scheme) != 0;
        let host = host_in_normal_form(host, is_web && !subdomains)
            .map_err(|why| format!("{text:?} can never match: {why}"))?;
        Ok(Self::Site { scheme: scheme.to_owned(), host, subdomains, port: port.map(|_| its_port) })
    }
}

/// A host as a browser writes it. `may_be_address` says that one that looks like an address is one.
fn host_in_normal_form(host: &str, may_be_address: bool) -> Result<String, String> {
    let wrong = || format!("{host:?} is no host");
    if let Some(literal) = host.strip_prefix('[') {
        let address = literal.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
        return address.filter(|_| may_be_address).map(|address| format!("[{address}]")).ok_or_else(wrong);
    }
    let is_host = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'~' | b'+');
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    if !host.bytes().all(is_host) || labels.clone().any(str::is_empty) {
        return Err(wrong());
    }
    // A browser takes a name that ends in a number for an address, and writes it in full.
    let ends_in_number = labels.next_back().is_some_and(|label| label.bytes().all(|octet| octet.is_ascii_digit()));
    if ends_in_number && !(may_be_address && host.parse::<Ipv4Addr>().is_ok()) {
        return Err(format!("{host:?} is no IPv4 address, such as 192.0.2.1"));
    }
    Ok(host.to_owned())
}

/// In normal form.
impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Hostless(hostless) => f.write_str(hostless),
            Self::Site { scheme, host, subdomains, port } => {
                write!(f, "{scheme}://{}{host}", if *subdomains { "*." } else { "" })?;
                match port {
                    None => f.write_str(":*"),
                    Some(port) if *port != default_port(scheme) => write!(f, ":{port}"),
                    Some(_) => Ok(()),
                }
            }
        }
    }
}

/// A name in the setting `hosts`: exactly, or all names below one (`*.example.com`).
///
/// # Errors
/// What is accepted.
pub fn host_pattern(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    match host_in_normal_form(name, false) {
        Ok(_) if !name.starts_with('[') => Ok(lower),
        _ => Err(format!(
            "{text:?} is not a host's name: such as app.example or *.example.com, without scheme, port and path"
        )),
    }
}

/// Which pages may connect to a node.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// Empty: pages of the host that the request names.
    pub listed: Vec<OriginPattern>,
    /// Names of the node beside addresses, `localhost` and names without a dot, see [`host_pattern`]; only where `listed` is empty.
    pub hosts: Vec<String>,
    /// Pages of loopback hosts and pages without a host may connect as well.
    pub demo: bool,
}

impl Origins {
    /// Whether the page that asks for an upgrade may connect. Where nothing is listed, requests without an Origin, which no browser
    /// sends, may too.
    ///
    /// # Errors
    /// [`Refusal::ForbiddenOrigin`] or [`Refusal::ForbiddenHost`].
    pub fn check(&self, upgrade: &Upgrade<'_>) -> Result<(), Refusal> {
        let Some(origin) = upgrade.origin else {
            let may = self.listed.is_empty() || self.listed.contains(&OriginPattern::Any);
            return if may { Ok(()) } else { Err(Refusal::ForbiddenOrigin) };
        };
        if self.listed.iter().any(|pattern| pattern.matches(origin)) || (self.demo && is_of_demo(origin)) {
            return Ok(());
        }
        if !self.listed.is_empty() || !same_host(origin, upgrade.host) {
            return Err(Refusal::ForbiddenOrigin);
        }
        if self.is_own(upgrade.host) { Ok(()) } else { Err(Refusal::ForbiddenHost) }
    }

    /// Whether a Host can be no name that another site has pointed at this node: an address, `localhost`, a name without a dot, which no
    /// public DNS has, or one that is listed.
    fn is_own(&self, host: &str) -> bool {
        let Some((name, _)) = split_port(host, 0) else { return false };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let listed = |pattern: &String| match pattern.strip_prefix("*.") {
            Some(domain) => is_below(name, domain),
            None => name.eq_ignore_ascii_case(pattern),
        };
        !name.contains('.') || bare.parse::<IpAddr>().is_ok() || self.hosts.iter().any(listed)
    }
}

/// Pages that a demonstration lets in: those of a development server on the same machine, at any port, and files.
fn is_of_demo(origin: &str) -> bool {
    if matches!(origin, "null" | "file://") {
        return true;
    }
    let Some((scheme @ ("http" | "https"), authority)) = origin.split_once("://") else { return false };
    let host = split_port(authority, default_port(scheme));
    host.is_some_and(|(host, _)| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
}

/// Whether an Origin (RFC 6454 §7) has the host and port of a Host header. `null` has none. A Host without a port has the
/// default port of the Origin's scheme, because TLS may end in front of this node.
pub fn same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = default_port(scheme);
    if default_port == 0 {
        return false;
    }
    match (split_port(authority, default_port), split_port(host, default_port)) {
        (Some((ours, port)), Some((theirs, their_port))) => ours.eq_ignore_ascii_case(theirs) && port == their_port,
        _ => false,
    }
}

/// The port that a scheme's origins have where they name none; 0 where it has none.
fn default_port(scheme: &str) -> u16 {
    if scheme.eq_ignore_ascii_case("http") {
        80
    } else if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        0
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> OriginPattern {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn origins_are_normalised_as_browsers_write_them() {
        // An upper-case letter or a default port made an origin that never matched, and nothing said so.
        for (typed, normal) in [
            ("https://App.Example", "https://app.example"),
            ("HTTPS://app.example:443", "https://app.example"),
            ("http://app.example:80", "http://app.example"),
            ("http://app.example:443", "http://app.example:443"),
            ("https://*.Example.com", "https://*.example.com"),
            ("http://localhost:*", "http://localhost:*"),
            ("http://[0:0::1]:3000", "http://[::1]:3000"),
            ("http://192.0.2.1", "http://192.0.2.1"),
            ("NULL", "null"),
            ("file://", "file://"),
            ("chrome-extension://abcdefg", "chrome-extension://abcdefg"),
            ("*", "*"),
        ] {
            assert_eq!(pattern(typed).to_string(), normal, "{typed}");
            assert_eq!(pattern(normal), pattern(typed), "{typed}");
        }
    }

    #[test]
    fn an_origin_that_can_never_match_is_refused_with_the_reason() {
        for (typed, why) in [
            ("app.example", "is not an origin: scheme and host"),
            ("*.example.com", "write https://*.example.com"),
            ("wss://app.example", "write https://app.example"),
            ("ws://app.example:8080", "write http://app.example:8080"),
            ("https://app.example/", "write https://app.example"),
            ("https://app.example/chat?x", "write https://app.example"),
            ("https://user@app.example", "it is a scheme and a host"),
            ("https://app.example:", "it is a scheme and a host"),
            ("https://app.example:99999", "it is a scheme and a host"),
            ("https://", "it is a scheme and a host"),
            ("https://*", "* stands for all subdomains"),
            ("https://app.*", "* stands for all subdomains"),
            ("https://*.192.0.2.1", "is no IPv4 address"),
            ("http://127.1", "is no IPv4 address"),
            ("http://[::1", "it is a scheme and a host"),
            ("http://[::x]", "is no host"),
            ("https://a..b", "is no host"),
            ("https://a b", "it is a scheme and a host"),
            ("file:///home/page.html", "write file://"),
            ("://app.example", "is not an origin"),
            ("", "is not an origin"),
        ] {
            let error = typed.parse::<OriginPattern>().unwrap_err();
            assert!(error.contains(why), "{typed}: {error}");
        }
    }

    #[test]
    fn a_pattern_matches_its_origins_and_no_near_miss() {
        for (typed, matching, foreign) in [
            (
                "https://app.example",
                &["https://app.example", "https://APP.example", "https://app.example:443"][..],
                &[
                    "http://app.example",
                    "https://app.example:8443",
                    "https://xapp.example",
                    "https://app.example.evil",
                    "null",
                ][..],
            ),
            (
                "https://*.example.com",
                &["https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com:443"],
                &[
                    "https://example.com",
                    "https://.example.com",
                    "https://aexample.com",
                    "https://a.example.com.evil",
                    "http://a.example.com",
                ],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:3000"],
                &["https://localhost", "http://localhost.evil:1"],
            ),
            ("null", &["null"], &["", "file://"]),
            ("file://", &["file://"], &["null", "file:///x"]),
            ("app://-", &["app://-"], &["app://x", "app://-:1"]),
            ("*", &["https://any.example", "null", "x"], &[]),
        ] {
            matching.iter().for_each(|origin| assert!(pattern(typed).matches(origin), "{typed} and {origin}"));
            foreign.iter().for_each(|origin| assert!(!pattern(typed).matches(origin), "{typed} and {origin}"));
        }
    }

    #[test]
    fn a_host_pattern_is_a_name_alone() {
        assert_eq!(host_pattern("App.Example"), Ok(String::from("app.example")));
        assert_eq!(host_pattern("*.example.com"), Ok(String::from("*.example.com")));
        for wrong in ["https://app.example", "app.example:80", "app.example/", "*", "a.*", "", "[::1]", "192.0.2.1"] {
            assert!(host_pattern(wrong).is_err(), "{wrong}");
        }
    }
}
