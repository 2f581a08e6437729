//! Fetches the keys that providers publish (JWKS, RFC 7517), on a thread of its own: one that stalls delays no shard and no scrape.
//!
//! When a fetch is due a [`Schedule`] says. What is not a set of keys, a redirect to another host, or more than [`MOST_BYTES`], is a
//! failed fetch, and the keys that are in force stay. The admin thread puts what was fetched in force.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use http::Uri;
use http::header::{CACHE_CONTROL, LOCATION};
use http::uri::PathAndQuery;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::gateway::config::random_key;
use crate::gateway::mailbox::Waker;
use tidegate_core::auth::{Key, Schedule, max_age_s};

/// How long a fetch may take, from the look-up of the name to the last octet.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of the largest answer.
const MOST_BYTES: u64 = 256 * 1024;
/// Redirects that are followed, on the same host.
const MOST_REDIRECTS: usize = 3;
/// How long the thread sleeps where there is nothing to fetch; an order wakes it.
const IDLE: Duration = Duration::from_secs(3_600);

/// What the thread is told.
pub(super) enum Order {
    /// Fetch from these URLs, and from no others. Their certificates are judged by the ones in a file, else by the system's.
    Fetch { urls: Vec<Arc<str>>, ca_file: Option<PathBuf> },
    /// A token has a key that is not known.
    KeyUnknown,
}

/// What became of a fetch.
pub(super) struct Fetched {
    pub(super) url: Arc<str>,
    /// The keys, or why there are none.
    pub(super) result: Result<Vec<Key>, String>,
}

/// The thread, as the admin thread sees it.
pub(super) struct Fetcher {
    fetched: mpsc::Receiver<Fetched>,
}

impl Fetcher {
    /// Starts the thread. `waker` is woken after each fetch; `is_asked` is cleared when [`Order::KeyUnknown`] is heard.
    ///
    /// # Errors
    /// The limit of threads, or no memory for one.
    pub(super) fn start(
        inbox: mpsc::Receiver<Order>,
        is_asked: Arc<AtomicBool>,
        waker: Arc<Waker>,
    ) -> io::Result<Self> {
        let (sender, fetched) = mpsc::channel();
        let thread = std::thread::Builder::new().name(String::from("jwks"));
        thread.spawn(move || run(&inbox, &is_asked, &sender, &waker))?;
        Ok(Self { fetched })
    }

    /// Takes what became of a fetch.
    pub(super) fn poll(&self) -> Option<Fetched> {
        self.fetched.try_recv().ok()
    }
}

struct Provider {
    url: Arc<str>,
    schedule: Schedule,
}

/// The thread's body, until the node ends.
fn run(inbox: &mpsc::Receiver<Order>, is_asked: &AtomicBool, sender: &mpsc::Sender<Fetched>, waker: &Waker) {
    let start = Instant::now();
    let now_ms = || start.elapsed().as_millis() as u64;
    let (mut providers, mut ca) = (Vec::<Provider>::new(), None);
    loop {
        let next = providers.iter_mut().min_by_key(|provider| provider.schedule.due_ms());
        let due = next.as_ref().map(|provider| Duration::from_millis(provider.schedule.due_ms()));
        let wait = due.map_or(IDLE, |due| due.saturating_sub(start.elapsed()));
        match inbox.recv_timeout(wait) {
            Ok(Order::Fetch { urls, ca_file }) => {
                providers.retain(|provider| urls.contains(&provider.url));
                for url in urls {
                    if !providers.iter().any(|provider| provider.url == url) {
                        providers.push(Provider { url, schedule: Schedule::new(now_ms()) });
                    }
                }
                ca = ca_file;
            }
            Ok(Order::KeyUnknown) => {
                is_asked.store(false, Ordering::Relaxed);
                providers.iter_mut().for_each(|provider| provider.schedule.handle_unknown_key(now_ms()));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(provider) = next else { continue };
                let answer = fetch(&provider.url, ca.as_deref(), TIMEOUT);
                match &answer {
                    Ok((_, max_age_s)) => provider.schedule.handle_fetched(now_ms(), *max_age_s, share()),
                    Err(_) => provider.schedule.handle_failed(now_ms(), share()),
                }
                let result = answer.map(|(keys, _)| keys);
                if sender.send(Fetched { url: provider.url.clone(), result }).is_err() {
                    return;
                }
                waker.notify();
            }
        }
    }
}

/// A random part of an interval, in 2⁻³² parts.
fn share() -> u32 {
    random_key().ok().and_then(|key| key.first_chunk().copied()).map_or(0, u32::from_le_bytes)
}

/// Fetches keys, and for how long the provider says that they hold, in seconds.
fn fetch(url: &str, ca_file: Option<&Path>, timeout: Duration) -> Result<(Vec<Key>, Option<u64>), String> {
    let deadline = Instant::now() + timeout;
    let mut url: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let agent = agent(&url, ca_file)?;
    for _ in 0..=MOST_REDIRECTS {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let request = agent.get(&url).config().timeout_global(Some(left)).build();
        let mut response = request.call().map_err(|error| error.to_string())?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            200 => {
                let max_age_s = header(CACHE_CONTROL).and_then(max_age_s);
                let body = response.body_mut().with_config().limit(MOST_BYTES).read_to_string();
                let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?;
                return keys(&body).map(|keys| (keys, max_age_s));
            }
            301 | 302 | 303 | 307 | 308 => url = redirected(&url, header(LOCATION).unwrap_or_default())?,
            status => return Err(format!("it answers {status}; 200 with a JWKS is expected")),
        }
    }
    Err(format!("it redirects more than {MOST_REDIRECTS} times"))
}

fn keys(body: &str) -> Result<Vec<Key>, String> {
    match Key::from_jwks(body) {
        Ok(keys) if keys.is_empty() => {
            Err(String::from("it has no public key for signatures: RSA, EC on P-256 or P-384, or Ed25519"))
        }
        Ok(keys) => Ok(keys),
        Err(error) => Err(error.to_string()),
    }
}

/// Where a redirect leads, on the same host and port. Another host would decide who comes in.
fn redirected(from: &Uri, location: &str) -> Result<Uri, String> {
    let elsewhere =
        || format!("it redirects to {location:?}; only redirects on its own host are followed, name the new URL");
    // RFC 3986 §4.2: two slashes begin the name of a host.
    if location.starts_with("//") {
        return Err(elsewhere());
    }
    let to: Uri = location.parse().map_err(|_| elsewhere())?;
    let is_same = |part: fn(&Uri) -> Option<&str>| part(&to).is_none_or(|there| part(from) == Some(there));
    if !is_same(Uri::scheme_str) || !is_same(|uri| uri.authority().map(http::uri::Authority::as_str)) {
        return Err(elsewhere());
    }
    let path = to.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| elsewhere())
}

/// A client for one fetch. Certificates are read each time, so that they may be renewed while the node runs.
fn agent(url: &Uri, ca_file: Option<&Path>) -> Result<ureq::Agent, String> {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .accept("application/jwk-set+json, application/json");
    if url.scheme_str() == Some("https") {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(trusted(ca_file)?)));
        config = config.tls_config(tls.build());
    } else {
        // Only loopback has no TLS, and no proxy leads there.
        config = config.proxy(None);
    }
    Ok(config.build().into())
}

fn trusted(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, String> {
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            return Err(String::from(
                "this system trusts no certificates; install ca-certificates, or set auth.ca_file",
            ));
        }
        return Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect());
    };
    let file =
        std::fs::read(path).map_err(|error| format!("auth.ca_file {} cannot be read: {error}", path.display()))?;
    let certificates = ureq::tls::parse_pem(&file).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        return Err(format!("auth.ca_file {} has no certificate (PEM)", path.display()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_on_the_same_host_only() {
        let from: Uri = "https://login.example:8443/keys".parse().unwrap();
        let to = |location| redirected(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/new?x=1").as_deref(), Ok("https://login.example:8443/new?x=1"));
        assert_eq!(to("https://login.example:8443/new").as_deref(), Ok("https://login.example:8443/new"));
        let elsewhere = [
            "https://login.example/new",
            "https://other.example:8443/keys",
            "http://login.example:8443/keys",
            "//other.example/keys",
            "",
        ];
        for location in elsewhere {
            assert!(to(location).is_err(), "{location}");
        }
    }

    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that answers each request with these octets, or with nothing for as long as the other side waits.
    fn serve(answer: Option<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                match &answer {
                    Some(answer) => drop(stream.write_all(answer.as_bytes())),
                    None => kept.push(stream),
                }
            }
        });
        url
    }

    fn fetched(status: &str, more: &str, body: &str) -> Result<(Vec<Key>, Option<u64>), String> {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        fetch(&serve(Some(answer)), None, TIMEOUT)
    }

    const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    #[test]
    fn entries_that_are_not_understood_are_skipped() {
        let body = format!(r#"{{"keys":[{{"kty":"future","kid":"x"}},{KEY},{{"kty":"oct","k":"c2VjcmV0"}},7]}}"#);
        let (keys, max_age_s) = fetched("200 OK", "Cache-Control: max-age=600\r\n", &body).unwrap();
        assert_eq!((keys.len(), keys[0].id(), max_age_s), (1, Some("one"), Some(600)));
    }

    #[test]
    fn what_is_no_set_of_keys_is_a_failed_fetch_that_says_why() {
        let jwks = format!(r#"{{"keys":[{KEY}]}}"#);
        let large = format!(r#"{{"keys":[{KEY}],"filler":"{}"}}"#, "x".repeat(300 * 1024));
        let cases = [
            ("200 OK", "", "<html>sign in</html>", "it is no JWKS"),
            ("200 OK", "", r#"{"keys":[]}"#, "it has no public key for signatures"),
            ("200 OK", "", large.as_str(), "cannot be read"),
            ("404 Not Found", "", "", "it answers 404"),
            ("302 Found", "Location: http://127.0.0.1:1/keys\r\n", jwks.as_str(), "only redirects on its own host"),
            ("302 Found", "Location: /keys\r\n", jwks.as_str(), "redirects more than 3 times"),
        ];
        for (status, more, body, expected) in cases {
            let error = fetched(status, more, body).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_provider_that_stalls_or_is_down_is_a_failed_fetch() {
        let error = fetch(&serve(None), None, Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("timeout"), "{error}");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = fetch(&format!("http://{closed}/keys"), None, TIMEOUT).unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
