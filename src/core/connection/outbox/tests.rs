use super::*;

const fn droppable(room: u32) -> Tag {
    Tag::Room { room, may_drop: true }
}

const fn kept(room: u32) -> Tag {
    Tag::Room { room, may_drop: false }
}

fn chunk(text: &str, tag: Tag) -> Chunk {
    Chunk::whole(Rc::from(text.as_bytes()), tag, 1)
}

const fn at(tick: Tick) -> Moment {
    Moment { tick, mono_ms: 100 * tick }
}

/// An outbox and the account of its shard.
#[derive(Default)]
struct Stage {
    outbox: Outbox,
    account: Account,
}

impl Stage {
    fn begin(&mut self, text: &str, tag: Tag, sent: usize) {
        self.outbox.begin(&chunk(text, tag), sent, at(0), &mut self.account);
    }

    fn push(&mut self, text: &str, tag: Tag, cap: usize, tick: Tick) -> Result<(), Overflow> {
        self.outbox.push(Frames::Shared(&chunk(text, tag)), cap, at(tick), &mut self.account)
    }

    fn drop_oldest(&mut self) -> Option<Dropped> {
        self.outbox.drop_oldest(&mut self.account)
    }

    /// Sends what waits, `most` octets at a time; the octets, and how many sends they took.
    fn send_all(&mut self, most: usize) -> (Vec<u8>, usize) {
        let (mut sent, mut sends, mut scratch) = (Vec::new(), 0, Vec::new());
        while !self.outbox.is_empty() {
            let next = self.outbox.next_bytes(most, most, &mut scratch);
            let length = next.len();
            assert!((1..=most).contains(&length));
            sent.extend_from_slice(next);
            self.outbox.advance(length, &mut self.account, |_| ());
            sends += 1;
        }
        (sent, sends)
    }
}

const CAP: usize = 256 * 1024;

#[test]
fn what_is_queued_comes_out_in_order_and_in_any_pieces() {
    for most in [1, 2, 3, 7, 100] {
        let mut stage = Stage::default();
        stage.begin("hello", Tag::Control, 2);
        stage.push("world", droppable(1), CAP, 8).unwrap();
        stage.push(&"x".repeat(600), droppable(1), CAP, 8).unwrap();
        stage.push("end", Tag::Control, CAP, 8).unwrap();
        assert_eq!(stage.send_all(most).0, format!("lloworld{}end", "x".repeat(600)).as_bytes());
        assert_eq!((stage.outbox.counted_bytes(), stage.outbox.oldest()), (0, None));
        stage.outbox.end(&mut stage.account);
        assert_eq!((stage.account.memory_bytes(), stage.account.unread_bytes()), (0, 0));
    }
}

#[test]
fn an_outbox_of_small_frames_takes_no_more_memory_than_it_counts() {
    // An outbox was charged the octets of its frames alone. With frames of three octets, each of which took 48 bytes of the queue
    // and a buffer, 256 KiB of charge were 4 MiB of memory: a node with 200 readers that had stopped was killed by its
    // container's limit long before a cap was reached.
    let mut interleaved = 0;
    for interleave in [false, true] {
        let mut stage = Stage::default();
        stage.begin("begun", Tag::Control, 1);
        let mut frames = 0;
        while stage.push("abc", droppable(if interleave { frames % 2 } else { 0 }), CAP, frames / 1_000).is_ok() {
            frames += 1;
        }
        let memory = stage.account.memory_bytes() as usize;
        assert!(memory <= CAP + CAP / 8, "{frames} frames take {memory} bytes");
        assert!(stage.outbox.counted_bytes() <= CAP);
        if interleave {
            interleaved = frames;
        } else {
            assert!(frames as usize > CAP / 3 * 9 / 10, "frames of one kind lie together: {frames}");
        }
    }
    assert!((1_000..3_000).contains(&interleaved), "frames that cannot lie together count their place: {interleaved}");
}

#[test]
fn small_frames_leave_together_in_one_send() {
    let mut stage = Stage::default();
    stage.begin("begun", Tag::Control, 1);
    (0..10_000).for_each(|_| stage.push("abc", kept(0), CAP, 0).unwrap());
    let (octets, sends) = stage.send_all(16 * 1024);
    assert_eq!((octets.len(), sends), (30_004, 2));
}

#[test]
fn the_cap_counts_octets_unread_and_a_place_for_each_piece() {
    let mut stage = Stage::default();
    stage.begin("0123456789", Tag::Control, 9);
    let cap = 1 + 2 + 2 * PIECE_BYTES;
    assert_eq!(stage.push("abc", Tag::Control, cap, 0), Err(Overflow));
    assert_eq!(stage.push("ab", Tag::Control, cap, 0), Ok(()));
    assert_eq!(stage.outbox.counted_bytes(), cap);
}

#[test]
fn ranges_of_one_buffer_are_charged_once_and_count_their_own_octets() {
    // A member that published with `echo: false` got a batch without its own messages as ranges of one buffer. Each range was
    // charged with the whole buffer: with 23 KB unread of the 256 KiB that it may leave, it was closed as a slow reader.
    let mut stage = Stage::default();
    let buffer: Rc<[u8]> = Rc::from(vec![b'x'; 24_000]);
    stage.begin("begun", Tag::Control, 1);
    for range in 0..3 {
        let whole = Chunk::whole(buffer.clone(), kept(1), 1);
        let range = Chunk { start: 8_000 * range, end: 8_000 * range + 7_000, ..whole };
        stage.outbox.push(Frames::Shared(&range), CAP, at(0), &mut stage.account).unwrap();
    }
    assert_eq!(stage.outbox.counted_bytes(), 4 + 21_000 + 4 * PIECE_BYTES);
    assert!((24_000..25_500).contains(&stage.account.memory_bytes()), "{}", stage.account.memory_bytes());
    assert_eq!(stage.account.unread_bytes(), 21_004);
}

#[test]
fn a_buffer_that_many_outboxes_share_is_charged_once_until_the_last_lets_it_go() {
    let (mut account, buffer) = (Account::default(), Chunk::whole(Rc::from(vec![b'x'; 60_000]), kept(1), 1));
    let mut outboxes: Vec<Outbox> = (0..50).map(|_| Outbox::default()).collect();
    outboxes.iter_mut().for_each(|outbox| outbox.begin(&buffer, 10, at(0), &mut account));
    assert!((60_000..100_000).contains(&account.memory_bytes()), "{}", account.memory_bytes());
    assert_eq!(account.unread_bytes(), 50 * 59_990);
    let last = outboxes.pop();
    outboxes.iter_mut().for_each(|outbox| outbox.end(&mut account));
    assert!((60_000..61_000).contains(&account.memory_bytes()));
    last.into_iter().for_each(|mut outbox| outbox.end(&mut account));
    assert_eq!((account.memory_bytes(), account.unread_bytes()), (0, 0));
    assert_eq!(Rc::strong_count(&buffer.buffer), 1);
}

#[test]
fn a_small_part_of_a_large_buffer_is_copied_and_does_not_keep_the_buffer() {
    let mut stage = Stage::default();
    let whole = chunk(&"x".repeat(30_000), kept(1));
    stage.outbox.begin(&whole, 29_900, at(0), &mut stage.account);
    let part = Chunk { start: 0, end: 6_000, ..whole };
    stage.outbox.push(Frames::Shared(&part), CAP, at(0), &mut stage.account).unwrap();
    assert_eq!(Rc::strong_count(&part.buffer), 1);
    assert!(stage.account.memory_bytes() < 7_000, "{}", stage.account.memory_bytes());
}

#[test]
fn the_oldest_is_dropped_but_never_a_begun_frame_or_an_answer() {
    let mut stage = Stage::default();
    stage.begin("begun", droppable(1), 1);
    for (text, tag) in [("answer", Tag::Control), ("other", kept(2)), ("old", droppable(1)), ("new", droppable(1))] {
        stage.push(text, tag, CAP, text.len() as Tick).unwrap();
    }
    assert_eq!(stage.drop_oldest(), Some(Dropped { room: 1, messages: 2, at: 3 }), "those of one tick go together");
    assert_eq!(stage.drop_oldest(), None, "only the begun one is left of the room");
    assert_eq!(stage.send_all(100).0, b"egunanswerother");
}

#[test]
fn frames_that_may_be_dropped_are_dropped_with_no_others_and_a_sixteenth_of_the_cap_at_most() {
    let mut stage = Stage::default();
    stage.begin("begun", Tag::Control, 1);
    stage.push("answer", Tag::Control, 4_096, 0).unwrap();
    for _ in 0..100 {
        stage.push("0123456789", droppable(1), 4_096, 0).unwrap();
    }
    stage.push("another", droppable(2), 4_096, 0).unwrap();
    stage.push("answer", kept(3), 4_096, 0).unwrap();
    assert_eq!(stage.drop_oldest(), Some(Dropped { room: 1, messages: 25, at: 2 }));
    assert!((0..3).all(|_| stage.drop_oldest().is_some()));
    assert_eq!(stage.drop_oldest(), Some(Dropped { room: 2, messages: 1, at: 2 }));
    assert_eq!(stage.send_all(100).0, b"egunansweranswer");
}

#[test]
fn the_age_of_the_oldest_octets_is_not_that_of_frames_that_are_out_already() {
    // Were frames of several ticks in one buffer, a reader that is always a second behind would seem to stall.
    let mut stage = Stage::default();
    stage.begin("b", Tag::Control, 0);
    (1..=50).for_each(|tick| stage.push("abc", kept(1), CAP, tick).unwrap());
    stage.outbox.advance(1 + 3 * 20, &mut stage.account, |_| ());
    assert_eq!(stage.outbox.oldest(), Some(21));
}

#[test]
fn messages_count_as_sent_when_their_last_octet_is_out() {
    let mut stage = Stage::default();
    stage.begin("begun", Tag::Control, 1);
    (0..4).for_each(|_| stage.push("abc", kept(1), CAP, 2).unwrap());
    let mut complete = Vec::new();
    stage.outbox.advance(4 + 11, &mut stage.account, |sent| complete.push(sent));
    assert_eq!(complete, [Sent { messages: 1, since: at(0) }]);
    stage.outbox.advance(1, &mut stage.account, |sent| complete.push(sent));
    assert_eq!(complete[1..], [Sent { messages: 4, since: at(2) }]);
}

#[test]
fn a_queue_that_gets_shorter_gives_its_memory_back() {
    let mut stage = Stage::default();
    stage.begin("begun", Tag::Control, 1);
    (0..1_000).for_each(|n| stage.push("abc", droppable(n % 2), CAP, 0).unwrap());
    let most = stage.account.memory_bytes();
    stage.outbox.advance(4 + 3 * 990, &mut stage.account, |_| ());
    assert!(stage.account.memory_bytes() < most / 20, "{} of {most}", stage.account.memory_bytes());
}

#[test]
fn what_waits_of_a_room_that_was_left_is_kept_and_no_notice_of_it_stands_for_another_room() {
    let mut stage = Stage::default();
    stage.begin("begun", Tag::Control, 1);
    stage.push("old", droppable(1), CAP, 0).unwrap();
    stage.outbox.tell_gap(1, b"gap", 1, at(0), &mut stage.account);
    stage.outbox.forget_room(1);
    assert!(!stage.outbox.tells_gap(1));
    assert_eq!(stage.drop_oldest(), None);
}

#[test]
fn what_was_queued_before_a_send_fell_short_follows_its_rest() {
    // A send that the driver could not hand over in this turn may fall short when the next frames wait already.
    let mut stage = Stage::default();
    stage.push("second", Tag::Control, CAP, 0).unwrap();
    stage.begin("first", Tag::Control, 2);
    assert_eq!(stage.send_all(100).0, b"rstsecond");
}
