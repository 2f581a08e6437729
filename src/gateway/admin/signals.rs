//! Signals as bytes on a socket, which the runtime can wait for.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigHandler, Signal, signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// From now on each SIGTERM or SIGINT is one byte on the returned socket, and SIGHUP and SIGPIPE are ignored: a closed
/// terminal or a reset socket must not end a node.
///
/// # Errors
/// No descriptors are left.
pub(super) fn install() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    pipe::register(SIGTERM, writer.try_clone()?)?;
    pipe::register(SIGINT, writer)?;
    for ignored in [Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: SIG_IGN runs no code.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    Ok(reader)
}
