//! The way into ring 0 and back: boot code, faults, and the few privileged instructions that tests need.
//!
//! Some KVMs emulate ring 0 one instruction at a time, so what runs there is assembly of a few lines (`boot.s`), and
//! nothing of it is on a measured path.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

global_asm!(include_str!("boot.s"));

unsafe extern "C" {
    static mut idt: [Gate; 256];
    static interrupt_count: AtomicU64;
    static other_cpus: AtomicU64;
    static other_cpu_start: u8;
    static other_cpu_end: u8;
    fn service_call();
    fn invalid_opcode_gate();
    fn interrupt_gate();
    fn fault_gates();
}

/// The boot protocol that was used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// 32-bit entry with a `hvm_start_info`.
    Pvh,
    /// 64-bit entry with a `boot_params`.
    Linux,
}

/// An entry of the interrupt descriptor table.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    /// An interrupt gate to ring-0 code at `handler`.
    fn new(handler: u64) -> Self {
        const CODE: u64 = 0x08 << 16;
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
        let (low, middle) = (handler & 0xffff, handler >> 16 & 0xffff);
        Self { low: low | CODE | PRESENT_INTERRUPT_GATE | (middle << 48), high: handler >> 32 }
    }
}

const INVALID_OPCODE: usize = 6;
/// The vector whose interrupts are counted.
pub const INTERRUPT: u8 = 0x40;
const STUB_BYTES: u64 = 16;

/// Fills the interrupt table: faults are told, services work. Before it, a fault is a triple fault.
pub fn install_gates() {
    let gates = (&raw mut idt).cast::<Gate>();
    let set = |vector: usize, gate: Gate| {
        // SAFETY: vectors are below 256; the table is static and only read by the CPU, on events that do not occur
        // while it is written: interrupts are off and nothing here faults.
        unsafe { gates.wrapping_add(vector).write(gate) }
    };
    for vector in 0..32 {
        set(vector, Gate::new(fault_gates as *const () as u64 + vector as u64 * STUB_BYTES));
    }
    set(usize::from(INTERRUPT), Gate::new(interrupt_gate as *const () as u64));
    set(INVALID_OPCODE, Gate::new(invalid_opcode_gate as *const () as u64));
}

fn service(what: u32, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the gate is installed, changes only the registers named here, and runs on its own stack.
    unsafe {
        asm!("call {}", sym service_call, in("edi") what, in("rsi") first, inout("rdx") second => _, lateout("rax") result,
            lateout("rcx") _);
    }
    result
}

/// Reads a model-specific register; one that does not exist is a fault, which ends the payload.
pub fn read_msr(index: u32) -> u64 {
    service(0, u64::from(index), 0)
}

/// Writes a model-specific register; as for reading.
pub fn write_msr(index: u32, value: u64) {
    service(1, u64::from(index), value);
}

/// Lets interrupts in, or not.
pub fn allow_interrupts(allow: bool) {
    const RESERVED: u64 = 2;
    const IF: u64 = 1 << 9;
    service(2, if allow { RESERVED | IF } else { RESERVED }, 0);
}

/// Halts with interrupts off: this CPU takes no time of the host's any more.
pub fn sleep() -> ! {
    service(3, 0, 0);
    unreachable!("the service halts for ever")
}

/// How many interrupts came in on [`INTERRUPT`].
pub fn interrupts() -> u64 {
    // SAFETY: the counter is static and only ever touched atomically or by the gate of this same CPU.
    unsafe { interrupt_count.load(Ordering::Relaxed) }
}

/// How many other CPUs have come up.
pub fn cpus_that_came() -> u64 {
    // SAFETY: the counter is static and only ever touched atomically.
    unsafe { other_cpus.load(Ordering::Acquire) }
}

/// The page below 1 MiB that other CPUs start from; the same as in boot.s.
const OTHER_CPU_PAGE: usize = 0x8000;
/// Its number, as a start-up interrupt tells it.
pub const OTHER_CPU_VECTOR: u32 = (OTHER_CPU_PAGE >> 12) as u32;

/// Puts the other CPUs' first code where they can reach it. What a loader left there has been read by now.
pub fn place_other_cpu_code() {
    let (start, end) = (&raw const other_cpu_start, &raw const other_cpu_end);
    let length = (end as usize).saturating_sub(start as usize);
    // SAFETY: the code lies between the two labels; the page is RAM on every PC and nobody's by now.
    unsafe { core::ptr::copy_nonoverlapping(start, OTHER_CPU_PAGE as *mut u8, length) }
}

/// Ends in a triple fault, which is a reset everywhere.
pub fn triple_fault() -> ! {
    // An empty table again: the next fault finds no handler, and neither does the one about that.
    let gates = (&raw mut idt).cast::<Gate>();
    for vector in 0..32 {
        // SAFETY: as in `install_gates`.
        unsafe { gates.wrapping_add(vector).write(Gate { low: 0, high: 0 }) }
    }
    // SAFETY: an invalid instruction on purpose; it does not return.
    unsafe { asm!("ud2", options(noreturn)) }
}
