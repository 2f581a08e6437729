//! The notice of a gap: a detected loss, told to one client.

use super::{Writer, encode};
use crate::close::CloseReason;
use crate::connection::Handle;
use crate::counters::MessageType;
use crate::dialect::Notice;
use crate::limits::RESYNC_AFTER;
use crate::model::GapReason;
use crate::shard::clients::Clients;
use crate::shard::driver::Driver;
use crate::shard::turn::Turn;
use crate::ws::frame;

impl<D: Driver> Writer<D> {
    /// Tells an open connection a gap: of one room, or of all of its rooms. Where its dialect has no words for a gap, it is closed
    /// if that is configured.
    pub(in crate::shard) fn send_gap(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        room: Option<&str>,
        reason: GapReason,
    ) {
        // The notice before may have ended it.
        if !clients.is_open(handle) {
            return;
        }
        if let Some(frame) = self.gap_frame(turn, clients, handle, room, reason) {
            turn.counters.gaps[reason as usize].add(1);
            turn.count_out(MessageType::Gap, 1);
            self.send(turn, clients, handle, &frame, 0);
        } else if turn.settings.options.close_on_gap {
            self.close(turn, clients, handle, CloseReason::Gap);
        }
    }

    /// The notice for one client, with a moment of its own to resynchronise at; `None` where its dialect has no words.
    pub(super) fn gap_frame(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        room: Option<&str>,
        reason: GapReason,
    ) -> Option<Vec<u8>> {
        let dialect = clients.dialect(handle)?;
        let resync_ms = u64::from(turn.random.below(RESYNC_AFTER.as_millis() as u32));
        let (said, payload) = self.encoding.notice(dialect, &Notice::Gap { room, reason, resync_ms });
        let mut gap = Vec::with_capacity(payload.len() + 4);
        frame::write_frame(&mut gap, encode::opcode(said)?, payload);
        Some(gap)
    }
}
