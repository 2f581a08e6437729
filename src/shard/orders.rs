//! What control orders: drain, stop, and looks at rooms and connections.

use super::{Drain, Shard};
use crate::close::{CloseReason, Refusal};
use crate::conn::{Entry, State, Token, ticks};
use crate::control::{ConnectionInfo, Order, RoomInfo};
use crate::id::ConnectionId;
use crate::wire::Wire;

impl<W: Wire> Shard<W> {
    /// Carries out an order.
    pub fn handle_order(&mut self, order: Order) {
        match order {
            Order::Refuse => self.refusing = true,
            Order::Drain { window_ms } => {
                self.refusing = true;
                let window = ticks(std::time::Duration::from_millis(u64::from(window_ms)));
                self.drain = Some(Drain { start: self.clock.tick, window });
            }
            Order::Stop => self.stopped = true,
            Order::Ping { answer } => answer.send(()),
            Order::Rooms { limit, answer } => answer.send(self.busiest_rooms(limit)),
            Order::Connections { by_outbox, limit, answer } => answer.send(self.list_connections(by_outbox, limit)),
            Order::Close { id, answer } => {
                let closed = self.close_by_id(id);
                answer.send(closed);
            }
        }
    }

    /// Closes whatever is left, telling it: the thread ends.
    pub fn close_all(&mut self) {
        for index in 0..self.connections.end() {
            let Some(token) = self.connections.token_at(index) else { continue };
            self.refuse(token, Refusal::Draining);
            self.send_away(token, CloseReason::Drain);
            self.ended(token, CloseReason::Drain);
        }
    }

    fn busiest_rooms(&self, limit: usize) -> Vec<RoomInfo> {
        let mut rooms: Vec<RoomInfo> = self
            .subscriptions
            .iter()
            .map(|(_, subscription)| RoomInfo {
                room: subscription.room.name().to_string(),
                members: subscription.room.len(),
                publications: subscription.room.publications(),
            })
            .collect();
        rooms.sort_by(|a, b| b.publications.cmp(&a.publications).then(b.members.cmp(&a.members)));
        rooms.truncate(limit);
        rooms
    }

    fn list_connections(&self, by_outbox: bool, limit: usize) -> Vec<ConnectionInfo> {
        let mut listed: Vec<(u32, &Entry)> =
            self.connections.iter().filter(|(_, entry)| entry.state != State::Released).collect();
        if by_outbox {
            listed.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.outbox_bytes()));
        }
        listed.truncate(limit);
        listed.into_iter().map(|(index, entry)| self.describe(index, entry)).collect()
    }

    fn describe(&self, index: u32, entry: &Entry) -> ConnectionInfo {
        let token = Token { index, generation: entry.generation };
        let told = self.forwarded.get(&index).map(ToString::to_string);
        let peer = told.or_else(|| self.wire.peer(entry.fd).map(|peer| peer.to_string()));
        ConnectionInfo {
            id: self.id(token).to_string(),
            state: match entry.state {
                State::Handshaking => "handshake",
                State::Open => "open",
                State::Closing | State::Lingering | State::Released => "closing",
            },
            dialect: entry.dialect.label(),
            rooms: entry.rooms.len(),
            outbox_bytes: entry.outbox_bytes(),
            peer: peer.unwrap_or_default(),
        }
    }

    fn close_by_id(&mut self, id: ConnectionId) -> bool {
        let token = Token { index: id.index, generation: id.generation };
        if self.id(token) != id || !self.is_open(token) {
            return false;
        }
        self.close(token, CloseReason::Operator);
        true
    }
}
