//! What clients and backends say inside messages: the native dialect, and the relay's header.

use arbitrary::Arbitrary;
use bytes::Bytes;
use serde::de::IgnoredAny;
use tidegate_core::dialect::native::{self, Content, Request, Sender};
use tidegate_core::dialect::{ClientLimits, ErrorCode, Identity, InvalidRoom};
use tidegate_core::limits::REF_BYTES;
use tidegate_core::model::{ConnectionId, Except, Kind, Publication, UserName, valid_room, valid_user};
use tidegate_core::relay::envelope;

/// Any text is a request or a refusal, and whatever is written in answer is one JSON object that says it unchanged.
pub fn native_dialect(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match native::parse(text) {
        Ok(request) => answered(&request),
        Err(refused) => {
            reference_is_sane(refused.reference);
            assert!(matches!(refused.code, ErrorCode::BadMessage | ErrorCode::BadRoom));
            written(
                |out| native::error(out, refused.code, &refused.message, None, refused.reference),
                refused.reference,
            );
        }
    }
    // Text of a raw client, and names that an operator chose, may hold anything.
    let message = written(|out| native::message(out, text, Sender::default(), Content::Text(text), 0), None);
    let (room, content) = (message["roomId"].as_str(), message["content"].as_str());
    assert_eq!((room, content), (Some(text), Some(text)), "text did not survive");
    written(|out| native::message(out, "r", Sender::default(), Content::Binary(data), u64::MAX), None);
    let limits = ClientLimits { message_bytes: 0, message_rate: 1, rooms: u64::MAX };
    written(|out| native::welcome(out, &[b'0'; 24], text, [1, u64::MAX], limits, Identity::Guest), None);
    let identity = Identity::Token { user: Some(text), expires_ms: 1 };
    let told = written(|out| native::authenticated(out, identity, None), None);
    assert_eq!(told["user"].as_str(), Some(text), "a user's name did not survive");
    written(|out| native::unauthorized(out, "expired", text, Some(text), None), None);
    written(|out| native::gap(out, Some(text), "broker", 0), None);
    written(|out| native::shutdown(out, 1), None);
}

fn answered(request: &Request<'_>) {
    match request {
        Request::Join { room, reference } => {
            assert_eq!(valid_room(room), Ok(()));
            written(|out| native::joined(out, room, *reference), *reference);
        }
        Request::JoinAll { rooms, reference } => {
            assert!(!rooms.rooms().is_empty());
            for room in rooms.rooms() {
                match &room {
                    Ok(requested) => assert_eq!(valid_room(&requested.room), Ok(())),
                    Err(InvalidRoom { code, message, room }) => {
                        assert!(room.as_ref().is_none_or(|room| valid_room(room).is_err()));
                        written(|out| native::error(out, *code, message, room.as_deref(), *reference), *reference);
                    }
                }
            }
        }
        Request::Leave { room, reference } => {
            assert_eq!(valid_room(room), Ok(()));
            written(|out| native::left(out, room, None, *reference), *reference);
        }
        Request::Auth { reference, .. } => {
            written(|out| native::unauthorized(out, "malformed", "no token", None, *reference), *reference);
        }
        Request::Message { room, content, reference, .. } => {
            assert_eq!(valid_room(room), Ok(()));
            written(|out| native::ack(out, *reference, "node"), *reference);
            assert_eq!(envelope::kind_of(content.as_bytes(), None), Kind::Json, "content is no JSON");
            let mut out = Vec::new();
            native::message(
                &mut out,
                room,
                Sender { from: Some(&[b'f'; 24]), user: Some("alice") },
                Content::Json(content.as_bytes()),
                1,
            );
            assert!(serde_json::from_slice::<IgnoredAny>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
        }
        Request::Ping { reference } => drop(written(|out| native::pong(out, *reference), *reference)),
    }
}

fn reference_is_sane(reference: Option<&str>) {
    let Some(token) = reference else { return };
    // Each octet of a string takes six when it is escaped.
    assert!(token.len() <= 6 * REF_BYTES + 2, "a reference of {} octets is echoed", token.len());
    assert!(serde_json::from_str::<IgnoredAny>(token).is_ok());
}

/// What a writer wrote, as JSON.
fn written(write: impl FnOnce(&mut Vec<u8>), reference: Option<&str>) -> serde_json::Value {
    reference_is_sane(reference);
    let mut out = Vec::new();
    write(&mut out);
    assert!(serde_json::from_slice::<IgnoredAny>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
    // A number as reference may be beyond what a Value holds.
    serde_json::from_slice(&out).unwrap_or_default()
}

#[derive(Arbitrary)]
struct FromBroker<'a> {
    header: Option<&'a str>,
    payload: &'a [u8],
    kind: u8,
    from: Option<(u32, u8, u32, u32)>,
    echo: bool,
    time_unix_ns: u64,
}

/// Any header beside any payload is read as what the payload bears out; what the gateway writes, it reads back.
pub fn relay_header(data: &[u8]) {
    let Ok(input) = FromBroker::arbitrary_take_rest(arbitrary::Unstructured::new(data)) else { return };
    let payload = Bytes::copy_from_slice(input.payload);
    let headers = envelope::Headers { tidegate: input.header, content_type: None };
    if let Ok(read) = envelope::read("room".into(), headers, payload.clone(), || 7) {
        kind_is_borne_out(&read);
    }

    let announced = [None, Some(Kind::Json), Some(Kind::Text), Some(Kind::Binary)][usize::from(input.kind % 4)];
    let from = input.from.map(|(node, shard, index, generation)| ConnectionId {
        node,
        shard,
        index: index & ConnectionId::MAX_INDEX,
        generation,
    });
    // Any text that is a user, whatever separators it has.
    let user = input.header.filter(|name| valid_user(name)).map(UserName::from);
    let publication = Publication {
        room: "room".into(),
        kind: envelope::kind_of(input.payload, announced),
        payload: payload.clone(),
        from,
        // Without a sender nobody is left out.
        echo: input.echo || from.is_none(),
        except: Except::new(from.filter(|_| input.kind > 127), user.clone()),
        user,
        time_unix_ns: input.time_unix_ns,
    };
    let header = envelope::write(&publication);
    assert!(header.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' '), "{header:?}");
    let headers = envelope::Headers { tidegate: Some(&header), content_type: None };
    assert_eq!(envelope::read("room".into(), headers, payload, || 0), Ok(publication), "{header}");
}

fn kind_is_borne_out(publication: &Publication) {
    let text = std::str::from_utf8(&publication.payload);
    match publication.kind {
        Kind::Json => assert!(text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())),
        Kind::Text => assert!(text.is_ok()),
        Kind::Binary => {}
    }
}
