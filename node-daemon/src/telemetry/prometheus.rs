//! What Prometheus reads: the last sample, by tables. Whoever scrapes; must not measure anything itself.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::lock;
use super::reading::{Allocation, NodeReading, VmReading};

/// The last sample.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub node: NodeReading,
    pub vms: Vec<VmReading>,
    pub allocation: Allocation,
}

/// One metric of a reading. A counter's name is given without its `_total`.
struct Metric<R> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&R) -> f64,
}

const fn metric<R>(kind: MetricType, name: &'static str, help: &'static str, value: fn(&R) -> f64) -> Metric<R> {
    Metric { name, help, kind, value }
}

use MetricType::{Counter, Gauge};

const NODE: [Metric<Snapshot>; 19] = [
    metric(Counter, "node_cpu_busy_seconds", "Time in which CPUs were busy, all together", |s| secs(s.node.cpu_busy)),
    metric(Counter, "node_cpu_seconds", "Time of all CPUs together", |s| secs(s.node.cpu_total)),
    metric(Gauge, "node_memory_bytes", "Memory of the node", |s| float(s.node.memory_total_bytes)),
    metric(Gauge, "node_memory_available_bytes", "Memory that is available now", |s| {
        float(s.node.memory_available_bytes)
    }),
    metric(Counter, "node_disk_read_bytes", "Bytes read from disks", |s| float(s.node.disk.in_bytes)),
    metric(Counter, "node_disk_written_bytes", "Bytes written to disks", |s| float(s.node.disk.out_bytes)),
    metric(Counter, "node_disk_reads", "Reads from disks", |s| float(s.node.disk.in_operations)),
    metric(Counter, "node_disk_writes", "Writes to disks", |s| float(s.node.disk.out_operations)),
    metric(Counter, "node_network_received_bytes", "Bytes received", |s| float(s.node.network.in_bytes)),
    metric(Counter, "node_network_transmitted_bytes", "Bytes transmitted", |s| float(s.node.network.out_bytes)),
    metric(Counter, "node_pressure_cpu_seconds", "Time in which a task waited for a CPU", |s| {
        wait(s.node.cpu_pressure)
    }),
    metric(Counter, "node_pressure_memory_seconds", "… for memory", |s| wait(s.node.memory_pressure)),
    metric(Counter, "node_pressure_io_seconds", "… for disks", |s| wait(s.node.io_pressure)),
    metric(Gauge, "daemon_resident_bytes", "Memory of the node daemon", |s| float(s.node.daemon_resident_bytes)),
    metric(Gauge, "vms", "VMs in the inventory", |s| s.allocation.vms.into()),
    metric(Gauge, "vms_running", "VMs that run", |s| s.allocation.running_vms.into()),
    metric(Gauge, "allocated_vcpus", "vCPUs of running VMs", |s| s.allocation.vcpus.into()),
    metric(Gauge, "allocated_memory_bytes", "Memory promised to running VMs", |s| float(s.allocation.memory_bytes)),
    metric(Gauge, "sampled", "1 after the first sample", |s| f64::from(u8::from(s.node.memory_total_bytes > 0))),
];

const VM: [Metric<VmReading>; 10] = [
    metric(Counter, "vm_cpu_seconds", "Time on CPUs since the VM's start", |vm| secs(vm.cpu)),
    metric(Gauge, "vm_memory_bytes", "Memory of the VM's process", |vm| float(vm.memory_bytes)),
    metric(Counter, "vm_disk_read_bytes", "Bytes read", |vm| float(vm.disk.in_bytes)),
    metric(Counter, "vm_disk_written_bytes", "Bytes written", |vm| float(vm.disk.out_bytes)),
    metric(Counter, "vm_disk_reads", "Reads", |vm| float(vm.disk.in_operations)),
    metric(Counter, "vm_disk_writes", "Writes", |vm| float(vm.disk.out_operations)),
    metric(Counter, "vm_network_received_bytes", "Bytes that the guest received", |vm| float(vm.network.in_bytes)),
    metric(Counter, "vm_network_transmitted_bytes", "Bytes that the guest sent", |vm| float(vm.network.out_bytes)),
    metric(Counter, "vm_network_received_packets", "Packets that the guest received", |vm| {
        float(vm.network.in_operations)
    }),
    metric(Counter, "vm_network_transmitted_packets", "Packets that the guest sent", |vm| {
        float(vm.network.out_operations)
    }),
];

#[allow(clippy::cast_precision_loss)] // Prometheus has floats only.
fn float(value: u64) -> f64 {
    value as f64
}

fn secs(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A kernel that does not tell of pressure has none to tell of.
fn wait(pressure: Option<Duration>) -> f64 {
    pressure.map_or(0.0, secs)
}

/// Writes tables of the last sample.
struct Sampled(Arc<Mutex<Snapshot>>);

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampled")
    }
}

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = lock(&self.0).clone();
        for metric in &NODE {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            let value = (metric.value)(&snapshot);
            match metric.kind {
                Counter => ConstCounter::new(value).encode(family)?,
                _ => family.encode_gauge(&value)?,
            }
        }
        for metric in &VM {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for vm in &snapshot.vms {
                let labels = [("vm", vm.name.as_str()), ("id", vm.id.as_str())];
                let one = family.encode_family(&labels)?;
                match metric.kind {
                    Counter => ConstCounter::new((metric.value)(vm)).encode(one)?,
                    _ => ConstGauge::new((metric.value)(vm)).encode(one)?,
                }
            }
        }
        Ok(())
    }
}

/// A registry with the tables above; rooms add to it.
pub(super) fn registry(latest: Arc<Mutex<Snapshot>>) -> Registry {
    let mut registry = Registry::with_prefix("quantix");
    registry.register("build", "The node daemon", Info::new(vec![("version", crate::daemon::VERSION)]));
    registry.register_collector(Box::new(Sampled(latest)));
    registry
}
