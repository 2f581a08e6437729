//! The world: shards, bus, clients, and the dice that decide what happens next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use tidegate::counters::{RelayCounters, ShardCounters};
use tidegate::proto::frame;
use tidegate::readiness::NodeState;
use tidegate::shard::command::Command;
use tidegate::shard::{Budgets, Options, PublishPolicy, RoomRule, Settings, Shard, SlowPolicy};

use crate::bus::Bus;
use crate::client::{Client, REQUEST};
use crate::oracle::Oracle;
use crate::socket::{Dice, Net, SimWire, Socket};

const SHARDS: usize = 2;

/// What a story is about.
#[derive(Clone)]
pub struct Plan {
    pub clients: usize,
    pub rooms: usize,
    pub steps: usize,
    pub slow_percent: usize,
    pub drop_oldest: bool,
    pub mailbox_items: usize,
    pub refuse_percent: usize,
    pub drain: bool,
    /// Bytes that all outboxes together may pin.
    pub outbox_budget: u64,
    /// What the dice show first.
    pub choices: Vec<u8>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            clients: 10,
            rooms: 1,
            steps: 1_000,
            slow_percent: 0,
            drop_oldest: false,
            mailbox_items: 100_000,
            refuse_percent: 0,
            drain: false,
            outbox_budget: 1 << 30,
            choices: Vec::new(),
        }
    }
}

/// What came of it.
pub struct Seen {
    pub delivered: u64,
    pub told_gaps: u64,
}

pub struct World {
    plan: Plan,
    dice: Dice,
    oracle: Oracle,
    bus: Bus,
    shards: Vec<Shard<SimWire>>,
    nets: Vec<Rc<RefCell<Net>>>,
    counters: Vec<Arc<ShardCounters>>,
    clients: BTreeMap<RawFd, Client>,
    next_fd: RawFd,
    next_content: u64,
    time: u64,
}

impl World {
    pub fn new(seed: u64, mut plan: Plan) -> Self {
        let choices = std::mem::take(&mut plan.choices);
        let dice = Dice::choosing(choices, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let counters: Vec<Arc<ShardCounters>> = (0..SHARDS).map(|_| Arc::default()).collect();
        let options = Arc::new(options(&plan));
        let state = NodeState::new(Arc::new(RelayCounters::default()), false);
        let mut nets = Vec::new();
        let shards = (0..SHARDS)
            .map(|n| {
                let net = Net::new(Dice::new(seed.wrapping_add(n as u64)), !seed.is_multiple_of(3));
                let net = Rc::new(RefCell::new(net));
                nets.push(net.clone());
                let budgets =
                    Budgets { connections: 100_000, outbox_bytes: plan.outbox_budget, unfinished_bytes: 1 << 30 };
                let settings = Settings::new(options.clone(), 7, n as u8, budgets, counters.clone(), state.clone());
                Shard::new(SimWire(net), Arc::new(settings), counters[n].clone(), seed)
            })
            .collect();
        let bus = Bus::new(SHARDS, plan.mailbox_items, plan.refuse_percent);
        Self {
            plan,
            dice,
            oracle: Oracle::default(),
            bus,
            shards,
            nets,
            counters,
            clients: BTreeMap::new(),
            next_fd: 10,
            next_content: 0,
            time: 0,
        }
    }

    pub fn play(mut self) -> Seen {
        for step in 0..self.plan.steps {
            for _ in 0..1 + self.plan.clients / 100 {
                if self.clients.len() < self.plan.clients && self.dice.percent(70) {
                    self.connect();
                }
            }
            self.act();
            self.turn();
            if self.plan.drain && step == self.plan.steps / 2 {
                for shard in &mut self.shards {
                    shard.handle_command(Command::Drain { window_ms: 2_000 });
                }
            }
        }
        self.settle();
        if !self.plan.drain {
            self.check_views();
        }
        self.leave_nothing_behind();
        Seen { delivered: self.oracle.delivered, told_gaps: self.oracle.told_gaps }
    }

    fn connect(&mut self) {
        let fd = self.next_fd;
        self.next_fd += 1;
        let shard = self.dice.below(SHARDS);
        let slow = self.dice.percent(self.plan.slow_percent);
        let capacity = if slow { 200 + self.dice.below(2_000) } else { 100_000 };
        let mut socket = Socket::new(capacity);
        socket.to_server.extend(REQUEST.as_bytes());
        self.nets[shard].borrow_mut().sockets.insert(fd, socket);
        self.clients.insert(fd, Client::new(fd, shard, slow));
        self.shards[shard].handle_accepted(fd);
    }

    /// One client does something.
    fn act(&mut self) {
        let fds: Vec<RawFd> = self.clients.keys().copied().collect();
        if fds.is_empty() {
            return;
        }
        let fd = fds[self.dice.below(fds.len())];
        let room = format!("room.{}", self.dice.below(self.plan.rooms));
        let Some(client) = self.clients.get(&fd).filter(|client| client.id.is_some() && !client.over) else { return };
        let shard = client.shard;
        let octets = match self.dice.below(100) {
            0..35 => Client::text(&mut self.dice, &format!(r#"{{"type":"join","roomId":"{room}"}}"#)),
            35..45 => Client::text(&mut self.dice, &format!(r#"{{"type":"leave","roomId":"{room}","ref":1}}"#)),
            45..95 => {
                self.next_content += 1;
                let (content, echo) = (self.next_content, self.dice.percent(70));
                let padding = "x".repeat(self.dice.below(400));
                let text = format!(
                    r#"{{"type":"message","roomId":"{room}","content":{content},"echo":{echo},"pad":"{padding}"}}"#
                );
                Client::text(&mut self.dice, &text)
            }
            95..97 => {
                let mut out = Vec::new();
                frame::write_masked(&mut out, frame::CLOSE, [9; 4], &[3, 232]);
                out
            }
            97 => return self.vanish(fd, shard),
            _ => Client::text(&mut self.dice, r#"{"type":"nonsense"}"#),
        };
        self.client_says(fd, shard, &octets);
    }

    /// The client's host is gone, or its program ended with a reset.
    fn vanish(&mut self, fd: RawFd, shard: usize) {
        let mut net = self.nets[shard].borrow_mut();
        if let Some(socket) = net.sockets.get_mut(&fd) {
            (socket.client_reset, socket.client_fin) = (self.dice.percent(50), true);
        }
        net.announce(fd, false);
        self.clients.remove(&fd);
    }

    fn client_says(&mut self, fd: RawFd, shard: usize, octets: &[u8]) {
        let mut net = self.nets[shard].borrow_mut();
        let Some(socket) = net.sockets.get_mut(&fd) else { return };
        if !socket.client_fin {
            socket.to_server.extend(octets);
            net.announce(fd, false);
        }
    }

    /// Everybody gets a turn, under small budgets, so that passes are cut.
    fn turn(&mut self) {
        self.time += 1_000_000;
        for n in 0..SHARDS {
            if self.dice.percent(5) {
                self.nets[n].borrow_mut().tick();
            }
            let budget = 1 + self.dice.below(40);
            let shard = &mut self.shards[n];
            shard.set_time(self.time, self.time);
            shard.reap();
            shard.serve_ready(budget);
            for _ in 0..budget {
                if !shard.takes_deliveries() {
                    break;
                }
                let Some(item) = self.bus.mailboxes[n].pop_front() else { break };
                shard.handle_relay(item);
            }
            shard.fan_out(budget);
            shard.submit();
            shard.note_delivered(0);
            while let Some(item) = shard.poll_relay() {
                self.bus.take(n, item, &mut self.oracle, &mut self.dice);
            }
        }
        self.bus.tell_losses();
        self.clients_read(false);
    }

    fn clients_read(&mut self, everything: bool) {
        let fds: Vec<RawFd> = self.clients.keys().copied().collect();
        for fd in fds {
            let Some(client) = self.clients.get_mut(&fd) else { continue };
            let shard = client.shard;
            if !self.nets[shard].borrow().has_news(fd) {
                continue;
            }
            let most = if everything || !client.slow { usize::MAX } else { self.dice.below(60) };
            let octets = self.nets[shard].borrow_mut().client_reads(fd, most);
            let answers = client.hear(&octets, &mut self.oracle);
            let ended = {
                let net = self.nets[shard].borrow();
                net.sockets.get(&fd).is_some_and(|socket| socket.server_fin && socket.to_client.is_empty())
            };
            if !answers.is_empty() {
                self.client_says(fd, shard, &answers);
            }
            if ended {
                self.hang_up(fd, shard);
            }
        }
    }

    fn hang_up(&mut self, fd: RawFd, shard: usize) {
        let mut net = self.nets[shard].borrow_mut();
        if let Some(socket) = net.sockets.get_mut(&fd) {
            socket.client_fin = true;
        }
        net.announce(fd, false);
        self.clients.remove(&fd);
    }

    /// Nobody does anything new until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            self.turn();
            self.clients_read(true);
            let waiting = self.counters.iter().any(|counters| counters.outbox_bytes.value() > 0);
            let busy = waiting || self.shards.iter().any(Shard::has_work) || !self.bus.is_quiet();
            let unread = self
                .nets
                .iter()
                .any(|net| net.borrow().sockets.values().any(|s| !s.client_fin && !s.to_server.is_empty()));
            if !busy && !unread && (!self.plan.drain || self.clients.is_empty()) {
                break;
            }
        }
        for _ in 0..10 {
            self.turn();
            self.clients_read(true);
        }
    }

    fn check_views(&self) {
        for client in self.clients.values().filter(|client| !client.over) {
            for (room, view) in &client.views {
                self.oracle.settled(view, room, client.id.expect("a member was welcomed"));
            }
        }
    }

    /// Everybody leaves; accounts close (G8).
    fn leave_nothing_behind(&mut self) {
        if self.plan.drain {
            assert!(self.clients.is_empty(), "a drain left {} clients", self.clients.len());
        }
        let rest: Vec<(RawFd, usize)> = self.clients.values().map(|client| (client.fd, client.shard)).collect();
        for (fd, shard) in rest {
            self.vanish(fd, shard);
        }
        for _ in 0..200 {
            self.turn();
            if self.shards.iter().all(|shard| shard.sockets() == 0 && !shard.has_work()) && self.bus.is_quiet() {
                break;
            }
        }
        for (shard, counters) in self.shards.iter().zip(&self.counters) {
            let sum = |cells: &[tidegate::counters::Cell]| cells.iter().map(|cell| cell.value()).sum::<u64>();
            assert_eq!(shard.sockets(), 0, "slab entries are left");
            assert_eq!(counters.connections.value(), 0, "the gauge is not at rest");
            assert_eq!(counters.rooms.value(), 0, "rooms are left");
            assert_eq!(counters.outbox_bytes.value(), 0, "outbox bytes are left");
            assert_eq!(counters.upgraded.value(), sum(&counters.closed), "opened is not closed");
            let accepted = counters.upgraded.value() + sum(&counters.refused) + counters.plain.value();
            assert_eq!(counters.accepted.value(), accepted, "accepted is not accounted for");
        }
    }
}

fn options(plan: &Plan) -> Options {
    let mut options = Options { connection_rate: 0, ..Options::default() };
    options.limits.message_rate = 0;
    options.limits.outbox_bytes = 4 * 1024;
    if plan.drop_oldest {
        let slow = SlowPolicy::DropOldest;
        options.rooms.push(RoomRule { pattern: String::from("*"), publish: PublishPolicy::Any, slow });
    }
    options
}
