//! What a vCPU goes back to on a reset: registers, local APIC and MP state as they were before it first ran.
//!
//! Taken by the main thread, put back by the vCPU's own thread. MSRs are not read back one by one (that would cost every
//! start): the architecture's list says which ones a reset clears.

use kvm_bindings::{
    kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
};

use super::vcpu::Vcpu;
use super::vm::{KvmError, doing};

/// The state of a vCPU before its first entry.
pub struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
}

/// x87 control word and MXCSR after a reset (Intel SDM volume 3, table 10-1).
const FPU: kvm_fpu = kvm_fpu {
    fpr: [[0; 16]; 8],
    fcw: 0x37f,
    fsw: 0,
    ftwx: 0,
    pad1: 0,
    last_opcode: 0,
    last_ip: 0,
    last_dp: 0,
    xmm: [[0; 16]; 16],
    mxcsr: 0x1f80,
    pad2: 0,
};

impl PowerOn {
    /// The present state.
    pub fn of(vcpu: &Vcpu, msrs: Vec<kvm_msr_entry>) -> Result<Self, KvmError> {
        let fd = &vcpu.fd;
        Ok(Self {
            regs: fd.get_regs().map_err(doing("read registers"))?,
            sregs: vcpu.sregs()?,
            lapic: vcpu.lapic()?,
            mp_state: fd.get_mp_state().map_err(doing("read the MP state"))?,
            msrs,
        })
    }

    /// Puts it back. Events first: nothing that was pending may hit the new start.
    pub fn restore(&self, vcpu: &Vcpu) -> Result<(), KvmError> {
        let fd = &vcpu.fd;
        fd.set_vcpu_events(&kvm_vcpu_events::default()).map_err(doing("clear events"))?;
        // Before the APIC: the APIC base in the segment registers decides its mode.
        vcpu.set_sregs(&self.sregs)?;
        vcpu.set_regs(&self.regs)?;
        fd.set_fpu(&FPU).map_err(doing("reset the FPU"))?;
        fd.set_debug_regs(&kvm_debugregs { dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() })
            .map_err(doing("reset debug registers"))?;
        vcpu.set_msrs(&self.msrs)?;
        vcpu.set_lapic(&self.lapic)?;
        fd.set_mp_state(self.mp_state).map_err(doing("set the MP state"))
    }
}
