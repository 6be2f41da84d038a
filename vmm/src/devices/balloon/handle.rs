//! What the control side holds of a balloon: its target, its size, the guest's statistics.
//!
//! The control thread calls [`BalloonHandle`]; the device's face (vCPU threads) and its worker (an I/O thread) share the state.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::statistics::BalloonStatistics;
use crate::devices::ConfigSignal;
use crate::memory::PAGE_SIZE;
use crate::virtio::HostError;

/// What face, worker and handle share.
pub(super) struct Shared {
    // Both in pages of 4 KiB, as in the configuration.
    pub(super) target: AtomicU32,
    pub(super) actual: AtomicU32,
    pub(super) signal: ConfigSignal,
    pub(super) requested: EventFd,
    pub(super) interval: TimerFd,
    statistics: Mutex<BalloonStatistics>,
    listener: OnceLock<AnswerListener>,
}

/// Hears of each answer of the guest. Called by the worker; must not block.
pub type AnswerListener = Box<dyn Fn(&BalloonHandle) + Send + Sync>;

impl Shared {
    pub(super) fn new() -> Result<Self, HostError> {
        let requested = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let interval = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        Ok(Self {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            signal: ConfigSignal::default(),
            requested: requested.map_err(|e| HostError::new("Could not make the balloon's eventfd", e))?,
            interval: interval.map_err(|e| HostError::new("Could not make the balloon's timer", e.into()))?,
            statistics: Mutex::default(),
            listener: OnceLock::new(),
        })
    }

    pub(super) fn statistics(&self) -> MutexGuard<'_, BalloonStatistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on a balloon; cheap to clone.
#[derive(Clone)]
pub struct BalloonHandle {
    pub(super) shared: Arc<Shared>,
}

impl BalloonHandle {
    /// Asks the guest to give up so much of its memory, in whole pages of 4 KiB (rounded down, at most 16 TiB). The guest
    /// does so when and as far as it likes: see [`Self::actual_bytes`].
    pub fn set_target_bytes(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        if self.shared.target.swap(pages, Relaxed) != pages {
            self.shared.signal.raise();
        }
    }

    /// The last target in bytes.
    pub fn target_bytes(&self) -> u64 {
        u64::from(self.shared.target.load(Relaxed)) * PAGE_SIZE
    }

    /// How much the guest says it has given up, in bytes.
    pub fn actual_bytes(&self) -> u64 {
        u64::from(self.shared.actual.load(Relaxed)) * PAGE_SIZE
    }

    /// Has `listener` called after each answer of the guest. The first one stays.
    pub fn on_answer(&self, listener: AnswerListener) {
        let _ = self.shared.listener.set(listener);
    }

    /// Keeps an answer of the guest.
    pub(super) fn answered(&self, statistics: BalloonStatistics) {
        *self.shared.statistics() = statistics;
        if let Some(listener) = self.shared.listener.get() {
            listener(self);
        }
    }

    /// What the guest last said of its memory.
    pub fn statistics(&self) -> BalloonStatistics {
        *self.shared.statistics()
    }

    /// Asks the guest for fresh statistics, once. It may take its time, or never answer:
    /// [`BalloonStatistics::answered`] tells.
    pub fn request_statistics(&self) {
        // An error here is EAGAIN on a full counter: it is readable all the more.
        let _ = self.shared.requested.write(1);
    }

    /// Asks the guest for fresh statistics at every `interval`; zero ends it.
    pub fn set_statistics_interval(&self, interval: Duration) -> Result<(), HostError> {
        let fail = |e: nix::Error| HostError::new("Could not set the balloon's timer", e.into());
        if interval.is_zero() {
            return self.shared.interval.unset().map_err(fail);
        }
        let expiration = Expiration::Interval(TimeSpec::from_duration(interval));
        self.shared.interval.set(expiration, TimerSetTimeFlags::empty()).map_err(fail)
    }
}
