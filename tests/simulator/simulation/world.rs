//! The world: the node, its clients, and the dice that decide what happens next.

use std::os::fd::RawFd;

use super::accounts::Accounts;
use super::client::Client;
use super::dice::Dice;
use super::node::{Node, SHARDS};
use super::oracle::Oracle;
use super::plan::{Plan, Seen};
use super::socket::Socket;
use tidegate_core::shard::Arrival;

/// See the module.
pub struct World {
    plan: Plan,
    dice: Dice,
    oracle: Oracle,
    node: Node,
    accounts: Accounts,
    /// By socket number; those that are gone are vacant.
    clients: Vec<Option<Client>>,
    /// The numbers of those that are there.
    present: Vec<RawFd>,
    next_number: u64,
    now_ns: u64,
    octets: Vec<u8>,
}

impl World {
    pub fn new(seed: u64, mut plan: Plan) -> Self {
        let choices = std::mem::take(&mut plan.choices);
        Self {
            dice: Dice::choosing(choices, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            oracle: Oracle::new(SHARDS, plan.rooms),
            node: Node::new(seed, &plan),
            accounts: Accounts::default(),
            clients: Vec::new(),
            present: Vec::new(),
            next_number: 0,
            now_ns: 0,
            octets: Vec::new(),
            plan,
        }
    }

    pub fn play(mut self) -> Seen {
        for step in 0..self.plan.steps {
            for _ in 0..1 + self.plan.clients / 100 {
                if self.present.len() < self.plan.clients && self.dice.percent(70) {
                    self.connect();
                }
            }
            for _ in 0..1 + self.dice.below(self.plan.burst) {
                self.act();
            }
            self.turn();
            if self.plan.drain && step == self.plan.steps / 2 {
                self.node.drain();
            }
        }
        self.settle();
        self.check_settled();
        self.leave_nothing_behind();
        self.oracle.seen.contended = self.node.relay.contended();
        self.oracle.seen
    }

    fn connect(&mut self) {
        let fd = self.clients.len() as RawFd;
        let shard = self.dice.below(SHARDS);
        let client = Client::new(shard, &self.plan, &mut self.dice);
        let capacity = match (client.slow, client.is_raw()) {
            (true, _) => self.plan.slow_socket_bytes * (1 + self.dice.below(10)),
            (false, true) => self.plan.raw_socket_bytes,
            (false, false) => self.plan.socket_bytes,
        };
        let mut socket = Socket::new(capacity);
        socket.to_server.extend(&client.request());
        let seat = &mut self.node.seats[shard];
        seat.net.borrow_mut().insert(fd, socket);
        self.clients.push(Some(client));
        self.present.push(fd);
        seat.shard.handle_accepted(fd, Arrival::default());
    }

    /// One client does something.
    fn act(&mut self) {
        if self.present.is_empty() {
            return;
        }
        let fd = self.present[self.dice.below(self.present.len())];
        if self.dice.per_mille(8) {
            return self.vanish(fd);
        }
        let Some(client) = self.clients[fd as usize].as_mut().filter(|client| client.may_speak()) else { return };
        let octets = client.speak(&mut self.dice, &mut self.next_number, &mut self.oracle, &self.plan);
        let shard = client.shard;
        self.client_says(fd, shard, &octets);
    }

    /// The client's host is gone, or its program ended with a reset.
    fn vanish(&mut self, fd: RawFd) {
        let Some(client) = self.remove(fd) else { return };
        self.accounts.vanished += 1;
        let mut net = self.node.seats[client.shard].net.borrow_mut();
        if let Some(socket) = net.get_mut(fd) {
            (socket.client_reset, socket.client_fin) = (self.dice.percent(50), true);
        }
        net.announce(fd, false);
    }

    fn remove(&mut self, fd: RawFd) -> Option<Client> {
        let client = self.clients[fd as usize].take()?;
        self.present.retain(|present| *present != fd);
        client.excuse_all(&mut self.oracle);
        self.accounts.note(&client);
        Some(client)
    }

    fn client_says(&mut self, fd: RawFd, shard: usize, octets: &[u8]) {
        let mut net = self.node.seats[shard].net.borrow_mut();
        let Some(socket) = net.get_mut(fd) else { return };
        if !socket.client_fin {
            socket.to_server.extend(octets);
            net.announce(fd, false);
        }
    }

    /// Every shard, the relay and every client get a turn.
    fn turn(&mut self) {
        self.now_ns += 1_000_000;
        let first = self.dice.below(SHARDS);
        for n in 0..SHARDS {
            let n = (first + n) % SHARDS;
            self.node.turn(n, self.now_ns, &mut self.dice, &mut self.oracle, &self.plan);
        }
        self.node.relay.turn(self.now_ns, &mut self.dice, &mut self.oracle);
        self.clients_read(false);
    }

    fn clients_read(&mut self, everything: bool) {
        for shard in 0..SHARDS {
            let news = self.node.seats[shard].net.borrow_mut().take_news();
            for fd in news {
                self.client_reads(fd, shard, everything);
            }
        }
        if self.plan.raw_percent > 0 {
            let handed_over: [bool; SHARDS] = std::array::from_fn(|n| self.node.is_handed_over(n));
            for fd in &self.present {
                let client = self.clients[*fd as usize].as_mut();
                let settled = client.filter(|client| handed_over[client.shard]);
                settled.into_iter().for_each(|client| client.note_raw_membership(&self.oracle));
            }
        }
    }

    fn client_reads(&mut self, fd: RawFd, shard: usize, everything: bool) {
        let Some(client) = &mut self.clients[fd as usize] else { return };
        let most = if everything || !client.slow { usize::MAX } else { self.dice.below(60) };
        self.octets.clear();
        let ended = {
            let mut net = self.node.seats[shard].net.borrow_mut();
            net.client_reads(fd, most, &mut self.octets);
            let socket = net.get(fd);
            let (empty, fin) = socket.map_or((true, false), |s| (s.to_client.is_empty(), s.server_fin));
            if !empty {
                net.note_news(fd);
            }
            empty && fin
        };
        let read = u64::from(fd as u32) << 32 | self.octets.len() as u64;
        self.oracle.seen.digest = (self.oracle.seen.digest ^ read).wrapping_mul(0x100_0000_01b3).rotate_left(5);
        let answers = client.hear(&self.octets, &mut self.oracle, &self.plan);
        if !answers.is_empty() {
            self.client_says(fd, shard, &answers);
        }
        if ended {
            self.hang_up(fd, shard);
        }
    }

    /// The stream has ended: after a close frame or a refusal, unless the client is too slow to be told.
    fn hang_up(&mut self, fd: RawFd, shard: usize) {
        let Some(client) = self.remove(fd) else { return };
        assert!(client.over || client.slow, "the stream ended without a close frame; {:?}", client.deeds);
        let mut net = self.node.seats[shard].net.borrow_mut();
        if let Some(socket) = net.get_mut(fd) {
            socket.client_fin = true;
        }
        net.announce(fd, false);
    }

    /// No client does anything new until nothing moves any more.
    fn settle(&mut self) {
        self.node.relay.calm();
        for _ in 0..2_000 {
            self.turn();
            self.clients_read(true);
            let unread = self.present.iter().any(|fd| self.has_unread(*fd));
            if self.node.is_quiet() && !unread && (!self.plan.drain || self.present.is_empty()) {
                break;
            }
        }
        for _ in 0..10 {
            self.turn();
            self.clients_read(true);
        }
    }

    /// Whether the shard has not read all that a client said.
    fn has_unread(&self, fd: RawFd) -> bool {
        let Some(client) = &self.clients[fd as usize] else { return false };
        let net = self.node.seats[client.shard].net.borrow();
        net.get(fd).is_some_and(|socket| !socket.client_fin && !socket.to_server.is_empty())
    }

    fn check_settled(&mut self) {
        assert!(self.node.is_quiet(), "the node does not come to rest");
        for client in self.clients.iter().flatten() {
            if client.over || !client.deeds.is_empty() {
                client.excuse_all(&mut self.oracle);
            } else {
                client.check_settled(&self.oracle, &self.plan);
            }
        }
        self.oracle.check_settled();
    }

    /// Every client leaves; accounts close (G8).
    fn leave_nothing_behind(&mut self) {
        if self.plan.drain {
            assert!(self.present.is_empty(), "a drain left {} clients", self.present.len());
        }
        for fd in self.present.clone() {
            self.vanish(fd);
        }
        for _ in 0..200 {
            self.turn();
            let empty = self.node.seats.iter().all(|seat| seat.shard.sockets() == 0);
            if empty && self.node.is_quiet() && self.node.relay_counters.subscriptions.value() == 0 {
                break;
            }
        }
        self.accounts.check(&self.node, &self.plan, &self.oracle.seen);
    }
}
