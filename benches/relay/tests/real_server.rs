//! The codec against a real nats-server, and beside async-nats. The server is `TIDEGATE_NATS_SERVER`, else the one that
//! `scripts/install-test-deps.sh` installs.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use nkeys::KeyPair;
use relay::codec::buffer::ReadBuffer;
use relay::codec::encoder;
use relay::codec::error::ServerError;
use relay::codec::headers::Headers;
use relay::codec::login::{self, Credentials, Info};
use relay::codec::parser::{Message, Parser, ServerOp, Step};

const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Server {
    fn start(name: &str, config: &str) -> Self {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/venv/bin/nats-server");
        let program = std::env::var_os("TIDEGATE_NATS_SERVER").map_or(installed, PathBuf::from);
        let port = free_port();
        let file = std::env::temp_dir().join(format!("relay-codec-{}-{name}.conf", std::process::id()));
        std::fs::write(&file, format!("listen: \"127.0.0.1:{port}\"\n{config}")).unwrap();
        let child = Command::new(program).arg("-c").arg(&file).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, port, config: file };
        let until = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

/// A port below 32768, where no outgoing connection takes it. Each process starts elsewhere, and gives none twice.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 27_100 + (std::process::id() % 100) as u16 * 8 + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

/// A connection on the codec, which reads a few bytes at a time.
struct Client {
    stream: TcpStream,
    parser: Parser,
    buffer: ReadBuffer,
}

impl Client {
    fn login(server: &Server, credentials: &Credentials) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = Self { stream, parser: Parser::new(1 << 20), buffer: ReadBuffer::default() };
        let json = client.next(|op| if let ServerOp::Info(json) = op { json.to_vec() } else { panic!("{op:?}") });
        let (info, mut out) = (Info::parse(&json).unwrap(), Vec::new());
        login::connect(&mut out, "codec", credentials, &info, false).unwrap();
        client.write(&out);
        client
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn next<T>(&mut self, take: impl FnOnce(ServerOp<'_>) -> T) -> T {
        loop {
            match self.parser.step(self.buffer.unread()).unwrap() {
                Step::Op(op, consumed) => {
                    let taken = take(op);
                    self.buffer.consume(consumed);
                    return taken;
                }
                Step::Skip(skipped) => self.buffer.consume(skipped),
                Step::More(missing) => {
                    let space = self.buffer.space(missing);
                    let most = space.len().min(7);
                    let read = self.stream.read(&mut space[..most]).unwrap();
                    assert!(read > 0, "the server has closed the connection");
                    self.buffer.filled(read);
                }
            }
        }
    }

    /// The next message, without the `INFO` that nats-server 2.15 sends again behind the first `PONG`.
    fn next_message<T>(&mut self, mut take: impl FnMut(&Message<'_>) -> T) -> T {
        loop {
            let taken = self.next(|op| match op {
                ServerOp::Message(message) => Some(take(&message)),
                ServerOp::Info(_) => None,
                other => panic!("{other:?}"),
            });
            if let Some(taken) = taken {
                return taken;
            }
        }
    }

    /// What came before the `PONG` of a `PING` that is sent now, without `INFO`.
    fn until_pong(&mut self) -> Vec<String> {
        self.write(b"PING\r\n");
        let mut seen = Vec::new();
        loop {
            let said = self.next(|op| match op {
                ServerOp::Pong => None,
                ServerOp::Info(_) => Some(String::new()),
                ServerOp::Message(message) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let (subject, block) = (text(message.subject), text(message.headers.block()));
                    Some(format!("{} {subject} {block:?} {}", message.sid, text(message.payload)))
                }
                ServerOp::Error(ServerError::SubscribeViolation(subject)) => Some(format!("no SUB {subject}")),
                ServerOp::Error(ServerError::PublishViolation(subject)) => Some(format!("no PUB {subject}")),
                other => panic!("{other:?}"),
            });
            match said {
                Some(said) if said.is_empty() => {}
                Some(said) => seen.push(said),
                None => return seen,
            }
        }
    }
}

#[test]
fn each_kind_of_login_is_taken_by_a_real_server_and_a_wrong_one_is_told() {
    let key = KeyPair::new_user();
    let token = Server::start("token", "authorization { token: \"s3cret\" }");
    let user = Server::start("user", "authorization { users = [ { user: u, password: p } ] }");
    let nkey = Server::start("nkey", &format!("authorization {{ users = [ {{ nkey: {} }} ] }}", key.public_key()));
    let password = |password: &str| Credentials::User { name: "u".into(), password: password.into() };
    for (server, credentials) in
        [(&token, Credentials::Token("s3cret".into())), (&user, password("p")), (&nkey, Credentials::Nkey(key))]
    {
        assert_eq!(Client::login(server, &credentials).until_pong(), Vec::<String>::new(), "{credentials:?}");
    }
    let stranger = Credentials::Nkey(KeyPair::new_user());
    for (server, credentials) in [(&token, Credentials::None), (&user, password("no")), (&nkey, stranger)] {
        let mut client = Client::login(server, &credentials);
        let refused = client.next(|op| matches!(op, ServerOp::Error(ServerError::Unauthorized(_))));
        assert!(refused, "{credentials:?}");
    }
}

/// A signed token as NATS' tools make it: version 2 of its claims, ed25519 over the text.
fn signed(by: &KeyPair, subject: &KeyPair, claims: serde_json::Value) -> String {
    let json = serde_json::json!({
        "iat": 1_700_000_000, "iss": by.public_key(), "sub": subject.public_key(), "name": "test", "jti": "test", "nats": claims,
    });
    let part = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let text = format!("{}.{}", part(&serde_json::json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&json));
    let signature = URL_SAFE_NO_PAD.encode(by.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[test]
fn a_signed_user_token_is_taken_by_a_real_server_and_refused_with_another_key() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let operators = signed(&operator, &operator, serde_json::json!({ "type": "operator", "version": 2 }));
    let claims = serde_json::json!({ "type": "account", "version": 2, "limits": limits });
    let accounts = signed(&operator, &account, claims);
    let claims = serde_json::json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let token = signed(&account, &user, claims);
    let preload = format!("resolver_preload: {{ {}: \"{accounts}\" }}", account.public_key());
    let server = Server::start("jwt", &format!("operator: \"{operators}\"\nresolver: MEMORY\n{preload}"));
    let mut client = Client::login(&server, &Credentials::Jwt { token: token.clone(), key: user });
    client.write(b"SUB a 1\r\nPUB a 2\r\nhi\r\n");
    assert_eq!(client.until_pong(), ["1 a \"\" hi"]);
    let mut stranger = Client::login(&server, &Credentials::Jwt { token, key: KeyPair::new_user() });
    assert!(stranger.next(|op| matches!(op, ServerOp::Error(ServerError::Unauthorized(_)))));
}

#[test]
fn errors_and_messages_come_before_the_pong_and_an_id_in_use_keeps_its_subject() {
    let permissions = "{ publish: [\"ok.>\"], subscribe: [\"ok.>\"] }";
    let config = format!("authorization {{ users = [ {{ user: u, password: p, permissions: {permissions} }} ] }}");
    let server = Server::start("order", &config);
    let mut client = Client::login(&server, &Credentials::User { name: "u".into(), password: "p".into() });
    let mut out = Vec::new();
    encoder::subscribe(&mut out, ["ok.", "a"], 1).unwrap();
    encoder::subscribe(&mut out, ["no.", "a"], 2).unwrap();
    // Ignored: the id is in use.
    encoder::subscribe(&mut out, ["ok.", "b"], 1).unwrap();
    encoder::publish(&mut out, ["ok.", "a"], None, b"", b"one").unwrap();
    encoder::publish(&mut out, ["no.", "a"], None, b"", b"two").unwrap();
    encoder::publish(&mut out, ["ok.", "b"], None, b"", b"three").unwrap();
    encoder::publish(&mut out, ["ok.", "a"], Some("ok.r"), b"NATS/1.0\r\nA: b\r\n\r\n", b"four").unwrap();
    encoder::unsubscribe(&mut out, 1);
    encoder::subscribe(&mut out, ["ok.", "b"], 1).unwrap();
    encoder::publish(&mut out, ["ok.", "b"], None, b"", b"five").unwrap();
    client.write(&out);
    let seen = client.until_pong();
    let (errors, messages): (Vec<_>, Vec<_>) = seen.into_iter().partition(|said| said.starts_with("no "));
    assert_eq!(errors, ["no SUB no.a", "no PUB no.a"]);
    assert_eq!(messages, ["1 ok.a \"\" one", r#"1 ok.a "NATS/1.0\r\nA: b\r\n\r\n" four"#, "1 ok.b \"\" five"]);
}

#[test]
fn what_async_nats_publishes_is_read_and_what_the_codec_publishes_async_nats_reads() {
    let server = Server::start("foreign", "");
    let mut client = Client::login(&server, &Credentials::None);
    client.write(b"SUB to.codec 9\r\n");
    assert_eq!(client.until_pong(), Vec::<String>::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let foreign = async_nats::connect(format!("127.0.0.1:{}", server.port)).await.unwrap();
        let mut received = foreign.subscribe("to.foreign").await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.append("Content-Type", "text/plain");
        headers.append("Twice", "1");
        headers.append("Twice", "2");
        foreign.publish_with_headers("to.codec", headers, "hello".into()).await.unwrap();
        foreign.publish("to.codec", "".into()).await.unwrap();
        foreign.flush().await.unwrap();
        let (values, payload) = client.next_message(|message| {
            let headers: Headers<'_> = message.headers;
            let twice = headers.fields().filter(|(name, _)| *name == "Twice").count();
            (headers.value("Content-Type").map(String::from).zip(Some(twice)), message.payload.to_vec())
        });
        assert_eq!((values, &payload[..]), (Some(("text/plain".into(), 2)), &b"hello"[..]));
        let empty = client.next_message(|message| message.payload.is_empty() && message.headers.block().is_empty());
        assert!(empty);

        // Its own message comes back: the server knows of the subscription.
        foreign.publish("to.foreign", "first".into()).await.unwrap();
        assert_eq!(&received.next().await.unwrap().payload[..], b"first");
        let mut out = Vec::new();
        encoder::publish(&mut out, ["to.", "foreign"], Some("r"), b"NATS/1.0\r\nTidegate: v1\r\n\r\n", b"\xff\r\n")
            .unwrap();
        encoder::publish(&mut out, ["to.", "foreign"], None, b"", b"").unwrap();
        client.write(&out);
        let first = received.next().await.unwrap();
        let header = first.headers.as_ref().and_then(|headers| headers.get("Tidegate")).map(|value| value.as_str());
        assert_eq!((header, first.reply.as_deref(), &first.payload[..]), (Some("v1"), Some("r"), &b"\xff\r\n"[..]));
        let second = received.next().await.unwrap();
        assert!(second.headers.is_none() && second.payload.is_empty());
    });
}
