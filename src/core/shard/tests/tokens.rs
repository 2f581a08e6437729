//! Tokens from the upgrade to their end: what a client is told, and when its connection ends.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::rooms::{join, publication, say, sent};
use super::*;
use crate::auth::{Cache, Issuer, Key, Reason, Verifier, Who};
use crate::counters::TOKEN_CACHED;
use crate::shard::AuthOptions;
use crate::shard::command::Command;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
pub(super) const ALICE: &str = r#"{"sub":"alice","exp":100,"rooms":{"chat.*":"rw"}}"#;

pub(super) fn token(claims: &str) -> String {
    let part = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
    let signed = format!("{}.{}", part(br#"{"alg":"HS256"}"#), part(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", part(signature.as_ref()))
}

/// With a secret and no leeway; guests and rules as `configure` says.
pub(super) fn asks_for_tokens(options: &mut Options) {
    options.ping_interval = std::time::Duration::from_secs(3_000);
    let issuer = Issuer { keys: vec![Key::secret(SECRET).unwrap()], leeway_ms: 0, ..Issuer::default() };
    options.auth = Some(AuthOptions {
        verifier: Arc::new(Verifier { issuers: vec![issuer], claims: Vec::new() }),
        cache: Arc::new(Cache::new(1 << 20, &[1; 32])),
        grants: Arc::from([]),
        guests: false,
        cookie: None,
        query: true,
        deadline: std::time::Duration::from_secs(5),
        key_unknown: None,
    });
}

pub(super) fn with_header(header: &str) -> String {
    REQUEST.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"))
}

/// A shard that asks for tokens, and the connection of an upgrade with this request.
pub(super) fn upgrade(request: &str, configure: impl FnOnce(&mut Options)) -> (Shard<TestDriver>, Handle) {
    let Turn { settings, counters, .. } = turn(1, |options, _| {
        asks_for_tokens(options);
        configure(options);
    });
    let mut shard = Shard::new(TestDriver::new(request), settings, counters, 1);
    shard.handle_accepted(FD, Arrival::default());
    let handle = shard.clients.handle_at(0).unwrap();
    ready(&mut shard, handle, false);
    turns(&mut shard);
    (shard, handle)
}

/// What was sent since the last look.
pub(super) fn told(shard: &mut Shard<TestDriver>) -> String {
    let text = sent(shard);
    shard.writer.driver().deeds.clear();
    text
}

pub(super) fn pass(shard: &mut Shard<TestDriver>, seconds: u32) {
    for _ in 0..seconds * TICKS_PER_SECOND {
        shard.writer.driver().events.push(Event::Ticked(1));
        turns(shard);
    }
}

/// Whether the connection was closed for this, its client having answered the close.
fn is_closed(shard: &mut Shard<TestDriver>, handle: Handle, reason: CloseReason) -> bool {
    shard.writer.driver().peer_ended = true;
    ready(shard, handle, true);
    turns(shard);
    shard.turn.counters.closed[reason as usize].value() == 1 && shard.sockets() == 0
}

fn auth(claims: &str) -> String {
    format!(r#"{{"type":"auth","token":"{}","ref":1}}"#, token(claims))
}

#[test]
fn a_token_is_taken_from_every_place_and_welcomed_with_its_user() {
    let query = REQUEST.replace("GET / ", &format!("GET /?token={} ", token(ALICE)));
    let requests = [
        with_header(&format!("Authorization: Bearer {}", token(ALICE))),
        with_header(&format!("Sec-WebSocket-Protocol: tidegate.v1, bearer.{}", token(ALICE))),
        with_header(&format!("Cookie: theme=dark; session={}", token(ALICE))),
        query,
    ];
    for request in requests {
        let (mut shard, handle) = upgrade(&request, |options| {
            options.auth.as_mut().unwrap().cookie = Some(String::from("session"));
        });
        let text = told(&mut shard);
        assert!(text.contains(r#""user":"alice","expiresIn":100000"#), "{request}: {text}");
        assert!(!text.contains("bearer."), "a credential was answered: {text}");
        assert!(shard.clients.is_open(handle));
        assert_eq!(shard.turn.counters.tokens[0].value(), 1);
    }
}

/// A crowd that comes back brings the tokens that it had: each costs a hash and no signature.
#[test]
fn a_token_that_was_verified_before_is_known_at_the_next_upgrade() {
    let Turn { settings, counters, .. } = turn(1, |options, _| asks_for_tokens(options));
    let request = with_header(&format!("Authorization: Bearer {}", token(ALICE)));
    for _ in 0..3 {
        let driver = TestDriver::new(&request);
        let mut shard = Shard::new(driver, settings.clone(), counters.clone(), 1);
        shard.handle_accepted(FD, Arrival::default());
        let handle = shard.clients.handle_at(0).unwrap();
        ready(&mut shard, handle, false);
        turns(&mut shard);
        assert!(told(&mut shard).contains(r#""user":"alice""#));
    }
    assert_eq!([0, TOKEN_CACHED].map(|result| counters.tokens[result].value()), [1, 2]);
}

#[test]
fn without_a_token_nothing_but_auth_is_heard_and_the_deadline_closes() {
    let (mut shard, handle) = upgrade(REQUEST, |_| {});
    assert!(told(&mut shard).contains(r#""auth":"required""#));
    say(&mut shard, handle, r#"{"type":"join","roomId":"chat.a","ref":7}"#);
    let text = told(&mut shard);
    assert!(text.contains(r#""code":"unauthorized","reason":"missing""#) && text.contains(r#""ref":7"#), "{text}");
    assert!(shard.poll_relay().is_none(), "a room was subscribed without a token");
    pass(&mut shard, 4);
    assert!(shard.clients.is_open(handle));
    pass(&mut shard, 2);
    let text = told(&mut shard);
    assert!(text.contains("auth.deadline") && text.contains("\u{b}\u{fffd}no token came in time"), "{text:?}");
    assert!(is_closed(&mut shard, handle, CloseReason::TokenMissing));
}

#[test]
fn a_token_that_comes_as_the_first_message_opens_what_it_grants() {
    let (mut shard, handle) = upgrade(REQUEST, |_| {});
    say(&mut shard, handle, &auth(ALICE));
    let text = told(&mut shard);
    assert!(text.contains(r#"{"type":"authenticated","user":"alice","expiresIn":100000,"ref":1}"#), "{text}");
    say(&mut shard, handle, r#"{"type":"join","roomId":"chat.a"}"#);
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(room)) if *room == *"chat.a"));
    say(&mut shard, handle, r#"{"type":"join","roomId":"news"}"#);
    let text = told(&mut shard);
    assert!(text.contains(r#""code":"forbidden""#) && text.contains("must list it with r"), "{text}");
    assert!(shard.poll_relay().is_none());
    pass(&mut shard, 6);
    assert!(shard.clients.is_open(handle), "the deadline of a token that came closed its connection");
}

#[test]
fn a_refused_token_is_told_so_that_its_client_can_read_it() {
    let other = "eyJhbGciOiJIUzI1NiJ9.e30.AAAA";
    // A program reads the status of its upgrade.
    let (mut shard, _) = upgrade(&with_header(&format!("Authorization: Bearer {other}")), |_| {});
    let text = told(&mut shard);
    assert!(text.starts_with("HTTP/1.1 401 ") && text.contains("WWW-Authenticate: Bearer"), "{text}");
    assert_eq!(shard.turn.counters.refused[Refusal::Unauthorized as usize].value(), 1);
    // A page cannot: it is upgraded first.
    let request = with_header(&format!("Sec-WebSocket-Protocol: tidegate.v1, bearer.{other}"));
    let (mut shard, handle) = upgrade(&request, |_| {});
    let text = told(&mut shard);
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains(r#""reason":"no-expiry""#), "{text}");
    assert!(text.contains("\u{b}\u{fffd}the token has no exp"), "the close frame has other words: {text}");
    assert_eq!(shard.turn.counters.tokens[1 + Reason::NoExpiry as usize].value(), 1);
    assert!(is_closed(&mut shard, handle, CloseReason::TokenInvalid));
}

#[test]
fn a_token_is_told_before_its_end_and_ends_its_connection() {
    let (mut shard, handle) = upgrade(&with_header(&format!("Authorization: Bearer {}", token(ALICE))), |_| {});
    told(&mut shard);
    pass(&mut shard, 49);
    assert_eq!(told(&mut shard), "");
    pass(&mut shard, 2);
    assert!(told(&mut shard).contains(r#"{"type":"token-expiring","expiresIn":50000}"#));
    pass(&mut shard, 48);
    assert!(shard.clients.is_open(handle));
    pass(&mut shard, 2);
    assert!(told(&mut shard).contains(r#""reason":"expired""#));
    assert!(is_closed(&mut shard, handle, CloseReason::TokenExpired));
}

#[test]
fn a_renewed_token_keeps_its_connection_and_leaves_rooms_that_it_no_longer_grants() {
    let (mut shard, handle) = upgrade(&with_header(&format!("Authorization: Bearer {}", token(ALICE))), |_| {});
    join(&mut shard, handle, "chat.a");
    join(&mut shard, handle, "chat.b");
    say(&mut shard, handle, &auth(r#"{"sub":"alice","exp":1000,"rooms":{"chat.b":"r"}}"#));
    let text = told(&mut shard);
    assert!(text.contains(r#""expiresIn":1000000"#), "{text}");
    assert!(text.contains(r#"{"type":"left","roomId":"chat.a","reason":"permission"}"#), "{text}");
    assert!(!text.contains("chat.b"), "{text}");
    pass(&mut shard, 200);
    assert!(shard.clients.is_open(handle), "the first token's end closed the connection");
}

#[test]
fn a_refused_renewal_and_another_users_token_leave_the_connection_as_it_was() {
    let (mut shard, handle) = upgrade(&with_header(&format!("Authorization: Bearer {}", token(ALICE))), |_| {});
    told(&mut shard);
    say(&mut shard, handle, &auth(r#"{"sub":"alice","exp":-1}"#));
    assert!(told(&mut shard).contains(r#""reason":"expired""#));
    say(&mut shard, handle, &auth(r#"{"sub":"bob","exp":100,"rooms":{"*":"rw"}}"#));
    assert!(told(&mut shard).contains(r#""code":"forbidden""#));
    say(&mut shard, handle, r#"{"type":"join","roomId":"news"}"#);
    assert!(told(&mut shard).contains(r#""code":"forbidden""#), "the rights of the other user were taken");
    assert!(shard.clients.is_open(handle));
}

#[test]
fn a_guest_may_do_what_rules_open_to_any_and_becomes_a_user_in_its_rooms() {
    let (mut shard, handle) = upgrade(REQUEST, |options| {
        options.auth.as_mut().unwrap().guests = true;
        let rule =
            RoomRule { pattern: String::from("lobby"), join: Some(Who::Any), publish: None, slow: SlowPolicy::Close };
        options.rooms.push(rule);
    });
    let text = told(&mut shard);
    assert!(!text.contains(r#""user""#) && !text.contains(r#""auth""#), "{text}");
    join(&mut shard, handle, "lobby");
    say(&mut shard, handle, r#"{"type":"message","roomId":"lobby","content":1,"ref":2}"#);
    assert!(told(&mut shard).contains("you have no token"), "a guest published without leave");
    say(&mut shard, handle, &auth(ALICE));
    let text = told(&mut shard);
    assert!(text.contains(r#""user":"alice""#) && !text.contains(r#""left""#), "{text}");
}

#[test]
fn a_raw_client_without_a_grant_for_its_room_is_closed_as_forbidden() {
    let request =
        with_header(&format!("Sec-WebSocket-Protocol: bearer.{}", token(ALICE))).replace("GET / ", "GET /raw/news ");
    let (mut shard, handle) = upgrade(&request, |_| {});
    let text = told(&mut shard);
    assert!(
        text.contains("101 Switching Protocols") && text.contains("\u{b}\u{fffd}your token does not let you join news"),
        "{text:?}"
    );
    assert!(is_closed(&mut shard, handle, CloseReason::Forbidden));
    assert!(shard.poll_relay().is_none());
}

const NEWS: &str = r#"{"sub":"alice","exp":3,"rooms":{"news":"r"}}"#;

fn join_with(room: &str, claims: &str) -> String {
    format!(r#"{{"type":"join","roomId":"{room}","token":"{}","ref":5}}"#, token(claims))
}

/// A shard that asks for tokens, and a connection of alice, whose token opens `chat.*`.
fn alice(configure: impl FnOnce(&mut Options)) -> (Shard<TestDriver>, Handle) {
    let (mut shard, handle) = upgrade(&with_header(&format!("Authorization: Bearer {}", token(ALICE))), configure);
    told(&mut shard);
    (shard, handle)
}

#[test]
fn a_rooms_own_token_lets_its_user_in_until_it_ends_and_no_message_comes_after_left() {
    let (mut shard, handle) = alice(|_| {});
    say(&mut shard, handle, &join_with("news", NEWS));
    shard.handle_relay(ToShard::Joined("news".into()));
    turns(&mut shard);
    assert!(told(&mut shard).contains(r#"{"type":"joined","roomId":"news","ref":5}"#));
    join(&mut shard, handle, "chat.a");
    shard.handle_relay(publication("news", "1"));
    pass(&mut shard, 2);
    assert!(told(&mut shard).contains(r#""content":1"#));
    shard.handle_relay(publication("news", "2"));
    pass(&mut shard, 1);
    let text = told(&mut shard);
    let left = r#"{"type":"left","roomId":"news","reason":"permission"}"#;
    let (before, after) = text.split_once(left).unwrap_or_else(|| panic!("the token's end was not told: {text}"));
    assert!(before.contains(r#""content":2"#) && !after.contains("content"), "{text}");
    shard.handle_relay(publication("news", "3"));
    shard.handle_relay(publication("chat.a", "4"));
    turns(&mut shard);
    let text = told(&mut shard);
    assert!(!text.contains(r#""content":3"#) && text.contains(r#""content":4"#), "{text}");
    say(&mut shard, handle, r#"{"type":"join","roomId":"news","ref":6}"#);
    assert!(told(&mut shard).contains(r#""code":"forbidden""#));
}

#[test]
fn a_newer_token_of_the_room_keeps_its_member_in() {
    let (mut shard, handle) = alice(|_| {});
    for exp in [3, 60] {
        say(&mut shard, handle, &join_with("news", &NEWS.replace(r#""exp":3"#, &format!(r#""exp":{exp}"#))));
        shard.handle_relay(ToShard::Joined("news".into()));
        turns(&mut shard);
    }
    told(&mut shard);
    pass(&mut shard, 40);
    assert_eq!(told(&mut shard), "");
    // A renewal of the connection's own token takes nothing of the room's away.
    say(&mut shard, handle, &auth(ALICE));
    assert!(!told(&mut shard).contains("left"));
    pass(&mut shard, 20);
    assert!(told(&mut shard).contains(r#"{"type":"left","roomId":"news","reason":"permission"}"#));
    assert!(shard.clients.is_open(handle));
}

#[test]
fn a_rooms_own_token_of_another_user_or_key_is_refused_by_name_and_ends_nothing() {
    let (mut shard, handle) = alice(|_| {});
    let forged = join_with("news", NEWS).replace(r#"","ref""#, r#"AAAA","ref""#);
    let other = join_with("news", &NEWS.replace("alice", "bob"));
    let guests = join_with("news", r#"{"exp":3,"rooms":{"news":"r"}}"#);
    let ended = join_with("news", &NEWS.replace(r#""exp":3"#, r#""exp":-1"#));
    for (request, reason) in [(forged, "signature"), (other, "user"), (guests, "user"), (ended, "expired")] {
        say(&mut shard, handle, &request);
        let text = told(&mut shard);
        assert!(text.contains(&format!(r#""code":"unauthorized","reason":"{reason}""#)), "{reason}: {text}");
        assert!(text.contains(r#""roomId":"news","ref":5"#), "{text}");
    }
    assert!(shard.poll_relay().is_none() && shard.clients.is_open(handle));
    // One that opens another room opens that, and this one is refused by the rule.
    say(&mut shard, handle, &join_with("staff", NEWS));
    assert!(told(&mut shard).contains("your token does not let you join staff"));
}

#[test]
fn a_guest_gets_what_a_rooms_own_token_without_a_user_opens_and_no_more() {
    let (mut shard, handle) = upgrade(REQUEST, |options| {
        options.auth.as_mut().unwrap().guests = true;
        let pattern = String::from("users");
        options.rooms.push(RoomRule { pattern, join: Some(Who::Users), publish: None, slow: SlowPolicy::Close });
    });
    told(&mut shard);
    say(&mut shard, handle, &join_with("news", NEWS));
    assert!(told(&mut shard).contains(r#""reason":"user","message":"the room's token names a user"#));
    say(&mut shard, handle, &join_with("news", r#"{"exp":3,"rooms":{"news":"r"}}"#));
    assert!(matches!(shard.poll_relay(), Some(ToRelay::Subscribe(room)) if *room == *"news"));
    for room in ["users", "chat.a"] {
        say(&mut shard, handle, &format!(r#"{{"type":"join","roomId":"{room}"}}"#));
        assert!(told(&mut shard).contains(r#""code":"forbidden""#), "{room}");
    }
    assert!(shard.poll_relay().is_none(), "a room's token opened another room");
}

#[test]
fn rooms_with_their_own_tokens_come_in_one_message_and_each_token_costs_a_message_of_the_rate() {
    let (mut shard, handle) = alice(|options| options.message_rate = 1);
    pass(&mut shard, 10);
    told(&mut shard);
    let burst = shard.turn.settings.message_burst as usize;
    let element = |n: usize| {
        let claims = format!(r#"{{"sub":"alice","exp":60,"rooms":{{"r{n}":"r"}}}}"#);
        format!(r#"{{"roomId":"r{n}","token":"{}"}}"#, token(&claims))
    };
    let all: Vec<String> = (0..burst + 5).map(element).collect();
    say(&mut shard, handle, &format!(r#"{{"type":"join","rooms":[{}]}}"#, all.join(",")));
    let text = told(&mut shard);
    let subscribed = std::iter::from_fn(|| shard.poll_relay()).count();
    assert!(subscribed < burst && subscribed > 0, "{subscribed} of {burst}: {text}");
    assert_eq!(text.matches("each costs a message of the rate").count(), burst + 5 - subscribed, "{text}");
}

#[test]
fn a_connection_holds_no_more_rooms_tokens_than_it_may() {
    let (mut shard, handle) = alice(|options| options.message_rate = 0);
    for n in 0..=crate::limits::ROOM_TOKENS_PER_CONNECTION {
        let claims = format!(r#"{{"sub":"alice","exp":60,"rooms":{{"r{n}":"r"}}}}"#);
        say(&mut shard, handle, &join_with("chat.a", &claims));
        let is_refused = told(&mut shard).contains(r#""code":"room-limit","message":"you have sent 128 rooms' tokens"#);
        assert_eq!(is_refused, n == crate::limits::ROOM_TOKENS_PER_CONNECTION, "{n}");
    }
    // What has ended makes room.
    pass(&mut shard, 61);
    say(&mut shard, handle, &join_with("news", &NEWS.replace(r#""exp":3"#, r#""exp":90"#)));
    assert!(!told(&mut shard).contains("room-limit"));
}

/// A key was stolen, and is taken out of the configuration: what it opened ends.
#[test]
fn a_session_whose_key_is_gone_is_told_and_ends_within_a_minute_unless_renewed() {
    const OTHER: &[u8] = b"another secret of at least 32 bytes";
    let claims = r#"{"sub":"alice","exp":5000,"rooms":{"chat.*":"rw"}}"#;
    let request = with_header(&format!("Authorization: Bearer {}", token(claims)));
    let renewed = crate::auth::sign(OTHER, claims);
    let run = |renews: bool| {
        let (mut shard, handle) = upgrade(&request, |_| {});
        told(&mut shard);
        let mut options = Options::clone(&shard.turn.settings.options);
        let auth = options.auth.as_mut().unwrap();
        let mut verifier = Verifier::clone(&auth.verifier);
        verifier.issuers[0].keys = vec![Key::secret(OTHER).unwrap()];
        auth.cache = Arc::new(auth.cache.emptied(&[2; 32]));
        auth.verifier = Arc::new(verifier);
        shard.handle_command(Command::Options(Arc::new(options)));
        assert!(shard.has_work(), "no event brings the turn that looks");
        pass(&mut shard, 16);
        let text = told(&mut shard);
        assert!(text.contains("token-expiring"), "{text}");
        if renews {
            say(&mut shard, handle, &format!(r#"{{"type":"auth","token":"{renewed}"}}"#));
            assert!(told(&mut shard).contains("authenticated"));
        }
        pass(&mut shard, 45);
        (told(&mut shard), shard.clients.is_open(handle))
    };
    let (text, is_open) = run(false);
    assert!(!is_open && text.contains("the key that signed the token is no longer valid"), "{text}");
    let (text, is_open) = run(true);
    assert!(is_open && text.is_empty(), "{text}");
}
