//! What is typed and what becomes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::CommandFactory;

use super::*;
use crate::gateway::cli::Cli;
use crate::gateway::host::{Host, ProbeOutcome};
use tidegate_core::auth::Who;
use tidegate_core::setting::Kind;
use tidegate_core::shard::SlowPolicy;

fn host() -> Host {
    let mut host = Host::read(std::path::Path::new("/nowhere"), ProbeOutcome::Works);
    host.cores = 4;
    host.hostname = Some(String::from("edge-1"));
    host
}

/// Merges flags, variables and a file called `tidegate.toml`.
fn typed(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: &str) -> Result<Settings, Vec<Problem>> {
    merge(Sources {
        flags: flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect(),
        environment: variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        file: Some((String::from("tidegate.toml"), file.to_owned())),
        host: &host(),
    })
}

fn config(file: &str) -> Config {
    let settings = typed(&[], &[], file);
    settings.unwrap_or_else(|problems| panic!("{problems:?}")).config
}

fn problems(file: &str) -> Vec<String> {
    match typed(&[], &[], file) {
        Ok(_) => panic!("taken: {file}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn without_sources_the_configuration_is_the_defaults_and_what_the_host_says() {
    let config = config("");
    assert_eq!(config, Config { shards: 4, node_name: "edge-1".into(), ..Config::default() });
}

#[test]
fn a_quota_bounds_the_shards_and_ends_the_pinning() {
    let mut host = host();
    host.cpu_quota_cores = Some(1.2);
    let settings = merge(Sources { flags: vec![], environment: vec![], file: None, host: &host }).ok().unwrap();
    assert_eq!(settings.config.shards, 2);
    assert_eq!(settings.origin("shards"), Some(&Origin::Default("the cgroup's CPU quota")));
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let file = "shards = 3\nmessage_rate = 7\ndriver = \"epoll\"\n";
    let variables = [("TIDEGATE_SHARDS", "5"), ("TIDEGATE_MESSAGE_RATE", "8"), ("PATH", "/bin")];
    let settings = typed(&[("shards", "6")], &variables, file).ok().unwrap();
    let config = &settings.config;
    assert_eq!((config.shards, config.message_rate, config.driver), (6, 8, Driver::Epoll));
    let origin = |name| settings.origin(name).unwrap().to_string();
    assert_eq!(origin("shards"), "flag --shards");
    assert_eq!(origin("message_rate"), "environment TIDEGATE_MESSAGE_RATE");
    assert_eq!(origin("driver"), "tidegate.toml:3");
    assert_eq!(origin("listen"), "default");
}

#[test]
fn every_section_of_the_file_reaches_the_configuration() {
    let file = r#"
        listen = "0.0.0.0:8000"
        nats_url = ["nats://a:4222", "tls://b:4222"]
        max_connections = 1_000
        max_connection_age = "6h"
        origins = ["https://app.example"]
        [nats]
        token = "t0ken"
        prefix = "prod.tide"
        [limits]
        message_bytes = "16KiB"
        outbox_total_bytes = "1GiB"
        linger = "0"
        [heartbeat]
        ping_interval = "20s"
        [drain]
        delay = "5s"
        window = "1m"
        close_code = 4001
        [raw]
        on_gap = "close"
        [admin]
        listen = "127.0.0.1:9000"
        token = "secret"
        [ready]
        require_broker = true
        [proxies]
        trusted = ["10.0.0.0/8", "fd00::1"]
        protocol_v2 = true
        [[routes]]
        path = "/ws"
        dialect = "raw"
        room = "chat_channel"
        [[rooms]]
        match = "dash.*"
        publish = "none"
        slow = "drop-oldest"
        [[rooms]]
        match = "*"
    "#;
    let config = config(file);
    let nats = &config.nats;
    assert_eq!(nats.url, ["nats://a:4222", "tls://b:4222"]);
    assert_eq!((nats.token.as_ref().map(Secret::text), nats.prefix.as_str()), (Some("t0ken"), "prod.tide"));
    assert_eq!((config.limits.message_bytes, config.limits.outbox_total_bytes), (16 << 10, Some(1 << 30)));
    assert_eq!((config.limits.linger, config.heartbeat.ping_interval), (Duration::ZERO, Duration::from_secs(20)));
    assert_eq!((config.drain.delay, config.drain.window), (Duration::from_secs(5), Some(Duration::from_secs(60))));
    assert_eq!((config.drain.close_code, config.raw.on_gap), (4001, OnGap::Close));
    assert_eq!(
        (config.admin.listen.port(), config.admin.token.as_ref().map(AccessTokens::first)),
        (9000, Some("secret"))
    );
    assert_eq!((config.max_connections, config.max_connection_age), (Some(1000), Some(Duration::from_secs(21_600))));
    assert!(config.ready.require_broker && config.proxies.protocol_v2);
    assert_eq!(
        (config.routes[0].dialect, config.routes[0].room.as_deref()),
        (tidegate_core::dialect::DialectId::Raw, Some("chat_channel"))
    );
    assert_eq!((config.rooms[0].publish, config.rooms[0].slow), (Some(Who::None), SlowPolicy::DropOldest));
    assert_eq!(config.rooms[1].pattern, "*");
}

#[test]
fn the_admin_address_may_be_a_plain_value_or_in_its_section() {
    assert_eq!(config("admin = \"127.0.0.1:9191\"").admin.listen.port(), 9191);
    assert_eq!(config("[admin]\nlisten = \"127.0.0.1:9191\"").admin.listen.port(), 9191);
    assert_eq!(config("admin = \"localhost:9191\"").admin.listen, config("admin = \"127.0.0.1:9191\"").admin.listen);
    let urls = |file| config(file).nats.url;
    assert_eq!(urls("nats_url = \"nats://a, nats://b\""), urls("[nats]\nurl = [\"nats://a\", \"nats://b\"]"));
}

/// A file, and how one of its problems begins.
const MISTAKES: &[(&str, &str)] = &[
    ("lisen = \"x\"", "tidegate.toml:1: unknown key \"lisen\"; did you mean \"listen\"?"),
    ("\n\nmessage_bytes = 1", "tidegate.toml:3: unknown key \"message_bytes\"; did you mean \"limits.message_bytes\"?"),
    (
        "[limits]\nmesage_bytes = 1",
        "tidegate.toml:2: unknown key \"limits.mesage_bytes\"; did you mean \"limits.message_bytes\"?",
    ),
    ("[drian]\nwindow = \"1s\"", "tidegate.toml:1: unknown section \"drian\"; did you mean \"drain\"?"),
    ("zzzzzzzzzz = 1", "tidegate.toml:1: unknown key \"zzzzzzzzzz\"; `tidegate serve --print-config` lists all keys"),
    ("shards = 300", "tidegate.toml:1: shards: 300 is out of range: 1 to 256"),
    ("shards = 1.5", "tidegate.toml:1: shards: fractions are not taken; give a whole number, or text with a unit"),
    ("demo = 3", "tidegate.toml:1: demo: 3 is not true or false"),
    ("driver = \"uring\"", "tidegate.toml:1: driver: \"uring\" is not one of auto, io_uring, epoll"),
    (
        "listen = \"8080\"",
        "tidegate.toml:1: listen: \"8080\" is not an address and port, such as 127.0.0.1:8080, localhost:8080 or :8080 (every address of this host)",
    ),
    (
        "drain_window = \"30\"",
        "tidegate.toml:1: drain_window: \"30\" is not a duration with its unit, such as 30s, 500ms or 2m (units: ms, s, m, h, d; 0 needs none); \"auto\" is accepted too",
    ),
    (
        "[limits]\nmessage_bytes = \"1GiB\"",
        "tidegate.toml:2: limits.message_bytes: 1GiB is out of range: 1KiB to 64MiB",
    ),
    (
        "[limits]\nmessage_bytes = \"128KiB\"",
        "limits.outbox_bytes (256KiB) must hold four messages of limits.message_bytes (128KiB): raise it to 512KiB or lower the other",
    ),
    (
        "[limits]\noutbox_total_bytes = \"64KiB\"",
        "limits.outbox_total_bytes (64KiB) is for all outboxes and must hold one (256KiB): raise it",
    ),
    (
        "[limits]\nunfinished_total_bytes = \"32KiB\"",
        "limits.unfinished_total_bytes (32KiB) is for all unfinished messages and must hold one (64KiB): raise it",
    ),
    (
        "listen = \"0.0.0.0:9090\"",
        "listen (0.0.0.0:9090) and admin (127.0.0.1:9090) need two ports; change one of them",
    ),
    (
        "nats_url = \"redis://a\"",
        "tidegate.toml:1: nats_url: \"redis://a\" is not a broker's URL: nats://host:4222, or tls://host:4222",
    ),
    // Rooms of a node with the prefix a.room were rooms of the nodes with the prefix a: one client's lobby another's room.lobby.
    (
        "[nats]\nprefix = \"a.room\"",
        "tidegate.toml:2: nats.prefix: \"a.room\" nests in the prefix \"a\": its rooms would be rooms of nodes with that prefix too, \
         and theirs of this node; leave the token \"room\" out, such as \"a-room\"",
    ),
    ("[nats]\nprefix = \"a.b.room.c\"", "tidegate.toml:2: nats.prefix: \"a.b.room.c\" nests in the prefix \"a.b\""),
    (
        "[nats]\nprefix = \"a.*\"",
        "tidegate.toml:2: nats.prefix: \"a.*\" is not a subject prefix: up to 64 printable ASCII characters, dots between tokens",
    ),
    ("[nats]\nuser = \"u\"", "nats.user needs nats.password (or nats.password_file)"),
    (
        "[drain]\nclose_code = 1006",
        "tidegate.toml:2: drain.close_code: 1006 is not a close code for a drain: 1001, 1012, 1013 or 3000 to 4999",
    ),
    (
        "origins = [\"app.example\"]",
        "tidegate.toml:1: origins: \"app.example\" is not an origin: scheme and host such as https://app.example, or *",
    ),
    // Each was taken, and never matched what a browser sends.
    (
        "origins = [\"https://app.example/\"]",
        "tidegate.toml:1: origins: \"https://app.example/\" can never match: an Origin ends with its host or port; write https://app.example",
    ),
    (
        "origins = [\"wss://app.example\"]",
        "tidegate.toml:1: origins: \"wss://app.example\" can never match: an Origin names the page and not the socket; write https://app.example",
    ),
    ("origins = [\"https://\u{2603}\u{fe0f}..example\"]", "tidegate.toml:1: origins: "),
    ("hosts = [\"https://app.example\"]", "tidegate.toml:1: hosts: \"https://app.example\" is not a host's name"),
    (
        "[proxies]\ntrusted = [\"10.0.0.0/33\"]",
        "tidegate.toml:2: proxies.trusted: \"10.0.0.0/33\" is not a network: 10.0.0.0/8, fd00::/8, or one address",
    ),
    ("log = \"tidegate=loud\"", "tidegate.toml:1: log: \"tidegate=loud\" is not a log filter"),
    // Taken for the name of a target, it switched the whole log off.
    (
        "log = \"warning\"",
        "tidegate.toml:1: log: \"warning\" is not a level: off, error, warn, info, debug or trace; a target has one too, such as tidegate=debug",
    ),
    ("log = \"info,tidegate\"", "tidegate.toml:1: log: \"tidegate\" is not a level"),
    ("[admin]\ntoken = 1234", "tidegate.toml:2: admin.token: is not text; put it in quotes"),
    ("[admin]\ntoken_file = \"/nowhere/token\"", "tidegate.toml:2: admin.token_file: /nowhere/token cannot be read"),
    ("admin_token = \"x\"", "tidegate.toml:1: unknown key \"admin_token\"; did you mean \"admin.token\"?"),
    ("a = ", "tidegate.toml:1: this is not valid TOML"),
    (
        "nats_url = \"nats://a\"\n[nats]\nurl = \"nats://b\"",
        "tidegate.toml:3: nats.url and nats_url (tidegate.toml:1) are the same setting; keep one",
    ),
    (
        "[[routes]]\npath = \"/x\"\ndialect = \"raw\"",
        "tidegate.toml:2: routes: a raw route needs its room: room = \"chat\"",
    ),
    (
        "[[routes]]\npath = \"/x\"\ndialct = \"raw\"",
        "tidegate.toml:3: unknown key \"dialct\" in [[routes]]; did you mean \"dialect\"?",
    ),
    (
        "[[routes]]\npath = \"x\"\ndialect = \"native\"",
        "tidegate.toml:2: routes.path: \"x\" is not a path: it begins with / and has no space, ? or #",
    ),
    (
        "[[routes]]\npath = \"/x\"\ndialect = \"native\"\n[[routes]]\npath = \"/x\"\ndialect = \"native\"",
        "tidegate.toml:5: routes: the path /x is routed at tidegate.toml:1 already",
    ),
    // Requests with and without the slash get the same answer.
    (
        "[[routes]]\npath = \"/x\"\ndialect = \"native\"\n[[routes]]\npath = \"/x/\"\ndialect = \"native\"",
        "tidegate.toml:5: routes: the path /x is routed at tidegate.toml:1 already",
    ),
    (
        "[[routes]]\npath = \"/x\"\ndialect = \"native\"\nsubprotocol = \"a b\"",
        "tidegate.toml:4: routes.subprotocol: \"a b\" is not a subprotocol",
    ),
    (
        "[[routes]]\npath = \"/x\"\ndialect = \"native\"\nsubprotocol = \"bearer.x\"",
        "tidegate.toml:4: routes.subprotocol: \"bearer.x\" is never answered",
    ),
    ("[[rooms]]\npublish = \"none\"", "tidegate.toml:2: rooms: match is missing, for example match = \"dash.*\""),
    (
        "[[rooms]]\nmatch = \"a b\"",
        "tidegate.toml:2: rooms.match: \"a b\" is neither a room's name nor the beginning of one and then *",
    ),
    (
        "[[rooms]]\nmatch = \"a.*\"\n[[rooms]]\nmatch = \"a.b\"",
        "tidegate.toml:4: rooms: \"a.b\" can never match, because \"a.*\" at tidegate.toml:1 matches first; put the narrower rule first",
    ),
    ("rooms = [1]", "tidegate.toml:1: rooms: each item is a table; write [[rooms]]"),
    ("rooms = 1", "tidegate.toml:1: rooms is a list of tables; write [[rooms]]"),
    ("[heartbeat]\nping_interval = \"1h\"", "tidegate.toml:2: heartbeat.ping_interval: 1h is out of range: 1s to 50m"),
    ("[proxies]\nprotocol_v2 = true", "proxies.protocol_v2 needs proxies.trusted"),
    ("limits = 1", "tidegate.toml:1: limits is a section; write [limits]"),
];

#[test]
fn every_error_in_the_file_is_reported_with_its_line_and_what_to_do() {
    for (file, expected) in MISTAKES {
        let problems = problems(file);
        let reported = problems.iter().any(|problem| problem.starts_with(expected));
        assert!(reported, "{file}\n  expected: {expected}\n  found:    {problems:?}");
    }
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_lines() {
    let problems = problems("zulu = 1\nshard = 2\n[limits]\nalpha = 3\n");
    let lines: Vec<&str> = problems.iter().map(|p| p.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["tidegate.toml:1:", "tidegate.toml:2:", "tidegate.toml:4:"]);
}

#[test]
fn a_wrong_flag_or_variable_is_named_as_it_was_typed() {
    let text = |settings: Result<Settings, Vec<Problem>>| settings.err().unwrap()[0].to_string();
    assert_eq!(text(typed(&[("shards", "0")], &[], "")), "--shards: 0 is out of range: 1 to 256");
    assert_eq!(text(typed(&[], &[("TIDEGATE_SHARDS", "x")], "")), "TIDEGATE_SHARDS: \"x\" is not a whole number");
}

#[test]
fn a_wrong_value_that_a_stronger_source_overrides_is_ignored() {
    assert_eq!(typed(&[("shards", "2")], &[("TIDEGATE_SHARDS", "x")], "").ok().unwrap().config.shards, 2);
}

#[test]
fn unknown_variables_only_warn_and_those_that_kubernetes_injects_are_named_as_such() {
    let variables = [
        ("TIDEGATE_SHARD", "2"),
        ("TIDEGATE_PORT", "tcp://10.0.0.1:80"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("TIDEGATE_LISTEN", ""),
    ];
    let settings = typed(&[], &variables, "").ok().unwrap();
    assert_eq!(settings.config.listen, Config::default().listen);
    assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
    assert_eq!(
        settings.warnings[0],
        "ignoring the unknown environment variable TIDEGATE_SHARD; did you mean TIDEGATE_SHARDS?"
    );
    assert!(settings.warnings[1].contains("TIDEGATE_PORT, TIDEGATE_SERVICE_HOST, TIDEGATE_PORT_80_TCP_ADDR"));
}

#[test]
fn a_secret_may_stand_in_a_file_and_a_stronger_source_wins_over_it() {
    let path = std::env::temp_dir().join(format!("tidegate-token-{}", std::process::id()));
    std::fs::write(&path, "from-file\n").unwrap();
    let (shown, file) = (path.display().to_string(), format!("[admin]\ntoken_file = {:?}", path.display().to_string()));
    assert_eq!(config(&file).admin.token.as_ref().map(AccessTokens::first), Some("from-file"));
    let by_variable = typed(&[], &[("TIDEGATE_ADMIN_TOKEN_FILE", &shown)], "").ok().unwrap();
    assert_eq!(by_variable.config.admin.token.as_ref().map(AccessTokens::first), Some("from-file"));
    let stronger = typed(&[], &[("TIDEGATE_ADMIN_TOKEN", "direct")], &file).ok().unwrap();
    assert_eq!(stronger.config.admin.token.as_ref().map(AccessTokens::first), Some("direct"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let file = "nats_url = \"nats://user:hunter2@a:4222\"\n[admin]\ntoken = \"hunter2\"\n[publish]\ntoken = \"hunter2\"\n\
                [nats]\nuser = \"u\"\npassword = \"hunter2\"\n";
    let settings = typed(&[], &[], file).ok().unwrap();
    let shown = settings.to_toml();
    assert!(shown.contains("# token = \"***\"") && shown.contains("nats://***@a:4222"), "{shown}");
    assert!(!shown.contains("hunter2") && !format!("{:?}", settings.config).contains("hunter2"));
    let refused = problems("nats_url = \"http://user:hunter2@a\"");
    assert!(!refused[0].contains("hunter2"), "{refused:?}");
}

/// Of eight spellings of a URL with a password four were echoed whole in the error text, which ends up in a log.
#[test]
fn no_spelling_of_a_brokers_url_shows_its_login_in_an_error() {
    for url in [
        "nats://user:hunter2,extra@host",
        "nats://user:a,hunter2,b@host:4222",
        "user:hunter2@host:4222",
        "hunter2",
        "http://user:hunter2@host",
        "nats:/user:hunter2@host",
        "nats://user:hunter2/x@host:4222",
        "nats://user:hunter2?x@host:4222",
        "nats://user:hunter2#x@host:4222",
        "nats://user:hunter2 x@host:4222",
        "nats://user:hunter2",
        "nats://hunter2@",
        "nats://user:hunter2@host:port",
        "nats://user:hunter2@host:4222/hunter2",
        "tls:user:hunter2@host",
    ] {
        let refused = typed(&[("nats_url", url)], &[], "").err().unwrap_or_else(|| panic!("{url} is taken"));
        let text: String = refused.iter().map(ToString::to_string).collect();
        assert!(text.contains("is not a broker's URL: nats://host:4222"), "{text}");
        assert!(text.contains("%2C") || url.starts_with("http"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let in_list = typed(&[], &[], &format!("[nats]\nurl = [\"nats://good:4222\", {url:?}]"));
        let shown = in_list.map_or_else(|refused| format!("{refused:?}"), |settings| settings.to_toml());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    for url in [
        "nats://host",
        "tls://user:p%2Fw@host:4222",
        "nats://[::1]:4222",
        "nats://token@a.b-c_d:1/",
        "nats://bücher.example",
    ] {
        assert_eq!(typed(&[("nats_url", url)], &[], "").ok().unwrap().config.nats.url, [url]);
    }
    // In a list of the file a comma separates nothing.
    assert_eq!(config("[nats]\nurl = [\"nats://user:pass,word@host\"]").nats.url.len(), 1);
}

#[test]
fn a_secret_written_where_its_file_should_be_named_is_not_shown() {
    let refused = problems("[admin]\ntoken_file = \"hunter2\"");
    assert!(refused[0].contains("admin.token_file") && !refused[0].contains("hunter2"), "{refused:?}");
    assert!(problems("[admin]\ntoken_file = \"/no/where\"")[0].contains("/no/where cannot be read"));
}

#[test]
fn tokens_that_protect_little_are_warned_about_and_not_shown() {
    let warnings = |file: &str| typed(&[], &[], file).ok().unwrap().warnings;
    let (long, short) = ("0123456789abcdef", "0123456789abcde");
    assert!(warnings(&format!("[admin]\ntoken = \"{long}\"")).is_empty());
    for section in ["admin", "publish"] {
        let warned = warnings(&format!("[{section}]\ntoken = \"{short}\""));
        assert!(
            warned[0].contains(&format!("{section}.token is shorter than 16")) && !warned[0].contains(short),
            "{warned:?}"
        );
    }
    let same = warnings(&format!("[admin]\ntoken = \"{long}\"\n[publish]\ntoken = \"{long}\""));
    assert!(same.len() == 1 && same[0].contains("are the same") && !same[0].contains(long), "{same:?}");
    let path = std::env::temp_dir().join(format!("tidegate-open-token-{}", std::process::id()));
    std::fs::write(&path, long).unwrap();
    let file = format!("[admin]\ntoken_file = {:?}", path.display().to_string());
    for (mode, count) in [(0o644, 1), (0o604, 1), (0o640, 0), (0o400, 0)] {
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let warned = warnings(&file);
        assert_eq!(warned.len(), count, "{mode:o}: {warned:?}");
        assert!(warned.iter().all(|text| text.contains("every user of this host may read") && text.contains("chmod")));
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_printed_can_be_read_back_and_means_the_same() {
    let file = "nats_url = \"nats://a:4222\"\nmax_connection_age = \"6h\"\norigins = [\"*\"]\n[limits]\nmessage_bytes = 3000\n\
                [[routes]]\npath = \"/ws\"\ndialect = \"raw\"\nroom = \"chat\"\n[[rooms]]\nmatch = \"a.*\"\npublish = \"members\"\n\
                [auth]\nanonymous = \"allow\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
                [[auth.grants]]\nrooms = [\"inbox.{sub}.*\"]\nallow = \"rw\"\n";
    let first = typed(&[("profile", "production")], &[("TIDEGATE_DEMO", "1")], file).ok().unwrap();
    let printed = first.to_toml();
    assert!(!printed.contains("0123456789abcdef"), "{printed}");
    // A masked secret is left out; typed again, all is as before.
    let secret = ("TIDEGATE_AUTH_SECRET", "0123456789abcdef0123456789abcdef");
    let again = typed(&[], &[secret], &printed);
    assert_eq!(again.ok().unwrap().config, first.config);
    assert!(printed.contains("demo = true                                  # environment TIDEGATE_DEMO"), "{printed}");
    assert!(printed.contains("message_bytes = \"3000B\"                      # tidegate.toml:5"), "{printed}");
}

#[test]
fn the_conformance_profile_raises_limits_and_what_is_typed_still_wins() {
    let config = config("profile = \"conformance\"\nmessage_rate = 5\n");
    assert!(config.profile == Profile::Conformance && config.compression);
    assert_eq!((config.limits.message_bytes, config.limits.outbox_bytes), (16 << 20, 64 << 20));
    assert_eq!((config.message_rate, config.connection_rate), (5, Some(0)));
    let settings = typed(&[("profile", "conformance")], &[], "").ok().unwrap();
    assert_eq!(settings.origin("limits_message_bytes"), Some(&Origin::Profile));
}

#[test]
fn a_public_port_that_every_client_may_publish_through_is_warned_about() {
    let warnings = |file| typed(&[], &[], file).ok().unwrap().warnings;
    assert!(warnings("").is_empty());
    assert!(warnings("listen = \"0.0.0.0:80\"")[0].contains("every client that reaches 0.0.0.0:80"));
    assert!(warnings("listen = \"0.0.0.0:80\"\n[[rooms]]\nmatch = \"*\"\npublish = \"none\"").is_empty());
    assert!(warnings("admin = \"0.0.0.0:9090\"")[0].contains("no admin.token"));
    let same =
        "[admin]\ntoken = [\"0123456789abcdef\", \"the-token-of-both\"]\n[backend]\ntoken = \"the-token-of-both\"";
    assert!(warnings(same)[0].starts_with("admin.token and backend.token are the same"), "{:?}", warnings(same));
    assert!(warnings("[backend]\ntoken = [\"0123456789abcdef\", \"short\"]")[0].contains("backend.token is shorter"));
    assert!(warnings("[nats]\ntoken = \"t\"")[0].contains("nats.token without nats.url"));
    assert!(warnings("[nats]\nuser = \"t\"\npassword = \"p\"")[0].contains("nats.user without nats.url"));
}

#[test]
fn every_daily_setting_is_a_flag_and_no_name_stands_twice() {
    let daily: BTreeSet<&str> =
        keys::SETTINGS.iter().filter(|s| matches!(s.kind, Kind::Daily(_))).map(|s| s.name.as_str()).collect();
    let command = Cli::command();
    let flags = command.get_arguments().map(|flag| flag.get_id().as_str());
    assert_eq!(daily, flags.filter(|flag| !matches!(*flag, "config" | "print_config")).collect());
    let mut names: Vec<&str> = keys::SETTINGS.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), keys::SETTINGS.len());
}

#[test]
fn keys_that_protect_nothing_and_rules_that_need_keys_are_errors_with_a_cure() {
    let problem = |file: &str| problems(file).join("\n");
    let secret = "[auth]\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    assert!(problem("[auth]\nsecret = \"short\"").contains("has 5 bytes; HS256 needs at least 32"));
    let cookie = |origins: &str| format!("{origins}\n{secret}cookie = \"session\"");
    for origins in ["", "origins = [\"*\"]", "origins = [\"https://a.example\", \"*\"]"] {
        assert!(problem(&cookie(origins)).contains("auth.cookie needs a list of pages"), "{origins}");
    }
    assert!(config(&cookie("origins = [\"https://a.example\"]")).has_keys());
    assert!(problem("[auth]\nanonymous = \"allow\"").contains("auth.anonymous has no effect without a key"));
    assert!(problem("[[rooms]]\nmatch = \"a\"\njoin = \"users\"").contains("asks for a token, and no key is given"));
    assert!(problem(&format!("{secret}[[auth.grants]]\nrooms = [\"a.{{sub\"]\nallow = \"r\"")).contains("in braces"));
    assert!(problem(&format!("{secret}[[auth.grants]]\nrooms = [\"a\"]\nallow = \"x\"")).contains("is not r, w or rw"));
    assert!(problem("[[auth.issuers]]\nissuer = \"a\"").contains("it has no key"));
    let issuer = "[[auth.issuers]]\nissuer = \"a\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    assert!(problem(&issuer.repeat(2)).contains("is at tidegate.toml:1 already"));
}

#[test]
fn the_file_of_a_public_key_is_never_taken_for_secrets() {
    // Each line of it would be a secret that every client may know.
    let path = std::env::temp_dir().join(format!("tidegate-no-secret-{}", std::process::id()));
    let line = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0123456789";
    std::fs::write(&path, format!("-----BEGIN PUBLIC KEY-----\n{line}\n-----END PUBLIC KEY-----\n")).unwrap();
    let file = format!("[auth]\nsecret_file = {:?}", path.display().to_string());
    let said = problems(&file).join("\n");
    assert!(said.contains("auth.public_key_file") && !said.contains(line), "{said}");
    let secrets = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];
    std::fs::write(&path, format!("{}\n{}\n", secrets[0], secrets[1])).unwrap();
    let options = config(&file).shard_options().auth.unwrap();
    assert_eq!(options.verifier.issuers[0].keys.len(), 2);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn an_issuer_of_the_list_has_its_own_keys_and_else_what_auth_says() {
    let file = "[auth]\nleeway = \"5s\"\naudience = [\"web\"]\n[[auth.issuers]]\nissuer = \"acme\"\nrooms = [\"acme.*\"]\n\
                user_prefix = \"acme:\"\nsecret = \"0123456789abcdef0123456789abcdef\"\naudience = [\"app\"]\n";
    let options = config(file).shard_options().auth.unwrap();
    let [issuer] = &options.verifier.issuers[..] else { panic!("{:?}", options.verifier.issuers) };
    assert_eq!(
        (issuer.name.as_deref(), issuer.leeway_ms, &issuer.audience[..]),
        (Some("acme"), 5_000, &["app".into()][..])
    );
    assert_eq!((issuer.rooms.len(), &*issuer.user_prefix), (1, "acme:"));
}
