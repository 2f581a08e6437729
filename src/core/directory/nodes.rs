//! The table of nodes, made from their heartbeats.
//!
//! ```text
//!            heartbeat                 3 missed                10 min
//!   unknown ──────────► alive ───────────────────────► dead ──────────► unknown
//!                         ▲          heartbeat          │
//!                         └─────────────────────────────┘
//! ```
//!
//! A node hears its own heartbeats too, over the same channel, and measures the silence of the others against them. So a node that
//! lost its broker, was cut off from it or stood still judges no other: without its own heartbeats no silence grows, and after a
//! hole in them all silences begin anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::message::Heartbeat;
use crate::limits::{DEAD_NODE_KEPT, HEARTBEAT_INTERVAL, HEARTBEATS_MISSED, NODES_KNOWN};

/// Another node.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it said last.
    pub heartbeat: Heartbeat,
    /// When it said it.
    pub heard: Instant,
    /// It missed [`HEARTBEATS_MISSED`] heartbeats.
    pub is_dead: bool,
}

impl Known {
    /// How long ago it was heard.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }
}

/// The nodes that this one knows, itself left out.
#[derive(Debug)]
pub struct Nodes {
    own: u32,
    own_heard: Instant,
    /// From here on this node heard its own heartbeats without a hole.
    hearing_since: Instant,
    known: BTreeMap<u32, Known>,
}

impl Nodes {
    /// The table of the node with the number `own`.
    pub const fn new(own: u32, now: Instant) -> Self {
        Self { own, own_heard: now, hearing_since: now, known: BTreeMap::new() }
    }

    /// A heartbeat arrived. Says whether it is of a node that was unknown or dead.
    pub fn handle_heartbeat(&mut self, from: u32, heartbeat: Heartbeat, now: Instant) -> bool {
        if from == self.own {
            if now.duration_since(self.own_heard) >= 2 * HEARTBEAT_INTERVAL {
                self.hearing_since = now;
            }
            self.own_heard = now;
            return false;
        }
        let was_alive = self.known.get(&from).map(|known| !known.is_dead);
        if was_alive.is_none() && self.known.len() >= NODES_KNOWN {
            return false;
        }
        self.known.insert(from, Known { heartbeat, heard: now, is_dead: false });
        was_alive != Some(true)
    }

    /// Finds the nodes that have died since the last call, and forgets those that are dead for long.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<u32> {
        let mut died = Vec::new();
        for (node, known) in &mut self.known {
            let silence = self.own_heard.saturating_duration_since(known.heard.max(self.hearing_since));
            if !known.is_dead && silence >= HEARTBEATS_MISSED * HEARTBEAT_INTERVAL {
                known.is_dead = true;
                died.push(*node);
            }
        }
        self.known.retain(|_, known| !known.is_dead || now.saturating_duration_since(known.heard) < DEAD_NODE_KEPT);
        died
    }

    /// Nodes alive, this one included.
    pub fn alive(&self) -> usize {
        1 + self.known.values().filter(|known| !known.is_dead).count()
    }

    /// The other nodes by their numbers, dead ones too.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.known.iter().map(|(node, known)| (*node, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1;
    const OTHER: u32 = 2;

    /// Runs heartbeats for so many intervals; each node that beats is heard by this one.
    fn beat(nodes: &mut Nodes, now: &mut Instant, intervals: u32, beating: &[u32]) -> Vec<u32> {
        let mut died = Vec::new();
        for _ in 0..intervals {
            *now += HEARTBEAT_INTERVAL;
            beating.iter().for_each(|node| {
                nodes.handle_heartbeat(*node, Heartbeat::default(), *now);
            });
            died.extend(nodes.handle_timeout(*now));
        }
        died
    }

    fn pair() -> (Nodes, Instant) {
        let mut now = Instant::now();
        let mut nodes = Nodes::new(OWN, now);
        assert!(beat(&mut nodes, &mut now, 2, &[OWN, OTHER]).is_empty());
        assert_eq!(nodes.alive(), 2);
        (nodes, now)
    }

    #[test]
    fn a_node_that_misses_three_heartbeats_is_dead_stays_in_the_table_and_lives_with_its_next_one() {
        let (mut nodes, mut now) = pair();
        assert!(beat(&mut nodes, &mut now, 2, &[OWN]).is_empty());
        assert_eq!(beat(&mut nodes, &mut now, 1, &[OWN]), [OTHER]);
        assert!(beat(&mut nodes, &mut now, 10, &[OWN]).is_empty(), "it dies once");
        assert_eq!((nodes.alive(), nodes.iter().count()), (1, 1));
        assert!(nodes.handle_heartbeat(OTHER, Heartbeat::default(), now), "it is back");
        assert!(!nodes.handle_heartbeat(OTHER, Heartbeat::default(), now));
        assert_eq!(nodes.alive(), 2);
    }

    #[test]
    fn a_dead_node_is_forgotten_after_ten_minutes() {
        let (mut nodes, mut now) = pair();
        let kept = (DEAD_NODE_KEPT.as_secs() / HEARTBEAT_INTERVAL.as_secs()) as u32;
        beat(&mut nodes, &mut now, kept - 1, &[OWN]);
        assert_eq!(nodes.iter().count(), 1);
        beat(&mut nodes, &mut now, 1, &[OWN]);
        assert_eq!(nodes.iter().count(), 0);
    }

    #[test]
    fn a_node_without_its_broker_judges_no_other_and_gives_each_its_full_time_afterwards() {
        let (mut nodes, mut now) = pair();
        assert!(beat(&mut nodes, &mut now, 100, &[]).is_empty());
        assert!(beat(&mut nodes, &mut now, 3, &[OWN]).is_empty());
        assert_eq!(beat(&mut nodes, &mut now, 1, &[OWN]), [OTHER]);
    }

    #[test]
    fn a_node_that_stood_still_judges_no_other_by_what_it_missed() {
        let (mut nodes, mut now) = pair();
        now += Duration::from_secs(15);
        assert!(nodes.handle_timeout(now).is_empty());
        // Its own heartbeats may be read before those of the other that came at the same time.
        nodes.handle_heartbeat(OWN, Heartbeat::default(), now);
        assert!(nodes.handle_timeout(now).is_empty());
        assert!(beat(&mut nodes, &mut now, 5, &[OWN, OTHER]).is_empty());
        assert_eq!(nodes.alive(), 2);
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut nodes, now) = pair();
        for node in 10..10 + 2 * NODES_KNOWN as u32 {
            nodes.handle_heartbeat(node, Heartbeat::default(), now);
        }
        assert_eq!(nodes.iter().count(), NODES_KNOWN);
    }
}
