//! Tokens as attackers and careless issuers make them, each with the reason that it is refused for; and permissions beside a slow
//! reference.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::hmac;
use serde_json::json;

use super::*;

/// 2026-01-01T12:00:00Z.
const NOW_MS: i64 = 1_767_268_800_000;
const NOW: i64 = NOW_MS / 1_000;
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

fn encode(octets: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

/// A token with this header and these claims, signed with HS256 whatever its header says.
fn signed_with(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(signature))
}

fn signed(claims: &serde_json::Value) -> String {
    signed_with(SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string())
}

fn issuer() -> Issuer {
    Issuer { keys: vec![Key::secret(SECRET).unwrap()], ..Issuer::default() }
}

fn verifier(issuer: Issuer) -> Verifier {
    Verifier { issuers: vec![issuer], claims: Vec::new() }
}

fn verify(token: &str) -> Result<Verified, Unauthorized> {
    verifier(issuer()).verify(token.as_bytes(), NOW_MS, |_| false)
}

fn reason(token: &str) -> Option<Reason> {
    verify(token).err().map(|refused| refused.reason)
}

#[test]
fn a_token_says_its_user_its_rooms_and_how_long_it_holds() {
    let token = signed(&json!({
        "sub": "alice", "exp": NOW + 60, "iat": NOW, "jti": "t1", "rooms": {"chat.*": "rw", "news": "r"}, "info": {"name": "A"}
    }));
    let verified = verify(&token).unwrap();
    assert_eq!(verified.user.as_deref(), Some("alice"));
    assert_eq!((verified.id.as_deref(), verified.info.as_deref()), (Some("t1"), Some(r#"{"name":"A"}"#)));
    assert_eq!((verified.issued_unix_ms, verified.expires_in_ms), (Some(NOW_MS), 90_000), "with 30 s of leeway");
    assert!(verified.rights.allow(Access::BOTH, "chat.one") && verified.rights.allow(Access::READ, "news"));
    assert!(!verified.rights.allow(Access::WRITE, "news") && !verified.rights.allow(Access::READ, "other"));
}

#[test]
fn what_attackers_make_of_a_header_is_refused_with_its_reason() {
    let claims = json!({"sub": "alice", "exp": NOW + 60}).to_string();
    let with = |header: &str| reason(&signed_with(SECRET, header, &claims));
    for none in ["none", "None", "NONE", "nOnE", "", "hs256", "HS512", "RS256", "ES256"] {
        assert_eq!(with(&format!(r#"{{"alg":"{none}"}}"#)), Some(Reason::Algorithm), "{none}");
    }
    for malformed in [
        "{}",
        "[]",
        "",
        "\u{feff}{\"alg\":\"HS256\"}",
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"HS256","b64":false}"#,
        r#"{"alg":"HS256","kid":7}"#,
        "{\"alg\":\"HS256\"}\0",
    ] {
        assert_eq!(with(malformed), Some(Reason::Malformed), "{malformed}");
    }
    // A `kid` is compared and never used for anything else; keys that a header brings are not looked at.
    for harmless in [
        r#"{"alg":"HS256","kid":"../../dev/null"}"#,
        r#"{"alg":"HS256","kid":"' OR 1=1 --"}"#,
        r#"{"alg":"HS256","jku":"https://attacker.example/keys","x5u":"https://attacker.example"}"#,
        r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"},"x5c":["AAAA"],"typ":"whatever","zip":"DEF"}"#,
    ] {
        assert_eq!(with(harmless), None, "{harmless}");
        assert_eq!(
            reason(&signed_with(b"the attacker's own secret, long enough", harmless, &claims)),
            Some(Reason::Signature)
        );
    }
}

#[test]
fn parts_that_are_no_token_are_refused_as_malformed() {
    let good = signed(&json!({"sub": "alice", "exp": NOW + 60}));
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    let cases = [
        String::new(),
        "..".into(),
        signed_part.into(),
        format!("{good}.x"),
        format!("{good}="),
        format!("{signed_part}=.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        good.replace('.', "\0."),
        good.replacen('.', "+/.", 1),
        format!("{}.{}.{signature}", encode(r#"{"alg":"HS256"}"#), encode([0xff, 0xfe])),
        format!("{}.{}.{signature}", encode(r#"{"alg":"HS256"}"#), encode("[1]")),
    ];
    for token in cases {
        assert_eq!(reason(&token), Some(Reason::Malformed), "{token:?}");
    }
    assert_eq!(reason(&format!("{signed_part}.")), Some(Reason::Signature), "an empty signature");
    assert_eq!(reason(&format!("{signed_part}.{}", &signature[..signature.len() - 4])), Some(Reason::Signature));
    let long = signed(&json!({"sub": "alice", "exp": NOW + 60, "pad": "x".repeat(TOKEN_BYTES)}));
    assert_eq!(reason(&long), Some(Reason::TooLong));
}

#[test]
fn claims_that_do_not_hold_are_refused_with_their_reason() {
    let with = |change: serde_json::Value| {
        let mut claims = json!({"sub": "alice", "exp": NOW + 60});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        reason(&signed(&claims))
    };
    let cases = [
        (json!({"exp": NOW - 29}), None),
        (json!({"exp": NOW - 30}), Some(Reason::Expired)),
        (json!({"exp": NOW as f64 + 0.5}), None),
        (json!({"exp": -1}), Some(Reason::Expired)),
        (json!({"exp": -1e300}), Some(Reason::Expired)),
        (json!({"exp": 1e300}), Some(Reason::Lifetime)),
        (json!({"exp": u64::MAX}), Some(Reason::Lifetime)),
        (json!({"exp": NOW + 24 * 3600 + 31}), Some(Reason::Lifetime)),
        (json!({"exp": null}), Some(Reason::NoExpiry)),
        (json!({"exp": (NOW + 60).to_string()}), Some(Reason::Malformed)),
        (json!({"exp": [NOW + 60]}), Some(Reason::Malformed)),
        (json!({"exp": true}), Some(Reason::Malformed)),
        (json!({"nbf": NOW + 30}), None),
        (json!({"nbf": NOW + 31}), Some(Reason::NotYetValid)),
        (json!({"nbf": "x"}), Some(Reason::Malformed)),
        (json!({"iat": NOW + 31}), Some(Reason::NotYetValid)),
        (json!({"iat": {}}), Some(Reason::Malformed)),
        (json!({"jti": 7}), Some(Reason::Malformed)),
        (json!({"sub": 7}), Some(Reason::Malformed)),
        (json!({"sub": ""}), Some(Reason::User)),
        (json!({"sub": "$system"}), Some(Reason::User)),
        (json!({"sub": "a b"}), Some(Reason::User)),
        (json!({"sub": "zoë"}), Some(Reason::User)),
        (json!({"sub": "a\u{0}b"}), Some(Reason::User)),
        (json!({"sub": "x".repeat(129)}), Some(Reason::User)),
        (json!({"sub": "x".repeat(128)}), None),
        (json!({"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}), None),
        (json!({"sub": "alice@example.com"}), None),
        (json!({"aud": ["one", "two"]}), None),
        (json!({"aud": [7]}), Some(Reason::Malformed)),
        (json!({"iss": 7}), Some(Reason::Malformed)),
        (json!({"iss": "any"}), None),
        (json!({"rooms": ["chat"]}), Some(Reason::Rooms)),
        (json!({"rooms": {"chat": "x"}}), Some(Reason::Rooms)),
        (json!({"rooms": {"chat": true}}), Some(Reason::Rooms)),
        (json!({"rooms": {"org.1*": "r"}}), Some(Reason::Rooms)),
        (json!({"rooms": {"a..b": "r"}}), Some(Reason::Rooms)),
        (json!({"rooms": {"a*b": "r"}}), Some(Reason::Rooms)),
        (json!({"rooms": {}}), None),
        (json!({"info": "x".repeat(1023)}), Some(Reason::Malformed)),
    ];
    for (change, expected) in cases {
        assert_eq!(with(change.clone()), expected, "{change}");
    }
    let many = |count: usize| (0..count).map(|i| (format!("room.{i}"), json!("r"))).collect::<serde_json::Map<_, _>>();
    assert_eq!(with(json!({"rooms": many(64)})), None);
    assert_eq!(with(json!({"rooms": many(65)})), Some(Reason::Rooms));
    let twice = format!(r#"{{"sub":"alice","exp":{},"sub":"bob"}}"#, NOW + 60);
    assert_eq!(reason(&signed_with(SECRET, r#"{"alg":"HS256"}"#, &twice)), Some(Reason::Malformed));
}

#[test]
fn a_refusal_names_both_sides() {
    let text = |issuer: Issuer, claims: serde_json::Value| {
        verifier(issuer).verify(signed(&claims).as_bytes(), NOW_MS, |_| false).unwrap_err().message
    };
    assert_eq!(
        text(issuer(), json!({"sub": "a", "exp": NOW + 60, "nbf": NOW + 31})),
        "the token is valid from 2026-01-01T12:00:31Z, and this node's clock says 2026-01-01T12:00:00Z; check the clocks"
    );
    let strict = || Issuer { name: Some("us".into()), audience: vec!["tidegate".into()], ..issuer() };
    assert_eq!(
        text(strict(), json!({"sub": "a", "exp": NOW + 60, "iss": "us", "aud": "web"})),
        "the token is for \"web\"; this node takes \"tidegate\" (auth.audience)"
    );
    assert_eq!(
        text(strict(), json!({"sub": "a", "exp": NOW + 60, "iss": "them"})),
        "the token is of \"them\"; this node takes those of \"us\" (auth.issuer)"
    );
    assert_eq!(
        text(issuer(), json!({"sub": "a"})),
        "the token has no exp; give it one, at most 86400 s away (auth.max_lifetime)"
    );
    let other = signed_with(SECRET, r#"{"alg":"RS256"}"#, "{}");
    assert_eq!(
        verify(&other).unwrap_err().message,
        "the token is signed with \"RS256\"; the keys of this node take HS256"
    );
}

#[test]
fn the_documented_examples_of_rfc_7515_verify() {
    // Appendix A.1, HS256.
    let octets = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let secret = octets("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow");
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let issuer = Issuer { keys: vec![Key::secret(&secret).unwrap()], ..Issuer::default() };
    assert!(verifier(issuer).verify(token.as_bytes(), 1_300_819_000_000, |_| false).is_ok());
    // Appendix A.3, ES256, with the public part of its key as a JWKS.
    let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let issuer = Issuer { jwks: Jwks::Loaded(Key::from_jwks(jwks).unwrap()), ..Issuer::default() };
    let verifier = verifier(issuer);
    assert!(verifier.verify(token.as_bytes(), 1_300_819_000_000, |_| false).is_ok());
    let forged = token.replace("DtEh", "DtEi");
    assert_eq!(verifier.verify(forged.as_bytes(), 1_300_819_000_000, |_| false).unwrap_err().reason, Reason::Signature);
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    // The algorithm confusion attack: HS256 signed with the octets of the RSA or EC key, which is public.
    let point = [&[4][..], &[7; 64]].concat();
    let jwks = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}},{{"kty":"oct","k":"{}"}}]}}"#,
        encode(&point[1..33]),
        encode(&point[33..]),
        encode(SECRET)
    );
    let keys = Key::from_jwks(&jwks).unwrap();
    assert_eq!(keys.len(), 1, "a symmetric key that is published is no secret");
    let issuer = Issuer { jwks: Jwks::Loaded(keys), ..Issuer::default() };
    for secret in [&point[..], jwks.as_bytes(), SECRET] {
        let token = signed_with(secret, r#"{"alg":"HS256"}"#, &json!({"sub": "a", "exp": NOW + 60}).to_string());
        let refused = verifier(issuer.clone()).verify(token.as_bytes(), NOW_MS, |_| false).unwrap_err();
        assert_eq!(refused.reason, Reason::Algorithm);
    }
}

#[test]
fn keys_that_cannot_be_used_say_what_is_accepted() {
    let error = |pem: &str| Key::from_pem(pem.as_bytes()).unwrap_err().to_string();
    assert!(Key::secret(&[7; 31]).unwrap_err().to_string().contains("at least 32"));
    assert!(error("").contains("BEGIN PUBLIC KEY"));
    assert!(error("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").contains("openssl pkey -pubout"));
    assert!(error("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("openssl x509 -pubkey"));
    assert!(error("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").contains("SubjectPublicKeyInfo"));
    let short = Key::from_jwks(&format!(r#"{{"keys":[{{"kty":"RSA","n":"{}","e":"AQAB"}}]}}"#, encode([0xff; 128])));
    assert!(short.unwrap().is_empty(), "RSA of 1024 bits");
    assert!(Key::from_jwks("[]").unwrap_err().to_string().contains("keys"));
}

#[test]
fn a_kid_chooses_among_published_keys_and_an_unknown_one_is_told() {
    let jwk = |kid: &str, fill: u8| {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{}","alg":"EdDSA"}}"#, encode([fill; 32]))
    };
    let jwks = format!(r#"{{"keys":[{},{},{{"kty":"new"}},7]}}"#, jwk("a", 1), jwk("b", 2));
    let keys = Key::from_jwks(&jwks).unwrap();
    assert_eq!(keys.len(), 2, "entries that are not understood are left out");
    let with = |jwks: Jwks, kid: &str| {
        let issuer = Issuer { jwks, ..Issuer::default() };
        let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#);
        let token = signed_with(SECRET, &header, &json!({"sub": "a", "exp": NOW + 60}).to_string());
        verifier(issuer).verify(token.as_bytes(), NOW_MS, |_| false).unwrap_err().reason
    };
    assert_eq!(with(Jwks::Loaded(keys.clone()), "a"), Reason::Signature);
    assert_eq!(with(Jwks::Loaded(keys), "c"), Reason::UnknownKey);
    assert_eq!(with(Jwks::Awaited, "a"), Reason::KeysUnavailable);
}

#[test]
fn a_tenants_tokens_open_the_tenants_rooms_only() {
    let tenant = |name: &str| Issuer {
        name: Some(name.into()),
        rooms: vec![Pattern::new(&format!("{name}.*")).unwrap()],
        user_prefix: format!("{name}:"),
        ..issuer()
    };
    let verifier = Verifier { issuers: vec![tenant("acme"), tenant("evil")], claims: Vec::new() };
    let verify = |iss: &str, rooms: serde_json::Value| {
        let token = signed(&json!({"sub": "alice", "iss": iss, "exp": NOW + 60, "rooms": rooms}));
        verifier.verify(token.as_bytes(), NOW_MS, |_| false)
    };
    let everything = verify("evil", json!({"*": "rw", "$user.*": "w", "acme.board": "r", "evil.a.*": "r"})).unwrap();
    assert_eq!((everything.user.as_deref(), everything.issuer), (Some("evil:alice"), 1));
    assert!(
        everything.rights.allow(Access::BOTH, "evil.any") && everything.rights.allow(Access::WRITE, "$user.evil:bob")
    );
    for foreign in ["acme.board", "acme", "other", "$user.acme:alice", "evil"] {
        assert!(
            !everything.rights.allow(Access::READ, foreign) && !everything.rights.allow(Access::WRITE, foreign),
            "{foreign}"
        );
    }
    assert_eq!(verify("none of them", json!({})).unwrap_err().reason, Reason::Issuer);
}

#[test]
fn a_revoked_token_is_refused_before_its_signature_is_looked_at() {
    let token = signed_with(
        b"another secret of thirty-two bytes...",
        r#"{"alg":"HS256"}"#,
        &json!({"sub": "a", "exp": NOW + 60}).to_string(),
    );
    let refused = verifier(issuer()).verify(token.as_bytes(), NOW_MS, |verified| verified.user.as_deref() == Some("a"));
    assert_eq!(refused.unwrap_err().reason, Reason::Revoked);
}

#[test]
fn a_dot_in_a_claim_never_reaches_into_another_ones_rooms() {
    // `inbox.{sub}.*` for the user `bob.x` must not be `inbox.bob.x.*`, which is below bob's own `inbox.bob.*`.
    let templates =
        [Template::new("inbox.{sub}.*", Access::BOTH).unwrap(), Template::new("org.{org}", Access::READ).unwrap()];
    let claims: Vec<String> = templates.iter().flat_map(Template::claims).map(String::from).collect();
    let verifier = Verifier { issuers: vec![issuer()], claims };
    let may = |claims: serde_json::Value, action, room: &str| {
        let verified = verifier.verify(signed(&claims).as_bytes(), NOW_MS, |_| false).unwrap();
        let session = Session { user: verified.user.as_deref(), rights: &verified.rights, added: &[] };
        permits(Who::Token, &templates, Some(&session), false, action, room)
    };
    let bob = json!({"sub": "bob", "exp": NOW + 60});
    let bob_x = json!({"sub": "bob.x", "org": "o.1", "exp": NOW + 60});
    assert_eq!(may(bob.clone(), Action::Publish, "inbox.bob.today"), Ok(()));
    assert_eq!(may(bob_x.clone(), Action::Join, "inbox.bob.x.today"), Err(Denied::NoGrant));
    assert_eq!(may(bob_x.clone(), Action::Join, "inbox.bob%2Ex.today"), Ok(()));
    assert_eq!(may(bob_x.clone(), Action::Join, "org.o%2E1"), Ok(()));
    assert_eq!(may(bob_x, Action::Publish, "org.o%2E1"), Err(Denied::NoGrant), "read only");
    assert_eq!(may(bob, Action::Join, "org."), Err(Denied::NoGrant), "a token without the claim does not get its line");
    let hostile = json!({"sub": "a", "org": "*", "exp": NOW + 60});
    assert_eq!(may(hostile, Action::Join, "org.any"), Err(Denied::NoGrant), "a value that no name can hold");
}

#[test]
fn templates_that_would_open_too_much_are_refused() {
    for bad in ["org.{id}*", "org.{}", "org.{id", "org.id}", "a..{b}", "a b.{c}", "{a"] {
        assert!(Template::new(bad, Access::READ).is_err(), "{bad}");
    }
    for good in ["{sub}", "org.{id}.*", "org.{a}.{b}", "plain.*", "*", "$user.{friend}"] {
        assert!(Template::new(good, Access::READ).is_ok(), "{good}");
    }
}

/// What the page about permissions says, one sentence after the other, and as slowly.
fn reference(
    who: Who,
    grants: &[(String, Access)],
    has_token: bool,
    is_member: bool,
    action: Action,
    room: &str,
) -> bool {
    let letter = if action == Action::Join { Access::READ } else { Access::WRITE };
    let granted = grants.iter().any(|(pattern, access)| {
        let opens = if let Some(beginning) = pattern.strip_suffix('*') {
            let dollar = room.starts_with('$') && !pattern.starts_with('$');
            (0..=room.len()).any(|end| &room[..end] == beginning) && !dollar
        } else {
            pattern == room
        };
        opens && access.has(letter)
    });
    match who {
        Who::Any => true,
        Who::Users => has_token,
        Who::Members => is_member,
        Who::Token => has_token && granted,
        Who::None => false,
    }
}

fn a_pattern() -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), "[ab$]{1,2}(\\.[ab]{1,2}){0,2}(\\.\\*)?", "\\$user\\.(\\*|[ab])"]
}

fn a_room() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{1,2}(\\.[ab]{1,2}){0,3}", "\\$user\\.[ab]{1,2}"]
}

proptest! {
    #[test]
    fn what_is_permitted_is_what_a_slow_reference_permits(
        grants in proptest::collection::vec((a_pattern(), prop_oneof![Just("r"), Just("w"), Just("rw")]), 0..6),
        room in a_room(),
        has_token: bool,
        is_member: bool,
        publish: bool,
        who in prop_oneof![Just(Who::Any), Just(Who::Users), Just(Who::Members), Just(Who::Token), Just(Who::None)],
    ) {
        let rooms: serde_json::Map<_, _> = grants.iter()
            .filter(|(pattern, _)| Pattern::new(pattern).is_ok())
            .map(|(pattern, access)| (pattern.clone(), json!(access)))
            .collect();
        let grants: Vec<_> = rooms.iter()
            .map(|(pattern, access)| (pattern.clone(), Access::named(access.as_str().unwrap()).unwrap()))
            .collect();
        let verified = verify(&signed(&json!({"sub": "a", "exp": NOW + 60, "rooms": rooms}))).unwrap();
        let session = Session { user: verified.user.as_deref(), rights: &verified.rights, added: &[] };
        let action = if publish { Action::Publish } else { Action::Join };
        let permitted = permits(who, &[], has_token.then_some(&session), is_member, action, &room);
        prop_assert_eq!(permitted.is_ok(), reference(who, &grants, has_token, is_member, action, &room), "{:?}", permitted);
    }

    #[test]
    fn no_octets_make_the_verifier_panic(token: Vec<u8>, header in ".*", claims in ".*") {
        let verifier = verifier(issuer());
        prop_assert!(verifier.verify(&token, NOW_MS, |_| false).is_err());
        let token = signed_with(SECRET, &header, &claims);
        let _ = verifier.verify(token.as_bytes(), NOW_MS, |_| false);
        let token = signed_with(SECRET, r#"{"alg":"HS256"}"#, &claims);
        let _ = verifier.verify(token.as_bytes(), NOW_MS, |_| false);
    }
}
