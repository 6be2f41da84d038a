//! Where things are in the guest's physical address space and on its ports.
//!
//! ```text
//! 0x0000_0000  low RAM: boot structures below 1 MiB, kernel from 1 MiB on
//! 0xc000_0000  MMIO32: BARs                       (low RAM ends here at the latest)
//! 0xe000_0000  ECAM of bus 0
//! 0xfec0_0000  IOAPIC
//! 0xfee0_0000  local APICs
//! 0xfeff_c000  identity map page, then 3 pages of TSS that KVM needs on some Intel hosts
//! 0x1_0000_0000  high RAM, then MMIO64
//! ```

/// End of low RAM at the latest: the start of the 32-bit MMIO hole.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Start of high RAM.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// Start of the window for 32-bit BARs.
pub const MMIO32_START: u64 = 0xc000_0000;
/// Length in bytes of the window for 32-bit BARs.
pub const MMIO32_LEN: u64 = 0x2000_0000;
/// ECAM window of PCI bus 0 (PCI Express 5.0 section 7.2.2).
pub const ECAM_START: u64 = 0xe000_0000;
/// Length of the ECAM window in bytes: one bus.
pub const ECAM_LEN: u64 = 0x10_0000;
/// IOAPIC registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Length of the IOAPIC's registers in bytes.
pub const IOAPIC_LEN: u64 = 0x1000;
/// Local APIC registers.
pub const LAPIC_START: u64 = 0xfee0_0000;
/// KVM's identity map page (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfeff_c000;
/// KVM's three TSS pages (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: u64 = 0xfeff_d000;

/// GDT that the 64-bit Linux boot protocol starts with.
pub const BOOT_GDT: u64 = 0x500;
/// `hvm_start_info` of PVH.
pub const PVH_START_INFO: u64 = 0x6000;
/// Module list of PVH.
pub const PVH_MODULES: u64 = 0x6040;
/// Memory map of PVH.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// Zero page (`boot_params`) of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial stack pointer.
pub const BOOT_STACK: u64 = 0x8ff0;
/// PML4 of the initial identity map; the PDPT and the page directories follow.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Most bytes of the command line, its NUL included.
pub const COMMAND_LINE_MAX: u64 = 0x800;
/// End of usable conventional memory: the EBDA begins here.
pub const EBDA_START: u64 = 0x9_fc00;
/// ACPI tables; the RSDP is at the start.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the area for ACPI tables.
pub const ACPI_END: u64 = 0x10_0000;
/// Where RAM above the first MiB begins, and the kernel is loaded.
pub const HIGH_LOAD: u64 = 0x10_0000;

/// First port of COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// IOAPIC pin of COM1.
pub const COM1_IRQ: u8 = 4;
/// IOAPIC pin of the generic event device.
pub const GED_IRQ: u8 = 5;
/// First port of the i8042.
pub const I8042_PORT: u16 = 0x60;
/// First port of the CMOS RTC.
pub const RTC_PORT: u16 = 0x70;
/// Port of pvpanic.
pub const PVPANIC_PORT: u16 = 0x505;
/// First of 16 ports of the ACPI power registers.
pub const POWER_PORT: u16 = 0x600;
/// PCI configuration address port.
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
