//! Users: what members are told of a sender's, and which connections of one do not get a message.

use super::rooms::{join, say};
use super::tokens::{ALICE, token, told, upgrade, with_header};
use super::*;
use crate::model::{ConnectionId, Except, Kind, Publication};

/// A shard that asks for tokens, and a connection of this user.
fn connection_of(claims: &str) -> (Shard<TestDriver>, Handle) {
    let (mut shard, handle) = upgrade(&with_header(&format!("Authorization: Bearer {}", token(claims))), |_| {});
    told(&mut shard);
    (shard, handle)
}

fn deliver(shard: &mut Shard<TestDriver>, publications: impl IntoIterator<Item = Publication>) -> Vec<String> {
    for publication in publications {
        shard.handle_relay(ToShard::Deliver(Arc::new(publication)));
    }
    turns(shard);
    let told = told(shard);
    let contents = told.split(r#""content":"#).skip(1);
    contents.map(|rest| rest.chars().take_while(|c| *c != ',').collect()).collect()
}

fn publication(content: &'static str) -> Publication {
    Publication::of_backend("chat.a".into(), Kind::Json, bytes::Bytes::from_static(content.as_bytes()), 1_000_000)
}

#[test]
fn a_publication_bears_the_user_of_its_sender_and_members_are_told_it() {
    let (mut shard, handle) = connection_of(ALICE);
    join(&mut shard, handle, "chat.a");
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(_))));
    say(&mut shard, handle, r#"{"type":"message","roomId":"chat.a","content":1,"user":"eve"}"#);
    let Some(ToRelay::Publish(publication, _)) = shard.poll_relay() else { panic!("it is not published") };
    assert_eq!(publication.user.as_deref(), Some("alice"), "what the client says of it counts for nothing");
    told(&mut shard);
    shard.handle_relay(ToShard::Deliver(Arc::new(publication)));
    turns(&mut shard);
    let text = told(&mut shard);
    assert!(text.contains(r#"","user":"alice","content":1,"#), "{text}");
}

#[test]
fn a_message_that_leaves_a_connection_or_a_user_out_is_taken_out_of_its_batch() {
    let (mut shard, handle) = connection_of(ALICE);
    join(&mut shard, handle, "chat.a");
    told(&mut shard);
    let id = shard.turn.id(handle);
    let other = ConnectionId { generation: id.generation + 1, ..id };
    let without = |content, connection, user: Option<&str>| Publication {
        except: Except::new(connection, user.map(Into::into)),
        ..publication(content)
    };
    let batch = [
        without("1", Some(id), None),
        publication("2"),
        without("3", None, Some("alice")),
        without("4", Some(other), Some("bob")),
        without("5", Some(other), Some("alice")),
        without("6", Some(id), Some("bob")),
        publication("7"),
    ];
    assert_eq!(deliver(&mut shard, batch), ["2", "4", "7"]);
    assert_eq!(deliver(&mut shard, [without("8", None, Some("alice"))]), [""; 0]);
}

#[test]
fn a_user_that_is_left_out_leaves_no_guest_out() {
    let (mut shard, handle) = stage();
    join(&mut shard, handle, "chat.a");
    told(&mut shard);
    let all = [Except::new(None, Some("alice".into())), None].map(|except| Publication { except, ..publication("1") });
    assert_eq!(deliver(&mut shard, all), ["1", "1"]);
}
