//! Rooms whose members come and go while the relay answers.

use bytes::Bytes;

use super::*;
use crate::relay::{Kind, Publication, ToShard};

/// Opens another connection beside the first.
fn another(shard: &mut Shard<Stage>, fd: RawFd) -> Token {
    shard.wire.incoming.extend(REQUEST.bytes());
    shard.handle_accepted(fd);
    let token = shard.connections.token_at(1).unwrap();
    ready(shard, token, false);
    turns(shard);
    assert!(shard.is_open(token));
    shard.wire.deeds.clear();
    token
}

fn say(shard: &mut Shard<Stage>, token: Token, text: &str) {
    let mut octets = Vec::new();
    frame::write_masked(&mut octets, frame::TEXT, [1, 2, 3, 4], text.as_bytes());
    shard.wire.incoming.extend(octets);
    ready(shard, token, false);
    turns(shard);
}

fn publication(room: &str, payload: &'static str) -> ToShard {
    ToShard::Deliver(Arc::new(Publication {
        room: room.into(),
        kind: Kind::Json,
        payload: Bytes::from_static(payload.as_bytes()),
        from: None,
        echo: true,
        time_unix_ns: 0,
    }))
}

fn sent(shard: &Shard<Stage>) -> String {
    let octets = |deed: &Deed| match deed {
        Deed::Sent(octets) => String::from_utf8_lossy(octets).into_owned(),
        Deed::Fin | Deed::Closed => String::new(),
    };
    shard.wire.deeds.iter().map(octets).collect()
}

#[test]
fn who_is_told_joined_is_a_member_although_the_one_before_it_in_the_queue_is_gone() {
    // The room ended with the first, whose `joined` could not be sent, and the second was told `joined` of a room that was not
    // there: it heard nothing, and what was said into the room was never published.
    let (mut shard, first) = stage();
    let second = another(&mut shard, FD + 1);
    for token in [first, second] {
        say(&mut shard, token, r#"{"type":"join","roomId":"lobby"}"#);
    }
    say(&mut shard, second, r#"{"type":"message","roomId":"lobby","content":"hello"}"#);
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(room)) if *room == *"lobby"));
    assert!(shard.poll_relay().is_none(), "what is said waits for the confirmation");
    shard.wire.broken = Some(FD);
    shard.handle_relay(ToShard::Joined("lobby".into()));
    turns(&mut shard);
    assert!(sent(&shard).contains(r#""joined""#), "{:?}", sent(&shard));
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Publish(..))), "what was said is lost");
    assert!(shard.poll_relay().is_none(), "a room with a member was unsubscribed");
    assert_eq!((shard.held, shard.to_relay_bytes), (0, 0));
    shard.handle_relay(publication("lobby", r#""anybody there?""#));
    turns(&mut shard);
    assert!(sent(&shard).contains("anybody there?"), "{:?}", sent(&shard));
}
