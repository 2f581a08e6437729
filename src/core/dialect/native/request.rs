//! What a client asks for.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::dialect::{ErrorCode, InvalidRoom, ListedRoom, RequestedRoom, RoomList};
use crate::limits::{REF_BYTES, ROOM_NAME_BYTES};
use crate::model::{BadJson, readable_json, valid_room};

/// A valid request. `reference` is the JSON token of its `ref`, as sent: a number or a string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Become a member of the room.
    Join {
        /// Valid by [`valid_room`].
        room: Cow<'a, str>,
        /// To be echoed.
        reference: Option<&'a str>,
    },
    /// Become a member of several rooms, or of one with a token of its own.
    JoinAll {
        /// At least one, each valid by [`valid_room`], or what is wrong with it.
        rooms: RoomList<'a>,
        /// To be echoed in each answer.
        reference: Option<&'a str>,
    },
    /// Stop being one.
    Leave {
        /// Valid by [`valid_room`].
        room: Cow<'a, str>,
        /// To be echoed.
        reference: Option<&'a str>,
    },
    /// Publish.
    Message {
        /// Valid by [`valid_room`].
        room: Cow<'a, str>,
        /// Any JSON that members can read ([`readable_json`]), as sent.
        content: &'a str,
        /// Whether the sender gets it too.
        echo: bool,
        /// Whether the sender wants an acknowledgement.
        ack: bool,
        /// To be echoed.
        reference: Option<&'a str>,
    },
    /// Authenticate with a token.
    Auth {
        /// The token, not verified.
        token: Cow<'a, str>,
        /// To be echoed.
        reference: Option<&'a str>,
    },
    /// Is the node there?
    Ping {
        /// To be echoed.
        reference: Option<&'a str>,
    },
}

/// Why a request is refused, ready for [`super::error`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused<'a> {
    /// The error's name.
    pub code: ErrorCode,
    /// What was wrong, and what is accepted.
    pub message: Cow<'static, str>,
    /// To be echoed, where it could be read.
    pub reference: Option<&'a str>,
}

/// The known fields as JSON tokens, so that a wrong type in one does not hide the others.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow, default, deserialize_with = "present")]
    kind: Option<&'a str>,
    #[serde(rename = "roomId", borrow, default, deserialize_with = "present")]
    room: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "present")]
    content: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "present")]
    echo: Option<&'a str>,
    #[serde(borrow, default, deserialize_with = "present")]
    ack: Option<&'a str>,
    #[serde(rename = "ref", borrow, default, deserialize_with = "present")]
    reference: Option<&'a str>,
}

/// Unlike an `Option`, tells `null` from nothing: `null` is content like any other.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de str>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(|raw| Some(raw.get()))
}

type Fault = (ErrorCode, Cow<'static, str>);

const ACCEPTED: &str = "`type` must be \"join\", \"leave\", \"message\", \"auth\" or \"ping\"";

/// Reads a request. Unknown fields are ignored, a field that stands twice is an error.
///
/// # Errors
/// [`ErrorCode::BadMessage`] or [`ErrorCode::BadRoom`], with what is wrong and what is accepted.
pub fn parse(text: &str) -> Result<Request<'_>, Refused<'_>> {
    let refused = |reference| move |(code, message): Fault| Refused { code, message, reference };
    let fields = fields(text).map_err(refused(None))?;
    let reference = reference(fields.reference).map_err(refused(None))?;
    request(text, &fields, reference).map_err(refused(reference))
}

fn fields(text: &str) -> Result<Fields<'_>, Fault> {
    // Of octets: almost every request begins with its brace.
    let first = text.bytes().find(|octet| !matches!(octet, b' ' | b'\t' | b'\r' | b'\n'));
    if first != Some(b'{') {
        return Err(bad("a request is a JSON object, such as {\"type\":\"join\",\"roomId\":\"lobby\"}"));
    }
    serde_json::from_str(text).map_err(|error| bad_json(&error))
}

fn bad_json(error: &serde_json::Error) -> Fault {
    let message = format!("{error}; a request is one JSON object in which each field stands once");
    (ErrorCode::BadMessage, Cow::Owned(message))
}

fn request<'a>(text: &'a str, fields: &Fields<'a>, reference: Option<&'a str>) -> Result<Request<'a>, Fault> {
    let kind = fields.kind.ok_or_else(|| bad(ACCEPTED)).and_then(|token| string(token).ok_or_else(|| bad(ACCEPTED)))?;
    match &*kind {
        "join" => join(text, fields.room, reference),
        "leave" => Ok(Request::Leave { room: room(fields.room)?, reference }),
        "ping" => Ok(Request::Ping { reference }),
        "auth" => Ok(Request::Auth { token: token(text)?, reference }),
        "message" => Ok(Request::Message {
            room: room(fields.room)?,
            content: content(fields.content)?,
            echo: boolean(fields.echo, true).ok_or_else(|| bad("`echo` must be true or false"))?,
            ack: boolean(fields.ack, false).ok_or_else(|| bad("`ack` must be true or false"))?,
            reference,
        }),
        _ => Err(bad(ACCEPTED)),
    }
}

/// A join of one room or of several. `rooms` and `token` are looked for here alone: each field that is told apart costs every message.
#[inline(never)]
fn join<'a>(text: &'a str, one: Option<&'a str>, reference: Option<&'a str>) -> Result<Request<'a>, Fault> {
    #[derive(Deserialize)]
    struct Listed<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        rooms: Option<&'a str>,
        #[serde(borrow, default, deserialize_with = "present")]
        token: Option<&'a str>,
    }
    // Of octets and not of text: the parser that every message goes through stays inlined where it has one caller.
    let listed = if text.contains("\"rooms\"") || text.contains("\"token\"") {
        serde_json::from_slice::<Listed<'_>>(text.as_bytes()).map_err(|error| bad_json(&error))?
    } else {
        Listed { rooms: None, token: None }
    };
    match (one, listed.rooms) {
        (Some(_), Some(_)) => Err(bad("`roomId` names one room and `rooms` several; send one of the two")),
        (None, Some(_)) if listed.token.is_some() => {
            Err(bad("`token` is of one room; put it into the element of `rooms` that it is for"))
        }
        (None, Some(list)) if elements(list).is_empty() => {
            Err(bad("`rooms` must be a list of rooms, such as [\"lobby\",{\"roomId\":\"hall\"}]"))
        }
        (None, Some(list)) => Ok(Request::JoinAll { rooms: RoomList::new(list, rooms), reference }),
        (one, None) if listed.token.is_some() => {
            room(one)?;
            // A join of one room is what an element of a list is.
            let text = text.trim_start();
            if let Err(InvalidRoom { code, message, .. }) = element(text) {
                return Err((code, message));
            }
            Ok(Request::JoinAll { rooms: RoomList::new(text, |text| vec![element(text)]), reference })
        }
        (one, None) => Ok(Request::Join { room: room(one)?, reference }),
    }
}

/// The token of an `auth`, which no other request has.
#[cold]
fn token(text: &str) -> Result<Cow<'_, str>, Fault> {
    #[derive(Deserialize)]
    struct Token<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        token: Option<&'a str>,
    }
    let found = serde_json::from_slice::<Token<'_>>(text.as_bytes()).map_err(|error| bad_json(&error))?.token;
    found.and_then(string).ok_or_else(|| bad("`token` must be a string, the token"))
}

fn bad(message: &'static str) -> Fault {
    (ErrorCode::BadMessage, Cow::Borrowed(message))
}

/// Any JSON value that members can read.
#[inline]
fn content(token: Option<&str>) -> Result<&str, Fault> {
    let token = token.ok_or_else(|| bad("`content` is missing; any JSON value is accepted"))?;
    readable_json(token).map_err(unreadable)?;
    Ok(token)
}

#[cold]
fn unreadable(why: BadJson) -> Fault {
    (ErrorCode::BadMessage, Cow::Owned(format!("`content` is refused: {why}")))
}

/// The value of a JSON token that is a string, borrowed where nothing in it is escaped.
fn string(token: &str) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(token).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn boolean(token: Option<&str>, default: bool) -> Option<bool> {
    match token {
        None | Some("null") => Some(default),
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => None,
    }
}

/// A number or a string of at most [`REF_BYTES`]; `null` is none.
fn reference(token: Option<&str>) -> Result<Option<&str>, Fault> {
    let Some(token) = token.filter(|token| *token != "null") else { return Ok(None) };
    let legal = match token.as_bytes() {
        [b'"', ..] => string(token).is_some_and(|text| text.len() <= REF_BYTES),
        [b'-' | b'0'..=b'9', ..] => token.len() <= REF_BYTES,
        _ => false,
    };
    if legal { Ok(Some(token)) } else { Err(bad("`ref` must be a number or a string of at most 64 bytes")) }
}

fn room(token: Option<&str>) -> Result<Cow<'_, str>, Fault> {
    let refused = |message| (ErrorCode::BadRoom, Cow::Borrowed(message));
    let token = token.ok_or_else(|| refused("`roomId` is missing; it names the room"))?;
    let room = string(token).ok_or_else(|| refused("`roomId` must be a string"))?;
    valid_room(&room).map_err(|why| refused(why.rule()))?;
    Ok(room)
}

/// The elements of a list; none where it is no list.
fn elements(list: &str) -> Vec<&RawValue> {
    serde_json::from_slice(list.as_bytes()).unwrap_or_default()
}

/// The rooms of a list, each a name or an object with a `roomId`.
fn rooms(list: &str) -> Vec<ListedRoom<'_>> {
    elements(list).into_iter().enumerate().map(|(position, element)| listed(position, element.get())).collect()
}

fn listed(position: usize, text: &str) -> ListedRoom<'_> {
    element(text).map_err(|InvalidRoom { code, message, room }| {
        let message = format!("element {position} of `rooms` is not taken: {message}").into();
        InvalidRoom { code, message, room }
    })
}

/// A room's name, or an object with a `roomId` and possibly a `token`.
fn element(element: &str) -> ListedRoom<'_> {
    #[derive(Deserialize)]
    struct Element<'a> {
        #[serde(rename = "roomId", borrow)]
        room: &'a RawValue,
        #[serde(borrow, default, deserialize_with = "present")]
        token: Option<&'a str>,
    }
    let invalid = |code, why: &'static str, room| InvalidRoom { code, message: Cow::Borrowed(why), room };
    let object = || serde_json::from_slice(element.as_bytes()).ok();
    let (name, token) = if element.starts_with('{') {
        object().map_or((None, None), |Element { room, token }| (Some(room.get()), token))
    } else {
        (Some(element), None)
    };
    let Some(room) = name.and_then(string) else {
        let why = "it must be a room's name, or an object such as {\"roomId\":\"lobby\"}";
        return Err(invalid(ErrorCode::BadMessage, why, None));
    };
    if let Err(why) = valid_room(&room) {
        let echoed = (room.len() <= ROOM_NAME_BYTES).then_some(room);
        return Err(invalid(ErrorCode::BadRoom, why.rule(), echoed));
    }
    match token.map(string) {
        None => Ok(RequestedRoom { room, token: None }),
        Some(Some(token)) => Ok(RequestedRoom { room, token: Some(token) }),
        Some(None) => Err(invalid(ErrorCode::BadMessage, "`token` must be a string, the room's own token", None)),
    }
}
