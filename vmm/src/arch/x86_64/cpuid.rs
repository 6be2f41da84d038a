//! What CPUID tells the guest: what KVM supports, with the VM's own topology (Intel SDM volume 2A, AMD APM volume 3).
//!
//! Nothing is assumed about the host's vendor: leaves are edited where they exist.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Bits of leaf 1.
const ECX_MONITOR: u32 = 1 << 3;
const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
/// Line size that is told when the host's makes no sense (seen under emulation).
const CACHE_LINE: u32 = 64;

/// How the VM's vCPUs are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Cores in a socket.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Topology {
    /// One socket, one thread a core.
    pub fn flat(cpus: u32) -> Self {
        Self { sockets: 1, cores: cpus, threads: 1 }
    }

    fn cpus_per_socket(self) -> u32 {
        self.cores.saturating_mul(self.threads).max(1)
    }

    /// The APIC id of vCPU `index`: thread, core and socket each in a bit field as wide as it needs.
    pub fn apic_id(self, index: u32) -> u32 {
        let threads = self.threads.max(1);
        let (thread, core) = (index % threads, index / threads % self.cores.max(1));
        let socket = index / self.cpus_per_socket();
        socket << self.socket_shift() | core << bits(threads) | thread
    }

    fn socket_shift(self) -> u32 {
        bits(self.threads) + bits(self.cores)
    }
}

/// Bits that number `count` things.
fn bits(count: u32) -> u32 {
    u32::BITS - count.max(1).saturating_sub(1).leading_zeros()
}

/// Bits of a guest-physical address (leaf 0x80000008); 36 when the leaf is not there.
pub fn address_bits(supported: &CpuId) -> u8 {
    let leaf = supported.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(36, |entry| entry.eax as u8)
}

/// CPUID of one vCPU. `supported` is KVM's list.
pub fn for_vcpu(supported: &CpuId, topology: Topology, index: u32, tsc_deadline: bool) -> CpuId {
    let apic_id = topology.apic_id(index);
    let mut entries: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    let max_leaf = entries.iter().filter(|e| e.function == 0).map(|e| e.eax).max().unwrap_or(0);
    // Topology leaves are the VM's own.
    entries.retain(|e| !matches!(e.function, 0xb | 0x1f));
    for entry in &mut entries {
        edit(entry, topology, apic_id, tsc_deadline);
    }
    if max_leaf >= 0xb {
        entries.extend(topology_leaf(0xb, topology, apic_id));
    }
    if max_leaf >= 0x1f {
        entries.extend(topology_leaf(0x1f, topology, apic_id));
    }
    // The list is KVM's own plus a few entries: far below KVM_MAX_CPUID_ENTRIES.
    CpuId::from_entries(&entries).unwrap_or_else(|_| supported.clone())
}

fn edit(entry: &mut kvm_cpuid_entry2, topology: Topology, apic_id: u32, tsc_deadline: bool) {
    let in_socket = topology.cpus_per_socket();
    match entry.function {
        0x1 => {
            entry.ebx &= 0x0000_ffff;
            entry.ebx = entry.ebx & !0xff00 | (CACHE_LINE / 8) << 8 | in_socket.min(255) << 16 | (apic_id & 0xff) << 24;
            entry.ecx = entry.ecx & !ECX_MONITOR | ECX_X2APIC | ECX_HYPERVISOR;
            if tsc_deadline {
                entry.ecx |= ECX_TSC_DEADLINE;
            }
            entry.edx = if in_socket > 1 { entry.edx | EDX_HTT } else { entry.edx & !EDX_HTT };
        }
        0x4 | 0x8000_001d => edit_cache(entry, topology),
        // AMD: the same facts, extended leaves.
        0x8000_0008 => {
            let id_bits = topology.socket_shift();
            entry.ecx = entry.ecx & !0xf0ff | id_bits.min(15) << 12 | in_socket.saturating_sub(1).min(255);
        }
        0x8000_001e => {
            entry.eax = apic_id;
            entry.ebx = topology.threads.saturating_sub(1) << 8 | apic_id >> bits(topology.threads) & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Deterministic cache parameters (leaf 4, AMD 0x8000001d): sharing follows the VM's topology; a nonsensical line size is
/// put right.
fn edit_cache(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let kind = entry.eax & 0x1f;
    if kind == 0 {
        return;
    }
    let level = entry.eax >> 5 & 7;
    let sharing = if level >= 3 { topology.cpus_per_socket() } else { topology.threads };
    entry.eax &= 0x3fff;
    entry.eax |= sharing.max(1).saturating_sub(1).min(0xfff) << 14;
    if entry.function == 4 {
        entry.eax |= topology.cores.max(1).saturating_sub(1).min(0x3f) << 26;
    }
    let line = (entry.ebx & 0xfff) + 1;
    if !line.is_power_of_two() || line > 256 {
        entry.ebx = entry.ebx & !0xfff | (CACHE_LINE - 1);
    }
}

/// Extended topology (leaves 0xb and 0x1f): thread level, core level, end.
fn topology_leaf(function: u32, topology: Topology, apic_id: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: apic_id,
        ..Default::default()
    };
    [
        level(0, bits(topology.threads), topology.threads, 1),
        level(1, topology.socket_shift(), topology.cpus_per_socket(), 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, values: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = values;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    #[test]
    fn apic_ids_have_a_bit_field_for_each_level() {
        let topology = Topology { sockets: 2, cores: 3, threads: 2 };
        let ids: Vec<_> = (0..12).map(|i| topology.apic_id(i)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
        assert_eq!((0..4).map(|i| Topology::flat(4).apic_id(i)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn every_vcpu_has_its_own_id_in_every_leaf() {
        let supported = CpuId::from_entries(&[
            entry(0, 0, [0x1f, 0, 0, 0]),
            entry(1, 0, [0, 0x0102_0800, 0, 0]),
            entry(0xb, 0, [9, 9, 9, 9]),
            entry(0x8000_001e, 0, [9, 9, 9, 9]),
        ])
        .unwrap();
        for index in 0..8 {
            let cpuid = for_vcpu(&supported, Topology { sockets: 2, cores: 2, threads: 2 }, index, true);
            let find = |function| cpuid.as_slice().iter().find(|e| e.function == function).unwrap();
            assert_eq!(find(1).ebx >> 24, index);
            assert_eq!(find(0xb).edx, index);
            assert_eq!(find(0x1f).edx, index);
            assert_eq!(find(0x8000_001e).eax, index);
            assert_ne!(find(1).ecx & ECX_TSC_DEADLINE, 0);
            assert_ne!(find(1).ecx & ECX_HYPERVISOR, 0);
        }
    }

    #[test]
    fn a_senseless_cache_line_is_put_right() {
        let mut cache = entry(4, 0, [0x21, 2696, 0, 0]);
        edit_cache(&mut cache, Topology::flat(1));
        assert_eq!((cache.ebx & 0xfff) + 1, 64);
    }
}
