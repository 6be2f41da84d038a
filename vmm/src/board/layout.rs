//! The layout of one machine: RAM around the hole, windows for PCI, the memory map that the guest is told.
//!
//! Pure arithmetic, main thread. It must not map anything: `memory/` and `kvm/` do.

use super::map::{
    ACPI_START, EBDA_END, EBDA_START, ECAM_LEN, ECAM_START, GIB, HIGH_LOAD, HIGH_RAM_START, KVM_IDENTITY_MAP,
    KVM_PAGES_END, LOW_RAM_END, MIB, MMIO32_LEN, MMIO32_START, MMIO64_LEN,
};

/// Why a machine cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// RAM ends above what the CPU can address.
    #[error(
        "Memory would end at {end:#x}, but this CPU has {address_bits} bits of physical address; give the guest less memory"
    )]
    TooMuchMemory {
        /// First address after RAM.
        end: u64,
        /// Bits of a physical address.
        address_bits: u8,
    },
    /// Less RAM than the fixed structures need.
    #[error("Memory of {size_bytes} bytes is too little; a machine needs 2 MiB")]
    TooLittleMemory {
        /// The size, in bytes.
        size_bytes: u64,
    },
    /// The nodes do not add up.
    #[error("The NUMA nodes have {nodes} bytes of memory, the machine has {size_bytes}")]
    Nodes {
        /// Sum over the nodes, in bytes.
        nodes: u64,
        /// The machine's, in bytes.
        size_bytes: u64,
    },
}

/// One NUMA node, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeShape {
    /// Memory of the node, in bytes.
    pub size_bytes: u64,
    /// First vCPU of the node.
    pub first_cpu: u8,
    /// Last vCPU of the node.
    pub last_cpu: u8,
    /// Distance to every node, in node order.
    pub distances: Vec<u8>,
}

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub start: u64,
    /// Length in bytes; never zero.
    pub size_bytes: u64,
}

impl Window {
    /// First address after the range.
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.size_bytes)
    }
}

/// A piece of RAM that belongs to one NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumaRange {
    /// Index of the node.
    pub node: u32,
    /// The piece.
    pub range: Window,
}

/// What a range of the memory map is, with the numbers of e820 (ACPI 6.5 section 15.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// Free for the guest.
    Ram = 1,
    /// Not for the guest.
    Reserved = 2,
}

/// One range of the memory map. PVH numbers the kinds in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E820Entry {
    /// The range.
    pub range: Window,
    /// What it is.
    pub kind: E820Kind,
}

/// Where everything of one machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// APIC id of each vCPU.
    pub apic_ids: Vec<u32>,
    /// RAM, ascending: below the hole, and above 4 GiB if there is more.
    pub ram: Vec<Window>,
    /// RAM by node, ascending; empty without nodes.
    pub numa_ranges: Vec<NumaRange>,
    /// The nodes as they were asked for.
    pub nodes: Vec<NodeShape>,
    /// PCI memory window below 4 GiB.
    pub pci_32: Window,
    /// PCI memory window above RAM; absent when the CPU addresses nothing there.
    pub pci_64: Option<Window>,
}

impl Layout {
    /// Lays out `ram_bytes` (a multiple of 4 KiB) for a CPU with `address_bits` bits of physical address.
    pub fn new(
        ram_bytes: u64,
        apic_ids: Vec<u32>,
        nodes: Vec<NodeShape>,
        address_bits: u8,
    ) -> Result<Self, LayoutError> {
        if ram_bytes < 2 * MIB {
            return Err(LayoutError::TooLittleMemory { size_bytes: ram_bytes });
        }
        let ram = ram(ram_bytes);
        let end = ram.last().map_or(0, |last| last.end());
        let limit = 1_u64.checked_shl(u32::from(address_bits)).unwrap_or(u64::MAX);
        if end > limit || end == u64::MAX {
            return Err(LayoutError::TooMuchMemory { end, address_bits });
        }
        let numa_ranges = numa_ranges(&ram, &nodes, ram_bytes)?;
        let pci_32 = Window { start: MMIO32_START, size_bytes: MMIO32_LEN };
        Ok(Self { apic_ids, ram, numa_ranges, nodes, pci_32, pci_64: pci_64(end, limit) })
    }

    /// The memory map, ascending and without overlaps.
    pub fn e820(&self) -> Vec<E820Entry> {
        use E820Kind::{Ram, Reserved};

        let entry = |start, end: u64, kind| E820Entry { range: Window { start, size_bytes: end - start }, kind };
        let mut map = vec![
            entry(0, EBDA_START, Ram),
            entry(EBDA_START, EBDA_END, Reserved),
            entry(ACPI_START, HIGH_LOAD, Reserved),
        ];
        let low = |range: &&Window| range.start < HIGH_RAM_START;
        map.extend(self.ram.iter().filter(low).map(|range| entry(HIGH_LOAD, range.end(), Ram)));
        // Linux uses ECAM before it reads the DSDT only if the map reserves it.
        map.push(entry(ECAM_START, ECAM_START + ECAM_LEN, Reserved));
        map.push(entry(KVM_IDENTITY_MAP, KVM_PAGES_END, Reserved));
        map.extend(self.ram.iter().filter(|range| !low(range)).map(|range| entry(range.start, range.end(), Ram)));
        map
    }
}

fn ram(size_bytes: u64) -> Vec<Window> {
    let low = size_bytes.min(LOW_RAM_END);
    let mut ram = vec![Window { start: 0, size_bytes: low }];
    if size_bytes > low {
        ram.push(Window { start: HIGH_RAM_START, size_bytes: size_bytes - low });
    }
    ram
}

/// The window starts at the first GiB after RAM and 4 GiB, and ends where addresses do.
fn pci_64(ram_end: u64, limit: u64) -> Option<Window> {
    let start = ram_end.max(HIGH_RAM_START).checked_next_multiple_of(GIB)?;
    let size_bytes = limit.checked_sub(start)?.min(MMIO64_LEN);
    (size_bytes >= GIB).then_some(Window { start, size_bytes })
}

/// Deals RAM out to the nodes in order; a node that meets the hole gets a piece on either side.
fn numa_ranges(ram: &[Window], nodes: &[NodeShape], size_bytes: u64) -> Result<Vec<NumaRange>, LayoutError> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let sum = nodes.iter().fold(0_u64, |sum, node| sum.saturating_add(node.size_bytes));
    if sum != size_bytes {
        return Err(LayoutError::Nodes { nodes: sum, size_bytes });
    }
    let mut left = ram.iter().copied();
    let mut free = left.next();
    let mut dealt = Vec::new();
    for (node, shape) in (0_u32..).zip(nodes) {
        let mut wanted = shape.size_bytes;
        while let Some(range) = free.filter(|_| wanted > 0) {
            let taken = wanted.min(range.size_bytes);
            dealt.push(NumaRange { node, range: Window { start: range.start, size_bytes: taken } });
            wanted -= taken;
            let rest = Window { start: range.start + taken, size_bytes: range.size_bytes - taken };
            free = if rest.size_bytes == 0 { left.next() } else { Some(rest) };
        }
    }
    Ok(dealt)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(ram_bytes: u64, address_bits: u8) -> Result<Layout, LayoutError> {
        Layout::new(ram_bytes, vec![0], Vec::new(), address_bits)
    }

    fn window(start: u64, size_bytes: u64) -> Window {
        Window { start, size_bytes }
    }

    #[test]
    fn ram_goes_around_the_hole_and_the_window_above_it() {
        // RAM, address bits, RAM ranges, window above
        let table = [
            (256 * MIB, 46, vec![window(0, 256 * MIB)], Some(window(4 * GIB, 64 * GIB))),
            (3 * GIB, 46, vec![window(0, 3 * GIB)], Some(window(4 * GIB, 64 * GIB))),
            (3 * GIB + 4096, 46, vec![window(0, 3 * GIB), window(4 * GIB, 4096)], Some(window(5 * GIB, 64 * GIB))),
            (6 * GIB, 36, vec![window(0, 3 * GIB), window(4 * GIB, 3 * GIB)], Some(window(7 * GIB, 57 * GIB))),
            (63 * GIB, 36, vec![window(0, 3 * GIB), window(4 * GIB, 60 * GIB)], None),
        ];
        for (size, bits, ram, pci_64) in table {
            let layout = layout(size, bits).unwrap();
            assert_eq!((layout.ram, layout.pci_64), (ram, pci_64), "{size:#x}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let end = 65 * GIB;
        assert_eq!(layout(64 * GIB, 36), Err(LayoutError::TooMuchMemory { end, address_bits: 36 }));
        assert_eq!(layout(MIB, 46), Err(LayoutError::TooLittleMemory { size_bytes: MIB }));
    }

    #[test]
    fn a_node_across_the_hole_has_two_pieces() {
        let node = |size_bytes, cpu| NodeShape { size_bytes, first_cpu: cpu, last_cpu: cpu, distances: vec![10, 20] };
        let nodes = vec![node(2 * GIB, 0), node(4 * GIB, 1)];
        let layout = Layout::new(6 * GIB, vec![0, 1], nodes, 46).unwrap();
        let wanted = [
            NumaRange { node: 0, range: window(0, 2 * GIB) },
            NumaRange { node: 1, range: window(2 * GIB, GIB) },
            NumaRange { node: 1, range: window(4 * GIB, 3 * GIB) },
        ];
        assert_eq!(layout.numa_ranges, wanted);
    }

    proptest! {
        #[test]
        fn the_memory_map_is_ordered_and_covers_ram(pages in 512_u64..1 << 28) {
            let layout = layout(pages * 4096, 46).unwrap();
            let map = layout.e820();
            prop_assert!(map.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start));
            let ram: u64 = map.iter().filter(|e| e.kind == E820Kind::Ram).map(|e| e.range.size_bytes).sum();
            prop_assert_eq!(ram, pages * 4096 - (HIGH_LOAD - EBDA_START));
            let window = layout.pci_64.unwrap();
            prop_assert!(map.last().unwrap().range.end() <= window.start || map.last().unwrap().range.end() <= 4 * GIB);
        }
    }
}
