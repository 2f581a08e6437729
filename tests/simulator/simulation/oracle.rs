//! What every client must have seen.
//!
//! The bus gives each room one order. What a member receives between its `joined` and its `left` must be a piece of that
//! order without a hole, a repetition or a swap, beginning no later than what was published after it saw `joined`; a gap
//! allows one hole (G1, G2, G3).

use std::collections::HashMap;

use tidegate::model::ConnectionId;
use tidegate::model::Publication;

/// One publication as the bus ordered it.
struct Ordered {
    from: Option<ConnectionId>,
    echo: bool,
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    rooms: HashMap<String, Vec<Ordered>>,
    by_content: HashMap<(String, u64), usize>,
    pub delivered: u64,
    pub told_gaps: u64,
}

/// What one client knows of one room.
#[derive(Debug)]
pub struct View {
    /// Everything from here on must be seen.
    next: usize,
    /// Nothing was seen since `joined`: what comes first may be older than `next`.
    fresh: bool,
    /// Gaps that were told and have not met their hole yet: one may be told before older messages that are on their way.
    gaps: u32,
}

impl Oracle {
    pub fn published(&mut self, publication: &Publication) {
        let content: u64 = std::str::from_utf8(&publication.payload).expect("text").parse().expect("a number");
        let room = publication.room.to_string();
        let order = self.rooms.entry(room.clone()).or_default();
        order.push(Ordered { from: publication.from, echo: publication.echo });
        let before = self.by_content.insert((room, content), order.len() - 1);
        assert!(before.is_none(), "the shard handed a publication over twice");
    }

    pub fn joined(&self, room: &str) -> View {
        View { next: self.rooms.get(room).map_or(0, Vec::len), fresh: true, gaps: 0 }
    }

    pub fn gap(&mut self, view: &mut View) {
        view.gaps += 1;
        self.told_gaps += 1;
    }

    pub fn received(&mut self, view: &mut View, room: &str, content: u64, me: ConnectionId) {
        let at = *self.by_content.get(&(room.to_owned(), content)).expect("a message that nobody published");
        let order = &self.rooms[room];
        let own = |ordered: &Ordered| !ordered.echo && ordered.from == Some(me);
        assert!(!own(&order[at]), "a message without echo came back to its sender");
        if view.fresh {
            assert!(at <= view.next || view.gaps > 0 || order[view.next..at].iter().all(own), "missed after joined");
        } else if view.gaps == 0 {
            assert!(at >= view.next, "repeated or out of order: {at} after {}", view.next);
            assert!(order[view.next..at].iter().all(own), "an untold hole before {at}, expected {}", view.next);
        } else {
            assert!(at >= view.next, "repeated or out of order after a gap");
        }
        *view = View { next: at + 1, fresh: false, gaps: 0 };
        self.delivered += 1;
    }

    /// At the end, when everything has come to rest: nothing may be missing.
    pub fn settled(&self, view: &View, room: &str, me: ConnectionId) {
        let Some(order) = self.rooms.get(room) else { return };
        let missing = order[view.next.min(order.len())..].iter().any(|o| o.echo || o.from != Some(me));
        assert!(!missing || view.gaps > 0, "the end of {room} never came, expected {} of {}", view.next, order.len());
    }
}
