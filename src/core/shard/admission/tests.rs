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
    let admission = Admission::new(&turn.settings.options);
    let clients = Clients::new(turn.settings.slots);
    Parts { turn, admission, writer: Writer::new(TestDriver::new("")), clients }
}

impl Parts {
    fn accept(&mut self, fd: Fd) -> Option<Handle> {
        self.accept_from(fd, None)
    }

    fn accept_from(&mut self, fd: Fd, address: Option<&str>) -> Option<Handle> {
        let before = self.clients.len();
        let arrival = Arrival { address: address.map(|address| address.parse().unwrap()), queued_us: 0 };
        self.admission.accept(&mut self.turn, &mut self.writer, &mut self.clients, fd, arrival);
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
fn above_the_handshake_cap_the_oldest_unfinished_handshake_is_answered_503_and_gives_way() {
    // New ones were refused instead: a client that opened connections and said nothing kept all others out.
    let mut parts = parts(|options, _| options.limits.handshakes_per_shard = 1);
    let oldest = parts.accept(7).unwrap();
    assert!(parts.accept(8).is_some());
    assert_eq!(parts.turn.endings, [Ending::Refuse(oldest, Refusal::Displaced)]);
    let Parts { turn, admission, writer, clients } = &mut parts;
    turn.endings.clear();
    admission.answer_refusal(turn, writer, clients, oldest, Refusal::Displaced);
    assert!(
        matches!(turn.endings.front(), Some(Ending::Gone(gone, ..)) if *gone == oldest),
        "without waiting for its FIN"
    );
    let answer = parts.answered();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After: "), "{answer}");
}

#[test]
fn an_address_may_have_a_quarter_of_the_unfinished_handshakes_and_its_own_oldest_gives_way() {
    // One address took all of them.
    let mut parts = parts(|options, budgets| {
        options.limits.handshakes_per_shard = 16;
        budgets.connections = 100;
    });
    let another = parts.accept_from(1, Some("192.0.2.1")).unwrap();
    let loud: Vec<Handle> = (0..4).map(|fd| parts.accept_from(10 + fd, Some("2001:db8::1")).unwrap()).collect();
    assert!(parts.turn.endings.is_empty());
    parts.accept_from(20, Some("2001:db8::2")).unwrap();
    assert_eq!(parts.turn.endings, [Ending::Refuse(loud[0], Refusal::Displaced)], "of the same /64");
    parts.accept_from(21, Some("192.0.2.1")).unwrap();
    parts.accept_from(22, None).unwrap();
    assert_eq!(parts.turn.endings.len(), 1, "others have their own share");
    assert_eq!(parts.clients.find(another).unwrap().state, State::Handshaking);
}

#[test]
fn an_address_over_its_connections_is_answered_429_and_may_connect_again_when_one_has_ended() {
    let mut parts = parts(|options, _| options.per_address = PerAddress::new(Some(1)));
    let open = |parts: &mut Parts, fd, address| {
        let handle = parts.accept_from(fd, Some(address)).unwrap();
        (handle, parts.read(handle, REQUEST).is_some())
    };
    let (first, upgraded) = open(&mut parts, 7, "192.0.2.1");
    assert!(upgraded && open(&mut parts, 8, "192.0.2.2").1);
    let (second, upgraded) = open(&mut parts, 9, "192.0.2.1");
    assert!(!upgraded);
    assert_eq!(parts.turn.endings, [Ending::Refuse(second, Refusal::AddressConnections)]);
    parts.admission.leave_address(&parts.turn, first);
    parts.admission.leave_address(&parts.turn, second);
    assert!(open(&mut parts, 10, "192.0.2.1").1);
}

#[test]
fn a_full_node_refuses_upgrades_and_still_answers_health_checks() {
    let mut parts = parts(|_, budgets| budgets.connections = 1);
    let [first, second, third] = [7, 8, 9].map(|fd| parts.accept(fd).unwrap());
    assert!(parts.read(first, REQUEST).is_some() && parts.read(second, REQUEST).is_none());
    assert_eq!(parts.turn.endings, [Ending::Refuse(second, Refusal::Capacity)]);
    parts.answered();
    assert!(parts.read(third, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_none());
    assert!(parts.answered().starts_with("HTTP/1.1 200 "));
}

#[test]
fn sockets_that_say_nothing_take_no_clients_place() {
    // They counted as connections: with `max_connections` of them open and silent, no client was let in.
    let mut parts = parts(|_, budgets| budgets.connections = 2);
    let handles: Vec<Handle> = (0..9).map(|fd| parts.accept(fd).unwrap()).collect();
    assert!(parts.read(handles[8], REQUEST).is_some());
}

#[test]
fn the_duration_of_a_handshake_begins_before_the_connection_was_accepted() {
    // A stalled accept queue did not show: upgrades that took 220 ms were 0.06 ms.
    let mut parts = parts(|_, _| {});
    let arrival = Arrival { address: None, queued_us: 300_000 };
    parts.admission.accept(&mut parts.turn, &mut parts.writer, &mut parts.clients, 7, arrival);
    let handle = parts.clients.handle_at(0).unwrap();
    parts.turn.clock.mono_ns += 50_000_000;
    assert!(parts.read(handle, REQUEST).is_some());
    assert_eq!(parts.turn.counters.handshake_duration.sum_ns.value(), 350_000_000);
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
