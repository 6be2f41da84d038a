//! Metrics, their history, and timelines. Must not decide anything.
