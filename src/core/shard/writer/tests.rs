use super::*;
use crate::connection::Flags;
use crate::model::GapReason;
use crate::shard::test_driver::{Deed, TestDriver, open, turn};

fn sent(text: &str) -> Deed {
    Deed::Sent(text.as_bytes().to_vec())
}

fn chunk(text: &str, tag: Tag) -> Chunk {
    Chunk::whole(Rc::from(text.as_bytes()), tag, 1)
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
    assert_eq!((&writer.driver.deeds[..], turn.counters.outbox_bytes.value()), (&[sent("goo")][..], 7));
    assert!(clients.find(handle).unwrap().flags.has(Flags::FIN_AFTER_OUTBOX));
    writer.driver.room = 100;
    writer.flush_outbox(&mut turn, &mut clients, handle);
    assert_eq!(writer.driver.deeds, [sent("goo"), sent("dbye"), Deed::Fin]);
    assert_eq!((turn.counters.outbox_bytes.value(), clients.find(handle).unwrap().state), (0, State::Lingering));
}

#[test]
fn a_slow_reader_of_a_room_that_may_drop_is_told_the_gap_in_its_place() {
    let mut turn = turn(1, |options, _| options.limits.outbox_bytes = 3_500);
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
    writer.flush_outbox(&mut turn, &mut clients, handle);
    let [_, begun, Deed::Sent(gap), kept, newest] = &writer.driver.deeds[..] else {
        panic!("{:?}", writer.driver.deeds)
    };
    assert_eq!([begun, kept, newest], [&sent(&texts[0][1..]), &sent(&texts[2]), &sent(&texts[3])]);
    let gap = String::from_utf8_lossy(gap);
    assert!(gap.contains(r#""type":"gap""#) && gap.contains(r#""roomId":"lobby""#), "{gap}");
    assert_eq!(turn.counters.gaps[GapReason::Outbox as usize].value(), 1);
}

#[test]
fn a_slow_reader_of_a_room_that_may_not_drop_is_closed_with_what_it_has() {
    let mut turn = turn(1, |options, _| options.limits.outbox_bytes = 16);
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
    assert_eq!(turn.counters.outbox_bytes.value(), 16, "what is queued stays until the end is carried out");
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
