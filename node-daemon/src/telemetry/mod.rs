//! Metrics, their history, and timelines. Must not decide anything.

#![forbid(unsafe_code)]

mod timeline;

pub use timeline::{Moment, OpenSpan, Report, ReportedSpan, Timeline};
