//! Counters of one virtqueue.
//!
//! The queue's worker adds, the control thread reads; relaxed atomics, so a snapshot may be one operation apart
//! between two fields.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of the latency histogram: bucket `i` counts operations that took less than `2^i` µs and at least `2^(i-1)`.
pub const HISTOGRAM_BUCKETS: usize = 24;

/// What one queue has done since power-on.
#[derive(Debug, Default)]
pub struct QueueCounters {
    operations: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    guest_faults: AtomicU64,
    latency: [AtomicU64; HISTOGRAM_BUCKETS],
}

/// A copy of the counters at one moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// Requests or packets completed.
    pub operations: u64,
    /// Payload bytes moved.
    pub bytes: u64,
    /// Requests that ended with an error status.
    pub errors: u64,
    /// Times the guest broke the protocol.
    pub guest_faults: u64,
    /// Log2 histogram of latencies in µs, see [`HISTOGRAM_BUCKETS`].
    pub latency: [u64; HISTOGRAM_BUCKETS],
}

impl QueueCounters {
    /// Counts `operations` that moved `bytes` in all.
    #[inline]
    pub fn add(&self, operations: u64, bytes: u64) {
        self.operations.fetch_add(operations, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a request that ended with an error status.
    pub fn add_error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// Counts a breach of the protocol by the guest.
    pub fn add_guest_fault(&self) {
        self.guest_faults.fetch_add(1, Relaxed);
    }

    /// Records that one operation took `nanoseconds`.
    #[inline]
    pub fn add_latency(&self, nanoseconds: u64) {
        let microseconds = nanoseconds / 1000;
        let bucket = (u64::BITS - microseconds.leading_zeros()) as usize;
        if let Some(count) = self.latency.get(bucket.min(HISTOGRAM_BUCKETS - 1)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// A copy of the counters.
    pub fn snapshot(&self) -> QueueSnapshot {
        QueueSnapshot {
            operations: self.operations.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            guest_faults: self.guest_faults.load(Relaxed),
            latency: std::array::from_fn(|i| self.latency.get(i).map_or(0, |c| c.load(Relaxed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_log2_buckets() {
        let counters = QueueCounters::default();
        for (nanoseconds, bucket) in
            [(0, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (4000, 3), (u64::MAX, HISTOGRAM_BUCKETS - 1)]
        {
            let before = counters.snapshot().latency[bucket];
            counters.add_latency(nanoseconds);
            assert_eq!(counters.snapshot().latency[bucket], before + 1, "{nanoseconds} ns");
        }
    }
}
