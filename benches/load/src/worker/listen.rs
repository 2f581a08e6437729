//! The part of a room's members: each delivery is timed from the moment at which it was meant to be published, and entered
//! into its connection's ledger.

use crate::bins::Bins;
use crate::fleet::Ear;
use crate::ledger::{Arrival, Ledger};
use crate::lines::{Lines, occurrences};
use crate::protocol::{Counts, Plan, Report};
use crate::stamp::{Stamp, Stamper};
use crate::worker::Part;

/// Members of rooms.
pub(crate) struct Listen {
    stamper: Stamper,
    first: u32,
    rooms: u32,
    stride: u64,
    ledgers: Vec<Ledger>,
    stalled: u32,
    counts: Counts,
    latency: Bins,
    lasts: Vec<u64>,
    first_sample: u64,
    last_ns: u64,
}

impl Listen {
    pub(crate) fn new(plan: &Plan, stride: u64) -> Self {
        Self {
            stamper: Stamper::new(plan.run),
            first: plan.first,
            rooms: plan.rooms,
            stride,
            ledgers: vec![Ledger::from_the_start(); plan.clients as usize],
            stalled: 0,
            counts: Counts::default(),
            latency: Bins::new(),
            lasts: Vec::new(),
            first_sample: 0,
            last_ns: 0,
        }
    }

    fn room(&self, client: u32) -> u32 {
        (self.first + client) % self.rooms
    }

    fn delivered(&mut self, client: u32, stamp: Stamp, now_ns: u64) {
        let latency_ns = now_ns.saturating_sub(stamp.intended_ns);
        self.counts.delivered += 1;
        self.last_ns = now_ns;
        self.latency.record(latency_ns);
        if stamp.room != self.room(client) {
            self.counts.misdirected += 1;
            return;
        }
        match self.ledgers[client as usize].record(stamp.sequence) {
            Arrival::InOrder => {}
            Arrival::After(hole) => self.counts.lost += hole,
            Arrival::Reordered => {
                self.counts.reordered += 1;
                self.counts.lost = self.counts.lost.saturating_sub(1);
            }
            Arrival::Duplicate => self.counts.duplicate += 1,
        }
        self.sample(stamp, latency_ns);
    }

    /// Notes when the last member had a publication, for every so manieth of them.
    fn sample(&mut self, stamp: Stamp, latency_ns: u64) {
        let publication = (stamp.sequence - 1) * u64::from(self.rooms) + u64::from(stamp.room);
        if !publication.is_multiple_of(self.stride) {
            return;
        }
        let Some(index) = (publication / self.stride).checked_sub(self.first_sample) else { return };
        let index = index as usize;
        if index >= self.lasts.len() {
            self.lasts.resize(index + 1, 0);
        }
        self.lasts[index] = self.lasts[index].max(latency_ns);
    }
}

impl Ear for Listen {
    fn heard(&mut self, client: u32, message: &[u8], now_ns: u64, lines: &Lines, _say: &mut Vec<u8>) {
        if lines.matching.as_ref().is_some_and(|matching| matching.find(message).is_none()) {
            self.counts.gaps += occurrences(lines.gap.as_ref(), message);
            return;
        }
        let mut rest = message;
        while let Some((stamp, end)) = self.stamper.find(rest) {
            self.delivered(client, stamp, now_ns);
            if !lines.stream {
                break;
            }
            rest = &rest[end..];
        }
    }

    fn ended(&mut self, client: u32) {
        // What it misses until it is back is no loss: a server sends nothing to a closed connection.
        self.ledgers[client as usize] = Ledger::default();
    }
}

impl Part for Listen {
    fn begin(&mut self, published: u64) {
        self.counts = Counts::default();
        self.latency.clear();
        self.lasts.clear();
        self.first_sample = published.div_ceil(self.stride);
    }

    fn report(&mut self, published: u64) -> Report {
        let rooms = u64::from(self.rooms);
        let mut counts = self.counts;
        for client in self.stalled..self.ledgers.len() as u32 {
            let room = u64::from(self.room(client));
            let sent = published / rooms + u64::from(room < published % rooms);
            counts.lost += self.ledgers[client as usize].unheard(sent);
        }
        Report {
            counts,
            latency: self.latency.recorded(),
            lasts: std::mem::take(&mut self.lasts),
            first_sample: self.first_sample,
            last_ns: self.last_ns,
            ..Report::default()
        }
    }

    fn heard_so_far(&self) -> u64 {
        self.counts.delivered
    }

    fn stalled(&mut self, clients: u32) {
        self.stalled = clients;
    }
}
