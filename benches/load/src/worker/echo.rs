//! The part that talks to itself: each connection sends numbered messages and times their coming back. Either a fixed number
//! of them is always under way on each connection, or all connections together send at a rate, whatever comes back.

use std::io;

use crate::bins::Bins;
use crate::fleet::{Ear, Fleet};
use crate::ledger::{Arrival, Ledger, Range, common, ranges};
use crate::lines::{Lines, beginning, occurrences};
use crate::protocol::{Counts, Pace, Plan, Report};
use crate::stamp::{Stamp, Stamper};
use crate::worker::Part;

/// How long answers are waited for after the last message.
const GRACE_NS: u64 = 2_000_000_000;

struct Line {
    sent: u64,
    ledger: Ledger,
    /// Numbers that the server refused since the round began.
    refused: Vec<u64>,
}

impl Line {
    fn new() -> Self {
        Self { sent: 0, ledger: Ledger::from_the_start(), refused: Vec::new() }
    }
}

/// Connections that send to themselves.
pub(crate) struct Echo {
    stamper: Stamper,
    first: u32,
    pipeline: u32,
    interval_ns: Option<f64>,
    content: Vec<u8>,
    lines: Vec<Line>,
    counts: Counts,
    refusal: Option<String>,
    outstanding: u64,
    latency: Bins,
    lateness: Bins,
    begin_ns: u64,
    stop_ns: u64,
    started: bool,
    paced: u64,
    last_ns: u64,
}

impl Echo {
    pub(crate) fn new(plan: &Plan, pipeline: u32, rate: Option<f64>) -> Self {
        Self {
            stamper: Stamper::new(plan.run),
            first: plan.first,
            pipeline,
            interval_ns: rate.map(|rate| 1e9 / rate),
            content: vec![b'x'; plan.size],
            lines: (0..plan.clients).map(|_| Line::new()).collect(),
            counts: Counts::default(),
            refusal: None,
            outstanding: 0,
            latency: Bins::new(),
            lateness: Bins::new(),
            begin_ns: 0,
            stop_ns: 0,
            started: false,
            paced: 0,
            last_ns: 0,
        }
    }

    fn say(&mut self, client: u32, intended_ns: u64, lines: &Lines, say: &mut Vec<u8>) {
        let number = self.first + client;
        let line = &mut self.lines[client as usize];
        line.sent += 1;
        self.counts.sent += 1;
        self.outstanding += 1;
        self.stamper.write(Stamp { room: number, sequence: line.sent, intended_ns }, &mut self.content);
        lines.publish(number, number, &self.content, line.sent, say);
    }

    fn returned(&mut self, client: u32, stamp: Stamp, now_ns: u64) {
        self.counts.delivered += 1;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.last_ns = now_ns;
        self.latency.record(now_ns.saturating_sub(stamp.intended_ns));
        if stamp.room != self.first + client {
            self.counts.misdirected += 1;
            return;
        }
        match self.lines[client as usize].ledger.record(stamp.sequence) {
            Arrival::InOrder => {}
            Arrival::After(hole) => self.counts.lost += hole,
            Arrival::Reordered => {
                self.counts.reordered += 1;
                self.counts.lost = self.counts.lost.saturating_sub(1);
            }
            Arrival::Duplicate => self.counts.duplicate += 1,
        }
    }
}

impl Echo {
    /// The server refuses `count` messages: they do not come back, and the next ones are sent in their places.
    fn refused(&mut self, client: u32, count: u64, message: &[u8], now_ns: u64, lines: &Lines, say: &mut Vec<u8>) {
        self.counts.refused += count;
        self.outstanding = self.outstanding.saturating_sub(count);
        self.lines[client as usize].refused.extend(lines.refused_reference(message));
        self.refusal.get_or_insert_with(|| beginning(message));
        if self.interval_ns.is_none() && now_ns < self.stop_ns {
            (0..count).for_each(|_| self.say(client, now_ns, lines, say));
        }
    }
}

impl Ear for Echo {
    fn heard(&mut self, client: u32, message: &[u8], now_ns: u64, lines: &Lines, say: &mut Vec<u8>) {
        let refused = occurrences(lines.refused.as_ref(), message);
        if refused > 0 && self.stamper.find(message).is_none() {
            return self.refused(client, refused, message, now_ns, lines, say);
        }
        let mut rest = message;
        while let Some((stamp, end)) = self.stamper.find(rest) {
            self.returned(client, stamp, now_ns);
            if self.interval_ns.is_none() && now_ns < self.stop_ns {
                self.say(client, now_ns, lines, say);
            }
            if !lines.stream {
                break;
            }
            rest = &rest[end..];
        }
    }

    fn ended(&mut self, client: u32) {
        self.lines[client as usize] = Line::new();
    }
}

impl Part for Echo {
    fn begin(&mut self, _published: u64) {
        (self.counts, self.outstanding, self.refusal) = (Counts::default(), 0, None);
        self.lines.iter_mut().for_each(|line| line.refused.clear());
        self.latency.clear();
        self.lateness.clear();
    }

    fn start(&mut self, at_ns: u64, length_ns: u64, _pace: Pace) {
        (self.begin_ns, self.stop_ns, self.started, self.paced) = (at_ns, at_ns + length_ns, false, 0);
    }

    fn act(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        if now_ns < self.begin_ns {
            return Ok(self.begin_ns - now_ns);
        }
        let mut out = Vec::new();
        if let Some(interval_ns) = self.interval_ns {
            loop {
                let due_ns = self.begin_ns + (self.paced as f64 * interval_ns) as u64;
                if due_ns >= self.stop_ns || due_ns > now_ns {
                    return Ok(due_ns.saturating_sub(now_ns));
                }
                let client = (self.paced % self.lines.len() as u64) as u32;
                self.lateness.record(now_ns - due_ns);
                self.say(client, due_ns, fleet.lines(), &mut out);
                fleet.send(client, &out)?;
                out.clear();
                self.paced += 1;
            }
        }
        if !self.started && now_ns < self.stop_ns {
            self.started = true;
            for client in 0..self.lines.len() as u32 {
                for _ in 0..self.pipeline {
                    self.say(client, now_ns, fleet.lines(), &mut out);
                }
                fleet.send(client, &out)?;
                out.clear();
            }
        }
        Ok(self.stop_ns.saturating_sub(now_ns).max(1_000_000))
    }

    fn finished(&mut self, now_ns: u64) -> Option<u64> {
        let over = now_ns >= self.stop_ns && (self.outstanding == 0 || now_ns >= self.stop_ns + GRACE_NS);
        over.then_some(self.counts.sent)
    }

    fn report(&mut self, _published: u64, _refused: &[Range]) -> Report {
        let mut refused = 0;
        for line in &mut self.lines {
            self.counts.lost += line.ledger.close(line.sent);
            refused += common(line.ledger.missing(), &ranges(line.refused.clone()));
        }
        let mut counts = self.counts;
        counts.lost = counts.lost.saturating_sub(refused);
        Report {
            counts,
            refusal: self.refusal.clone(),
            latency: self.latency.recorded(),
            lateness: self.lateness.recorded(),
            first_ns: self.begin_ns,
            last_ns: self.last_ns,
            ..Report::default()
        }
    }

    fn heard_so_far(&self) -> u64 {
        self.counts.delivered
    }
}
