//! The series of the history, as tables: name, unit, and how a value comes of two readings. Pure.

use std::time::Duration;

use super::Subject;
use super::reading::{NodeReading, VmReading};
use crate::host::procfs::Moved;
use crate::model::{Failure, Violation};

/// What a series is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesInfo {
    /// Its name in the API.
    pub name: &'static str,
    /// percent, bytes, `bytes_per_second`, `operations_per_second`.
    pub unit: &'static str,
}

/// A series of one kind of subject. The value is of the reading before and this one; NaN when there is none.
pub(super) struct Series<R> {
    pub info: SeriesInfo,
    pub value: fn(&R, &R) -> f64,
}

const fn series<R>(name: &'static str, unit: &'static str, value: fn(&R, &R) -> f64) -> Series<R> {
    Series { info: SeriesInfo { name, unit }, value }
}

const PERCENT: &str = "percent";
const BYTES: &str = "bytes";
const RATE: &str = "bytes_per_second";
const OPERATIONS: &str = "operations_per_second";

/// Of the node. 100 percent are all CPUs.
pub(super) const NODE: [Series<NodeReading>; 11] = [
    series("cpu_percent", PERCENT, |a, b| share(span(a.cpu_busy, b.cpu_busy), span(a.cpu_total, b.cpu_total))),
    series("memory_used_bytes", BYTES, |_, b| number(b.memory_total_bytes.saturating_sub(b.memory_available_bytes))),
    series("disk_read_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.disk.in_bytes)),
    series("disk_write_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.disk.out_bytes)),
    series("disk_read_operations_per_second", OPERATIONS, |a, b| rate(a, b, |m| m.disk.in_operations)),
    series("disk_write_operations_per_second", OPERATIONS, |a, b| rate(a, b, |m| m.disk.out_operations)),
    series("network_receive_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.network.in_bytes)),
    series("network_transmit_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.network.out_bytes)),
    series("cpu_pressure_percent", PERCENT, |a, b| waited(a, b, |r| r.cpu_pressure)),
    series("memory_pressure_percent", PERCENT, |a, b| waited(a, b, |r| r.memory_pressure)),
    series("io_pressure_percent", PERCENT, |a, b| waited(a, b, |r| r.io_pressure)),
];

/// Of a VM. 100 percent are one CPU.
pub(super) const VM: [Series<VmReading>; 8] = [
    series("cpu_percent", PERCENT, |a, b| share(span(a.cpu, b.cpu), Some(b.at.since(a.at)))),
    series("memory_used_bytes", BYTES, |_, b| number(b.memory_bytes)),
    series("disk_read_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.disk.in_bytes)),
    series("disk_write_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.disk.out_bytes)),
    series("disk_read_operations_per_second", OPERATIONS, |a, b| rate(a, b, |m| m.disk.in_operations)),
    series("disk_write_operations_per_second", OPERATIONS, |a, b| rate(a, b, |m| m.disk.out_operations)),
    series("network_receive_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.network.in_bytes)),
    series("network_transmit_bytes_per_second", RATE, |a, b| rate(a, b, |m| m.network.out_bytes)),
];

/// What both kinds of reading have.
trait Counted {
    fn at(&self) -> super::Moment;
    fn moved(&self) -> Both;
}

/// Counters of disks and network.
struct Both {
    disk: Moved,
    network: Moved,
}

impl Counted for NodeReading {
    fn at(&self) -> super::Moment {
        self.at
    }

    fn moved(&self) -> Both {
        Both { disk: self.disk, network: self.network }
    }
}

impl Counted for VmReading {
    fn at(&self) -> super::Moment {
        self.at
    }

    fn moved(&self) -> Both {
        Both { disk: self.disk, network: self.network }
    }
}

#[allow(clippy::cast_precision_loss)] // A chart does not show the 53rd bit.
fn number(value: u64) -> f64 {
    value as f64
}

/// How much a counter has grown; nothing when it was set back: the VM was started anew, a disk went away.
fn span(before: Duration, now: Duration) -> Option<Duration> {
    now.checked_sub(before)
}

fn share(part: Option<Duration>, of: Option<Duration>) -> f64 {
    match (part, of) {
        (Some(part), Some(of)) if !of.is_zero() => part.as_secs_f64() / of.as_secs_f64() * 100.0,
        _ => f64::NAN,
    }
}

fn rate<R: Counted>(before: &R, now: &R, counter: fn(&Both) -> u64) -> f64 {
    let seconds = now.at().since(before.at()).as_secs_f64();
    match counter(&now.moved()).checked_sub(counter(&before.moved())) {
        Some(grown) if seconds > 0.0 => number(grown) / seconds,
        _ => f64::NAN,
    }
}

fn waited(before: &NodeReading, now: &NodeReading, what: fn(&NodeReading) -> Option<Duration>) -> f64 {
    match (what(before), what(now)) {
        (Some(first), Some(second)) => share(span(first, second), Some(now.at.since(before.at))).min(100.0),
        _ => f64::NAN,
    }
}

/// Which series of a subject are meant, as indexes with their names; all when none is named.
pub(super) fn choose(subject: &Subject, names: &[String]) -> Result<Vec<(usize, SeriesInfo)>, Failure> {
    let all: Vec<SeriesInfo> = match subject {
        Subject::Node => NODE.iter().map(|series| series.info).collect(),
        Subject::Vm(_) => VM.iter().map(|series| series.info).collect(),
    };
    let unknown: Vec<Violation> = names
        .iter()
        .enumerate()
        .filter(|(_, name)| !all.iter().any(|info| info.name == *name))
        .map(|(at, name)| {
            let known = all.iter().map(|info| info.name).collect::<Vec<_>>().join(", ");
            let name: String = name.chars().take(64).collect();
            Violation {
                field: format!("series[{at}]"),
                description: format!("{name:?} is not a series: there are {known}"),
            }
        })
        .collect();
    if !unknown.is_empty() {
        return Err(Failure::violations(unknown));
    }
    let chosen = all.into_iter().enumerate();
    Ok(chosen.filter(|(_, info)| names.is_empty() || names.iter().any(|name| name == info.name)).collect())
}
