//! A vCPU and its thread's run loop.
//!
//! ```text
//!              set(Running)           set(Paused)                 set(Stopped)
//!   Paused ───────────────► Running ──────────────► Paused … any ─────────────► Stopped (the loop returns)
//!      └── a reset: every vCPU takes its power-on state before it enters again
//! ```
//! The main thread moves the [`Gate`]; vCPU threads obey it between two entries into the guest. A signal ends an entry
//! that lasts: its handler sets `immediate_exit`, so that a signal just before `KVM_RUN` is not lost either.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{CpuId, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_run, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::power_on::PowerOn;
use super::vm::{KvmError, doing, msrs};

/// What vCPU threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Stay out of the guest.
    Paused,
    /// Run the guest.
    Running,
    /// Return from the run loop.
    Stopped,
}

struct GateState {
    phase: Phase,
    /// How many resets there have been.
    resets: u64,
    /// How many threads are in the run loop and not waiting.
    inside: u32,
}

/// Holds vCPU threads back, and lets the main thread wait until all of them are out of the guest.
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    threads: Mutex<Vec<AtomicI32>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: Mutex::new(GateState { phase: Phase::Paused, resets: 0, inside: 0 }),
            changed: Condvar::new(),
            threads: Mutex::default(),
        }
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all vCPU threads what to do; on return from a call that stops them, none is in the guest.
    pub fn set(&self, phase: Phase) {
        self.request(phase);
        let mut state = self.lock();
        while phase != Phase::Running && state.inside > 0 {
            drop(state);
            self.interrupt();
            state = self.lock();
            if state.inside > 0 {
                // A thread may have entered the guest between the signal and the change of phase: signal again soon.
                let wait = self.changed.wait_timeout(state, std::time::Duration::from_millis(2));
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Like [`Self::set`], without waiting: for vCPU threads themselves.
    pub fn request(&self, phase: Phase) {
        let mut state = self.lock();
        if state.phase != Phase::Stopped {
            state.phase = phase;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Has every vCPU start from its power-on state when it runs next. Only while paused.
    pub fn reset(&self) {
        self.lock().resets += 1;
    }

    /// The phase that was asked for last.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Makes the calling thread one that [`Self::set`] interrupts.
    fn join(&self) {
        let tid = nix::unistd::gettid().as_raw();
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(AtomicI32::new(tid));
    }

    fn interrupt(&self) {
        let process = nix::unistd::getpid().as_raw();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // SAFETY: tgkill takes plain numbers; our handler for the signal only sets a flag. A thread that is gone
            // already makes it fail, which is fine.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread.load(SeqCst), kick_signal()) };
        }
    }

    /// Waits for `Running`, and tells how many resets there were; `None` for `Stopped`.
    fn enter(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            match state.phase {
                Phase::Running => {
                    state.inside += 1;
                    return Some(state.resets);
                }
                Phase::Stopped => return None,
                Phase::Paused => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn leave(&self) {
        self.lock().inside -= 1;
        self.changed.notify_all();
    }
}

thread_local! {
    /// The `immediate_exit` byte of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<Option<NonNull<u8>>> = const { Cell::new(None) };
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int) {
    if let Some(flag) = IMMEDIATE_EXIT.get() {
        // SAFETY: the pointer is into the kvm_run page of the vCPU that this very thread runs; `Vcpu::run` clears it
        // before the vCPU can be dropped.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler of the signal that ends an entry into the guest. Once, before vCPU threads run.
pub fn install_kick_handler() -> std::io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value; handler and flags are set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_kick as *const () as libc::sighandler_t;
    // SAFETY: the handler is async-signal-safe: it writes one byte. No SA_RESTART: KVM_RUN must return.
    let result = unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Reasons for exits to this process, for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitKind {
    /// A port was read.
    PortRead,
    /// A port was written.
    PortWrite,
    /// MMIO was read.
    MmioRead,
    /// MMIO was written.
    MmioWrite,
    /// A signal of ours.
    Interrupted,
    /// Anything else.
    Other,
}

impl ExitKind {
    /// All kinds, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::PortRead, Self::PortWrite, Self::MmioRead, Self::MmioWrite, Self::Interrupted, Self::Other];

    /// Name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortRead => "port-read",
            Self::PortWrite => "port-write",
            Self::MmioRead => "mmio-read",
            Self::MmioWrite => "mmio-write",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

/// Exits of one vCPU since power-on, by [`ExitKind`].
#[derive(Debug, Default)]
pub struct VcpuCounters([AtomicU64; ExitKind::ALL.len()]);

impl VcpuCounters {
    fn add(&self, kind: ExitKind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// The counts, in the order of [`ExitKind::ALL`].
    pub fn snapshot(&self) -> [u64; ExitKind::ALL.len()] {
        std::array::from_fn(|i| self.0.get(i).map_or(0, |c| c.load(Relaxed)))
    }
}

/// Who answers the guest's accesses.
pub trait ExitHandler {
    /// The guest reads a port.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// The guest writes a port.
    fn port_write(&self, port: u16, data: &[u8]);
    /// The guest reads an address that is no RAM.
    fn mmio_read(&self, address: u64, data: &mut [u8]);
    /// The guest writes an address that is no RAM.
    fn mmio_write(&self, address: u64, data: &[u8]);
    /// A level-triggered interrupt was acknowledged.
    fn ioapic_eoi(&self, vector: u8);
}

/// Why KVM cannot go on with a vCPU.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What KVM said.
    pub reason: String,
    /// vCPU number.
    pub vcpu: u32,
    /// Registers and the instruction's bytes, a line each.
    pub details: Vec<String>,
    /// Whether KVM met an instruction that it does not emulate.
    pub emulation: bool,
}

/// Why a vCPU left the guest for good, or until a reset.
#[derive(Debug)]
pub enum VcpuStop {
    /// The guest reset itself by a triple fault.
    TripleFault,
    /// KVM gave up.
    Failed(Box<Failure>),
}

/// A virtual CPU.
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    id: u32,
    power_on: Option<Box<PowerOn>>,
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd, id: u32) -> Self {
        Self { fd, id, power_on: None }
    }

    /// Number, and APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sets what CPUID tells the guest.
    pub fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), KvmError> {
        self.fd.set_cpuid2(cpuid).map_err(doing("set CPUID"))
    }

    /// Sets MSRs; a refused one is an error that names no more than that (only listed ones may be set).
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
        let set = self.fd.set_msrs(&msrs(entries)?).map_err(doing("set MSRs"))?;
        if set == entries.len() { Ok(()) } else { Err(KvmError::Missing("an MSR that it lists")) }
    }

    /// General registers.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), KvmError> {
        self.fd.set_regs(regs).map_err(doing("set registers"))
    }

    /// Segment, control and table registers.
    pub fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().map_err(doing("read segment registers"))
    }

    /// Sets segment, control and table registers.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), KvmError> {
        self.fd.set_sregs(sregs).map_err(doing("set segment registers"))
    }

    /// The local APIC's registers.
    pub fn lapic(&self) -> Result<kvm_lapic_state, KvmError> {
        self.fd.get_lapic().map_err(doing("read the local APIC"))
    }

    /// Sets the local APIC's registers.
    pub fn set_lapic(&self, lapic: &kvm_lapic_state) -> Result<(), KvmError> {
        self.fd.set_lapic(lapic).map_err(doing("set the local APIC"))
    }

    /// Keeps the present state as the one that a reset goes back to. `boot_msrs` are those of a reset.
    pub fn keep_power_on_state(&mut self, reset_msrs: Vec<kvm_msr_entry>) -> Result<(), KvmError> {
        self.power_on = Some(Box::new(PowerOn::of(self, reset_msrs)?));
        Ok(())
    }

    /// Runs the guest as the gate allows, until the gate is set to `Stopped`. Called on the vCPU's own thread. When the
    /// vCPU cannot go on, all of them are held back and `on_stop` is told.
    pub fn run(&mut self, gate: &Gate, handler: &dyn ExitHandler, counters: &VcpuCounters, on_stop: &dyn Fn(VcpuStop)) {
        let run: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: `run` points to this vCPU's mapped kvm_run page; the field is taken by address only.
        let flag = unsafe { &raw mut (*run).immediate_exit };
        IMMEDIATE_EXIT.set(NonNull::new(flag));
        gate.join();
        let mut seen_resets = 0;
        let mut has_run = false;
        while let Some(resets) = gate.enter() {
            let mut stop = None;
            if std::mem::replace(&mut has_run, true) && resets == seen_resets {
                // Or the guest's watchdog takes the pause for a lock-up. Refused when the guest does not use kvmclock.
                let _ = self.fd.kvmclock_ctrl();
            }
            if resets != seen_resets {
                seen_resets = resets;
                stop = self.power_on_again().err().map(|failure| VcpuStop::Failed(Box::new(failure)));
            }
            let stop = stop.or_else(|| self.run_until_left(gate, handler, counters));
            if stop.is_some() {
                gate.request(Phase::Paused);
            }
            gate.leave();
            if let Some(stop) = stop {
                on_stop(stop);
            }
        }
        IMMEDIATE_EXIT.set(None);
    }

    fn power_on_again(&mut self) -> Result<(), Failure> {
        let Some(power_on) = self.power_on.take() else { return Ok(()) };
        let result = power_on.restore(self);
        self.power_on = Some(power_on);
        result.map_err(|error| self.failure(format!("The vCPU could not be reset: {error}"), false))
    }

    /// Enters the guest again and again; `None` when the gate wants this thread out.
    fn run_until_left(&mut self, gate: &Gate, handler: &dyn ExitHandler, counters: &VcpuCounters) -> Option<VcpuStop> {
        loop {
            let result = match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    counters.add(ExitKind::PortWrite);
                    handler.port_write(port, data);
                    continue;
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    counters.add(ExitKind::PortRead);
                    handler.port_read(port, data);
                    continue;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    counters.add(ExitKind::MmioWrite);
                    handler.mmio_write(address, data);
                    continue;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    counters.add(ExitKind::MmioRead);
                    handler.mmio_read(address, data);
                    continue;
                }
                Ok(VcpuExit::IoapicEoi(vector)) => {
                    counters.add(ExitKind::Other);
                    handler.ioapic_eoi(vector);
                    continue;
                }
                Ok(VcpuExit::Shutdown) => return Some(VcpuStop::TripleFault),
                Ok(VcpuExit::Intr) => Ok(()),
                Ok(VcpuExit::InternalError) => Err(self.internal_error()),
                Ok(VcpuExit::FailEntry(reason, cpu)) => Err(self.failure(
                    format!("KVM could not enter the guest (hardware reason {reason:#x} on host CPU {cpu})"),
                    false,
                )),
                Ok(other) => {
                    let reason = format!("KVM stopped with an exit that is not handled: {other:?}");
                    Err(self.failure(reason, false))
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Ok(()),
                Err(error) => Err(self.failure(format!("KVM_RUN failed: {error}"), false)),
            };
            match result {
                Ok(()) => {
                    counters.add(ExitKind::Interrupted);
                    self.fd.set_kvm_immediate_exit(0);
                    if gate.phase() != Phase::Running {
                        return None;
                    }
                }
                Err(failure) => return Some(VcpuStop::Failed(Box::new(failure))),
            }
        }
    }

    fn failure(&mut self, reason: String, emulation: bool) -> Failure {
        let mut details = Vec::new();
        if let (Ok(regs), Ok(sregs)) = (self.fd.get_regs(), self.fd.get_sregs()) {
            details.extend(super::dump::registers(&regs, &sregs));
        }
        Failure { reason, vcpu: self.id, details, emulation }
    }

    /// `KVM_EXIT_INTERNAL_ERROR`: sub-error 1 carries flags and up to 15 instruction bytes.
    fn internal_error(&mut self) -> Failure {
        let run = self.fd.get_kvm_run();
        // SAFETY: KVM filled the `internal` member for this exit reason; it is plain data, copied out.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let words = internal.data.get(..(internal.ndata as usize).min(internal.data.len())).unwrap_or_default();
        let (meaning, instruction) = super::dump::internal_error(internal.suberror, words);
        let mut failure = self.failure(format!("KVM gave up: {meaning}"), internal.suberror == 1);
        failure.details.extend(instruction);
        failure
    }
}
