//! What a setting's value must be where a range or a list of names does not say it, and what of it is shown.

use std::path::PathBuf;

use tidegate_core::http::network::Network;
use tidegate_core::http::{OriginPattern, host_pattern};
use tidegate_core::setting::{Value, list};

pub(super) fn node_name(value: &Value) -> Result<String, String> {
    let name = value.filled()?;
    if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
        return Err(format!(
            "{name:?} is not a node's name: 1 to 64 printable ASCII characters without space, \" and \\"
        ));
    }
    Ok(name)
}

pub(super) fn log_filter(value: &Value) -> Result<String, String> {
    let filter = value.filled()?;
    // A word alone would be a target that logs all, and everything else nothing: a level with a slip silences the node.
    let is_word = |part: &&str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let mut words = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).filter(is_word);
    if let Some(word) = words.find(|word| word.parse::<tracing::level_filters::LevelFilter>().is_err()) {
        return Err(format!(
            "{word:?} is not a level: off, error, warn, info, debug or trace; a target has one too, such as tidegate=debug"
        ));
    }
    match tracing_subscriber::EnvFilter::builder().parse(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(format!(
            "{filter:?} is not a log filter ({error}); give a level such as info or debug, or tidegate=debug"
        )),
    }
}

pub(super) fn origins(value: &Value) -> Result<Vec<OriginPattern>, String> {
    value.list()?.iter().map(|origin| in_ascii(origin)?.parse()).collect()
}

pub(super) fn hosts(value: &Value) -> Result<Vec<String>, String> {
    value.list()?.iter().map(|host| host_pattern(&in_ascii(host)?)).collect()
}

/// The host in an origin, or alone, as browsers write names of other alphabets: `https://bücher.example` in Punycode (RFC 3492).
fn in_ascii(text: &str) -> Result<String, String> {
    if text.is_ascii() {
        return Ok(text.to_owned());
    }
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, _)| text.split_at(scheme.len() + 3));
    let (wildcard, rest) = if let Some(rest) = rest.strip_prefix("*.") { ("*.", rest) } else { ("", rest) };
    let (name, port) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
    let ascii =
        idna::domain_to_ascii(name).map_err(|_| format!("{text:?} can never match: {name:?} is no host's name"))?;
    Ok(format!("{scheme}{wildcard}{ascii}{port}"))
}

pub(super) fn urls(value: &Value) -> Result<Vec<String>, String> {
    let urls = value.list()?;
    if urls.is_empty() {
        return Err(String::from("names no server; give nats://host:4222, or leave it out for the local bus"));
    }
    for (index, url) in urls.iter().enumerate() {
        let what = match parts(url) {
            Some(("nats" | "tls", _)) => continue,
            Some(_) => format!("{:?}", masked_url(url)),
            // Of a password with a comma or a slash every part may be the secret: nothing that is not surely a host is shown.
            None => format!("entry {}", index + 1),
        };
        let escapes = if parts(url).is_some() { "" } else { ESCAPES };
        return Err(format!("{what} is not a broker's URL: nats://host:4222, or tls://host:4222{escapes}"));
    }
    Ok(urls)
}

/// What a login in a URL may have meant.
const ESCAPES: &str = "; in a password write , as %2C, / as %2F, ? as %3F, # as %23 and @ as %40, or set nats.user and \
                       nats.password";

/// The scheme, and host and port, of a URL that has both, and none of its login.
fn parts(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let is_name = |octet: u8| octet.is_ascii_alphanumeric() || b".-_".contains(&octet) || !octet.is_ascii();
    let is_address = |inner: &str| inner.bytes().all(|octet| octet.is_ascii_hexdigit() || b":.%".contains(&octet));
    let is_host = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => is_address(inner),
        None => !name.is_empty() && name.bytes().all(is_name),
    };
    let is_whole = matches!(path, "" | "/") && scheme.bytes().all(|octet| octet.is_ascii_alphabetic());
    let is_whole = is_whole && !url.contains(char::is_whitespace);
    (is_host && is_whole && port.parse::<u16>().is_ok()).then_some((scheme, host))
}

/// The URLs as they may be shown; none is the local bus.
pub(super) fn shown_urls(urls: &[String]) -> Option<String> {
    (!urls.is_empty()).then(|| list(&urls.iter().map(|url| masked_url(url)).collect::<Vec<_>>()))?
}

/// A URL without the user and password that may stand in it: its scheme and host. Where these cannot be told from a login, nothing.
pub(super) fn masked_url(url: &str) -> String {
    match parts(url) {
        Some((scheme, host)) if url.contains('@') => format!("{scheme}://***@{host}"),
        Some((scheme, host)) => format!("{scheme}://{host}"),
        None => String::from("***"),
    }
}

pub(super) fn subject_prefix(value: &Value) -> Result<String, String> {
    let prefix = value.filled()?;
    // The rooms' subjects are PREFIX.room.ROOM: below a.room they would be rooms of the nodes whose prefix is a.
    if let Some((outer, _)) = format!("{prefix}.").split_once(".room.") {
        return Err(format!(
            "{prefix:?} nests in the prefix {outer:?}: its rooms would be rooms of nodes with that prefix too, and theirs of this node; \
             leave the token \"room\" out, such as {:?}",
            prefix.replace(".room", "-room")
        ));
    }
    match tidegate_core::model::valid_room(&prefix) {
        Ok(()) if prefix.len() <= 64 => Ok(prefix),
        _ => {
            Err(format!("{prefix:?} is not a subject prefix: up to 64 printable ASCII characters, dots between tokens"))
        }
    }
}

pub(super) fn close_code(value: &Value) -> Result<u16, String> {
    let code = value.integer(1000..=4999)?;
    match code {
        1001 | 1012 | 1013 | 3000..=4999 => Ok(code),
        _ => Err(format!("{code} is not a close code for a drain: 1001, 1012, 1013 or 3000 to 4999")),
    }
}

pub(super) fn networks(value: &Value) -> Result<Vec<Network>, String> {
    value.list()?.iter().map(|network| network.parse()).collect()
}

pub(super) fn readable(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(value.filled()?);
    std::fs::File::open(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Ok(path)
}

/// A secret, typed or in a file; a line's end after it does not belong to it.
pub(super) fn secret_text(value: &Value) -> Result<String, String> {
    secret(secret_contents(value)?.trim_end_matches(['\r', '\n']))
}

/// What a secret is made of.
pub(super) fn secret(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(String::from("must be printable ASCII without spaces, at least one character"));
    }
    Ok(text.to_owned())
}

/// What was typed for a secret, or what its file holds.
pub(super) fn secret_contents(value: &Value) -> Result<String, String> {
    match value {
        Value::InFile(path) => {
            std::fs::read_to_string(path).map_err(|error| {
                // What has no slash may be the secret itself, written where its file should be named.
                let path = path.to_str().filter(|path| path.contains('/')).unwrap_or("the file that it names");
                format!("{path} cannot be read: {error}")
            })
        }
        Value::Text(text) => Ok(text.clone()),
        // Never echoed: it may be the secret, typed without quotes.
        _ => Err(String::from("is not text; put it in quotes")),
    }
}
