//! Permissions on the admin port: which peer may use which endpoint. Pure.
//!
//! Each need has the tokens that open it. Where none of them is configured, only peers on loopback are let in, and no web
//! page: a browser on the same host would carry any site's request to a port that trusts loopback. It says so in an Origin, or,
//! where the site's name was pointed at loopback and the request looks like one to the page's own server, in the Host.

use std::borrow::Cow;
use std::hint::black_box;

use super::reply::Problem;

/// What a route asks of the peer, and what a token opens: that and everything before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Need {
    /// Nothing: health and metrics.
    Nothing,
    /// To publish.
    Publish,
    /// To see rooms, connections and nodes, and to steer clients.
    Backend,
    /// To see and steer the node.
    Admin,
}

impl Need {
    /// The setting whose tokens open it.
    const fn setting(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Publish => "publish.token",
            Self::Backend => "backend.token",
            Self::Admin => "admin.token",
        }
    }
}

/// The configured tokens. All of a list are valid at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tokens<'a> {
    /// They open everything.
    pub(super) admin: &'a [String],
    /// They open what backends need.
    pub(super) backend: &'a [String],
    /// They open publishing.
    pub(super) publish: &'a [String],
}

impl<'a> Tokens<'a> {
    /// Every list with what it opens, the strongest last.
    const fn lists(self) -> [(Need, &'a [String]); 3] {
        [(Need::Publish, self.publish), (Need::Backend, self.backend), (Need::Admin, self.admin)]
    }
}

/// What a peer showed, by its setting's name: a token's value is never logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Credential {
    /// No token.
    None,
    /// One of this node's tokens.
    Token {
        /// What it opens.
        opens: Need,
        /// Its place in its list, from 1.
        number: usize,
    },
    /// A token that is not one of this node's.
    Unknown,
}

impl Credential {
    /// What the peer showed.
    pub(super) fn of(tokens: Tokens<'_>, peer: Peer<'_>) -> Self {
        let Some(offered) = peer.authorization.and_then(bearer) else { return Self::None };
        let mut shown = Self::Unknown;
        // Every comparison is made, so that the time says nothing about which one matched.
        for (opens, list) in tokens.lists() {
            for (index, token) in list.iter().enumerate() {
                if same(token.as_bytes(), offered) {
                    shown = Self::Token { opens, number: index + 1 };
                }
            }
        }
        shown
    }

    /// As the log calls it: the setting, and the token's number where it is not the first.
    pub(super) fn label(self) -> Cow<'static, str> {
        match self {
            Self::None => "none".into(),
            Self::Unknown => "unknown".into(),
            Self::Token { opens, number: 1 } => opens.setting().into(),
            Self::Token { opens, number } => format!("{} {number}", opens.setting()).into(),
        }
    }
}

/// What is known of the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    pub(super) is_loopback: bool,
    /// The Authorization header.
    pub(super) authorization: Option<&'a [u8]>,
    /// The request has an Origin header, or [a site's name](names_a_site) as its Host: a web page sent it.
    pub(super) is_page: bool,
}

/// Whether a Host (RFC 9110 §7.2) is the name of a site, which its owner may point at loopback (DNS rebinding). An address is not,
/// nor `localhost`, nor a name without a dot, which no stranger owns.
pub(super) fn names_a_site(host: &[u8]) -> bool {
    if host.starts_with(b"[") {
        return false;
    }
    let name = host.split(|&octet| octet == b':').next().unwrap_or(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    // What ends in a decimal number is an address.
    name.iter().rposition(|&octet| octet == b'.').is_some_and(|dot| {
        let last = &name[dot + 1..];
        !last.eq_ignore_ascii_case(b"localhost") && !last.iter().all(u8::is_ascii_digit)
    })
}

/// Decides.
///
/// # Errors
/// 401 or 403.
pub(super) fn authorize(need: Need, tokens: Tokens<'_>, peer: Peer<'_>) -> Result<(), Problem> {
    if need == Need::Nothing {
        return Ok(());
    }
    if tokens.lists().iter().all(|(opens, list)| *opens < need || list.is_empty()) {
        return trust_loopback(peer);
    }
    let unauthorized = |text| Err(Problem::new(401, "unauthorized", text).with("www-authenticate", "Bearer"));
    match Credential::of(tokens, peer) {
        Credential::Token { opens, .. } if opens >= need => Ok(()),
        Credential::Token { opens, .. } => {
            let (shown, needed) = (opens.setting(), need.setting());
            Err(Problem::new(403, "forbidden", format!("a {shown} does not open this call; use a {needed}")))
        }
        Credential::None => unauthorized("send the header `Authorization: Bearer TOKEN`"),
        Credential::Unknown => {
            unauthorized("the token is not one of this node's; check admin.token, backend.token and publish.token")
        }
    }
}

fn trust_loopback(peer: Peer<'_>) -> Result<(), Problem> {
    if !peer.is_loopback {
        let message =
            "without a token only peers on loopback are served; configure admin.token and send it as a Bearer token";
        return Err(Problem::new(403, "forbidden", message));
    }
    if peer.is_page {
        let message = "web pages, and requests to a site's name, are not served without a token; ask by address or as localhost, \
                       or configure admin.token and send it as a Bearer token";
        return Err(Problem::new(403, "forbidden", message));
    }
    Ok(())
}

/// The token of `Bearer TOKEN` (RFC 6750 §2.1); the scheme is case-insensitive.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares in a time that depends on the lengths only.
fn same(expected: &[u8], offered: &[u8]) -> bool {
    if expected.len() != offered.len() {
        return false;
    }
    let difference = expected.iter().zip(offered).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tokens<'_> = Tokens { admin: &[], backend: &[], publish: &[] };
    const STRANGER: Peer<'_> = Peer { is_loopback: false, authorization: None, is_page: false };
    const LOCAL: Peer<'_> = Peer { is_loopback: true, authorization: None, is_page: false };

    /// Every kind, the first two with an old and a new token.
    fn with_all<R>(test: impl FnOnce(Tokens<'_>) -> R) -> R {
        let list = |tokens: &[&str]| tokens.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (admin, backend, publish) =
            (list(&["master", "master-2"]), list(&["service", "service-2"]), list(&["sender"]));
        test(Tokens { admin: &admin, backend: &backend, publish: &publish })
    }

    fn status(need: Need, tokens: Tokens<'_>, peer: Peer<'_>) -> u16 {
        authorize(need, tokens, peer).map_or_else(|problem| problem.status, |()| 200)
    }

    fn with(token: &'static str) -> Peer<'static> {
        Peer { authorization: Some(token.as_bytes()), ..STRANGER }
    }

    #[test]
    fn health_and_metrics_are_open_without_a_token() {
        assert_eq!(status(Need::Nothing, NONE, STRANGER), 200);
        with_all(|tokens| assert_eq!(status(Need::Nothing, tokens, STRANGER), 200));
    }

    #[test]
    fn without_a_token_loopback_has_all_permissions_and_other_peers_have_none() {
        for need in [Need::Publish, Need::Backend, Need::Admin] {
            assert_eq!(status(need, NONE, LOCAL), 200);
            assert_eq!(status(need, NONE, STRANGER), 403);
            assert_eq!(status(need, NONE, with("Bearer guess")), 403);
        }
    }

    #[test]
    fn a_web_page_cannot_use_the_permissions_of_its_browser_on_loopback() {
        assert_eq!(status(Need::Admin, NONE, Peer { is_page: true, ..LOCAL }), 403);
        let page = Peer { is_page: true, ..with("Bearer master") };
        with_all(|tokens| {
            assert_eq!(status(Need::Admin, tokens, page), 200, "a page that has the token is authorized")
        });
    }

    #[test]
    fn a_site_has_a_name_with_a_dot_and_neither_an_address_nor_localhost_is_one() {
        for host in
            ["evil.example", "evil.example:9090", "EVIL.EXAMPLE.", "127.0.0.1.evil.example", "localhost.evil.example"]
        {
            assert!(names_a_site(host.as_bytes()), "{host}");
        }
        for host in
            ["127.0.0.1", "127.0.0.1:9090", "127.1", "[::1]", "[::ffff:127.0.0.1]:9090", "localhost", "LOCALHOST:1"]
        {
            assert!(!names_a_site(host.as_bytes()), "{host}");
        }
        for host in ["node.localhost:9090", "localhost.", "node", "node:9090", ""] {
            assert!(!names_a_site(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn the_admin_token_opens_all_and_the_publish_token_publishing() {
        with_all(|tokens| {
            for (token, opens) in [
                ("Bearer master", [200, 200, 200]),
                ("bearer master-2", [200, 200, 200]),
                ("Bearer service", [403, 200, 200]),
                ("Bearer service-2", [403, 200, 200]),
                ("Bearer sender", [403, 403, 200]),
            ] {
                let opened = [Need::Admin, Need::Backend, Need::Publish].map(|need| status(need, tokens, with(token)));
                assert_eq!(opened, opens, "{token}");
            }
        });
    }

    #[test]
    fn a_credential_is_named_by_its_setting_and_its_number() {
        with_all(|tokens| {
            for (peer, label) in [
                (STRANGER, "none"),
                (with("Bearer master"), "admin.token"),
                (with("Bearer master-2"), "admin.token 2"),
                (with("Bearer service-2"), "backend.token 2"),
                (with("Bearer sender"), "publish.token"),
                (with("Bearer guess"), "unknown"),
            ] {
                assert_eq!(Credential::of(tokens, peer).label(), label);
            }
        });
        assert_eq!(Credential::of(NONE, with("Bearer guess")).label(), "unknown");
    }

    #[test]
    fn a_configured_token_is_required_of_loopback_too() {
        with_all(|tokens| {
            assert_eq!(status(Need::Admin, tokens, LOCAL), 401);
            let publish_only = Tokens { publish: tokens.publish, ..NONE };
            assert_eq!(status(Need::Publish, publish_only, LOCAL), 401);
            assert_eq!(status(Need::Backend, publish_only, LOCAL), 200);
            assert_eq!(status(Need::Backend, publish_only, STRANGER), 403);
            let backend_only = Tokens { backend: tokens.backend, ..NONE };
            let opened = [Need::Admin, Need::Backend, Need::Publish].map(|need| status(need, backend_only, LOCAL));
            assert_eq!(opened, [200, 401, 401]);
        });
    }

    #[test]
    fn tokens_that_are_nearly_right_open_nothing() {
        for header in
            ["master", "Bearer", "Bearer ", "Bearer maste", "Bearer masters", "Bearer MASTER", "Basic master", ""]
        {
            with_all(|tokens| assert_eq!(status(Need::Admin, tokens, with(header)), 401, "{header:?}"));
        }
    }
}
