//! The few facts the payload wants from ACPI: configuration space, how to power off and reset, which CPUs there are.
//!
//! Pure: tables are read through [`PhysicalMemory`]. Nothing here interprets AML; the sleep type of S5 is found by its
//! name, as small kernels do.

/// Read access to guest-physical memory.
pub trait PhysicalMemory {
    /// The `length` bytes at `address`, or `None` where nothing may be read.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

/// A register of the fixed hardware, from a Generic Address Structure or a legacy port field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A byte in memory.
    Memory(u64),
}

/// How S5 is entered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PowerOff {
    /// Where to write.
    pub register: Register,
    /// What to write.
    pub value: u16,
    /// Whether it is the two bytes of `PM1_CNT` or the one of `SLEEP_CONTROL_REG`.
    pub wide: bool,
}

/// Most CPUs whose ids are kept.
pub const MOST_CPUS: usize = 32;

/// What was found; everything may be missing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Acpi {
    /// Base of the enhanced configuration access window of bus 0.
    pub ecam: Option<u64>,
    /// How to power off.
    pub power_off: Option<PowerOff>,
    /// Reset register and the value for it.
    pub reset: Option<(Register, u8)>,
    /// Local APIC ids of usable CPUs.
    pub cpus: [Option<u32>; MOST_CPUS],
}

/// Looks for the root pointer where PC firmware leaves it.
pub fn find_root_pointer(memory: &impl PhysicalMemory) -> Option<u64> {
    (0xe_0000..0x10_0000).step_by(16).find(|address| memory.bytes(*address, 8) == Some(b"RSD PTR "))
}

/// Reads what `root_pointer` leads to. Tables that make no sense are as good as absent.
pub fn read(memory: &impl PhysicalMemory, root_pointer: u64) -> Acpi {
    let mut acpi = Acpi::default();
    let Some((root, wide)) = root_table(memory, root_pointer) else {
        return acpi;
    };
    let entries = root.get(36..).unwrap_or_default().chunks_exact(if wide { 8 } else { 4 });
    for table in entries.filter_map(|entry| table(memory, little_endian(entry))) {
        match table.get(..4) {
            Some(b"MCFG") => acpi.ecam = number(table, 44, 8),
            Some(b"FACP") => read_fadt(memory, table, &mut acpi),
            Some(b"APIC") => read_madt(table, &mut acpi.cpus),
            _ => {}
        }
    }
    acpi
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn number(table: &[u8], offset: usize, size: usize) -> Option<u64> {
    table.get(offset..offset + size).map(little_endian)
}

fn root_table(memory: &impl PhysicalMemory, root_pointer: u64) -> Option<(&[u8], bool)> {
    let pointer = memory.bytes(root_pointer, 36)?;
    let xsdt = if pointer.get(15).is_some_and(|revision| *revision >= 2) { number(pointer, 24, 8)? } else { 0 };
    match xsdt {
        0 => Some((table(memory, number(pointer, 16, 4)?)?, false)),
        xsdt => Some((table(memory, xsdt)?, true)),
    }
}

fn table(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    let length = number(memory.bytes(address, 36)?, 4, 4)? as usize;
    memory.bytes(address, length)
}

fn generic_address(table: &[u8], offset: usize) -> Option<Register> {
    let address = number(table, offset + 4, 8)?;
    match (table.get(offset)?, address) {
        (_, 0) => None,
        (0, address) => Some(Register::Memory(address)),
        (1, address) => u16::try_from(address).ok().map(Register::Port),
        _ => None,
    }
}

fn read_fadt(memory: &impl PhysicalMemory, fadt: &[u8], acpi: &mut Acpi) {
    const RESET_SUPPORTED: u64 = 1 << 10;
    const HARDWARE_REDUCED: u64 = 1 << 20;
    let flags = number(fadt, 112, 4).unwrap_or(0);
    if flags & RESET_SUPPORTED != 0 {
        acpi.reset = generic_address(fadt, 116).zip(fadt.get(128).copied());
    }
    let dsdt = number(fadt, 140, 8).filter(|address| *address != 0).or_else(|| number(fadt, 40, 4));
    let Some(sleep_type) = dsdt.and_then(|address| table(memory, address)).and_then(s5_sleep_type) else {
        return;
    };
    let sleep_type = u16::from(sleep_type);
    acpi.power_off = if flags & HARDWARE_REDUCED != 0 {
        generic_address(fadt, 244).map(|register| PowerOff { register, value: (sleep_type << 2) | 0x20, wide: false })
    } else {
        let legacy = number(fadt, 64, 4).filter(|port| *port != 0).and_then(|port| u16::try_from(port).ok());
        legacy.map(Register::Port).or_else(|| generic_address(fadt, 172)).map(|register| PowerOff {
            register,
            value: (sleep_type << 10) | 0x2000,
            wide: true,
        })
    };
}

/// `Name (_S5, Package () { type, … })`: the first byte constant of the package.
fn s5_sleep_type(dsdt: &[u8]) -> Option<u8> {
    const PACKAGE: u8 = 0x12;
    const ZERO: u8 = 0x00;
    const ONE: u8 = 0x01;
    const BYTE: u8 = 0x0a;
    let at = dsdt.windows(5).position(|window| window == b"_S5_\x12")?;
    let package = dsdt.get(at + 4..)?;
    debug_assert_eq!(package.first(), Some(&PACKAGE));
    // The length takes 1 to 4 bytes, told by the top bits of its first; then comes the number of elements.
    let length_bytes = 1 + usize::from(package.get(1)? >> 6);
    match package.get(1 + length_bytes + 1..)? {
        [BYTE, value, ..] => Some(*value),
        [value @ (ZERO | ONE), ..] => Some(*value),
        _ => None,
    }
}

fn read_madt(madt: &[u8], cpus: &mut [Option<u32>; MOST_CPUS]) {
    const LOCAL_APIC: u8 = 0;
    const LOCAL_X2APIC: u8 = 9;
    let mut rest = madt.get(44..).unwrap_or_default();
    let mut free = cpus.iter_mut();
    while let [kind, length, ..] = rest {
        let entry = rest.get(..usize::from(*length)).unwrap_or_default();
        let (id, flags) = match *kind {
            LOCAL_APIC => (number(entry, 3, 1), number(entry, 4, 4)),
            LOCAL_X2APIC => (number(entry, 4, 4), number(entry, 8, 4)),
            _ => (None, None),
        };
        if let (Some(id), Some(flags)) = (id, flags)
            && flags & 1 != 0
            && let Some(place) = free.next()
        {
            *place = u32::try_from(id).ok();
        }
        match rest.get(usize::from(*length)..) {
            Some(next) if *length >= 2 => rest = next,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Memory(Vec<u8>);

    impl PhysicalMemory for Memory {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    impl Memory {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn table(&mut self, at: usize, signature: &[u8; 4], length: u32) {
            self.put(at, signature);
            self.put(at + 4, &length.to_le_bytes());
        }
    }

    /// A root pointer at 0x100 and tables behind it, in the reduced-hardware style.
    fn machine() -> Memory {
        let mut memory = Memory(std::vec![0; 0x1000]);
        memory.put(0x100, b"RSD PTR ");
        memory.put(0x10f, &[2]);
        memory.put(0x118, &0x200_u64.to_le_bytes());
        memory.table(0x200, b"XSDT", 36 + 24);
        for (index, table) in [0x300_u64, 0x500, 0x600].iter().enumerate() {
            memory.put(0x224 + 8 * index, &table.to_le_bytes());
        }
        memory.table(0x300, b"FACP", 268);
        memory.put(0x300 + 112, &((1_u32 << 20) | (1 << 10)).to_le_bytes());
        memory.put(0x300 + 116, &[1, 8, 0, 1, 0x64, 0]);
        memory.put(0x300 + 128, &[0xfe]);
        memory.put(0x300 + 140, &0x800_u64.to_le_bytes());
        memory.put(0x300 + 244, &[0, 8, 0, 1]);
        memory.put(0x300 + 248, &0xfea0_0200_u64.to_le_bytes());
        memory.table(0x500, b"MCFG", 60);
        memory.put(0x500 + 44, &0xe000_0000_u64.to_le_bytes());
        memory.table(0x600, b"APIC", 44 + 8 + 16);
        memory.put(0x600 + 44, &[0, 8, 0, 3, 1, 0, 0, 0]);
        memory.put(0x600 + 52, &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0]);
        memory.table(0x800, b"DSDT", 64);
        memory.put(0x800 + 40, b"\x08_S5_\x12\x04\x01\x0a\x05");
        memory
    }

    #[test]
    fn a_reduced_hardware_machine_is_understood() {
        let acpi = read(&machine(), 0x100);
        assert_eq!(acpi.ecam, Some(0xe000_0000));
        assert_eq!(acpi.reset, Some((Register::Port(0x64), 0xfe)));
        let register = Register::Memory(0xfea0_0200);
        assert_eq!(acpi.power_off, Some(PowerOff { register, value: 0x34, wide: false }));
        assert_eq!(acpi.cpus[..3], [Some(3), Some(300), None]);
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        assert_eq!(read(&machine(), 0x900), Acpi::default());
        let mut looping = machine();
        looping.put(0x600 + 45, &[0]);
        assert_eq!(read(&looping, 0x100).cpus, [None; MOST_CPUS]);
    }
}
