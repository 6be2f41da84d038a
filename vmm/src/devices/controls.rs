//! What single devices offer to the control socket: their own handles, seen through `control`'s traits.
//!
//! Main loop's thread. No decisions: each call is one call of the handle.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::balloon::BalloonHandle;
use super::console::ConsoleInput;
use super::legacy::serial::Serial;
use super::limits::SharedLimits;
use crate::control::v1::{BalloonStatistics, RateLimit as WireLimit};
use crate::control::{self, BalloonControl, Limited, StatisticsListener};
use crate::telemetry::monotonic_ns;
use crate::virtio::rate_limit::RateLimit;

impl control::ConsoleInput for ConsoleInput {
    fn push(&self, bytes: &[u8]) -> usize {
        self.push(bytes)
    }

    fn room_fd(&self) -> RawFd {
        self.room_fd()
    }

    fn clear_room(&self) {
        self.clear_room();
    }
}

impl control::ConsoleInput for Serial {
    fn push(&self, bytes: &[u8]) -> usize {
        self.input(bytes)
    }

    fn room_fd(&self) -> RawFd {
        self.room_fd()
    }

    fn clear_room(&self) {
        self.clear_room();
    }
}

impl Limited for Arc<SharedLimits> {
    fn set_limit(&self, limit: &WireLimit) -> io::Result<()> {
        let limit = RateLimit {
            operations: NonZeroU64::new(limit.operations_per_second),
            bytes: NonZeroU64::new(limit.bytes_per_second),
        };
        self.set(limit).map_err(|error| error.source)
    }
}

impl BalloonControl for BalloonHandle {
    fn set_target_bytes(&self, bytes: u64) {
        self.set_target_bytes(bytes);
    }

    fn statistics(&self) -> BalloonStatistics {
        told(self)
    }

    fn request_statistics(&self) {
        self.request_statistics();
    }

    fn on_statistics(&self, listener: StatisticsListener) {
        self.on_answer(Box::new(move |handle| listener(told(handle))));
    }
}

fn told(balloon: &BalloonHandle) -> BalloonStatistics {
    let said = balloon.statistics();
    let age = said.answered.map(|at| at.elapsed().as_nanos() as u64);
    BalloonStatistics {
        time_ns: age.map_or(0, |age| monotonic_ns().saturating_sub(age)),
        target_bytes: balloon.target_bytes(),
        actual_bytes: balloon.actual_bytes(),
        swap_in_bytes: said.swapped_in_bytes,
        swap_out_bytes: said.swapped_out_bytes,
        major_faults: said.major_faults,
        minor_faults: said.minor_faults,
        free_bytes: said.free_bytes,
        total_bytes: said.total_bytes,
        available_bytes: said.available_bytes,
        disk_cache_bytes: said.disk_cache_bytes,
    }
}
