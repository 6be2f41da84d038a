//! VMs as telemetry sees them: what is promised, and counters once a second. A VMM that does not answer at once is left out.

use std::fs;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use quantix_vmm_api::v1::Statistics;

use super::{Entry, Live, Vms};
use crate::host::procfs::Moved;
use crate::model::{Failure, Id};
use crate::telemetry::{Allocation, Moment, VmReading, VmSource};

/// How long a VMM has to answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// A process, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Time on CPUs, of all its threads.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Of that, what is not shared memory: what is not the guest's.
    pub own_bytes: u64,
}

/// What process `pid` uses; zeros when it is gone.
pub fn process_usage(pid: u32) -> ProcessUsage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let ticks = fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: Vec<u64> = statm.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let page = rustix::param::page_size() as u64;
    let resident = pages.get(1).copied().unwrap_or(0);
    // Guest memory is a memfd: the kernel counts it as shared, together with the program's own file.
    let shared = pages.get(2).copied().unwrap_or(0);
    ProcessUsage {
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / per_second),
        resident_bytes: resident * page,
        own_bytes: resident.saturating_sub(shared) * page,
    }
}

impl VmSource for Vms {
    fn allocation(&self) -> Allocation {
        let promised = self.shared.promised();
        let mut allocation = Allocation {
            vms: u32::try_from(self.shared.index().by_id.len()).unwrap_or(u32::MAX),
            ..Allocation::default()
        };
        allocation.running_vms = u32::try_from(promised.len()).unwrap_or(u32::MAX);
        for demand in promised.values() {
            allocation.vcpus += demand.vcpus;
            allocation.memory_bytes += demand.memory_bytes;
            let Some((size, count)) = demand.huge_pages else { continue };
            allocation.memory_bytes += size * count;
            match allocation.huge_pages.iter_mut().find(|(page, _)| *page == size) {
                Some((_, pages)) => *pages += count,
                None => allocation.huge_pages.push((size, count)),
            }
        }
        allocation
    }

    fn readings(&self) -> BoxFuture<'_, Vec<VmReading>> {
        Box::pin(async move {
            let running = self.all().into_iter().filter_map(|entry| Some((entry.live().ok()?, entry)));
            join_all(running.map(|(live, entry)| reading(live, entry))).await.into_iter().flatten().collect()
        })
    }

    fn find(&self, id_or_name: String) -> BoxFuture<'_, Result<Id, Failure>> {
        Box::pin(async move { Vms::find(self, &id_or_name).map(|entry| entry.id.clone()) })
    }
}

async fn reading(live: Live, entry: std::sync::Arc<Entry>) -> Option<VmReading> {
    let statistics = tokio::time::timeout(PATIENCE, live.client.statistics()).await.ok()?.ok()?;
    let usage = process_usage(live.pid);
    let view = entry.view();
    let spec = &live.started_with.spec;
    let disks = spec.disks.iter().map(|disk| disk.id.as_str());
    let nics = spec.nics.iter().map(|nic| nic.id.as_str());
    Some(VmReading {
        id: entry.id.clone(),
        name: view.record().name.to_string(),
        at: Moment::now(),
        cpu: usage.cpu,
        memory_bytes: usage.resident_bytes,
        disk: moved(&statistics, disks, |_| true),
        // Receive queues are the even ones (virtio 1.2 section 5.1.2).
        network: moved(&statistics, nics, |queue| queue % 2 == 0),
    })
}

/// The sum over devices. A disk's queues do not tell reads from writes: all of it counts as read.
fn moved<'a>(statistics: &Statistics, ids: impl Iterator<Item = &'a str>, inward: impl Fn(u32) -> bool) -> Moved {
    let mut sum = Moved::default();
    for id in ids {
        let devices = statistics.devices.iter().filter(|device| device.device_id == id);
        for queue in devices.flat_map(|device| &device.queues) {
            if inward(queue.index) {
                sum.in_bytes = sum.in_bytes.saturating_add(queue.bytes);
                sum.in_operations = sum.in_operations.saturating_add(queue.operations);
            } else {
                sum.out_bytes = sum.out_bytes.saturating_add(queue.bytes);
                sum.out_operations = sum.out_operations.saturating_add(queue.operations);
            }
        }
    }
    sum
}
