//! One core's share of the node: its connections, its rooms, and everything that happens to them.
//!
//! [`Shard`] is generic over its [`Driver`] and deterministic: events, relay messages, commands and the [`Clock`] come in, sends
//! and [`ToRelay`] items go out, and its random numbers come from a seed. The simulator runs it as it is; `worker` is the thread
//! around it that owns the runtime, the listener and the mailboxes.
//!
//! It consists of five parts with fields of their own. A part gets the parts to its right as arguments, and never the shard:
//!
//! ```text
//! admission ──▶ rooms ──▶ upstream ──▶ writer ──▶ clients
//! limits, the   members,  what goes    octets to  the table of connections,
//! handshake,    passes,   to the       a client,  what is to be read, the
//! the drain     gaps      relay        outboxes   sweep's looks
//! ```
//!
//! Every part also gets the `Turn`: settings, counters, time, random numbers, names of rooms. The files beside the parts carry
//! the work between them: `inbound` from a readable socket to a message, `requests` what a message asks for, `sweep`, `budget`,
//! `looks`, and `teardown`. No call frees a connection that its caller still holds: what finds a reason to end one marks it, and `settle`
//! carries the end out between two events.
//!
//! A turn of the loop, in this order: [`Shard::reap`], [`Shard::serve_ready`], [`Shard::handle_relay`] and
//! [`Shard::handle_command`], [`Shard::fan_out`], [`Shard::submit`]. Reading, the relay's items and the fan-out have a budget each.
//!
//! It leaves to others: what octets mean (`ws`, `dialect`), when a connection is due (`connection`), which member is next in a pass
//! (`room`), how octets reach a socket ([`driver`]), and where publications go (`relay`).

mod admission;
mod budget;
mod clients;
pub mod command;
pub mod driver;
mod identity;
mod inbound;
mod looks;
mod names;
mod requests;
mod review;
mod rooms;
mod settings;
mod sweep;
mod teardown;
#[cfg(test)]
mod test_driver;
#[cfg(test)]
mod tests;
mod turn;
mod upstream;
mod writer;

use std::sync::Arc;

use crate::counters::ShardCounters;
use crate::relay::{ToRelay, ToShard};
use admission::Admission;
pub use admission::{Arrival, PerAddress, RefusedPage};
use clients::Clients;
use driver::{Driver, Event, Fd};
use inbound::Reading;
use looks::Looks;
use review::Review;
use rooms::Rooms;
pub use settings::{AuthOptions, Budgets, Options, RoomRule, Route, Settings, Signal, SlowPolicy};
pub use turn::Clock;
use turn::Turn;
use upstream::Upstream;
use writer::Writer;

/// See the module.
pub struct Shard<D> {
    turn: Turn,
    admission: Admission,
    rooms: Rooms,
    upstream: Upstream,
    writer: Writer<D>,
    clients: Clients,
    reading: Reading,
    looks: Looks,
    review: Review,
    events: Vec<Event>,
    /// More connections are to be ended for a budget of the node's than a call of the fan-out may end.
    is_over_budget: bool,
    stopped: bool,
}

impl<D: Driver> Shard<D> {
    /// An empty shard for up to `settings.slots` connections.
    pub fn new(driver: D, settings: Arc<Settings>, counters: Arc<ShardCounters>, seed: u64) -> Self {
        Self {
            admission: Admission::new(&settings.options),
            rooms: Rooms::default(),
            upstream: Upstream::default(),
            writer: Writer::new(driver),
            clients: Clients::new(settings.slots),
            reading: Reading::default(),
            looks: Looks::default(),
            review: Review::default(),
            events: Vec::new(),
            is_over_budget: false,
            stopped: false,
            turn: Turn::new(settings, counters, seed),
        }
    }

    /// Sets the two times of the clock. The ticks stay: only the sweep advances them.
    pub fn set_time(&mut self, mono_ns: u64, unix_ns: u64) {
        self.turn.clock.mono_ns = mono_ns;
        self.turn.clock.unix_ns = unix_ns;
    }

    /// Whether messages were handled since the last [`Shard::note_handled`].
    pub fn has_handled(&self) -> bool {
        self.reading.handled > 0
    }

    /// Notes that everything read in this turn was handled `ns` after the turn began: for each of the messages the longest
    /// that it can have waited.
    pub fn note_handled(&mut self, ns: u64) {
        let handled = std::mem::take(&mut self.reading.handled);
        self.turn.counters.message_duration.record(ns, u64::from(handled));
    }

    /// Whether passes ended since the last [`Shard::note_delivered`].
    pub fn has_delivered(&self) -> bool {
        self.rooms.has_delivered()
    }

    /// Notes that everything sent so far is with the driver at `unix_ns`: how long each publication took to its last member.
    pub fn note_delivered(&mut self, unix_ns: u64) {
        self.rooms.note_delivered(&self.turn, unix_ns);
    }

    /// Takes in a socket that was just accepted; it is non-blocking. The shard owns its number from here on.
    pub fn handle_accepted(&mut self, fd: Fd, arrival: Arrival) {
        self.admission.accept(&mut self.turn, &mut self.writer, &mut self.clients, fd, arrival);
        self.settle();
    }

    /// Takes in a socket that was just accepted only to refuse it.
    pub fn turn_away(&mut self, fd: Fd) {
        self.admission.turn_away(&mut self.turn, &mut self.writer, fd);
    }

    /// Takes a page that may not connect, for the log; not all of a crowd are kept.
    pub fn poll_refused_page(&mut self) -> Option<RefusedPage> {
        self.admission.poll_refused_page()
    }

    /// Collects and handles the driver's events, ticks among them, and takes the looks of the admin port on.
    pub fn reap(&mut self) {
        self.rooms.begin_turn();
        let mut events = std::mem::take(&mut self.events);
        self.writer.driver().reap(&mut events);
        self.handle_events(&mut events);
        self.events = events;
        self.sweep();
        self.look_on();
        self.review_on();
        self.end_sessions();
        self.handle_later();
    }

    /// Does what the driver has queued, and handles what failed of it.
    pub fn submit(&mut self) {
        self.writer.submit(&mut self.turn, &mut self.clients);
        self.settle();
        self.handle_later();
        self.writer.count_queued(&self.turn);
    }

    fn handle_events(&mut self, events: &mut Vec<Event>) {
        // Their entries are cold: all are asked for before the first is handled.
        for event in &*events {
            if let Event::Ready(ready) = event {
                self.clients.prefetch(ready.handle.index);
            }
        }
        for event in events.drain(..) {
            match event {
                Event::Ready(ready) => self.handle_ready(ready),
                Event::Unsent { handle, chunk, result } => {
                    self.writer.handle_unsent(&mut self.turn, &mut self.clients, handle, &chunk, result);
                }
                Event::Released(handle) => self.clients.remove(&self.turn, handle),
                Event::Woken => {}
                Event::Ticked(count) => self.handle_ticks(count),
            }
            self.settle();
        }
    }

    /// Handles events that the driver returned while another was being handled.
    #[inline]
    fn handle_later(&mut self) {
        while let Some(mut events) = self.writer.take_later() {
            self.handle_events(&mut events);
        }
    }

    /// Handles one item of the relay's mailbox.
    pub fn handle_relay(&mut self, item: ToShard) {
        let Self { turn, rooms, upstream, writer, clients, .. } = self;
        match item {
            ToShard::Deliver(publication) => rooms.deliver(turn, publication),
            ToShard::Joined(room) => rooms.confirmed(turn, upstream, writer, clients, &room),
            ToShard::Refused(room, error) => rooms.refused(turn, upstream, writer, clients, &room, error),
            ToShard::Revoked(room) => rooms.revoked(turn, upstream, writer, clients, &room),
            ToShard::Gap(names, reason) => rooms.begin_gap(names, reason),
            ToShard::Acked(ack, level) => upstream.acknowledge(turn, writer, clients, ack, Ok(level)),
            ToShard::Failed(ack, error) => upstream.acknowledge(turn, writer, clients, ack, Err(error)),
            // For the admin thread only.
            ToShard::FromNodes(_) => {}
            ToShard::NotPublished(id, error) => upstream.not_published(turn, writer, clients, id, error),
        }
        self.settle();
    }

    /// Sends up to `budget` times: what waits in outboxes whose sockets take more, then answers to joins, each with half of what is
    /// left where rooms have something to send too, and to members of rooms. Then closes the connections that hold the most memory
    /// while the node is over a budget.
    pub fn fan_out(&mut self, budget: usize) {
        let mut left = budget;
        if self.clients.writing_len() > 0 {
            let share = if self.rooms.is_passing() { budget.div_ceil(2) } else { budget };
            left = left.saturating_sub(self.writer.write_on(&mut self.turn, &mut self.clients, share));
            self.settle();
        }
        if self.rooms.is_answering() {
            let share = if self.rooms.is_passing() { left.div_ceil(2) } else { left };
            let Self { turn, rooms, upstream, writer, clients, .. } = self;
            left = left.saturating_sub(rooms.answer_on(turn, upstream, writer, clients, share));
            self.settle();
        }
        while left > 0 {
            let sent = self.rooms.go_on(&mut self.turn, &mut self.writer, &mut self.clients, left);
            let Some(sent) = sent else { break };
            self.settle();
            left -= sent;
        }
        // A gap stands between what was published before the loss and what comes after it, which waits in the mailbox.
        if !self.rooms.is_passing() && !self.rooms.is_answering() {
            self.rooms.tell_gaps(&mut self.turn, &mut self.writer, &mut self.clients, left);
            self.settle();
        }
        self.hold_to_budgets();
    }

    /// Takes the oldest item for the relay.
    pub fn poll_relay(&mut self) -> Option<ToRelay> {
        self.upstream.poll()
    }

    /// Puts an item back that the mailbox had no room for.
    pub fn unpoll_relay(&mut self, item: ToRelay) {
        self.upstream.unpoll(item);
    }

    /// Whether there is work that no event will announce.
    pub fn has_work(&self) -> bool {
        self.clients.ready_len() > 0
            || self.is_fanning_out()
            || self.is_over_budget
            || self.clients.is_sweep_due()
            || self.clients.is_session_due(&self.turn)
            || !self.looks.is_empty()
            || self.review.is_under_way()
    }

    /// Whether something was left for the next turn that no event will announce: also what the relay or the driver has to get.
    pub fn wants_turn(&self) -> bool {
        self.has_work() || !self.upstream.is_empty() || !self.writer.driver_ref().is_settled()
    }

    /// Whether [`Shard::fan_out`] has more to send.
    pub fn is_fanning_out(&self) -> bool {
        self.rooms.is_passing()
            || self.rooms.is_answering()
            || self.rooms.is_telling_gaps()
            || self.clients.writing_len() > 0
    }

    /// Whether deliveries may be taken from the mailbox: not before a gap is told to all clients, and not more than the rooms
    /// may hold; what the mailbox has no room for meanwhile is one more gap.
    pub fn takes_deliveries(&self) -> bool {
        self.rooms.takes_deliveries(&self.turn)
    }

    /// Whether [`command::Command::Stop`] was given.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The driver, for the loop that waits on it.
    pub fn driver(&mut self) -> &mut D {
        self.writer.driver()
    }

    /// Connections in the slab, in whatever state.
    pub fn sockets(&self) -> usize {
        self.clients.len()
    }
}
