//! The rate limits of a disk or a NIC: one budget for all of its queues, changeable while it runs.
//!
//! Workers ask on their I/O threads, the control thread changes; the lock is held for a few additions, and not taken at
//! all while there is no limit.
//!
//! A disk knows what a request costs before it begins and asks by [`SharedLimits::admit`]. A NIC learns the length of a
//! frame when it has it: its [`Meter`] says whether one more may pass, and charges it afterwards.

use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::virtio::HostError;
use crate::virtio::rate_limit::{RateLimit, RateLimiter};

/// A timer that wakes one queue's worker.
pub struct Alarm(TimerFd);

impl Alarm {
    fn new() -> Result<Self, HostError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        Ok(Self(timer.map_err(|e| HostError::new("Could not make a rate limit's timer", e.into()))?))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    pub(super) fn set(&self, after: Duration) -> Result<(), HostError> {
        // Zero would switch the timer off.
        let after = after.max(Duration::from_nanos(1));
        let set = self.0.set(Expiration::OneShot(TimeSpec::from_duration(after)), TimerSetTimeFlags::empty());
        set.map_err(|e| HostError::new("Could not set a rate limit's timer", e.into()))
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
    /// A budget for as many queues, each with a timer of its own.
    pub fn new(limit: RateLimit, queues: u16) -> Result<Self, HostError> {
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
    /// Whether an operation may go now, whatever it will cost; else when to ask again.
    fn look(&self, now: Instant) -> Result<(), Instant> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).look(now)
    }

    fn charge(&self, bytes: u64, now: Instant) {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).charge(bytes, now);
    }
}

/// A queue pair's view of its NIC's limits.
pub(super) struct Meter {
    limits: Arc<SharedLimits>,
    alarm: Arc<Alarm>,
    /// Nothing may pass before.
    held_until: Option<Instant>,
    /// When the operation was let through that is to be charged; `None` while there is no limit.
    passing: Option<Instant>,
}

impl Meter {
    /// The meter of `queue`; `None` when the limits were made for fewer.
    pub(super) fn new(limits: &Arc<SharedLimits>, queue: usize) -> Option<Self> {
        Some(Self { limits: limits.clone(), alarm: limits.alarm(queue)?, held_until: None, passing: None })
    }

    /// Wakes the worker when it may go on.
    pub(super) fn fd(&self) -> RawFd {
        self.alarm.fd()
    }

    /// Whether operations are held back now.
    pub(super) fn is_holding(&self) -> bool {
        self.held_until.is_some()
    }

    /// The alarm rang, or the worker begins anew: asks again at the next operation.
    pub(super) fn release(&mut self) {
        self.alarm.clear();
        self.held_until = None;
    }

    /// Whether one more operation may pass. If not, the alarm is set for when it may.
    #[inline]
    pub(super) fn may_pass(&mut self) -> Result<bool, HostError> {
        if !self.limits.limited.load(Ordering::Acquire) {
            (self.held_until, self.passing) = (None, None);
            return Ok(true);
        }
        let now = Instant::now();
        if self.held_until.is_some_and(|until| now < until) {
            return Ok(false);
        }
        (self.held_until, self.passing) = match self.limits.look(now) {
            Ok(()) => (None, Some(now)),
            Err(until) => {
                self.alarm.set(until.saturating_duration_since(now))?;
                (Some(until), None)
            }
        };
        Ok(self.passing.is_some())
    }

    /// Charges what passed: one operation of `bytes`.
    #[inline]
    pub(super) fn charge(&self, bytes: u64) {
        if let Some(now) = self.passing {
            self.limits.charge(bytes, now);
        }
    }
}
