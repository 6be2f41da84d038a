//! What the VMM tells about itself: counters, the boot timeline, logs at a limited rate. It decides nothing.

#![forbid(unsafe_code)]

mod counters;
mod stderr_log;
mod timeline;

pub use counters::{HISTOGRAM_BUCKETS, QueueCounters, QueueSnapshot};
pub use stderr_log::{WarningListener, log_to_stderr, tell_warnings};
pub use timeline::{Step, clock_ns, mark, mark_spawn, monotonic_ns, timeline};
