//! How connections end: told, finished, released. Every connection with an entry ends here, so that its accounts balance;
//! `admission` alone refuses sockets that never get one.
//!
//! An end is an effect. What finds its reason marks the connection and appends an [`Ending`]; [`Shard::settle`] carries it out
//! between two events.

use super::Shard;
use crate::close::{CloseReason, Fault, Refusal};
use crate::connection::{Flags, Handle, State};
use crate::dialect::Notice;
use crate::limits;
use crate::shard::driver::Driver;

/// An end that is decided. The connection stays in the slab, marked [`State::Ending`], until [`Shard::settle`] carries it out:
/// what finds a reason to end a connection holds none that is freed under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// The node closes an open connection.
    Close(Handle, CloseReason),
    /// The peer sent a close frame with this code.
    ClosedByPeer(Handle, Option<u16>),
    /// A request is answered without an upgrade.
    Refuse(Handle, Refusal),
    /// The socket is of no more use; the state that the connection was in.
    Gone(Handle, CloseReason, State),
}

impl<D: Driver> Shard<D> {
    /// Carries out the endings that were decided since the last call, in order. Called between events, never within one: the
    /// only place where a connection ends.
    #[inline]
    pub(super) fn settle(&mut self) {
        if !self.turn.endings.is_empty() {
            self.carry_out_endings();
        }
    }

    #[cold]
    #[inline(never)]
    fn carry_out_endings(&mut self) {
        while let Some(ending) = self.turn.endings.pop_front() {
            match ending {
                Ending::Close(handle, reason) => self.begin_close(handle, reason),
                Ending::ClosedByPeer(handle, code) => self.answer_close(handle, code),
                Ending::Refuse(handle, refusal) => {
                    let Self { turn, admission, writer, clients, .. } = self;
                    admission.answer_refusal(turn, writer, clients, handle, refusal);
                }
                Ending::Gone(handle, reason, before) => self.release(handle, reason, before),
            }
        }
    }

    /// Tells the peer (RFC 6455 §5.5.1) and awaits its close frame, or, after an offence of the peer's (§7.1.7), just its EOF.
    /// What was already queued goes first, unless the reader is too slow for it.
    fn begin_close(&mut self, handle: Handle, reason: CloseReason) {
        let Some(dialect) = self.clients.begin_closing(&self.turn, handle) else { return };
        let message_is_why = matches!(
            reason,
            CloseReason::TooBig | CloseReason::MessageTimeout | CloseReason::MessageBudget | CloseReason::Flood
        );
        // Otherwise the rest of the message is still to come, and the peer's close frame is found only behind it.
        if message_is_why || reason.fault() == Fault::Peer {
            self.clients.take_partial(&self.turn, handle);
        }
        self.rooms.leave_all(&mut self.turn, &mut self.upstream, &mut self.clients, handle);
        if matches!(reason, CloseReason::SlowReader | CloseReason::WriteStall | CloseReason::OutboxBudget) {
            self.writer.shrink_outbox(&self.turn, &mut self.clients, handle, true);
        }
        let mut code = reason.code();
        if matches!(reason, CloseReason::Drain | CloseReason::MaxAge) {
            code = self.turn.settings.options.drain_close_code;
            let reconnect_ms = u64::from(self.turn.random.below(limits::RECONNECT_AFTER.as_millis() as u32));
            self.writer.reply(&self.turn, dialect, &Notice::Shutdown { reconnect_ms });
        }
        if code != 0 {
            let text = self.clients.take_last_words(handle);
            self.writer.reply_close(Some(code), text.as_deref().unwrap_or(reason.text()));
            self.writer.flush_last_words(&mut self.turn, &mut self.clients, handle);
        }
        if reason.fault() == Fault::Peer {
            self.writer.finish_after_outbox(&mut self.clients, handle);
        }
    }

    /// Echoes the peer's close frame where ours was not sent before (RFC 6455 §5.5.1), then finishes.
    fn answer_close(&mut self, handle: Handle, code: Option<u16>) {
        if self.clients.begin_closing(&self.turn, handle).is_some() {
            self.clients.take_partial(&self.turn, handle);
            self.rooms.leave_all(&mut self.turn, &mut self.upstream, &mut self.clients, handle);
            self.writer.reply_close(code, "");
            self.writer.flush_last_words(&mut self.turn, &mut self.clients, handle);
        }
        if self.clients.find(handle).is_some_and(|entry| entry.state == State::Closing) {
            self.writer.finish_after_outbox(&mut self.clients, handle);
        }
    }

    /// Accounts for a connection and gives its socket back. `before` is its state when that was decided.
    fn release(&mut self, handle: Handle, reason: CloseReason, before: State) {
        let Some(entry) = self.clients.alive(handle) else { return };
        let noted = *entry.reason.get_or_insert(reason);
        let abandoned = entry.outbox.is_some() || reason == CloseReason::PongTimeout;
        let upgraded = entry.flags.has(Flags::UPGRADED);
        if before == State::Handshaking {
            let refusal = if reason == CloseReason::Eof { Refusal::Eof } else { Refusal::Reset };
            self.admission.leave_handshake(handle);
            self.turn.counters.refused[refusal as usize].add(1);
        } else if upgraded {
            self.turn.counters.connections.sub(1);
            self.turn.counters.closed[noted as usize].add(1);
            self.admission.leave_address(&self.turn, handle);
        }
        self.rooms.leave_all(&mut self.turn, &mut self.upstream, &mut self.clients, handle);
        self.writer.shrink_outbox(&self.turn, &mut self.clients, handle, false);
        self.clients.take_partial(&self.turn, handle);
        let Some(entry) = self.clients.find(handle) else { return };
        entry.state = State::Released;
        entry.deadline = 0;
        self.clients.forget(handle);
        if self.writer.release(&mut self.clients, handle, abandoned) {
            self.clients.remove(&self.turn, handle);
        }
    }
}
