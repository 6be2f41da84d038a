//! The smallest program that can run the payload: what KVM itself costs, to hold a VMM's start time against.
//!
//! One thread creates the VM and runs its only vCPU. No devices and no threads: the guest's COM1 goes to a writer,
//! everything else is ignored. It must stay this small; whatever is added here flatters the VMMs measured against it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

const COM1: u16 = 0x3f8;
const START_INFO: GuestAddress = GuestAddress(0x6000);
const MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);
const XEN_HVM_START_MAGIC: u32 = 0x336e_c578;
const MEMORY_IS_RAM: u32 = 1;
const CR0_PE: u64 = 1;

/// What to run and how large it is.
pub struct BareGuest<'a> {
    /// The payload's ELF file.
    pub payload: &'a Path,
    /// Its kernel command line.
    pub command_line: &'a str,
    /// Guest memory in bytes, from address 0.
    pub memory_bytes: usize,
    /// Whether to end at the guest's first line instead of at its reset or shutdown.
    pub stop_at_first_line: bool,
}

/// Runs the guest on the calling thread and copies its COM1 to `console`.
///
/// # Errors
///
/// If KVM or the payload's file cannot be used, or KVM gives up on the guest.
pub fn run(guest: &BareGuest<'_>, console: &mut impl Write) -> Result<()> {
    let kvm = Kvm::new().context("Cannot open /dev/kvm")?;
    let vm = kvm.create_vm().context("Cannot create a VM")?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), guest.memory_bytes)])
        .context("Cannot map guest memory")?;
    add_memory_slots(&vm, &memory)?;
    add_split_irqchip(&vm)?;
    let entry = load(guest, &memory)?;
    let mut vcpu = vm.create_vcpu(0).context("Cannot create the vCPU")?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("Cannot read the supported CPUID")?;
    vcpu.set_cpuid2(&cpuid).context("Cannot set CPUID")?;
    set_pvh_registers(&vcpu, entry)?;
    run_vcpu(&mut vcpu, guest.stop_at_first_line, console)
}

fn add_memory_slots(vm: &VmFd, memory: &GuestMemoryMmap<()>) -> Result<()> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let userspace_addr = memory.get_host_address(region.start_addr()).context("Memory has no host address")?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: userspace_addr as u64,
        };
        // SAFETY: the mapping belongs to `memory`, which `run` keeps until the vCPU has stopped for good; nothing in
        // this program reads it through a Rust reference while the guest runs.
        unsafe { vm.set_user_memory_region(region) }.context("Cannot add a memory slot")?;
    }
    Ok(())
}

fn add_split_irqchip(vm: &VmFd) -> Result<()> {
    const IOAPIC_PINS: u64 = 24;
    let capability = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [IOAPIC_PINS, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&capability).context("Cannot create a split irqchip")
}

/// Loads the payload and the PVH structures; returns the 32-bit entry address.
fn load(guest: &BareGuest<'_>, memory: &GuestMemoryMmap<()>) -> Result<u64> {
    let mut file =
        File::open(guest.payload).with_context(|| format!("Cannot open payload {}", guest.payload.display()))?;
    let loaded = Elf::load(memory, None, &mut file, Some(HIGH_MEMORY)).context("Cannot load the payload")?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        bail!("Payload {} has no PVH entry", guest.payload.display());
    };
    let map = hvm_memmap_table_entry { addr: 0, size: guest.memory_bytes as u64, type_: MEMORY_IS_RAM, reserved: 0 };
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE.0,
        memmap_paddr: MEMORY_MAP.0,
        memmap_entries: 1,
        ..Default::default()
    };
    memory.write_obj(map, MEMORY_MAP)?;
    memory.write_obj(info, START_INFO)?;
    // The byte after it is still zero: fresh memory.
    memory.write_slice(guest.command_line.as_bytes(), COMMAND_LINE)?;
    Ok(entry.0)
}

/// The register state that the PVH protocol asks for: flat 32-bit protected mode, paging off, `ebx` on the start info.
fn set_pvh_registers(vcpu: &VcpuFd, entry: u64) -> Result<()> {
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, db: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 0x10, type_: 3, ..flat };
    let mut sregs = vcpu.get_sregs().context("Cannot read the segment registers")?;
    sregs.cs = kvm_segment { selector: 0x08, type_: 11, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, type_: 11, present: 1, ..Default::default() };
    sregs.cr0 = CR0_PE;
    vcpu.set_sregs(&sregs).context("Cannot set the segment registers")?;
    vcpu.set_regs(&kvm_regs { rip: entry, rbx: START_INFO.0, rflags: 2, ..Default::default() })
        .context("Cannot set the registers")
}

fn run_vcpu(vcpu: &mut VcpuFd, stop_at_first_line: bool, console: &mut impl Write) -> Result<()> {
    let mut line = Vec::with_capacity(256);
    loop {
        match vcpu.run().context("Cannot run the vCPU")? {
            VcpuExit::IoOut(COM1, bytes) => {
                line.extend_from_slice(bytes);
                if line.ends_with(b"\n") {
                    console.write_all(&line)?;
                    console.flush()?;
                    line.clear();
                    if stop_at_first_line {
                        return Ok(());
                    }
                }
            }
            VcpuExit::IoOut(0x64, [0xfe]) | VcpuExit::Shutdown => return Ok(()),
            VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0xff),
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) | VcpuExit::Hlt | VcpuExit::Intr => {}
            other => bail!("KVM gave up on the guest: {other:?}"),
        }
    }
}
