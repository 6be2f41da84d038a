//! Steps on one clock, and what no step accounts for. Any thread.
//!
//! The clock is `CLOCK_MONOTONIC`, which VMMs use too, so their marks fit in as they are. The wall clock is read once, to
//! say when it all began; it may jump meanwhile.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quantix_api::v1;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::model::Time;

/// A point on `CLOCK_MONOTONIC` of this boot of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        // Neither is ever negative on this clock.
        let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// From nanoseconds, such as a VMM reports.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero when that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Spans that belong together; cheap to clone, and written to from wherever the work is done.
#[derive(Clone, Debug)]
pub struct Timeline {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    begin: Moment,
    wall: Time,
    spans: Vec<(String, Moment, Moment)>,
}

impl Timeline {
    /// Spans that one timeline takes; more are not kept, so that a step in a loop cannot fill the memory.
    pub const MOST_SPANS: usize = 512;

    /// A timeline that begins now.
    pub fn begin() -> Self {
        Self::begin_at(Moment::now())
    }

    /// A timeline that began at `begin`, which is not in the future.
    pub fn begin_at(begin: Moment) -> Self {
        let ago = i64::try_from(Moment::now().since(begin).as_micros()).unwrap_or(0);
        let wall = Time::from_micros(Time::now().micros().saturating_sub(ago));
        Self { inner: Arc::new(Mutex::new(Inner { begin, wall, spans: Vec::new() })) }
    }

    /// Begins a span; it ends when the result is dropped. Spans may overlap and nest.
    pub fn span(&self, name: impl Into<String>) -> OpenSpan {
        OpenSpan { timeline: self.clone(), name: name.into(), begin: Moment::now() }
    }

    /// Adds a span that was measured elsewhere.
    pub fn record(&self, name: impl Into<String>, begin: Moment, end: Moment) {
        let mut inner = self.lock();
        if inner.spans.len() < Self::MOST_SPANS {
            inner.spans.push((name.into(), begin, end.max(begin)));
        }
    }

    /// A copy of what there is now, to which something can be added that does not belong to the original.
    pub fn snapshot(&self) -> Self {
        let inner = self.lock();
        let copy = Inner { begin: inner.begin, wall: inner.wall, spans: inner.spans.clone() };
        Self { inner: Arc::new(Mutex::new(copy)) }
    }

    /// The spans so far, in the order of their beginnings.
    pub fn report(&self) -> Report {
        let inner = self.lock();
        let mut spans = inner.spans.clone();
        spans.sort_by_key(|(_, begin, end)| (*begin, *end));
        // A VMM's first mark may be a little before the first thing that this process noted.
        let origin = spans.first().map_or(inner.begin, |(_, begin, _)| inner.begin.min(*begin));
        let end = spans.iter().map(|(_, _, end)| *end).max().unwrap_or(origin);
        let early = i64::try_from(inner.begin.since(origin).as_micros()).unwrap_or(0);
        let (mut covered_to, mut gaps) = (origin, Duration::ZERO);
        for (_, begin, end) in &spans {
            gaps += begin.since(covered_to);
            covered_to = covered_to.max(*end);
        }
        Report {
            start_time: Time::from_micros(inner.wall.micros().saturating_sub(early)),
            spans: spans
                .into_iter()
                .map(|(name, begin, end)| ReportedSpan { name, offset: begin.since(origin), length: end.since(begin) })
                .collect(),
            total: end.since(origin),
            unaccounted: gaps,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A span is pushed whole or not at all.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A span that goes on.
#[derive(Debug)]
#[must_use = "the span ends when this is dropped"]
pub struct OpenSpan {
    timeline: Timeline,
    name: String,
    begin: Moment,
}

impl OpenSpan {
    /// Ends the span.
    pub fn end(self) {}
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.timeline.record(std::mem::take(&mut self.name), self.begin, Moment::now());
    }
}

/// A timeline as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it began, as the clock then said.
    pub start_time: Time,
    /// In the order of their beginnings.
    pub spans: Vec<ReportedSpan>,
    /// From the beginning to the end of the last span.
    pub total: Duration,
    /// What no span covers.
    pub unaccounted: Duration,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedSpan {
    /// What was done.
    pub name: String,
    /// Since the report's beginning.
    pub offset: Duration,
    /// How long it took.
    pub length: Duration,
}

impl fmt::Display for Report {
    /// A line per step, for logs: `  12.345 ms  +  0.678 ms  name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        for span in &self.spans {
            writeln!(f, "{:>10.3} ms {:>+10.3} ms  {}", ms(span.offset), ms(span.length), span.name)?;
        }
        write!(f, "{:>10.3} ms in all, {:.3} ms unaccounted", ms(self.total), ms(self.unaccounted))
    }
}

fn wire(duration: Duration) -> prost_types::Duration {
    // Nothing that is measured here is longer than a protobuf duration can be.
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

impl From<Report> for v1::BootReport {
    fn from(report: Report) -> Self {
        let span = |span: ReportedSpan| v1::Span {
            name: span.name,
            offset: Some(wire(span.offset)),
            length: Some(wire(span.length)),
        };
        Self {
            spans: report.spans.into_iter().map(span).collect(),
            total: Some(wire(report.total)),
            unaccounted: Some(wire(report.unaccounted)),
            start_time: Some(report.start_time.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(spans: &[(u64, u64)]) -> Timeline {
        let timeline = Timeline::begin_at(Moment::from_nanos(0));
        for (at, (begin, length)) in spans.iter().enumerate() {
            timeline.record(format!("s{at}"), Moment::from_nanos(*begin), Moment::from_nanos(begin + length));
        }
        timeline
    }

    proptest! {
        /// Against a count, nanosecond by nanosecond.
        #[test]
        fn what_no_span_covers_is_counted_once(spans in prop::collection::vec((0u64..200, 0u64..50), 0..12)) {
            let report = timeline(&spans).report();
            let end = spans.iter().map(|(begin, length)| begin + length).max().unwrap_or(0);
            let bare = (0..end).filter(|at| !spans.iter().any(|(b, l)| (*b..b + l).contains(at))).count();
            prop_assert_eq!(report.total, Duration::from_nanos(end));
            prop_assert_eq!(report.unaccounted, Duration::from_nanos(bare as u64));
            prop_assert!(report.spans.is_sorted_by_key(|span| span.offset));
        }
    }

    #[test]
    fn a_span_before_the_beginning_moves_the_beginning() {
        let timeline = Timeline::begin_at(Moment::from_nanos(5_000_000));
        let wall = timeline.report().start_time;
        timeline.record("early", Moment::from_nanos(3_000_000), Moment::from_nanos(6_000_000));
        let report = timeline.report();
        assert_eq!(wall.micros() - report.start_time.micros(), 2000);
        assert_eq!(report.spans[0].offset, Duration::ZERO);
        assert_eq!((report.total, report.unaccounted), (Duration::from_millis(3), Duration::ZERO));
    }

    #[test]
    fn a_guard_measures_from_its_making_to_its_drop() {
        let timeline = Timeline::begin();
        let before = Moment::now();
        timeline.span("work").end();
        let after = Moment::now();
        let report = timeline.report();
        assert_eq!(report.spans.len(), 1);
        assert!(report.spans[0].length <= after.since(before));
    }

    #[test]
    fn a_timeline_is_bounded() {
        let timeline = Timeline::begin();
        for _ in 0..2 * Timeline::MOST_SPANS {
            timeline.span("again").end();
        }
        assert_eq!(timeline.report().spans.len(), Timeline::MOST_SPANS);
    }
}
