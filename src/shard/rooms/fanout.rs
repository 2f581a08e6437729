//! The fan-out: passes over rooms' members, a few sends at a time, rooms taking turns.

use crate::conn::{Chunk, Tag, Token};
use crate::counters::MessageType;
use crate::model::ConnectionId;
use crate::model::Publication;
use crate::room::{Encoded, Step};
use crate::shard::Shard;
use crate::shard::driver::Driver;
use crate::shard::settings::SlowPolicy;

/// Sends in a row for one room before the next room's turn.
const TURN: usize = 32;
/// How many members ahead an entry is fetched into the cache.
const AHEAD: usize = 4;

impl<D: Driver> Shard<D> {
    /// Sends to up to `budget` members, and ends whoever holds too much of what the turn has left waiting.
    pub fn fan_out(&mut self, budget: usize) {
        let mut left = budget;
        while left > 0 {
            let Some(room) = self.fanout.pop_front() else { break };
            let turn = TURN.min(left);
            let sent = self.go_on(room, turn);
            self.settle();
            left -= sent.clamp(1, turn);
        }
        // A gap stands between what was published before the loss and what comes after it, which waits in the mailbox.
        if self.fanout.is_empty() {
            self.tell_gaps(left);
            self.settle();
        }
        self.hold_to_budgets();
    }

    /// Takes a room's pass up to `turn` members on; schedules the room again if there is more. Returns the sends.
    fn go_on(&mut self, room: u32, turn: usize) -> usize {
        for sent in 0..turn {
            let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return sent };
            match subscription.room.step() {
                Step::Member(member) => {
                    if let Some(ahead) = subscription.room.ahead(AHEAD) {
                        self.clients.prefetch(ahead);
                    }
                    self.send_batch(room, member);
                }
                Step::Over => {
                    self.note_passed(room);
                    if self.close_holes(room) {
                        self.fanout.push_back(room);
                    }
                    return sent;
                }
                Step::Idle => return sent,
            }
        }
        self.fanout.push_back(room);
        turn
    }

    /// Sends the pass's batch to one member.
    fn send_batch(&mut self, room: u32, member: u32) {
        let Some(entry) = self.clients.at(member) else { return };
        let token = Token { index: member, generation: entry.generation };
        let form = entry.form;
        let id = self.turn.id(token);
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        let tag = Tag::Room { room, may_drop: subscription.policy.slow == SlowPolicy::DropOldest };
        let Some(batch) = subscription.room.batch() else { return };
        let writer = &mut self.writer;
        let encoded = batch.encoded(form, |publications| writer.encode(form, publications)).clone();
        if encoded.messages == 0 {
            return;
        }
        if batch.is_echoless() && batch.publications().iter().any(|publication| is_own(publication, id)) {
            return self.send_without_own(room, token, tag, &encoded);
        }
        self.turn.counters.messages_out[MessageType::Message as usize].add(u64::from(encoded.messages));
        let chunk = Chunk::whole(encoded.buffer, tag, encoded.messages);
        self.writer.deliver(&mut self.turn, &mut self.clients, token, &chunk);
    }

    /// Sends what is left of a batch when the member's own publications without echo are taken out.
    #[cold]
    fn send_without_own(&mut self, room: u32, token: Token, tag: Tag, encoded: &Encoded) {
        let id = self.turn.id(token);
        let Some(batch) = self.subscriptions.get_mut(room as usize).and_then(|s| s.room.batch()) else { return };
        let wanted: Vec<bool> = batch.publications().iter().map(|publication| !is_own(publication, id)).collect();
        for (range, messages) in encoded.ranges(|i| wanted[i]) {
            self.turn.count_out(MessageType::Message, u64::from(messages));
            let whole = Chunk::whole(encoded.buffer.clone(), tag, messages);
            let chunk = Chunk { start: range.start, end: range.end, ..whole };
            self.writer.deliver(&mut self.turn, &mut self.clients, token, &chunk);
        }
    }

    /// Remembers when the batch of a pass that is over was published.
    fn note_passed(&mut self, room: u32) {
        let Some(subscription) = self.subscriptions.get_mut(room as usize) else { return };
        let Some(batch) = subscription.room.batch() else { return };
        self.delivered.extend(batch.publications().iter().map(|publication| publication.time_unix_ns));
    }
}

/// Whether a publication must not go back to this connection.
fn is_own(publication: &Publication, id: ConnectionId) -> bool {
    !publication.echo && publication.from == Some(id)
}
