//! The node's shards as they are, between simulated sockets and the relay's mailboxes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tidegate::gateway::broker::Port;
use tidegate_core::counters::{RelayCounters, ShardCounters};
use tidegate_core::readiness::NodeState;
use tidegate_core::relay::ToRelay;
use tidegate_core::shard::command::Command;
use tidegate_core::shard::{Budgets, Options, RoomRule, Settings, Shard, SlowPolicy};

use super::dice::Dice;
use super::oracle::Oracle;
use super::plan::Plan;
use super::relay::Relay;
use super::socket::{Net, SimWire};

pub const SHARDS: usize = 2;

/// A shard with its sockets and its port of the relay.
pub struct Seat {
    pub shard: Shard<SimWire>,
    pub net: Rc<RefCell<Net>>,
    pub counters: Arc<ShardCounters>,
    port: Port,
}

/// See the module.
pub struct Node {
    pub seats: Vec<Seat>,
    pub relay: Relay,
    pub relay_counters: Arc<RelayCounters>,
    /// The admin thread's port, which nothing is published through.
    _admin: Port,
}

impl Node {
    pub fn new(seed: u64, plan: &Plan) -> Self {
        let options = Arc::new(options(plan));
        let counters: Vec<Arc<ShardCounters>> = (0..SHARDS).map(|_| Arc::default()).collect();
        let relay_counters = Arc::new(RelayCounters::default());
        let state = NodeState::new(relay_counters.clone(), false);
        let (mut ports, relay) = Relay::new(&options.limits, plan, SHARDS + 1, relay_counters.clone());
        let admin = ports.pop().expect("the admin thread's port is the last");
        let seats = ports.into_iter().enumerate().map(|(n, port)| {
            let net = Net::new(Dice::new(seed.wrapping_add(n as u64)), !seed.is_multiple_of(3));
            let net = Rc::new(RefCell::new(net));
            let budgets = Budgets { connections: 100_000, outbox_bytes: plan.outbox_budget, unfinished_bytes: 1 << 30 };
            let settings = Settings::new(options.clone(), 7, n as u8, budgets, counters.clone(), state.clone());
            let shard = Shard::new(SimWire(net.clone()), Arc::new(settings), counters[n].clone(), seed);
            Seat { shard, net, counters: counters[n].clone(), port }
        });
        Self { seats: seats.collect(), relay, relay_counters, _admin: admin }
    }

    pub fn drain(&mut self) {
        for seat in &mut self.seats {
            seat.shard.handle_command(Command::Drain { window_ms: 2_000 });
        }
    }

    /// A turn of one shard's loop, under a small budget, so that passes are cut.
    pub fn turn(&mut self, n: usize, now_ns: u64, dice: &mut Dice, oracle: &mut Oracle, plan: &Plan) {
        let seat = &mut self.seats[n];
        if dice.percent(5) {
            seat.net.borrow_mut().tick();
        }
        let budget = 1 + dice.below(40);
        seat.shard.set_time(now_ns, now_ns);
        seat.shard.reap();
        seat.shard.serve_ready(budget);
        seat.take_deliveries(n, budget, oracle, plan);
        seat.hand_over(n, &mut self.relay, dice, oracle);
        if dice.percent(50) {
            seat.take_deliveries(n, budget, oracle, plan);
        }
        seat.shard.fan_out(budget);
        seat.shard.submit();
        seat.shard.note_delivered(now_ns);
        if dice.percent(50) {
            seat.hand_over(n, &mut self.relay, dice, oracle);
        }
    }

    /// Whether the relay has all that the shard has for it: then what the mailbox told of a room is how the shard sees it.
    pub fn is_handed_over(&mut self, n: usize) -> bool {
        let shard = &mut self.seats[n].shard;
        let waiting = shard.poll_relay();
        let empty = waiting.is_none();
        waiting.into_iter().for_each(|item| shard.unpoll_relay(item));
        empty
    }

    /// Whether nothing moves any more.
    pub fn is_quiet(&self) -> bool {
        let idle = |seat: &Seat| {
            !seat.shard.wants_turn() && seat.port.from_relay.is_empty() && seat.counters.outbox_bytes.value() == 0
        };
        self.seats.iter().all(idle) && self.relay.is_quiet()
    }
}

impl Seat {
    fn take_deliveries(&mut self, n: usize, budget: usize, oracle: &mut Oracle, plan: &Plan) {
        for _ in 0..budget {
            if !self.shard.takes_deliveries() {
                break;
            }
            let Some(item) = self.port.from_relay.pop() else { break };
            self.port.from_relay.release(item.pinned_bytes());
            oracle.taken(n, &item, plan);
            self.shard.handle_relay(item);
        }
    }

    /// Gives the relay what the shard has for it. What does not fit waits for the next turn.
    fn hand_over(&mut self, n: usize, relay: &mut Relay, dice: &mut Dice, oracle: &mut Oracle) {
        let mut any = false;
        while let Some(item) = self.shard.poll_relay() {
            let (published, unsubscribed) = match &item {
                ToRelay::Publish(publication, _) => (Some(publication.clone()), None),
                ToRelay::Unsubscribe(room) => (None, Some(room.clone())),
                ToRelay::Subscribe(_) | ToRelay::ToNodes(..) => (None, None),
            };
            if let Err(item) = self.port.ask(item) {
                self.shard.unpoll_relay(item);
                break;
            }
            relay.asked(n, published);
            if let Some(room) = unsubscribed {
                oracle.unsubscribed(n, &room);
            }
            any = true;
        }
        if any {
            relay.flush(n, &mut self.port, dice, oracle);
        }
    }
}

fn options(plan: &Plan) -> Options {
    let mut options = Options { connection_rate: 0, ..Options::default() };
    options.compression = plan.deflate_percent > 0;
    options.close_on_gap = plan.raw_close_on_gap;
    options.message_rate = plan.message_rate;
    options.limits.outbox_bytes = plan.outbox_bytes;
    options.limits.mailbox_messages = plan.mailbox_items;
    if plan.drop_oldest {
        let slow = SlowPolicy::DropOldest;
        options.rooms.push(RoomRule { pattern: String::from("*"), join: None, publish: None, slow });
    }
    options
}
