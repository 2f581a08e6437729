//! A certificate that nobody knows, for tests of TLS.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A self-signed certificate for 127.0.0.1 and its key, both PEM. The files end with the value.
pub struct Certificate {
    directory: PathBuf,
    pub certificate: String,
    pub key: String,
}

impl Certificate {
    /// Makes one with openssl.
    pub fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("tidegate-tls-{}", super::nats::free_port()));
        std::fs::create_dir_all(&directory).unwrap();
        let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        let status = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=tidegate test", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .expect("no openssl: install it (Debian: apt-get install openssl)");
        assert!(status.success(), "openssl: {status}");
        let read = |path| std::fs::read_to_string(path).unwrap();
        Self { certificate: read(&certificate), key: read(&key), directory }
    }

    /// The certificate's file.
    pub fn file(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
