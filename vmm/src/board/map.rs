//! The address map: fixed guest-physical addresses, ports and interrupt numbers.
//!
//! ```text
//! 0x0000_0000_0000 ┬ low RAM: boot structures, kernel from 1 MiB      (boot:: below)
//!      0x000e_0000 ├ ACPI tables, VM generation id                    reserved in e820
//!      0x0010_0000 ├ low RAM, up to 3 GiB
//!      0xc000_0000 ├ PCI memory window, 512 MiB
//!      0xe000_0000 ├ ECAM, 1 MiB: configuration space of bus 0        reserved in e820
//!      0xfec0_0000 ├ I/O APIC
//!      0xfee0_0000 ├ local APICs, MSI
//!      0xfeff_c000 ├ pages that KVM needs on Intel                    reserved in e820
//!    0x1_0000_0000 ├ high RAM
//!                  ├ PCI memory window above RAM, 64 GiB              (see layout.rs)
//! ```
//!
//! Constants only. It must not depend on the size of the machine: what does is in `layout.rs`.

/// 1 MiB, in bytes.
pub const MIB: u64 = 1 << 20;
/// 1 GiB, in bytes.
pub const GIB: u64 = 1 << 30;

/// End of RAM below 4 GiB on a machine that has more. A multiple of 1 GiB, so that huge pages fit on both sides.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM goes on after the hole.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// Conventional memory ends here: one KiB below 640 KiB, as BIOSes have it.
pub const EBDA_START: u64 = 0x9_fc00;
/// Start of the hole for video memory and option ROMs.
pub const EBDA_END: u64 = 0xa_0000;
/// The RSDP and all ACPI tables; firmware keeps its RSDP here, so a guest that searches finds it too.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the room for ACPI tables.
pub const ACPI_END: u64 = 0xe_f000;
/// The page that holds the 16-byte VM generation id.
pub const VM_GENERATION_ID: u64 = 0xe_f000;
/// End of the reserved BIOS area; RAM goes on.
pub const BIOS_END: u64 = 0x10_0000;

/// PCI memory window below 4 GiB.
pub const PCI_WINDOW_32_START: u64 = 0xc000_0000;
/// End of the PCI memory window below 4 GiB.
pub const PCI_WINDOW_32_END: u64 = 0xe000_0000;
/// Most that the PCI memory window above RAM has, in bytes.
pub const PCI_WINDOW_64_SIZE: u64 = 64 * GIB;
/// PCI configuration space, memory mapped.
pub const ECAM_START: u64 = 0xe000_0000;
/// One bus of 32 devices, 8 functions, 4 KiB each.
pub const ECAM_SIZE: u64 = MIB;

/// I/O APIC registers.
pub const IO_APIC_START: u64 = 0xfec0_0000;
/// Length of the I/O APIC's page.
pub const IO_APIC_SIZE: u64 = 0x1000;
/// Local APIC registers, and the addresses of MSIs.
pub const LOCAL_APIC_START: u64 = 0xfee0_0000;
/// The page of identity page tables that KVM needs on Intel without unrestricted guests.
pub const KVM_IDENTITY_MAP: u64 = 0xfeff_c000;
/// The three pages of task state that KVM needs on Intel without unrestricted guests.
pub const KVM_TSS: u64 = 0xfeff_d000;
/// End of KVM's pages.
pub const KVM_PAGES_END: u64 = 0xff00_0000;

/// I/O ports.
pub mod port {
    /// First serial port, 8 ports.
    pub const COM1: u16 = 0x3f8;
    /// Number of ports of a 16550.
    pub const COM1_SIZE: u16 = 8;
    /// Keyboard controller: only its reset line is there. 0x60 and 0x64.
    pub const I8042_DATA: u16 = 0x60;
    /// Keyboard controller, status and commands.
    pub const I8042_COMMAND: u16 = 0x64;
    /// Real-time clock: index, and data one above.
    pub const RTC: u16 = 0x70;
    /// Number of ports of the clock.
    pub const RTC_SIZE: u16 = 2;
    /// pvpanic: one port.
    pub const PVPANIC: u16 = 0x505;
    /// The ports of `devices/legacy/power.rs`.
    pub const POWER: u16 = 0x600;
    /// Number of ports from [`POWER`].
    pub const POWER_SIZE: u16 = 8;
    /// ACPI sleep control register, one byte (ACPI 6.5 section 4.8.3.7).
    pub const SLEEP_CONTROL: u16 = POWER;
    /// ACPI sleep status register, one byte.
    pub const SLEEP_STATUS: u16 = POWER + 1;
    /// ACPI reset register, one byte.
    pub const RESET: u16 = POWER + 2;
    /// Pending events of the generic event device, four bytes; reading clears them.
    pub const EVENTS: u16 = POWER + 4;
    /// PCI configuration address, four bytes.
    pub const PCI_ADDRESS: u16 = 0xcf8;
    /// PCI configuration data, four bytes.
    pub const PCI_DATA: u16 = 0xcfc;
}

/// Interrupt numbers: pins of the I/O APIC, all edge triggered and active high.
pub mod irq {
    /// First serial port.
    pub const COM1: u32 = 4;
    /// Generic event device.
    pub const EVENTS: u32 = 5;
    /// Pins of the I/O APIC.
    pub const PINS: u32 = 24;
}

/// What writes to the power ports mean.
pub mod power {
    /// Sleep type of S5, off: what `\_S5` says and the sleep control register gets.
    pub const S5: u8 = 5;
    /// Value that resets, for the ACPI reset register.
    pub const RESET_VALUE: u8 = 1;
    /// Event: the power button was pressed.
    pub const EVENT_BUTTON: u32 = 1 << 0;
    /// Event: the VM generation id changed.
    pub const EVENT_GENERATION: u32 = 1 << 1;
}

/// Low memory while a kernel starts. Free for the kernel once it runs.
pub mod boot {
    /// Global descriptor table.
    pub const GDT: u64 = 0x500;
    /// Interrupt descriptor table (empty).
    pub const IDT: u64 = 0x520;
    /// PVH: `hvm_start_info`.
    pub const PVH_START_INFO: u64 = 0x6000;
    /// PVH: module list (the initial RAM disk).
    pub const PVH_MODULES: u64 = 0x6040;
    /// PVH: memory map.
    pub const PVH_MEMORY_MAP: u64 = 0x6100;
    /// Linux `boot_params`, one page.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Initial stack pointer; the stack grows down from here.
    pub const STACK: u64 = 0x8ff0;
    /// Page map level 4, one page.
    pub const PML4: u64 = 0x9000;
    /// Page directory pointers, one page.
    pub const PDPT: u64 = 0xa000;
    /// Page directories, from here: four pages map 4 GiB with 2 MiB pages.
    pub const PAGE_DIRECTORY: u64 = 0xb000;
    /// Kernel command line with its NUL.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Room for the command line, in bytes.
    pub const CMDLINE_SIZE: u64 = 0x1_0000;
    /// Where a relocatable kernel is put.
    pub const KERNEL: u64 = 0x10_0000;
}
