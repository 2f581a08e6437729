use super::*;
use crate::connection::{Flags, PIECE_BYTES};
use crate::counters::DropReason;
use crate::model::GapReason;
use crate::shard::test_driver::{Deed, TestDriver, open, turn};

fn sent(text: &str) -> Deed {
    Deed::Sent(text.as_bytes().to_vec())
}

fn chunk(text: &str, tag: Tag) -> Chunk {
    Chunk::whole(Rc::from(text.as_bytes()), tag, 1)
}

/// The socket takes more.
fn catch_up(writer: &mut Writer<TestDriver>, turn: &mut Turn, clients: &mut Clients, handle: Handle) {
    clients.write_on(handle);
    while clients.writing_len() > 0 {
        writer.write_on(turn, clients, usize::MAX);
    }
}

#[test]
fn an_answer_goes_out_behind_what_the_drivers_batch_holds_for_the_connection() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 2);
    let mut writer = Writer::new(TestDriver::new(""));
    writer.deliver(&mut turn, &mut clients, handles[0], &chunk("message", Tag::Control));
    writer.reply_ping();
    writer.flush(&mut turn, &mut clients, handles[0]);
    assert_eq!(writer.driver.deeds, [sent("message"), Deed::Sent(vec![0x89, 0])]);
    assert_eq!(writer.reply_len(), 0);
}

#[test]
fn what_the_socket_does_not_take_waits_in_the_outbox_and_the_fin_follows_it() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 1);
    let handle = handles[0];
    let mut writer = Writer::new(TestDriver::new(""));
    writer.driver.room = 3;
    writer.transmit(&mut turn, &mut clients, handle, b"goodbye");
    writer.finish_after_outbox(&mut clients, handle);
    assert_eq!((&writer.driver.deeds[..], turn.counters.outbox_unread_bytes.value()), (&[sent("goo")][..], 4));
    assert!(clients.find(handle).unwrap().flags.has(Flags::FIN_AFTER_OUTBOX));
    writer.driver.room = 100;
    catch_up(&mut writer, &mut turn, &mut clients, handle);
    assert_eq!(writer.driver.deeds, [sent("goo"), sent("dbye"), Deed::Fin]);
    assert_eq!((turn.counters.outbox_bytes.value(), clients.find(handle).unwrap().state), (0, State::Lingering));
}

#[test]
fn a_slow_reader_of_a_room_that_may_drop_is_told_the_gap_in_its_place() {
    let mut turn = turn(1, |options, _| options.limits.outbox_bytes = 4_000);
    let room = turn.names.insert("lobby".into());
    let (mut clients, handles) = open(&turn, 1);
    let handle = handles[0];
    let mut writer = Writer::new(TestDriver::new(""));
    writer.driver.room = 1;
    let texts = ["begun", "dropped", "kept", "newest"].map(|text| format!("{text:1000}"));
    for text in &texts {
        writer.deliver(&mut turn, &mut clients, handle, &chunk(text, Tag::Room { room, may_drop: true }));
        writer.submit(&mut turn, &mut clients);
    }
    assert!(clients.is_open(handle) && turn.endings.is_empty());
    writer.driver.room = usize::MAX;
    catch_up(&mut writer, &mut turn, &mut clients, handle);
    let heard = String::from_utf8_lossy(&writer.driver.sent_octets()).into_owned();
    let rest = heard.strip_prefix(&texts[0]).unwrap();
    let gap = rest.strip_suffix(&format!("{}{}", texts[2], texts[3])).unwrap();
    assert!(gap.contains(r#""type":"gap""#) && gap.contains(r#""roomId":"lobby""#), "{gap}");
    assert_eq!(turn.counters.gaps[GapReason::Outbox as usize].value(), 1);
}

#[test]
fn a_slow_reader_of_a_room_that_may_not_drop_is_closed_with_what_it_has() {
    let mut turn = turn(1, |options, _| options.limits.outbox_bytes = 15 + 2 * PIECE_BYTES);
    let (mut clients, handles) = open(&turn, 1);
    let mut writer = Writer::new(TestDriver::new(""));
    writer.driver.room = 1;
    for text in ["begun...", "second..", "third..."] {
        let tag = Tag::Room { room: 0, may_drop: false };
        writer.deliver(&mut turn, &mut clients, handles[0], &chunk(text, tag));
        writer.submit(&mut turn, &mut clients);
    }
    assert!(!clients.is_open(handles[0]));
    assert_eq!(clients.find(handles[0]).unwrap().reason, Some(CloseReason::SlowReader));
    assert_eq!(turn.counters.outbox_unread_bytes.value(), 15, "what is queued stays until the end is carried out");
}

#[test]
fn a_failed_send_of_a_batch_is_taken_off_the_count_of_octets() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 2);
    let mut writer = Writer::new(TestDriver::new(""));
    writer.driver.room = 7;
    for handle in handles {
        writer.deliver(&mut turn, &mut clients, handle, &chunk("message", Tag::Control));
    }
    writer.submit(&mut turn, &mut clients);
    writer.count_queued(&turn);
    assert_eq!(turn.counters.bytes_out.value(), 7);
}

#[test]
fn messages_are_counted_when_the_socket_has_taken_them_and_never_where_they_are_dropped() {
    // ws_messages_total counted every message before its send: those too that an outbox dropped, or that a close took with it.
    let mut turn = turn(1, |options, _| options.limits.outbox_bytes = 2_500);
    let room = turn.names.insert("lobby".into());
    let (mut clients, handles) = open(&turn, 1);
    let mut writer = Writer::new(TestDriver::new(""));
    let messages = |turn: &Turn| turn.counters.messages_out[MessageType::Message as usize].value();
    let tag = Tag::Room { room, may_drop: true };
    for number in 0..4 {
        writer.driver.room = if number == 0 { 1_000 } else { 0 };
        writer.deliver(&mut turn, &mut clients, handles[0], &chunk(&"x".repeat(1_000), tag));
        writer.submit(&mut turn, &mut clients);
        writer.count_queued(&turn);
        assert_eq!(messages(&turn), 1, "the first fits, and no other");
    }
    turn.clock.mono_ns += 40_000_000;
    writer.driver.room = usize::MAX;
    catch_up(&mut writer, &mut turn, &mut clients, handles[0]);
    assert_eq!((messages(&turn), turn.counters.dropped[DropReason::Outbox as usize].value()), (2, 2));
    assert_eq!(turn.counters.outbox_wait.sum_ns.value(), 40_000_000, "how long the one that was not dropped waited");
}

/// Connections with an outbox of frames of three octets each, as `octets` of them as fit.
fn stopped_readers(
    writer: &mut Writer<TestDriver>,
    turn: &mut Turn,
    clients: &mut Clients,
    handles: &[Handle],
    octets: usize,
) {
    writer.driver.room = 0;
    for handle in handles {
        writer.transmit(turn, clients, *handle, b"begun");
        for _ in 0..octets / 3 {
            writer.deliver(turn, clients, *handle, &chunk("abc", Tag::Room { room: 0, may_drop: false }));
        }
    }
    writer.driver.room = usize::MAX;
}

#[test]
fn a_reader_of_small_frames_that_comes_back_is_sent_many_with_each_send_and_a_share_in_each_turn() {
    // Each frame of an outbox was a send of its own, and all were sent within the event that told of room: 100 readers of frames of
    // three octets that read again after a pause had every other client of their shard wait for more than a second.
    const OCTETS: usize = 200_000;
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 100);
    let mut writer = Writer::new(TestDriver::new(""));
    stopped_readers(&mut writer, &mut turn, &mut clients, &handles, OCTETS);
    handles.iter().for_each(|handle| clients.write_on(*handle));
    let (mut sends, mut octets, mut turns) = (0, 0, 0);
    while clients.writing_len() > 0 {
        let used = writer.write_on(&mut turn, &mut clients, 32);
        let sent = writer.driver.sent_octets().len();
        assert!(sent <= 3 * outbox::VISIT_BYTES, "{sent} octets in one turn");
        assert!(used >= writer.driver.deeds.len(), "{used} for {} sends", writer.driver.deeds.len());
        (sends, octets, turns) = (sends + writer.driver.deeds.len(), octets + sent, turns + 1);
        writer.driver.deeds.clear();
    }
    assert_eq!(octets, 100 * (5 + OCTETS / 3 * 3));
    assert!(sends <= octets / outbox::GATHERED_BYTES + 4 * 100, "{sends} sends");
    assert!(turns >= 100, "{turns} turns");
    assert_eq!(turn.counters.outbox_bytes.value(), 0);
}

#[test]
fn readers_that_come_back_take_turns() {
    let mut turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 2);
    let mut writer = Writer::new(TestDriver::new(""));
    stopped_readers(&mut writer, &mut turn, &mut clients, &handles, 100_000);
    handles.iter().for_each(|handle| clients.write_on(*handle));
    for (of_first, of_second) in [(1, 0), (1, 1), (2, 1)] {
        writer.write_on(&mut turn, &mut clients, 1);
        let left = [of_first, of_second].map(|visits| 100_004_usize.saturating_sub(visits * outbox::VISIT_BYTES));
        let unread =
            [0, 1].map(|n| clients.find(handles[n]).unwrap().outbox.as_ref().map_or(0, |it| it.unread_bytes()));
        assert_eq!(unread, left);
    }
}

#[test]
fn a_reader_that_takes_more_is_not_closed_for_what_waits_for_its_turn() {
    let mut turn = turn(1, |options, _| options.limits.outbox_bytes = 4_096);
    let (mut clients, handles) = open(&turn, 1);
    let mut writer = Writer::new(TestDriver::new(""));
    stopped_readers(&mut writer, &mut turn, &mut clients, &handles, 2_000);
    clients.write_on(handles[0]);
    writer.deliver(&mut turn, &mut clients, handles[0], &chunk(&"x".repeat(3_000), Tag::Control));
    writer.deliver(&mut turn, &mut clients, handles[0], &chunk("last", Tag::Control));
    assert!(clients.is_open(handles[0]), "its socket takes everything");
    catch_up(&mut writer, &mut turn, &mut clients, handles[0]);
    assert!(writer.driver.sent_octets().ends_with(b"xlast"));
    assert_eq!(writer.driver.sent_octets().len(), 5 + 1_998 + 3_004);
}

#[test]
fn a_release_frees_its_own_slot_and_keeps_what_the_driver_tells_of_others() {
    let turn = turn(1, |_, _| {});
    let (mut clients, handles) = open(&turn, 2);
    let mut writer = Writer::new(TestDriver::new(""));
    writer.driver.told_by_release.push(Event::Released(handles[1]));
    assert!(!writer.release(&mut clients, handles[0], false), "the driver has not released it yet");
    let later = writer.take_later().unwrap();
    assert!(matches!(later[..], [Event::Released(other)] if other == handles[1]), "{later:?}");
    writer.driver.told_by_release.push(Event::Released(handles[0]));
    assert!(writer.release(&mut clients, handles[0], false) && writer.take_later().is_none());
}
