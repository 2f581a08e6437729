//! From the first octet of a request to its 101, or to the answer why not.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use super::Admission;
use crate::close::Refusal;
use crate::connection::{Flags, Handle};
use crate::dialect::{DialectId, Form};
use crate::http::proxy;
use crate::http::{self, Progress, Request, Upgrade};
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::turn::Turn;
use crate::shard::writer::Writer;
use crate::ws::deflate;

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
        let Some(skip) = proxy_header(clients, handle, &whole)? else {
            self.keep_head(handle, whole, progress);
            return Ok(None);
        };
        let request = &whole[skip..];
        match http::parse_from(request, turn.settings.options.limits.head_bytes, &mut progress)? {
            None => self.keep_head(handle, whole, progress),
            // Nothing may be said before the answer: not a second request, not a frame.
            Some((_, length)) if length < request.len() => return Err(Refusal::BadRequest),
            Some((Request::Upgrade(upgrade), _)) => {
                return self.grant(turn, writer, clients, handle, &upgrade).map(Some);
            }
            Some((Request::Plain { path, .. }, _)) => self.handle_plain(turn, writer, clients, handle, path)?,
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
    ) -> Result<Upgraded, Refusal> {
        self.late_refusal(clients, handle)?;
        let upgraded = destination(turn, upgrade.path).ok_or(Refusal::NotFound)?;
        let options = &turn.settings.options;
        if !http::origin_allowed(&options.origins, upgrade) {
            return Err(Refusal::ForbiddenOrigin);
        }
        // permessage-deflate where the configuration turns it on and the client offers it.
        let deflate = if options.compression { deflate::agree(upgrade.extensions())? } else { None };
        self.leave_handshake(handle);
        let protocol = upgraded.dialect.subprotocol().filter(|protocol| upgrade.offers_protocol(protocol));
        writer.reply_upgrade(upgrade.key, protocol, deflate);
        let fd = clients.begin_open(turn, handle, Form { dialect: upgraded.dialect, deflate });
        if let (Some(fd), Some(forwarded_for)) = (fd, upgrade.forwarded_for) {
            note_forwarded(turn, clients, handle, writer.driver_ref().peer(fd), forwarded_for);
        }
        if upgrade.attempt() > 0 {
            turn.counters.reconnects.add(1);
        }
        Ok(upgraded)
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
        match path {
            "/health" => {
                let readiness = turn.settings.state.readiness();
                http::respond(&mut answer, readiness.status(), "application/json", readiness.body().as_bytes());
            }
            _ => match turn.settings.options.demo_page.filter(|_| path == "/demo") {
                Some(page) => http::respond(&mut answer, 200, "text/html; charset=utf-8", page.as_bytes()),
                None if destination(turn, path).is_some() => return Err(Refusal::UpgradeRequired),
                None => return Err(Refusal::NotFound),
            },
        }
        turn.counters.plain.add(1);
        self.answer_and_finish(turn, writer, clients, handle, &answer);
        Ok(())
    }

    /// Why a valid upgrade is refused all the same: decided at accept, or a drain that began meanwhile.
    fn late_refusal(&self, clients: &mut Clients, handle: Handle) -> Result<(), Refusal> {
        let Some(flags) = clients.find(handle).map(|entry| entry.flags) else { return Ok(()) };
        if self.refusing {
            Err(Refusal::Draining)
        } else if flags.has(Flags::FULL) {
            Err(Refusal::Capacity)
        } else if flags.has(Flags::REFUSED) {
            Err(Refusal::ConnectionRate)
        } else {
            Ok(())
        }
    }
}

/// What is spoken at a path: the configuration's routes first, then the built-in ones.
fn destination(turn: &Turn, path: &str) -> Option<Upgraded> {
    if let Some(route) = turn.settings.routes.get(path) {
        return Some(Upgraded { dialect: route.dialect, room: route.room.clone() });
    }
    let (dialect, route) = DialectId::route(path)?;
    Some(Upgraded { dialect, room: route.room.map(Cow::into_owned) })
}

/// Octets of a PROXY protocol header in front of the request; `None` while it is not complete.
fn proxy_header(clients: &mut Clients, handle: Handle, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(entry) = clients.find(handle) else { return Ok(None) };
    if !entry.flags.has(Flags::PROXIED) {
        return Ok(Some(0));
    }
    match proxy::parse_v2(bytes) {
        Ok(None) => Ok(None),
        Ok(Some((source, length))) => {
            if let Some(address) = source {
                clients.note_forwarded(handle, address);
            }
            Ok(Some(length))
        }
        Err(proxy::NotProxied) => Err(Refusal::BadRequest),
    }
}

/// Notes the client's address where a trusted proxy told it in X-Forwarded-For.
fn note_forwarded(turn: &Turn, clients: &mut Clients, handle: Handle, proxy: Option<SocketAddr>, forwarded_for: &str) {
    let Some(last) = forwarded_for.rsplit(',').next() else { return };
    let Ok(address) = last.trim().parse::<IpAddr>() else { return };
    if proxy.is_some_and(|proxy| turn.settings.trusts(proxy.ip())) {
        clients.note_forwarded(handle, address);
    }
}
