//! Limits on operations and bytes a second, for any queue.
//!
//! Pure: time comes in, and what comes out is "now" or "not before". Whoever uses it arms one timer for that moment.
//!
//! Each of the two limits remembers one instant: when everything admitted so far will have been paid for at the given rate. A
//! request is admitted while that instant is at most [`BURST`] ahead; it is charged in full then, so that a request larger
//! than any burst passes once the debt is paid, and the long-term rate is exact.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How much of the rate may be used at once after a pause.
pub const BURST: Duration = Duration::from_millis(100);

/// What is allowed; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Operations a second.
    pub operations: Option<NonZeroU64>,
    /// Bytes a second.
    pub bytes: Option<NonZeroU64>,
}

impl RateLimit {
    /// Whether there is nothing to limit.
    pub fn is_unlimited(&self) -> bool {
        self.operations.is_none() && self.bytes.is_none()
    }
}

/// One rate and what was charged to it.
#[derive(Clone, Copy, Debug)]
struct Account {
    rate: NonZeroU64,
    paid_at: Instant,
}

impl Account {
    fn new(rate: NonZeroU64, now: Instant) -> Self {
        Self { rate, paid_at: now }
    }

    /// When the next request may be admitted.
    fn opens_at(&self) -> Instant {
        self.paid_at.checked_sub(BURST).unwrap_or(self.paid_at)
    }

    fn charge(&mut self, amount: u64, now: Instant) {
        let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(self.rate.get());
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let from = self.paid_at.max(now);
        self.paid_at = from.checked_add(cost).unwrap_or(from);
    }
}

/// See the module's header.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    operations: Option<Account>,
    bytes: Option<Account>,
}

impl RateLimiter {
    /// A limiter that has admitted nothing yet.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        let account = |rate: Option<NonZeroU64>| rate.map(|rate| Account::new(rate, now));
        Self { operations: account(limit.operations), bytes: account(limit.bytes) }
    }

    /// Admits one operation of `bytes` and charges it; else says when to ask again.
    pub fn admit(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        self.look(now)?;
        self.charge(bytes, now);
        Ok(())
    }

    /// Whether an operation may go now; else says when to ask again. For those whose size shows only later.
    pub fn look(&self, now: Instant) -> Result<(), Instant> {
        let accounts = [&self.operations, &self.bytes].into_iter().flatten();
        match accounts.map(Account::opens_at).max().filter(|opens_at| *opens_at > now) {
            Some(opens_at) => Err(opens_at),
            None => Ok(()),
        }
    }

    /// Charges one operation of `bytes`.
    pub fn charge(&mut self, bytes: u64, now: Instant) {
        if let Some(account) = &mut self.operations {
            account.charge(1, now);
        }
        if let Some(account) = &mut self.bytes {
            account.charge(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(operations: u64, bytes: u64) -> RateLimit {
        RateLimit { operations: NonZeroU64::new(operations), bytes: NonZeroU64::new(bytes) }
    }

    /// Asks as often as it is told to for `seconds`; how many requests of `size` bytes passed.
    fn admitted_in(limit: RateLimit, size: u64, seconds: u64) -> u64 {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limit, start);
        let (mut now, mut count) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            match limiter.admit(size, now) {
                Ok(()) => count += 1,
                Err(at) => {
                    assert!(at > now, "asked to wait for the past");
                    now = at;
                }
            }
        }
        count
    }

    #[test]
    fn the_long_term_rate_is_exact_and_the_burst_is_bounded() {
        for (limit, size, a_second, burst) in [
            (limit(1000, 0), 4096, 1000, 100),
            (limit(5, 0), 4096, 5, 1),
            (limit(1_000_000, 0), 512, 1_000_000, 100_000),
            (limit(0, 1 << 20), 4096, 256, 26),
            (limit(0, 1 << 20), 4 << 20, 0, 1),
            (limit(100, 1 << 30), 4096, 100, 10),
            (limit(1 << 40, 1 << 20), 4096, 256, 26),
        ] {
            let count = admitted_in(limit, size, 10);
            let expected = if a_second == 0 { 2..=4 } else { a_second * 10..=a_second * 10 + burst + 1 };
            assert!(expected.contains(&count), "{limit:?} {size}: {count}, not in {expected:?}");
        }
    }

    #[test]
    fn idle_time_is_saved_up_to_the_burst_only() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limit(100, 0), start);
        let later = start + Duration::from_mins(1);
        let at_once = (0..1000).take_while(|_| limiter.admit(0, later).is_ok()).count();
        assert_eq!(at_once, 11);
    }

    #[test]
    fn no_limit_admits_all_and_absurd_sizes_do_not_overflow() {
        let now = Instant::now();
        assert!(limit(0, 0).is_unlimited());
        assert_eq!(RateLimiter::new(limit(0, 0), now).admit(u64::MAX, now), Ok(()));
        let mut slow = RateLimiter::new(limit(1, 1), now);
        assert_eq!(slow.admit(u64::MAX, now), Ok(()));
        assert!(slow.admit(0, now + Duration::from_secs(1 << 30)).is_err());
    }
}
