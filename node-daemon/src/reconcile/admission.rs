//! Whether a VM fits beside those that run: a pure function over what the node has and what it has promised.
//!
//! - **CPU time is overcommitted**: the vCPUs of unpinned VMs may be [`Policy::cpu_overcommit`] times the CPUs that are not
//!   pinned away. The kernel shares CPU time by weight, so the bound is there against runaway automation, not as a promise
//!   of speed.
//! - **Pinning is not**: every pinned vCPU has a host CPU that no other pinned vCPU has.
//! - **Memory is not**: guest memory and the VMM's [`overhead`], less what the host keeps for itself.
//! - **Huge pages are not**: they come from the pool of their size, and only what is free there now.
//! - **NUMA is not**: VMs that are pinned into some nodes have their memory there, and it must fit there together.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::model::vm::{CpuSet, VmSpec};

const MIB: u64 = 1 << 20;

/// What the node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPUs that are online.
    pub cpus: CpuSet,
    /// All memory, in bytes.
    pub memory_bytes: u64,
    /// Pools of huge pages.
    pub huge_pages: Vec<HugePool>,
    /// NUMA nodes.
    pub nodes: Vec<Node>,
}

/// A pool of huge pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePool {
    /// Size of a page in bytes.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Of these, unused now.
    pub free: u64,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

/// How the node is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// vCPUs for each CPU.
    pub cpu_overcommit: u32,
    /// Memory that the host keeps for itself, in bytes.
    pub host_memory_bytes: u64,
}

impl Policy {
    /// 128 vCPUs a CPU; 256 MiB and a thirty-second of all memory for the host.
    pub fn of(capacity: &Capacity) -> Self {
        Self { cpu_overcommit: 128, host_memory_bytes: 256 * MIB + capacity.memory_bytes / 32 }
    }
}

/// What is promised to one VM while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Its vCPUs.
    pub vcpus: u32,
    /// The host CPUs that it is pinned to.
    pub pinning: Option<CpuSet>,
    /// Ordinary memory: overhead, and guest memory when it is not in huge pages.
    pub memory_bytes: u64,
    /// Size of its huge pages, and how many.
    pub huge_pages: Option<(u64, u64)>,
}

impl Demand {
    /// What a VM of this spec needs.
    pub fn of(spec: &VmSpec) -> Self {
        let guest = spec.memory.size_bytes;
        let huge_pages = spec.memory.huge_pages.page_bytes().map(|page| (page, guest.div_ceil(page)));
        let ordinary = if huge_pages.is_some() { 0 } else { guest };
        Self {
            vcpus: spec.cpus.count,
            pinning: spec.cpus.pinning.clone(),
            memory_bytes: ordinary + overhead(spec),
            huge_pages,
        }
    }
}

/// What a VM takes beyond guest memory, in bytes, generously: the VMM, 1 MiB a vCPU for its thread and KVM's part, 1 MiB a
/// device for rings and buffers, and page tables for guest memory (two times 1/512).
pub fn overhead(spec: &VmSpec) -> u64 {
    let devices = (spec.disks.len() + spec.nics.len()) as u64;
    (8 + u64::from(spec.cpus.count) + devices) * MIB + spec.memory.size_bytes / 256
}

/// Why a VM does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Shortage {
    /// Too many vCPUs.
    #[error("{vcpus} vCPUs are too many: {free} of {limit} are left ({cpus} CPUs, {overcommit} vCPUs each)")]
    Vcpus {
        /// Asked for.
        vcpus: u32,
        /// Left.
        free: u64,
        /// In all.
        limit: u64,
        /// Host CPUs that are not pinned away.
        cpus: u64,
        /// vCPUs for each.
        overcommit: u32,
    },
    /// Pinned to CPUs that are not there.
    #[error("it is pinned to the CPUs {pinning}, but this node has {cpus}")]
    NoSuchCpu {
        /// What was asked for.
        pinning: CpuSet,
        /// What is there.
        cpus: CpuSet,
    },
    /// More pinned vCPUs than CPUs.
    #[error("its {vcpus} vCPUs do not fit on the CPUs {pinning} beside the VMs that are pinned there")]
    Pinned {
        /// Asked for.
        vcpus: u32,
        /// Where.
        pinning: CpuSet,
    },
    /// Not enough memory.
    #[error(
        "it needs {need} MiB of memory, and {free} MiB of {total} MiB are not promised to VMs or kept for the host"
    )]
    Memory {
        /// Asked for, overhead included.
        need: u64,
        /// Left.
        free: u64,
        /// What there is for VMs.
        total: u64,
    },
    /// Not enough huge pages.
    #[error("it needs {need} huge pages of {page_mib} MiB, and {free} are left; set more aside in vm.nr_hugepages")]
    HugePages {
        /// Asked for.
        need: u64,
        /// Size.
        page_mib: u64,
        /// Left.
        free: u64,
    },
    /// Not enough memory near the CPUs.
    #[error("the NUMA nodes {nodes:?} that it is pinned to have {free} MiB left, and it needs {need} MiB")]
    NodeMemory {
        /// Which nodes.
        nodes: Vec<u32>,
        /// Asked for.
        need: u64,
        /// Left.
        free: u64,
    },
}

/// Whether `wanted` fits beside `promised`.
///
/// # Errors
/// The first [`Shortage`] that was found.
pub fn admit(capacity: &Capacity, policy: Policy, promised: &[Demand], wanted: &Demand) -> Result<(), Shortage> {
    memory(capacity, policy, promised, wanted)?;
    huge_pages(capacity, promised, wanted)?;
    cpus(capacity, policy, promised, wanted)?;
    node_memory(capacity, promised, wanted)
}

fn memory(capacity: &Capacity, policy: Policy, promised: &[Demand], wanted: &Demand) -> Result<(), Shortage> {
    let in_huge_pages: u64 = capacity.huge_pages.iter().map(|pool| pool.page_bytes * pool.total).sum();
    let total = capacity.memory_bytes.saturating_sub(in_huge_pages).saturating_sub(policy.host_memory_bytes);
    let free = total.saturating_sub(promised.iter().map(|demand| demand.memory_bytes).sum());
    if wanted.memory_bytes <= free {
        return Ok(());
    }
    Err(Shortage::Memory { need: wanted.memory_bytes.div_ceil(MIB), free: free / MIB, total: total / MIB })
}

fn huge_pages(capacity: &Capacity, promised: &[Demand], wanted: &Demand) -> Result<(), Shortage> {
    let Some((page_bytes, need)) = wanted.huge_pages else { return Ok(()) };
    let pool = capacity.huge_pages.iter().find(|pool| pool.page_bytes == page_bytes);
    let taken: u64 =
        promised.iter().filter_map(|demand| demand.huge_pages).filter(|p| p.0 == page_bytes).map(|p| p.1).sum();
    // A page that is promised and not touched yet still counts as free in the pool; one that somebody else took does not.
    let free = pool.map_or(0, |pool| pool.total.saturating_sub(taken).min(pool.free));
    if need <= free { Ok(()) } else { Err(Shortage::HugePages { need, page_mib: page_bytes / MIB, free }) }
}

fn cpus(capacity: &Capacity, policy: Policy, promised: &[Demand], wanted: &Demand) -> Result<(), Shortage> {
    let pinned_vcpus: u64 =
        promised.iter().filter(|demand| demand.pinning.is_some()).map(|demand| u64::from(demand.vcpus)).sum();
    let Some(pinning) = &wanted.pinning else {
        let cpus = (capacity.cpus.len() as u64).saturating_sub(pinned_vcpus);
        let limit = cpus * u64::from(policy.cpu_overcommit);
        let taken: u64 =
            promised.iter().filter(|demand| demand.pinning.is_none()).map(|demand| u64::from(demand.vcpus)).sum();
        let free = limit.saturating_sub(taken);
        if u64::from(wanted.vcpus) <= free {
            return Ok(());
        }
        return Err(Shortage::Vcpus { vcpus: wanted.vcpus, free, limit, cpus, overcommit: policy.cpu_overcommit });
    };
    if !pinning.iter().all(|cpu| capacity.cpus.contains(cpu)) {
        return Err(Shortage::NoSuchCpu { pinning: pinning.clone(), cpus: capacity.cpus.clone() });
    }
    let sets = promised.iter().chain([wanted]).filter_map(|demand| Some((demand.vcpus, demand.pinning.as_ref()?)));
    let vcpus: Vec<&CpuSet> = sets.flat_map(|(vcpus, set)| std::iter::repeat_n(set, vcpus as usize)).collect();
    if each_has_a_cpu_of_its_own(&vcpus) {
        Ok(())
    } else {
        Err(Shortage::Pinned { vcpus: wanted.vcpus, pinning: pinning.clone() })
    }
}

/// Whether each of these can be given a CPU of its set that no other has: a matching, by augmenting paths.
fn each_has_a_cpu_of_its_own(vcpus: &[&CpuSet]) -> bool {
    fn place(vcpu: usize, vcpus: &[&CpuSet], owner: &mut BTreeMap<u32, usize>, tried: &mut BTreeSet<u32>) -> bool {
        for cpu in vcpus.get(vcpu).into_iter().flat_map(|set| set.iter()) {
            if !tried.insert(cpu) {
                continue;
            }
            let free = match owner.get(&cpu).copied() {
                None => true,
                Some(other) => place(other, vcpus, owner, tried),
            };
            if free {
                owner.insert(cpu, vcpu);
                return true;
            }
        }
        false
    }
    let mut owner = BTreeMap::new();
    (0..vcpus.len()).all(|vcpu| place(vcpu, vcpus, &mut owner, &mut BTreeSet::new()))
}

/// The nodes that a VM is pinned into, when that is not all of them.
fn nodes_of(capacity: &Capacity, demand: &Demand) -> Option<BTreeSet<u32>> {
    let pinning = demand.pinning.as_ref()?;
    let touched = |node: &&Node| pinning.iter().any(|cpu| node.cpus.contains(cpu));
    let nodes: BTreeSet<u32> = capacity.nodes.iter().filter(touched).map(|node| node.id).collect();
    (nodes.len() < capacity.nodes.len()).then_some(nodes)
}

/// For every set of nodes that contains what is wanted, the VMs that must live inside it have to fit into it. With few
/// nodes all sets are looked at; with many, the unions of what VMs ask for.
fn node_memory(capacity: &Capacity, promised: &[Demand], wanted: &Demand) -> Result<(), Shortage> {
    let Some(own) = nodes_of(capacity, wanted) else { return Ok(()) };
    let others: Vec<(BTreeSet<u32>, u64)> =
        promised.iter().filter_map(|demand| Some((nodes_of(capacity, demand)?, demand.memory_bytes))).collect();
    let mut sets: BTreeSet<BTreeSet<u32>> = BTreeSet::from([own.clone()]);
    for (nodes, _) in &others {
        let unions: Vec<_> = sets.iter().map(|set| set | nodes).collect();
        // The bound keeps this small on a machine with very many nodes; a set that is left out is one that admits.
        if sets.len() < 4096 {
            sets.extend(unions);
        }
    }
    for set in sets {
        let all: u64 = capacity.nodes.iter().filter(|n| set.contains(&n.id)).map(|n| n.memory_bytes).sum();
        let taken: u64 = others.iter().filter(|(nodes, _)| nodes.is_subset(&set)).map(|(_, bytes)| bytes).sum();
        let free = all.saturating_sub(taken);
        if wanted.memory_bytes > free {
            return Err(Shortage::NodeMemory {
                nodes: set.into_iter().collect(),
                need: wanted.memory_bytes.div_ceil(MIB),
                free: free / MIB,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
