//! When the node raises alarms of its own, and when its clock has jumped. Pure, but for `Space::of`.

use std::path::Path;

use super::Moment;
use super::reading::NodeReading;
use crate::model::Time;

/// Below this share of free bytes an alarm is raised, and cleared above the other.
const SPACE: (f64, f64) = (0.05, 0.08);
/// The same for available memory.
const MEMORY: (f64, f64) = (0.03, 0.05);
/// Seconds by which the clock must be off to have jumped; less is what time servers do all day.
const JUMP: f64 = 2.0;

/// Free space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub total: u64,
    pub available: u64,
}

impl Space {
    /// Of the file system with this directory.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        match rustix::fs::statvfs(directory) {
            Ok(found) => Some(Self {
                total: found.f_blocks.saturating_mul(found.f_frsize),
                available: found.f_bavail.saturating_mul(found.f_frsize),
            }),
            Err(errno) => {
                tracing::warn!("Cannot see how full {} is: {errno}", directory.display());
                None
            }
        }
    }
}

/// What is to be said by key: a sentence for an alarm, nothing for none.
pub(super) fn judge(
    node: &NodeReading,
    space: Option<&Space>,
    raised: impl Fn(&str) -> bool,
) -> Vec<(&'static str, Option<String>)> {
    let mut found = Vec::new();
    if let Some(space) = space {
        let low = is_low(space.available, space.total, SPACE, raised("disk-space"));
        let sentence = format!("The disk with the inventory has {} MiB left: free space", space.available >> 20);
        found.push(("disk-space", low.then_some(sentence)));
    }
    let available = node.memory_available_bytes;
    let low = is_low(available, node.memory_total_bytes, MEMORY, raised("memory"));
    let sentence = format!("The node has {} MiB of memory left: stop VMs, or give them less", available >> 20);
    found.push(("memory", low.then_some(sentence)));
    found
}

#[allow(clippy::cast_precision_loss)] // Shares, not counts.
fn is_low(available: u64, total: u64, (raise, clear): (f64, f64), raised: bool) -> bool {
    let bound = if raised { clear } else { raise };
    total > 0 && (available as f64) < total as f64 * bound
}

/// Compares the wall clock with the monotonic one.
#[derive(Debug)]
pub(super) struct ClockWatch {
    wall: Time,
    moment: Moment,
}

impl ClockWatch {
    pub(super) fn start(wall: Time, moment: Moment) -> Self {
        Self { wall, moment }
    }

    /// Seconds by which the wall clock has jumped since the last look, if it has.
    #[allow(clippy::cast_precision_loss)] // Seconds with a few digits.
    pub(super) fn look(&mut self, wall: Time, moment: Moment) -> Option<f64> {
        let passed = moment.since(self.moment).as_secs_f64();
        let jump = wall.micros().saturating_sub(self.wall.micros()) as f64 / 1e6 - passed;
        *self = Self { wall, moment };
        (jump.abs() >= JUMP).then_some(jump)
    }
}
