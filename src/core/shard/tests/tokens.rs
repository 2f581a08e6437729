//! Tokens from the upgrade to their end: what a client is told, and when its connection ends.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::rooms::{join, say, sent};
use super::*;
use crate::auth::{Cache, Issuer, Key, Reason, Verifier, Who};
use crate::counters::TOKEN_CACHED;
use crate::shard::AuthOptions;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const ALICE: &str = r#"{"sub":"alice","exp":100,"rooms":{"chat.*":"rw"}}"#;

fn token(claims: &str) -> String {
    let part = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
    let signed = format!("{}.{}", part(br#"{"alg":"HS256"}"#), part(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", part(signature.as_ref()))
}

/// With a secret and no leeway; guests and rules as `configure` says.
fn asks_for_tokens(options: &mut Options) {
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
    });
}

fn with_header(header: &str) -> String {
    REQUEST.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"))
}

/// A shard that asks for tokens, and the connection of an upgrade with this request.
fn upgrade(request: &str, configure: impl FnOnce(&mut Options)) -> (Shard<TestDriver>, Handle) {
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
fn told(shard: &mut Shard<TestDriver>) -> String {
    let text = sent(shard);
    shard.writer.driver().deeds.clear();
    text
}

fn pass(shard: &mut Shard<TestDriver>, seconds: u32) {
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
