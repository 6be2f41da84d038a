//! Counters of a VM on the wire: what its VMM counts, and what the kernel counts of its process.

use std::collections::BTreeMap;
use std::time::Duration;

use quantix_api::v1;
use quantix_vmm_api::v1 as vmm;

use super::wire::duration;
use crate::model::{Failure, Time};
use crate::vm::{Live, process_usage};

/// Longest name of a device that is shown, in characters.
const SHOWN: usize = 64;

/// Reads all counters now.
///
/// # Errors
/// The VMM does not answer.
pub async fn read(live: &Live) -> Result<v1::VmStatistics, Failure> {
    let counted = live.client.statistics().await?;
    let kinds = live.client.info(Duration::from_secs(3)).await?.devices;
    let kinds: BTreeMap<String, vmm::Device> = kinds.into_iter().map(|device| (device.id.clone(), device)).collect();
    let usage = process_usage(live.pid);
    Ok(v1::VmStatistics {
        time: Some(Time::now().into()),
        vcpus: counted.vcpus.iter().map(vcpu).collect(),
        devices: counted.devices.into_iter().map(|counted| device(counted, &kinds)).collect(),
        memory_resident_bytes: usage.resident_bytes,
        memory_overhead_bytes: usage.own_bytes,
        cpu_time: Some(duration(usage.cpu)),
        guest_memory: counted.balloon.map(|told| v1::GuestMemory {
            balloon_target_bytes: told.target_bytes,
            balloon_bytes: told.actual_bytes,
            total_bytes: told.total_bytes,
            available_bytes: told.available_bytes,
            free_bytes: told.free_bytes,
        }),
    })
}

fn vcpu(counted: &vmm::VcpuStatistics) -> v1::VcpuStatistics {
    let name = |exit: &vmm::ExitCount| exit.reason().as_str_name().trim_start_matches("EXIT_REASON_").to_lowercase();
    let mut exits = BTreeMap::new();
    for exit in &counted.exits {
        *exits.entry(name(exit)).or_insert(0_u64) += exit.count;
    }
    v1::VcpuStatistics {
        index: counted.index,
        exits,
        run_delay: counted.run_delay_ns.map(|ns| duration(Duration::from_nanos(ns))),
        cpu_time: Some(duration(Duration::from_nanos(counted.cpu_time_ns))),
    }
}

fn device(counted: vmm::DeviceStatistics, kinds: &BTreeMap<String, vmm::Device>) -> v1::DeviceStatistics {
    let known = kinds.get(&counted.device_id);
    let queues = counted.queues.into_iter().map(|queue| v1::QueueStatistics {
        index: queue.index,
        operations: queue.operations,
        bytes: queue.bytes,
        errors: queue.errors,
        guest_faults: queue.guest_faults,
        latency_buckets: queue.latency_buckets,
    });
    v1::DeviceStatistics {
        queues: queues.collect(),
        kind: known.map(|device| device.kind.chars().take(SHOWN).collect()).unwrap_or_default(),
        needs_reset: known.is_some_and(|device| device.needs_reset),
        id: counted.device_id.chars().take(SHOWN).collect(),
    }
}
