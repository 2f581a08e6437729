//! Telling systemd how the service does: sd_notify(3) without the library. Datagrams to the socket that `NOTIFY_SOCKET`
//! names; nothing where it is not set.
//!
//! A start lasts until the node wants traffic and a stop until its last client is gone, and only the node knows how long
//! that is: it asks for the time (`EXTEND_TIMEOUT_USEC`) instead of being killed at the unit's timeouts, which count for
//! a process that says nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    target: Option<(UnixDatagram, SocketAddr)>,
    /// The longest silence that the service manager takes.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// From the environment of the process.
    pub(super) fn from_environment() -> Self {
        let value = |name| std::env::var(name).ok();
        let ours = value("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let manager = Self::new(value("NOTIFY_SOCKET").as_deref(), value("WATCHDOG_USEC").filter(|_| ours).as_deref());
        manager.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot notify the service manager; NOTIFY_SOCKET must name a datagram socket");
            Self { target: None, watchdog: None }
        })
    }

    /// `socket` is a path, or `@` and an abstract name; `watchdog_us` is WATCHDOG_USEC.
    ///
    /// # Errors
    /// The address is no socket address, or no descriptor is left.
    fn new(socket: Option<&str>, watchdog_us: Option<&str>) -> io::Result<Self> {
        let target = match socket {
            None => None,
            Some(name) => {
                let address = match name.strip_prefix('@') {
                    Some(name) => SocketAddr::from_abstract_name(name)?,
                    None => SocketAddr::from_pathname(name)?,
                };
                let datagram = UnixDatagram::unbound()?;
                datagram.set_nonblocking(true)?;
                Some((datagram, address))
            }
        };
        let watchdog = watchdog_us.and_then(|us| us.parse().ok()).filter(|us| *us > 0).map(Duration::from_micros);
        Ok(Self { target, watchdog })
    }

    /// The service is alive and not ready yet, for this reason; to be said again within `timeout`.
    pub(super) fn starting(&self, why: &str, timeout: Duration) {
        self.send(&format!("STATUS=starting: {why}\nEXTEND_TIMEOUT_USEC={}", timeout.as_micros()));
    }

    /// The service wants traffic. Whether that was sent, or never can be: a service manager that does not hear it ends a start.
    pub(super) fn ready(&self) -> bool {
        self.send("READY=1\nSTATUS=serving")
    }

    /// The service sends its clients away, which takes `longest` at most.
    pub(super) fn draining(&self, clients: u64, longest: Duration) {
        self.send(&format!("STATUS=draining {clients} clients\nEXTEND_TIMEOUT_USEC={}", longest.as_micros()));
    }

    /// The service is about to end.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// The service is alive.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// How often [`ServiceManager::alive`] is to be said: half of what the service manager takes.
    pub(super) fn alive_interval(&self) -> Option<Duration> {
        self.watchdog.map(|longest| longest / 2)
    }

    /// Whether sending it again would change nothing: it is sent, or cannot be. The socket of a service manager that is busy
    /// is full, and is not waited for.
    fn send(&self, state: &str) -> bool {
        let Some((datagram, address)) = &self.target else { return true };
        match datagram.send_to_addr(state.as_bytes(), address) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!(state, "the service manager's socket is full");
                false
            }
            Err(error) => {
                tracing::warn!(%error, state, "cannot notify the service manager");
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[test]
    fn the_service_manager_is_notified_of_each_state_and_its_timeout() {
        let name = format!("tidegate-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = ServiceManager::new(Some(&format!("@{name}")), Some("3000000")).unwrap();
        manager.starting("no broker", Duration::from_secs(15));
        assert!(manager.ready());
        manager.alive();
        manager.draining(7, Duration::from_millis(1500));
        manager.stopping();
        for expected in [
            "STATUS=starting: no broker\nEXTEND_TIMEOUT_USEC=15000000",
            "READY=1\nSTATUS=serving",
            "WATCHDOG=1",
            "STATUS=draining 7 clients\nEXTEND_TIMEOUT_USEC=1500000",
            "STOPPING=1\nSTATUS=stopping",
        ] {
            assert_eq!(received(&socket), expected);
        }
        assert_eq!(manager.alive_interval(), Some(Duration::from_millis(1500)));
    }

    /// READY=1 was sent once. Where the service manager's queue was full at that moment, it was lost, and the unit ended at its
    /// start timeout.
    #[test]
    fn a_full_socket_of_the_service_manager_is_not_waited_for_and_ready_is_sent_again() {
        let name = format!("tidegate-notify-full-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = ServiceManager::new(Some(&format!("@{name}")), None).unwrap();
        let sent = std::iter::from_fn(|| manager.ready().then_some(())).count();
        assert!(sent > 0 && !manager.ready(), "the queue is full after {sent}");
        received(&socket);
        assert!(manager.ready());
    }

    #[test]
    fn without_a_service_manager_no_notification_is_sent() {
        let manager = ServiceManager::new(None, Some("0")).unwrap();
        assert!(manager.ready(), "there is nothing to send again");
        assert_eq!(manager.alive_interval(), None);
    }
}
