//! Permissions on the admin port: which peer may use which endpoint. Pure.
//!
//! Each need has the tokens that open it. Where none of them is configured, only peers on loopback are let in, and no web
//! page: a browser on the same host would carry any site's request to a port that trusts loopback. It says so in an Origin, or,
//! where the site's name was pointed at loopback and the request looks like one to the page's own server, in the Host.

use std::hint::black_box;

use super::reply::Problem;

/// What a route asks of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// Nothing: health and metrics.
    Nothing,
    /// To publish.
    Publish,
    /// To see and steer the node.
    Admin,
}

/// The configured tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens<'a> {
    /// Opens everything.
    pub(super) admin: Option<&'a str>,
    /// Opens publishing.
    pub(super) publish: Option<&'a str>,
}

/// What a peer showed, by its setting's name: a token's value is never logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Credential {
    /// No token.
    None,
    /// `admin.token`.
    Admin,
    /// `publish.token`.
    Publish,
    /// A token that is not one of this node's.
    Unknown,
}

impl Credential {
    /// What the peer showed.
    pub(super) fn of(tokens: Tokens<'_>, peer: Peer<'_>) -> Self {
        let Some(offered) = peer.authorization.and_then(bearer) else { return Self::None };
        let is = |token: Option<&str>| token.is_some_and(|token| same(token.as_bytes(), offered));
        match (is(tokens.admin), is(tokens.publish)) {
            (true, _) => Self::Admin,
            (_, true) => Self::Publish,
            _ => Self::Unknown,
        }
    }

    /// As the log calls it.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Admin => "admin.token",
            Self::Publish => "publish.token",
            Self::Unknown => "unknown",
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
    let opens = match need {
        Need::Nothing => return Ok(()),
        Need::Publish => [tokens.admin, tokens.publish],
        Need::Admin => [tokens.admin, None],
    };
    if opens.iter().all(Option::is_none) {
        return trust_loopback(peer);
    }
    let Some(offered) = peer.authorization.and_then(bearer) else {
        return Err(Problem::new(401, "unauthorized", "send the header `Authorization: Bearer TOKEN`")
            .with("www-authenticate", "Bearer"));
    };
    // Every comparison is made, so that the time says nothing about which one matched.
    let opened = opens.iter().flatten().fold(false, |opened, token| same(token.as_bytes(), offered) | opened);
    if opened {
        return Ok(());
    }
    if tokens.publish.is_some_and(|token| same(token.as_bytes(), offered)) {
        return Err(Problem::new(403, "forbidden", "this token only opens publishing; use the admin token"));
    }
    Err(Problem::new(401, "unauthorized", "the token is not one of this node's; check admin.token and publish.token")
        .with("www-authenticate", "Bearer"))
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

    const NONE: Tokens<'_> = Tokens { admin: None, publish: None };
    const BOTH: Tokens<'_> = Tokens { admin: Some("master"), publish: Some("sender") };
    const STRANGER: Peer<'_> = Peer { is_loopback: false, authorization: None, is_page: false };
    const LOCAL: Peer<'_> = Peer { is_loopback: true, authorization: None, is_page: false };

    fn status(need: Need, tokens: Tokens<'_>, peer: Peer<'_>) -> u16 {
        authorize(need, tokens, peer).map_or_else(|problem| problem.status, |()| 200)
    }

    fn with(token: &'static str) -> Peer<'static> {
        Peer { authorization: Some(token.as_bytes()), ..STRANGER }
    }

    #[test]
    fn health_and_metrics_are_open_without_a_token() {
        for tokens in [NONE, BOTH] {
            assert_eq!(status(Need::Nothing, tokens, STRANGER), 200);
        }
    }

    #[test]
    fn without_a_token_loopback_has_all_permissions_and_other_peers_have_none() {
        for need in [Need::Publish, Need::Admin] {
            assert_eq!(status(need, NONE, LOCAL), 200);
            assert_eq!(status(need, NONE, STRANGER), 403);
            assert_eq!(status(need, NONE, with("Bearer guess")), 403);
        }
    }

    #[test]
    fn a_web_page_cannot_use_the_permissions_of_its_browser_on_loopback() {
        assert_eq!(status(Need::Admin, NONE, Peer { is_page: true, ..LOCAL }), 403);
        let page = Peer { is_page: true, ..with("Bearer master") };
        assert_eq!(status(Need::Admin, BOTH, page), 200, "a page that has the token is authorized");
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
        assert_eq!(status(Need::Admin, BOTH, with("Bearer master")), 200);
        assert_eq!(status(Need::Publish, BOTH, with("bearer master")), 200);
        assert_eq!(status(Need::Publish, BOTH, with("Bearer sender")), 200);
        assert_eq!(status(Need::Admin, BOTH, with("Bearer sender")), 403);
    }

    #[test]
    fn a_credential_is_named_by_its_setting() {
        let label = |tokens, peer| Credential::of(tokens, peer).label();
        assert_eq!(label(BOTH, STRANGER), "none");
        assert_eq!(label(BOTH, with("Bearer master")), "admin.token");
        assert_eq!(label(BOTH, with("Bearer sender")), "publish.token");
        assert_eq!(label(BOTH, with("Bearer guess")), "unknown");
        assert_eq!(label(NONE, with("Bearer guess")), "unknown");
    }

    #[test]
    fn a_configured_token_is_required_of_loopback_too() {
        assert_eq!(status(Need::Admin, BOTH, LOCAL), 401);
        let publish_only = Tokens { admin: None, publish: Some("sender") };
        assert_eq!(status(Need::Publish, publish_only, LOCAL), 401);
        assert_eq!(status(Need::Admin, publish_only, LOCAL), 200);
        assert_eq!(status(Need::Admin, publish_only, STRANGER), 403);
    }

    #[test]
    fn tokens_that_are_nearly_right_open_nothing() {
        for header in
            ["master", "Bearer", "Bearer ", "Bearer maste", "Bearer masters", "Bearer MASTER", "Basic master", ""]
        {
            assert_eq!(status(Need::Admin, BOTH, with(header)), 401, "{header:?}");
        }
    }
}
