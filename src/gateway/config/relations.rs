//! What must hold between settings, and what is allowed and deserves a warning.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::origin::Problem;
use super::{AccessTokens, Anonymous, Config, Nats};
use tidegate_core::auth::Who;
use tidegate_core::http::OriginPattern;
use tidegate_core::limits::COALESCED_BYTES;
use tidegate_core::setting::value::size;

/// Characters of a token that cannot be guessed: 64 bits in hexadecimal digits.
const TOKEN_CHARACTERS: usize = 16;

/// Every relation that does not hold; adds to `warnings` what an operator should know.
pub(super) fn check(config: &Config, warnings: &mut Vec<String>) -> Vec<Problem> {
    let broken = addresses(config).into_iter().chain(buffers(config)).chain(credentials(&config.nats));
    let broken = broken.chain(proxies(config)).chain(tokens_of_clients(config));
    let problems = broken.map(Problem::between).collect();
    exposure(config, warnings);
    broker(&config.nats, warnings);
    tokens(config, warnings);
    problems
}

fn addresses(config: &Config) -> Option<String> {
    let (public, admin) = (config.listen, config.admin.listen);
    let one_host = public.ip() == admin.ip() || public.ip().is_unspecified() || admin.ip().is_unspecified();
    (public.port() == admin.port() && public.port() != 0 && one_host)
        .then(|| format!("listen ({public}) and admin ({admin}) need two ports; change one of them"))
}

fn buffers(config: &Config) -> Vec<String> {
    let limits = &config.limits;
    let mut broken = Vec::new();
    let outbox = limits.outbox_bytes;
    if outbox < 4 * limits.message_bytes {
        broken.push(format!(
            "limits.outbox_bytes ({}) must hold four messages of limits.message_bytes ({}): raise it to {} or lower the other",
            size(outbox as u64),
            size(limits.message_bytes as u64),
            size(4 * limits.message_bytes as u64),
        ));
    }
    if outbox < 4 * COALESCED_BYTES {
        let least = size(4 * COALESCED_BYTES as u64);
        broken
            .push(format!("limits.outbox_bytes ({}) must hold four batches: raise it to {least}", size(outbox as u64)));
    }
    if let Some(total) = limits.outbox_total_bytes.filter(|total| *total < outbox as u64) {
        broken.push(format!(
            "limits.outbox_total_bytes ({}) is for all outboxes and must hold one ({}): raise it",
            size(total),
            size(outbox as u64),
        ));
    }
    if let Some(total) = limits.unfinished_total_bytes.filter(|total| *total < limits.message_bytes as u64) {
        broken.push(format!(
            "limits.unfinished_total_bytes ({}) is for all unfinished messages and must hold one ({}): raise it",
            size(total),
            size(limits.message_bytes as u64),
        ));
    }
    broken
}

/// Without trusted networks no PROXY header would be read as one, and every connection behind the balancer would be refused
/// as a bad request.
fn proxies(config: &Config) -> Option<String> {
    (config.proxies.protocol_v2 && config.proxies.trusted.is_empty()).then(|| {
        String::from(
            "proxies.protocol_v2 needs proxies.trusted, whose connections begin with the header: name the balancer's \
             network there, such as 10.0.0.0/8, or leave protocol_v2 out",
        )
    })
}

fn credentials(nats: &Nats) -> Vec<String> {
    let mut broken = Vec::new();
    match (&nats.user, &nats.password) {
        (Some(_), None) => broken.push(String::from("nats.user needs nats.password (or nats.password_file)")),
        (None, Some(_)) => broken.push(String::from("nats.password needs nats.user")),
        _ => {}
    }
    match (&nats.cert_file, &nats.key_file) {
        (Some(_), None) => broken.push(String::from("nats.cert_file needs nats.key_file, the certificate's key")),
        (None, Some(_)) => broken.push(String::from("nats.key_file needs nats.cert_file, the key's certificate")),
        _ => {}
    }
    let ways = [nats.credentials.is_some(), nats.token.is_some(), nats.user.is_some(), nats.nkey.is_some()];
    if ways.iter().filter(|given| **given).count() > 1 {
        broken.push(String::from(
            "nats.credentials, nats.token, nats.nkey and nats.user exclude each other; keep the one your broker asks for",
        ));
    }
    broken
}

/// Warns where other hosts reach a port of this node without permission.
fn exposure(config: &Config, warnings: &mut Vec<String>) {
    let everywhere =
        config.rooms.iter().any(|rule| rule.pattern == "*" && rule.publish.is_some_and(|who| who != Who::Any));
    if !config.listen.ip().is_loopback() && !everywhere && !config.has_keys() {
        warnings.push(format!(
            "every client that reaches {} may join rooms and publish into them; auth.secret_file asks them for a token \
             (`tidegate secret` makes the secret), and a last [[rooms]] with match = \"*\", publish = \"none\" leaves publishing to backends",
            config.listen
        ));
    }
    if config.has_keys() {
        warnings.extend(opened(config));
    }
    if !config.admin.listen.ip().is_loopback() && config.admin.token.is_none() {
        warnings.push(format!(
            "the admin port {} has no admin.token: other hosts get /live, /ready and /metrics only",
            config.admin.listen
        ));
    }
}

/// Rules that open to clients without a token what others need one for.
fn opened(config: &Config) -> Option<String> {
    if config.auth.anonymous == Anonymous::Refuse {
        return None;
    }
    let is_open = |who: Option<Who>| who == Some(Who::Any);
    let open = config.rooms.iter().filter(|rule| is_open(rule.join) || is_open(rule.publish));
    let open: Vec<String> = open.map(|rule| format!("\"{}\"", rule.pattern)).collect();
    (!open.is_empty())
        .then(|| format!("clients without a token may enter {} (auth.anonymous, [[rooms]])", open.join(", ")))
}

/// A cookie is sent by the browser whatever page connects, and keys are what makes tokens mean something.
fn tokens_of_clients(config: &Config) -> Vec<String> {
    let mut broken = Vec::new();
    let lists_pages = !config.origins.is_empty() && config.origins.iter().all(|origin| *origin != OriginPattern::Any);
    if config.auth.cookie.is_some() && !lists_pages {
        broken.push(String::from(
            "auth.cookie needs a list of pages in origins, and no *: a browser sends the cookie for every page, and a foreign one \
             would connect as the user",
        ));
    }
    broken.extend(providers(config));
    let needs_keys = [
        ("auth.anonymous", config.auth.anonymous == Anonymous::Allow),
        ("auth.cookie", config.auth.cookie.is_some()),
        ("auth.query", config.auth.query),
        ("[[auth.grants]]", !config.grants.is_empty()),
    ];
    let given = needs_keys.iter().find(|(_, given)| *given && !config.has_keys());
    broken.extend(given.map(|(name, _)| {
        format!("{name} has no effect without a key; give auth.secret_file, auth.public_key_file, auth.jwks_file or auth.jwks_url")
    }));
    let asks = |who: Option<Who>| matches!(who, Some(Who::Users | Who::Token));
    let rule = config.rooms.iter().find(|rule| (asks(rule.join) || asks(rule.publish)) && !config.has_keys());
    broken.extend(rule.map(|rule| {
        format!("the rule for rooms \"{}\" asks for a token, and no key is given; give auth.secret_file", rule.pattern)
    }));
    broken
}

/// What a provider issues for another program would open this node, if nothing said for which program it must be.
fn providers(config: &Config) -> Vec<String> {
    let auth = &config.auth;
    let mut broken = Vec::new();
    if auth.jwks_url.is_some() && (auth.issuer.is_none() || auth.audience.is_empty()) {
        broken.push(String::from(
            "auth.jwks_url needs auth.issuer and auth.audience, the iss and aud of the provider's tokens for this program: without them \
             what it issued for another program would open this node",
        ));
    }
    if auth.jwks_url.is_some() && auth.jwks_file.is_some() {
        broken.push(String::from("auth.jwks_url and auth.jwks_file exclude each other; keep one"));
    }
    for issuer in config.issuers.iter().filter(|issuer| issuer.jwks_url.is_some()) {
        if issuer.audience.as_ref().unwrap_or(&auth.audience).is_empty() {
            broken.push(format!(
                "auth.issuers: \"{}\" has a jwks_url and needs an audience, the aud of its tokens for this program",
                issuer.issuer
            ));
        }
        if issuer.jwks_file.is_some() {
            broken.push(format!("auth.issuers: \"{}\" has a jwks_url and a jwks_file; keep one", issuer.issuer));
        }
    }
    broken
}

/// Warns of tokens that protect less than they seem to.
fn tokens(config: &Config, warnings: &mut Vec<String>) {
    let kinds = [
        ("admin.token", &config.admin.token),
        ("backend.token", &config.backend.token),
        ("publish.token", &config.publish.token),
    ];
    let kinds = kinds.map(|(name, tokens)| (name, AccessTokens::all(tokens.as_ref())));
    for (place, (name, tokens)) in kinds.iter().enumerate() {
        if tokens.iter().any(|token| token.len() < TOKEN_CHARACTERS) {
            warnings.push(format!(
                "{name} is shorter than {TOKEN_CHARACTERS} characters and can be guessed; make one with `openssl rand -hex 16`"
            ));
        }
        for (weaker, others) in &kinds[place + 1..] {
            if others.iter().any(|token| tokens.contains(token)) {
                warnings.push(format!(
                    "{name} and {weaker} are the same: what has the second may do all that the first opens; give each a token of its own"
                ));
            }
        }
    }
    if let Some(path) = &config.nats.credentials {
        warnings.extend(readable_by_others("nats.credentials", path));
    }
}

/// A warning where every user of the host may read a file that holds a secret.
pub(super) fn readable_by_others(key: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let path = path.display();
        format!(
            "{key}: every user of this host may read {path} (mode {:03o}); chmod 640 {path}, or defaultMode: 0440 in \
             Kubernetes",
            mode & 0o777
        )
    })
}

fn broker(nats: &Nats, warnings: &mut Vec<String>) {
    let given = [
        ("nats.credentials", nats.credentials.is_some()),
        ("nats.token", nats.token.is_some()),
        ("nats.user", nats.user.is_some()),
        ("nats.nkey", nats.nkey.is_some()),
        ("nats.ca_file", nats.ca_file.is_some()),
        ("nats.cert_file", nats.cert_file.is_some()),
    ];
    let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if nats.url.is_empty() && !given.is_empty() {
        warnings.push(format!("{} without nats.url has no effect: the local bus runs", given.join(", ")));
    }
}
