//! Whether the kernel lets this process use io_uring, found by making a ring rather than by reading versions.
//!
//! It tells refusal (the node then runs on epoll) from lack of resources (the node must not start: the same lack would
//! meet every shard).

use std::fmt;
use std::io;

use crate::gateway::io::uring::ring::try_rings;

/// What became of the attempt to make a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeOutcome {
    /// A shard's rings were made and entered.
    Works,
    /// This kernel or its policy does not allow it; the errno says how. epoll is the answer.
    Refused(i32),
    /// It is allowed, and memory or descriptors are lacking; the errno says which. Exit 3 is the answer.
    Lacking(i32),
}

impl ProbeOutcome {
    /// Sorts the error of an `io_uring_setup` call.
    pub fn from_error(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno @ (libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN)) => Self::Lacking(errno),
            Some(errno) => Self::Refused(errno),
            None => Self::Refused(libc::EIO),
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Works => f.write_str("works"),
            Self::Refused(libc::EPERM) => {
                f.write_str("refused (EPERM): a seccomp profile, or sysctl kernel.io_uring_disabled, forbids it")
            }
            Self::Refused(libc::ENOSYS) => f.write_str("refused (ENOSYS): the kernel or the sandbox has no io_uring"),
            Self::Refused(libc::EOPNOTSUPP) => f.write_str("refused (EOPNOTSUPP): the sandbox does not implement it"),
            Self::Refused(libc::EINVAL) => f.write_str("refused (EINVAL): the kernel is older than 6.1"),
            Self::Refused(errno) => write!(f, "refused: {}", io::Error::from_raw_os_error(errno)),
            Self::Lacking(errno @ (libc::EMFILE | libc::ENFILE)) => {
                write!(f, "no descriptor for a ring: {}; raise nofile", io::Error::from_raw_os_error(errno))
            }
            Self::Lacking(errno) => {
                write!(
                    f,
                    "no memory for a ring: {}; raise the memory limit or RLIMIT_MEMLOCK",
                    io::Error::from_raw_os_error(errno)
                )
            }
        }
    }
}

/// Makes the rings that a shard makes, with their flags, and drops them.
pub fn io_uring_probe() -> ProbeOutcome {
    match try_rings() {
        Ok(()) => ProbeOutcome::Works,
        Err(error) => ProbeOutcome::from_error(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_and_lack_of_resources_are_told_apart() {
        let outcome = |errno| ProbeOutcome::from_error(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EPERM, libc::ENOSYS, libc::EOPNOTSUPP, libc::EINVAL] {
            assert_eq!(outcome(errno), ProbeOutcome::Refused(errno));
        }
        for errno in [libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
            assert_eq!(outcome(errno), ProbeOutcome::Lacking(errno));
        }
    }

    #[test]
    fn a_refusal_says_what_forbids_it() {
        assert!(ProbeOutcome::Refused(libc::EPERM).to_string().contains("seccomp"));
        assert!(ProbeOutcome::Lacking(libc::EMFILE).to_string().contains("nofile"));
    }
}
