//! The rate limits of a disk: one budget for all of its queues, changeable while it runs.
//!
//! Workers ask on their I/O threads, the control thread changes; the lock is held for a few additions, and not taken at
//! all while there is no limit.

use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::virtio::HostError;
use crate::virtio::rate_limit::{RateLimit, RateLimiter};

/// A timer that wakes one queue's worker.
pub(super) struct Alarm(TimerFd);

impl Alarm {
    pub(super) fn new() -> Result<Self, HostError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        Ok(Self(timer.map_err(|e| HostError::new("Could not make a disk's timer", e.into()))?))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    pub(super) fn set(&self, after: Duration) -> Result<(), HostError> {
        // Zero would switch the timer off.
        let after = after.max(Duration::from_nanos(1));
        let set = self.0.set(Expiration::OneShot(TimeSpec::from_duration(after)), TimerSetTimeFlags::empty());
        set.map_err(|e| HostError::new("Could not set a disk's timer", e.into()))
    }

    pub(super) fn clear(&self) {
        // An error here is EAGAIN: the expiry was taken note of already.
        let _ = self.0.wait();
    }
}

/// See the module's header.
pub struct SharedLimits {
    limited: AtomicBool,
    limiter: Mutex<RateLimiter>,
    alarms: Vec<Arc<Alarm>>,
}

impl SharedLimits {
    pub(super) fn new(limit: RateLimit, queues: u16) -> Result<Self, HostError> {
        let alarms = (0..queues).map(|_| Alarm::new().map(Arc::new)).collect::<Result<_, _>>()?;
        let limiter = Mutex::new(RateLimiter::new(limit, Instant::now()));
        Ok(Self { limited: AtomicBool::new(!limit.is_unlimited()), limiter, alarms })
    }

    /// Changes the limits from now on; requests that wait are looked at again at once.
    pub fn set(&self, limit: RateLimit) -> Result<(), HostError> {
        *self.limiter.lock().unwrap_or_else(PoisonError::into_inner) = RateLimiter::new(limit, Instant::now());
        self.limited.store(!limit.is_unlimited(), Ordering::Release);
        self.alarms.iter().try_for_each(|alarm| alarm.set(Duration::ZERO))
    }

    /// The timer of a queue.
    pub(super) fn alarm(&self, queue: usize) -> Option<Arc<Alarm>> {
        self.alarms.get(queue).cloned()
    }

    /// Admits a request of `bytes`, or says when to ask again.
    #[inline]
    pub(super) fn admit(&self, bytes: u64, now: Instant) -> Result<(), Instant> {
        if !self.limited.load(Ordering::Acquire) {
            return Ok(());
        }
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).admit(bytes, now)
    }
}
