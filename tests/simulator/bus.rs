//! A bus between the shards: what the relay promises, with mailboxes that may overflow and joins that may be refused.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tidegate::model::{AckLevel, GapReason, RoomName};
use tidegate::relay::{JoinError, ToRelay, ToShard};

use crate::oracle::Oracle;
use crate::socket::Dice;

/// See the module.
pub struct Bus {
    pub mailboxes: Vec<VecDeque<ToShard>>,
    interest: HashMap<RoomName, HashSet<usize>>,
    lost: Vec<HashSet<RoomName>>,
    mailbox_items: usize,
    refuse_percent: usize,
}

impl Bus {
    pub fn new(shards: usize, mailbox_items: usize, refuse_percent: usize) -> Self {
        Self {
            mailboxes: (0..shards).map(|_| VecDeque::new()).collect(),
            interest: HashMap::new(),
            lost: (0..shards).map(|_| HashSet::new()).collect(),
            mailbox_items,
            refuse_percent,
        }
    }

    pub fn take(&mut self, shard: usize, item: ToRelay, oracle: &mut Oracle, dice: &mut Dice) {
        match item {
            ToRelay::Subscribe(room) if dice.percent(self.refuse_percent) => {
                self.mailboxes[shard].push_back(ToShard::Refused(room, JoinError::Unconfirmed));
            }
            ToRelay::Subscribe(room) => {
                self.interest.entry(room.clone()).or_default().insert(shard);
                self.mailboxes[shard].push_back(ToShard::Joined(room));
            }
            ToRelay::Unsubscribe(room) => {
                let known = self.interest.get_mut(&room).is_some_and(|shards| shards.remove(&shard));
                assert!(known, "unsubscribed from a room that was not subscribed");
            }
            ToRelay::Publish(publication, ack) => {
                oracle.published(&publication);
                let publication = Arc::new(publication);
                let interested = self.interest.get(&publication.room).cloned().unwrap_or_default();
                for to in interested {
                    let waiting = self.mailboxes[to].iter().filter(|item| matches!(item, ToShard::Deliver(_))).count();
                    // After a loss nothing is delivered before the gap is told, as the relay does it.
                    if waiting < self.mailbox_items && self.lost[to].is_empty() {
                        self.mailboxes[to].push_back(ToShard::Deliver(publication.clone()));
                    } else {
                        self.lost[to].insert(publication.room.clone());
                    }
                }
                if let Some(ack) = ack {
                    self.mailboxes[shard].push_back(ToShard::Acked(ack, AckLevel::Node));
                }
            }
        }
    }

    /// Tells the losses where there is room for deliveries again.
    pub fn tell_losses(&mut self) {
        for (mailbox, lost) in self.mailboxes.iter_mut().zip(&mut self.lost) {
            if !lost.is_empty() && mailbox.len() < self.mailbox_items {
                mailbox.push_back(ToShard::Gap(Some(lost.drain().collect()), GapReason::Mailbox));
            }
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.mailboxes.iter().all(VecDeque::is_empty) && self.lost.iter().all(HashSet::is_empty)
    }
}
