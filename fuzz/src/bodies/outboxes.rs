//! An outbox against a list of octets: what is sent is whole chunks in order, whatever is dropped, and the charge is right.

use std::rc::Rc;

use arbitrary::Arbitrary;
use tidegate_core::connection::{Chunk, Outbox, Overflow, Tag};

use super::with;

#[derive(Arbitrary)]
enum Act {
    Push { room: u8, len: u8 },
    Control { len: u8 },
    Advance(u8),
    DropOldest,
    ClearUnbegun,
}

#[derive(Arbitrary)]
struct Acts {
    cap: u16,
    first: Option<(u8, u8)>,
    acts: Vec<Act>,
}

/// A chunk in the model: its tag, all of its octets, how many are out, when it came.
#[derive(Clone, Debug)]
struct Waiting {
    tag: Tag,
    octets: Vec<u8>,
    sent: usize,
    since: u32,
}

/// See the module.
pub fn outbox(data: &[u8]) {
    with(data, |input: Acts| {
        let (mut outbox, mut model) = (Outbox::default(), Vec::<Waiting>::new());
        if let Some((len, sent)) = input.first {
            let (octets, sent) = (vec![0; 1 + usize::from(len)], usize::from(sent.min(len)));
            let tag = of_room(0);
            outbox.begin(chunk(&octets, tag), sent, 0);
            model.push(Waiting { tag, octets, sent, since: 0 });
        }
        for (now, act) in (1..).zip(&input.acts) {
            apply(act, now, usize::from(input.cap), &mut outbox, &mut model);
            let pinned: usize = model.iter().map(|waiting| waiting.octets.len()).sum();
            assert_eq!((outbox.pinned_bytes(), outbox.is_empty()), (pinned, model.is_empty()), "the charge is wrong");
            assert_eq!(outbox.oldest(), model.first().map(|waiting| waiting.since));
            let next = model.first().map(|waiting| &waiting.octets[waiting.sent..]);
            assert_eq!(outbox.front().map(Chunk::bytes), next, "the stream is out of step");
            for room in 0..4 {
                assert_eq!(outbox.tells_gap(room), model.iter().any(|waiting| waiting.tag == Tag::Gap(room)));
            }
        }
    });
}

fn apply(act: &Act, now: u32, cap: usize, outbox: &mut Outbox, model: &mut Vec<Waiting>) {
    match *act {
        Act::Push { room, len } => push(of_room(room), len, now, cap, outbox, model),
        Act::Control { len } => push(Tag::Control, len, now, cap, outbox, model),
        Act::Advance(by) => advance(usize::from(by), outbox, model),
        Act::DropOldest => drop_oldest(now, outbox, model),
        Act::ClearUnbegun => {
            outbox.clear_unbegun();
            model.truncate(usize::from(model.first().is_some_and(|first| first.sent > 0)));
        }
    }
}

fn push(tag: Tag, len: u8, now: u32, cap: usize, outbox: &mut Outbox, model: &mut Vec<Waiting>) {
    let octets = vec![now as u8; 1 + usize::from(len)];
    let pinned: usize = model.iter().map(|waiting| waiting.octets.len()).sum();
    let fits = pinned + octets.len() <= cap;
    assert_eq!(outbox.push(chunk(&octets, tag), cap, now), if fits { Ok(()) } else { Err(Overflow) });
    if fits {
        model.push(Waiting { tag, octets, sent: 0, since: now });
    }
}

fn advance(by: usize, outbox: &mut Outbox, model: &mut Vec<Waiting>) {
    let Some(first) = model.first_mut() else { return outbox.advance(by) };
    let by = by.min(first.octets.len() - first.sent);
    outbox.advance(by);
    first.sent += by;
    if first.sent == first.octets.len() {
        model.remove(0);
    }
}

fn drop_oldest(now: u32, outbox: &mut Outbox, model: &mut Vec<Waiting>) {
    let goes = |waiting: &Waiting| waiting.sent == 0 && matches!(waiting.tag, Tag::Room { may_drop: true, .. });
    let dropped = outbox.drop_oldest();
    let expected = model.iter().position(goes);
    assert_eq!(dropped.map(|dropped| dropped.at), expected, "something else was dropped than the oldest that may go");
    let (Some(dropped), Some(at)) = (dropped, expected) else { return };
    assert_eq!(Tag::Room { room: dropped.room, may_drop: true }, model.remove(at).tag);
    if !outbox.tells_gap(dropped.room) {
        let notice = vec![b'g'; 3];
        outbox.tell_gap(dropped.at, chunk(&notice, Tag::Gap(dropped.room)), now);
        model.insert(at, Waiting { tag: Tag::Gap(dropped.room), octets: notice, sent: 0, since: now });
    }
}

/// One of four rooms, of which two let their messages be dropped.
fn of_room(room: u8) -> Tag {
    let room = u32::from(room % 4);
    Tag::Room { room, may_drop: room >= 2 }
}

fn chunk(octets: &[u8], tag: Tag) -> Chunk {
    Chunk::whole(Rc::from(octets), tag, 1)
}
