//! What took how long, on one clock: spans on `CLOCK_MONOTONIC`, which the VMM uses too, and what no span covers. Pure but
//! for reading the clock.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::Time;

/// Now, on the clock of all timelines, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedSpan {
    /// What was done.
    pub name: String,
    /// When it began, on the clock of all timelines.
    pub begin_ns: u64,
    /// When it was over.
    pub end_ns: u64,
}

/// Steps from a beginning on. They may overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// When the first step began, as the clock for people says.
    pub start_time: Time,
    spans: Vec<TimedSpan>,
}

impl Timeline {
    /// A timeline that begins now.
    pub fn begin() -> Self {
        Self { start_time: Time::now(), spans: Vec::new() }
    }

    /// Adds a step that took from `begin_ns` to now, and returns now: where the next one may begin.
    pub fn step(&mut self, name: &str, begin_ns: u64) -> u64 {
        let now = monotonic_ns();
        self.add(name, begin_ns, now);
        now
    }

    /// Adds a step.
    pub fn add(&mut self, name: &str, begin_ns: u64, end_ns: u64) {
        self.spans.push(TimedSpan { name: name.to_owned(), begin_ns, end_ns: end_ns.max(begin_ns) });
    }

    /// The steps, in the order in which they began.
    pub fn spans(&self) -> Vec<TimedSpan> {
        let mut spans = self.spans.clone();
        spans.sort_by_key(|span| (span.begin_ns, span.end_ns));
        spans
    }

    /// When the first step began; 0 when there is none.
    pub fn begin_ns(&self) -> u64 {
        self.spans.iter().map(|span| span.begin_ns).min().unwrap_or(0)
    }

    /// From the begin of the first step to the end of the last.
    pub fn total(&self) -> Duration {
        let end = self.spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
        Duration::from_nanos(end - self.begin_ns())
    }

    /// What no step covers.
    pub fn unaccounted(&self) -> Duration {
        let mut uncovered = 0;
        let mut reached = self.begin_ns();
        for span in self.spans() {
            uncovered += span.begin_ns.saturating_sub(reached);
            reached = reached.max(span.end_ns);
        }
        Duration::from_nanos(uncovered)
    }

    /// The names of all steps.
    pub fn names(&self) -> BTreeSet<&str> {
        self.spans.iter().map(|span| span.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_span_covers_is_counted_once() {
        let mut timeline = Timeline::begin();
        assert_eq!((timeline.total(), timeline.unaccounted()), (Duration::ZERO, Duration::ZERO));
        for (name, begin, end) in [("b", 30, 50), ("a", 10, 20), ("inside", 32, 40), ("c", 45, 60), ("late", 70, 71)] {
            timeline.add(name, begin, end);
        }
        assert_eq!(timeline.total(), Duration::from_nanos(61));
        assert_eq!(timeline.unaccounted(), Duration::from_nanos(10 + 10));
        assert_eq!(timeline.spans()[0].name, "a");
    }
}
