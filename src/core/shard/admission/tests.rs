use super::*;
use crate::dialect::DialectId;
use crate::shard::settings::{Budgets, Options};
use crate::shard::teardown::Ending;
use crate::shard::test_driver::{Deed, REQUEST, TestDriver, turn};
use handshake::Upgraded;

/// A shard's parts that admission is given, with sockets that take everything.
struct Parts {
    turn: Turn,
    admission: Admission,
    writer: Writer<TestDriver>,
    clients: Clients,
}

fn parts(configure: impl FnOnce(&mut Options, &mut Budgets)) -> Parts {
    let turn = turn(1, configure);
    let admission = Admission::new(turn.settings.options.connection_rate);
    let clients = Clients::new(turn.settings.slots);
    Parts { turn, admission, writer: Writer::new(TestDriver::new("")), clients }
}

impl Parts {
    fn accept(&mut self, fd: Fd) -> Option<Handle> {
        let before = self.clients.len();
        self.admission.accept(&mut self.turn, &mut self.writer, &mut self.clients, fd);
        (self.clients.len() > before).then(|| self.clients.handle_at(before as u32).unwrap())
    }

    fn read(&mut self, handle: Handle, octets: &str) -> Option<Upgraded> {
        let Self { turn, admission, writer, clients } = self;
        admission.handle_head(turn, writer, clients, handle, octets.as_bytes())
    }

    /// What was answered, as text.
    fn answered(&mut self) -> String {
        let deeds = std::mem::take(&mut self.writer.driver().deeds);
        let sent = deeds.into_iter().filter_map(|deed| if let Deed::Sent(octets) = deed { Some(octets) } else { None });
        String::from_utf8(sent.flatten().collect()).unwrap()
    }
}

#[test]
fn a_request_that_comes_in_pieces_is_granted_when_it_is_complete() {
    let mut parts = parts(|_, _| {});
    let handle = parts.accept(7).unwrap();
    let (first, second) = REQUEST.split_at(40);
    assert!(parts.read(handle, first).is_none());
    assert_eq!((parts.admission.handshakes(), parts.admission.heads.len()), (1, 1));
    let upgraded = parts.read(handle, second).unwrap();
    assert_eq!((upgraded.dialect, upgraded.room), (DialectId::Native, None));
    assert_eq!((parts.admission.handshakes(), parts.admission.heads.len()), (0, 0), "nothing is kept of it");
    assert!(parts.clients.is_open(handle) && parts.turn.endings.is_empty());
}

#[test]
fn above_the_handshake_cap_a_connection_is_answered_at_once_and_takes_no_slot() {
    let mut parts = parts(|options, _| options.limits.handshakes_per_shard = 1);
    assert!(parts.accept(7).is_some());
    assert!(parts.accept(8).is_none());
    let answer = parts.answered();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After: "), "{answer}");
    assert_eq!(parts.turn.counters.refused[Refusal::ConnectionRate as usize].value(), 1);
}

#[test]
fn over_the_connection_rate_a_connection_is_refused_after_its_request_was_read() {
    let mut parts = parts(|options, _| options.connection_rate = 1);
    let [first, second] = [7, 8].map(|fd| parts.accept(fd).unwrap());
    assert!(parts.read(first, REQUEST).is_some());
    assert!(parts.read(second, REQUEST).is_none());
    assert_eq!(parts.turn.endings, [Ending::Refuse(second, Refusal::ConnectionRate)]);
}

#[test]
fn a_drain_refuses_upgrades_whose_connections_came_before_it() {
    let mut parts = parts(|_, _| {});
    let handle = parts.accept(7).unwrap();
    parts.admission.begin_drain(&parts.turn, 100);
    assert!(parts.admission.leaving(&parts.turn).is_some());
    assert!(parts.read(handle, REQUEST).is_none());
    assert_eq!(parts.turn.endings, [Ending::Refuse(handle, Refusal::Draining)]);
}

#[test]
fn a_refusal_for_a_mistake_of_the_client_is_counted_for_the_accept_back_off() {
    let mut parts = parts(|_, _| {});
    for (fd, refusal, invalid_requests) in
        [(7, Refusal::BadRequest, 1), (8, Refusal::Draining, 1), (9, Refusal::NotFound, 2)]
    {
        let handle = parts.accept(fd).unwrap();
        let Parts { turn, admission, writer, clients } = &mut parts;
        admission.answer_refusal(turn, writer, clients, handle, refusal);
        assert_eq!((admission.invalid_requests(), admission.handshakes()), (invalid_requests, 0), "{refusal:?}");
    }
}

#[test]
fn the_bucket_allows_one_seconds_burst_and_then_its_rate() {
    let mut bucket = Bucket::new(100);
    let taken = |bucket: &mut Bucket, now| (0..1000).take_while(|_| bucket.take(now)).count();
    assert_eq!(taken(&mut bucket, 1), 100);
    assert_eq!(taken(&mut bucket, 2), 10);
    assert_eq!(taken(&mut bucket, 1000), 100);
    assert!(Bucket::new(0).take(1));
}

#[test]
fn connections_that_come_with_every_tick_get_the_whole_rate_whatever_it_is() {
    for rate in [1, 9, 19, 5_001] {
        let mut bucket = Bucket::new(rate);
        while bucket.take(7) {}
        let in_a_tick = |bucket: &mut Bucket, now| (0..10_000).take_while(|_| bucket.take(now)).count();
        let gained: usize = (8..=107).map(|now| in_a_tick(&mut bucket, now)).sum();
        assert_eq!(gained, 10 * rate as usize, "{rate} a second, for ten seconds");
    }
}
