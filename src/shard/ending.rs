//! How connections end: told, finished, released. Every way out leads through here, so that accounts close (G8).

use super::Shard;
use crate::close::{CloseReason, Fault, Refusal};
use crate::conn::{Flags, State, Token};
use crate::dialect::Notice;
use crate::limits;
use crate::proto::{frame, handshake};
use crate::shard::driver::Driver;

impl<D: Driver> Shard<D> {
    /// Ends an open connection from our side: tells it (RFC 6455 §5.5.1) and awaits the peer's close frame, or, after an
    /// offence of the peer's (§7.1.7), just its EOF. What was already queued goes first, unless the reader is too slow for
    /// it.
    pub(super) fn close(&mut self, token: Token, reason: CloseReason) {
        let Some(entry) = self.connections.find(token) else { return };
        if entry.state != State::Open {
            return;
        }
        entry.state = State::Closing;
        entry.reason = Some(reason);
        entry.deadline = self.clock.tick + self.settings.close_deadline;
        let message_is_why = matches!(
            reason,
            CloseReason::TooBig | CloseReason::MessageTimeout | CloseReason::MessageBudget | CloseReason::Flood
        );
        // Otherwise the rest of it is still to come, and only who keeps its place finds the close frame behind it.
        if message_is_why || reason.fault() == Fault::Peer {
            self.take_partial(token);
        }
        self.leave_all(token);
        if matches!(reason, CloseReason::SlowReader | CloseReason::WriteStall | CloseReason::OutboxBudget) {
            self.shrink_outbox(token, true);
        }
        let code = match reason {
            CloseReason::Drain | CloseReason::MaxAge => self.settings.options.drain_close_code,
            other => other.code(),
        };
        if code != 0 {
            frame::write_close(&mut self.reply, code, reason.text());
            self.flush_last_words(token);
        }
        if reason.fault() == Fault::Peer {
            self.finish_after_outbox(token);
        }
    }

    /// Tells a client that the node wants it elsewhere, then closes it.
    pub(super) fn send_away(&mut self, token: Token, reason: CloseReason) {
        let Some(entry) = self.connections.find(token).filter(|entry| entry.state == State::Open) else { return };
        let dialect = entry.form.dialect;
        let window_ms = limits::RECONNECT_AFTER.as_millis() as u32;
        let reconnect_ms = u64::from(self.random.below(window_ms));
        self.reply(dialect, &Notice::Shutdown { reconnect_ms });
        // One send carries both: the notice waits in `reply` for the close frame.
        self.close(token, reason);
    }

    /// The peer's close frame came.
    pub(super) fn handle_close(&mut self, token: Token, code: Option<u16>) {
        let Some(entry) = self.connections.find(token) else { return };
        match entry.state {
            State::Open => {
                entry.state = State::Closing;
                entry.reason = Some(CloseReason::ClosedByPeer);
                entry.deadline = self.clock.tick + self.settings.close_deadline;
                self.take_partial(token);
                self.leave_all(token);
                match code {
                    Some(code) => frame::write_close(&mut self.reply, code, ""),
                    None => frame::write_frame(&mut self.reply, frame::CLOSE, &[]),
                }
                self.flush_last_words(token);
                self.finish_after_outbox(token);
            }
            State::Closing => self.finish_after_outbox(token),
            State::Handshaking | State::Lingering | State::Released => {}
        }
    }

    /// Answers a request without upgrading it, then ends.
    pub(super) fn refuse(&mut self, token: Token, refusal: Refusal) {
        if self.connections.find(token).is_none_or(|entry| entry.state != State::Handshaking) {
            return;
        }
        if refusal.fault() == Fault::Peer {
            self.mistakes += 1;
        }
        let retry_after_s = (refusal.status() == 503).then(|| self.retry_after_s());
        let mut answer = Vec::with_capacity(512);
        handshake::refuse(&mut answer, refusal, retry_after_s);
        self.counters.refused[refusal as usize].add(1);
        self.answer_and_finish(token, &answer);
    }

    /// Sends the last octets of a connection that was never upgraded.
    pub(super) fn answer_and_finish(&mut self, token: Token, answer: &[u8]) {
        if !self.leave_handshake(token) {
            return;
        }
        let deadline = self.clock.tick + self.settings.close_deadline;
        let Some(entry) = self.connections.find(token) else { return };
        entry.state = State::Closing;
        entry.deadline = deadline;
        self.transmit(token, answer);
        self.finish_after_outbox(token);
    }

    /// Our FIN follows what is queued; then what the peer still says is discarded until its EOF.
    fn finish_after_outbox(&mut self, token: Token) {
        // The last words went by way of `transmit`, which had the driver's batch done first: the outbox says what is left.
        let Some(entry) = self.connections.find(token) else { return };
        if entry.outbox.is_some() {
            entry.flags.set(Flags::FIN_AFTER_OUTBOX);
        } else {
            self.finish(token);
        }
    }

    pub(super) fn finish(&mut self, token: Token) {
        let Some(entry) = self.connections.find(token) else { return };
        if matches!(entry.state, State::Lingering | State::Released) {
            return;
        }
        entry.state = State::Lingering;
        let fd = entry.fd;
        self.driver.finish(fd);
    }

    /// The socket is of no more use: accounts for it and gives it back. `reason` counts only where none was noted before.
    pub(super) fn ended(&mut self, token: Token, reason: CloseReason) {
        let Some(entry) = self.connections.find(token) else { return };
        let (fd, before) = (entry.fd, entry.state);
        if before == State::Released {
            return;
        }
        let noted = *entry.reason.get_or_insert(reason);
        let abandoned = entry.outbox.is_some() || reason == CloseReason::PongTimeout;
        if before == State::Handshaking {
            let refusal = if reason == CloseReason::Eof { Refusal::Eof } else { Refusal::Reset };
            self.leave_handshake(token);
            self.counters.refused[refusal as usize].add(1);
        } else if self.was_upgraded(token) {
            self.counters.connections.sub(1);
            self.counters.closed[noted as usize].add(1);
        }
        self.leave_all(token);
        self.shrink_outbox(token, false);
        self.take_partial(token);
        let Some(entry) = self.connections.find(token) else { return };
        entry.state = State::Released;
        entry.deadline = 0;
        if abandoned {
            self.driver.reset(fd);
        }
        self.forwarded.remove(&token.index);
        let mut events = std::mem::take(&mut self.released);
        self.driver.release(fd, token, &mut events);
        for event in events.drain(..) {
            if let crate::shard::driver::Event::Released(token) = event {
                self.free(token);
            }
        }
        self.released = events;
    }

    /// The driver will say nothing more of this connection.
    pub(super) fn free(&mut self, token: Token) {
        self.connections.remove(token);
        self.counters.sockets.set(self.connections.len() as u64);
    }

    /// Whether the connection got its 101: a refused one never has a dialect's rooms, messages or close reason.
    fn was_upgraded(&mut self, token: Token) -> bool {
        self.connections.find(token).is_some_and(|entry| entry.flags.has(Flags::UPGRADED))
    }

    /// Takes a connection out of the handshake's accounts; false where it was not in them.
    pub(super) fn leave_handshake(&mut self, token: Token) -> bool {
        let handshaking = self.connections.find(token).is_some_and(|entry| entry.state == State::Handshaking);
        if handshaking {
            self.handshakes -= 1;
            self.take_head(token);
        }
        handshaking
    }
}
