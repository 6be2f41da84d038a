//! What this host's KVM offers, found by trying it: capabilities, and a tiny guest in real ring 0.
//!
//! A KVM without hardware virtualisation has a complete API and emulates ring-0 code, one instruction at a time. Which
//! module is loaded does not tell what that emulator can do; running the instructions does.
//!
//! Runs on the thread of `quantix-vmm check`. Must not judge: `check/` says what the facts mean.

use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

#[cfg(test)]
mod tests;

/// Why KVM cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The device cannot be opened.
    #[error("Cannot open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// KVM refused a step in building the tiny guest.
    #[error("Cannot build a test guest: {step}")]
    Build {
        /// What was asked of KVM.
        step: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// The tiny guest's memory cannot be had or filled.
    #[error("Cannot build a test guest: no memory")]
    Memory,
}

/// A capability of KVM that this program uses, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// KVM's own name for it, without the prefix.
    pub name: &'static str,
    /// No guest runs without it.
    pub required: bool,
    /// What this program does with it, or without it.
    pub purpose: &'static str,
    cap: Cap,
}

const fn needed(name: &'static str, cap: Cap, purpose: &'static str) -> Capability {
    Capability { name, required: true, purpose, cap }
}

const fn useful(name: &'static str, cap: Cap, purpose: &'static str) -> Capability {
    Capability { name, required: false, purpose, cap }
}

/// The capabilities that matter to us, one a line.
pub const CAPABILITIES: &[Capability] = &[
    needed("USER_MEMORY", Cap::UserMemory, "guest memory is memory of this process"),
    needed("IMMEDIATE_EXIT", Cap::ImmediateExit, "a vCPU can be stopped at any time"),
    needed("IOEVENTFD", Cap::Ioeventfd, "doorbells do not interrupt the vCPU"),
    needed("SIGNAL_MSI", Cap::SignalMsi, "devices interrupt by message"),
    needed("SPLIT_IRQCHIP", Cap::SplitIrqchip, "local APICs in the kernel, the I/O APIC in this program"),
    needed("EXT_CPUID", Cap::ExtCpuid, "a guest sees the processor features that KVM can give it"),
    useful("X2APIC_API", Cap::X2ApicApi, "more than 255 vCPUs can be addressed"),
    useful("TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer, "the cheapest guest timer"),
    useful("TSC_CONTROL", Cap::TscControl, "a guest keeps its clock rate on another host"),
    useful("ADJUST_CLOCK", Cap::AdjustClock, "the guest clock stands still while a guest is paused"),
    useful("KVMCLOCK_CTRL", Cap::KvmclockCtrl, "a guest's watchdog is told of a pause"),
    useful("XSAVE2", Cap::Xsave2, "large vector state is saved"),
    useful("DIRTY_LOG_RING", Cap::DirtyLogRing, "changed memory is found without a scan"),
    useful("NESTED_STATE", Cap::NestedState, "a guest can be a host, and still be saved"),
];

/// What an open KVM says of itself.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The API's version; 12 for every KVM of the last fifteen years.
    pub api_version: i32,
    /// Each of [`CAPABILITIES`], and whether it is there.
    pub capabilities: Vec<(Capability, bool)>,
    /// vCPUs a VM should have at most, and can have at most.
    pub vcpus: (usize, usize),
    /// Memory slots a VM can have.
    pub memory_slots: usize,
    /// The vendor that a guest's CPUID names.
    pub vendor: String,
}

/// How an attempt in ring 0 ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest went on behind the instruction.
    Ran,
    /// KVM gave up: it can neither run nor emulate it (`KVM_EXIT_INTERNAL_ERROR`).
    GaveUp,
    /// The processor that KVM offers does not know it, or faults.
    Faulted,
    /// Something else came back.
    Unexpected,
}

/// An instruction that ordinary kernels execute in ring 0, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    /// The assembler's name.
    pub name: &'static str,
    /// What kernels do with it.
    pub purpose: &'static str,
    code: &'static [u8],
}

const fn instruction(name: &'static str, code: &'static [u8], purpose: &'static str) -> Instruction {
    Instruction { name, purpose, code }
}

/// The instructions that are tried, one a line. `rsi` leads to zeroed, aligned memory; `edx:eax` is 1.
pub const INSTRUCTIONS: &[Instruction] = &[
    instruction("swapgs", &[0x0f, 0x01, 0xf8], "entry and exit of system calls"),
    instruction("int3", &[0xcc], "changing its own code while it runs"),
    instruction("cmpxchg16b", &[0xf0, 0x48, 0x0f, 0xc7, 0x0e], "free lists of the memory allocator"),
    instruction("fxsave", &[0x48, 0x0f, 0xae, 0x06], "saving a program's registers"),
    instruction("xsave", &[0x48, 0x0f, 0xae, 0x26], "saving a program's vector registers"),
    instruction("xrstor", &[0x48, 0x0f, 0xae, 0x2e], "restoring a program's vector registers"),
    instruction("movups", &[0x0f, 0x11, 0x06], "encryption and checksums"),
    instruction("popcnt", &[0xf3, 0x48, 0x0f, 0xb8, 0xc0], "counting processors and pages"),
    instruction("invlpg", &[0x0f, 0x01, 0x3e], "changing page tables"),
];

/// What a guest in ring 0 experienced.
#[derive(Clone, Debug)]
pub struct Ring0 {
    /// Each of [`INSTRUCTIONS`], and how it ended.
    pub instructions: Vec<(Instruction, Outcome)>,
    /// Simple instructions a second; `None` when even a loop did not run.
    pub instructions_per_second: Option<u64>,
    /// One exit to this program and back.
    pub exit: Option<Duration>,
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Probe {
    kvm: Kvm,
    cpuid: CpuId,
}

impl Probe {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// It cannot be opened, or cannot list CPUID leaves.
    pub fn open() -> Result<Self, ProbeError> {
        let kvm = Kvm::new().map_err(ProbeError::Open)?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(build("list CPUID leaves"))?;
        Ok(Self { kvm, cpuid })
    }

    /// What KVM says of itself.
    pub fn offer(&self) -> Offer {
        let capabilities = CAPABILITIES.iter().map(|item| (*item, self.kvm.check_extension(item.cap))).collect();
        Offer {
            api_version: self.kvm.get_api_version(),
            capabilities,
            vcpus: (self.kvm.get_nr_vcpus(), self.kvm.get_max_vcpus()),
            memory_slots: self.kvm.get_nr_memslots(),
            vendor: self.vendor(),
        }
    }

    /// CPUID leaf 0 spells the vendor in `ebx`, `edx`, `ecx`.
    fn vendor(&self) -> String {
        let leaf = self.cpuid.as_slice().iter().find(|entry| entry.function == 0);
        let words = leaf.map_or([0; 3], |entry| [entry.ebx, entry.edx, entry.ecx]);
        String::from_utf8_lossy(&words.map(u32::to_le_bytes).concat()).trim_end_matches('\0').to_owned()
    }

    /// Runs a tiny guest in 64-bit ring 0, once for each instruction and once for the clock.
    ///
    /// # Errors
    /// The guest cannot be built. A guest that KVM gives up on is a finding, not an error.
    pub fn ring0(&self) -> Result<Ring0, ProbeError> {
        let mut instructions = Vec::new();
        for item in INSTRUCTIONS {
            let outcome = Guest::new(self, &[item.code, &SAY_SO].concat())?.outcome();
            instructions.push((*item, outcome));
        }
        // Twice the loop count instructions; the second, longer run only where the first was too quick to be timed.
        let mut speed = None;
        for count in [20_000, 20_000_000] {
            let mut guest = Guest::new(self, &[&COUNT_DOWN[..], &SAY_SO].concat())?;
            guest.count(count)?;
            let start = Instant::now();
            if guest.outcome() != Outcome::Ran {
                break;
            }
            let elapsed = start.elapsed();
            speed = Some(per_second(2 * count, elapsed));
            if elapsed > Duration::from_millis(5) {
                break;
            }
        }
        Ok(Ring0 { instructions, instructions_per_second: speed, exit: self.exit_cost()? })
    }

    /// The mean of a row of exits that a guest does nothing between.
    fn exit_cost(&self) -> Result<Option<Duration>, ProbeError> {
        const EXITS: u32 = 200;
        let mut guest = Guest::new(self, &SAY_SO)?;
        let mut start = Instant::now();
        for exit in 0..=EXITS {
            if guest.outcome() != Outcome::Ran {
                return Ok(None);
            }
            if exit == 0 {
                // The first one paid for touching everything once.
                start = Instant::now();
            }
        }
        Ok(Some(start.elapsed() / EXITS))
    }
}

fn build(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> ProbeError {
    move |source| ProbeError::Build { step, source }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    (u128::from(count) * 1_000_000_000 / elapsed.as_nanos().max(1)) as u64
}

/// `1: out 0x10, al; jmp 1b`
const SAY_SO: [u8; 4] = [0xe6, PORT, 0xeb, 0xfc];
/// The same port, as an operand and as KVM reports it.
const PORT: u8 = 0x10;
/// `1: dec rcx; jnz 1b; nop`
const COUNT_DOWN: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0x90];
/// `iretq`
const RETURN: [u8; 2] = [0x48, 0xcf];

// The guest's memory: everything below 64 KiB.
const SIZE: usize = 0x1_0000;
const GDT: u64 = 0x0500;
const IDT: u64 = 0x0600;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const HANDLER: u64 = 0x4800;
const STACK: u64 = 0x6000;
const DATA: u64 = 0x7000;

/// Null, 64-bit code, data: Intel SDM volume 3, 3.4.5.
const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;

/// A guest of one vCPU. The memory is last, so that it outlives the VM.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

impl Guest {
    /// In 64-bit mode, ring 0, at the start of `code`.
    fn new(probe: &Probe, code: &[u8]) -> Result<Self, ProbeError> {
        let vm = probe.kvm.create_vm().map_err(build("create a VM"))?;
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), SIZE)]).map_err(|_| ProbeError::Memory)?;
        fill(&memory, code).map_err(|_| ProbeError::Memory)?;
        let host = memory.get_host_address(GuestAddress(0)).map_err(|_| ProbeError::Memory)?;
        let region =
            kvm_userspace_memory_region { memory_size: SIZE as u64, userspace_addr: host as u64, ..Default::default() };
        // SAFETY: `Guest` keeps the memory mapped for as long as the VM exists, and nothing else maps over it.
        unsafe { vm.set_user_memory_region(region) }.map_err(build("map guest memory"))?;
        // Only Intel hosts use it; others accept or refuse it, and need it not.
        let _ = vm.set_tss_address(0xfffb_d000);
        let vcpu = vm.create_vcpu(0).map_err(build("create a vCPU"))?;
        vcpu.set_cpuid2(&probe.cpuid).map_err(build("set CPUID"))?;
        let mut sregs = vcpu.get_sregs().map_err(build("read registers"))?;
        let has_xsave = probe.cpuid.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.ecx & 1 << 26 != 0);
        long_mode(&mut sregs, has_xsave);
        vcpu.set_sregs(&sregs).map_err(build("enter 64-bit mode"))?;
        let guest = Self { vcpu, _vm: vm, _memory: memory };
        guest.count(0)?;
        Ok(guest)
    }

    /// Sets the general registers; `rcx` is the loop count.
    fn count(&self, count: u64) -> Result<(), ProbeError> {
        let mut regs = self.vcpu.get_regs().map_err(build("read registers"))?;
        (regs.rip, regs.rsp, regs.rsi, regs.rflags) = (CODE, STACK, DATA, 2);
        (regs.rax, regs.rdx, regs.rcx) = (1, 0, count);
        self.vcpu.set_regs(&regs).map_err(build("set registers"))
    }

    /// Runs to the next exit.
    fn outcome(&mut self) -> Outcome {
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(PORT) => Outcome::Ran,
            Ok(VcpuExit::InternalError) => Outcome::GaveUp,
            Ok(VcpuExit::Shutdown) => Outcome::Faulted,
            Ok(_) | Err(_) => Outcome::Unexpected,
        }
    }
}

/// Page tables that map the lowest 2 MiB onto themselves, descriptor tables, and code.
fn fill(memory: &GuestMemoryMmap, code: &[u8]) -> Result<(), vm_memory::GuestMemoryError> {
    /// Present, writable.
    const TABLE: u64 = 0x03;
    /// Present, writable, accessed, dirty, 2 MiB.
    const PAGE: u64 = 0xe3;
    for (number, descriptor) in DESCRIPTORS.into_iter().enumerate() {
        memory.write_obj(descriptor, GuestAddress(GDT + 8 * number as u64))?;
    }
    // The gate of int3: a present 64-bit interrupt gate in ring 0 (Intel SDM volume 3, 6.14.1).
    let gate = HANDLER | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32;
    memory.write_obj(gate, GuestAddress(IDT + 16 * 3))?;
    memory.write_obj(PDPT | TABLE, GuestAddress(PML4))?;
    memory.write_obj(DIRECTORY | TABLE, GuestAddress(PDPT))?;
    memory.write_obj(PAGE, GuestAddress(DIRECTORY))?;
    memory.write_slice(&RETURN, GuestAddress(HANDLER))?;
    memory.write_slice(code, GuestAddress(CODE))
}

/// 64-bit mode with SSE on, and XSAVE where the processor has it: what a kernel sets before it goes on.
fn long_mode(sregs: &mut kvm_sregs, has_xsave: bool) {
    let segment = |selector, type_, db, l| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(CODE_SELECTOR, 0xb, 0, 1);
    let data = segment(DATA_SELECTOR, 0x3, 1, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy 64-bit TSS: entering a guest on Intel hardware demands one.
    sregs.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 0xb, present: 1, ..Default::default() };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 8 * DESCRIPTORS.len() as u16 - 1);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 16 * 4 - 1);
    sregs.cr3 = PML4;
    // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE.
    sregs.cr4 = 0x20 | 0x200 | 0x400 | if has_xsave { 0x4_0000 } else { 0 };
    // PE, MP, ET, NE, WP, PG.
    sregs.cr0 = 0x8001_0033;
    // LME, LMA.
    sregs.efer = 0x500;
}
