//! The command line of the real program: what people type, what they read, and how it ends.

#![expect(clippy::unwrap_used, reason = "a failed step of a test's preparation is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

/// A folder to run in, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-cli-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with_config(text: &str) -> Self {
        let folder = Self::new();
        fs::write(folder.0.join("tidegate.toml"), text).unwrap();
        folder
    }

    fn tidegate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).current_dir(&self.0).env_clear().stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.tidegate(arguments).output().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A listener on loopback, below the ports that outgoing connections take.
fn listener() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(31) % 10_000;
    let ports = (0..10_000).map(|_| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000);
    ports.into_iter().find_map(|port| TcpListener::bind(("127.0.0.1", port as u16)).ok()).unwrap()
}

struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[test]
fn the_help_shows_the_commands_and_the_variables() {
    let help = Folder::new().run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for word in ["serve", "check", "drain", "pub", "sub", "--listen", "TIDEGATE_LISTEN", "Exit codes"] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
}

#[test]
fn help_works_as_a_command_too_and_of_each_command() {
    // `tidegate help` was an error, and what a command takes was found by those only who knew `--help`.
    let folder = Folder::new();
    assert_eq!(folder.run(&["help"]).out, folder.run(&["--help"]).out);
    for command in ["serve", "check", "drain", "pub", "sub"] {
        let help = folder.run(&["help", command]);
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{command}");
        assert_eq!(help.out, folder.run(&[command, "--help"]).out);
    }
    let refused = folder.run(&["help", "publish"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.starts_with("tidegate: unrecognized subcommand 'publish'"), "{}", refused.err);
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
}

#[test]
fn a_port_alone_and_a_host_name_are_addresses_to_listen_at() {
    let folder = Folder::new();
    for (typed, listen) in [(":8080", "0.0.0.0:8080"), ("localhost:8080", "127.0.0.1:8080")] {
        let printed = folder.run(&["--print-config", "--listen", typed]);
        assert!(printed.out.contains(&format!("listen = \"{listen}\"")), "{typed}: {}", printed.out);
    }
    // The name of this machine is looked up, as programs do that are given one.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let printed = folder.run(&["--print-config", "--admin", &format!("{name}:9090")]);
    let known = std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 9090)).is_ok();
    assert_eq!(printed.code, Some(if known { 0 } else { 2 }), "{}", printed.err);
    let refused = folder.run(&["--print-config", "--listen", "no-such-host.invalid:8080"]);
    assert_eq!(refused.code, Some(2));
    let told = "tidegate: --listen: the host name \"no-such-host.invalid\" was not found (";
    assert!(refused.err.starts_with(told) && refused.err.contains(":8080"), "{}", refused.err);
}

#[test]
fn print_config_shows_the_outcome_of_all_sources_as_toml() {
    let folder = Folder::with_config("message_rate = 7\n[admin]\ntoken = \"hunter2\"\n");
    let printed = Outcome::of(
        folder
            .tidegate(&["--print-config", "--listen", "127.0.0.1:18080"])
            .env("TIDEGATE_DRAIN_WINDOW", "2s")
            .output()
            .unwrap(),
    );
    assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""));
    let table: toml::Table = printed.out.parse().unwrap();
    assert_eq!(table["listen"].as_str(), Some("127.0.0.1:18080"));
    assert_eq!(table["message_rate"].as_integer(), Some(7));
    assert_eq!(table["drain"]["window"].as_str(), Some("2s"));
    for origin in ["# flag --listen", "# tidegate.toml:1", "# environment TIDEGATE_DRAIN_WINDOW", "# default"] {
        assert!(printed.out.contains(origin), "{origin}: {}", printed.out);
    }
    assert!(!printed.out.contains("hunter2") && printed.out.contains("masked; tidegate.toml:3"), "{}", printed.out);
}

#[test]
fn a_wrong_key_names_its_line_and_the_nearest_key() {
    let folder = Folder::with_config("\n[limits]\nmesage_bytes = \"1MiB\"\n");
    let refused = folder.run(&["--print-config"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(
        refused.err,
        "tidegate: tidegate.toml:3: unknown key \"limits.mesage_bytes\"; did you mean \"limits.message_bytes\"?\n"
    );
}

#[test]
fn a_wrong_flag_names_the_nearest_flag() {
    let refused = Folder::new().run(&["--drain-windw", "2s"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("--drain-window"), "{}", refused.err);
}

#[test]
fn a_wrong_value_names_the_range_in_one_line() {
    let refused = Folder::new().run(&["serve", "--shards", "1000"]);
    assert_eq!((refused.code, refused.err.as_str()), (Some(2), "tidegate: --shards: 1000 is out of range: 1 to 256\n"));
}

#[test]
fn a_file_that_is_named_must_be_there_and_one_that_is_not_need_not() {
    let folder = Folder::new();
    assert_eq!(folder.run(&["--print-config"]).code, Some(0));
    let refused = folder.run(&["--print-config", "--config", "other.toml"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.starts_with("tidegate: other.toml: the configuration file cannot be read"), "{}", refused.err);
    assert!(refused.err.ends_with("; check --config\n"), "{}", refused.err);
    // Who set the variable gave no flag, and may not know that there is one in a unit or an image.
    let by_variable = folder.tidegate(&["--print-config"]).env("TIDEGATE_CONFIG", "other.toml").output().unwrap();
    let by_variable = Outcome::of(by_variable);
    assert_eq!(by_variable.code, Some(2));
    assert!(by_variable.err.ends_with("; check TIDEGATE_CONFIG\n"), "{}", by_variable.err);
    fs::create_dir(folder.0.join("tidegate.toml")).unwrap();
    let by_default = folder.run(&["--print-config"]);
    assert_eq!(by_default.code, Some(2));
    assert!(by_default.err.ends_with("; make it readable, or name another with --config\n"), "{}", by_default.err);
}

#[test]
fn an_unknown_variable_warns_and_the_node_goes_on() {
    let folder = Folder::new();
    // The node stops at a port that is in use: the warning is out by then.
    let (public, taken) = (listener(), listener());
    let address = taken.local_addr().unwrap().to_string();
    let listen = public.local_addr().unwrap().to_string();
    let mut child = folder
        .tidegate(&["--listen", &listen, "--admin", &address])
        .env("TIDEGATE_SHARD", "1")
        .env("TIDEGATE_PORT", "tcp://10.0.0.1:80")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).take(2).collect();
    let _ = child.kill();
    child.wait().unwrap();
    let records: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().all(|record| record["level"] == "WARN"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("TIDEGATE_SHARD;") && line.contains("TIDEGATE_SHARDS")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("Kubernetes")), "{lines:?}");
}

#[test]
fn check_as_json_is_one_object_with_the_capacity_and_what_binds_it() {
    let checked = Folder::new().run(&["check", "--json"]);
    assert_eq!(checked.code, Some(0));
    let report: serde_json::Value = serde_json::from_str(&checked.out).unwrap();
    assert!(report["connections"].is_u64() && report["binding"].is_string(), "{report}");
    assert!(report["rows"].as_array().unwrap().iter().any(|row| row["what"] == "nofile"), "{report}");
}

#[test]
fn a_target_that_does_not_fit_exits_3_and_names_what_to_raise() {
    let checked = Folder::new().run(&["check", "--target", "1000000000"]);
    assert_eq!(checked.code, Some(3));
    assert!(checked.out.contains("A target of 1,000,000,000 connections does not fit."), "{}", checked.out);
    assert!(
        checked.out.contains("raise memory:") && checked.out.contains("raise nofile: LimitNOFILE="),
        "{}",
        checked.out
    );
    assert_eq!(Folder::new().run(&["check", "--target", "1"]).code, Some(0));
    assert_eq!(Folder::new().run(&["check", "--target", "0"]).code, Some(2));
}

/// In place of an answer: the connection is closed.
const NO_ANSWER: (u16, &str) = (0, "");

/// An admin port that gives `answers` in order, one a connection, and tells what it was asked.
fn admin_port(answers: Vec<(u16, &'static str)>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let (asked, questions) = mpsc::channel();
    thread::spawn(move || {
        for (status, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            asked.send(request(&stream)).unwrap();
            if (status, body) == NO_ANSWER {
                continue;
            }
            let length = body.len();
            write!(&stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        }
    });
    (address, questions)
}

fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        text.push_str(&line);
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" || line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    text + &String::from_utf8(body).unwrap()
}

#[test]
fn pub_sends_the_message_with_its_token_and_prints_the_level() {
    let (admin, questions) = admin_port(vec![(202, r#"{"level":"broker"}"#)]);
    let folder = Folder::with_config("[publish]\ntoken = \"t0ken\"\n");
    let sent = folder.run(&["pub", "a/b", r#"{"n":1}"#, "--admin", &admin.to_string()]);
    assert_eq!((sent.code, sent.out.as_str()), (Some(0), "broker\n"), "what scripts read");
    assert_eq!(sent.err, "tidegate: published to a/b: the broker accepted it for all nodes\n");
    let asked = questions.recv().unwrap();
    assert!(asked.starts_with("POST /v1/rooms/a%2Fb/messages HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Authorization: Bearer t0ken\r\n") && asked.contains("application/json"), "{asked}");
    assert!(asked.ends_with("\r\n\r\n{\"n\":1}"), "{asked}");
}

#[test]
fn pub_reads_standard_input_for_a_dash() {
    let (admin, questions) = admin_port(vec![(202, r#"{"level":"node"}"#)]);
    let folder = Folder::new();
    let mut child = folder
        .tidegate(&["pub", "--quiet", "lobby", "-", "--admin", &admin.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"good morning").unwrap();
    let sent = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!((sent.code, sent.out.as_str(), sent.err.as_str()), (Some(0), "node\n", ""));
    let asked = questions.recv().unwrap();
    assert!(asked.contains("text/plain") && asked.ends_with("\r\n\r\ngood morning"), "{asked}");
}

#[test]
fn pub_says_what_the_node_refused_and_exits_1() {
    let forbidden = (403, r#"{"error":{"code":"forbidden","message":"not from here"}}"#);
    // The list of rooms, and the message.
    let (admin, _questions) = admin_port(vec![forbidden, forbidden]);
    let refused = Folder::new().run(&["pub", "lobby", "x", "--admin", &admin.to_string()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("403 not from here") && refused.err.contains("publish.token"), "{}", refused.err);
}

#[test]
fn commands_say_where_nothing_listens() {
    let free = listener().local_addr().unwrap().to_string();
    let folder = Folder::new();
    let commands = [vec!["pub", "lobby", "x"], vec!["drain"], vec!["sub", "lobby"]];
    for (command, old) in commands.into_iter().zip(["--admin", "--admin", "--listen"]) {
        for flag in ["--node", old] {
            let refused = folder.run(&[command.as_slice(), &[flag, &free]].concat());
            assert_eq!(refused.code, Some(1), "{command:?}");
            assert_eq!(
                refused.err,
                format!(
                    "tidegate: nothing listens on {free}; start a node there, or say where one is: --node HOST:PORT\n"
                )
            );
        }
    }
    assert_eq!(folder.run(&["pub", "no room", "x"]).code, Some(2));
}

#[test]
fn drain_waits_until_the_node_is_empty() {
    let answers = vec![(202, "{}"), (200, r#"{"connections":2}"#), (200, r#"{"connections":0}"#)];
    let (admin, questions) = admin_port(answers);
    let folder = Folder::with_config("[admin]\ntoken = \"t0ken\"\n");
    let drained = folder.run(&["drain", "--admin", &admin.to_string()]);
    assert_eq!((drained.code, drained.err.as_str()), (Some(0), ""));
    let asked: Vec<String> = questions.iter().collect();
    assert_eq!(asked.len(), 3);
    assert!(asked[0].starts_with("POST /drain HTTP/1.1") && asked[0].contains("Bearer t0ken"), "{}", asked[0]);
    assert!(asked[2].starts_with("GET /v1/node HTTP/1.1"), "{}", asked[2]);
}

#[test]
fn drain_is_done_when_the_node_is_gone_and_fails_when_time_is_up() {
    let (admin, _questions) = admin_port(vec![(202, "{}"), (200, r#"{"connections":2}"#)]);
    assert_eq!(Folder::new().run(&["drain", "--admin", &admin.to_string()]).code, Some(0));
    let (admin, _questions) = admin_port(vec![(202, "{}"), (200, r#"{"connections":2}"#)]);
    let late = Folder::new().run(&["drain", "--timeout", "0", "--admin", &admin.to_string()]);
    assert_eq!(late.code, Some(1));
    assert!(late.err.contains("2 connections are still open"), "{}", late.err);
}

#[test]
fn drain_asks_again_where_no_answer_comes_although_something_listens() {
    // Whatever went wrong was taken for a node that is gone, and a preStop hook ended with clients still there.
    let (two, none) = ((200, r#"{"connections":2}"#), (200, r#"{"connections":0}"#));
    let (admin, questions) = admin_port(vec![(202, "{}"), NO_ANSWER, two, NO_ANSWER, none]);
    let drained = Folder::new().run(&["drain", "--admin", &admin.to_string()]);
    assert_eq!((drained.code, drained.err.as_str()), (Some(0), ""));
    assert_eq!(questions.try_iter().count(), 5);
    let (admin, _questions) = admin_port(vec![(202, "{}"), NO_ANSWER]);
    let late = Folder::new().run(&["drain", "--timeout", "0", "--admin", &admin.to_string()]);
    assert_eq!(late.code, Some(1), "{}", late.err);
    assert!(late.err.contains("does not answer") && late.err.contains("clients"), "{}", late.err);
}

#[test]
fn sub_prints_messages_comes_back_after_a_drain_and_ends_after_its_count() {
    use tungstenite::Message;
    use tungstenite::protocol::CloseFrame;
    let listener = listener();
    let node = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let mut joins = Vec::new();
        for round in 0..2 {
            let (stream, _) = listener.accept().unwrap();
            let mut socket = tungstenite::accept(stream).unwrap();
            joins.push(socket.read().unwrap().into_text().unwrap().to_string());
            let say = |socket: &mut tungstenite::WebSocket<_>, text: String| socket.send(Message::text(text)).unwrap();
            say(&mut socket, r#"{"type":"joined","roomId":"lobby"}"#.into());
            say(&mut socket, format!(r#"{{"type":"message","roomId":"lobby","content":"m{round}"}}"#));
            if round == 0 {
                say(&mut socket, r#"{"type":"server-shutdown","reconnectAfter":1}"#.into());
                socket.close(Some(CloseFrame { code: 1012.into(), reason: "restart".into() })).unwrap();
            }
            while socket.read().is_ok() {}
        }
        joins
    });
    let heard = Folder::new().run(&["sub", "lobby", "--count", "2", "--listen", &node]);
    assert_eq!((heard.code, heard.out.as_str()), (Some(0), "m0\nm1\n"), "{}", heard.err);
    assert!(heard.err.contains("1012 restart; reconnecting in 1 ms (attempt 1)"), "{}", heard.err);
    let join = r#"{"roomId":"lobby","type":"join"}"#;
    assert_eq!(server.join().unwrap(), [join, join]);
}

#[test]
fn sub_does_not_come_back_after_a_refusal() {
    use tungstenite::Message;
    let listener = listener();
    let node = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        let _ = socket.read();
        socket.send(Message::text(r#"{"type":"error","code":"forbidden","message":"members only"}"#)).unwrap();
        while socket.read().is_ok() {}
    });
    let refused = Folder::new().run(&["sub", "lobby", "--listen", &node]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("forbidden: members only"), "{}", refused.err);
}
