//! From the first octet of a request to its 101, or to the answer why not.

use std::borrow::Cow;

use super::entrance::{Entrance, entrance};
use super::{Admission, Peer, REFUSED_PAGES, RefusedPage};
use crate::auth::Unauthorized;
use crate::close::Refusal;
use crate::connection::{Flags, Handle};
use crate::dialect::{DialectId, Form};
use crate::http::forwarded::last_known_hop;
use crate::http::proxy;
use crate::http::{self, Progress, Request, Upgrade};
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::turn::Turn;
use crate::shard::writer::Writer;
use crate::ws::deflate;

/// What a dialect without a subprotocol of its own answers before any other.
const COMMON_SUBPROTOCOL: &str = "tidegate.v1";
const HTML: &str = "text/html; charset=utf-8";
/// What `GET /` answers: balancers look there by default, and people do.
const ROOT: &str = "tidegate, a WebSocket gateway: connect a WebSocket client here; /health is for probes\n";
/// The same where there is a page to try it out.
const ROOT_WITH_DEMO: &str = "<!doctype html><title>tidegate</title><p>tidegate, a WebSocket gateway: try it at \
    <a href=\"/demo\">/demo</a>, or connect a WebSocket client here; <a href=\"/health\">/health</a> is for probes\n";

/// What is there of a request, its PROXY header included, and how far the request is verified.
#[derive(Default)]
pub(super) struct Head {
    octets: Vec<u8>,
    progress: Progress,
}

/// An upgrade that was granted: its answer is in the reply.
pub(in crate::shard) struct Upgraded {
    pub(in crate::shard) dialect: DialectId,
    /// The room that the path names.
    pub(in crate::shard) room: Option<String>,
    /// With which token.
    pub(in crate::shard) entrance: Entrance,
}

impl Admission {
    /// Octets of a connection that is not upgraded yet. A refusal is decided here and told when the shard settles.
    pub(in crate::shard) fn handle_head<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        bytes: &[u8],
    ) -> Option<Upgraded> {
        match self.read_head(turn, writer, clients, handle, bytes) {
            Ok(upgraded) => upgraded,
            Err(refusal) => {
                clients.refuse(turn, handle, refusal);
                None
            }
        }
    }

    fn read_head<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        bytes: &[u8],
    ) -> Result<Option<Upgraded>, Refusal> {
        let mut head = self.take_head(handle).unwrap_or_default();
        let whole: Cow<'_, [u8]> = if head.octets.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            head.octets.extend_from_slice(bytes);
            Cow::Owned(head.octets)
        };
        let mut progress = head.progress;
        let Some(skip) = self.proxy_header(turn, clients, handle, &whole)? else {
            self.keep_head(handle, whole, progress);
            return Ok(None);
        };
        let request = &whole[skip..];
        let parsed = http::parse_from(request, turn.settings.options.limits.head_bytes, &mut progress);
        match parsed.map_err(|refusal| refusal_of(clients, handle, request, refusal))? {
            None => self.keep_head(handle, whole, progress),
            // Nothing may be said before the answer: not a second request, not a frame.
            Some((_, length)) if length < request.len() => return Err(Refusal::BadRequest),
            Some((Request::Upgrade(upgrade), _)) => {
                return self.grant(turn, writer, clients, handle, &upgrade);
            }
            Some((Request::Plain { is_head, path, .. }, _)) => {
                note_head(clients, handle, is_head);
                self.handle_plain(turn, writer, clients, handle, path)?;
            }
        }
        Ok(None)
    }

    /// What came of a head so far. Most come whole: then there is none, and nothing to look up.
    pub(super) fn take_head(&mut self, handle: Handle) -> Option<Head> {
        if self.heads.is_empty() { None } else { self.heads.remove(&handle.index) }
    }

    fn keep_head(&mut self, handle: Handle, octets: Cow<'_, [u8]>, progress: Progress) {
        self.heads.insert(handle.index, Head { octets: octets.into_owned(), progress });
    }

    fn grant<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        upgrade: &Upgrade<'_>,
    ) -> Result<Option<Upgraded>, Refusal> {
        self.late_refusal(turn, clients, handle)?;
        let (mut upgraded, subprotocol) = destination(turn, upgrade.path).ok_or(Refusal::NotFound)?;
        let options = &turn.settings.options;
        options.origins.check(upgrade).inspect_err(|refusal| self.note_refused_page(upgrade, *refusal))?;
        // permessage-deflate where the configuration turns it on and the client offers it.
        let deflate = if options.compression { deflate::agree(upgrade.extensions())? } else { None };
        if !options.trusted.is_empty() {
            note_forwarded(turn, writer, clients, handle, upgrade);
        }
        match entrance(turn, upgraded.dialect, upgrade) {
            Ok(entrance) => upgraded.entrance = entrance,
            Err(refused) => {
                self.answer_unauthorized(turn, writer, clients, handle, &refused);
                return Ok(None);
            }
        }
        let (peer, accepted_us) = self.peer(clients, handle);
        self.count_address(turn, handle, peer)?;
        self.leave_handshake(handle);
        let protocol = answered_protocol(upgraded.dialect, subprotocol, upgrade);
        writer.reply_upgrade(upgrade.key, protocol, deflate);
        clients.begin_open(turn, handle, Form { dialect: upgraded.dialect, deflate }, accepted_us);
        if upgrade.attempt() > 0 {
            turn.counters.reconnects.add(1);
        }
        Ok(Some(upgraded))
    }

    /// Answers a request whose Authorization header is refused.
    fn answer_unauthorized<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        refused: &Unauthorized,
    ) {
        let is_temporary = refused.reason.is_temporary();
        let refusal = if is_temporary { Refusal::KeysUnavailable } else { Refusal::Unauthorized };
        let text = format!("{}: {}", refused.reason.name(), refused.message);
        let mut answer = Vec::with_capacity(512);
        http::refuse_token(&mut answer, refusal, &text, turn.random.below(5) + 1);
        turn.counters.refused[refusal as usize].add(1);
        self.answer_and_finish(turn, writer, clients, handle, answer);
    }

    fn handle_plain<D: Driver>(
        &mut self,
        turn: &mut Turn,
        writer: &mut Writer<D>,
        clients: &mut Clients,
        handle: Handle,
        path: &str,
    ) -> Result<(), Refusal> {
        let mut answer = Vec::with_capacity(512);
        let demo_page = turn.settings.options.demo_page;
        match (without_slash(path), demo_page) {
            ("/health", _) => {
                let readiness = turn.settings.state.readiness();
                http::respond(&mut answer, readiness.status(), "application/json", readiness.body().as_bytes());
            }
            ("/demo", Some(page)) => http::respond(&mut answer, 200, HTML, page.as_bytes()),
            // Balancers and uptime monitors look here, and people do.
            ("/", Some(_)) => http::respond(&mut answer, 200, HTML, ROOT_WITH_DEMO.as_bytes()),
            ("/", None) => http::respond(&mut answer, 200, "text/plain; charset=utf-8", ROOT.as_bytes()),
            _ if destination(turn, path).is_some() => return Err(Refusal::UpgradeRequired),
            _ => return Err(Refusal::NotFound),
        }
        turn.counters.plain.add(1);
        self.answer_and_finish(turn, writer, clients, handle, answer);
        Ok(())
    }

    /// Why a valid upgrade is refused all the same: a rate that was exceeded at accept, a full node, or a drain.
    fn late_refusal(&self, turn: &Turn, clients: &mut Clients, handle: Handle) -> Result<(), Refusal> {
        let Some(flags) = clients.find(handle).map(|entry| entry.flags) else { return Ok(()) };
        if self.refusing {
            return Err(Refusal::Draining);
        }
        if flags.has(Flags::REFUSED) {
            return Err(Refusal::ConnectionRate);
        }
        // Only what is upgraded counts: sockets that say nothing would take the places of clients.
        let open: u64 = turn.settings.node_counters.iter().map(|shard| shard.connections.value()).sum();
        let settings = &turn.settings;
        if open < settings.budgets.connections.min(settings.state.capacity()) { Ok(()) } else { Err(Refusal::Capacity) }
    }

    /// Keeps what a page was refused for, for the log.
    fn note_refused_page(&mut self, upgrade: &Upgrade<'_>, refusal: Refusal) {
        let Some(origin) = upgrade.origin.filter(|_| self.refused_pages.len() < REFUSED_PAGES) else { return };
        let (origin, host) = (origin.to_owned(), upgrade.host.to_owned());
        self.refused_pages.push(RefusedPage { origin, host, refusal });
    }

    /// Counts an upgrade that is to be granted with the connections of its address.
    fn count_address(&mut self, turn: &Turn, handle: Handle, peer: Peer) -> Result<(), Refusal> {
        let per_address = &turn.settings.options.per_address;
        if !per_address.is_on() {
            return Ok(());
        }
        if !per_address.take(peer) {
            return Err(Refusal::AddressConnections);
        }
        if peer != Peer::UNKNOWN {
            self.counted.insert(handle.index, peer);
        }
        Ok(())
    }

    /// Octets of a PROXY protocol header in front of the request; `None` while it is not complete.
    fn proxy_header(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        bytes: &[u8],
    ) -> Result<Option<usize>, Refusal> {
        let Some(entry) = clients.find(handle) else { return Ok(None) };
        if !entry.flags.has(Flags::PROXIED) {
            return Ok(Some(0));
        }
        let parsed = proxy::parse_v2(bytes).map_err(|proxy::NotProxied| Refusal::ProxyMissing)?;
        let Some((source, length)) = parsed else { return Ok(None) };
        if let Some(address) = source.filter(|_| clients.forwarded(handle.index).is_none()) {
            clients.note_forwarded(handle, address);
            let peer = Peer::of(address);
            if self.mistakes.is_over(peer, turn.clock.tick) {
                return Err(Refusal::Dropped);
            }
            self.bound_handshakes_of(turn, clients, peer);
        }
        Ok(Some(length))
    }
}

/// What is spoken at a path, and which subprotocol its route wants: the configuration's routes first, then the built-in ones.
fn destination<'a>(turn: &'a Turn, path: &str) -> Option<(Upgraded, Option<&'a str>)> {
    let path = without_slash(path);
    if let Some(route) = turn.settings.route(path) {
        let upgraded = Upgraded { dialect: route.dialect, room: route.room.clone(), entrance: Entrance::Guest };
        return Some((upgraded, route.subprotocol.as_deref()));
    }
    let (dialect, route) = DialectId::route(path)?;
    Some((Upgraded { dialect, room: route.room.map(Cow::into_owned), entrance: Entrance::Guest }, None))
}

/// One slash at a path's end is ignored: `/raw/lobby/` is the room `lobby`. A room whose name ends in one is written with `%2F`.
fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
}

/// The subprotocol that is answered (RFC 6455 §4.2.2): the dialect's own where it is offered, else the route's; where the dialect
/// takes any, else the first one offered: browsers give a connection up whose answer names none of theirs.
fn answered_protocol<'a>(dialect: DialectId, route: Option<&'a str>, upgrade: &Upgrade<'a>) -> Option<&'a str> {
    let offered = |protocol: &&str| upgrade.offers_protocol(protocol);
    let own = dialect.subprotocol();
    let known = Some(own.unwrap_or(COMMON_SUBPROTOCOL)).filter(offered).or_else(|| route.filter(offered));
    known.or_else(|| if own.is_none() { upgrade.first_protocol() } else { None })
}

/// Notes whether the answer to a request has no body.
fn note_head(clients: &mut Clients, handle: Handle, is_head: bool) {
    if let Some(entry) = clients.find(handle).filter(|_| is_head) {
        entry.flags.set(Flags::HEAD);
    }
}

/// What a head is refused for that cannot be parsed: a PROXY header is named as what it is.
fn refusal_of(clients: &mut Clients, handle: Handle, request: &[u8], refusal: Refusal) -> Refusal {
    note_head(clients, handle, request.starts_with(b"HEAD "));
    if proxy::is_header(request) { Refusal::ProxyUnexpected } else { refusal }
}

/// Notes the client's address where trusted proxies told it in X-Forwarded-For. The address that a PROXY header told is the last
/// known hop before them: a TCP balancer rewrites no header, and the client could have written that one itself.
fn note_forwarded<D: Driver>(
    turn: &Turn,
    writer: &Writer<D>,
    clients: &mut Clients,
    handle: Handle,
    upgrade: &Upgrade<'_>,
) {
    let Some(fd) = clients.find(handle).map(|entry| entry.fd) else { return };
    let peer = || writer.driver_ref().peer(fd).map(|peer| peer.ip());
    let Some(nearest) = clients.forwarded(handle.index).or_else(peer) else { return };
    let client = last_known_hop(nearest, upgrade.forwarded_for(), |hop| turn.settings.trusts(hop));
    if client != nearest {
        clients.note_forwarded(handle, client);
    }
}
