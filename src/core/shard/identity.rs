//! The session of a connection: at the upgrade, by a token that comes as a message, and until that token ends.

use super::Shard;
use super::admission::{Entrance, verified, verified_for_room};
use super::clients::{Session, Stage};
use crate::auth::{Action, Reason, Unauthorized, Verified, Who};
use crate::close::CloseReason;
use crate::connection::{Handle, Tick, ticks};
use crate::dialect::{DialectId, ErrorCode, Identity, LeftReason, Notice};
use crate::limits::ROOM_TOKENS_PER_CONNECTION;
use crate::shard::driver::Driver;

/// Sessions whose end is told or carried out in one turn of the loop: tokens of a crowd end together.
const SESSIONS_PER_TURN: usize = 64;

impl<D: Driver> Shard<D> {
    /// Gives a connection that was just upgraded its session; false where it may not come in and was told so.
    pub(super) fn enter(&mut self, handle: Handle, dialect: DialectId, entrance: Entrance) -> bool {
        let now = self.turn.clock.tick;
        match entrance {
            Entrance::Guest => {}
            Entrance::Awaited => {
                let deadline = self.turn.settings.options.auth.as_ref().map_or(0, |auth| ticks(auth.deadline));
                self.clients.begin_session(handle, Session::awaited(now + deadline));
            }
            Entrance::Verified(verified) => self.begin_session(handle, verified),
            Entrance::Refused(refused) => {
                self.refuse_token(handle, dialect, &refused, None);
                self.close_over_token(handle, &refused);
                return false;
            }
        }
        true
    }

    fn begin_session(&mut self, handle: Handle, verified: Verified) {
        let share = self.turn.random.below(u32::MAX);
        self.clients.begin_session(handle, Session::held(verified, self.turn.clock.tick, share));
    }

    /// Verifies a token that a client sends. One that is refused ends nothing where the connection's own still holds.
    #[cold]
    #[inline(never)]
    pub(super) fn authenticate(&mut self, handle: Handle, dialect: DialectId, token: &str, reference: Option<&str>) {
        let settings = self.turn.settings.clone();
        let Some(auth) = &settings.options.auth else {
            let (code, message) = (ErrorCode::BadMessage, "this node asks for no token; leave `auth` out");
            let refused = Notice::Refused { code, message, room: None, reference };
            self.writer.reply(&self.turn, dialect, &refused);
            return;
        };
        let verified = match verified(&self.turn, auth, token.as_bytes()) {
            Ok(verified) => verified,
            Err(refused) => {
                self.refuse_token(handle, dialect, &refused, reference);
                if self.clients.session(handle).is_some_and(|session| session.stage == Stage::Awaited) {
                    self.close_over_token(handle, &refused);
                }
                return;
            }
        };
        let user = self.clients.session(handle).and_then(|session| session.user.as_deref());
        if user.is_some() && user != verified.user.as_deref() {
            let (code, message) = (ErrorCode::Forbidden, "the token is another user's; connect anew with it");
            let refused = Notice::Refused { code, message, room: None, reference };
            self.writer.reply(&self.turn, dialect, &refused);
            return;
        }
        self.begin_session(handle, verified);
        let Self { turn, writer, clients, .. } = self;
        let identity = identity(clients.session(handle), turn.clock.tick);
        writer.reply(turn, dialect, &Notice::Authenticated { identity, reference });
        self.leave_forbidden_rooms(handle, dialect);
    }

    /// Adds what a room's own token opens; false where it is refused, and the client was told so. A node without keys asks for no
    /// token, and reads none.
    #[cold]
    #[inline(never)]
    pub(super) fn take_room_token(
        &mut self,
        handle: Handle,
        dialect: DialectId,
        room: &str,
        token: &str,
        reference: Option<&str>,
    ) -> bool {
        let settings = self.turn.settings.clone();
        let Some(auth) = &settings.options.auth else { return true };
        let Self { turn, writer, clients, .. } = self;
        let user = clients.session(handle).and_then(|session| session.user.as_deref());
        match verified_for_room(turn, auth, token.as_bytes(), user) {
            Ok(verified) if clients.add_rights(turn, handle, &verified) => return true,
            Ok(_) => {
                let message = format!(
                    "you have sent {ROOM_TOKENS_PER_CONNECTION} rooms' tokens that still hold; put more rooms into one token"
                );
                let (code, room) = (ErrorCode::RoomLimit, Some(room));
                writer.reply(turn, dialect, &Notice::Refused { code, message: &message, room, reference });
            }
            Err(Unauthorized { reason, message }) => {
                let refused = Notice::Unauthorized { reason, message: &message, room: Some(room), reference };
                writer.reply(turn, dialect, &refused);
            }
        }
        false
    }

    /// Ends the memberships that the connection's token, or the rules of its rooms, no longer allow; whether there were any.
    pub(super) fn leave_forbidden_rooms(&mut self, handle: Handle, dialect: DialectId) -> bool {
        let Some(entry) = self.clients.find(handle) else { return false };
        let mut is_told = false;
        let rooms: Vec<u32> = entry.rooms.as_slice().iter().map(|membership| membership.room).collect();
        for room in rooms {
            let Some(name) = self.turn.names.name(room).cloned() else { continue };
            let who = self.rooms.policy(room).join;
            if who == Who::Any || self.clients.permits(&self.turn, handle, who, true, Action::Join, &name).is_ok() {
                continue;
            }
            self.leave(handle, &name);
            let left = Notice::Left { room: &name, reason: Some(LeftReason::Permission), reference: None };
            if !self.writer.reply(&self.turn, dialect, &left) {
                self.writer.close(&mut self.turn, &mut self.clients, handle, CloseReason::Forbidden);
                return true;
            }
            is_told = true;
            self.cork(handle);
        }
        is_told
    }

    /// Tells clients whose tokens end, and closes those whose tokens have ended. Where a room's own token has ended, its members leave.
    pub(super) fn end_sessions(&mut self) {
        for _ in 0..SESSIONS_PER_TURN {
            let Some(handle) = self.clients.next_room_token_due(&self.turn) else { break };
            let Some(dialect) = self.clients.open(handle).map(|entry| entry.form.dialect) else { continue };
            self.leave_forbidden_rooms(handle, dialect);
            self.writer.flush(&mut self.turn, &mut self.clients, handle);
            self.settle();
        }
        for _ in 0..SESSIONS_PER_TURN {
            let Some((handle, stage)) = self.clients.next_session_due(&self.turn) else { return };
            let Some(dialect) = self.clients.open(handle).map(|entry| entry.form.dialect) else { continue };
            match stage {
                Stage::Held => {
                    let now = self.turn.clock.tick;
                    let expires_ms = self.clients.session(handle).map_or(0, |session| session.left_ms(now));
                    self.writer.reply(&self.turn, dialect, &Notice::TokenExpiring { expires_ms });
                    self.writer.flush(&mut self.turn, &mut self.clients, handle);
                }
                Stage::Awaited => {
                    self.turn.counters.tokens[1 + Reason::Missing as usize].add(1);
                    let message = "no token came in time (auth.deadline); connect anew and send it at once";
                    self.end_session(handle, dialect, Reason::Missing, message);
                }
                Stage::Told => {
                    let message = if self.is_withdrawn(handle) {
                        "the key that signed the token is no longer valid; get another token and connect with it"
                    } else {
                        "the token has ended; get another one and connect with it"
                    };
                    self.end_session(handle, dialect, Reason::Expired, message);
                }
            }
            self.settle();
        }
    }

    /// Whether a connection's session ends because its key is gone.
    fn is_withdrawn(&self, handle: Handle) -> bool {
        let (auth, session) = (&self.turn.settings.options.auth, self.clients.session(handle));
        let Some((auth, session)) = auth.as_ref().zip(session) else { return false };
        !auth.verifier.keys().any(|key| key.number() == session.key)
    }

    pub(super) fn end_session(&mut self, handle: Handle, dialect: DialectId, reason: Reason, message: &str) {
        let refused = Unauthorized { reason, message: message.to_owned() };
        self.refuse_token(handle, dialect, &refused, None);
        self.close_over_token(handle, &refused);
    }

    fn refuse_token(&mut self, handle: Handle, dialect: DialectId, refused: &Unauthorized, reference: Option<&str>) {
        let Unauthorized { reason, message } = refused;
        self.writer.reply(
            &self.turn,
            dialect,
            &Notice::Unauthorized { reason: *reason, message, room: None, reference },
        );
        self.writer.flush(&mut self.turn, &mut self.clients, handle);
    }

    /// Closes a connection over its token, with the words of the refusal.
    fn close_over_token(&mut self, handle: Handle, refused: &Unauthorized) {
        let reason = if refused.reason.is_temporary() {
            CloseReason::KeysUnavailable
        } else if refused.reason == Reason::Missing {
            CloseReason::TokenMissing
        } else if refused.reason == Reason::Expired {
            CloseReason::TokenExpired
        } else {
            CloseReason::TokenInvalid
        };
        self.clients.say_at_the_end(handle, &refused.message);
        self.writer.close(&mut self.turn, &mut self.clients, handle, reason);
    }
}

/// The identity of a connection, as its client is told.
pub(super) fn identity(session: Option<&Session>, now: Tick) -> Identity<'_> {
    match session {
        None => Identity::Guest,
        Some(session) if session.stage == Stage::Awaited => Identity::Awaited,
        Some(session) => Identity::Token { user: session.user.as_deref(), expires_ms: session.left_ms(now) },
    }
}
