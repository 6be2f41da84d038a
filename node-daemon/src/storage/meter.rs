//! How long work on a pool's thread stays in touch with whoever asked for it: it reports each chunk, and is told there to stop.
//!
//! Made on an async task, used on a pool's thread. Must not block.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::StorageError;

type Report = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Counts bytes, passes the count on, and ends the work when somebody asked for it.
#[derive(Clone)]
pub struct Meter(Arc<Inner>);

struct Inner {
    stop: CancellationToken,
    done: AtomicU64,
    total: AtomicU64,
    beat: Mutex<Instant>,
    report: Report,
}

impl Meter {
    /// A meter that hands `(done, total)` in bytes to `report`, and stops with `stop`.
    pub fn new(stop: CancellationToken, report: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        let beat = Mutex::new(Instant::now());
        Self(Arc::new(Inner { stop, done: 0.into(), total: 0.into(), beat, report: Arc::new(report) }))
    }

    /// A meter that nobody reads and nobody stops.
    pub fn silent() -> Self {
        Self::new(CancellationToken::new(), |_, _| {})
    }

    /// One for a part of the work: it can be stopped on its own, and stops with this one.
    pub fn child(&self) -> Self {
        let (stop, report) = (self.0.stop.child_token(), self.0.report.clone());
        let beat = Mutex::new(Instant::now());
        Self(Arc::new(Inner { stop, done: 0.into(), total: 0.into(), beat, report }))
    }

    /// The token that stops the work.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// How much there will be to do; 0 when nobody knows.
    pub fn expect(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// So much is done altogether.
    ///
    /// # Errors
    /// When somebody asked for the work to stop: return at once then, and leave nothing behind.
    pub fn reached(&self, done: u64) -> Result<(), StorageError> {
        self.0.done.store(done, Ordering::Relaxed);
        (self.0.report)(done, self.0.total.load(Ordering::Relaxed));
        self.check()
    }

    /// As [`Self::reached`], without news.
    ///
    /// # Errors
    /// When somebody asked for the work to stop.
    pub fn check(&self) -> Result<(), StorageError> {
        *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.0.stop.is_cancelled() { Err(StorageError::cancelled()) } else { Ok(()) }
    }

    /// How long nothing was heard of the work.
    pub fn silence(&self) -> Duration {
        self.0.beat.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
