//! The places of the admin port: which connection gives way to a new one, and how many requests may be in progress.
//!
//! Probes and scrapes must find a place whatever else is connected: three liveness probes that fail are a restart of the node, and with it of
//! every client. So the port is never full for a new connection. The one that gives way for it
//!
//! 1. is waited for only to close, then
//! 2. has not sent a whole request yet, then
//! 3. is kept open between two requests (RFC 9112 §9.3 lets a server close it at any time), then
//! 4. does not take its answer;
//!
//! of several, the one that has been so for longest. A request in progress never gives way; there are fewer of those than places.
//! Where no descriptor is left, spare ones are freed for new connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::sys::socket::{Shutdown, shutdown};

use tidegate_core::limits::{ADMIN_CONNECTIONS, ADMIN_PROBES};

/// Descriptors that are kept for connections to this port.
const SPARE_DESCRIPTORS: usize = 8;

/// What a connection is doing; the first gives way first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// Its last answer is sent, and the peer's close is waited for.
    Lingering,
    /// No whole request came yet.
    Silent,
    /// Between two requests.
    Idle,
    /// It is sent an answer.
    Answering,
    /// A request is in progress that may take time.
    Working,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    fd: RawFd,
    stage: Stage,
    /// The number of the change that led to this stage.
    since: u64,
    /// Its socket is shut down; its task ends when it runs next.
    given_way: bool,
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: RefCell<HashMap<u64, Record>>,
    changes: Cell<u64>,
    given_way: Cell<u64>,
    spare: RefCell<Vec<OwnedFd>>,
}

/// The place of one connection, until it is dropped. Drop it before the socket is closed.
#[derive(Debug)]
pub(super) struct Place {
    places: Rc<Places>,
    id: u64,
}

impl Places {
    /// A place for the connection with the socket `fd`. Another connection gives way for it where all are taken; `None` where
    /// none can.
    pub(super) fn take(self: &Rc<Self>, fd: RawFd) -> Option<Place> {
        if self.open() >= ADMIN_CONNECTIONS && !self.free_one() {
            return None;
        }
        let id = self.next_change();
        let record = Record { fd, stage: Stage::Silent, since: id, given_way: false };
        self.taken.borrow_mut().insert(id, record);
        Some(Place { places: self.clone(), id })
    }

    /// Open connections.
    pub(super) fn open(&self) -> usize {
        self.taken.borrow().values().filter(|record| !record.given_way).count()
    }

    /// Connections that gave way so far.
    pub(super) fn given_way(&self) -> u64 {
        self.given_way.get()
    }

    /// Keeps descriptors for the time when none is left.
    pub(super) fn keep_descriptors(&self, source: impl AsFd) {
        let mut spare = self.spare.borrow_mut();
        while spare.len() < SPARE_DESCRIPTORS {
            let Ok(copy) = source.as_fd().try_clone_to_owned() else { return };
            spare.push(copy);
        }
    }

    /// Frees a descriptor: a spare one at once, else that of a connection, which its task closes when it runs next. Whether it
    /// is free now.
    pub(super) fn free_descriptor(&self) -> bool {
        if self.spare.borrow_mut().pop().is_some() {
            return true;
        }
        self.free_one();
        false
    }

    fn free_one(&self) -> bool {
        let mut taken = self.taken.borrow_mut();
        let yielding = taken.values_mut().filter(|record| !record.given_way && record.stage != Stage::Working);
        let Some(record) = yielding.min_by_key(|record| (record.stage, record.since)) else { return false };
        record.given_way = true;
        self.given_way.set(self.given_way.get() + 1);
        // It may be closed by its peer already.
        let _ = shutdown(record.fd, Shutdown::Both);
        true
    }

    fn next_change(&self) -> u64 {
        self.changes.set(self.changes.get() + 1);
        self.changes.get()
    }
}

impl Place {
    /// The connection enters a stage.
    pub(super) fn enter(&self, stage: Stage) {
        let since = self.places.next_change();
        if let Some(record) = self.places.taken.borrow_mut().get_mut(&self.id) {
            (record.stage, record.since) = (stage, since);
        }
    }

    /// Enters [`Stage::Working`], where the places that are kept for probes allow that.
    pub(super) fn begin_work(&self) -> bool {
        let working = self.places.taken.borrow().values().filter(|record| record.stage == Stage::Working).count();
        let may = working < ADMIN_CONNECTIONS - ADMIN_PROBES;
        if may {
            self.enter(Stage::Working);
        }
        may
    }

    /// The peer's close is waited for on another descriptor of the socket.
    pub(super) fn linger_on(&self, fd: RawFd) {
        self.enter(Stage::Lingering);
        if let Some(record) = self.places.taken.borrow_mut().get_mut(&self.id) {
            record.fd = fd;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A connection: the peer's end, ours, and its place.
    struct Held {
        peer: UnixStream,
        _ours: UnixStream,
        place: Place,
    }

    impl Held {
        fn at(places: &Rc<Places>, stage: Stage) -> Self {
            let (peer, ours) = UnixStream::pair().unwrap();
            peer.set_nonblocking(true).unwrap();
            let place = places.take(ours.as_raw_fd()).unwrap();
            place.enter(stage);
            Self { peer, _ours: ours, place }
        }

        fn gave_way(&mut self) -> bool {
            matches!(self.peer.read(&mut [0]), Ok(0))
        }
    }

    fn taken(places: &Rc<Places>, stages: &[Stage]) -> Vec<Held> {
        let filled = stages.iter().copied().chain(std::iter::repeat(Stage::Working)).take(ADMIN_CONNECTIONS);
        filled.map(|stage| Held::at(places, stage)).collect()
    }

    #[test]
    fn for_a_new_connection_the_silent_one_gives_way_first_then_the_longest_idle_one() {
        let places = Rc::new(Places::default());
        let stages = [Stage::Answering, Stage::Idle, Stage::Idle, Stage::Silent, Stage::Silent, Stage::Lingering];
        let mut held = taken(&places, &stages);
        // The first idle one has had a request since.
        held[1].place.enter(Stage::Answering);
        held[1].place.enter(Stage::Idle);
        let mut news = Vec::new();
        for next in [5, 3, 4, 2, 1, 0] {
            assert!(!held[next].gave_way());
            news.push(Held::at(&places, Stage::Working));
            assert!(held[next].gave_way(), "{next}");
        }
        assert_eq!((places.given_way(), places.open()), (6, ADMIN_CONNECTIONS));
        let (_, ours) = UnixStream::pair().unwrap();
        assert!(places.take(ours.as_raw_fd()).is_none(), "a request in progress gives way to nothing");
        assert!(news.iter_mut().all(|new| !new.gave_way()));
    }

    #[test]
    fn requests_in_progress_leave_places_for_probes() {
        let places = Rc::new(Places::default());
        let held: Vec<Held> = (0..ADMIN_CONNECTIONS).map(|_| Held::at(&places, Stage::Silent)).collect();
        let working = held.iter().filter(|held| held.place.begin_work()).count();
        assert_eq!(working, ADMIN_CONNECTIONS - ADMIN_PROBES);
        held[0].place.enter(Stage::Idle);
        assert!(held[ADMIN_CONNECTIONS - 1].place.begin_work(), "one is done");
    }

    #[test]
    fn spare_descriptors_are_freed_one_by_one_and_kept_again() {
        let places = Rc::new(Places::default());
        let (source, _peer) = UnixStream::pair().unwrap();
        places.keep_descriptors(&source);
        assert_eq!((0..=SPARE_DESCRIPTORS).filter(|_| places.free_descriptor()).count(), SPARE_DESCRIPTORS);
        let mut idle = Held::at(&places, Stage::Idle);
        assert!(!places.free_descriptor(), "it is free once the connection's task has run");
        assert!(idle.gave_way());
        places.keep_descriptors(&source);
        assert!(places.free_descriptor());
    }
}
