//! The two rings of a shard, and the only place that knows their flags: the probe makes these very rings.

use std::io;
use std::os::fd::RawFd;

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, types};
use nix::libc;

/// IORING_ENTER_GETEVENTS of io_uring_enter(2): runs deferred work, and moves overflowed completions into the queue.
const GETEVENTS: u32 = 1;

/// Entries of a ring's two queues.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Submission queue: sends of one batch; what does not fit is sent at once.
    pub submissions: u32,
    /// Completion queue, at least as long; what does not fit waits in the kernel's overflow list.
    pub completions: u32,
}

/// What a shard's own ring has: more places than one turn of the loop queues sends, and a completion queue that a crowd
/// does not overflow.
pub const SIZES: Sizes = Sizes { submissions: 1024, completions: 32 * 1024 };

/// Entries of the runtime's ring: it waits for the driver and the listener, no more.
pub const RUNTIME_ENTRIES: u32 = 256;

/// The builder of the runtime's ring, with as many flags as this kernel knows: COOP_TASKRUN is of 5.19, SINGLE_ISSUER of
/// 6.0. The runtime enters without GETEVENTS in places, so that DEFER_TASKRUN is not for it.
///
/// # Errors
/// Those of io_uring_setup(2) but EINVAL for a flag.
pub fn runtime_builder() -> io::Result<io_uring::Builder> {
    let mut builder: io_uring::Builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_single_issuer();
    match builder.build(RUNTIME_ENTRIES) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            builder = IoUring::builder();
            builder.build(RUNTIME_ENTRIES)?;
        }
        other => drop(other?),
    }
    Ok(builder)
}

/// A shard's own ring. It belongs to the thread that makes it.
pub(super) struct Ring {
    inner: IoUring,
    /// Enters that are to fail like those of a kernel without memory.
    #[cfg(test)]
    pub(super) refusals: u32,
}

impl Ring {
    /// A ring whose completions, and whose deferred work, ring `eventfd`.
    pub(super) fn new(sizes: Sizes, eventfd: RawFd) -> io::Result<Self> {
        let inner = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(sizes.completions)
            .build(sizes.submissions)?;
        inner.submitter().register_eventfd(eventfd)?;
        Ok(Self {
            inner,
            #[cfg(test)]
            refusals: 0,
        })
    }

    /// Puts an entry into the submission queue; false where it is full.
    ///
    /// # Safety
    /// What the entry points to stays where it is until [`Ring::pending`] was 0.
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.inner.submission().push(entry).is_ok() }
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn pending(&mut self) -> u32 {
        self.inner.submission().len() as u32
    }

    /// Hands the kernel up to `submissions` entries and runs deferred work, a part of it at most; never blocks.
    pub(super) fn enter(&mut self, submissions: u32) -> io::Result<()> {
        #[cfg(test)]
        if submissions > 0 && self.refusals > 0 {
            self.refusals -= 1;
            return Ok(());
        }
        // SAFETY: no argument is passed, and the entries' pointers are valid by the promise made to `push`.
        let entered = unsafe { self.inner.submitter().enter::<libc::sigset_t>(submissions, 0, GETEVENTS, None) };
        match entered {
            Ok(_) => Ok(()),
            // A signal, or memory that the kernel has not got at this moment: the caller sees what is still pending.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                std::thread::yield_now();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the completions that are in the queue.
    pub(super) fn completions(&mut self) -> impl ExactSizeIterator<Item = cqueue::Entry> + '_ {
        self.inner.completion()
    }

    /// Whether completions wait in the overflow list.
    pub(super) fn has_overflowed(&mut self) -> bool {
        self.inner.submission().cq_overflow()
    }

    /// Whether the kernel has deferred work or completions that only an enter brings.
    pub(super) fn wants_enter(&mut self) -> bool {
        let submission = self.inner.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Whether there is nothing to take and nothing to enter for.
    pub(super) fn is_quiet(&mut self) -> bool {
        !self.wants_enter() && self.pending() == 0 && self.inner.completion().is_empty()
    }
}

/// Makes the rings that a shard makes, and sends one operation through.
///
/// # Errors
/// Those of io_uring_setup(2), io_uring_register(2) and io_uring_enter(2).
pub fn try_rings() -> io::Result<()> {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use std::os::fd::{AsFd, AsRawFd};
    let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let mut ring = Ring::new(SIZES, eventfd.as_fd().as_raw_fd())?;
    // SAFETY: this entry points to nothing.
    unsafe { ring.push(&opcode::Nop::new().build()) };
    ring.enter(1)?;
    runtime_builder().map(drop)
}

/// A poll that stays armed and tells edges.
pub(super) fn poll(fd: RawFd, mask: i16, name: u64) -> Entry {
    opcode::PollAdd::new(types::Fd(fd), mask as u32).multi(true).build().user_data(name)
}
