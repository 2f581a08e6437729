//! The commands `pub`, `sub` and `drain` beside a real node: how they find it, and what they say.
#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use support::client::Client;
use support::gateway::{Driver, Gateway};

struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

/// The program in an empty environment and a folder without a settings file.
fn tidegate(arguments: &[&str]) -> Command {
    let folder = std::env::temp_dir().join(format!("tidegate-commands-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A `tidegate sub` that runs.
struct Subscriber(Child, BufReader<ChildStdout>);

impl Subscriber {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pub_and_sub_take_the_same_node_and_pub_says_in_words_what_became_of_the_message() {
    // `pub` wanted --admin and `sub` wanted --listen, each another address of the same node, and `pub` answered "node".
    let mut gateway = Gateway::start(Driver::Epoll, &[]);
    let node = format!("http://localhost:{}", gateway.admin);
    let alone = run(&mut tidegate(&["pub", "lobby", "first", "--node", &node]));
    assert_eq!((alone.code, alone.out.as_str()), (Some(0), "node\n"));
    assert!(alone.err.ends_with("there is no broker; no client of this node is a member\n"), "{}", alone.err);

    let mut subscriber = Subscriber::start(&mut tidegate(&["sub", "lobby", "--node", &node, "--count", "1"]));
    gateway.wait("it joined", |gateway| gateway.get("/v1/rooms").text().contains("lobby"));
    let mut sent = tidegate(&["pub", "lobby", "second"]);
    let sent = run(sent.env("TIDEGATE_NODE", format!("127.0.0.1:{}", gateway.admin)));
    assert_eq!(
        sent.err,
        "tidegate: published to lobby: the node accepted it, and there is no broker; 1 client of this node is a member\n"
    );
    assert_eq!(subscriber.line(), "second\n");
}

#[test]
fn sub_says_what_the_answer_said_and_can_name_an_origin_that_is_let_in() {
    // Where `origins` was set, `sub` ended with "answered 403 Forbidden; is this the public port of a tidegate node?": it was.
    let gateway = Gateway::start(Driver::Epoll, &["--origins", "https://app.example"]);
    let node = format!("ws://127.0.0.1:{}", gateway.port);
    let refused = run(&mut tidegate(&["sub", "lobby", "--node", &node, "--origin", "https://other.example"]));
    assert_eq!(refused.code, Some(1));
    let told = format!("tidegate: 127.0.0.1:{} answered 403 Forbidden: ", gateway.port);
    assert!(refused.err.starts_with(&told) && refused.err.contains("Origin"), "{}", refused.err);
    assert!(
        refused.err.contains("--origin https://app.example") && refused.err.lines().count() == 1,
        "{}",
        refused.err
    );

    let arguments = ["sub", "lobby", "--node", &node, "--count", "1", "--raw-json", "--origin", "https://app.example"];
    let mut named = Subscriber::start(&mut tidegate(&arguments));
    assert!(named.line().contains("welcome"));
    // On the node's own host its settings name an origin.
    let mut own = tidegate(&arguments[..arguments.len() - 2]);
    let mut own = Subscriber::start(own.env("TIDEGATE_ORIGINS", "https://app.example"));
    assert!(own.line().contains("welcome"));
}

#[test]
fn sub_sends_a_token_for_the_balancer_in_front() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", support::nats::free_port())).unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let mut command = tidegate(&["sub", "lobby", "--node", &node]);
    let _subscriber = Subscriber::start(command.env("TIDEGATE_TOKEN", "t0ken"));
    let (stream, _) = listener.accept().unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let head: Vec<String> = lines.map(|line| line.to_ascii_lowercase()).collect();
    assert!(head.contains(&String::from("authorization: bearer t0ken")), "{head:#?}");
}

#[test]
fn a_command_that_was_given_the_other_port_says_which_one_it_needs() {
    let gateway = Gateway::start(Driver::Epoll, &[]);
    let (public, admin) = (format!("127.0.0.1:{}", gateway.port), format!("127.0.0.1:{}", gateway.admin));
    let mispublished = run(&mut tidegate(&["pub", "lobby", "x", "--node", &public]));
    assert_eq!(mispublished.code, Some(1));
    assert!(mispublished.err.contains("is this the admin port of a tidegate node?"), "{}", mispublished.err);
    let missubscribed = run(&mut tidegate(&["sub", "lobby", "--node", &admin]));
    assert_eq!(missubscribed.code, Some(1));
    assert!(missubscribed.err.contains("--node http://HOST:PORT names its admin port"), "{}", missubscribed.err);
    let by_scheme = run(&mut tidegate(&["drain", "--node", &format!("ws://{public}")]));
    assert_eq!(by_scheme.code, Some(2));
    assert!(by_scheme.err.starts_with("tidegate: --node: ws://"), "{}", by_scheme.err);
    let mut client = Client::connect(gateway.port);
    client.join("lobby");
}

/// An operator drained a node by mistake and another took it back. The command waited for its whole time-out, said that "the node
/// goes on draining", and returned at once with 0 where no client was left, so that a script stopped a node that served again.
#[test]
fn drain_tells_that_another_request_took_the_drain_back_with_and_without_clients() {
    let settings = "[drain]\ndelay = \"10m\"";
    let mut gateway = Gateway::on(Driver::Epoll).config(settings).start();
    for clients in [1, 0] {
        let members: Vec<_> = (0..clients).map(|_| Client::connect(gateway.port)).collect();
        gateway.wait_for("ws_connections_active", f64::from(clients));
        let node = format!("http://127.0.0.1:{}", gateway.admin);
        let mut command = tidegate(&["drain", "--node", &node, "--timeout", "10m"]);
        let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        gateway.wait_for("ws_node_state{state=\"draining\"}", 1.0);
        assert_eq!(gateway.ask("DELETE", "/drain", &[], b"").status, 200);
        let output = waiting.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        let serves = format!("the node serves again, with {clients} connections");
        assert!(told.contains("the drain was taken back (DELETE /drain)") && told.contains(&serves), "{told}");
        drop(members);
        gateway.wait_for("ws_connections_active", 0.0);
    } // Its own end waits for the delay, unless a second signal comes.
    gateway.assert_accounts_are_closed();
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    gateway.wait_for("ws_node_state{state=\"draining\"}", 1.0);
    assert_eq!(gateway.terminate(), 1);
}
