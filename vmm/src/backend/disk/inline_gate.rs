//! Decides whether a buffered write may be done on the spot, on a file system that cannot say "this would block".
//!
//! Used by a disk queue on its reactor thread. Pure: time comes in.
//!
//! A plain `pwritev` into the page cache costs 1.5 µs where a detour over `io_uring`'s kernel threads costs 60 to 100 µs.
//! But when the host throttles dirty pages, the same call may sleep for 200 ms, and reads of the same queue wait
//! behind it. So writes are done on the spot until one was slow; then they go the long way for a while, longer
//! each time.

use std::time::{Duration, Instant};

/// A write that took longer has slept.
const SLOW: Duration = Duration::from_millis(4);
const FIRST_PENALTY: Duration = Duration::from_millis(10);
const LONGEST_PENALTY: Duration = Duration::from_millis(640);

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct InlineGate {
    closed_until: Option<Instant>,
    penalty: Duration,
}

impl InlineGate {
    /// Whether a write may be done on the spot at `now`.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        match self.closed_until {
            Some(until) if now < until => false,
            _ => {
                self.closed_until = None;
                true
            }
        }
    }

    /// A write on the spot went from `start` to `end`.
    pub(super) fn record(&mut self, start: Instant, end: Instant) {
        if end.saturating_duration_since(start) < SLOW {
            self.penalty = Duration::ZERO;
            return;
        }
        self.penalty = (self.penalty * 2).clamp(FIRST_PENALTY, LONGEST_PENALTY);
        self.closed_until = end.checked_add(self.penalty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_writes_close_the_gate_longer_each_time_and_a_fast_one_forgives() {
        let mut gate = InlineGate::default();
        let mut now = Instant::now();
        for closed_ms in [10, 20, 40, 80, 160, 320, 640, 640] {
            assert!(gate.is_open(now));
            let end = now + SLOW;
            gate.record(now, end);
            assert!(!gate.is_open(end + Duration::from_millis(closed_ms - 1)), "{closed_ms}");
            now = end + Duration::from_millis(closed_ms);
        }
        assert!(gate.is_open(now));
        gate.record(now, now + Duration::from_micros(2));
        gate.record(now, now + SLOW);
        assert!(gate.is_open(now + SLOW + FIRST_PENALTY));
    }
}
