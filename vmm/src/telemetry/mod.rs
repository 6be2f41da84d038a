//! What the VMM tells about itself: counters, the boot timeline, logs at a limited rate. It decides nothing.

#![forbid(unsafe_code)]

mod counters;

pub use counters::{HISTOGRAM_BUCKETS, QueueCounters, QueueSnapshot};
