//! Metrics, their history, and timelines. Must not decide anything.

mod timeline;

pub use timeline::{TimedSpan, Timeline, monotonic_ns};
