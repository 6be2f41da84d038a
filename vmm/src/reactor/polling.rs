//! How long an I/O thread looks for work before it sleeps. Pure: times come in as arguments.
//!
//! A kick costs the guest an exit (2.6 µs where it was measured) and a wake-up costs the thread a context switch. While
//! requests follow each other closely, looking is cheaper than both. The budget grows when a wake-up came soon after
//! falling asleep, and shrinks when looking was in vain: an idle guest costs nothing.

use std::time::Duration;

/// Longest time of looking in vain.
pub const MAX: Duration = Duration::from_micros(50);
/// First step when the budget grows from nothing.
const FIRST: Duration = Duration::from_micros(8);

/// The adaptive budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    max: Duration,
    now: Duration,
}

impl Budget {
    /// With a single host CPU, looking would only keep the guest from running: the budget stays at nothing.
    pub fn new(host_cpus: usize) -> Self {
        let max = if host_cpus < 2 { Duration::ZERO } else { MAX };
        Self { max, now: Duration::ZERO }
    }

    /// How long to look in vain before sleeping.
    pub fn get(&self) -> Duration {
        self.now
    }

    /// The thread was woken after having slept for `slept`; before that, looking `found` work or not.
    pub fn woken(&mut self, slept: Duration, found: bool) {
        if slept < MAX {
            self.now = (self.now * 2).clamp(FIRST.min(self.max), self.max);
        } else if !found {
            self.now = if self.now <= FIRST { Duration::ZERO } else { self.now / 2 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_close_wakes_and_shrinks_with_vain_looks() {
        let mut budget = Budget::new(2);
        assert_eq!(budget.get(), Duration::ZERO);
        for micros in [8, 16, 32, 50, 50] {
            budget.woken(Duration::from_micros(10), false);
            assert_eq!(budget.get(), Duration::from_micros(micros));
        }
        budget.woken(Duration::from_millis(1), true);
        assert_eq!(budget.get(), MAX);
        for _ in 0..5 {
            budget.woken(Duration::from_millis(1), false);
        }
        assert_eq!(budget.get(), Duration::ZERO);
    }

    #[test]
    fn one_cpu_never_polls() {
        let mut budget = Budget::new(1);
        budget.woken(Duration::ZERO, true);
        assert_eq!(budget.get(), Duration::ZERO);
    }
}
