//! From the first octet of a request to its 101, or to the answer why not.

use std::borrow::Cow;
use std::net::IpAddr;

use super::Shard;
use crate::close::Refusal;
use crate::conn::{Flags, State, Token};
use crate::dialect::{DialectId, Form, Notice};
use crate::proto::deflate::{self, Deflate};
use crate::proto::handshake::{self, Progress, Request, Upgrade};
use crate::proto::proxy;
use crate::shard::driver::Driver;

/// What is there of a request, its PROXY header included, and how far the request is verified.
#[derive(Default)]
pub(super) struct Head {
    octets: Vec<u8>,
    progress: Progress,
}

/// Where an upgrade leads.
struct Destination {
    dialect: DialectId,
    room: Option<String>,
}

impl<D: Driver> Shard<D> {
    /// Octets of a connection that is not upgraded yet.
    pub(super) fn handle_head(&mut self, token: Token, bytes: &[u8]) {
        let mut head = self.take_head(token).unwrap_or_default();
        let whole: Cow<'_, [u8]> = if head.octets.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            head.octets.extend_from_slice(bytes);
            Cow::Owned(head.octets)
        };
        let mut progress = head.progress;
        let request = match self.proxied_head(token, &whole) {
            Ok(Some(skip)) => &whole[skip..],
            Ok(None) => return self.keep_head(token, whole, progress),
            Err(refusal) => return self.clients.refuse(&mut self.turn, token, refusal),
        };
        match handshake::parse_from(request, self.turn.settings.options.limits.head_bytes, &mut progress) {
            Ok(None) => self.keep_head(token, whole, progress),
            // Nothing may be said before the answer: not a second request, not a frame.
            Ok(Some((_, length))) if length < request.len() => {
                self.clients.refuse(&mut self.turn, token, Refusal::BadRequest)
            }
            Ok(Some((Request::Upgrade(upgrade), _))) => self.handle_upgrade(token, &upgrade),
            Ok(Some((Request::Plain { path, .. }, _))) => self.handle_plain(token, path),
            Err(refusal) => self.clients.refuse(&mut self.turn, token, refusal),
        }
    }

    /// What came of a head so far. Most come whole: then there is none, and nothing to look up.
    pub(super) fn take_head(&mut self, token: Token) -> Option<Head> {
        if self.heads.is_empty() { None } else { self.heads.remove(&token.index) }
    }

    fn keep_head(&mut self, token: Token, octets: Cow<'_, [u8]>, progress: Progress) {
        self.heads.insert(token.index, Head { octets: octets.into_owned(), progress });
    }

    fn handle_upgrade(&mut self, token: Token, upgrade: &Upgrade<'_>) {
        if let Some(refusal) = self.late_refusal(token) {
            return self.clients.refuse(&mut self.turn, token, refusal);
        }
        let Some(destination) = self.destination(upgrade.path) else {
            return self.clients.refuse(&mut self.turn, token, Refusal::NotFound);
        };
        if !handshake::origin_allowed(&self.turn.settings.options.origins, upgrade) {
            return self.clients.refuse(&mut self.turn, token, Refusal::ForbiddenOrigin);
        }
        let deflate = match self.agree_deflate(upgrade) {
            Ok(deflate) => deflate,
            Err(refusal) => return self.clients.refuse(&mut self.turn, token, refusal),
        };
        self.leave_handshake(token);
        let protocol = destination.dialect.subprotocol().filter(|protocol| upgrade.offers_protocol(protocol));
        self.writer.reply_upgrade(upgrade.key, protocol, deflate);
        if let Some(entry) = self.clients.find(token) {
            entry.form = Form { dialect: destination.dialect, deflate };
        }
        self.note_forwarded(token, upgrade.forwarded_for);
        if upgrade.attempt() > 0 {
            self.turn.counters.reconnects.add(1);
        }
        self.open(token, &destination);
    }

    /// permessage-deflate where the configuration turns it on and the client offers it.
    fn agree_deflate(&self, upgrade: &Upgrade<'_>) -> Result<Option<Deflate>, Refusal> {
        if self.turn.settings.options.compression { deflate::agree(upgrade.extensions()) } else { Ok(None) }
    }

    /// The upgrade is granted; its answer is in `reply`, and the welcome goes with it in one send.
    fn open(&mut self, token: Token, destination: &Destination) {
        let Some(entry) = self.clients.find(token) else { return };
        entry.state = State::Open;
        entry.flags.set(Flags::UPGRADED);
        let waited_us = self.turn.clock.mono_us().wrapping_sub(std::mem::take(&mut entry.batch));
        entry.deadline = 0;
        // The first ping comes at a random moment of the interval's second half: those of a silent crowd are spread, and a client
        // that has just come has time.
        let silent = self.turn.random.below(u32::from(self.turn.settings.heartbeat.ping / 2)) as u16;
        entry.heard = entry.heard.wrapping_sub(silent);
        self.turn.counters.upgraded.add(1);
        self.turn.counters.connections.add(1);
        self.turn.counters.handshake_duration.record(u64::from(waited_us) * 1_000, 1);
        let id = self.turn.id(token);
        let settings = self.turn.settings.clone();
        let options = &settings.options;
        let (ping_ms, pong_ms) = (options.ping_interval.as_millis() as u64, options.pong_timeout.as_millis() as u64);
        self.writer.reply(
            &self.turn,
            destination.dialect,
            &Notice::Welcome { id, node: &options.node_name, ping_ms, pong_ms },
        );
        self.writer.flush(&mut self.turn, &mut self.clients, token);
        if let Some(room) = &destination.room {
            self.join(token, room, None);
        }
    }

    fn handle_plain(&mut self, token: Token, path: &str) {
        let mut answer = Vec::with_capacity(512);
        match path {
            "/health" => {
                let readiness = self.turn.settings.state.readiness();
                handshake::respond(&mut answer, readiness.status(), "application/json", readiness.body().as_bytes());
            }
            _ => match self.turn.settings.options.demo_page.filter(|_| path == "/demo") {
                Some(page) => handshake::respond(&mut answer, 200, "text/html; charset=utf-8", page.as_bytes()),
                None if self.destination(path).is_some() => {
                    return self.clients.refuse(&mut self.turn, token, Refusal::UpgradeRequired);
                }
                None => return self.clients.refuse(&mut self.turn, token, Refusal::NotFound),
            },
        }
        self.turn.counters.plain.add(1);
        self.answer_and_finish(token, &answer);
    }

    /// Why a valid upgrade is refused all the same: decided at accept, or a drain that began meanwhile.
    fn late_refusal(&mut self, token: Token) -> Option<Refusal> {
        let flags = self.clients.find(token)?.flags;
        if self.refusing {
            Some(Refusal::Draining)
        } else if flags.has(Flags::FULL) {
            Some(Refusal::Capacity)
        } else {
            flags.has(Flags::REFUSED).then_some(Refusal::ConnectionRate)
        }
    }

    /// What is spoken at a path: the configuration's routes first, then the built-in ones.
    fn destination(&self, path: &str) -> Option<Destination> {
        if let Some(route) = self.turn.settings.routes.get(path) {
            return Some(Destination { dialect: route.dialect, room: route.room.clone() });
        }
        let (dialect, route) = DialectId::route(path)?;
        Some(Destination { dialect, room: route.room.map(Cow::into_owned) })
    }

    /// Octets of a PROXY protocol header in front of the request; `None` while it is not complete.
    fn proxied_head(&mut self, token: Token, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let Some(entry) = self.clients.find(token) else { return Ok(None) };
        if !entry.flags.has(Flags::PROXIED) {
            return Ok(Some(0));
        }
        match proxy::parse_v2(bytes) {
            Ok(None) => Ok(None),
            Ok(Some((source, length))) => {
                if let Some(address) = source {
                    self.clients.note_forwarded(token, address);
                }
                Ok(Some(length))
            }
            Err(proxy::NotProxied) => Err(Refusal::BadRequest),
        }
    }

    /// Notes the client's address where a trusted proxy told it in X-Forwarded-For.
    fn note_forwarded(&mut self, token: Token, forwarded_for: Option<&str>) {
        let Some(last) = forwarded_for.and_then(|list| list.rsplit(',').next()) else { return };
        let Ok(address) = last.trim().parse::<IpAddr>() else { return };
        let Some(fd) = self.clients.find(token).map(|entry| entry.fd) else { return };
        let proxy = self.writer.driver_ref().peer(fd).map(|peer| peer.ip());
        if proxy.is_some_and(|ip| self.turn.settings.trusts(ip)) {
            self.clients.note_forwarded(token, address);
        }
    }
}
