//! Decides whether a buffered write may be done on the spot, on a file system that cannot say "this would block".
//!
//! Used by a disk queue on its reactor thread. Pure: time comes in.
//!
//! A plain `pwritev` into the page cache costs 1.5 µs where a detour over `io_uring`'s kernel threads costs 60 to 100 µs.
//! But when the host throttles dirty pages, the same call sleeps for up to 200 ms, again and again, and reads of the same queue
//! wait behind it. So writes are done on the spot until several of them were slow; then they go the long way for a while,
//! longer each time. One slow write means nothing: on a busy host, the thread was merely preempted in its midst.

use std::time::{Duration, Instant};

/// A write that took longer has slept, or was preempted.
const SLOW: Duration = Duration::from_millis(4);
/// So many slow ones among the last 64 writes are no coincidence.
const TOO_MANY: u32 = 2;
const FIRST_PENALTY: Duration = Duration::from_millis(10);
const LONGEST_PENALTY: Duration = Duration::from_millis(640);

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct InlineGate {
    closed_until: Option<Instant>,
    penalty: Duration,
    /// One bit a write, the last one lowest: set if it was slow.
    recent: u64,
    /// Writes since the gate opened, up to 64.
    seen: u32,
}

impl InlineGate {
    /// Whether a write may be done on the spot at `now`.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        if self.closed_until.is_some_and(|until| now < until) {
            return false;
        }
        self.closed_until = None;
        true
    }

    /// A write on the spot went from `start` to `end`.
    pub(super) fn record(&mut self, start: Instant, end: Instant) {
        let slow = end.saturating_duration_since(start) >= SLOW;
        self.recent = self.recent << 1 | u64::from(slow);
        self.seen = (self.seen + 1).min(u64::BITS);
        if self.seen == u64::BITS && self.recent.count_ones() < TOO_MANY {
            self.penalty = Duration::ZERO;
        }
        if self.recent.count_ones() >= TOO_MANY {
            (self.recent, self.seen) = (0, 0);
            self.penalty = (self.penalty * 2).clamp(FIRST_PENALTY, LONGEST_PENALTY);
            self.closed_until = end.checked_add(self.penalty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records `count` writes that take `each`; when the last one ended.
    fn write(gate: &mut InlineGate, mut now: Instant, count: u32, each: Duration) -> Instant {
        for _ in 0..count {
            assert!(gate.is_open(now));
            gate.record(now, now + each);
            now += each;
        }
        now
    }

    #[test]
    fn repeated_slow_writes_close_the_gate_longer_each_time() {
        let mut gate = InlineGate::default();
        let mut now = Instant::now();
        for closed_ms in [10, 20, 40, 80, 160, 320, 640, 640] {
            let end = write(&mut gate, now, 2, SLOW);
            assert!(!gate.is_open(end + Duration::from_millis(closed_ms - 1)), "{closed_ms}");
            now = end + Duration::from_millis(closed_ms);
        }
        let now = write(&mut gate, now, 64, Duration::from_micros(2));
        let end = write(&mut gate, now, 2, SLOW);
        assert!(gate.is_open(end + FIRST_PENALTY), "64 fast writes are forgiven for");
    }

    #[test]
    fn a_preempted_write_now_and_then_does_not_matter() {
        let mut gate = InlineGate::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            now = write(&mut gate, now, 1, Duration::from_millis(30));
            now = write(&mut gate, now, 63, Duration::from_micros(2));
        }
        assert!(gate.is_open(now));
    }
}
