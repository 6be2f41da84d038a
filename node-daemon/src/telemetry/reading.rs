//! What is measured in one tick: counters since the beginning, and levels now. The sampling task.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Moment;
use crate::host::procfs::{self, Moved};
use crate::host::{Roots, is_disk};
use crate::model::{Failure, Id};

/// The node, now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeReading {
    /// When it was read.
    pub at: Moment,
    /// Time in which CPUs were busy, since the machine's start; all CPUs together.
    pub cpu_busy: Duration,
    /// All time of all CPUs.
    pub cpu_total: Duration,
    /// In bytes.
    pub memory_total_bytes: u64,
    /// What the kernel says is available, in bytes.
    pub memory_available_bytes: u64,
    /// Of disks.
    pub disk: Moved,
    /// Of interfaces with hardware behind them.
    pub network: Moved,
    /// Time in which some task waited for a CPU; absent when the kernel does not tell.
    pub cpu_pressure: Option<Duration>,
    /// … for memory.
    pub memory_pressure: Option<Duration>,
    /// … for disks.
    pub io_pressure: Option<Duration>,
    /// Memory of this daemon, in bytes.
    pub daemon_resident_bytes: u64,
}

/// A running VM, now: counters since its start.
#[derive(Clone, Debug, PartialEq)]
pub struct VmReading {
    /// Which.
    pub id: Id,
    /// Its name now.
    pub name: String,
    /// When it was read.
    pub at: Moment,
    /// Time on CPUs, of all its threads.
    pub cpu: Duration,
    /// Memory of its process (or cgroup), in bytes.
    pub memory_bytes: u64,
    /// Of its disks: in is read, out is written.
    pub disk: Moved,
    /// Of its NICs, as the guest sees it: in is received.
    pub network: Moved,
}

/// What is promised to VMs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// VMs in the inventory.
    pub vms: u32,
    /// Of these, running.
    pub running_vms: u32,
    /// vCPUs of running VMs.
    pub vcpus: u32,
    /// Guest memory and overhead of running VMs, in bytes.
    pub memory_bytes: u64,
    /// Huge pages of running VMs: (bytes of a page, pages).
    pub huge_pages: Vec<(u64, u64)>,
}

/// Who knows the VMs: `vm/` does. Called once a second; must answer from what it has at hand.
pub trait VmSource: Send + Sync + 'static {
    /// What is promised now. Must not block.
    fn allocation(&self) -> Allocation;
    /// Counters of all VMs that run. A VM that does not answer at once is left out.
    fn readings(&self) -> BoxFuture<'_, Vec<VmReading>>;
    /// The id of the VM with this id or name; `NotFound` when there is none.
    fn find(&self, id_or_name: String) -> BoxFuture<'_, Result<Id, Failure>>;
}

/// Reads the node's counters.
pub(super) fn node(roots: &Roots) -> NodeReading {
    let text = |path| roots.read_proc(path).unwrap_or_default();
    let (meminfo, ticks) = (text("meminfo"), procfs::cpu(&text("stat")));
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / per_second);
    let waited = |what: &str| {
        let text = roots.read_proc(&format!("pressure/{what}"))?;
        procfs::pressure(&text).map(Duration::from_micros)
    };
    let resident = text("self/statm").split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    NodeReading {
        at: Moment::now(),
        cpu_busy: time(ticks.busy),
        cpu_total: time(ticks.total),
        memory_total_bytes: procfs::memory(&meminfo, "MemTotal:"),
        memory_available_bytes: procfs::memory(&meminfo, "MemAvailable:"),
        // Partitions have no entry in /sys/block.
        disk: procfs::disks(&text("diskstats"), |name| is_disk(name) && roots.has_sys(&format!("block/{name}"))),
        network: procfs::interfaces(&text("net/dev"), |name| roots.has_sys(&format!("class/net/{name}/device"))),
        cpu_pressure: waited("cpu"),
        memory_pressure: waited("memory"),
        io_pressure: waited("io"),
        daemon_resident_bytes: resident.saturating_mul(rustix::param::page_size() as u64),
    }
}
