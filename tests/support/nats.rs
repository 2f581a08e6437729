//! A real nats-server for tests, never a mock.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How a test's server is configured.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// More arguments.
    pub arguments: Vec<String>,
    /// Content of a configuration file. `DIRECTORY` in it stands for the server's own.
    pub config: Option<String>,
    /// Files in the server's own directory: name and content.
    pub files: Vec<(String, String)>,
    /// Listen on `::1`.
    pub ipv6: bool,
}

/// A server on a free port of the loopback address. Ends with the value.
pub struct Nats {
    port: u16,
    options: NatsOptions,
    directory: PathBuf,
    child: Option<Child>,
}

impl Nats {
    /// Starts a server without authentication.
    pub fn start() -> Self {
        Self::start_with(NatsOptions::default())
    }

    /// Starts a server.
    pub fn start_with(options: NatsOptions) -> Self {
        Self::start_on(free_port(), options)
    }

    /// Starts a server on a port that the test knows already.
    pub fn start_on(port: u16, options: NatsOptions) -> Self {
        let directory = std::env::temp_dir().join(format!("tidegate-nats-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut server = Self { port, options, directory, child: None };
        server.restart();
        server
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        if self.options.ipv6 {
            return SocketAddr::from((Ipv6Addr::LOCALHOST, self.port));
        }
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// The server's own directory, which goes with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Whether the server's process is there.
    pub fn is_running(&self) -> bool {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), None).is_ok()
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Starts the server (again), on its port.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(binary());
        let address = self.address();
        command
            .args(["--addr", &address.ip().to_string(), "--port", &self.port.to_string()])
            .args(&self.options.arguments);
        for (name, content) in &self.options.files {
            std::fs::write(self.directory.join(name), content).unwrap();
        }
        if let Some(config) = &self.options.config {
            let config = config.replace("DIRECTORY", &self.directory.display().to_string());
            let file = self.directory.join("nats.conf");
            std::fs::write(&file, config).unwrap();
            command.arg("--config").arg(file);
        }
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.wait_until_it_listens();
    }

    /// Starts the server again with other files.
    pub fn restart_with_files(&mut self, files: Vec<(String, String)>) {
        self.options.files = files;
        self.restart();
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if TcpStream::connect(self.address()).is_ok() {
                return;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "nats-server ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "nats-server does not listen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port below 32768, where no outgoing connection takes it. Each process starts elsewhere.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = (std::process::id() % 600) as u16 * 32;
        let port = 12_000 + (start + step) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The nats-server to run: `TIDEGATE_NATS_SERVER`, else what the script installed, else the one on the PATH.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_NATS_SERVER") {
        return PathBuf::from(path);
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/venv/bin/nats-server");
    if installed.exists() {
        return installed;
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|path| path.join("nats-server"))
        .find(|path| path.exists())
        .expect("no nats-server: run scripts/install-test-deps.sh, or set TIDEGATE_NATS_SERVER to one")
}

/// A client of the broker that shares nothing with the relay: the protocol, written out.
pub struct PlainClient {
    reader: BufReader<TcpStream>,
    next_sid: u32,
}

/// A message that a [`PlainClient`] received.
#[derive(Debug, PartialEq)]
pub struct PlainMessage {
    pub subject: String,
    /// The header block, empty without one.
    pub headers: String,
    pub payload: Vec<u8>,
}

impl PlainClient {
    /// Connects without a login.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, "")
    }

    /// Connects with more fields of CONNECT, such as `,"user":"a","pass":"b"`.
    pub fn connect_as(address: SocketAddr, fields: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Self { reader: BufReader::new(stream), next_sid: 1 };
        assert!(client.line().starts_with("INFO"));
        client.write(format!("CONNECT {{\"verbose\":false,\"headers\":true,\"protocol\":1{fields}}}\r\n").as_bytes());
        client.flush();
        client
    }

    /// Subscribes, and returns when the server knows.
    pub fn subscribe(&mut self, subject: &str) {
        let sid = self.next_sid;
        self.next_sid += 1;
        self.write(format!("SUB {subject} {sid}\r\n").as_bytes());
        self.flush();
    }

    /// Publishes.
    pub fn publish(&mut self, subject: &str, payload: &[u8]) {
        let mut message = format!("PUB {subject} {}\r\n", payload.len()).into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        self.write(&message);
    }

    /// Publishes with a `Tidegate` header.
    pub fn publish_with_header(&mut self, subject: &str, header: &str, payload: &[u8]) {
        let headers = format!("NATS/1.0\r\nTidegate: {header}\r\n\r\n");
        let total = headers.len() + payload.len();
        let mut message = format!("HPUB {subject} {} {total}\r\n{headers}", headers.len()).into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        self.write(&message);
    }

    /// Returns when the server has taken everything before. Messages that come meanwhile are lost: flush before the first.
    pub fn flush(&mut self) {
        self.write(b"PING\r\n");
        loop {
            let line = self.line();
            assert!(!line.starts_with("-ERR"), "{line}");
            if line == "PONG" {
                return;
            }
        }
    }

    /// The next message.
    pub fn next(&mut self) -> PlainMessage {
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split(' ').collect();
            let (headers, total) = match words[0] {
                "MSG" => (0, words[words.len() - 1].parse().unwrap()),
                "HMSG" => (words[words.len() - 2].parse().unwrap(), words[words.len() - 1].parse().unwrap()),
                "PING" => {
                    self.write(b"PONG\r\n");
                    continue;
                }
                _ => continue,
            };
            let mut body: Vec<u8> = vec![0; total + 2];
            std::io::Read::read_exact(&mut self.reader, &mut body).unwrap();
            body.truncate(total);
            let payload = body.split_off(headers);
            return PlainMessage { subject: words[1].into(), headers: String::from_utf8(body).unwrap(), payload };
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).expect("the server says nothing");
        assert!(read > 0, "the server closed the connection");
        line.trim_end().to_owned()
    }

    /// Writes protocol text.
    pub fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }
}
