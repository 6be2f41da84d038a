//! Where things are in the guest's physical address space, on its ports and on its interrupt lines.
//!
//! ```text
//! 0x0_0000_0000  low RAM: boot structures, kernel from 1 MiB on
//! 0x0_000e_0000    ACPI tables, VM generation id                              reserved in the memory map
//! 0x0_c000_0000  MMIO32: BARs                    (low RAM ends here at the latest)
//! 0x0_e000_0000  ECAM of bus 0                                                reserved in the memory map
//! 0x0_fec0_0000  IOAPIC
//! 0x0_fee0_0000  local APICs, MSI
//! 0x0_feff_c000  identity map page, then 3 pages of TSS for some Intel hosts  reserved in the memory map
//! 0x1_0000_0000  high RAM
//! first GiB after it  MMIO64: BARs, 64 GiB (see layout.rs)
//! ```
//!
//! Constants only. It must not depend on the size of the machine: what does is in `layout.rs`.

/// 1 MiB, in bytes.
pub const MIB: u64 = 1 << 20;
/// 1 GiB, in bytes.
pub const GIB: u64 = 1 << 30;

/// End of low RAM at the latest: the start of the 32-bit MMIO hole. A multiple of 1 GiB, so that huge pages fit on both
/// sides.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Start of high RAM.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// Start of the window for 32-bit BARs.
pub const MMIO32_START: u64 = 0xc000_0000;
/// Length in bytes of the window for 32-bit BARs.
pub const MMIO32_LEN: u64 = 0x2000_0000;
/// Most bytes of the window for BARs above high RAM.
pub const MMIO64_LEN: u64 = 64 * GIB;
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
/// End of KVM's pages.
pub const KVM_PAGES_END: u64 = 0xff00_0000;

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
/// End of the EBDA: the hole for video memory and option ROMs begins.
pub const EBDA_END: u64 = 0xa_0000;
/// ACPI tables; the RSDP is at the start, where a guest that searches for it finds it.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the area for ACPI tables.
pub const ACPI_END: u64 = 0xe_f000;
/// The page that holds the 16-byte VM generation id.
pub const VM_GENERATION_ID: u64 = 0xe_f000;
/// Where a processor starts after a hardware reset, seen below 1 MiB: a guest that wants to be reset jumps there as its last
/// resort, and on a board with reduced ACPI hardware Linux has no other (`arch/x86/kernel/reboot.c`).
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Where RAM above the first MiB begins, and the kernel is loaded.
pub const HIGH_LOAD: u64 = 0x10_0000;

/// First port of COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// Ports of COM1.
pub const COM1_LEN: u16 = 8;
/// IOAPIC pin of COM1. All pins in use are edge-triggered and active high.
pub const COM1_IRQ: u8 = 4;
/// IOAPIC pin of the generic event device.
pub const GED_IRQ: u8 = 5;
/// First port of the i8042.
pub const I8042_PORT: u16 = 0x60;
/// Ports of the i8042: data, the system control port between, command.
pub const I8042_LEN: u16 = 5;
/// First port of the CMOS RTC.
pub const RTC_PORT: u16 = 0x70;
/// Ports of the CMOS RTC: index, data.
pub const RTC_LEN: u16 = 2;
/// Port of pvpanic.
pub const PVPANIC_PORT: u16 = 0x505;
/// First of the ports of the ACPI power registers (`devices/legacy/power.rs`).
pub const POWER_PORT: u16 = 0x600;
/// Ports of the ACPI power registers.
pub const POWER_LEN: u16 = 8;
/// ACPI sleep control register, one byte (ACPI 6.5 section 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = POWER_PORT;
/// ACPI sleep status register, one byte.
pub const SLEEP_STATUS_PORT: u16 = POWER_PORT + 1;
/// ACPI reset register, one byte.
pub const RESET_PORT: u16 = POWER_PORT + 2;
/// Pending events of the generic event device, four bytes; reading clears them.
pub const EVENTS_PORT: u16 = POWER_PORT + 4;
/// Sleep type of S5, off: what `\_S5` says and the sleep control register gets.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// Value that resets, for the ACPI reset register.
pub const RESET_VALUE: u8 = 1;
/// Event bit: the power button was pressed.
pub const EVENT_POWER_BUTTON: u32 = 1 << 0;
/// Event bit: the VM generation id changed.
pub const EVENT_GENERATION: u32 = 1 << 1;
/// PCI configuration address port.
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
/// Ports of PCI configuration: address, data.
pub const PCI_CONFIG_LEN: u16 = 8;
