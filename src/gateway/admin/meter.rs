//! The guard between a socket and the HTTP decoder: how many bytes a request may bring, and until when.
//!
//! monoio-http's decoder looks for the end of a head, or of a body whose length it was told, in a buffer that grows for as
//! long as bytes come, and has no deadline once the first byte is there. Both bounds are put around it here.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use monoio::BufResult;
use monoio::buf::{IoBufMut, IoVecBufMut};
use monoio::io::AsyncReadRent;

/// From a request's first byte to its last, and for writing its answer.
pub(super) const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Between two requests on a connection: longer than the usual intervals of scrapers.
pub(super) const IDLE_DEADLINE: Duration = Duration::from_secs(75);
/// How often deadlines are looked at; they may move to an earlier time while they are waited for.
const STEP: Duration = Duration::from_millis(500);

/// Why a request was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// More bytes than granted.
    TooLong,
    /// Not there in time.
    TooLate,
}

/// The bounds of one connection as they stand.
#[derive(Debug)]
pub(super) struct Meter {
    left_bytes: Cell<usize>,
    deadline: Cell<Instant>,
    /// No byte of the next request came yet.
    idle: Cell<bool>,
    cut: Cell<Option<Cut>>,
}

/// A reader that is bounded by a [`Meter`].
pub(super) struct Metered<R> {
    reader: R,
    meter: Rc<Meter>,
}

impl Meter {
    /// A meter that grants nothing yet.
    pub(super) fn new() -> Rc<Self> {
        let (deadline, cut) = (Cell::new(Instant::now()), Cell::default());
        Rc::new(Self { left_bytes: Cell::new(0), deadline, idle: Cell::new(false), cut })
    }

    /// Grants a request of `bytes`, which may begin within `wait`.
    pub(super) fn grant_request(&self, bytes: usize, wait: Duration) {
        self.left_bytes.set(bytes);
        self.deadline.set(Instant::now() + wait);
        self.idle.set(true);
    }

    /// Grants `bytes` more within [`REQUEST_DEADLINE`].
    pub(super) fn grant(&self, bytes: usize) {
        self.left_bytes.set(bytes);
        self.deadline.set(Instant::now() + REQUEST_DEADLINE);
        self.idle.set(false);
    }

    /// Why reading ended, where it was this meter that ended it.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// Whether nothing of the next request came.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.get()
    }

    /// The work's value, if it is done within the deadline, wherever that moves meanwhile.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match select(pin!(work), pin!(self.expire())).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(((), _)) => {
                self.cut.set(Some(Cut::TooLate));
                None
            }
        }
    }

    async fn expire(&self) {
        loop {
            let left = self.deadline.get().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            monoio::time::sleep(left.min(STEP)).await;
        }
    }

    fn count(&self, bytes: usize) {
        self.left_bytes.set(self.left_bytes.get().saturating_sub(bytes));
        if bytes > 0 && self.idle.replace(false) {
            self.deadline.set(Instant::now() + REQUEST_DEADLINE);
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.left_bytes.get() > 0 {
            return Ok(());
        }
        self.cut.set(Some(Cut::TooLong));
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

impl<R> Metered<R> {
    pub(super) fn new(reader: R, meter: Rc<Meter>) -> Self {
        Self { reader, meter }
    }
}

/// A read may overshoot what is left by the buffer that the decoder offers: the next one is refused.
impl<R: AsyncReadRent> AsyncReadRent for Metered<R> {
    async fn read<T: IoBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        if let Err(error) = self.meter.check() {
            return (Err(error), buf);
        }
        let (read, buf) = self.reader.read(buf).await;
        self.meter.count(*read.as_ref().unwrap_or(&0));
        (read, buf)
    }

    async fn readv<T: IoVecBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        if let Err(error) = self.meter.check() {
            return (Err(error), buf);
        }
        let (read, buf) = self.reader.readv(buf).await;
        self.meter.count(*read.as_ref().unwrap_or(&0));
        (read, buf)
    }
}
