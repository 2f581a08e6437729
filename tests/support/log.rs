//! What the program logs, for tests that wait for a line. One log for each test binary: look for something unique.

use std::io::Write;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

static LINES: Mutex<String> = Mutex::new(String::new());

struct Capture;

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Captures from now on.
pub fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_writer(|| Capture).with_ansi(false).init());
}

/// Everything captured so far.
pub fn captured() -> String {
    LINES.lock().unwrap().clone()
}

/// Waits for a line with all of these parts.
pub fn wait_for(parts: &[&str]) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let log = captured();
        if let Some(line) = log.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "no line with {parts:?} in the log:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
