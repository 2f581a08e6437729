//! The part of a room's members: each delivery is timed from the moment at which it was meant to be published, and entered
//! into its connection's ledger.

use crate::bins::Bins;
use crate::fleet::Ear;
use crate::ledger::{Arrival, Ledger, Range, common};
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
    /// What ended connections had missed since the round began, with their rooms.
    missed: Vec<(u32, Range)>,
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
            missed: Vec::new(),
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

    /// How often a refused publication was counted as lost.
    fn missed_of(&self, refused: &[Range]) -> u64 {
        if refused.is_empty() {
            return 0;
        }
        let by_room: Vec<_> = (0..self.rooms).map(|room| in_room(refused, room, self.rooms)).collect();
        let live = (self.stalled..self.ledgers.len() as u32)
            .map(|client| common(self.ledgers[client as usize].missing(), &by_room[self.room(client) as usize]));
        let ended = self.missed.iter().map(|(room, hole)| common(&[*hole], &by_room[*room as usize]));
        live.chain(ended).sum()
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

/// Publications of the run, as numbers in one of its rooms: publication `k`, counted from 0, goes to room `k % rooms` and is
/// number `k / rooms + 1` there.
fn in_room(publications: &[Range], room: u32, rooms: u32) -> Vec<Range> {
    let (room, rooms) = (u64::from(room), u64::from(rooms));
    let numbers = |(first, last): &Range| {
        let from = first.saturating_sub(room).div_ceil(rooms) + 1;
        let to = last.checked_sub(room)? / rooms + 1;
        (from <= to).then_some((from, to))
    };
    publications.iter().filter_map(numbers).collect()
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
        let ledger = std::mem::take(&mut self.ledgers[client as usize]);
        let room = self.room(client);
        self.missed.extend(ledger.missing().iter().map(|hole| (room, *hole)));
    }
}

impl Part for Listen {
    fn begin(&mut self, published: u64) {
        self.counts = Counts::default();
        self.missed.clear();
        self.latency.clear();
        self.lasts.clear();
        self.first_sample = published.div_ceil(self.stride);
    }

    fn report(&mut self, published: u64, refused: &[Range]) -> Report {
        let rooms = u64::from(self.rooms);
        for client in self.stalled..self.ledgers.len() as u32 {
            let room = u64::from(self.room(client));
            let sent = published / rooms + u64::from(room < published % rooms);
            self.counts.lost += self.ledgers[client as usize].close(sent);
        }
        let mut counts = self.counts;
        counts.lost = counts.lost.saturating_sub(self.missed_of(refused));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_of_the_run_become_numbers_in_each_room() {
        for (publications, rooms) in [(vec![(0, 0)], 1), (vec![(1, 4), (9, 9)], 3), (vec![(2, 2), (5, 11)], 4)] {
            for room in 0..rooms {
                let one_by_one: Vec<u64> = publications
                    .iter()
                    .flat_map(|(first, last)| *first..=*last)
                    .filter(|k| k % u64::from(rooms) == u64::from(room))
                    .map(|k| k / u64::from(rooms) + 1)
                    .collect();
                let numbers: Vec<u64> =
                    in_room(&publications, room, rooms).iter().flat_map(|(first, last)| *first..=*last).collect();
                assert_eq!(numbers, one_by_one, "room {room} of {rooms}: {publications:?}");
            }
        }
    }
}
