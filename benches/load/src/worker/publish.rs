//! The part that publishes: as a WebSocket client, to the broker, or over HTTP. Publication `k` goes to room `k % rooms` over
//! connection `room % connections`, so that a room's publications have one order. At a rate, each carries the moment at
//! which it was due, not the one at which there was time for it.

use std::io;

use crate::bins::Bins;
use crate::fleet::{Ear, Fleet};
use crate::ledger::{Range, ranges};
use crate::lines::{Lines, beginning, occurrences};
use crate::protocol::{Counts, Pace, Plan, Report};
use crate::stamp::{Stamp, Stamper};
use crate::sys;
use crate::worker::Part;

/// How long acknowledgements are waited for after the last publication.
const GRACE_NS: u64 = 2_000_000_000;
/// Publications between two looks at the sockets.
const BURST: u64 = 256;

/// A publisher.
pub(crate) struct Publish {
    stamper: Stamper,
    rooms: u64,
    clients: u64,
    content: Vec<u8>,
    /// Publications since the run began: they go on over warm-up and measurement.
    published: u64,
    counts: Counts,
    /// Publications of this round that the server refused by their number, and what it said with the first refusal.
    refused: Vec<u64>,
    refusal: Option<String>,
    lateness: Bins,
    pace: Pace,
    begin_ns: u64,
    stop_ns: u64,
    due: u64,
    hears: bool,
}

impl Publish {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            stamper: Stamper::new(plan.run),
            rooms: u64::from(plan.rooms),
            clients: u64::from(plan.clients),
            content: vec![b'x'; plan.size],
            published: 0,
            counts: Counts::default(),
            refused: Vec::new(),
            refusal: None,
            lateness: Bins::new(),
            pace: Pace::Window(1),
            begin_ns: 0,
            stop_ns: 0,
            due: 0,
            hears: plan.scenario.acknowledged.is_none(),
        }
    }

    fn publish(&mut self, intended_ns: u64, fleet: &mut Fleet, out: &mut Vec<u8>) -> io::Result<()> {
        let room = (self.published % self.rooms) as u32;
        let sequence = self.published / self.rooms + 1;
        let client = (u64::from(room) % self.clients) as u32;
        self.stamper.write(Stamp { room, sequence, intended_ns }, &mut self.content);
        out.clear();
        fleet.lines().publish(client, room, &self.content, self.published, out);
        self.published += 1;
        self.counts.sent += 1;
        fleet.send(client, out)
    }

    fn act_at_rate(&mut self, rate: f64, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        let mut out = Vec::new();
        for _ in 0..BURST {
            let due_ns = self.begin_ns + (self.due as f64 * 1e9 / rate) as u64;
            if due_ns >= self.stop_ns {
                return Ok(u64::MAX);
            }
            if due_ns > now_ns {
                return Ok(due_ns.saturating_sub(sys::now_ns()));
            }
            self.lateness.record(now_ns - due_ns);
            self.publish(due_ns, fleet, &mut out)?;
            self.due += 1;
        }
        Ok(0)
    }

    fn act_in_window(&mut self, window: u64, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        let mut out = Vec::new();
        while now_ns < self.stop_ns && self.unacknowledged() < window {
            self.publish(sys::now_ns(), fleet, &mut out)?;
        }
        Ok(self.stop_ns.saturating_sub(now_ns).max(1_000_000))
    }

    fn unacknowledged(&self) -> u64 {
        self.counts.sent.saturating_sub(self.counts.acknowledged + self.counts.refused)
    }
}

impl Ear for Publish {
    fn heard(&mut self, _client: u32, message: &[u8], _now_ns: u64, lines: &Lines, _say: &mut Vec<u8>) {
        let acknowledged = occurrences(lines.acknowledged.as_ref(), message);
        // Of HTTP every answer looks like a refusal until its status is read.
        let refused = occurrences(lines.refused.as_ref(), message).saturating_sub(acknowledged);
        if refused > 0 {
            self.refused.extend(lines.refused_reference(message));
            self.refusal.get_or_insert_with(|| beginning(message));
        }
        self.counts.refused += refused;
        self.counts.acknowledged += acknowledged;
        if !self.hears {
            return;
        }
        let mut rest = message;
        while let Some((_, end)) = self.stamper.find(rest) {
            self.counts.acknowledged += 1;
            self.counts.delivered += 1;
            rest = &rest[end..];
        }
    }

    fn ended(&mut self, _client: u32) {}
}

impl Part for Publish {
    fn begin(&mut self, _published: u64) {
        self.counts = Counts::default();
        (self.refused, self.refusal) = (Vec::new(), None);
        self.lateness.clear();
    }

    fn start(&mut self, at_ns: u64, length_ns: u64, pace: Pace) {
        (self.begin_ns, self.stop_ns, self.due, self.pace) = (at_ns, at_ns + length_ns, 0, pace);
    }

    fn act(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        if now_ns < self.begin_ns {
            return Ok(self.begin_ns - now_ns);
        }
        if self.begin_ns == self.stop_ns {
            return Ok(u64::MAX);
        }
        match self.pace {
            Pace::Rate(rate) => self.act_at_rate(rate, fleet, now_ns),
            Pace::Window(window) => self.act_in_window(window, fleet, now_ns),
        }
    }

    fn finished(&mut self, now_ns: u64) -> Option<u64> {
        let over = match self.pace {
            Pace::Rate(rate) => self.begin_ns + (self.due as f64 * 1e9 / rate) as u64 >= self.stop_ns,
            Pace::Window(_) => now_ns >= self.stop_ns && self.unacknowledged() == 0,
        };
        (over || now_ns >= self.stop_ns + GRACE_NS).then_some(self.published)
    }

    fn report(&mut self, _published: u64, _refused: &[Range]) -> Report {
        Report {
            counts: self.counts,
            lateness: self.lateness.recorded(),
            first_ns: self.begin_ns,
            refused: ranges(self.refused.clone()),
            refusal: self.refusal.clone(),
            ..Report::default()
        }
    }

    fn refused_so_far(&self) -> u64 {
        self.refused.len() as u64
    }

    fn heard_so_far(&self) -> u64 {
        0
    }
}
