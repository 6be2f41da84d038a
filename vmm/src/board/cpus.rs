//! APIC ids of vCPUs, from their place in the topology.
//!
//! Pure arithmetic, main thread. It must not write CPUID: `arch/` does, with the widths given here.

/// Numbers of bits and ids that CPUID leaves 0xb and 0x1f and the MADT must agree on (Intel SDM volume 3 section 10.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuIds {
    count: u8,
    cores: u8,
    threads: u8,
}

impl CpuIds {
    /// Ids for `count` vCPUs of `cores` a socket and `threads` a core; a zero counts as one.
    pub fn new(count: u8, cores: u8, threads: u8) -> Self {
        Self { count: count.max(1), cores: cores.max(1), threads: threads.max(1) }
    }

    /// Number of vCPUs.
    pub fn count(self) -> u8 {
        self.count
    }

    /// Cores in a socket.
    pub fn cores(self) -> u32 {
        self.cores.into()
    }

    /// Threads in a core.
    pub fn threads(self) -> u32 {
        self.threads.into()
    }

    /// vCPUs in a socket.
    pub fn cpus_per_socket(self) -> u32 {
        self.cores() * self.threads()
    }

    /// Bits of an id that number the thread in its core.
    pub fn thread_bits(self) -> u32 {
        bits(self.threads)
    }

    /// Bits of an id that number thread and core in the socket.
    pub fn socket_shift(self) -> u32 {
        self.thread_bits() + bits(self.cores)
    }

    /// APIC id of vCPU `index`: socket, core and thread, each in its own bits. It can exceed 254 for odd topologies.
    pub fn apic_id(self, index: u8) -> u32 {
        let per_socket = u32::from(self.cores) * u32::from(self.threads);
        let index = u32::from(index);
        let (socket, inside) = (index / per_socket, index % per_socket);
        let (core, thread) = (inside / u32::from(self.threads), inside % u32::from(self.threads));
        (socket << self.socket_shift()) | (core << self.thread_bits()) | thread
    }
}

/// Bits that number `count` things.
fn bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_a_field_for_each_level() {
        // (count, cores, threads), vCPU, APIC id
        let table = [
            ((1, 1, 1), 0, 0),
            ((128, 128, 1), 127, 127),
            ((12, 3, 2), 5, 0b0_101),
            ((12, 3, 2), 6, 0b1_000),
            ((125, 5, 5), 124, 0b100_100_100),
        ];
        for ((count, cores, threads), cpu, id) in table {
            assert_eq!(CpuIds::new(count, cores, threads).apic_id(cpu), id, "{count} {cores} {threads}");
        }
    }

    #[test]
    fn ids_are_unique_in_every_topology() {
        for cores in 1..=12 {
            for threads in 1..=4 {
                let ids = CpuIds::new(128, cores, threads);
                let all: std::collections::HashSet<_> = (0..128).map(|cpu| ids.apic_id(cpu)).collect();
                assert_eq!(all.len(), 128);
            }
        }
    }
}
