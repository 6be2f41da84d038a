//! How long an I/O thread looks for work before it sleeps. Pure: times come in as arguments.
//!
//! A kick costs the guest an exit and a wake-up costs the thread a context switch. While requests follow each other closely,
//! looking is cheaper than both. The budget grows when a wake-up came soon after falling asleep, stays while looking finds
//! something, and goes when the longest look found nothing: a guest whose requests are far apart costs nothing, and one
//! whose requests are just too far apart is tried again only now and then. Where CPUs are short, looking would only make
//! others wait, and us with them: it ends at the first sign of that.

use std::time::Duration;

/// Longest time of looking in vain.
pub const MAX: Duration = Duration::from_micros(100);
/// First step when the budget grows from nothing.
const FIRST: Duration = Duration::from_micros(16);
/// A sleep shorter than this was a request that looking could have caught: a kick and a wake-up are part of it.
const CLOSE: Duration = Duration::from_micros(400);
/// How many wake-ups pass before looking is tried again after it found nothing.
const REST: u32 = 64;
/// Time that went by without us between two glances that says: the scheduler gave our CPU to somebody else.
pub const PREEMPTED: Duration = Duration::from_micros(300);
/// How many wake-ups pass before looking is tried again after it was preempted. A thread that looks uses up its share of
/// the CPU and then waits milliseconds for the next; one that sleeps is let in as soon as it is woken.
const CROWDED: u32 = 2048;

/// The adaptive budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    max: Duration,
    now: Duration,
    rest: u32,
}

impl Budget {
    /// With a single host CPU, looking would only keep the guest from running: the budget stays at nothing.
    pub fn new(host_cpus: usize) -> Self {
        let max = if host_cpus < 2 { Duration::ZERO } else { MAX };
        Self { max, now: Duration::ZERO, rest: 0 }
    }

    /// How long to look in vain before sleeping.
    pub fn get(&self) -> Duration {
        self.now
    }

    /// The thread was woken after having slept for `slept`; before that, looking `found` work or not.
    pub fn woken(&mut self, slept: Duration, found: bool) {
        if found {
            self.grow();
        } else if self.rest > 0 {
            self.rest -= 1;
        } else if slept >= CLOSE {
            self.now = if self.now <= FIRST { Duration::ZERO } else { self.now / 2 };
        } else if self.now < self.max {
            self.grow();
        } else {
            (self.now, self.rest) = (Duration::ZERO, REST);
        }
    }

    /// While looking, the thread lost its CPU: others need it.
    pub fn preempted(&mut self) {
        (self.now, self.rest) = (Duration::ZERO, CROWDED);
    }

    fn grow(&mut self) {
        self.now = (self.now * 2).clamp(FIRST.min(self.max), self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(150);
    const LATE: Duration = Duration::from_millis(1);

    #[test]
    fn it_grows_with_close_wakes_and_shrinks_with_late_ones() {
        let mut budget = Budget::new(2);
        assert_eq!(budget.get(), Duration::ZERO);
        for micros in [16, 32, 64, 100] {
            budget.woken(SOON, false);
            assert_eq!(budget.get(), Duration::from_micros(micros));
        }
        budget.woken(LATE, true);
        assert_eq!(budget.get(), MAX, "what finds work stays");
        for _ in 0..5 {
            budget.woken(LATE, false);
        }
        assert_eq!(budget.get(), Duration::ZERO);
    }

    #[test]
    fn requests_just_too_far_apart_are_left_alone_for_a_while() {
        let mut budget = Budget::new(2);
        for _ in 0..5 {
            budget.woken(SOON, false);
        }
        for _ in 0..REST {
            assert_eq!(budget.get(), Duration::ZERO);
            budget.woken(SOON, false);
        }
        budget.woken(SOON, false);
        assert_eq!(budget.get(), FIRST);
    }

    #[test]
    fn a_crowded_host_is_left_alone_for_long() {
        let mut budget = Budget::new(2);
        budget.woken(SOON, false);
        budget.preempted();
        for _ in 0..CROWDED {
            assert_eq!(budget.get(), Duration::ZERO);
            budget.woken(SOON, false);
        }
        budget.woken(SOON, false);
        assert_eq!(budget.get(), FIRST);
    }

    #[test]
    fn one_cpu_never_polls() {
        let mut budget = Budget::new(1);
        budget.woken(Duration::ZERO, true);
        budget.woken(SOON, false);
        assert_eq!(budget.get(), Duration::ZERO);
    }
}
