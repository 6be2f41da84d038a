//! What there is for VMs: CPUs, memory, huge pages, NUMA nodes. Any task.

use super::procfs;
use super::roots::Roots;
use crate::model::vm::CpuSet;

/// What there is for VMs. What is promised of it is the business of `vm/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPUs that are online.
    pub cpus: CpuSet,
    /// All memory that the kernel has, in bytes.
    pub memory_bytes: u64,
    /// What the kernel says is available now, in bytes.
    pub memory_available_bytes: u64,
    /// A pool for each page size.
    pub huge_pages: Vec<HugePool>,
    /// NUMA nodes; at least one.
    pub numa_nodes: Vec<NumaNode>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePool {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Of these, unused now.
    pub free: u64,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Of that, unused now.
    pub memory_free_bytes: u64,
}

pub(super) fn read(roots: &Roots) -> Capacity {
    let meminfo = roots.read_proc("meminfo").unwrap_or_default();
    let cpus = cpu_set(&roots.line_sys("devices/system/cpu/online"));
    let memory_bytes = procfs::memory(&meminfo, "MemTotal:");
    let mut numa_nodes: Vec<NumaNode> = roots
        .list_sys("devices/system/node")
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .map(|id| node(roots, id))
        .collect();
    numa_nodes.sort_by_key(|node| node.id);
    if numa_nodes.is_empty() {
        // A kernel without NUMA: one node that has everything.
        let memory_free_bytes = procfs::memory(&meminfo, "MemFree:");
        numa_nodes.push(NumaNode { id: 0, cpus: cpus.clone(), memory_bytes, memory_free_bytes });
    }
    Capacity {
        cpus,
        memory_bytes,
        memory_available_bytes: procfs::memory(&meminfo, "MemAvailable:"),
        huge_pages: huge_pages(roots),
        numa_nodes,
    }
}

fn node(roots: &Roots, id: u32) -> NumaNode {
    let directory = format!("devices/system/node/node{id}");
    let meminfo = roots.read_sys(&format!("{directory}/meminfo")).unwrap_or_default();
    NumaNode {
        id,
        cpus: cpu_set(&roots.line_sys(&format!("{directory}/cpulist"))),
        memory_bytes: procfs::memory(&meminfo, "MemTotal:"),
        memory_free_bytes: procfs::memory(&meminfo, "MemFree:"),
    }
}

fn huge_pages(roots: &Roots) -> Vec<HugePool> {
    let mut pools: Vec<HugePool> = roots
        .list_sys("kernel/mm/hugepages")
        .iter()
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let number = |file| roots.number_sys(&format!("kernel/mm/hugepages/{name}/{file}")).unwrap_or(0);
            Some(HugePool { page_bytes: kib * 1024, total: number("nr_hugepages"), free: number("free_hugepages") })
        })
        .collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    pools
}

/// The kernel's list of CPUs; a memory-only node has none.
fn cpu_set(list: &str) -> CpuSet {
    if list.is_empty() {
        return CpuSet::default();
    }
    list.parse().unwrap_or_else(|error| {
        tracing::warn!("The kernel lists CPUs as \"{list}\", which cannot be read: {error}");
        CpuSet::default()
    })
}
