//! The account of the load generator against servers that lose, double, swap, delay, refuse and close.

#![allow(clippy::unwrap_used, reason = "the functions beside the tests belong to them")]

mod toy;

use std::process::{Command, Output};

use serde_json::Value;
use toy::Fault;

fn tideload(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tideload")).args(arguments).output().unwrap()
}

/// Ten members of one room, publications at a rate; the record and the exit code.
fn fanout(fault: Fault, seconds: &str) -> (Value, Option<i32>) {
    let url = format!("ws://{}/raw/{{room}}", toy::start(fault));
    let mut arguments = vec!["fanout", &url, "-c", "10", "--rate", "200", "-t", seconds, "--warmup", "0"];
    arguments.extend(["--exactly-once", "--json", "-", "-q"]);
    let output = tideload(&arguments);
    let record = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no record: {}", String::from_utf8_lossy(&output.stderr)));
    (record, output.status.code())
}

fn number(record: &Value, key: &str) -> u64 {
    record["results"][key].as_u64().unwrap_or_else(|| panic!("no {key} in {record}"))
}

#[test]
fn a_correct_server_has_a_clean_account() {
    let (record, code) = fanout(Fault::Honest, "0.5");
    assert_eq!(code, Some(0), "{record}");
    assert_eq!(number(&record, "published"), 100);
    // Ten members, and the publisher, whose path makes it a member too.
    assert_eq!(number(&record, "delivered"), 1_100);
    for key in ["lost", "duplicate", "reordered", "misdirected"] {
        assert_eq!(number(&record, key), 0, "{key}");
    }
    assert_eq!(record["results"]["last_member"]["count"], 100);
}

#[test]
fn lost_messages_are_counted_even_at_the_end() {
    // The hundredth message, the last one, is among the lost.
    let (record, code) = fanout(Fault::Loses, "0.5");
    assert_eq!((number(&record, "lost"), code), (10, Some(1)), "{record}");
    assert_eq!(number(&record, "duplicate"), 0);
}

#[test]
fn what_was_lost_at_the_end_of_the_warm_up_is_not_counted_again_in_the_measurement() {
    // The hundredth message is the last one of the warm-up. It was counted as lost there, and once more with the first message of
    // the measurement: 11 losses where the server lost 10.
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Loses));
    let (record, _) = recorded(&["fanout", &url, "-c", "10", "--rate", "200", "-t", "0.5", "--warmup", "0.5"]);
    assert_eq!((number(&record, "published"), number(&record, "lost")), (100, 10), "{record}");
}

/// A run in which the toy refuses every second publication by its number.
fn refusing(mode: &[&str]) -> Value {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::RefusesHalf));
    let words = ["--publish", "REF={ref}. {content}", "--refused", "refused", "--refused-ref", "ref="];
    let (record, code) = recorded(&[&[mode[0], &url], &mode[1..], &words, &["--exactly-once"]].concat());
    assert_eq!(code, Some(1), "what was refused did not arrive: {record}");
    record
}

#[test]
fn refused_publications_are_not_counted_as_lost() {
    // A user published faster than the server takes from one connection. The server refused the excess, and the tool reported it
    // as lost: "lost 400".
    let record = refusing(&["fanout", "-c", "9", "-r", "3", "--rate", "300", "-t", "0.5", "--warmup", "0.2"]);
    assert_eq!((number(&record, "published"), number(&record, "refused")), (150, 75), "{record}");
    assert_eq!((number(&record, "lost"), number(&record, "reordered")), (0, 0), "{record}");
    assert!(record["hints"][0].as_str().unwrap().contains("refused 75 publications"), "{record}");
}

#[test]
fn refused_publications_are_not_counted_as_lost_by_members_that_come_and_go() {
    let record = refusing(&["soak", "-c", "5", "--rate", "200", "-t", "0.3", "--rounds", "2", "--churn", "30"]);
    let counts = &record["results"]["counts"];
    assert_eq!((counts["refused"].as_u64(), counts["lost"].as_u64()), (Some(60), Some(0)), "{record}");
}

#[test]
fn an_echo_goes_on_after_a_refusal() {
    let record = refusing(&["echo", "-c", "3", "-p", "2", "-t", "0.3", "--warmup", "0"]);
    assert!(number(&record, "messages") > 6 && number(&record, "refused") > 6, "{record}");
    assert_eq!(number(&record, "lost"), 0, "{record}");
}

#[test]
fn an_echo_that_stalls_is_not_reported_as_fast() {
    // Of a message that never came back the connection waited for ever; the rate was that of the first milliseconds.
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Loses));
    let (record, _) = recorded(&["echo", &url, "-c", "2", "-t", "0.5", "--warmup", "0"]);
    assert_eq!(number(&record, "lost"), 2, "{record}");
    let rate = record["results"]["messages_per_s"].as_f64().unwrap();
    assert!(rate <= number(&record, "messages") as f64 / 0.5, "{record}");
    assert!(record["hints"][0].as_str().unwrap().contains("--message-rate 0"), "{record}");
}

#[test]
fn duplicates_are_counted() {
    let (record, code) = fanout(Fault::Doubles, "0.5");
    assert_eq!((number(&record, "duplicate"), code), (10, Some(1)), "{record}");
    assert_eq!(number(&record, "lost"), 0);
}

#[test]
fn a_message_after_its_successor_is_reordered_and_not_lost() {
    let (record, code) = fanout(Fault::Swaps, "0.525");
    assert_eq!((number(&record, "reordered"), code), (10, Some(1)), "{record}");
    assert_eq!((number(&record, "lost"), number(&record, "duplicate")), (0, 0));
}

#[test]
fn a_server_that_falls_behind_shows_in_the_latency_although_the_publisher_never_waits() {
    // One message takes the server 20 ms, and one comes every 5 ms: the last of a hundred waits for 1.5 s.
    let (record, _) = fanout(Fault::Delays, "0.5");
    let latency = &record["results"]["latency"];
    assert!(latency["max_us"].as_f64().unwrap() >= 1_400_000.0, "{latency}");
    assert!(latency["p50_us"].as_f64().unwrap() >= 600_000.0, "{latency}");
}

#[test]
fn publishing_as_fast_as_acknowledged_never_has_more_under_way_than_the_window() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Delays));
    let output = tideload(&[
        "fanout",
        &url,
        "-c",
        "5",
        "--window",
        "2",
        "-t",
        "0.5",
        "--warmup",
        "0",
        "--json",
        "-",
        "-q",
        "--exactly-once",
    ]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{record}");
    // 20 ms each, so at most 25 in half a second, and the two under way.
    assert!((1..=27).contains(&number(&record, "published")), "{record}");
}

#[test]
fn connections_that_the_server_closes_are_listed_by_their_code() {
    let (record, _) = fanout(Fault::Closes, "0.1");
    assert!(record["results"]["ended"]["close 1013"].as_u64().is_some_and(|count| count >= 10), "{record}");
}

#[test]
fn an_echo_in_several_processes_comes_back_whole() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Honest));
    let output = tideload(&[
        "echo",
        &url,
        "-c",
        "6",
        "--processes",
        "3",
        "-p",
        "4",
        "-t",
        "0.3",
        "--warmup",
        "0",
        "--exactly-once",
        "--json",
        "-",
        "-q",
    ]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{record}");
    assert!(number(&record, "messages") >= 24);
}

#[test]
fn every_connection_comes_back_after_a_cut() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Honest));
    let output = tideload(&["storm", &url, "-c", "50", "--cut", "--json", "-", "-q"]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["results"]["restored"]["count"], 50, "{record}");
    assert!(record["not_measured"][0].as_str().unwrap().contains("server CPU per upgrade"));
}

/// A run whose record is wanted: arguments, then `--json - -q`.
fn recorded(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = tideload(&[arguments, &["--json", "-", "-q"]].concat());
    let record = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no record: {}", String::from_utf8_lossy(&output.stderr)));
    (record, output.status.code())
}

#[test]
fn idle_members_get_a_broadcast_each_and_what_was_not_measured_is_said() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Honest));
    let (record, code) =
        recorded(&["idle", &url, "-c", "10", "-t", "0.2", "--settle", "0.1", "--broadcasts", "1", "--exactly-once"]);
    assert_eq!(code, Some(0), "{record}");
    // Ten members, and the publisher, whose path makes it a member too.
    assert_eq!((number(&record, "published"), number(&record, "delivered")), (1, 11));
    let missing: Vec<&str> = record["not_measured"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(missing.iter().any(|what| what.contains("user memory") && what.contains("--server-pid")), "{missing:?}");
    assert!(missing.iter().any(|what| what.contains("heartbeats")), "{missing:?}");
}

#[test]
fn readers_that_stop_reading_are_not_counted_as_losses() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Honest));
    let (record, code) =
        recorded(&["slow", &url, "-c", "5", "-k", "2", "--rate", "50", "-t", "0.4", "--warmup", "0", "--exactly-once"]);
    assert_eq!(code, Some(0), "{record}");
    assert_eq!((number(&record, "published"), number(&record, "lost")), (20, 0));
    assert!(record["results"]["p99_ratio"].as_f64().is_some(), "{record}");
}

#[test]
fn a_soak_with_churn_keeps_its_account_over_all_rounds() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Honest));
    let (record, code) = recorded(&[
        "soak",
        &url,
        "-c",
        "5",
        "--rate",
        "50",
        "-t",
        "0.3",
        "--rounds",
        "2",
        "--churn",
        "5",
        "--exactly-once",
    ]);
    assert_eq!(code, Some(0), "{record}");
    // Two rounds of fifteen publications.
    assert_eq!((number(&record, "rounds"), number(&record, "published")), (2, 30), "{record}");
    assert_eq!(record["results"]["counts"]["lost"], 0);
}

#[test]
fn a_process_that_tells_nothing_is_not_measured_for_a_reason() {
    let url = format!("ws://{}/raw/{{room}}", toy::start(Fault::Honest));
    // The kernel's numbers of processes end below this one.
    let (record, _) = recorded(&["soak", &url, "-c", "3", "-t", "0.1", "--rounds", "1", "--server-pid", "4194304"]);
    let told = record["not_measured"].to_string();
    assert!(told.contains("the server's memory over time (process 4194304: "), "{record}");
}

#[test]
fn any_server_can_be_loaded_through_templates() {
    let url = format!("ws://{}/", toy::start(Fault::Honest));
    let (record, code) = recorded(&[
        "fanout",
        &url,
        "--dialect",
        "raw",
        "--publish",
        r#"{"text":"{content}","to":"{room}"}"#,
        "--match",
        "text",
        "-c",
        "3",
        "--rate",
        "100",
        "-t",
        "0.2",
        "--warmup",
        "0",
        "--exactly-once",
    ]);
    assert_eq!(code, Some(0), "{record}");
    assert_eq!((number(&record, "published"), number(&record, "delivered")), (20, 80));
}

#[test]
fn bad_input_gets_one_clear_line() {
    let refusing = format!("ws://{}/", toy::start(Fault::Refuses));
    let silent = format!("ws://{}/", toy::start(Fault::Honest));
    let nowhere = "ws://127.0.0.1:9/";
    for (arguments, code, part) in [
        (vec!["echo", &refusing, "-c", "3"], 3, "404"),
        (vec!["echo", nowhere, "-c", "3"], 3, "nothing listens there"),
        (vec!["echo", "ws://example.org/"], 2, "no IPv4 address"),
        (vec!["echo", "http://127.0.0.1:8080/raw/{room}"], 2, "write ws://127.0.0.1:8080/raw/{room}"),
        (vec!["idle", "http://localhost:8080"], 2, "write ws://localhost:8080"),
        (vec!["fanout", nowhere, "--publish-url", "http://127.0.0.1:9090"], 3, "/v1/rooms/{room}/messages"),
        (vec!["fanout", nowhere, "--size", "10"], 2, "too short"),
        (vec!["fanout", nowhere, "--dialect", "pusher"], 3, "--publish"),
        (vec!["storm", nowhere, "-c", "500000", "--processes", "1"], 3, "--processes"),
        (vec!["fanout", nowhere, "--publish", "hello"], 2, "no {content}"),
        (vec!["fanout", nowhere, "--join", "JOIN {rooom}"], 2, "{rooom}, which stands for nothing"),
        (vec!["fanout", nowhere, "--answer", "2"], 2, "has no =>"),
        (vec!["fanout", nowhere, "--rate", "0"], 3, "--rate is above 0"),
        (vec!["echo", nowhere, "--pin", "4000"], 2, "--pin 4000"),
        (vec!["fanout", &silent, "--greeted", "", "--joined", "never", "-c", "3", "--timeout", "1"], 3, "--joined"),
    ] {
        let output = tideload(&arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(part), "{arguments:?}: {told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_help_texts_keep_their_lines_whole() {
    // `{n}` in a help text is a line break for the parser of the command line: "ws://HOST:PORT/PATH on this host; {room}," stood
    // alone, and the name of the placeholder was gone.
    for mode in ["idle", "echo", "fanout", "storm", "slow", "soak"] {
        let output = tideload(&[mode, "--help"]);
        let help = String::from_utf8(output.stdout).unwrap();
        let joined = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(joined.contains("{room}, {number} (the room's number) and {client} may stand in the path"), "{help}");
        assert!(help.contains("[default: load.{number}]"), "{help}");
        assert!(!help.lines().any(|line| line.ends_with(' ') && !line.trim().is_empty()), "a broken line: {help}");
    }
}
